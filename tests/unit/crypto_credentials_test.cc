// Names, passwords and keys; bytes, base64 and random numbers.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "crypto/bytes.h"
#include "crypto/credentials.h"
#include "crypto/random.h"
#include "tests/vectors/stun_vectors.h"

namespace culvert::crypto {
namespace {

using Bytes = std::vector<uint8_t>;

template <size_t N>
[[nodiscard]] Bytes vec(const std::array<uint8_t, N>& a) {
  return {a.begin(), a.end()};
}

TEST(OpaqueString, the_examples_of_rfc_8265_come_out) {
  EXPECT_EQ(opaque_string("correct horse battery staple"), "correct horse battery staple");
  EXPECT_EQ(opaque_string("Correct Horse Battery Staple"), "Correct Horse Battery Staple");
  EXPECT_EQ(opaque_string("\u03c0\u00df\u00e5"), "\u03c0\u00df\u00e5");
  EXPECT_EQ(opaque_string("Jack of \u2666s"), "Jack of \u2666s");
  EXPECT_EQ(opaque_string("foo\u1680bar"), "foo bar");  // OGHAM SPACE MARK
  EXPECT_EQ(opaque_string(""), std::nullopt);
  EXPECT_EQ(opaque_string("my cat is a \u0009by"), std::nullopt);
}

TEST(OpaqueString, it_is_composed_and_keeps_case_and_compatibility_characters) {
  EXPECT_EQ(opaque_string("cafe\u0301"), "caf\u00e9");
  EXPECT_EQ(opaque_string("\u212b"), "\u00c5");              // ANGSTROM SIGN is A WITH RING
  EXPECT_EQ(opaque_string("\u2168\u00aa"), "\u2168\u00aa");  // NFC, not NFKC
  EXPECT_EQ(opaque_string("\u1112\u1161\u11ab"), "\ud55c");  // jamo that compose are fine
  EXPECT_EQ(opaque_string("a\u00a0b\u3000c"), "a b c");
  EXPECT_EQ(opaque_string(vectors::kLongTermUser), vectors::kLongTermUser);
}

TEST(OpaqueString, what_freeform_class_disallows_is_refused) {
  for (const char* text :
       {"a\u007f", "a\u0085", "a\u00ad", "a\u200b", "a\u2028", "a\ue000", "a\u0378", "\ufdd0",
        "a\ufeff", "\u1100", "\u0640", "a\u200d", "x\u00b7y", "\u0661\u06f1", "a\u30fb"})
    EXPECT_EQ(opaque_string(text), std::nullopt) << text;
  EXPECT_TRUE(opaque_string("l\u00b7l"));
  EXPECT_TRUE(opaque_string("\u0915\u094d\u200d\u0937"));  // joiner behind a virama
  EXPECT_TRUE(opaque_string("\u30a2\u30fb\u30a2"));
  EXPECT_EQ(opaque_string(std::string_view("a\0b", 3)), std::nullopt);
}

TEST(OpaqueString, bytes_that_are_not_utf8_are_refused) {
  for (const char* text :
       {"\xff", "\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "a\x80", "\xe3\x83"})
    EXPECT_EQ(opaque_string(text), std::nullopt);
}

TEST(OpaqueString, it_is_idempotent_on_random_text) {
  const uint64_t seed = Random().u64();
  Random random(seed);
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (uint32_t n = 1 + random.below(6); n > 0; --n) {
      const uint32_t c = 0x80 + random.below(0x1780);
      if (c < 0x800) {
        text += static_cast<char>(0xc0 | c >> 6);
      } else {
        text += static_cast<char>(0xe0 | c >> 12);
        text += static_cast<char>(0x80 | (c >> 6 & 63));
      }
      text += static_cast<char>(0x80 | (c & 63));
    }
    const auto once = opaque_string(text);
    if (!once) continue;
    ++accepted;
    ASSERT_EQ(opaque_string(*once), once) << "seed " << seed << " text " << text;
  }
  EXPECT_GT(accepted, 1000) << "seed " << seed;
}

TEST(Credentials, long_term_keys_and_the_userhash_are_those_of_the_rfcs) {
  // RFC 8489 section 9.2.2: user "user", realm "realm", password "pass".
  EXPECT_EQ(vec(md5_key("user", "realm", "pass")),
            vectors::hex("8493fbc53ba582fb4c044c456bdc40eb"));
  EXPECT_EQ(vec(userhash(vectors::kLongTermUser, vectors::kLongTermRealm)),
            vectors::hex("4a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704"));
  require_digests();
}

TEST(RestCredentials, the_password_is_the_base64_of_the_hmac) {
  // Computed with `printf 1700000000:alice | openssl dgst -sha1 -hmac north -binary | base64`.
  EXPECT_EQ(rest_password("north", "1700000000:alice", false), "Cd/49soE35ICqcJF/bCTn8Z4OyE=");
  EXPECT_EQ(rest_password("north", "1700000000:alice", true),
            "EuME0Xh0HllnbpbObfs8aBsd78Vr1EMwxArqbyCrGl8=");
}

TEST(RestCredentials, what_is_minted_is_among_the_candidates_of_its_secret_and_hash) {
  const std::vector<std::string> secrets = {"new", "old"};
  for (size_t i = 0; i < secrets.size(); ++i) {
    for (const HashKind hash : {HashKind::kSha1, HashKind::kSha256}) {
      const MintedCredential minted = mint_rest(secrets[i], 1800000000, "bob", hash);
      EXPECT_EQ(minted.username, "1800000000:bob");
      const auto candidates = rest_candidates(secrets, minted.username);
      ASSERT_EQ(candidates.size(), 4u);
      EXPECT_EQ(std::count_if(candidates.begin(), candidates.end(),
                              [&](const RestCandidate& c) {
                                return c.password == minted.password && c.secret == i &&
                                       c.hash == hash;
                              }),
                1);
    }
  }
  EXPECT_EQ(mint_rest("s", 5, "").username, "5");
  EXPECT_EQ(mint_rest("s", 5, "x", HashKind::kSha1, '|').username, "5|x");
}

TEST(RestCredentials, usernames_are_read_or_refused) {
  const auto full = parse_rest_username("1700000000:al:ice");
  ASSERT_TRUE(full);
  EXPECT_EQ(full->expiry_unix_seconds, 1700000000u);
  EXPECT_EQ(full->id, "al:ice");
  EXPECT_TRUE(parse_rest_username("12") && parse_rest_username("12")->id.empty());
  EXPECT_TRUE(parse_rest_username("9223372036854775807"));
  for (const char* text : {"", ":", ":a", "alice", "-1:a", "+1:a", " 1:a", "1 :a", "0x10", "12a",
                           "9223372036854775808", "99999999999999999999999:a"})
    EXPECT_FALSE(parse_rest_username(text)) << text;
}

TEST(Base64, the_vectors_of_rfc_4648_come_out_both_ways) {
  const std::vector<std::pair<std::string, std::string>> pairs = {{"", ""},
                                                                  {"f", "Zg=="},
                                                                  {"fo", "Zm8="},
                                                                  {"foo", "Zm9v"},
                                                                  {"foob", "Zm9vYg=="},
                                                                  {"fooba", "Zm9vYmE="},
                                                                  {"foobar", "Zm9vYmFy"}};
  for (const auto& [plain, encoded] : pairs) {
    EXPECT_EQ(base64_encode(as_bytes(plain)), encoded);
    const auto decoded = base64_decode(encoded);
    ASSERT_TRUE(decoded);
    EXPECT_EQ(std::string(decoded->begin(), decoded->end()), plain);
  }
}

TEST(Base64, other_spellings_are_refused) {
  for (const char* text : {"Z", "Zg", "Zg=", "Zh==", "Zm9=", "Z===", "====", "=Zg=", "Zg==Zg==",
                           "Zm 8", "Zm8-", "Zm8_", "Zm8\n"})
    EXPECT_FALSE(base64_decode(text)) << text;
}

TEST(Bytes, comparison_needs_equal_size_and_content) {
  EXPECT_TRUE(constant_time_equal({}, {}));
  EXPECT_TRUE(constant_time_equal(as_bytes("abc"), as_bytes("abc")));
  EXPECT_FALSE(constant_time_equal(as_bytes("abc"), as_bytes("abd")));
  EXPECT_FALSE(constant_time_equal(as_bytes("abc"), as_bytes("ab")));
}

TEST(Bytes, a_secret_moves_copies_on_demand_and_is_wiped) {
  Secret first("hunter2");
  Secret second = std::move(first);
  EXPECT_EQ(second.text(), "hunter2");
  const Secret third = second.copy();
  second = Secret("other");
  EXPECT_EQ(third.text(), "hunter2");
  EXPECT_EQ(second.text(), "other");
  std::array<uint8_t, 8> plain = {1, 2, 3, 4, 5, 6, 7, 8};
  wipe(plain.data(), plain.size());
  EXPECT_EQ(plain, (std::array<uint8_t, 8>{}));
}

TEST(Random, a_seed_repeats_itself_and_another_does_not) {
  Random a(1);
  Random b(1);
  Random c(2);
  std::array<uint8_t, 700> x{};
  std::array<uint8_t, 700> y{};
  std::array<uint8_t, 700> z{};
  a.fill(x);
  // In pieces that cross the buffer's end: the sequence is one of bytes.
  for (size_t at = 0; at < y.size(); at += 35)
    b.fill(std::span(y).subspan(at, 35));
  c.fill(z);
  EXPECT_EQ(x, y);
  EXPECT_NE(x, z);
}

TEST(Random, the_kernel_s_numbers_differ) {
  Random a;
  Random b;
  EXPECT_NE(a.u64(), b.u64());
  EXPECT_NE(a.u64(), a.u64());
}

TEST(Random, a_bounded_draw_reaches_everything_evenly) {
  Random random(42);
  constexpr uint32_t kBound = 10;
  constexpr int kDraws = 100000;
  std::array<int, kBound> seen{};
  for (int i = 0; i < kDraws; ++i)
    ++seen[random.below(kBound)];
  // Expected 10000 with a deviation of 95: six of them either way.
  for (const int count : seen)
    EXPECT_NEAR(count, kDraws / static_cast<int>(kBound), 570);
  // With modulo, bound 3 * 2^30 would give the low third twice as often as each of the others.
  int low = 0;
  for (int i = 0; i < kDraws; ++i)
    low += random.below(3u << 30) < (1u << 30) ? 1 : 0;
  EXPECT_NEAR(low, kDraws / 3, 900);
  EXPECT_EQ(random.below(1), 0u);
}

}  // namespace
}  // namespace culvert::crypto
