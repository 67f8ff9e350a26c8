// The edges that the mutation check (tests/mutation) found unwatched: what exactly the first byte
// decides, hop counts of hairpins, both directions of a bandwidth limit, the last instant of
// permissions and allocations, redirects, who keeps a budget, families of DONT-FRAGMENT.
#include <gtest/gtest.h>

#include "tests/support/core_fixture.h"

namespace culvert::test {
namespace {

const TransportAddress kClient = at("192.0.2.10:5000");
const TransportAddress kOther = at("192.0.2.20:6000");
const TransportAddress kPeer = at("192.0.2.99:7000");

// ---------------------------------------------------------------- classify

TEST(PathBoundaries, TheFirstByteAloneDecidesWhichProtocolADatagramIs) {  // RFC 8656 section 12
  for (uint32_t first = 0; first < 256; ++first) {
    TestCore core;
    Bytes in = request(stun::kBinding);
    in[0] = static_cast<uint8_t>(first);
    (void)core.run(core.from_client(kClient, in));
    const bool nothing = core.outcome(Outcome::k_not_stun_nor_channel) == 1;
    const bool reserved = core.outcome(Outcome::k_channel_number_reserved) == 1;
    const bool channel = core.outcome(Outcome::k_no_allocation) == 1;
    EXPECT_EQ(reserved, first >= 0x50 && first <= 0x7f) << first;
    EXPECT_EQ(channel, first >= 0x40 && first <= 0x4f) << first;
    EXPECT_EQ(nothing, (first > 3 && first < 0x40) || first > 0x7f) << first;
    EXPECT_TRUE(core.conserved());
  }
}

TEST(PathBoundaries, AChannelDataLengthMayReachTheLastByteAndNotOneFarther) {
  TestCore core;
  core.allocate(0, kClient, 50000);
  ASSERT_EQ(core.bind(0, 0x4fff, kPeer.to_string()), ApplyError::kNone);
  Bytes in = channel_data(0x4fff, bytes_of("abcd"));
  EXPECT_EQ(core.run(core.from_client(kClient, in)).size(), 1u);
  for (const uint32_t length : {5u, 6u, 7u, 8u, 9u, 0xffffu}) {
    store_be16(&in[2], static_cast<uint16_t>(length));
    EXPECT_TRUE(core.run(core.from_client(kClient, in)).empty()) << length;
  }
  EXPECT_EQ(core.outcome(Outcome::k_channel_data_short), 6u);
}

// ---------------------------------------------------------------- resolve

TEST(PathBoundaries, AChannelThatIsNotBoundIsNeverTakenForAnotherInACrowdedTable) {
  TestCore core;
  core.allocate(0, kClient, 50000);
  for (uint16_t i = 0; i < 200; ++i)
    ASSERT_EQ(
        core.bind(0, static_cast<uint16_t>(0x4000 + i), "192.0.2.99:" + std::to_string(1000 + i)),
        ApplyError::kNone);
  for (uint16_t number = 0x4100; number < 0x4900; ++number) {
    const Bytes in = channel_data(number, bytes_of("x"));
    ASSERT_TRUE(core.run(core.from_client(kClient, in)).empty()) << number;
  }
  EXPECT_EQ(core.outcome(Outcome::k_no_channel), 0x800u);
}

TEST(PathBoundaries, EveryChannelOfAFullTableCarriesDataBothWays) {
  TestCore core;
  core.allocate(0, kClient, 50000);
  const auto peer = [](uint16_t i) { return at("192.0.2.99:" + std::to_string(1000 + i)); };
  for (uint16_t i = 0; i < 256; ++i)
    ASSERT_EQ(core.bind(0, static_cast<uint16_t>(0x4000 + i), peer(i).to_string()),
              ApplyError::kNone);
  ASSERT_FALSE(core.state->flows.narrow.has_room(1));
  for (uint16_t i = 0; i < 256; ++i) {
    const Bytes body = bytes_of("x");
    const Bytes in = channel_data(static_cast<uint16_t>(0x4000 + i), body);
    const auto out = core.run(core.from_client(kClient, in));
    ASSERT_EQ(out.size(), 1u) << i;
    EXPECT_EQ(out[0].to, peer(i));
    EXPECT_EQ(core.run(core.from_peer(peer(i), 50000, body)).at(0).payload, in);
  }
}

TEST(PathBoundaries, NarrowAndWideChannelsOfOneClientLiveSideBySide) {
  TestCore core;
  core.allocate(0, kClient, 50000, 50001);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  ASSERT_EQ(core.bind(0, 0x4002, "[2001:db8::99]:7000"), ApplyError::kNone);
  const Bytes four = channel_data(0x4001, bytes_of("4"));
  const Bytes six = channel_data(0x4002, bytes_of("6"));
  const Bytes body = bytes_of("b");
  const auto sent = core.run({core.from_client(kClient, four), core.from_client(kClient, six),
                              core.from_peer(kPeer, 50000, body),
                              core.from_peer(at("[2001:db8::99]:7000"), 50001, body)});
  ASSERT_EQ(sent.size(), 4u);
  EXPECT_EQ(sent[0].to, kPeer);
  EXPECT_EQ(sent[1].to, at("[2001:db8::99]:7000"));
  EXPECT_EQ(sent[2].payload, channel_data(0x4001, body));
  EXPECT_EQ(sent[3].payload, channel_data(0x4002, body));
}

TEST(PathBoundaries, TheSamePortOnTwoAddressesIsTwoRelayedAddresses) {
  CoreLimits limits = TestCore::small_limits();
  limits.addresses = 3;
  TestCore core(limits);
  core.snapshot.addresses.push_back({ip("198.51.100.2"), ip("198.51.100.2"), true});
  core.allocate(0, kClient, 50000);
  InstallAllocation command;
  command.handle = {1, 1};
  command.client.client = kOther;
  command.ipv4 = {2, 50000};
  command.lifetime_ms = 600'000;
  ASSERT_TRUE(core.state->flows.install(command, {77, kNoEgress}, 0, 0));
  ASSERT_EQ(core.bind(0, 0x4001, kPeer.to_string()), ApplyError::kNone);
  ASSERT_EQ(core.bind(1, 0x4002, kPeer.to_string()), ApplyError::kNone);
  const Bytes in = bytes_of("x");
  RxDatagram rx = core.from_peer(kPeer, 50000, in);
  EXPECT_EQ(core.run(rx).at(0).to, kClient);
  rx.relay.address = 2;
  EXPECT_EQ(core.run(rx).at(0).to, kOther);
}

TEST(PathBoundaries, APeerWithAPermissionIsNotHeardAfterTheAllocationsLastInstant) {
  TestCore core;
  core.allocate(0, kClient, 50000, 0, 100'000);
  ASSERT_EQ(core.permit(0, "192.0.2.99"), ApplyError::kNone);
  const Bytes in = bytes_of("x");
  const Bytes send = send_indication(kPeer, in);
  EXPECT_EQ(core.run(core.from_peer(kPeer, 50000, in), 99'999).size(), 1u);
  EXPECT_EQ(core.run(core.from_client(kClient, send), 99'999).size(), 1u);
  EXPECT_EQ(core.run(core.from_peer(kPeer, 50000, in), 100'000).size(), 0u);
  EXPECT_EQ(core.run(core.from_client(kClient, send), 100'000).size(), 0u);
  EXPECT_EQ(core.outcome(Outcome::k_expired_allocation), 2u);
}

TEST(PathBoundaries, APermissionsLastInstantCountsForEveryWayItIsUsed) {  // row 65
  TestCore core;
  core.allocate(0, kClient, 50000);
  ASSERT_EQ(core.bind(0, 0x4001, kPeer.to_string()), ApplyError::kNone);  // bound for 600 s
  const Bytes in = bytes_of("x");
  const Bytes send = send_indication(at("192.0.2.99:7001"), in);
  RxDatagram error;
  error.kind = RxKind::kIcmpError;
  error.relay = {0, 50000};
  error.source = kPeer;
  error.icmp_type = 3;
  for (const Ticks now : {299'999u, 300'000u}) {
    const size_t wanted = now < 300'000 ? 1 : 0;
    EXPECT_EQ(core.run(core.from_client(kClient, send), now).size(), wanted);
    EXPECT_EQ(core.run(core.from_peer(at("192.0.2.99:7001"), 50000, in), now).size(), wanted);
    EXPECT_EQ(core.run(core.from_peer(kPeer, 50000, in), now).size(), wanted);
    EXPECT_EQ(core.run(error, now).size(), wanted);
  }
  EXPECT_EQ(core.outcome(Outcome::k_no_permission), 3u);
  EXPECT_EQ(core.outcome(Outcome::k_icmp_unmatched), 1u);
}

// ---------------------------------------------------------------- redirects

struct Redirected {
  Redirected() : memory(1024), ring(memory), core(TestCore::small_limits(), 0, 2) {
    core.state->handoff[1] = &ring;
    EXPECT_TRUE(core.state->flows.add_redirect(ClientTuple{kClient, 0, 0}, 1));
  }
  std::vector<RingSlot> memory;
  SpscRing ring;
  TestCore core;
};

TEST(PathBoundaries, BothKindsOfDataOfARedirectedClientGoToItsCore) {
  Redirected r;
  const Bytes send = send_indication(kPeer, bytes_of("s"));
  const Bytes channel = channel_data(0x4001, bytes_of("c"));
  for (const Bytes& in : {send, channel}) {
    EXPECT_TRUE(r.core.run(r.core.from_client(kClient, in)).empty());
    ASSERT_NE(r.ring.front(), nullptr);
    const MessageView view(r.ring.front());
    EXPECT_EQ(Bytes(view.payload().begin(), view.payload().end()), in);
    EXPECT_EQ(view.as<Handoff>().datagram.handed_over, 1);
    r.ring.pop();
  }
  EXPECT_EQ(r.core.outcome(Outcome::k_handoff_reservation), 2u);
}

TEST(PathBoundaries, WhatWasHandedOverOnceGoesNoFarther) {
  Redirected r;
  const Bytes send = send_indication(kPeer, bytes_of("s"));
  const Bytes channel = channel_data(0x4001, bytes_of("c"));
  for (const Bytes& in : {send, channel}) {
    RxDatagram rx = r.core.from_client(kClient, in);
    rx.handed_over = 1;
    EXPECT_TRUE(r.core.run(rx).empty());
  }
  const Bytes in = bytes_of("p");
  RxDatagram stray = r.core.from_peer(kPeer, 50002, in);  // the other core's port
  stray.handed_over = 1;
  EXPECT_TRUE(r.core.run(stray).empty());
  EXPECT_EQ(r.ring.front(), nullptr);
  EXPECT_EQ(r.core.outcome(Outcome::k_no_allocation), 2u);
  EXPECT_EQ(r.core.outcome(Outcome::k_no_relayed_port), 1u);
}

// ---------------------------------------------------------------- police

struct Policed {
  Policed() {
    InstallAllocation command;
    command.handle = {0, 1};
    command.client.client = kClient;
    command.ipv4 = {0, 50000};
    command.lifetime_ms = 3'600'000;
    command.policer = 3;
    core.state->flows.policers[3] = {1000, 100, 100, 0};
    EXPECT_TRUE(core.state->flows.install(command, {1, kNoEgress}, 0, 0));
    EXPECT_EQ(core.bind(0, 0x4001, kPeer.to_string()), ApplyError::kNone);
  }
  TestCore core;
};

TEST(PathBoundaries, EveryWayThroughAnAllocationUsesTheUsersBucket) {
  const Bytes body(60, 'x');
  const Bytes channel = channel_data(0x4001, body);
  const Bytes send = send_indication(kPeer, body);
  for (int way = 0; way < 4; ++way) {
    Policed p;
    RxDatagram rx;
    if (way == 0) rx = TestCore::from_client(kClient, channel);
    if (way == 1) rx = TestCore::from_client(kClient, send);
    if (way == 2) rx = TestCore::from_peer(kPeer, 50000, body);
    if (way == 3) rx = TestCore::from_peer(at("192.0.2.99:7001"), 50000, body);
    EXPECT_EQ(p.core.run(rx).size(), 1u) << way;
    EXPECT_EQ(p.core.run(rx).size(), 0u) << way;
    EXPECT_EQ(p.core.outcome(Outcome::k_policed), 1u) << way;
  }
}

TEST(PathBoundaries, AnHourOfSilenceSavesNoMoreThanTheBurst) {
  Policed p;
  const Bytes in = channel_data(0x4001, Bytes(60, 'x'));
  ASSERT_EQ(p.core.permit(0, "192.0.2.99", 290'000), ApplyError::kNone);
  EXPECT_EQ(p.core.run(p.core.from_client(kClient, in), 500'000).size(), 1u);
  EXPECT_EQ(p.core.run(p.core.from_client(kClient, in), 500'000).size(), 0u);
}

TEST(PathBoundaries, ABucketGivesExactlyItsRateHoweverOftenItIsAsked) {
  Policer policer{1999, 1'000'000, 0, 0};
  uint32_t passed = 0;
  for (Ticks now = 1; now <= 10'000; ++now)
    while (policer.admit(1, now))
      ++passed;
  EXPECT_EQ(passed, 19'990u);
  EXPECT_FALSE(policer.admit(1, 10'000));
  EXPECT_TRUE(policer.admit(0, 10'000));
}

TEST(PathBoundaries, WhatAUsersOwnLimitRefusesDoesNotUseUpEveryones) {
  Policed p;
  FlowState& flows = p.core.state->flows;
  flows.whole = {1000, 200, 200, 0};
  EXPECT_TRUE(flows.admit(3, 100, 0));
  for (int i = 0; i < 10; ++i)
    EXPECT_FALSE(flows.admit(3, 100, 0));
  EXPECT_TRUE(flows.admit(0, 100, 0)) << "another user's share was used up";
  EXPECT_FALSE(flows.admit(0, 1, 0));
}

// ---------------------------------------------------------------- reply budget

TEST(PathBoundaries, AFloodOfPrefixesDoesNotMakeAnExhaustedOneForgotten) {
  TestCore core;
  core.snapshot.reply_budget = {100, 1'000'000'000, 1000};
  const Bytes in = request(stun::kAllocate);
  while (!core.run(core.from_client(kClient, in), 1).empty()) {
  }
  for (uint32_t i = 0; i < 60'000; ++i) {
    const TransportAddress from{IpAddress::v4(0x0B000000u + i * 256), 9};
    (void)core.run(core.from_client(from, in), 1);
  }
  EXPECT_TRUE(core.run(core.from_client(kClient, in), 1).empty());
}

TEST(PathBoundaries, OnlyAValidNonceGivesAPrefixItsBudgetBack) {
  TestCore core;
  core.snapshot.reply_budget = {100, 1'000'000'000, 1'000'000};
  const Bytes in = request(stun::kAllocate);
  while (!core.run(core.from_client(kClient, in), 1).empty()) {
  }
  std::array<uint8_t, 256> buffer;
  stun::Builder builder(buffer, stun::Class::kRequest, stun::kAllocate, kTransaction);
  builder.add(stun::Attribute::kNonce, std::string_view("invented"));
  builder.add(stun::Attribute::kMessageIntegrity, Bytes(20));
  const Bytes invented = finish(builder);
  (void)core.run(core.from_client(kClient, invented), 2);
  EXPECT_EQ(core.outcome(Outcome::k_bad_nonce_to_control), 1u);
  EXPECT_EQ(core.stats.challenge_refunds.get(), 0u);
  EXPECT_TRUE(core.run(core.from_client(kClient, in), 2).empty());
}

TEST(PathBoundaries, NatBehaviourDiscoveryIsRefusedWithItsAttributesNamed) {  // RFC 5780
  for (const auto type : {stun::Attribute::kChangeRequest, stun::Attribute::kPadding,
                          stun::Attribute::kResponsePort}) {
    TestCore core;
    std::array<uint8_t, 64> buffer;
    stun::Builder builder(buffer, stun::Class::kRequest, stun::kBinding, kTransaction);
    builder.add_u32(type, 0x30390000);
    const Bytes in = finish(builder);
    const auto sent = core.run(core.from_client(kClient, in));
    ASSERT_EQ(sent.size(), 1u);
    stun::Message message;
    ASSERT_EQ(stun::Message::parse(sent[0].payload, message), stun::ParseError::kNone);
    EXPECT_EQ(message.message_class(), stun::Class::kError);
    const auto named = message.value(stun::AttributeSlot::kUnknownAttributes);
    ASSERT_EQ(named.size(), 2u);
    EXPECT_EQ(load_be16(named.data()), static_cast<uint16_t>(type));
  }
}

// ---------------------------------------------------------------- transform

TEST(PathBoundaries, AHairpinIsTwoHops) {
  TestCore core;
  core.allocate(0, kClient, 50000);
  core.allocate(1, kOther, 50002);
  ASSERT_EQ(core.bind(0, 0x4001, "203.0.113.9:50002", 0, true), ApplyError::kNone);
  ASSERT_EQ(core.permit(1, "203.0.113.9", 0, true), ApplyError::kNone);
  const Bytes in = channel_data(0x4001, bytes_of("x"));
  RxDatagram rx = core.from_client(kClient, in);
  rx.ttl = 10;
  rx.tos = 0xb8;
  const auto sent = core.run(rx);
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0].ttl, 8);
  EXPECT_EQ(sent[0].tos, 0xb8);
  rx.ttl = 2;
  EXPECT_TRUE(core.run(rx).empty());
  EXPECT_EQ(core.outcome(Outcome::k_ttl_exceeded), 1u);
}

TEST(PathBoundaries, DontFragmentCountsBetweenIpv4SidesOnly) {  // RFC 8656 sections 13 and 14
  const TransportAddress client6 = at("[2001:db8:c::5]:5000");
  for (const TransportAddress& client : {kClient, client6}) {
    for (const char* peer : {"192.0.2.99", "2001:db8::99"}) {
      TestCore core;
      core.allocate(0, client, 50000, 50001);
      ASSERT_EQ(core.permit(0, peer), ApplyError::kNone);
      const TransportAddress to{ip(peer), 7000};
      const Bytes asked = send_indication(to, bytes_of("x"), true);
      const bool both = client.ip.is_v4() && to.ip.is_v4();
      EXPECT_EQ(core.run(core.from_client(client, asked)).at(0).dont_fragment, both) << peer;
      const Bytes plain = send_indication(to, bytes_of("x"));
      RxDatagram rx = core.from_client(client, plain);
      EXPECT_FALSE(core.run(rx).at(0).dont_fragment);
      rx.df = DontFragment::kSet;
      EXPECT_EQ(core.run(rx).at(0).dont_fragment, both) << peer;
    }
  }
}

TEST(PathBoundaries, ADataIndicationIsPaddedToFourBytesAndNoMore) {
  TestCore core;
  core.allocate(0, kClient, 50000);
  ASSERT_EQ(core.permit(0, "192.0.2.99"), ApplyError::kNone);
  for (size_t size = 0; size < 9; ++size) {
    const Bytes in(size, 'x');
    const auto sent = core.run(core.from_peer(kPeer, 50000, in));
    ASSERT_EQ(sent.size(), 1u);
    EXPECT_EQ(sent[0].payload.size(), 20 + 12 + 4 + (size + 3) / 4 * 4);
    stun::Message message;
    ASSERT_EQ(stun::Message::parse(sent[0].payload, message), stun::ParseError::kNone);
    EXPECT_EQ(message.value(stun::AttributeSlot::kData).size(), size);
  }
}

// ---------------------------------------------------------------- tables and timers

TEST(PathBoundaries, ATableGivesItsLastPlaceAndRefreshesWhenFull) {
  CoreLimits limits = TestCore::small_limits();
  limits.permissions = 2;
  TestCore core(limits);
  core.allocate(0, kClient, 50000);
  EXPECT_EQ(core.permit(0, "192.0.2.1"), ApplyError::kNone);
  EXPECT_EQ(core.permit(0, "192.0.2.2"), ApplyError::kNone);
  EXPECT_EQ(core.permit(0, "192.0.2.1", 1000), ApplyError::kNone);
  EXPECT_EQ(core.permit(0, "192.0.2.3"), ApplyError::kTableFull);
  EXPECT_EQ(core.state->flows.permission_table.size(), 2u);
}

TEST(PathBoundaries, PermissionsMayEndInAnyOrder) {
  TestCore core;
  core.allocate(0, kClient, 50000, 0, 3'600'000);
  FlowState& flows = core.state->flows;
  const char* peers[] = {"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"};
  const Ticks ends[] = {400, 100, 300, 200};  // seconds
  for (int i = 0; i < 4; ++i) {
    const PermissionPeer peer{ip(peers[i]), 0, 0};
    ASSERT_EQ(flows.permit(0, {&peer, 1}, ends[i] * 1000), ApplyError::kNone);
  }
  for (const Ticks second : {100u, 200u, 300u, 400u}) {
    EXPECT_EQ(flows.sweep(0, second * 1000), 0);
    for (int i = 0; i < 4; ++i)
      EXPECT_EQ(flows.find_permission(0, ip(peers[i])) != kNoSlot, ends[i] > second) << i;
    // Whatever is left can still be walked: a refresh touches all of them.
    flows.refresh(flows.allocations[0], kLegIpv4, 3'600'000);
    EXPECT_EQ(flows.allocations[0].permission_count, 4 - second / 100);
  }
}

TEST(PathBoundaries, TheTimerFollowsWhateverEndsNext) {
  TestCore core;
  core.allocate(0, kClient, 50000, 0, 3'600'000);
  FlowState& flows = core.state->flows;
  // When the wheel next calls for allocation 0, at most `by`.
  Ticks now = 0;
  const auto fires_by = [&](Ticks by) {
    bool fired = false;
    while (!fired && now < by) {
      now += 1000;
      flows.wheel.advance(now, [&](uint32_t) { fired = true; });
    }
    return fired ? now : Ticks{0};
  };
  ASSERT_EQ(core.permit(0, "192.0.2.99"), ApplyError::kNone);
  EXPECT_EQ(fires_by(302'000), 300'000u);  // the permission's end
  EXPECT_EQ(flows.sweep(0, now), 0);
  EXPECT_EQ(flows.permission_table.size(), 0u);
  EXPECT_TRUE(flows.wheel.armed(0));
  flows.refresh(flows.allocations[0], kLegIpv4, now + 100'000);
  EXPECT_EQ(fires_by(now + 102'000), 400'000u) << "a shorter refresh was not noticed";
  EXPECT_EQ(flows.sweep(0, now), kLegIpv4);
  EXPECT_EQ(flows.remove_legs(0, kLegIpv4), kLegIpv4);
  flows.forget(0);
  EXPECT_FALSE(flows.wheel.armed(0)) << "it would fire for the next allocation at this index";
}

TEST(PathBoundaries, TheEarlierOfTwoInstantsIsSoAcrossTheWrapToo) {
  EXPECT_EQ(ticks_earlier(0xfffffff0u, 0x10u), 0xfffffff0u);
  EXPECT_EQ(ticks_earlier(0x10u, 0xfffffff0u), 0xfffffff0u);
  EXPECT_EQ(ticks_later(0xfffffff0u, 0x10u), 0x10u);
  TestCore core;
  constexpr Ticks kNow = 0u - 400'000u;  // the permission ends before the wrap, the channel after
  core.allocate(0, kClient, 50000, 0, 3'600'000, kNow);
  ASSERT_EQ(core.bind(0, 0x4001, kPeer.to_string(), kNow), ApplyError::kNone);
  const Bytes in = channel_data(0x4001, bytes_of("x"));
  EXPECT_EQ(core.run(core.from_client(kClient, in), kNow + 299'999).size(), 1u);
  EXPECT_EQ(core.run(core.from_client(kClient, in), kNow + 300'000).size(), 0u);
}

}  // namespace
}  // namespace culvert::test
