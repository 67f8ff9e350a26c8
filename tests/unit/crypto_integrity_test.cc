// HMAC against published vectors, and the integrity attributes: where they end, how long they must
// be, what changes break them.
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <thread>
#include <vector>

#include "crypto/bytes.h"
#include "crypto/hmac.h"
#include "crypto/stun_integrity.h"
#include "dataplane/wire/stun.h"
#include "tests/vectors/stun_vectors.h"

namespace culvert::crypto {
namespace {

using stun::Attribute;
using stun::Builder;
using stun::Class;
using stun::Message;
using stun::ParseError;
using Bytes = std::vector<uint8_t>;

constexpr stun::TransactionId kId = {9, 8, 7};
const auto kKey = as_bytes("0123456789abcdef");

[[nodiscard]] Bytes mac(Hmac& hmac, std::span<const uint8_t> key, std::string_view first,
                        std::string_view second = {}) {
  Bytes out(hmac.size());
  hmac.compute(key, as_bytes(first), as_bytes(second), out.data());
  return out;
}

// Both attributes and a fingerprint, each right.
struct Signed {
  Signed() : builder(buffer, Class::kRequest, stun::kAllocate, kId.data()) {
    builder.add(Attribute::kUsername, "user");
  }
  [[nodiscard]] Message message() const {
    Message out;
    EXPECT_EQ(Message::parse(builder.bytes(), out), ParseError::kNone);
    return out;
  }
  std::array<uint8_t, 512> buffer{};
  Builder builder;
  StunIntegrity integrity;
};

TEST(Hmac, the_vectors_of_rfc_2202_and_rfc_4231_come_out) {
  Hmac sha1(HashKind::kSha1);
  Hmac sha256(HashKind::kSha256);
  const Bytes key20(20, 0x0b);
  EXPECT_EQ(mac(sha1, key20, "Hi There"), vectors::hex("b617318655057264e28bc0b6fb378c8ef146be00"));
  EXPECT_EQ(mac(sha1, as_bytes("Jefe"), "what do ya want ", "for nothing?"),
            vectors::hex("effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"));
  EXPECT_EQ(mac(sha256, key20, "Hi There"),
            vectors::hex("b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"));
  EXPECT_EQ(mac(sha256, as_bytes("Jefe"), "what do ya want for nothing?"),
            vectors::hex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"));
  const Bytes long_key(131, 0xaa);
  const std::string text = "Test Using Larger Than Block-Size Key - Hash Key First";
  const Bytes long_mac =
      vectors::hex("60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
  EXPECT_EQ(mac(sha256, long_key, text), long_mac);
  EXPECT_EQ(mac(sha256, long_key, text), long_mac);
}

TEST(Hmac, a_reused_context_gives_what_a_fresh_one_gives) {
  Hmac reused(HashKind::kSha256);
  // Same key, other key, a prefix of it, longer than the block, none, and back.
  const std::vector<std::string> keys = {
      "k", "k", "kk", std::string(64, 'x'), std::string(65, 'x'),
      "",  "",  "k",  std::string(65, 'x'), std::string(64, 'x')};
  for (const std::string& key : keys) {
    Hmac fresh(HashKind::kSha256);
    EXPECT_EQ(mac(reused, as_bytes(key), "message"), mac(fresh, as_bytes(key), "message"))
        << "key of " << key.size();
  }
  EXPECT_EQ(mac(reused, {}, ""),
            vectors::hex("b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad"));
}

TEST(StunIntegrity, both_attributes_and_a_fingerprint_verify_in_one_message) {
  Signed s;
  s.integrity.add_sha1(s.builder, kKey);
  s.integrity.add_sha256(s.builder, kKey);
  s.builder.add_fingerprint();
  const Message message = s.message();
  EXPECT_TRUE(s.integrity.verify_sha1(message, kKey));
  EXPECT_TRUE(s.integrity.verify_sha256(message, kKey));
  EXPECT_TRUE(s.integrity.verify(message, kKey));
}

TEST(StunIntegrity, when_both_are_there_the_sha256_one_decides) {
  Signed s;
  s.integrity.add_sha1(s.builder, kKey);
  s.builder.add(Attribute::kMessageIntegritySha256, Bytes(32, 1));
  EXPECT_TRUE(s.integrity.verify_sha1(s.message(), kKey));
  EXPECT_FALSE(s.integrity.verify(s.message(), kKey));
}

TEST(StunIntegrity, attributes_added_behind_it_do_not_break_it) {
  Signed s;
  s.integrity.add_sha1(s.builder, kKey);
  s.builder.add_u32(Attribute::kLifetime, 1);
  EXPECT_TRUE(s.integrity.verify(s.message(), kKey));
}

TEST(StunIntegrity, truncated_and_overlong_attributes_are_refused) {
  for (const size_t length : {0u, 12u, 16u, 19u, 20u, 24u, 28u, 31u, 33u, 36u}) {
    Signed right;
    right.integrity.add_sha256(right.builder, kKey);
    Bytes full(right.builder.bytes().end() - 32, right.builder.bytes().end());
    full.resize(length);
    Signed s;
    s.builder.add(Attribute::kMessageIntegritySha256, full);
    EXPECT_FALSE(s.integrity.verify(s.message(), kKey)) << length;
  }
  // A rightly computed truncation to 16 bytes too: TURN does not allow one.
  Signed s;
  Hmac hmac(HashKind::kSha256);
  std::array<uint8_t, 32> out{};
  hmac.compute(kKey, s.builder.cover(4 + 16), {}, out.data());
  s.builder.add(Attribute::kMessageIntegritySha256, std::span<const uint8_t>(out).first(16));
  EXPECT_FALSE(s.integrity.verify(s.message(), kKey));
}

TEST(StunIntegrity, without_attribute_or_key_nothing_verifies) {
  Signed s;
  EXPECT_FALSE(s.integrity.verify(s.message(), kKey));
  s.integrity.add_sha1(s.builder, {});
  EXPECT_FALSE(s.integrity.verify(s.message(), {}));
}

TEST(StunIntegrity, every_changed_bit_before_and_in_the_attribute_breaks_it) {
  Signed s;
  s.integrity.add_sha256(s.builder, kKey);
  const Bytes original(s.builder.bytes().begin(), s.builder.bytes().end());
  for (size_t bit = 0; bit < original.size() * 8; ++bit) {
    Bytes bytes = original;
    bytes[bit / 8] = static_cast<uint8_t>(bytes[bit / 8] ^ 1 << bit % 8);
    Message message;
    if (Message::parse(bytes, message) != ParseError::kNone) continue;
    EXPECT_FALSE(s.integrity.verify(message, kKey)) << "bit " << bit;
  }
}

TEST(StunIntegrity, a_builder_without_room_says_so) {
  std::array<uint8_t, 40> buffer{};
  Builder builder(buffer, Class::kRequest, stun::kAllocate, kId.data());
  add_integrity(builder, kKey);
  EXPECT_FALSE(builder.ok());
}

TEST(StunIntegrity, each_thread_has_its_own_contexts) {
  const StunIntegrity* other = nullptr;
  bool verified = false;
  std::thread thread([&] {
    other = &thread_integrity();
    Message message;
    const Bytes bytes = vectors::hex(vectors::kRequest);
    verified = Message::parse(bytes, message) == ParseError::kNone &&
               verify_integrity(message, as_bytes(vectors::kShortTermPassword));
  });
  const StunIntegrity* mine = &thread_integrity();
  thread.join();
  EXPECT_TRUE(verified);
  EXPECT_NE(mine, other);
}

}  // namespace
}  // namespace culvert::crypto
