// Reassembly, rule by rule: what RFC 791, RFC 8200 section 4.5, RFC 5722 and RFC 3168 section 5.3
// ask, the shares of the table, and the frames of fragments byte for byte.
#include "dataplane/wire/reassembly.h"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

namespace culvert {
namespace {

using Bytes = std::vector<uint8_t>;
using Result = Reassembler::Result;

IpAddress ip(const std::string& text) {
  return IpAddress::parse(text).value();
}

// A UDP datagram without a checksum, whose byte at n is n + its start modulo 251.
Bytes datagram(size_t size, uint8_t start = 0) {
  Bytes out(size);
  for (size_t i = 0; i < size; ++i)
    out[i] = static_cast<uint8_t>((i + start) % 251);
  store_be16(&out[0], 4000);
  store_be16(&out[2], 3478);
  store_be16(&out[4], static_cast<uint16_t>(size));
  store_be16(&out[6], 0);
  return out;
}

struct Sender {
  IpAddress source = ip("203.0.113.10");
  IpAddress destination = ip("192.0.2.1");
  uint32_t identification = 7;
  uint8_t tos = 0;
  uint8_t ttl = 64;

  [[nodiscard]] frame::Fragment cut(const Bytes& whole, uint32_t offset, size_t length) const {
    frame::Fragment f;
    f.source = source;
    f.destination = destination;
    f.identification = identification;
    f.offset = offset;
    f.more = offset + length < whole.size();
    f.protocol = frame::kProtocolUdp;
    f.ttl = ttl;
    f.tos = tos;
    f.headers = source.is_v4() ? 20 : 0;
    f.data = std::span(whole).subspan(offset, length);
    return f;
  }
};

class ReassemblyTest : public ::testing::Test {
 protected:
  [[nodiscard]] Result take(const frame::Fragment& f) { return table.take(f, now, handle); }
  [[nodiscard]] Bytes payload(frame::Parsed& parsed) {
    EXPECT_EQ(table.parse(handle, frame::Verify::kAll, parsed), frame::Kind::k_udp);
    return {parsed.payload, parsed.payload + parsed.length};
  }

  Reassembler table{SipKey{1, 2}};
  Sender sender;
  Ticks now = 5000;
  Reassembler::Handle handle = 0;
};

TEST_F(ReassemblyTest, two_fragments_make_the_datagram_in_either_order) {
  const Bytes whole = datagram(1600);
  const Bytes body(whole.begin() + 8, whole.end());
  for (const bool backwards : {false, true}) {
    const auto first = sender.cut(whole, 0, 1480);
    const auto last = sender.cut(whole, 1480, 120);
    EXPECT_EQ(take(backwards ? last : first), Result::kHeld);
    EXPECT_EQ(table.under_way(), 1u);
    ASSERT_EQ(take(backwards ? first : last), Result::kComplete);
    EXPECT_EQ(table.under_way(), 0u);
    frame::Parsed parsed;
    EXPECT_EQ(payload(parsed), body);
    EXPECT_EQ(parsed.source.to_string(), "203.0.113.10:4000");
    EXPECT_EQ(parsed.destination.to_string(), "192.0.2.1:3478");
    EXPECT_FALSE(parsed.dont_fragment);
    table.release(handle);
  }
}

TEST_F(ReassemblyTest, the_longest_datagram_in_the_shortest_frames_of_ipv6_is_put_together) {
  sender.source = ip("2001:db8::10");
  sender.destination = ip("2001:db8::1");
  Bytes whole = datagram(65535);
  const uint64_t pseudo = checksum::pseudo_v6(sender.source.wire(), sender.destination.wire(),
                                              frame::kProtocolUdp, 65535);
  checksum::store_word(&whole[6],
                       checksum::udp_field(checksum::sum(whole.data(), whole.size(), pseudo)));
  uint32_t at = 0;
  for (; at + 1232 < whole.size(); at += 1232)
    ASSERT_EQ(take(sender.cut(whole, at, 1232)), Result::kHeld) << at;
  ASSERT_EQ(take(sender.cut(whole, at, whole.size() - at)), Result::kComplete);
  frame::Parsed parsed;
  EXPECT_EQ(payload(parsed), Bytes(whole.begin() + 8, whole.end()));
  EXPECT_TRUE(parsed.sum_known);
}

TEST_F(ReassemblyTest, a_header_field_is_the_first_fragments) {
  const Bytes whole = datagram(600);
  Sender other = sender;
  other.ttl = 3;
  other.tos = 0xb8;
  ASSERT_EQ(take(other.cut(whole, 400, 200)), Result::kHeld);
  sender.tos = 0x28;
  ASSERT_EQ(take(sender.cut(whole, 0, 400)), Result::kComplete);
  frame::Parsed parsed;
  (void)payload(parsed);
  EXPECT_EQ(parsed.ttl, 64);
  EXPECT_EQ(parsed.tos, 0x28);
}

TEST_F(ReassemblyTest, congestion_marked_on_any_fragment_is_kept) {
  const Bytes whole = datagram(600);
  sender.tos = 2;
  ASSERT_EQ(take(sender.cut(whole, 0, 400)), Result::kHeld);
  sender.tos = 3;
  ASSERT_EQ(take(sender.cut(whole, 400, 200)), Result::kComplete);
  frame::Parsed parsed;
  (void)payload(parsed);
  EXPECT_EQ(parsed.tos, 3);
  // It must not be set on what is not ECN-capable: then the datagram is dropped.
  sender.identification = 8;
  ASSERT_EQ(take(sender.cut(whole, 0, 400)), Result::kHeld);
  sender.tos = 0;
  EXPECT_EQ(take(sender.cut(whole, 400, 200)), Result::kEcn);
  EXPECT_EQ(table.under_way(), 0u);
}

TEST_F(ReassemblyTest, an_exact_copy_is_ignored_and_any_other_overlap_ends_the_datagram) {
  const Bytes whole = datagram(1600);
  const Bytes forged = datagram(1600, 1);
  ASSERT_EQ(take(sender.cut(whole, 512, 512)), Result::kHeld);
  EXPECT_EQ(take(sender.cut(whole, 512, 512)), Result::kDuplicate);
  ASSERT_EQ(take(sender.cut(whole, 0, 512)), Result::kHeld);
  ASSERT_EQ(take(sender.cut(whole, 1024, 576)), Result::kComplete);
  table.release(handle);

  struct Case {
    uint32_t offset;
    size_t length;
    const Bytes& of;
  };
  // Other bytes at the same place; one byte group from below, from above; inside; around.
  for (const Case& c : {Case{512, 512, forged}, Case{256, 264, whole}, Case{1016, 256, whole},
                        Case{600, 256, whole}, Case{256, 1024, whole}}) {
    ++sender.identification;
    ASSERT_EQ(take(sender.cut(whole, 512, 512)), Result::kHeld);
    EXPECT_EQ(take(sender.cut(c.of, c.offset, c.length)), Result::kOverlap) << c.offset;
    // Nothing more of it is taken, until its time is over.
    EXPECT_EQ(take(sender.cut(whole, 0, 512)), Result::kOverlap);
    EXPECT_EQ(take(sender.cut(whole, 512, 512)), Result::kOverlap);
    EXPECT_EQ(take(sender.cut(whole, 1024, 576)), Result::kOverlap);
  }
  now += kReassemblyLifetimeMs;
  EXPECT_EQ(take(sender.cut(whole, 0, 512)), Result::kHeld);
}

TEST_F(ReassemblyTest, two_ends_or_bytes_beyond_the_end_are_an_overlap) {
  const Bytes whole = datagram(1600);
  const Bytes shorter = datagram(1200);
  ASSERT_EQ(take(sender.cut(whole, 1024, 576)), Result::kHeld);
  EXPECT_EQ(take(sender.cut(shorter, 512, 688)), Result::kOverlap);
  ++sender.identification;
  ASSERT_EQ(take(sender.cut(shorter, 512, 688)), Result::kHeld);
  EXPECT_EQ(take(sender.cut(whole, 1200, 256)), Result::kOverlap);
  ++sender.identification;
  ASSERT_EQ(take(sender.cut(whole, 1024, 512)), Result::kHeld);
  EXPECT_EQ(take(sender.cut(shorter, 512, 400)), Result::kHeld);
  frame::Fragment early = sender.cut(shorter, 0, 256);
  early.more = false;
  EXPECT_EQ(take(early), Result::kOverlap);
}

TEST_F(ReassemblyTest, what_no_honest_host_sends_is_refused) {
  const Bytes whole = datagram(1600);
  frame::Fragment f = sender.cut(whole, 0, 0);
  EXPECT_EQ(take(f), Result::kMalformed);
  EXPECT_EQ(take(sender.cut(whole, 0, 260)), Result::kMalformed);
  EXPECT_EQ(take(sender.cut(whole, 0, 8)), Result::kTiny);
  EXPECT_EQ(take(sender.cut(whole, 512, kMinFragmentBytes - 8)), Result::kTiny);
  f = sender.cut(whole, 0, 512);
  f.offset = 65528;
  f.more = false;
  EXPECT_EQ(take(f), Result::kMalformed);
  f = sender.cut(whole, 0, 512);
  f.protocol = frame::kProtocolIcmp;
  EXPECT_EQ(take(f), Result::kNotUdp);
  EXPECT_EQ(table.under_way(), 0u);
  // With the header it would be one byte too long.
  const Bytes long_one = datagram(65535 - 20 + 1);
  EXPECT_EQ(take(sender.cut(long_one, 65280, long_one.size() - 65280)), Result::kMalformed);
  EXPECT_EQ(table.under_way(), 0u);
}

TEST_F(ReassemblyTest, more_fragments_than_a_datagram_needs_end_it) {
  const Bytes whole = datagram(65000);
  for (uint32_t i = 0; i < kMaxFragments; ++i)
    ASSERT_EQ(take(sender.cut(whole, i * 512, 256)), Result::kHeld);
  EXPECT_EQ(take(sender.cut(whole, 256, 256)), Result::kTooMany);
  EXPECT_EQ(take(sender.cut(whole, 768, 256)), Result::kOverlap);
}

TEST_F(ReassemblyTest, an_incomplete_datagram_is_given_up_when_its_time_is_over) {
  const Bytes whole = datagram(1600);
  ASSERT_EQ(take(sender.cut(whole, 0, 512)), Result::kHeld);
  now += kReassemblyLifetimeMs - 1;
  table.expire(now);
  EXPECT_EQ(table.under_way(), 1u);
  EXPECT_FALSE(table.idle());
  now += 1;
  table.expire(now);
  EXPECT_TRUE(table.idle());
  EXPECT_EQ(table.given_up().timeout, 1u);
  EXPECT_EQ(table.given_up().timeout, 0u);
  EXPECT_EQ(take(sender.cut(whole, 512, 1088)), Result::kHeld) << "the first half is gone";
}

TEST_F(ReassemblyTest, datagrams_are_told_apart_by_source_destination_and_identification) {
  const Bytes whole = datagram(1600);
  ASSERT_EQ(take(sender.cut(whole, 0, 512)), Result::kHeld);
  Sender other = sender;
  other.identification = 8;
  EXPECT_EQ(take(other.cut(whole, 512, 1088)), Result::kHeld);
  other = sender;
  other.source = ip("203.0.113.11");
  EXPECT_EQ(take(other.cut(whole, 512, 1088)), Result::kHeld);
  other = sender;
  other.destination = ip("192.0.2.2");
  EXPECT_EQ(take(other.cut(whole, 512, 1088)), Result::kHeld);
  other = sender;  // the same bytes, but another family
  other.source.family = other.destination.family = Family::kIpv6;
  EXPECT_EQ(take(other.cut(whole, 512, 1088)), Result::kHeld);
  EXPECT_EQ(take(sender.cut(whole, 512, 1088)), Result::kComplete);
}

TEST_F(ReassemblyTest, one_prefix_has_its_share_and_its_oldest_goes_first) {
  const Bytes whole = datagram(1600);
  Sender honest;
  honest.source = ip("198.51.100.1");
  ASSERT_EQ(take(honest.cut(whole, 0, 512)), Result::kHeld);
  for (uint32_t i = 0; i < 10 * kMaxReassembliesPerPrefix; ++i) {
    sender.identification = i;
    sender.source = ip("203.0.113." + std::to_string(i % 256));
    ++now;
    ASSERT_EQ(take(sender.cut(whole, 0, 512)), Result::kHeld);
    ASSERT_LE(table.under_way(), kMaxReassembliesPerPrefix + 1);
  }
  const auto given_up = table.given_up();
  EXPECT_EQ(given_up.prefix_full, 9 * kMaxReassembliesPerPrefix);
  EXPECT_EQ(given_up.table_full, 0u);
  EXPECT_EQ(take(honest.cut(whole, 512, 1088)), Result::kComplete);
  EXPECT_EQ(take(sender.cut(whole, 512, 1088)), Result::kComplete) << "the newest is there";
}

TEST_F(ReassemblyTest, a_full_table_gives_up_its_oldest) {
  const Bytes whole = datagram(1600);
  const auto host = [](uint32_t i) { return IpAddress::v4(0x0a000001u + (i << 8)); };
  for (uint32_t i = 0; i < kMaxReassemblies; ++i) {
    sender.source = host(i);
    now += i % 2;
    ASSERT_EQ(take(sender.cut(whole, 0, 512)), Result::kHeld);
  }
  EXPECT_EQ(table.under_way(), kMaxReassemblies);
  ++now;
  sender.source = host(kMaxReassemblies);
  ASSERT_EQ(take(sender.cut(whole, 0, 512)), Result::kHeld);
  EXPECT_EQ(table.under_way(), kMaxReassemblies);
  EXPECT_EQ(table.given_up().table_full, 1u);
  EXPECT_EQ(take(sender.cut(whole, 512, 1088)), Result::kComplete);
  sender.source = host(5);
  EXPECT_EQ(take(sender.cut(whole, 512, 1088)), Result::kComplete);
  sender.source = host(0);
  EXPECT_EQ(take(sender.cut(whole, 512, 1088)), Result::kHeld) << "the oldest went";
}

TEST_F(ReassemblyTest, complete_datagrams_keep_their_places_until_released) {
  const Bytes whole = datagram(600);
  std::vector<Reassembler::Handle> handles;
  for (uint32_t i = 0; i < kMaxReassemblies; ++i) {
    sender.source = IpAddress::v4(0x0a000001u + (i << 8));
    ASSERT_EQ(take(sender.cut(whole, 0, 400)), Result::kHeld);
    ASSERT_EQ(take(sender.cut(whole, 400, 200)), Result::kComplete);
    handles.push_back(handle);
  }
  EXPECT_EQ(take(sender.cut(whole, 0, 400)), Result::kFull);
  table.release(handles[3]);
  EXPECT_EQ(take(sender.cut(whole, 0, 400)), Result::kHeld);
}

TEST_F(ReassemblyTest, large_datagrams_have_buffers_of_their_own_and_a_prefix_its_share_of_them) {
  const Bytes whole = datagram(20000);
  for (uint32_t i = 0; i < kMaxLargePerPrefix + 3; ++i) {
    sender.identification = i;
    ++now;
    ASSERT_EQ(take(sender.cut(whole, 0, 1480)), Result::kHeld);
    ASSERT_EQ(take(sender.cut(whole, 8000, 1480)), Result::kHeld);
  }
  EXPECT_EQ(table.given_up().prefix_full, 3u);
  EXPECT_EQ(table.under_way(), kMaxLargePerPrefix);
  // Other prefixes take the rest, and then the oldest goes.
  for (uint32_t i = 0; i < kMaxLargeReassemblies; ++i) {
    sender.source = IpAddress::v4(0x0a000001u + (i << 8));
    ++now;
    ASSERT_EQ(take(sender.cut(whole, 8000, 1480)), Result::kHeld);
  }
  EXPECT_EQ(table.given_up().table_full, kMaxLargePerPrefix);
  // What stood in the small buffer came along.
  Bytes got;
  sender.identification = 99;
  ASSERT_EQ(take(sender.cut(whole, 0, 1480)), Result::kHeld);
  for (uint32_t at = 1480; at < whole.size(); at += 1480) {
    const Result r = take(sender.cut(whole, at, std::min<size_t>(1480, whole.size() - at)));
    ASSERT_EQ(r, at + 1480 < whole.size() ? Result::kHeld : Result::kComplete);
  }
  frame::Parsed parsed;
  EXPECT_EQ(payload(parsed), Bytes(whole.begin() + 8, whole.end()));
}

TEST(FragmentBudget, lets_a_burst_through_and_then_its_rate) {
  FragmentBudget budget;
  uint32_t taken = 0;
  for (uint32_t i = 0; i < 10 * kMaxFragmentBurst; ++i)
    taken += budget.take(777) ? 1 : 0;
  EXPECT_EQ(taken, kMaxFragmentBurst);
  taken = 0;
  for (Ticks now = 778; now < 1778; ++now)
    for (int i = 0; i < 500; ++i)
      taken += budget.take(now) ? 1 : 0;
  EXPECT_EQ(taken, kMaxFragmentsPerSecond);
}

Bytes hex(std::string_view text) {
  Bytes out;
  std::string digits;
  for (const char c : text)
    if (c != ' ') digits += c;
  for (size_t i = 0; i + 1 < digits.size(); i += 2)
    out.push_back(static_cast<uint8_t>(std::stoul(digits.substr(i, 2), nullptr, 16)));
  return out;
}

// The whole frame of a fragment like this one.
Bytes written(const frame::Fragment& f, uint32_t identification) {
  Bytes room(frame::kMaxPieceHeaders);
  room.insert(room.end(), f.data.begin(), f.data.end());
  frame::Outgoing o;
  o.source.ip = f.source;
  o.destination.ip = f.destination;
  o.tos = 0xb8;
  const size_t headers = frame::write_piece_headers(
      room.data() + frame::kMaxPieceHeaders, f.data.size(), {f.offset, f.more, identification},
      {{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}, o);
  room.erase(room.begin(),
             room.end() - static_cast<ptrdiff_t>(f.data.size()) - static_cast<ptrdiff_t>(headers));
  return room;
}

// 192.0.2.1 -> 198.51.100.7, identification 0x1234, the 8 bytes at 16 of a longer datagram.
TEST(FragmentFrames, ipv4_is_read_and_written_byte_for_byte) {
  const Bytes bytes =
      hex("020000000001 020000000002 0800"
          "45b8001c 12342002 4011 5ba7 c0000201 c6336407 0102030405060708");
  frame::Fragment f;
  ASSERT_TRUE(frame::parse_fragment(bytes, f));
  EXPECT_EQ(f.source, ip("192.0.2.1"));
  EXPECT_EQ(f.destination, ip("198.51.100.7"));
  EXPECT_EQ(f.identification, 0x1234u);
  EXPECT_EQ(f.offset, 16u);
  EXPECT_TRUE(f.more);
  EXPECT_EQ(f.protocol, 17);
  EXPECT_EQ(f.ttl, 64);
  EXPECT_EQ(f.tos, 0xb8);
  EXPECT_EQ(f.headers, 20);
  EXPECT_EQ(Bytes(f.data.begin(), f.data.end()), hex("0102030405060708"));
  EXPECT_EQ(written(f, 0x71234), bytes);
}

TEST(FragmentFrames, ipv6_is_read_and_written_byte_for_byte) {
  const Bytes bytes =
      hex("020000000001 020000000002 86dd"
          "6b800000 0010 2c 40 20010db8000000000000000000000001 20010db8000000000000000000000002"
          "11 00 0011 deadbeef 0102030405060708");
  frame::Fragment f;
  ASSERT_TRUE(frame::parse_fragment(bytes, f));
  EXPECT_EQ(f.source, ip("2001:db8::1"));
  EXPECT_EQ(f.destination, ip("2001:db8::2"));
  EXPECT_EQ(f.identification, 0xdeadbeefu);
  EXPECT_EQ(f.offset, 16u);
  EXPECT_TRUE(f.more);
  EXPECT_EQ(f.protocol, 17);
  EXPECT_EQ(f.headers, 0);
  EXPECT_EQ(Bytes(f.data.begin(), f.data.end()), hex("0102030405060708"));
  EXPECT_EQ(written(f, 0xdeadbeef), bytes);
}

TEST(FragmentFrames, headers_before_an_ipv6_fragment_count_and_whole_frames_are_none) {
  // Destination options of 8 bytes, then the Fragment header; offset 0, the last: an atomic
  // fragment is a whole packet (RFC 6946), and with more to come it is not.
  Bytes bytes =
      hex("020000000001 020000000002 86dd"
          "60000000 0018 3c 40 20010db8000000000000000000000001 20010db8000000000000000000000002"
          "2c 00 0104 00000000 11 00 0001 00000001 0102030405060708");
  frame::Fragment f;
  ASSERT_TRUE(frame::parse_fragment(bytes, f));
  EXPECT_EQ(f.headers, 8);
  EXPECT_EQ(f.data.size(), 8u);
  bytes[14 + 40 + 8 + 3] = 0;
  EXPECT_FALSE(frame::parse_fragment(bytes, f));
}

}  // namespace
}  // namespace culvert
