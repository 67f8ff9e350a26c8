// The published vectors through the relay's own codec and crypto: read, verified, and built again.
#include <gtest/gtest.h>

#include <array>

#include "crypto/bytes.h"
#include "crypto/credentials.h"
#include "crypto/stun_integrity.h"
#include "dataplane/wire/stun.h"
#include "tests/vectors/stun_vectors.h"

namespace culvert {
namespace {

using stun::Attribute;
using stun::AttributeSlot;
using stun::Builder;
using stun::Class;
using stun::Message;
using stun::ParseError;
using Bytes = std::vector<uint8_t>;

[[nodiscard]] std::string_view text(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
[[nodiscard]] Bytes built(const Builder& builder) {
  EXPECT_TRUE(builder.ok());
  return {builder.bytes().begin(), builder.bytes().end()};
}
[[nodiscard]] Message parsed(const Bytes& bytes) {
  Message out;
  EXPECT_EQ(Message::parse(bytes, out), ParseError::kNone);
  return out;
}
const auto kPassword = crypto::as_bytes(vectors::kShortTermPassword);

TEST(StunVectors, the_request_of_rfc_5769_is_read_and_verified) {
  const Bytes bytes = vectors::hex(vectors::kRequest);
  const Message message = parsed(bytes);
  EXPECT_EQ(message.message_class(), Class::kRequest);
  EXPECT_EQ(message.method(), stun::kBinding);
  EXPECT_EQ(text(message.value(AttributeSlot::kSoftware)), "STUN test client");
  EXPECT_EQ(text(message.value(AttributeSlot::kUsername)), "evtj:h6vY");
  EXPECT_TRUE(message.has(AttributeSlot::kPriority));
  EXPECT_TRUE(message.has(AttributeSlot::kFingerprint));
  EXPECT_TRUE(message.unknown_required().empty());  // ICE-CONTROLLED (0x8029) is optional
  EXPECT_TRUE(crypto::verify_integrity(message, kPassword));
  EXPECT_FALSE(crypto::verify_integrity(message, crypto::as_bytes("VOkJxbRl1RmTxUk/WvJxBu")));
}

TEST(StunVectors, the_request_of_rfc_5769_is_built_byte_for_byte) {
  const Bytes expected = vectors::hex(vectors::kRequest);
  std::array<uint8_t, 256> buffer;
  buffer.fill(0xee);
  Builder builder(buffer, Class::kRequest, stun::kBinding, &expected[8]);
  builder.add(Attribute::kSoftware, "STUN test client");
  builder.add_u32(Attribute::kPriority, 0x6e0001ff);
  // An attribute the relay never writes, and the vector's padding of spaces where ours is zero.
  builder.add_encoded(vectors::hex("80290008 932ff9b1 51263b36"));
  builder.add_encoded(vectors::hex("00060009 6576746a 3a683676 59202020"));
  crypto::add_integrity(builder, kPassword);
  builder.add_fingerprint();
  EXPECT_EQ(built(builder), expected);
}

TEST(StunVectors, the_responses_of_rfc_5769_are_read_verified_and_built_again) {
  for (const auto& [hex, address] :
       {std::pair{vectors::kResponseIpv4, "192.0.2.1:32853"},
        std::pair{vectors::kResponseIpv6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"}}) {
    const Bytes bytes = vectors::hex(hex);
    const Message message = parsed(bytes);
    EXPECT_EQ(message.message_class(), Class::kSuccess);
    EXPECT_EQ(text(message.value(AttributeSlot::kSoftware)), "test vector");
    const auto mapped = message.xor_address(message.value(AttributeSlot::kXorMappedAddress));
    ASSERT_TRUE(mapped);
    EXPECT_EQ(*mapped, *TransportAddress::parse(address));
    EXPECT_TRUE(crypto::verify_integrity(message, kPassword));

    std::array<uint8_t, 256> buffer;
    Builder builder(buffer, Class::kSuccess, stun::kBinding, &bytes[8]);
    builder.add_encoded(vectors::hex("8022000b 74657374 20766563 746f7220"));
    builder.add_xor_address(Attribute::kXorMappedAddress, *mapped);
    crypto::add_integrity(builder, kPassword);
    builder.add_fingerprint();
    EXPECT_EQ(built(builder), bytes);
  }
}

TEST(StunVectors, the_long_term_request_of_rfc_5769_is_verified_and_built_byte_for_byte) {
  const Bytes bytes = vectors::hex(vectors::kLongTermRequest);
  const Message message = parsed(bytes);
  EXPECT_EQ(text(message.value(AttributeSlot::kUsername)), vectors::kLongTermUser);
  const auto key =
      crypto::md5_key(vectors::kLongTermUser, vectors::kLongTermRealm, vectors::kLongTermPassword);
  EXPECT_TRUE(crypto::verify_integrity(message, key));

  std::array<uint8_t, 256> buffer;
  buffer.fill(0xee);  // the zero padding must be written
  Builder builder(buffer, Class::kRequest, stun::kBinding, &bytes[8]);
  builder.add(Attribute::kUsername, vectors::kLongTermUser);
  builder.add(Attribute::kNonce, vectors::kLongTermNonce);
  builder.add(Attribute::kRealm, vectors::kLongTermRealm);
  crypto::add_integrity(builder, key);
  EXPECT_EQ(built(builder), bytes);
}

TEST(StunVectors, the_sha256_request_of_rfc_8489_with_erratum_6268_is_verified_and_built) {
  const Bytes bytes = vectors::hex(vectors::kSha256Request);
  const Message message = parsed(bytes);
  const auto key = crypto::sha256_key(vectors::kLongTermUser, vectors::kLongTermRealm,
                                      vectors::kLongTermPassword);
  const auto hash = crypto::userhash(vectors::kLongTermUser, vectors::kLongTermRealm);
  EXPECT_EQ(text(message.value(AttributeSlot::kUserhash)), text(hash));
  EXPECT_EQ(text(message.value(AttributeSlot::kNonce)), vectors::kSha256Nonce);
  EXPECT_TRUE(crypto::verify_integrity(message, key));

  std::array<uint8_t, 256> buffer;
  buffer.fill(0xee);
  Builder builder(buffer, Class::kRequest, stun::kBinding, &bytes[8]);
  builder.add(Attribute::kUserhash, std::span<const uint8_t>(hash));
  builder.add(Attribute::kNonce, vectors::kSha256Nonce);
  builder.add(Attribute::kRealm, vectors::kLongTermRealm);
  builder.add_u32(Attribute::kPasswordAlgorithm, 0x00020000);
  crypto::add_integrity_sha256(builder, key);
  EXPECT_EQ(built(builder), bytes);
}

TEST(StunVectors, every_flipped_bit_of_a_vector_is_noticed) {
  // In cookie and lengths the parser refuses it, elsewhere FINGERPRINT does. Only a flip that makes
  // FINGERPRINT vanish (its own type, or a length that swallows it) is parsed: then integrity
  // decides, which covers everything before itself.
  const Bytes original = vectors::hex(vectors::kRequest);
  constexpr size_t kFingerprintBytes = 8;
  for (size_t bit = 0; bit < original.size() * 8; ++bit) {
    Bytes bytes = original;
    bytes[bit / 8] = static_cast<uint8_t>(bytes[bit / 8] ^ 1 << bit % 8);
    Message message;
    if (Message::parse(bytes, message) != ParseError::kNone) continue;
    EXPECT_FALSE(message.has(AttributeSlot::kFingerprint)) << "bit " << bit;
    if (bit / 8 < bytes.size() - kFingerprintBytes) {
      EXPECT_FALSE(crypto::verify_integrity(message, kPassword)) << "bit " << bit;
    }
  }
}

}  // namespace
}  // namespace culvert
