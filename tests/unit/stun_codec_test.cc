// The STUN codec and the ChannelData header: the rules of RFC 8489 sections 5, 6.3 and 14 one by
// one, then random messages and random damage. Every message is parsed from a heap block of exactly
// its size, so that a read behind it is seen by the sanitizer.
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "crypto/random.h"
#include "dataplane/wire/channel_data.h"
#include "dataplane/wire/stun.h"

namespace culvert::stun {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr TransactionId kId = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
constexpr auto kUnknownRequired = static_cast<Attribute>(0x0031);
constexpr auto kUnknownOptional = static_cast<Attribute>(0xC0DE);

// A message in a block of its own exact size.
struct Parsed {
  explicit Parsed(std::span<const uint8_t> from)
      : block(new uint8_t[from.size()]), error(ParseError::kNone) {
    std::copy(from.begin(), from.end(), block.get());
    error = Message::parse({block.get(), from.size()}, message);
  }
  std::unique_ptr<uint8_t[]> block;
  Message message;
  ParseError error;
};

// A builder with its buffer, soiled so that missing padding shows.
struct Draft {
  explicit Draft(size_t room = 4096, Class c = Class::kRequest, uint16_t method = kAllocate)
      : buffer(room, 0xee), builder(buffer, c, method, kId.data()) {}
  [[nodiscard]] Bytes bytes() const { return {builder.bytes().begin(), builder.bytes().end()}; }
  Bytes buffer;
  Builder builder;
};

[[nodiscard]] ParseError error_of(std::span<const uint8_t> bytes) {
  return Parsed(bytes).error;
}

TEST(StunCodec, crc32_gives_the_check_value_of_iso_3309_at_every_split) {
  const std::string text = "123456789";
  const auto* at = reinterpret_cast<const uint8_t*>(text.data());
  EXPECT_EQ(crc32({at, 9}), 0xCBF43926u);
  EXPECT_EQ(crc32({}), 0u);
  EXPECT_EQ(crc32({at, 1}), 0x83DCEFB7u);
}

TEST(StunCodec, classes_and_methods_of_all_twelve_bits_survive) {
  for (const Class c : {Class::kRequest, Class::kIndication, Class::kSuccess, Class::kError}) {
    for (uint16_t method = 0; method < 0x1000; ++method) {
      Draft draft(64, c, method);
      const Parsed parsed(draft.builder.bytes());
      ASSERT_EQ(parsed.error, ParseError::kNone);
      ASSERT_EQ(parsed.message.message_class(), c);
      ASSERT_EQ(parsed.message.method(), method);
    }
  }
}

TEST(StunCodec, type_numbers_on_the_wire_are_those_of_the_rfcs) {
  const auto type = [](Class c, uint16_t method) {
    Draft draft(64, c, method);
    return load_be16(draft.buffer.data());
  };
  EXPECT_EQ(type(Class::kSuccess, kBinding), 0x0101);
  EXPECT_EQ(type(Class::kError, kAllocate), 0x0113);
  EXPECT_EQ(type(Class::kIndication, kSend), 0x0016);
  EXPECT_EQ(type(Class::kIndication, kData), 0x0017);
  EXPECT_EQ(type(Class::kSuccess, kChannelBind), 0x0109);
}

TEST(StunCodec, what_is_not_stun_is_discarded) {
  Draft draft(64);
  draft.builder.add_u32(Attribute::kLifetime, 600);
  const Bytes good = draft.bytes();
  ASSERT_EQ(error_of(good), ParseError::kNone);
  for (size_t length = 0; length < good.size(); ++length)
    EXPECT_EQ(error_of(std::span(good).first(length)), ParseError::kNotStun) << length;
  for (size_t more = 1; more <= 8; ++more) {
    Bytes longer = good;
    longer.resize(good.size() + more);
    EXPECT_EQ(error_of(longer), ParseError::kNotStun) << more;
  }
  for (const int bits : {0x40, 0x80, 0xc0}) {
    Bytes bytes = good;
    bytes[0] = static_cast<uint8_t>(bytes[0] | bits);
    EXPECT_EQ(error_of(bytes), ParseError::kNotStun);
  }
  for (size_t at = 4; at < 8; ++at) {
    Bytes bytes = good;
    bytes[at] = static_cast<uint8_t>(bytes[at] ^ 1);
    EXPECT_EQ(error_of(bytes), ParseError::kNotStun) << "cookie byte " << at;
  }
  Bytes odd = good;  // header and datagram agree on a length that is not a multiple of four
  odd.resize(good.size() + 2);
  store_be16(&odd[2], static_cast<uint16_t>(odd.size() - kHeaderSize));
  EXPECT_EQ(error_of(odd), ParseError::kNotStun);
}

TEST(StunCodec, the_longest_message_is_taken_and_four_bytes_more_are_not) {
  for (const size_t size : {kMaxStunMessage, kMaxStunMessage + 4}) {
    Draft draft(size);
    draft.builder.add(Attribute::kData, Bytes(size - kHeaderSize - 4, 7));
    ASSERT_TRUE(draft.builder.ok());
    EXPECT_EQ(error_of(draft.builder.bytes()),
              size == kMaxStunMessage ? ParseError::kNone : ParseError::kTooLong);
  }
}

TEST(StunCodec, a_send_indication_may_be_as_long_as_a_datagram) {
  std::array<uint8_t, 65504> buffer;
  const TransactionId id{};
  Builder builder(buffer, Class::kIndication, kSend, id.data());
  builder.add(Attribute::kData, Bytes(buffer.size() - kHeaderSize - 4, 7));
  ASSERT_TRUE(builder.ok());
  EXPECT_EQ(error_of(builder.bytes()), ParseError::kNone);
}

TEST(StunCodec, every_value_length_is_padded_with_zeros_and_read_back) {
  for (size_t length = 0; length <= 800; ++length) {
    Draft draft;
    Bytes value(length);
    for (size_t i = 0; i < length; ++i)
      value[i] = static_cast<uint8_t>(i + 1);
    draft.builder.add(Attribute::kUsername, value);
    draft.builder.add(Attribute::kRealm, "after");
    const Bytes bytes = draft.bytes();
    for (size_t i = kHeaderSize + 4 + length; i < kHeaderSize + 4 + (length + 3) / 4 * 4; ++i)
      ASSERT_EQ(bytes[i], 0) << "padding of length " << length;
    const Parsed parsed(bytes);
    ASSERT_EQ(parsed.error, ParseError::kNone);
    const auto got = parsed.message.value(AttributeSlot::kUsername);
    ASSERT_TRUE(std::equal(got.begin(), got.end(), value.begin(), value.end())) << length;
    ASSERT_TRUE(parsed.message.has(AttributeSlot::kUsername));
    ASSERT_EQ(parsed.message.value(AttributeSlot::kRealm).size(), 5u);
  }
}

TEST(StunCodec, padding_of_any_content_is_accepted) {
  Draft draft;
  draft.builder.add(Attribute::kUsername, "abc");
  Bytes bytes = draft.bytes();
  bytes.at(kHeaderSize + 4 + 3) = 0x5a;
  const Parsed parsed(bytes);
  EXPECT_EQ(parsed.error, ParseError::kNone);
  EXPECT_EQ(parsed.message.value(AttributeSlot::kUsername).size(), 3u);
}

TEST(StunCodec, an_attribute_longer_than_the_message_is_malformed) {
  Draft draft;
  draft.builder.add(Attribute::kUsername, "abcd");
  for (const int length : {5, 6, 7, 8, 9, 0x7fff, 0xfffc, 0xfffd, 0xffff}) {
    Bytes bytes = draft.bytes();
    store_be16(&bytes[kHeaderSize + 2], static_cast<uint16_t>(length));
    EXPECT_EQ(error_of(bytes), ParseError::kMalformed) << length;
  }
}

TEST(StunCodec, the_builder_stops_at_every_buffer_that_is_too_small) {
  const auto write = [](Builder& b) {
    b.add(Attribute::kRealm, "abc");
    b.add_u32(Attribute::kLifetime, 1);
    b.add_error(437, "why");
    b.add_fingerprint();
  };
  Draft whole;
  write(whole.builder);
  const size_t size = whole.builder.size();
  for (size_t room = 0; room <= size; ++room) {
    const std::unique_ptr<uint8_t[]> block(new uint8_t[room]);
    Builder builder({block.get(), room}, Class::kRequest, kBinding, kId.data());
    write(builder);
    EXPECT_EQ(builder.ok(), room == size) << room;
    EXPECT_LE(builder.size(), room);
  }
}

TEST(StunCodec, the_length_field_does_not_overflow_in_a_huge_buffer) {
  Draft draft(70000);
  draft.builder.add(Attribute::kData, Bytes(65528 - 4, 1));
  EXPECT_TRUE(draft.builder.ok());
  draft.builder.add(Attribute::kData, Bytes(4, 1));
  EXPECT_FALSE(draft.builder.ok());
}

TEST(StunCodec, of_duplicates_the_first_wins_and_peers_are_visited_in_order) {
  Draft draft;
  draft.builder.add_u32(Attribute::kLifetime, 1);
  std::vector<TransportAddress> peers;
  for (const char* text : {"192.0.2.1:1", "[2001:db8::2]:2", "192.0.2.3:3"})
    peers.push_back(*TransportAddress::parse(text));
  draft.builder.add_xor_address(Attribute::kXorPeerAddress, peers[0]);
  draft.builder.add_u32(Attribute::kLifetime, 2);
  draft.builder.add_xor_address(Attribute::kXorPeerAddress, peers[1]);
  draft.builder.add_xor_address(Attribute::kXorPeerAddress, peers[2]);
  const Parsed parsed(draft.builder.bytes());
  ASSERT_EQ(parsed.error, ParseError::kNone);
  EXPECT_EQ(load_be32(parsed.message.value(AttributeSlot::kLifetime).data()), 1u);
  std::vector<TransportAddress> seen;
  parsed.message.each_peer([&](std::span<const uint8_t> value) {
    seen.push_back(*parsed.message.xor_address(value));
    return true;
  });
  EXPECT_EQ(seen, peers);
  int visits = 0;
  parsed.message.each_peer([&](std::span<const uint8_t>) { return ++visits < 2; });
  EXPECT_EQ(visits, 2);
}

TEST(StunCodec, behind_integrity_only_the_sha256_one_and_fingerprint_exist) {
  const Bytes mac20(20, 1);
  const Bytes mac32(32, 2);
  const auto peer = *TransportAddress::parse("192.0.2.1:1");
  Draft draft;
  draft.builder.add_xor_address(Attribute::kXorPeerAddress, peer);
  draft.builder.add(Attribute::kMessageIntegrity, mac20);
  draft.builder.add_u32(Attribute::kLifetime, 9);
  draft.builder.add_xor_address(Attribute::kXorPeerAddress, peer);
  draft.builder.add_u32(kUnknownRequired, 9);
  draft.builder.add(Attribute::kMessageIntegritySha256, mac32);
  draft.builder.add(Attribute::kUsername, "late");
  draft.builder.add_fingerprint();
  const Parsed parsed(draft.builder.bytes());
  ASSERT_EQ(parsed.error, ParseError::kNone);
  EXPECT_TRUE(parsed.message.has(AttributeSlot::kMessageIntegrity));
  EXPECT_TRUE(parsed.message.has(AttributeSlot::kMessageIntegritySha256));
  EXPECT_TRUE(parsed.message.has(AttributeSlot::kFingerprint));
  EXPECT_FALSE(parsed.message.has(AttributeSlot::kLifetime));
  EXPECT_FALSE(parsed.message.has(AttributeSlot::kUsername));
  EXPECT_TRUE(parsed.message.unknown_required().empty());
  int peers = 0;
  parsed.message.each_peer([&](std::span<const uint8_t>) { return ++peers, true; });
  EXPECT_EQ(peers, 1);
}

TEST(StunCodec, behind_the_sha256_integrity_not_even_the_other_one_exists) {
  Draft draft;
  draft.builder.add(Attribute::kMessageIntegritySha256, Bytes(32, 2));
  draft.builder.add(Attribute::kMessageIntegrity, Bytes(20, 1));
  draft.builder.add_u32(Attribute::kLifetime, 9);
  const Parsed parsed(draft.builder.bytes());
  ASSERT_EQ(parsed.error, ParseError::kNone);
  EXPECT_TRUE(parsed.message.has(AttributeSlot::kMessageIntegritySha256));
  EXPECT_FALSE(parsed.message.has(AttributeSlot::kMessageIntegrity));
  EXPECT_FALSE(parsed.message.has(AttributeSlot::kLifetime));
}

TEST(StunCodec, a_fingerprint_must_be_right_four_bytes_long_and_last) {
  Draft good;
  good.builder.add_u32(Attribute::kLifetime, 9);
  good.builder.add_fingerprint();
  EXPECT_EQ(error_of(good.builder.bytes()), ParseError::kNone);
  for (size_t i = 1; i <= 4; ++i) {
    Bytes bytes = good.bytes();
    bytes[bytes.size() - i] = static_cast<uint8_t>(bytes[bytes.size() - i] ^ 0x10);
    EXPECT_EQ(error_of(bytes), ParseError::kBadFingerprint);
  }
  Draft followed;
  followed.builder.add_fingerprint();
  followed.builder.add_u32(Attribute::kLifetime, 9);
  EXPECT_EQ(error_of(followed.builder.bytes()), ParseError::kBadFingerprint);
  Draft twice;
  twice.builder.add_fingerprint();
  twice.builder.add_fingerprint();
  EXPECT_EQ(error_of(twice.builder.bytes()), ParseError::kBadFingerprint);
  for (const size_t length : {0u, 3u, 5u, 8u}) {
    Draft wrong;
    wrong.builder.add(Attribute::kFingerprint, Bytes(length));
    EXPECT_EQ(error_of(wrong.builder.bytes()), ParseError::kBadFingerprint) << length;
  }
}

TEST(StunCodec, unknown_required_attributes_are_named_once_each_in_order_up_to_the_limit) {
  Draft draft;
  draft.builder.add_u32(kUnknownOptional, 1);
  draft.builder.add_u32(static_cast<Attribute>(0x7fff), 1);
  draft.builder.add_u32(kUnknownRequired, 1);
  draft.builder.add_u32(static_cast<Attribute>(0x7fff), 1);
  const Parsed parsed(draft.builder.bytes());
  ASSERT_EQ(parsed.error, ParseError::kNone);
  const auto unknown = parsed.message.unknown_required();
  EXPECT_EQ(std::vector<uint16_t>(unknown.begin(), unknown.end()),
            (std::vector<uint16_t>{0x7fff, 0x0031}));
  Draft many;
  for (uint16_t i = 0; i < 3 * kMaxUnknownAttributes; ++i)
    many.builder.add_empty(static_cast<Attribute>(0x4000 + i));
  EXPECT_EQ(Parsed(many.builder.bytes()).message.unknown_required().size(), kMaxUnknownAttributes);
}

TEST(StunCodec, every_type_is_known_exactly_when_it_is_in_the_list) {
  const std::vector<uint16_t> known = {
#define X(name, type) type,
      CULVERT_STUN_ATTRIBUTES(X)
#undef X
  };
  for (uint32_t type = 0; type < 0x8000; ++type) {
    Draft draft(64);
    draft.builder.add_empty(static_cast<Attribute>(type));
    const Parsed parsed(draft.builder.bytes());
    ASSERT_EQ(parsed.error, ParseError::kNone);
    const bool listed = std::find(known.begin(), known.end(), type) != known.end();
    ASSERT_EQ(parsed.message.unknown_required().empty(), listed) << std::hex << type;
  }
  for (size_t slot = 0; slot < known.size(); ++slot) {
    if (known[slot] == static_cast<uint16_t>(Attribute::kFingerprint)) continue;
    Draft draft(64);
    draft.builder.add_u32(static_cast<Attribute>(known[slot]), 5);
    const Parsed parsed(draft.builder.bytes());
    for (size_t other = 0; other < known.size(); ++other)
      ASSERT_EQ(parsed.message.has(static_cast<AttributeSlot>(other)), other == slot);
  }
}

TEST(StunCodec, a_reused_message_object_remembers_nothing) {
  Draft full;
  full.builder.add_u32(Attribute::kLifetime, 9);
  full.builder.add_u32(kUnknownRequired, 9);
  Draft empty;
  Message message;
  ASSERT_EQ(Message::parse(full.builder.bytes(), message), ParseError::kNone);
  ASSERT_EQ(Message::parse(empty.builder.bytes(), message), ParseError::kNone);
  EXPECT_FALSE(message.has(AttributeSlot::kLifetime));
  EXPECT_TRUE(message.unknown_required().empty());
}

TEST(StunCodec, addresses_of_wrong_length_or_family_are_refused) {
  Draft draft;
  const Parsed parsed(draft.builder.bytes());
  for (size_t length = 0; length <= 24; ++length) {
    for (int family = 0; family < 4; ++family) {
      Bytes value(length);
      if (length > 1) value[1] = static_cast<uint8_t>(family);
      const bool good = (length == 8 && family == 1) || (length == 20 && family == 2);
      EXPECT_EQ(parsed.message.xor_address(value).has_value(), good) << length << " " << family;
    }
  }
}

TEST(StunCodec, error_codes_and_their_reasons_are_written_as_the_rfcs_say) {
  Draft draft;
  draft.builder.add_error(437, "Mismatch");
  const Bytes bytes = draft.bytes();
  EXPECT_EQ(load_be16(&bytes[22]), 12);  // the reason without its padding
  EXPECT_EQ(load_be32(&bytes[24]), 0x00000425u);
  Draft address;
  address.builder.add_address_error(Family::kIpv6, 440);
  EXPECT_EQ(load_be32(&address.bytes()[24]), 0x02000428u);
  // 127 bytes at most, and never half a character.
  std::string reason;
  while (reason.size() < 200)
    reason += "\xc3\xa9";
  Draft longest;
  longest.builder.add_error(500, reason);
  EXPECT_EQ(load_be16(&longest.bytes()[22]), 4 + 126);
}

TEST(StunCodec, encoded_attributes_must_be_whole) {
  Draft draft;
  draft.builder.add_encoded({});
  EXPECT_TRUE(draft.builder.ok());
  draft.builder.add_encoded(Bytes(6));
  EXPECT_FALSE(draft.builder.ok());
}

// What a random message was made of.
struct Item {
  uint16_t type;
  Bytes value;
};

[[nodiscard]] std::vector<Item> random_items(crypto::Random& random) {
  std::vector<Item> items(random.below(12));
  for (Item& item : items) {
    do {
      item.type = static_cast<uint16_t>(random.below(4) == 0 ? random.u32() : random.below(0x40));
      // These three decide about the others and have their own tests.
    } while (item.type == 0x0008 || item.type == 0x001C || item.type == 0x8028);
    item.value.resize(random.below(random.below(6) == 0 ? 140 : 24));
    random.fill(item.value);
  }
  return items;
}

TEST(StunCodec, random_messages_are_read_as_they_were_written) {
  const uint64_t seed = crypto::Random().u64();
  std::cout << "seed " << seed << '\n';
  crypto::Random random(seed);
  for (int round = 0; round < 20000; ++round) {
    const std::vector<Item> items = random_items(random);
    Draft draft(2048);
    for (const Item& item : items)
      draft.builder.add(static_cast<Attribute>(item.type), item.value);
    if (random.below(2) == 0) draft.builder.add_fingerprint();
    ASSERT_TRUE(draft.builder.ok());
    const Parsed parsed(draft.builder.bytes());
    ASSERT_EQ(parsed.error, ParseError::kNone) << "seed " << seed << " round " << round;
    // The obvious model: the first item of each known type.
    size_t slot = 0;
#define X(name, number)                                                                          \
  if ((number) != 0x8028) {                                                                      \
    const auto first = std::find_if(items.begin(), items.end(),                                  \
                                    [](const Item& i) { return i.type == (number); });           \
    const auto got = parsed.message.value(static_cast<AttributeSlot>(slot));                     \
    ASSERT_EQ(parsed.message.has(static_cast<AttributeSlot>(slot)), first != items.end());       \
    if (first != items.end()) {                                                                  \
      ASSERT_TRUE(std::equal(got.begin(), got.end(), first->value.begin(), first->value.end())); \
    }                                                                                            \
  }                                                                                              \
  ++slot;
    CULVERT_STUN_ATTRIBUTES(X)
#undef X
  }
}

TEST(StunCodec, random_damage_is_refused_or_read_within_bounds) {
  const uint64_t seed = crypto::Random().u64();
  std::cout << "seed " << seed << '\n';
  crypto::Random random(seed);
  size_t accepted = 0;
  uint32_t sum = 0;
  for (int round = 0; round < 50000; ++round) {
    Draft draft(2048);
    for (const Item& item : random_items(random))
      draft.builder.add(static_cast<Attribute>(item.type), item.value);
    draft.builder.add_xor_address(Attribute::kXorPeerAddress,
                                  *TransportAddress::parse("192.0.2.1:1"));
    Bytes bytes = draft.bytes();
    for (uint32_t n = 1 + random.below(8); n > 0; --n)
      bytes[random.below(static_cast<uint32_t>(bytes.size()))] = static_cast<uint8_t>(random.u32());
    if (random.below(4) == 0) bytes.resize(random.below(static_cast<uint32_t>(bytes.size()) + 1));
    const Parsed parsed(bytes);
    if (parsed.error != ParseError::kNone) continue;
    ++accepted;
    // Touch everything that a reader may touch.
    for (size_t slot = 0; slot < static_cast<size_t>(AttributeSlot::kCount); ++slot)
      for (const uint8_t b : parsed.message.value(static_cast<AttributeSlot>(slot)))
        sum += b;
    parsed.message.each_peer([&](std::span<const uint8_t> value) {
      sum += parsed.message.xor_address(value).has_value() ? 1 : 0;
      for (const uint8_t b : value)
        sum += b;
      return true;
    });
  }
  EXPECT_GT(accepted, 0u);
  EXPECT_NE(sum, 0u);
}

TEST(StunCodec, addresses_survive_at_every_alignment) {
  crypto::Random random(7);
  for (size_t shift = 0; shift < 8; ++shift) {
    for (int v6 = 0; v6 < 2; ++v6) {
      uint8_t raw[16];
      random.fill(raw);
      TransportAddress address;
      address.ip = v6 != 0 ? IpAddress::v6_bytes(raw) : IpAddress::v4_bytes(raw);
      address.port = static_cast<uint16_t>(random.u32());
      Bytes buffer(128);
      Builder builder(std::span<uint8_t>(buffer).subspan(shift), Class::kSuccess, kBinding,
                      kId.data());
      builder.add_xor_address(Attribute::kXorMappedAddress, address);
      builder.add_fingerprint();
      Message message;
      ASSERT_EQ(Message::parse(builder.bytes(), message), ParseError::kNone);
      EXPECT_EQ(message.xor_address(message.value(AttributeSlot::kXorMappedAddress)), address);
    }
  }
}

// A bit of every second message, the end of every tenth.
void damage(crypto::Random& random, Bytes& bytes) {
  const auto size = static_cast<uint32_t>(bytes.size());
  if (random.below(2) != 0) {
    uint8_t& damaged = bytes[random.below(size)];
    damaged = static_cast<uint8_t>(damaged ^ 1u << random.below(8));
  }
  if (random.below(10) == 0) bytes.resize(random.below(size + 1));
}

// parse_plain_send() may only say what parse() says: any message it takes has exactly these two
// attributes and the same values, however it was damaged.
TEST(StunCodec, a_plain_send_is_what_the_whole_parser_finds_in_it) {
  const uint64_t seed = crypto::Random().u64();
  std::cout << "seed " << seed << "\n";
  crypto::Random random(seed);
  uint32_t plain = 0, others = 0;
  for (int round = 0; round < 20000; ++round) {
    Draft draft(256, Class::kIndication, random.below(20) == 0 ? kData : kSend);
    uint8_t raw[16];
    random.fill(raw);
    TransportAddress address;
    address.ip = random.below(2) != 0 ? IpAddress::v6_bytes(raw) : IpAddress::v4_bytes(raw);
    address.port = static_cast<uint16_t>(random.u32());
    Bytes data(random.below(40));
    random.fill(data);
    if (random.below(10) == 0) draft.builder.add_empty(Attribute::kDontFragment);
    draft.builder.add_xor_address(Attribute::kXorPeerAddress, address);
    if (random.below(10) != 0) draft.builder.add(Attribute::kData, data);
    if (random.below(10) == 0) draft.builder.add_fingerprint();
    Bytes bytes = draft.bytes();
    damage(random, bytes);

    const Parsed whole(bytes);
    const std::unique_ptr<uint8_t[]> block(new uint8_t[bytes.size()]);
    std::copy(bytes.begin(), bytes.end(), block.get());
    TransportAddress peer;
    std::span<const uint8_t> found;
    if (!parse_plain_send({block.get(), bytes.size()}, peer, found)) {
      ++others;
      continue;
    }
    ++plain;
    ASSERT_EQ(whole.error, ParseError::kNone);
    const Message& m = whole.message;
    ASSERT_EQ(m.method(), kSend);
    ASSERT_EQ(m.message_class(), Class::kIndication);
    ASSERT_EQ(m.xor_address(m.value(AttributeSlot::kXorPeerAddress)), peer);
    const auto value = m.value(AttributeSlot::kData);
    ASSERT_TRUE(m.has(AttributeSlot::kData));
    ASSERT_TRUE(std::equal(value.begin(), value.end(), found.begin(), found.end()));
    for (size_t slot = 0; slot < static_cast<size_t>(AttributeSlot::kCount); ++slot) {
      const auto s = static_cast<AttributeSlot>(slot);
      if (s == AttributeSlot::kXorPeerAddress || s == AttributeSlot::kData) continue;
      ASSERT_FALSE(m.has(s)) << slot;
    }
    ASSERT_TRUE(m.unknown_required().empty());
  }
  EXPECT_GT(plain, 2000u);
  EXPECT_GT(others, 2000u);
}

// is_bare_allocate() is exactly what parse() says of such a message, however it was damaged.
TEST(StunCodec, a_bare_allocate_is_what_the_whole_parser_finds_without_integrity_or_fingerprint) {
  const uint64_t seed = crypto::Random().u64();
  std::cout << "seed " << seed << "\n";
  crypto::Random random(seed);
  uint32_t bare = 0, others = 0;
  for (int round = 0; round < 20000; ++round) {
    const bool refresh = random.below(20) == 0;
    const bool indication = random.below(20) == 0;
    Draft draft(4096, indication ? Class::kIndication : Class::kRequest,
                refresh ? kRefresh : kAllocate);
    const auto maybe = [&](uint32_t odds, Attribute type, size_t size) {
      if (random.below(odds) == 0) draft.builder.add(type, Bytes(size));
    };
    maybe(2, Attribute::kRequestedTransport, 4);
    maybe(2, kUnknownOptional, random.below(40));
    maybe(2, kUnknownRequired, random.below(40));
    maybe(10, Attribute::kMessageIntegrity, 20);
    maybe(10, Attribute::kMessageIntegritySha256, 32);
    maybe(10, kUnknownOptional, 1900 + random.below(200));
    if (random.below(10) == 0) draft.builder.add_fingerprint();
    Bytes bytes = draft.bytes();
    damage(random, bytes);

    const Parsed whole(bytes);
    const Message& m = whole.message;
    const bool expected = whole.error == ParseError::kNone && m.method() == kAllocate &&
                          m.message_class() == Class::kRequest && !m.has_integrity() &&
                          !m.has(AttributeSlot::kFingerprint);
    ASSERT_EQ(is_bare_allocate({whole.block.get(), bytes.size()}), expected) << "round " << round;
    ++(expected ? bare : others);
  }
  EXPECT_GT(bare, 2000u);
  EXPECT_GT(others, 2000u);
}

TEST(ChannelData, headers_are_read_at_every_length) {
  for (const int channel : {0x4000, 0x4abc, 0x4fff}) {
    for (const size_t length : {0u, 1u, 3u, 4u, 1500u}) {
      for (size_t padding = 0; padding < 4; ++padding) {
        Bytes bytes(kChannelHeaderSize + length + padding, 0x33);
        write_channel_header(bytes.data(), static_cast<uint16_t>(channel),
                             static_cast<uint16_t>(length));
        const auto parsed = parse_channel_data(bytes);
        ASSERT_TRUE(parsed);
        EXPECT_EQ(parsed->channel, channel);
        EXPECT_EQ(parsed->data.size(), length);
      }
    }
  }
}

TEST(ChannelData, short_datagrams_and_reserved_numbers_are_refused) {
  Bytes bytes(kChannelHeaderSize + 8);
  write_channel_header(bytes.data(), 0x4000, 8);
  for (size_t length = 0; length < bytes.size(); ++length) {
    const Bytes cut(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(length));
    EXPECT_FALSE(parse_channel_data(cut)) << length;
  }
  for (const int channel : {0x0000, 0x3fff, 0x5000, 0x7ffe, 0x7fff, 0x8000, 0xffff}) {
    write_channel_header(bytes.data(), static_cast<uint16_t>(channel), 8);
    EXPECT_FALSE(parse_channel_data(bytes)) << channel;
  }
  EXPECT_TRUE(looks_like_channel_data(0x40) && looks_like_channel_data(0x7f));
  EXPECT_FALSE(looks_like_channel_data(0x3f) || looks_like_channel_data(0x80));
  EXPECT_EQ(channel_frame_size(0), 4u);
  EXPECT_EQ(channel_frame_size(5), 12u);
}

}  // namespace
}  // namespace culvert::stun
