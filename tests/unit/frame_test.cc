// The frame layer against frames written by hand (byte for byte as a wire capture shows them), and
// as a property: what write_headers() writes, parse() reads back, and a checksum derived
// incrementally equals one computed over everything.
#include "dataplane/wire/frame.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace culvert::frame {
namespace {

using Bytes = std::vector<uint8_t>;

Bytes hex(std::string_view text) {
  Bytes out;
  int high = -1;
  for (const char c : text) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) continue;
    if (high < 0) {
      high = digit;
    } else {
      out.push_back(static_cast<uint8_t>(high * 16 + digit));
      high = -1;
    }
  }
  return out;
}

TransportAddress at(std::string_view text) {
  return TransportAddress::parse(text).value();
}

// 192.0.2.1:40000 -> 198.51.100.7:3478, "hello", TTL 64, DF, DSCP EF.
Bytes ipv4_hello() {
  return hex(
      "02 00 00 00 00 01  02 00 00 00 00 02  08 00"
      "45 b8 00 21  12 34 40 00  40 11 3b a4  c0 00 02 01  c6 33 64 07"
      "9c 40 0d 96  00 0d 25 ef"
      "68 65 6c 6c 6f");
}

// [2001:db8::1]:40000 -> [2001:db8::2]:3478, "hello", hop limit 64, traffic class 0xb8.
Bytes ipv6_hello() {
  return hex(
      "02 00 00 00 00 01  02 00 00 00 00 02  86 dd"
      "6b 80 00 00  00 0d 11 40"
      "20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01"
      "20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 02"
      "9c 40 0d 96  00 0d b6 b6"
      "68 65 6c 6c 6f");
}

// Recomputes the IPv4 header checksum after a test has bent something.
void fix_ipv4(Bytes& frame, size_t ip = kEthernetHeader) {
  const size_t header = (frame[ip] & 0x0fu) * size_t{4};
  checksum::store_word(&frame[ip + 10], 0);
  checksum::store_word(&frame[ip + 10], checksum::full({&frame[ip], header}));
}

Kind kind_of(const Bytes& frame, Verify verify = Verify::kAll) {
  Parsed parsed;
  return parse(frame, verify, parsed);
}

std::string payload_of(const Parsed& p) {
  return {reinterpret_cast<const char*>(p.payload), p.length};
}

TEST(FrameParse, an_ipv4_udp_datagram_is_read_with_all_its_fields) {
  const Bytes frame = ipv4_hello();
  Parsed p;
  ASSERT_EQ(parse(frame, Verify::kAll, p), Kind::k_udp);
  EXPECT_EQ(p.source, at("192.0.2.1:40000"));
  EXPECT_EQ(p.destination, at("198.51.100.7:3478"));
  EXPECT_EQ(p.ttl, 64);
  EXPECT_EQ(p.tos, 0xb8);
  EXPECT_TRUE(p.dont_fragment);
  EXPECT_EQ(p.vlan_tci, kNoVlan);
  EXPECT_EQ(payload_of(p), "hello");
  EXPECT_TRUE(p.sum_known);
  EXPECT_EQ(p.payload_sum, checksum::fold(checksum::sum("hello", 5)));
}

TEST(FrameParse, an_ipv6_udp_datagram_is_read_with_all_its_fields) {
  const Bytes frame = ipv6_hello();
  Parsed p;
  ASSERT_EQ(parse(frame, Verify::kAll, p), Kind::k_udp);
  EXPECT_EQ(p.source, at("[2001:db8::1]:40000"));
  EXPECT_EQ(p.destination, at("[2001:db8::2]:3478"));
  EXPECT_EQ(p.ttl, 64);
  EXPECT_EQ(p.tos, 0xb8);
  EXPECT_TRUE(p.dont_fragment);
  EXPECT_EQ(payload_of(p), "hello");
  EXPECT_EQ(p.payload_sum, checksum::fold(checksum::sum("hello", 5)));
}

TEST(FrameParse, one_vlan_tag_is_read_and_a_second_is_not_ours) {
  Bytes frame = ipv4_hello();
  const Bytes tag = hex("81 00 60 2a");
  frame.insert(frame.begin() + 12, tag.begin(), tag.end());
  Parsed p;
  ASSERT_EQ(parse(frame, Verify::kAll, p), Kind::k_udp);
  EXPECT_EQ(p.vlan_tci, 0x602a);
  EXPECT_EQ(payload_of(p), "hello");
  frame.insert(frame.begin() + 12, tag.begin(), tag.end());
  EXPECT_EQ(kind_of(frame), Kind::k_not_ip);
}

TEST(FrameParse, ethernet_padding_behind_the_packet_is_not_payload) {
  Bytes frame = ipv4_hello();
  frame.resize(60, 0xee);
  Parsed p;
  ASSERT_EQ(parse(frame, Verify::kAll, p), Kind::k_udp);
  EXPECT_EQ(payload_of(p), "hello");
  frame = ipv6_hello();
  frame.resize(80, 0xee);
  ASSERT_EQ(parse(frame, Verify::kAll, p), Kind::k_udp);
  EXPECT_EQ(payload_of(p), "hello");
}

TEST(FrameParse, an_empty_datagram_is_a_datagram) {
  Bytes frame = ipv4_hello();
  frame.resize(42);
  frame[17] = 28;
  frame[39] = 8;
  frame[40] = frame[41] = 0;
  fix_ipv4(frame);
  Parsed p;
  ASSERT_EQ(parse(frame, Verify::kAll, p), Kind::k_udp);
  EXPECT_EQ(p.length, 0);
  EXPECT_FALSE(p.sum_known);
}

TEST(FrameParse, every_truncation_is_refused_and_none_reads_beyond_the_frame) {
  for (const Bytes& whole : {ipv4_hello(), ipv6_hello()}) {
    for (size_t length = 0; length < whole.size(); ++length) {
      const Bytes cut(whole.begin(),
                      whole.begin() + static_cast<long>(length));  // exact allocation
      EXPECT_NE(kind_of(cut), Kind::k_udp) << length;
    }
  }
}

TEST(FrameParse, a_wrong_ipv4_header_checksum_is_refused_even_when_payloads_are_trusted) {
  Bytes frame = ipv4_hello();
  frame[22] ^= 1;
  EXPECT_EQ(kind_of(frame, Verify::kHeaders), Kind::k_bad_ip_checksum);
}

TEST(FrameParse, a_wrong_udp_checksum_is_refused_when_asked_and_carried_on_when_not) {
  for (Bytes frame : {ipv4_hello(), ipv6_hello()}) {
    frame.back() ^= 1;
    EXPECT_EQ(kind_of(frame, Verify::kAll), Kind::k_bad_udp_checksum);
    EXPECT_EQ(kind_of(frame, Verify::kHeaders), Kind::k_udp);
  }
}

TEST(FrameParse, a_zero_udp_checksum_is_none_in_ipv4_and_refused_in_ipv6) {
  Bytes frame = ipv4_hello();
  frame[40] = frame[41] = 0;
  Parsed p;
  ASSERT_EQ(parse(frame, Verify::kAll, p), Kind::k_udp);
  EXPECT_FALSE(p.sum_known);
  frame = ipv6_hello();
  frame[60] = frame[61] = 0;
  EXPECT_EQ(kind_of(frame), Kind::k_zero_udp_checksum);
}

TEST(FrameParse, impossible_ipv4_headers_are_refused) {
  Bytes frame = ipv4_hello();
  frame[14] = 0x55;  // version 5
  fix_ipv4(frame);
  EXPECT_EQ(kind_of(frame), Kind::k_bad_ip_header);
  frame = ipv4_hello();
  frame[14] = 0x44;  // header of 16 bytes
  EXPECT_EQ(kind_of(frame), Kind::k_bad_ip_header);
  frame = ipv4_hello();
  frame[17] = 19;  // total below the header
  fix_ipv4(frame);
  EXPECT_EQ(kind_of(frame), Kind::k_bad_ip_header);
  frame = ipv4_hello();
  frame[17] = 0x22;  // one byte more than there is
  fix_ipv4(frame);
  EXPECT_EQ(kind_of(frame), Kind::k_truncated);
}

TEST(FrameParse, impossible_udp_lengths_are_refused) {
  for (const uint8_t length : {uint8_t{0}, uint8_t{7}, uint8_t{14}, uint8_t{255}}) {
    Bytes frame = ipv4_hello();
    frame[39] = length;
    EXPECT_EQ(kind_of(frame), Kind::k_bad_udp_length) << int{length};
    frame = ipv6_hello();
    frame[59] = length;
    EXPECT_EQ(kind_of(frame), Kind::k_bad_udp_length) << int{length};
  }
  Bytes frame = ipv4_hello();
  frame[17] = 27;  // IP payload of 7 bytes
  fix_ipv4(frame);
  EXPECT_EQ(kind_of(frame), Kind::k_bad_udp_length);
}

TEST(FrameParse, fragments_are_told_apart_first_middle_and_last) {
  for (const uint16_t bits : {uint16_t{0x2000}, uint16_t{0x2010}, uint16_t{0x0010}}) {
    Bytes frame = ipv4_hello();
    store_be16(&frame[20], bits);
    fix_ipv4(frame);
    EXPECT_EQ(kind_of(frame), Kind::k_fragment) << bits;
  }
}

TEST(FrameParse, ipv4_options_are_skipped_unless_they_route) {
  const auto with_options = [](std::string_view options_hex) {
    Bytes frame = ipv4_hello();
    const Bytes options = hex(options_hex);
    frame.insert(frame.begin() + 34, options.begin(), options.end());
    frame[14] = static_cast<uint8_t>(0x45 + options.size() / 4);
    frame[17] = static_cast<uint8_t>(frame[17] + options.size());
    fix_ipv4(frame);
    return frame;
  };
  Parsed p;
  const Bytes router_alert = with_options("94 04 00 00");
  ASSERT_EQ(parse(router_alert, Verify::kAll, p), Kind::k_udp);
  EXPECT_EQ(payload_of(p), "hello");
  const Bytes nops_then_end = with_options("01 01 00 ff");
  EXPECT_EQ(kind_of(nops_then_end), Kind::k_udp);
  EXPECT_EQ(kind_of(with_options("83 07 04 0a 00 00 01 00")), Kind::k_source_routed);
  EXPECT_EQ(kind_of(with_options("01 89 03 04")), Kind::k_source_routed);
  EXPECT_EQ(kind_of(with_options("94 05 00 00")), Kind::k_bad_ip_header);
  EXPECT_EQ(kind_of(with_options("94 01 00 00")), Kind::k_bad_ip_header);
  EXPECT_EQ(kind_of(with_options("01 01 01 94")), Kind::k_bad_ip_header);
}

Bytes with_extension(std::string_view extension_hex, uint8_t first) {
  Bytes frame = ipv6_hello();
  const Bytes extension = hex(extension_hex);
  frame.insert(frame.begin() + 54, extension.begin(), extension.end());
  frame[20] = first;
  frame[19] = static_cast<uint8_t>(frame[19] + extension.size());
  return frame;
}

TEST(FrameParse, ipv6_extension_headers_are_walked_within_bounds) {
  const Bytes hop_by_hop = with_extension("11 00 01 04 00 00 00 00", 0);
  Parsed p;
  ASSERT_EQ(parse(hop_by_hop, Verify::kAll, p), Kind::k_udp);
  EXPECT_EQ(payload_of(p), "hello");
  EXPECT_EQ(kind_of(with_extension("2b 00 01 04 00 00 00 00"  // hop-by-hop, then routing
                                   "3c 00 02 00 00 00 00 00"  // no segments left, then options
                                   "11 00 01 04 00 00 00 00",
                                   0)),
            Kind::k_udp);
  EXPECT_EQ(kind_of(with_extension("11 00 02 01 00 00 00 00", 43)), Kind::k_source_routed);
  EXPECT_EQ(kind_of(with_extension("00 00 01 04 00 00 00 00"  // hop-by-hop not first
                                   "11 00 01 04 00 00 00 00",
                                   60)),
            Kind::k_bad_extension_headers);
  std::string many;
  for (int i = 0; i < kMaxExtensionHeaders; ++i)
    many += "3c 00 01 04 00 00 00 00";
  EXPECT_EQ(kind_of(with_extension(many + "11 00 01 04 00 00 00 00", 60)),
            Kind::k_bad_extension_headers);
  EXPECT_EQ(kind_of(with_extension("11 ff 01 04 00 00 00 00", 60)), Kind::k_bad_extension_headers);
  EXPECT_EQ(kind_of(with_extension("11 04 01 04 00 00 00 00", 60)), Kind::k_truncated);
  EXPECT_EQ(kind_of(with_extension("3b 00 01 04 00 00 00 00", 60)), Kind::k_other_protocol);
}

TEST(FrameParse, an_ipv6_fragment_is_told_and_an_atomic_one_is_whole) {
  EXPECT_EQ(kind_of(with_extension("11 00 00 00 12 34 56 78", 44)), Kind::k_udp);
  EXPECT_EQ(kind_of(with_extension("11 00 00 01 12 34 56 78", 44)), Kind::k_fragment);
  EXPECT_EQ(kind_of(with_extension("11 00 00 08 12 34 56 78", 44)), Kind::k_fragment);
}

TEST(FrameParse, other_protocols_are_left_to_the_kernel) {
  Bytes frame = ipv4_hello();
  frame[23] = 6;
  fix_ipv4(frame);
  EXPECT_EQ(kind_of(frame), Kind::k_other_protocol);
  frame[12] = 0x08;
  frame[13] = 0x06;  // ARP
  EXPECT_EQ(kind_of(frame), Kind::k_not_ip);
  EXPECT_EQ(info(Kind::k_not_ip).disposition, Disposition::punt);
}

// An ICMPv4 error from a router, 203.0.113.9, about a datagram 198.51.100.7:50000 -> 192.0.2.9:7.
Bytes icmpv4_error(uint8_t type, uint8_t code, uint16_t mtu, std::string_view quoted_hex) {
  const Bytes quoted = hex(quoted_hex);
  Bytes frame =
      hex("02 00 00 00 00 01  02 00 00 00 00 02  08 00"
          "45 00 00 00  00 00 00 00  40 01 00 00  cb 00 71 09  c6 33 64 07"
          "00 00 00 00 00 00 00 00");
  frame[34] = type;
  frame[35] = code;
  store_be16(&frame[40], mtu);
  frame.insert(frame.end(), quoted.begin(), quoted.end());
  store_be16(&frame[16], static_cast<uint16_t>(frame.size() - 14));
  checksum::store_word(&frame[36], checksum::full({&frame[34], frame.size() - 34}));
  fix_ipv4(frame);
  return frame;
}

// The quoted header's checksum is wrong on purpose: a router has decremented its TTL.
constexpr std::string_view kQuotedIpv4 =
    "45 00 00 24  00 01 40 00  01 11 ff ff  c6 33 64 07  c0 00 02 09"
    "c3 50 00 07  00 10 00 00";

TEST(FrameParse, an_icmpv4_error_yields_the_quoted_datagram_and_the_mtu) {
  const Bytes frame = icmpv4_error(3, 4, 1400, kQuotedIpv4);
  Parsed p;
  ASSERT_EQ(parse(frame, Verify::kHeaders, p), Kind::k_icmp_error);
  EXPECT_EQ(p.source, at("198.51.100.7:50000"));
  EXPECT_EQ(p.destination, at("192.0.2.9:7"));
  EXPECT_EQ(p.icmp_type, 3);
  EXPECT_EQ(p.icmp_code, 4);
  EXPECT_EQ(p.icmp_mtu, 1400u);
  EXPECT_EQ(p.length, 0);
  ASSERT_EQ(parse(icmpv4_error(3, 3, 1400, kQuotedIpv4), Verify::kHeaders, p), Kind::k_icmp_error);
  EXPECT_EQ(p.icmp_mtu, 0u) << "only code 4 carries an MTU";
}

TEST(FrameParse, icmpv4_that_is_no_error_or_quotes_no_udp_header_is_not_for_the_path) {
  EXPECT_EQ(kind_of(icmpv4_error(8, 0, 0, kQuotedIpv4)), Kind::k_other_protocol);  // echo
  EXPECT_EQ(kind_of(icmpv4_error(5, 1, 0, kQuotedIpv4)), Kind::k_other_protocol);  // redirect
  EXPECT_EQ(kind_of(icmpv4_error(3, 1, 0, "45 00 00 24")), Kind::k_bad_icmp);
  EXPECT_EQ(kind_of(icmpv4_error(3, 1, 0, kQuotedIpv4.substr(0, kQuotedIpv4.size() - 3))),
            Kind::k_bad_icmp);
  std::string tcp(kQuotedIpv4);
  tcp.replace(tcp.find("01 11 ff"), 5, "01 06");
  EXPECT_EQ(kind_of(icmpv4_error(3, 1, 0, tcp)), Kind::k_other_protocol);
  std::string later_fragment(kQuotedIpv4);
  later_fragment.replace(later_fragment.find("40 00"), 5, "00 10");
  EXPECT_EQ(kind_of(icmpv4_error(3, 1, 0, later_fragment)), Kind::k_other_protocol);
  Bytes damaged = icmpv4_error(3, 1, 0, kQuotedIpv4);
  damaged.back() ^= 1;
  EXPECT_EQ(kind_of(damaged), Kind::k_bad_icmp);
}

TEST(FrameParse, an_icmpv6_too_big_yields_the_quoted_datagram_and_the_mtu) {
  Bytes frame =
      hex("02 00 00 00 00 01  02 00 00 00 00 02  86 dd"
          "60 00 00 00  00 3d 3a 40"
          "20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 99"
          "20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01"
          "02 00 00 00  00 00 05 00");
  const Bytes quoted = ipv6_hello();
  frame.insert(frame.end(), quoted.begin() + 14, quoted.end());
  const uint64_t pseudo = checksum::pseudo_v6(&frame[22], &frame[38], kProtocolIcmpv6, 0x3d);
  checksum::store_word(
      &frame[56], static_cast<uint16_t>(~checksum::fold(checksum::sum(&frame[54], 0x3d, pseudo))));
  Parsed p;
  ASSERT_EQ(parse(frame, Verify::kHeaders, p), Kind::k_icmp_error);
  EXPECT_EQ(p.source, at("[2001:db8::1]:40000"));
  EXPECT_EQ(p.destination, at("[2001:db8::2]:3478"));
  EXPECT_EQ(p.icmp_type, 2);
  EXPECT_EQ(p.icmp_mtu, 1280u);
  EXPECT_EQ(payload_of(p), "hello");
  frame[57] ^= 1;
  EXPECT_EQ(kind_of(frame), Kind::k_bad_icmp);
}

// The relay sends large datagrams over IPv6 in fragments: an error about the first quotes the UDP
// header behind a Fragment header, one about any other does not.
TEST(FrameParse, an_icmpv6_error_about_a_first_fragment_yields_the_quoted_datagram) {
  for (const bool first : {true, false}) {
    Bytes frame =
        hex("02 00 00 00 00 01  02 00 00 00 00 02  86 dd"
            "60 00 00 00  00 45 3a 40"
            "20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 99"
            "20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01"
            "01 03 00 00  00 00 00 00");
    Bytes quoted = ipv6_hello();
    quoted[14 + 6] = 44;
    const Bytes fragment = hex(first ? "11 00 00 01 00 00 00 07" : "11 00 04 d1 00 00 00 07");
    quoted.insert(quoted.begin() + 54, fragment.begin(), fragment.end());
    frame.insert(frame.end(), quoted.begin() + 14, quoted.end());
    const uint64_t pseudo = checksum::pseudo_v6(&frame[22], &frame[38], kProtocolIcmpv6, 0x45);
    checksum::store_word(&frame[56], static_cast<uint16_t>(
                                         ~checksum::fold(checksum::sum(&frame[54], 0x45, pseudo))));
    Parsed p;
    ASSERT_EQ(parse(frame, Verify::kHeaders, p),
              first ? Kind::k_icmp_error : Kind::k_other_protocol);
    if (!first) continue;
    EXPECT_EQ(p.source, at("[2001:db8::1]:40000"));
    EXPECT_EQ(p.destination, at("[2001:db8::2]:3478"));
  }
}

// ------------------------------------------------------------------------------------------
// writing

struct Written {
  Bytes buffer;
  size_t headers = 0;
  [[nodiscard]] Bytes frame() const {
    return {buffer.begin() + static_cast<long>(kMaxHeaders - headers), buffer.end()};
  }
};

Written write(const Bytes& body, const Link& link, const Outgoing& o) {
  Written w;
  w.buffer.resize(kMaxHeaders + body.size());
  std::copy(body.begin(), body.end(), w.buffer.begin() + kMaxHeaders);
  w.headers = write_headers(w.buffer.data() + kMaxHeaders, body.size(), link, o);
  return w;
}

const Link kLink = {{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}, kNoVlan};
const Bytes kHello = {'h', 'e', 'l', 'l', 'o'};

TEST(FrameWrite, the_hand_written_ipv4_frame_comes_out_byte_for_byte) {
  Outgoing o{at("192.0.2.1:40000"),
             at("198.51.100.7:3478"),
             64,
             0xb8,
             true,
             0x1234,
             0,
             full_sum(kHello.data(), kHello.size())};
  EXPECT_EQ(write(kHello, kLink, o).frame(), ipv4_hello());
}

TEST(FrameWrite, the_hand_written_ipv6_frame_comes_out_byte_for_byte) {
  Outgoing o{at("[2001:db8::1]:40000"),
             at("[2001:db8::2]:3478"),
             64,
             0xb8,
             true,
             0x1234,
             0,
             full_sum(kHello.data(), kHello.size())};
  EXPECT_EQ(write(kHello, kLink, o).frame(), ipv6_hello());
}

TEST(FrameWrite, an_unknown_sum_stays_zero_in_ipv4_and_cannot_be_sent_by_ipv6) {
  Outgoing o{at("192.0.2.1:1"), at("192.0.2.2:2"), 1, 0, false, 0, 0, {}};
  const Bytes frame = write(kHello, kLink, o).frame();
  EXPECT_EQ(frame[40], 0);
  EXPECT_EQ(frame[41], 0);
  Outgoing six{at("[::1]:1"), at("[::2]:2"), 1, 0, false, 0, 0, {}};
  EXPECT_EQ(write(kHello, kLink, six).headers, 0u);
}

TEST(FrameWrite, a_body_too_long_for_its_family_is_refused) {
  Outgoing four{at("192.0.2.1:1"), at("192.0.2.2:2"), 1, 0, false, 0, 0, {0, true}};
  Outgoing six{at("[::1]:1"), at("[::2]:2"), 1, 0, false, 0, 0, {0, true}};
  EXPECT_NE(write(Bytes(kMaxBodyIpv4), kLink, four).headers, 0u);
  EXPECT_EQ(write(Bytes(kMaxBodyIpv4 + 1), kLink, four).headers, 0u);
  EXPECT_NE(write(Bytes(kMaxBodyIpv6), kLink, six).headers, 0u);
  EXPECT_EQ(write(Bytes(kMaxBodyIpv6 + 1), kLink, six).headers, 0u);
}

TEST(FrameWrite, a_computed_checksum_of_zero_leaves_as_ffff) {
  Outgoing o{at("192.0.2.1:1"), at("192.0.2.2:2"), 1, 0, false, 0, 0, {}};
  // Two bytes of body chosen so that the whole sums to 0xffff.
  Bytes body = {0, 0};
  o.body = full_sum(body.data(), 2);
  const Bytes probe = write(body, kLink, o).frame();
  body[0] = probe[40];
  body[1] = probe[41];
  o.body = full_sum(body.data(), 2);
  const Bytes frame = write(body, kLink, o).frame();
  EXPECT_EQ(frame[40], 0xff);
  EXPECT_EQ(frame[41], 0xff);
  EXPECT_EQ(kind_of(frame), Kind::k_udp);
}

// ------------------------------------------------------------------------------------------
// property

struct Random {
  explicit Random(uint32_t seed) : engine(seed) {}
  uint32_t operator()(uint32_t below) { return static_cast<uint32_t>(engine() % below); }
  TransportAddress address(bool v6) {
    TransportAddress a;
    a.port = static_cast<uint16_t>((*this)(65536));
    if (v6) {
      uint8_t bytes[16];
      for (auto& b : bytes)
        b = (*this)(4) == 0 ? uint8_t{0xff} : static_cast<uint8_t>(engine());
      a.ip = IpAddress::v6_bytes(bytes);
    } else {
      a.ip = IpAddress::v4(static_cast<uint32_t>(engine()));
    }
    return a;
  }
  Bytes bytes(size_t length) {
    Bytes out(length);
    const uint32_t style = (*this)(4);
    for (auto& b : out) {
      b = style == 0 ? uint8_t{0} : style == 1 ? uint8_t{0xff} : static_cast<uint8_t>(engine());
    }
    return out;
  }
  std::mt19937 engine;
};

TEST(FrameProperty, what_is_written_is_read_back) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  for (int i = 0; i < 20000; ++i) {
    const bool v6 = random(2) != 0;
    const Bytes body = random.bytes(random(300));
    Link link = kLink;
    if (random(3) == 0) link.vlan_tci = static_cast<uint16_t>(random(0xffff));
    const Outgoing o{random.address(v6),
                     random.address(v6),
                     static_cast<uint8_t>(random(256)),
                     static_cast<uint8_t>(random(256)),
                     random(2) != 0,
                     static_cast<uint16_t>(random(65536)),
                     random(1u << 20),
                     v6 || random(4) != 0 ? full_sum(body.data(), body.size()) : BodySum{}};
    const Bytes frame = write(body, link, o).frame();
    Parsed p;
    ASSERT_EQ(parse(frame, Verify::kAll, p), Kind::k_udp) << "step " << i;
    ASSERT_EQ(p.source, o.source);
    ASSERT_EQ(p.destination, o.destination);
    ASSERT_EQ(p.ttl, o.ttl);
    ASSERT_EQ(p.tos, o.tos);
    ASSERT_EQ(p.vlan_tci, link.vlan_tci);
    ASSERT_EQ(p.dont_fragment, v6 || o.dont_fragment);
    ASSERT_EQ(p.sum_known, o.body.known);
    ASSERT_EQ(Bytes(p.payload, p.payload + p.length), body);
    if (p.sum_known) {
      ASSERT_EQ(checksum::fold(uint64_t{p.payload_sum}) % 0xffff,
                checksum::fold(checksum::sum(body.data(), body.size())) % 0xffff);
    }
  }
}

// A relay step: part of a received payload leaves behind a new head, from and to other addresses,
// in the other family or the same. The derived checksum must be what a full computation gives.
TEST(FrameProperty, an_incremental_checksum_equals_the_full_one_for_any_piece_and_head) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  for (int i = 0; i < 20000; ++i) {
    const bool v6_in = random(2) != 0;
    const bool v6_out = random(2) != 0;
    const Bytes body = random.bytes(random(300));
    const Outgoing in{random.address(v6_in),
                      random.address(v6_in),
                      64,
                      0,
                      false,
                      0,
                      0,
                      full_sum(body.data(), body.size())};
    const Bytes frame = write(body, kLink, in).frame();
    Parsed p;
    ASSERT_EQ(parse(frame, Verify::kHeaders, p), Kind::k_udp);

    const size_t from = random(static_cast<uint32_t>(body.size() + 1));
    const size_t length = random(static_cast<uint32_t>(body.size() - from + 1));
    Bytes leaving = random.bytes(random(40));
    const BodySum derived =
        with_head(piece_sum(p, p.payload + from, length), leaving.data(), leaving.size());
    leaving.insert(leaving.end(), p.payload + from, p.payload + from + length);
    Outgoing out{random.address(v6_out), random.address(v6_out), 63, 0, false, 0, 0, derived};
    const Bytes incremental = write(leaving, kLink, out).frame();
    out.body = full_sum(leaving.data(), leaving.size());
    ASSERT_EQ(incremental, write(leaving, kLink, out).frame()) << "step " << i;
  }
}

TEST(FrameProperty, damage_on_the_way_in_is_still_visible_on_the_way_out) {
  Bytes frame = ipv4_hello();
  frame.back() ^= 0x10;
  Parsed p;
  ASSERT_EQ(parse(frame, Verify::kHeaders, p), Kind::k_udp);
  Outgoing o{at("[2001:db8::1]:1"),
             at("[2001:db8::2]:2"),
             1,
             0,
             false,
             0,
             0,
             piece_sum(p, p.payload, p.length)};
  const Bytes body(p.payload, p.payload + p.length);
  EXPECT_EQ(kind_of(write(body, kLink, o).frame()), Kind::k_bad_udp_checksum);
}

}  // namespace
}  // namespace culvert::frame
