// The ones' complement arithmetic every written packet depends on, checked against the definition
// of RFC 1071 computed word by word in big-endian order.
#include "dataplane/wire/checksum.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace culvert::checksum {
namespace {

// The definition, one byte pair at a time.
uint16_t reference(const std::vector<uint8_t>& bytes) {
  uint32_t total = 0;
  for (size_t i = 0; i < bytes.size(); i += 2) {
    const uint32_t low = i + 1 < bytes.size() ? bytes[i + 1] : 0u;
    total += static_cast<uint32_t>(bytes[i] << 8) + low;
    total = (total & 0xffff) + (total >> 16);
  }
  return static_cast<uint16_t>(~total);
}

uint16_t big_endian(uint16_t wire) {
  return wire_word(wire);
}

TEST(Checksum, the_example_of_rfc_1071_section_3_sums_to_ddf2) {
  const std::vector<uint8_t> bytes = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
  EXPECT_EQ(big_endian(full(bytes)), 0xffff - 0xddf2);
}

TEST(Checksum, every_length_and_alignment_agrees_with_the_definition) {
  const uint32_t seed = 20656;
  std::mt19937 random(seed);
  SCOPED_TRACE(seed);
  for (size_t length = 0; length <= 300; ++length) {
    for (size_t shift = 0; shift < 8; ++shift) {
      std::vector<uint8_t> buffer(length + shift);
      for (auto& b : buffer)
        b = static_cast<uint8_t>(random());
      const std::vector<uint8_t> bytes(buffer.begin() + static_cast<long>(shift), buffer.end());
      ASSERT_EQ(big_endian(full({buffer.data() + shift, length})), reference(bytes)) << length;
    }
  }
}

TEST(Checksum, a_long_run_of_ones_does_not_overflow) {
  const std::vector<uint8_t> bytes(65536, 0xff);
  EXPECT_EQ(full(bytes), 0);
}

// Every old value with a spread of new ones, and the reverse: 65536 * 259 * 2 updates.
TEST(Checksum, an_incremental_update_of_a_16_bit_field_equals_the_full_computation) {
  std::vector<uint16_t> spread = {0, 1, 0xfffe, 0xffff};
  for (uint32_t v = 0x0101; v < 0xffff; v += 0x0101)
    spread.push_back(static_cast<uint16_t>(v));
  // The rest of the header: a word that is never zero, as the version field of IP is.
  for (const uint16_t rest : {uint16_t{0x4500}, uint16_t{0xffff}, uint16_t{0x0001}}) {
    for (uint32_t v = 0; v <= 0xffff; ++v) {
      const auto exhaustive = static_cast<uint16_t>(v);
      for (const uint16_t other : spread) {
        const auto before = static_cast<uint16_t>(~fold(uint64_t{rest} + exhaustive));
        const auto after = static_cast<uint16_t>(~fold(uint64_t{rest} + other));
        ASSERT_EQ(update(before, exhaustive, other), after) << rest << " " << v << " " << other;
        ASSERT_EQ(update(after, other, exhaustive), before) << rest << " " << v << " " << other;
      }
    }
  }
}

TEST(Checksum, an_incremental_update_of_a_32_bit_field_equals_the_full_computation) {
  const uint32_t seed = 1624;
  std::mt19937 random(seed);
  for (int i = 0; i < 1000000; ++i) {
    const uint32_t from = static_cast<uint32_t>(random());
    const uint32_t to = i % 7 == 0    ? 0u
                        : i % 11 == 0 ? 0xffffffffu
                                      : static_cast<uint32_t>(random());
    const uint16_t rest = static_cast<uint16_t>(random() | 1);
    const auto before = static_cast<uint16_t>(~fold(uint64_t{rest} + from));
    const auto after = static_cast<uint16_t>(~fold(uint64_t{rest} + to));
    ASSERT_EQ(update(before, from, to), after) << "seed " << seed << " step " << i;
  }
}

TEST(Checksum, the_case_that_rfc_1624_was_written_for_gives_zero_and_not_minus_zero) {
  // Section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285; equation 3 gives 0x0000, RFC 1141's gives
  // 0xFFFF.
  EXPECT_EQ(update(uint16_t{0xDD2F}, uint16_t{0x5555}, uint16_t{0x3285}), 0x0000);
}

TEST(Checksum, a_piece_at_an_odd_offset_counts_with_swapped_bytes) {
  const std::vector<uint8_t> bytes = {0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde};
  const uint64_t split =
      sum(bytes.data(), 3) + at_odd_offset(fold(sum(bytes.data() + 3, bytes.size() - 3)));
  EXPECT_EQ(fold(split), fold(sum(bytes.data(), bytes.size())));
}

TEST(Checksum, the_pseudo_headers_equal_the_bytes_the_rfcs_draw) {
  const std::vector<uint8_t> v4 = {192, 0, 2, 1, 198, 51, 100, 7, 0, 17, 0x12, 0x34};
  EXPECT_EQ(fold(pseudo_v4(&v4[0], &v4[4], 17, 0x1234)), fold(sum(v4.data(), v4.size())));
  std::vector<uint8_t> v6(40);
  for (size_t i = 0; i < 32; ++i)
    v6[i] = static_cast<uint8_t>(0x20 + 7 * i);
  v6[34] = 0x12;
  v6[35] = 0x34;
  v6[39] = 17;
  EXPECT_EQ(fold(pseudo_v6(&v6[0], &v6[16], 17, 0x1234)), fold(sum(v6.data(), v6.size())));
}

TEST(Checksum, a_computed_udp_checksum_of_zero_is_sent_as_ffff) {
  EXPECT_EQ(udp_field(0xffff), 0xffff);
  EXPECT_EQ(udp_field(0xfffe), 0x0001);
  EXPECT_EQ(udp_field(0), 0xffff);
}

}  // namespace
}  // namespace culvert::checksum
