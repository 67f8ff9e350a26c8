// SipHash-2-4 against the reference implementation's published outputs: key 00 01 .. 0f, message of
// n bytes 00 01 .. n-1.
#include "dataplane/base/siphash.h"

#include <gtest/gtest.h>

#include <array>

namespace culvert {
namespace {

constexpr SipKey kKey{0x0706050403020100u, 0x0f0e0d0c0b0a0908u};

constexpr std::array<uint64_t, 16> kPublished = {
    0x726fdb47dd0e0e31u, 0x74f839c593dc67fdu, 0x0d6c8009d9a94f5au, 0x85676696d7fb7e2du,
    0xcf2794e0277187b7u, 0x18765564cd99a68du, 0xcbc9466e58fee3ceu, 0xab0200f58b01d137u,
    0x93f5f5799a932462u, 0x9e0082df0ba9e4b0u, 0x7a5dbbc594ddb9f3u, 0xf4b32f46226bada7u,
    0x751e8fbc860ee5fbu, 0x14ea5627c0843d90u, 0xf723ca908e7af2eeu, 0xa129ca6149be45e5u};

TEST(SipHash, the_published_vectors_come_out) {
  std::array<uint8_t, 64> message;
  for (size_t i = 0; i < message.size(); ++i)
    message[i] = static_cast<uint8_t>(i);
  for (size_t n = 0; n < kPublished.size(); ++n)
    EXPECT_EQ(siphash24(kKey, message.data(), n), kPublished[n]) << n << " bytes";
  EXPECT_EQ(siphash24(kKey, message.data(), 63), 0x958a324ceb064572u);
}

TEST(SipHash, alignment_does_not_matter) {
  std::array<uint8_t, 64> message;
  for (size_t i = 0; i < message.size(); ++i)
    message[i] = static_cast<uint8_t>(i * 7);
  for (size_t shift = 1; shift < 8; ++shift) {
    std::array<uint8_t, 80> moved{};
    std::copy(message.begin(), message.end(), moved.begin() + static_cast<ptrdiff_t>(shift));
    EXPECT_EQ(siphash24(kKey, &moved[shift], 61), siphash24(kKey, message.data(), 61));
  }
}

TEST(SipHash, both_halves_of_the_key_and_the_length_count) {
  const std::array<uint8_t, 16> zeros{};
  const uint64_t base = siphash24(kKey, zeros.data(), 16);
  EXPECT_NE(siphash24({kKey.k0 ^ 1, kKey.k1}, zeros.data(), 16), base);
  EXPECT_NE(siphash24({kKey.k0, kKey.k1 ^ 1}, zeros.data(), 16), base);
  EXPECT_NE(siphash24(kKey, zeros.data(), 15), base);
}

}  // namespace
}  // namespace culvert
