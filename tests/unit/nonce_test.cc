// The stateless nonce: whose it is, how old it may be, and that no character of it may change.
#include "dataplane/api/nonce.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace culvert {
namespace {

constexpr uint32_t kLifetime = 600;
constexpr uint32_t kFeatures = kFeaturePasswordAlgorithms | kFeatureUsernameAnonymity;
constexpr uint16_t kRealm = 3;

[[nodiscard]] NonceKeys keys_at(uint32_t seconds) {
  NonceKeys keys;
  keys.key[0] = {0x1111, 0x2222};
  keys.key[1] = {0x3333, 0x4444};
  keys.now_seconds = seconds;
  return keys;
}
[[nodiscard]] std::span<const uint8_t> bytes(const Nonce& nonce) {
  return {reinterpret_cast<const uint8_t*>(nonce.data()), nonce.size()};
}
[[nodiscard]] TransportAddress client(const char* text = "192.0.2.7:40000") {
  return *TransportAddress::parse(text);
}
[[nodiscard]] NonceState state(const NonceKeys& keys, const Nonce& nonce,
                               const TransportAddress& from = client(), uint16_t realm = kRealm) {
  return check_nonce(keys, realm, from, bytes(nonce), kLifetime).state;
}

TEST(Nonce, it_is_valid_for_the_client_it_was_made_for_and_keeps_its_features) {
  const NonceKeys keys = keys_at(1000);
  for (const uint32_t features : {0u, kFeaturePasswordAlgorithms, kFeatures, 1u, 0xffffffu}) {
    const Nonce nonce = make_nonce(keys, kRealm, features, client());
    const NonceCheck check = check_nonce(keys, kRealm, client(), bytes(nonce), kLifetime);
    EXPECT_EQ(check.state, NonceState::kValid);
    EXPECT_EQ(check.features, features);
  }
}

TEST(Nonce, it_begins_with_the_cookie_and_the_feature_bits_of_rfc_8489) {
  const auto start = [](uint32_t features) {
    const Nonce nonce = make_nonce(keys_at(1), kRealm, features, client());
    return std::string(nonce.data(), 13);
  };
  EXPECT_EQ(start(0), "obMatJos2AAAA");
  EXPECT_EQ(start(kFeaturePasswordAlgorithms), "obMatJos2gAAA");  // bit 0 is the highest of the 24
  EXPECT_EQ(start(kFeatures), "obMatJos2wAAA");
  EXPECT_LT(kNonceLength, 128u);
}

TEST(Nonce, another_address_port_family_or_realm_does_not_get_by_with_it) {
  const NonceKeys keys = keys_at(1000);
  const Nonce nonce = make_nonce(keys, kRealm, kFeatures, client());
  EXPECT_EQ(state(keys, nonce, client("192.0.2.7:40001")), NonceState::kForeign);
  EXPECT_EQ(state(keys, nonce, client("192.0.2.8:40000")), NonceState::kForeign);
  EXPECT_EQ(state(keys, nonce, client("[::ffff:192.0.2.7]:40000")), NonceState::kForeign);
  EXPECT_EQ(state(keys, nonce, client(), kRealm + 1), NonceState::kForeign);
  EXPECT_NE(nonce, make_nonce(keys, kRealm, kFeatures, client("192.0.2.7:40001")));
}

TEST(Nonce, a_feature_bit_cannot_be_cleared_on_the_way) {
  const NonceKeys keys = keys_at(1000);
  Nonce nonce = make_nonce(keys, kRealm, kFeaturePasswordAlgorithms, client());
  nonce[9] = 'A';  // as if algorithms had never been offered: bidding down
  EXPECT_EQ(state(keys, nonce), NonceState::kForeign);
}

TEST(Nonce, it_goes_stale_after_its_lifetime_and_not_before) {
  const Nonce nonce = make_nonce(keys_at(1000), kRealm, kFeatures, client());
  EXPECT_EQ(state(keys_at(1000 + kLifetime), nonce), NonceState::kValid);
  const NonceCheck old =
      check_nonce(keys_at(1001 + kLifetime), kRealm, client(), bytes(nonce), kLifetime);
  EXPECT_EQ(old.state, NonceState::kStale);
  EXPECT_EQ(old.features, kFeatures);
}

TEST(Nonce, it_outlives_one_rotation_of_the_keys_and_not_two) {
  NonceKeys keys = keys_at(1000);
  const Nonce nonce = make_nonce(keys, kRealm, kFeatures, client());
  keys.current = 1;
  keys.key[1] = {0x5555, 0x6666};
  EXPECT_EQ(state(keys, nonce), NonceState::kValid);
  EXPECT_EQ(state(keys, make_nonce(keys, kRealm, kFeatures, client())), NonceState::kValid);
  keys.current = 2;
  keys.key[0] = {0x7777, 0x8888};
  EXPECT_EQ(state(keys, nonce), NonceState::kForeign);
}

TEST(Nonce, no_character_of_it_may_be_another) {
  const NonceKeys keys = keys_at(1000);
  const Nonce nonce = make_nonce(keys, kRealm, kFeatures, client());
  for (size_t at = 0; at < nonce.size(); ++at) {
    for (int c = 0; c < 256; ++c) {
      Nonce changed = nonce;
      changed[at] = static_cast<char>(c);
      if (changed == nonce) continue;
      EXPECT_EQ(state(keys, changed), NonceState::kForeign) << "character " << at << " = " << c;
    }
  }
}

TEST(Nonce, shorter_and_longer_text_is_foreign) {
  const NonceKeys keys = keys_at(1000);
  const Nonce nonce = make_nonce(keys, kRealm, kFeatures, client());
  std::vector<uint8_t> text(bytes(nonce).begin(), bytes(nonce).end());
  text.push_back('A');
  for (size_t length = 0; length <= text.size(); ++length) {
    // A copy of exactly this length, so that a read behind it is seen by the sanitizer.
    const std::vector<uint8_t> cut(text.begin(), text.begin() + static_cast<ptrdiff_t>(length));
    const auto expected = length == kNonceLength ? NonceState::kValid : NonceState::kForeign;
    EXPECT_EQ(check_nonce(keys, kRealm, client(), cut, kLifetime).state, expected) << length;
  }
}

TEST(Nonce, an_ipv6_client_has_one_of_its_own) {
  const NonceKeys keys = keys_at(5);
  const Nonce nonce = make_nonce(keys, kRealm, kFeatures, client("[2001:db8::1]:9"));
  EXPECT_EQ(state(keys, nonce, client("[2001:db8::1]:9")), NonceState::kValid);
  EXPECT_EQ(state(keys, nonce, client("[2001:db8::2]:9")), NonceState::kForeign);
}

}  // namespace
}  // namespace culvert
