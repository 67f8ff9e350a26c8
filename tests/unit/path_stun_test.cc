// STUN on the core: Binding, the stateless 401, bare 437, what goes to control, the reply budget.
#include <gtest/gtest.h>

#include "tests/support/core_fixture.h"

namespace culvert::test {
namespace {

const TransportAddress kClient = at("192.0.2.10:5000");

uint16_t error_code(const stun::Message& message) {
  const auto value = message.value(stun::AttributeSlot::kErrorCode);
  return value.size() < 4 ? 0 : static_cast<uint16_t>(value[2] * 100 + value[3]);
}

TEST(PathStun, BindingIsAnsweredWithTheSourceAddress) {
  TestCore core;
  const Bytes in = request(stun::kBinding);
  const auto sent = core.run(core.from_client(kClient, in));
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0].to, kClient);
  stun::Message message;
  ASSERT_EQ(stun::Message::parse(sent[0].payload, message), stun::ParseError::kNone);
  EXPECT_EQ(message.message_class(), stun::Class::kSuccess);
  EXPECT_EQ(message.xor_address(message.value(stun::AttributeSlot::kXorMappedAddress)), kClient);
  EXPECT_EQ(std::memcmp(message.transaction_id(), kTransaction, 12), 0);
}

TEST(PathStun, UnknownRequiredAttributesInABindingGet420) {  // row 4
  TestCore core;
  std::array<uint8_t, 128> buffer;
  stun::Builder builder(buffer, stun::Class::kRequest, stun::kBinding, kTransaction);
  builder.add_u32(static_cast<stun::Attribute>(0x7001), 1);
  builder.add_u32(static_cast<stun::Attribute>(0x7002), 1);
  builder.add_u32(static_cast<stun::Attribute>(0x7001), 1);
  builder.add_u32(static_cast<stun::Attribute>(0xC123), 1);
  const Bytes in = finish(builder);
  const auto sent = core.run(core.from_client(kClient, in));
  stun::Message message;
  ASSERT_EQ(stun::Message::parse(sent.at(0).payload, message), stun::ParseError::kNone);
  EXPECT_EQ(error_code(message), 420);
  const auto list = message.value(stun::AttributeSlot::kUnknownAttributes);
  ASSERT_EQ(list.size(), 4u);
  EXPECT_EQ(load_be16(list.data()), 0x7001);
  EXPECT_EQ(load_be16(list.data() + 2), 0x7002);
}

TEST(PathStun, AnAllocateWithoutIntegrityIsChallengedWithoutState) {
  TestCore core;
  const size_t before = core.arena.used();
  const Bytes in = request(stun::kAllocate);
  const auto sent = core.run(core.from_client(kClient, in));
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_LE((sent[0].payload.size() + 28) * 10, (in.size() + 28) * 25);
  stun::Message message;
  ASSERT_EQ(stun::Message::parse(sent[0].payload, message), stun::ParseError::kNone);
  EXPECT_EQ(error_code(message), 401);
  EXPECT_TRUE(message.has(stun::AttributeSlot::kRealm));
  EXPECT_TRUE(message.has(stun::AttributeSlot::kPasswordAlgorithms));
  const NonceCheck check = check_nonce(core.snapshot.nonce_keys, 0, kClient,
                                       message.value(stun::AttributeSlot::kNonce), 3600);
  EXPECT_EQ(check.state, NonceState::kValid);
  EXPECT_EQ(check.features, kFeaturePasswordAlgorithms);
  EXPECT_EQ(core.state->flows.live_allocations, 0u);
  EXPECT_EQ(core.arena.used(), before);
}

TEST(PathStun, AShortAllocateGetsTheShortChallenge) {
  TestCore core;
  core.snapshot.listeners[0].realm_attribute = {0,   0x14, 0,   16,  't', 'u', 'r', 'n', '.', 'e',
                                                'x', 'a',  'm', 'p', 'l', 'e', '.', 'o', 'r', 'g'};
  std::array<uint8_t, 64> buffer;
  stun::Builder builder(buffer, stun::Class::kRequest, stun::kAllocate, kTransaction);
  const Bytes in = finish(builder);
  const auto sent = core.run(core.from_client(kClient, in));
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_LE((sent[0].payload.size() + 28) * 10, (in.size() + 28) * 25);
  stun::Message message;
  ASSERT_EQ(stun::Message::parse(sent[0].payload, message), stun::ParseError::kNone);
  EXPECT_FALSE(message.has(stun::AttributeSlot::kPasswordAlgorithms));
  const auto nonce = message.value(stun::AttributeSlot::kNonce);
  EXPECT_EQ(check_nonce(core.snapshot.nonce_keys, 0, kClient, nonce, 3600).features, 0u);
}

TEST(PathStun, OtherRequestsWithoutAnAllocationGetABare437) {  // row 60
  TestCore core;
  for (const uint16_t method : {stun::kRefresh, stun::kCreatePermission, stun::kChannelBind}) {
    const Bytes in = request(method);
    const auto sent = core.run(core.from_client(kClient, in));
    ASSERT_EQ(sent.size(), 1u);
    stun::Message message;
    ASSERT_EQ(stun::Message::parse(sent[0].payload, message), stun::ParseError::kNone);
    EXPECT_EQ(error_code(message), 437);
  }
  core.allocate(0, kClient, 50000);
  const Bytes in = request(stun::kRefresh);
  stun::Message message;
  const auto sent = core.run(core.from_client(kClient, in));
  ASSERT_EQ(stun::Message::parse(sent.at(0).payload, message), stun::ParseError::kNone);
  EXPECT_EQ(error_code(message), 401);
}

Bytes with_integrity(const Nonce& nonce) {
  std::array<uint8_t, 256> buffer;
  stun::Builder builder(buffer, stun::Class::kRequest, stun::kAllocate, kTransaction);
  builder.add(stun::Attribute::kUsername, std::string_view("user"));
  builder.add(stun::Attribute::kRealm, std::string_view("test"));
  builder.add(stun::Attribute::kNonce, std::string_view(nonce.data(), nonce.size()));
  const std::array<uint8_t, 20> integrity{};
  builder.add(stun::Attribute::kMessageIntegrity, integrity);
  return finish(builder);
}

TEST(PathStun, RequestsWithIntegrityGoToControlMarkedByTheirNonce) {
  TestCore core;
  const Nonce good = make_nonce(core.snapshot.nonce_keys, 0, 0, kClient);
  const Nonce other = make_nonce(core.snapshot.nonce_keys, 0, 0, at("192.0.2.10:5001"));
  const Bytes valid = with_integrity(good);
  const Bytes foreign = with_integrity(other);
  EXPECT_TRUE(core.run({core.from_client(kClient, valid), core.from_client(kClient, foreign)}, 1000)
                  .empty());
  EXPECT_EQ(core.outcome(Outcome::k_request_to_control), 1u);
  EXPECT_EQ(core.outcome(Outcome::k_bad_nonce_to_control), 1u);
  const MessageView first(core.events.front());
  EXPECT_EQ(first.as<Request>().nonce_valid, 1);
  EXPECT_EQ(first.as<Request>().client.client, kClient);
  EXPECT_EQ(Bytes(first.payload().begin(), first.payload().end()), valid);
  core.events.pop();
  EXPECT_EQ(MessageView(core.events.front()).as<Request>().nonce_valid, 0);
  EXPECT_TRUE(core.state->wake_control);
}

TEST(PathStun, BadNoncesHaveABudgetOfTheirOwn) {
  TestCore core;
  core.snapshot.reply_budget.bad_nonce_per_second = 3;
  const Bytes foreign = with_integrity(Nonce{});
  for (int i = 0; i < 10; ++i)
    (void)core.run(core.from_client(kClient, foreign), 5000);
  EXPECT_EQ(core.outcome(Outcome::k_bad_nonce_to_control), 3u);
  EXPECT_EQ(core.outcome(Outcome::k_bad_nonce_budget), 7u);
  (void)core.run(core.from_client(kClient, foreign), 5400);
  EXPECT_EQ(core.outcome(Outcome::k_bad_nonce_to_control), 4u);
}

// Ticks start anywhere, also at 0: the first strangers find the budget full.
TEST(PathStun, TheBudgetOfBadNoncesBeginsFull) {
  for (const Ticks start : {Ticks{0}, Ticks{1}, Ticks{0xffffffff}}) {
    TestCore core;
    core.snapshot.reply_budget.bad_nonce_per_second = 3;
    for (int i = 0; i < 5; ++i)
      (void)core.run(core.from_client(kClient, with_integrity(Nonce{})), start);
    EXPECT_EQ(core.outcome(Outcome::k_bad_nonce_to_control), 3u) << start;
    EXPECT_EQ(core.outcome(Outcome::k_bad_nonce_budget), 2u) << start;
  }
}

TEST(PathStun, PastTheBudgetNothingIsAmplified) {
  TestCore core;
  core.snapshot.reply_budget.per_prefix_bytes_per_second = 100;
  const Bytes in = request(stun::kAllocate);
  uint64_t in_bytes = 0;
  uint64_t out_bytes = 0;
  for (int i = 0; i < 1000; ++i) {
    const TransportAddress spoofed{IpAddress::v4(0xC0000200u + static_cast<uint32_t>(i % 256)), 9};
    in_bytes += in.size() + 28;
    for (const Sent& sent : core.run(core.from_client(spoofed, in), static_cast<Ticks>(i * 10)))
      out_bytes += sent.payload.size() + 28;
  }
  // Ten seconds of rate saved up, ten seconds of traffic: 2000 bytes beyond what came in.
  EXPECT_LE(out_bytes, in_bytes + 2000);
  EXPECT_GT(core.outcome(Outcome::k_reply_budget), 0u);
  EXPECT_TRUE(core.conserved());
}

TEST(PathStun, WhatAllPrefixesSaveUpIsOneSecondOfTheTotal) {
  TestCore core;
  core.snapshot.reply_budget = {1'000'000, 5000, 1000};
  const Bytes in = request(stun::kAllocate);
  const auto beyond = [&](Ticks now) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < 500; ++i) {
      const TransportAddress spoofed{IpAddress::v4(0x0B000000u + i * 256), 9};
      for (const Sent& sent : core.run(core.from_client(spoofed, in), now))
        bytes += sent.payload.size() - in.size();
    }
    return bytes;
  };
  const uint64_t first = beyond(1000);
  EXPECT_LE(first, 5000u);
  EXPECT_GT(first, 4800u);
  const uint64_t second = beyond(60'000);
  EXPECT_LE(second, 5000u);
  EXPECT_GT(second, 4800u);
}

TEST(PathStun, TheSmallestBudgetOfManyCoresStillMakesChallenges) {
  TestCore core;
  core.snapshot.reply_budget = {15, 15, 1000};
  const Bytes in = request(stun::kAllocate);
  EXPECT_EQ(core.run(core.from_client(kClient, in), 1000).size(), 1u);
  while (!core.run(core.from_client(kClient, in), 1000).empty()) {
  }
  EXPECT_EQ(core.run(core.from_client(kClient, in), 60'000).size(), 1u);
}

TEST(PathStun, ClientsThatCompleteAreNeverLimited) {
  TestCore core;
  core.snapshot.reply_budget.per_prefix_bytes_per_second = 100;
  const Bytes in = request(stun::kAllocate);
  for (uint16_t i = 0; i < 10'000; ++i) {
    const TransportAddress client{kClient.ip, static_cast<uint16_t>(1024 + i)};
    ASSERT_EQ(core.run(core.from_client(client, in), 1).size(), 1u) << i;
    const Bytes valid = with_integrity(make_nonce(core.snapshot.nonce_keys, 0, 0, client));
    (void)core.run(core.from_client(client, valid), 1);
    while (core.events.front() != nullptr)
      core.events.pop();
  }
  EXPECT_EQ(core.outcome(Outcome::k_challenged), 10'000u);
}

TEST(PathStun, AValidNonceCannotRefillThePurseForOthers) {
  TestCore core;
  core.snapshot.reply_budget = {1'000'000, 100, 1000};
  const Bytes valid = with_integrity(make_nonce(core.snapshot.nonce_keys, 0, 0, kClient));
  const Bytes in = request(stun::kAllocate);
  uint64_t answered = 0;
  for (uint32_t i = 0; i < 500; ++i) {
    (void)core.run(core.from_client(kClient, valid), 1);
    core.events.pop();
    const TransportAddress spoofed{IpAddress::v4(0x0B000000u + i * 256), 9};
    answered += core.run(core.from_client(spoofed, in), 1).size();
  }
  EXPECT_LE(answered, 1000u / (112 - 56));  // a challenge of 112 bytes for a request of 56
}

TEST(PathStun, WhatIsNotStunIsCountedAndDropped) {
  TestCore core;
  const Bytes dtls = {22, 254, 253};
  const Bytes reserved = {0x50, 0, 0, 0};
  const Bytes high = {0x80, 1, 2, 3};
  const Bytes empty = {};
  Bytes truncated = request(stun::kBinding);
  truncated.pop_back();
  EXPECT_TRUE(core.run({core.from_client(kClient, dtls), core.from_client(kClient, reserved),
                        core.from_client(kClient, high), core.from_client(kClient, empty),
                        core.from_client(kClient, truncated)})
                  .empty());
  EXPECT_EQ(core.outcome(Outcome::k_not_stun_nor_channel), 3u);
  EXPECT_EQ(core.outcome(Outcome::k_channel_number_reserved), 1u);
  EXPECT_EQ(core.outcome(Outcome::k_stun_malformed), 1u);
  EXPECT_TRUE(core.conserved());
}

TEST(PathStun, IndicationsAndResponsesGetNoAnswer) {
  TestCore core;
  std::array<uint8_t, 64> buffer;
  stun::Builder keepalive(buffer, stun::Class::kIndication, stun::kBinding, kTransaction);
  const Bytes first = finish(keepalive);
  stun::Builder response(buffer, stun::Class::kSuccess, stun::kBinding, kTransaction);
  const Bytes second = finish(response);
  EXPECT_TRUE(
      core.run({core.from_client(kClient, first), core.from_client(kClient, second)}).empty());
  EXPECT_EQ(core.outcome(Outcome::k_keepalive), 1u);
  EXPECT_EQ(core.outcome(Outcome::k_response_ignored), 1u);
}

TEST(PathStun, MartianSourcesAreDropped) {
  TestCore core;
  const Bytes in = request(stun::kBinding);
  RxDatagram zero_port = core.from_client(at("192.0.2.1:0"), in);
  RxDatagram mapped = core.from_client(at("[::ffff:192.0.2.1]:9"), in);
  EXPECT_TRUE(core.run({zero_port, mapped}).empty());
  EXPECT_EQ(core.outcome(Outcome::k_martian), 2u);
}

}  // namespace
}  // namespace culvert::test
