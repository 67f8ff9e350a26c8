// The tools' STUN client: the published vectors byte for byte, the parser against every truncation
// and against random bytes, and the client's behaviour against a scripted server on a clock of its
// own. The scripted server is made of the same builder, so what it shows is the state machine; the
// codec itself rests on the vectors.
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "tools/stun_client/client.h"
#include "tools/stun_client/credentials.h"
#include "tools/stun_client/message.h"

namespace culvert::stun_client {
namespace {

std::vector<uint8_t> from_hex(std::string_view text) {
  std::vector<uint8_t> out;
  std::string digits;
  for (const char c : text)
    if (std::isxdigit(static_cast<unsigned char>(c)) != 0) digits += c;
  for (size_t i = 0; i + 1 < digits.size(); i += 2)
    out.push_back(static_cast<uint8_t>(std::stoi(digits.substr(i, 2), nullptr, 16)));
  return out;
}

Key short_term_key(std::string_view password) {
  return {password.begin(), password.end()};
}

TransactionId id_of(const std::vector<uint8_t>& message) {
  TransactionId id;
  std::copy(message.begin() + 8, message.begin() + 20, id.begin());
  return id;
}

const char* const kRequest =  // RFC 5769 section 2.1
    "00010058 2112a442 b7e7a701 bc34d686 fa87dfae 80220010 5354554e 20746573 7420636c 69656e74"
    "00240004 6e0001ff 80290008 932ff9b1 51263b36 00060009 6576746a 3a683676 59202020"
    "00080014 9aeaa70c bfd8cb56 781ef2b5 b2d3f249 c1b571a2 80280004 e57a3bcf";
const char* const kResponseIpv4 =  // section 2.2
    "0101003c 2112a442 b7e7a701 bc34d686 fa87dfae 8022000b 74657374 20766563 746f7220"
    "00200008 0001a147 e112a643 00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7"
    "80280004 c07d4c96";
const char* const kResponseIpv6 =  // section 2.3
    "01010048 2112a442 b7e7a701 bc34d686 fa87dfae 8022000b 74657374 20766563 746f7220"
    "00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9"
    "00080014 a382954e 4be67bf1 1784c97c 8292c275 bfe3ed41 80280004 c8fb0b4c";
const char* const kLongTerm =  // section 2.4
    "00010060 2112a442 78ad3433 c6ad72c0 29da412e 00060012 e3839ee3 8388e383 aae38383 e382afe3"
    "82b90000 0015001c 662f2f34 39396b39 35346436 4f4c3334 6f4c3946 53547679 36347341"
    "0014000b 6578616d 706c652e 6f726700 00080014 f6702465 6dd64a3e 02b8e071 2e85c9a2 8ca89666";
const char* const kSha256 =  // RFC 8489 appendix B.1 with erratum 6268
    "00010090 2112a442 78ad3433 c6ad72c0 29da412e"
    "001e0020 4a3cf38f ef6992bd a952c678 0417da0f 24819415 569e60b2 05c46e41 407f1704"
    "00150029 6f624d61 744a6f73 32414141 43662f2f 3439396b 39353464 364f4c33 346f4c39 46535476"
    "79363473 41000000 0014000b 6578616d 706c652e 6f726700 001d0004 00020000"
    "001c0020 b5c7bf00 5b6c52a2 1c51c5e8 92f81924 136296cb 927c4314 9309278c c6518e65";
const char* const kPassword = "VOkJxbRl1RmTxUk/WvJxBt";
const char* const kMatrix =
    "\xe3\x83\x9e\xe3\x83\x88\xe3\x83\xaa\xe3\x83\x83\xe3\x82\xaf\xe3\x82\xb9";

TEST(StunClientVectors, the_request_of_rfc_5769_is_built_byte_for_byte) {
  const auto expected = from_hex(kRequest);
  MessageBuilder message(Method::kBinding, Class::kRequest, id_of(expected));
  const auto controlled = from_hex("932ff9b151263b36");
  message.add(Attr::kSoftware, "STUN test client").add_u32(Attr::kPriority, 0x6e0001ff);
  message.add(Attr::kIceControlled, controlled).add(Attr::kUsername, "evtj:h6vY", 0x20);
  message.add_integrity(short_term_key(kPassword)).add_fingerprint();
  EXPECT_EQ(message.bytes(), expected);
}

TEST(StunClientVectors, the_responses_of_rfc_5769_are_read_and_verified) {
  for (const auto& [hex, address] :
       {std::pair{kResponseIpv4, "192.0.2.1:32853"},
        std::pair{kResponseIpv6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"}}) {
    const auto bytes = from_hex(hex);
    const auto message = MessageView::parse(bytes);
    ASSERT_TRUE(message);
    EXPECT_EQ(message->method(), Method::kBinding);
    EXPECT_EQ(message->cls(), Class::kSuccess);
    EXPECT_EQ(message->xor_address(Attr::kXorMappedAddress)->to_string(), address);
    EXPECT_TRUE(message->integrity_valid(short_term_key(kPassword)));
    EXPECT_FALSE(message->integrity_valid(short_term_key("another password")));
    EXPECT_TRUE(message->fingerprint_valid());
    MessageBuilder again(Method::kBinding, Class::kSuccess, message->transaction_id());
    again.add(Attr::kSoftware, "test vector", 0x20);
    again.add_xor_address(Attr::kXorMappedAddress, *TransportAddress::parse(address));
    again.add_integrity(short_term_key(kPassword)).add_fingerprint();
    EXPECT_EQ(again.bytes(), bytes);
  }
}

TEST(StunClientVectors, the_long_term_request_of_rfc_5769_is_built_byte_for_byte) {
  const auto expected = from_hex(kLongTerm);
  MessageBuilder message(Method::kBinding, Class::kRequest, id_of(expected));
  message.add(Attr::kUsername, kMatrix).add(Attr::kNonce, "f//499k954d6OL34oL9FSTvy64sA");
  message.add(Attr::kRealm, "example.org");
  message.add_integrity(
      long_term_key(PasswordAlgorithm::kMd5, kMatrix, "example.org", "TheMatrIX"));
  EXPECT_EQ(message.bytes(), expected);
}

TEST(StunClientVectors, the_sha256_request_of_rfc_8489_is_built_and_verified_byte_for_byte) {
  const auto expected = from_hex(kSha256);
  const auto key = long_term_key(PasswordAlgorithm::kSha256, kMatrix, "example.org", "TheMatrIX");
  MessageBuilder message(Method::kBinding, Class::kRequest, id_of(expected));
  message.add(Attr::kUserhash, userhash(kMatrix, "example.org"));
  message.add(Attr::kNonce, "obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA");
  message.add(Attr::kRealm, "example.org").add_password_algorithm(PasswordAlgorithm::kSha256);
  message.add_integrity_sha256(key);
  EXPECT_EQ(message.bytes(), expected);
  EXPECT_TRUE(MessageView::parse(expected)->integrity_sha256_valid(key));
}

TEST(StunClientMessage, method_and_class_survive_the_spread_of_the_type_bits) {
  for (unsigned method = 0; method < 0x1000; ++method) {
    for (unsigned cls = 0; cls < 4; ++cls) {
      const auto type = message_type(static_cast<Method>(method), static_cast<Class>(cls));
      ASSERT_LT(type, 0x4000);
      ASSERT_EQ(static_cast<unsigned>(method_of(type)), method);
      ASSERT_EQ(static_cast<unsigned>(class_of(type)), cls);
    }
  }
  EXPECT_EQ(message_type(Method::kChannelBind, Class::kError), 0x0119);
}

TEST(StunClientMessage, a_message_cut_anywhere_is_refused_and_never_overread) {
  const auto whole = from_hex(kSha256);
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::vector<uint8_t> cut(whole.begin(), whole.begin() + static_cast<long>(size));
    EXPECT_FALSE(MessageView::parse(cut)) << "cut to " << size;
  }
}

TEST(StunClientMessage, random_changes_never_pass_the_integrity_check) {
  const auto seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const auto key = long_term_key(PasswordAlgorithm::kSha256, kMatrix, "example.org", "TheMatrIX");
  const auto whole = from_hex(kSha256);
  for (int round = 0; round < 20000; ++round) {
    auto changed = whole;
    const size_t at = random() % changed.size();
    changed[at] = static_cast<uint8_t>(changed[at] ^ (1u + random() % 255u));
    const auto message = MessageView::parse(changed);
    if (!message) continue;
    EXPECT_FALSE(message->integrity_sha256_valid(key)) << "byte " << at;
    (void)message->error();
    (void)message->password_algorithms();
    (void)message->xor_address(Attr::kUserhash);
  }
}

TEST(StunClientMessage, a_data_indication_reads_the_same_by_both_readers) {
  const auto peer = *TransportAddress::parse("[2001:db8::7]:4242");
  const std::vector<uint8_t> payload{1, 2, 3, 4, 5};
  MessageBuilder message(Method::kData, Class::kIndication, TransactionId{9});
  message.add_xor_address(Attr::kXorPeerAddress, peer).add(Attr::kData, payload);
  const auto quick = parse_data_indication(message.bytes());
  ASSERT_TRUE(quick);
  EXPECT_EQ(quick->peer, peer);
  EXPECT_TRUE(
      std::equal(quick->payload.begin(), quick->payload.end(), payload.begin(), payload.end()));
  const auto full = MessageView::parse(message.bytes());
  EXPECT_EQ(full->xor_address(Attr::kXorPeerAddress), peer);
}

TEST(StunClientMessage, channel_data_may_be_padded_but_not_short) {
  const std::vector<uint8_t> padded{0x40, 0x01, 0x00, 0x02, 'a', 'b', 0, 0};
  ASSERT_TRUE(parse_channel_data(padded));
  EXPECT_EQ(parse_channel_data(padded)->payload.size(), 2u);
  const std::vector<uint8_t> too_short{0x40, 0x01, 0x00, 0x05, 'a', 'b'};
  EXPECT_FALSE(parse_channel_data(too_short));
}

TEST(StunClientNonce, features_are_the_leftmost_bits_of_the_cookie) {
  EXPECT_FALSE(nonce_features("f//499k954d6OL34oL9FSTvy64sA").cookie);
  EXPECT_TRUE(nonce_features("obMatJos2AAAAxyz").cookie);
  EXPECT_FALSE(nonce_features("obMatJos2AAAAxyz").password_algorithms);
  EXPECT_TRUE(nonce_features("obMatJos2gAAAxyz").password_algorithms);  // 100000...
  EXPECT_FALSE(nonce_features("obMatJos2gAAAxyz").username_anonymity);
  EXPECT_TRUE(nonce_features("obMatJos2wAAAxyz").username_anonymity);  // 110000...
  EXPECT_FALSE(nonce_features("obMatJos2****xyz").cookie);
}

// A server reduced to what a test says next: it reads the request and answers as told.
struct Script {
  ClientConfig config;
  Credentials credentials{"alice", "secret"};
  TurnClient client{config, &credentials, 1};
  std::vector<uint8_t> last;

  std::optional<MessageView> request() {
    const auto sent = client.poll_transmit();
    if (!sent) return std::nullopt;
    last.assign(sent->begin(), sent->end());
    return MessageView::parse(last);
  }
  MessageBuilder reply(const MessageView& to, Class cls) const {
    return {to.method(), cls, to.transaction_id()};
  }
  static void add_error(MessageBuilder& message, int code) {
    const std::array<uint8_t, 4> value{0, 0, static_cast<uint8_t>(code / 100),
                                       static_cast<uint8_t>(code % 100)};
    message.add(Attr::kErrorCode, value);
  }
  // Plays the 401 and returns the request that follows it.
  std::optional<MessageView> challenged(std::string_view nonce, bool algorithms) {
    auto challenge = reply(*request(), Class::kError);
    add_error(challenge, 401);
    challenge.add(Attr::kRealm, "example.org").add(Attr::kNonce, nonce);
    if (algorithms) challenge.add(Attr::kPasswordAlgorithms, from_hex("0002000000010000"));
    EXPECT_EQ(client.receive(challenge.bytes(), 0), Received::kResponse);
    return request();
  }
};

Key md5_key() {
  return long_term_key(PasswordAlgorithm::kMd5, "alice", "example.org", "secret");
}
Key sha_key() {
  return long_term_key(PasswordAlgorithm::kSha256, "alice", "example.org", "secret");
}

TEST(StunClientAuth, an_old_server_gets_user_name_and_sha1) {
  Script s;
  s.client.allocate({}, 0);
  const auto second = s.challenged("old nonce", false);
  ASSERT_TRUE(second);
  EXPECT_EQ(second->text(Attr::kUsername), "alice");
  EXPECT_TRUE(second->integrity_valid(md5_key()));
  EXPECT_FALSE(second->has(Attr::kPasswordAlgorithms));
  EXPECT_FALSE(second->has(Attr::kMessageIntegritySha256));
}

TEST(StunClientAuth, an_rfc_8489_server_gets_userhash_sha256_and_its_own_list_back) {
  Script s;
  s.client.allocate({}, 0);
  const auto second = s.challenged("obMatJos2wAAAn", true);
  ASSERT_TRUE(second);
  EXPECT_FALSE(second->has(Attr::kUsername));
  const auto hash = userhash("alice", "example.org");
  const auto value = second->find(Attr::kUserhash)->value;
  EXPECT_TRUE(std::equal(value.begin(), value.end(), hash.begin(), hash.end()));
  EXPECT_EQ(second->password_algorithms().size(), 2u);
  EXPECT_EQ(second->u32(Attr::kPasswordAlgorithm), 0x00020000u);
  EXPECT_TRUE(second->integrity_sha256_valid(sha_key()));
  EXPECT_FALSE(second->has(Attr::kMessageIntegrity));
}

TEST(StunClientAuth, a_promise_in_the_nonce_that_the_response_breaks_is_a_bid_down) {
  Script s;
  s.client.allocate({}, 0);
  EXPECT_FALSE(s.challenged("obMatJos2gAAAn", false));
  const auto event = s.client.poll_event();
  ASSERT_TRUE(event);
  EXPECT_EQ(event->kind, Event::Kind::kError);
  EXPECT_EQ(event->code, 0);
}

TEST(StunClientAuth, a_wrong_password_ends_with_401_and_does_not_loop) {
  Script s;
  s.client.allocate({}, 0);
  const auto second = s.challenged("n1", false);
  auto refused = s.reply(*second, Class::kError);
  Script::add_error(refused, 401);
  refused.add(Attr::kRealm, "example.org").add(Attr::kNonce, "n2");
  s.client.receive(refused.bytes(), 0);
  EXPECT_FALSE(s.request());
  EXPECT_EQ(s.client.poll_event()->code, 401);
}

TEST(StunClientAuth, a_stale_nonce_is_answered_with_the_new_one) {
  Script s;
  s.client.allocate({}, 0);
  const auto second = s.challenged("n1", false);
  auto stale = s.reply(*second, Class::kError);
  Script::add_error(stale, 438);
  stale.add(Attr::kRealm, "example.org").add(Attr::kNonce, "n2");
  s.client.receive(stale.bytes(), 0);
  const auto third = s.request();
  ASSERT_TRUE(third);
  EXPECT_EQ(third->text(Attr::kNonce), "n2");
}

std::vector<uint8_t> allocate_success(const Script& s, const MessageView& to, const Key& key) {
  auto message = s.reply(to, Class::kSuccess);
  message.add_xor_address(Attr::kXorRelayedAddress, *TransportAddress::parse("192.0.2.9:50000"));
  message.add_xor_address(Attr::kXorMappedAddress, *TransportAddress::parse("192.0.2.1:1234"));
  message.add_u32(Attr::kLifetime, 600).add_integrity(key);
  return message.take();
}

TEST(StunClientAuth, a_success_that_another_key_signed_is_as_if_it_had_not_come) {
  Script s;
  s.client.allocate({}, 0);
  const auto second = s.challenged("n1", false);
  EXPECT_EQ(s.client.receive(allocate_success(s, *second, short_term_key("forged")), 0),
            Received::kIgnored);
  EXPECT_FALSE(s.client.allocated());
  EXPECT_EQ(s.client.receive(allocate_success(s, *second, md5_key()), 0), Received::kResponse);
  ASSERT_TRUE(s.client.allocated());
  EXPECT_EQ(s.client.relayed()[0].to_string(), "192.0.2.9:50000");
  EXPECT_EQ(s.client.poll_event()->kind, Event::Kind::kSuccess);
}

TEST(StunClientTimers, a_request_is_sent_seven_times_and_given_up_at_39_5_seconds) {
  Script s;
  s.client.binding(0);
  std::vector<uint64_t> sent_ms;
  uint64_t now = 0;
  while (!s.client.poll_event()) {
    if (s.client.poll_transmit()) sent_ms.push_back(now / 1'000'000);
    now = s.client.next_deadline();
    ASSERT_NE(now, kNever);
    s.client.tick(now);
  }
  EXPECT_EQ(sent_ms, (std::vector<uint64_t>{0, 500, 1500, 3500, 7500, 15500, 31500}));
  EXPECT_EQ(now / 1'000'000, 39500u);
}

TEST(StunClientTimers, an_allocation_and_its_channel_are_kept_alive) {
  Script s;
  s.client.allocate({}, 0);
  const auto second = s.challenged("n1", false);
  s.client.receive(allocate_success(s, *second, md5_key()), 0);
  s.client.channel_bind(0x4001, *TransportAddress::parse("192.0.2.77:7777"), 0);
  const auto bind = s.request();
  ASSERT_TRUE(bind);
  auto bound = s.reply(*bind, Class::kSuccess);
  bound.add_integrity(md5_key());
  ASSERT_EQ(s.client.receive(bound.bytes(), 0), Received::kResponse);
  std::vector<std::pair<Method, uint64_t>> seen;
  for (int i = 0; i < 2; ++i) {
    const uint64_t now = s.client.next_deadline();
    s.client.tick(now);
    const auto message = s.request();
    ASSERT_TRUE(message);
    seen.emplace_back(message->method(), now / kSecondNs);
    auto reply = s.reply(*message, Class::kSuccess);
    if (message->method() == Method::kRefresh) reply.add_u32(Attr::kLifetime, 600);
    reply.add_integrity(md5_key());
    s.client.receive(reply.bytes(), now);
  }
  EXPECT_EQ(seen[0], (std::pair{Method::kChannelBind, uint64_t{240}}));
  EXPECT_EQ(seen[1], (std::pair{Method::kRefresh, uint64_t{300}}));
}

TEST(StunClientAllocate, every_option_is_on_the_wire) {
  Script s;
  AllocateOptions options;
  options.additional_family = Family::kIpv6;
  options.even_port = true;
  options.lifetime_s = 1200;
  options.dont_fragment = true;
  s.client.allocate(options, 0);
  const auto message = s.request();
  ASSERT_TRUE(message);
  EXPECT_EQ(message->u32(Attr::kRequestedTransport), 0x11000000u);
  EXPECT_EQ(message->u32(Attr::kAdditionalAddressFamily), 0x02000000u);
  EXPECT_EQ(message->u32(Attr::kLifetime), 1200u);
  EXPECT_EQ(message->find(Attr::kEvenPort)->value.size(), 1u);
  EXPECT_EQ(message->find(Attr::kEvenPort)->value[0], 0x80);
  EXPECT_TRUE(message->has(Attr::kDontFragment));
  AllocateOptions second;
  second.reservation_token = 0x0102030405060708;
  s.client.allocate(second, 0);
  const auto reserving = s.request();
  EXPECT_EQ(reserving->find(Attr::kReservationToken)->value[7], 8);
}

}  // namespace
}  // namespace culvert::stun_client
