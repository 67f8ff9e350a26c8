// Ethernet frames to datagrams and back: the pure, driver-free L2-L4 layer of every driver that
// sees frames (pcap, and a DPDK port). Parsing validates lengths, versions, header checksums,
// fragments and IPv6 extension headers in one forward pass; writing puts fresh headers directly
// before a datagram's body, so nothing of a received header can leak into a sent one (RFC 8656
// sections 13 and 14).
//
// Invariants: no byte outside the given frame is read, none outside the kMaxHeaders before the body
// is written; nothing is allocated, nothing is remembered between frames. Checksums of relayed
// datagrams are incremental (see checksum.h): the payload is never read. Cost: about a dozen cycles
// for an IPv4 UDP frame each way (bench/micro/frame_bench.cc); everything rare lives in frame.cc.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "dataplane/base/address.h"
#include "dataplane/wire/checksum.h"

namespace culvert::frame {

inline constexpr size_t kEthernetHeader = 14;
inline constexpr size_t kVlanTag = 4;
inline constexpr size_t kIpv4Header = 20;
inline constexpr size_t kIpv6Header = 40;
inline constexpr size_t kUdpHeader = 8;
inline constexpr size_t kIpv6FragmentHeader = 8;
// What write_headers() may put before a body: Ethernet, one 802.1Q tag, IPv6, UDP.
inline constexpr size_t kMaxHeaders = kEthernetHeader + kVlanTag + kIpv6Header + kUdpHeader;
// IPv4's 16-bit total length holds the headers too; IPv6's payload length holds UDP's.
inline constexpr size_t kMaxBodyIpv4 = 65535 - kIpv4Header - kUdpHeader;
inline constexpr size_t kMaxBodyIpv6 = 65535 - kUdpHeader;

// IPv6 extension headers walked before a frame is refused. Hop-by-hop, destination options, routing
// and fragment may all precede UDP once, destination options twice; more is an attempt to hide
// something.
inline constexpr int kMaxExtensionHeaders = 5;
inline constexpr size_t kMaxExtensionBytes = 256;

inline constexpr uint16_t kEtherIpv4 = 0x0800;
inline constexpr uint16_t kEtherIpv6 = 0x86DD;
inline constexpr uint16_t kEtherVlan = 0x8100;
inline constexpr uint8_t kProtocolIcmp = 1;
inline constexpr uint8_t kProtocolUdp = 17;
inline constexpr uint8_t kProtocolIcmpv6 = 58;
inline constexpr uint16_t kNoVlan = 0xffff;

// What a frame turned out to be. The first two are for the packet path; `punt` ones belong to the
// kernel beside us (DESIGN 8); the rest are counted and dropped. X(name, disposition, text)
#define CULVERT_FRAME_KINDS(X)                                                                \
  X(udp, path, "UDP datagram")                                                                \
  X(icmp_error, path, "ICMP error that quotes a UDP datagram")                                \
  X(not_ip, punt, "neither IPv4 nor IPv6 (ARP, LLDP, a second VLAN tag)")                     \
  X(other_protocol, punt, "IP, but neither UDP nor an ICMP error about UDP")                  \
  X(fragment, punt, "fragment: see parse_fragment() and reassembly.h")                        \
  X(truncated, drop, "shorter than its headers say")                                          \
  X(bad_ip_header, drop, "version, header length or total length impossible")                 \
  X(bad_ip_checksum, drop, "IPv4 header checksum wrong")                                      \
  X(source_routed, drop, "IPv4 source-route option, IPv6 routing header with segments left")  \
  X(bad_extension_headers, drop, "IPv6 extension headers too many, too long or out of place") \
  X(bad_udp_length, drop, "UDP length below 8 or beyond the packet")                          \
  X(bad_udp_checksum, drop, "UDP checksum wrong")                                             \
  X(zero_udp_checksum, drop, "UDP over IPv6 without a checksum (RFC 8200 section 8.1)")       \
  X(bad_icmp, drop, "ICMP checksum wrong, or an error that quotes too little")

enum class Disposition : uint8_t { path, punt, drop };

enum class Kind : uint8_t {
#define X(name, disposition, text) k_##name,
  CULVERT_FRAME_KINDS(X)
#undef X
      kCount
};
inline constexpr size_t kKinds = static_cast<size_t>(Kind::kCount);

struct KindInfo {
  std::string_view name;
  Disposition disposition;
  std::string_view text;
};
inline constexpr KindInfo kKindInfo[kKinds] = {
#define X(name, disposition, text) {#name, Disposition::disposition, text},
    CULVERT_FRAME_KINDS(X)
#undef X
};
[[nodiscard]] constexpr const KindInfo& info(Kind kind) {
  return kKindInfo[static_cast<size_t>(kind)];
}

using MacAddress = std::array<uint8_t, 6>;

// A frame understood. For k_icmp_error, `source`, `destination` and the payload are those of the
// quoted datagram (source is ours, destination the peer it was lost on the way to) and ttl, tos and
// dont_fragment are the error's own.
struct Parsed {
  const uint8_t* payload = nullptr;
  uint16_t length = 0;         // of the payload; of an ICMP error: as much of it as was quoted
  uint16_t payload_sum = 0;    // ones' complement sum implied by the received UDP checksum
  bool sum_known = false;      // false: IPv4 sender used no checksum, or an ICMP error
  bool dont_fragment = false;  // IPv6: always true
  uint8_t ttl = 0;
  uint8_t tos = 0;
  uint8_t icmp_type = 0;
  uint8_t icmp_code = 0;
  uint16_t vlan_tci = kNoVlan;
  uint32_t icmp_mtu = 0;  // IPv4 3/4 and IPv6 2: next-hop MTU; else 0
  TransportAddress source;
  TransportAddress destination;
};

// kHeaders trusts the UDP checksum to a NIC that has verified it, or to the receiving end (the
// incremental update preserves a wrong one). kAll reads the payload.
enum class Verify : uint8_t { kHeaders, kAll };

namespace detail {
// Everything but untagged IPv4 UDP without options.
[[nodiscard]] Kind parse_rare(std::span<const uint8_t> frame, Verify verify, Parsed& out);

inline void set_v4(IpAddress& to, const uint8_t* from) {
  constexpr uint64_t kZero = 0;
  std::memcpy(to.bytes.data(), &kZero, 8);
  const uint32_t mapped = to_big_endian(uint32_t{0x0000ffff});
  std::memcpy(&to.bytes[8], &mapped, 4);
  std::memcpy(&to.bytes[12], from, 4);
  to.family = Family::kIpv4;
}

// `at`: the UDP header; `room`: bytes of IP payload from there; `pseudo`: pseudo-header sum without
// the length. Fills ports and payload.
[[nodiscard]] inline Kind parse_udp(const uint8_t* at, size_t room, uint64_t pseudo, bool is_v6,
                                    Verify verify, Parsed& out) {
  if (room < kUdpHeader) return Kind::k_bad_udp_length;
  const uint16_t length = load_be16(at + 4);
  if (length < kUdpHeader || length > room) return Kind::k_bad_udp_length;
  out.source.port = load_be16(at);
  out.destination.port = load_be16(at + 2);
  out.payload = at + kUdpHeader;
  out.length = static_cast<uint16_t>(length - kUdpHeader);
  out.sum_known = checksum::load_word(at + 6) != 0;
  if (!out.sum_known) return is_v6 ? Kind::k_zero_udp_checksum : Kind::k_udp;
  // A correct segment sums to zero with its pseudo-header, so the payload's sum is the negative of
  // everything else's.
  const uint16_t others = checksum::fold(pseudo + checksum::wire_word(length) +
                                         checksum::load_pair(at) + checksum::load_pair(at + 4));
  out.payload_sum = static_cast<uint16_t>(~others);
  if (verify == Verify::kAll) {
    const uint16_t whole = checksum::fold(checksum::sum(out.payload, out.length, others));
    if (whole != 0xffff) return Kind::k_bad_udp_checksum;
  }
  return Kind::k_udp;
}
}  // namespace detail

// A fragment understood. `offset` and `data` are those of what is put together, which starts with
// the upper layer's header.
struct Fragment {
  IpAddress source;
  IpAddress destination;
  uint32_t identification = 0;  // IPv4: 16 bits
  uint32_t offset = 0;          // bytes
  bool more = false;
  uint8_t protocol = 0;  // of IPv6: what follows the Fragment header
  uint8_t ttl = 0;
  uint8_t tos = 0;
  uint16_t headers = 0;  // bytes before the data that the 16-bit length of the whole would count
  uint16_t vlan_tci = kNoVlan;
  std::span<const uint8_t> data;  // within the frame
};

// `frame`: what parse() called a fragment; false for anything else.
[[nodiscard]] bool parse_fragment(std::span<const uint8_t> frame, Fragment& out);

// Parses one frame (Ethernet, at most one 802.1Q tag, without FCS; trailing padding is allowed).
// `out` is meaningful when the result's disposition is `path`; its payload points into the frame.
// IPv4 options other than source routes are skipped: they are legal, and never copied (RFC 8656
// section 14).
[[nodiscard]] inline Kind parse(std::span<const uint8_t> frame, Verify verify, Parsed& out) {
  constexpr size_t kShortest = kEthernetHeader + kIpv4Header + kUdpHeader;
  if (frame.size() < kShortest) [[unlikely]]
    return detail::parse_rare(frame, verify, out);
  const uint8_t* const ip = frame.data() + kEthernetHeader;
  if (load_be16(ip - 2) != kEtherIpv4 || ip[0] != 0x45 || ip[9] != kProtocolUdp) [[unlikely]] {
    return detail::parse_rare(frame, verify, out);
  }
  const uint64_t addresses = uint64_t{checksum::load_pair(ip + 12)} + checksum::load_pair(ip + 16);
  const uint64_t header = addresses + checksum::load_pair(ip) + checksum::load_pair(ip + 4) +
                          checksum::load_pair(ip + 8);
  if (checksum::fold(header) != 0xffff) return Kind::k_bad_ip_checksum;
  const size_t total = load_be16(ip + 2);
  if (total > frame.size() - kEthernetHeader) return Kind::k_truncated;
  if (total < kIpv4Header) return Kind::k_bad_ip_header;
  const uint16_t fragment = load_be16(ip + 6);
  if ((fragment & 0x3fff) != 0) return Kind::k_fragment;  // more fragments, or an offset
  out.dont_fragment = (fragment & 0x4000) != 0;
  out.ttl = ip[8];
  out.tos = ip[1];
  out.vlan_tci = kNoVlan;
  detail::set_v4(out.source.ip, ip + 12);
  detail::set_v4(out.destination.ip, ip + 16);
  return detail::parse_udp(ip + kIpv4Header, total - kIpv4Header,
                           addresses + checksum::wire_word(kProtocolUdp), false, verify, out);
}

// Who a frame goes to and comes from on its link.
struct Link {
  MacAddress to{};
  MacAddress from{};
  uint16_t vlan_tci = kNoVlan;
};

// The UDP checksum of an outgoing datagram, from what is known of its body.
struct BodySum {
  uint16_t sum = 0;    // ones' complement sum of the body
  bool known = false;  // false: IPv4 sends 0 ("none"); not possible on IPv6
};

struct Outgoing {
  TransportAddress source;
  TransportAddress destination;  // of the same family
  uint8_t ttl = 64;
  uint8_t tos = 0;
  bool dont_fragment = false;   // IPv4 only
  uint16_t identification = 0;  // IPv4; unique per address pair unless dont_fragment (RFC 6864)
  uint32_t flow_label = 0;      // IPv6, 20 bits: 0 or a hash of the 5-tuple, never a copy
  BodySum body;
};

// The part [piece, piece + length) of a received payload, by subtracting what lies around it. When
// the sender's sum is unknown so is the piece's. `piece` must lie within the payload.
[[nodiscard]] inline BodySum piece_sum(const Parsed& received, const uint8_t* piece,
                                       size_t length) {
  if (!received.sum_known) return {};
  const auto before = static_cast<size_t>(piece - received.payload);
  const size_t after = received.length - before - length;
  uint64_t total = checksum::subtract(received.payload_sum,
                                      checksum::fold(checksum::sum(received.payload, before)));
  if (after != 0) {
    uint16_t tail = checksum::fold(checksum::sum(piece + length, after));
    if (((before + length) & 1) != 0) tail = checksum::at_odd_offset(tail);
    total = checksum::subtract(total, tail);
  }
  uint16_t sum = checksum::fold(total);
  if ((before & 1) != 0) sum = checksum::at_odd_offset(sum);
  return {sum, true};
}

// `head` (read) before a body whose sum is known.
[[nodiscard]] inline BodySum with_head(BodySum body, const uint8_t* head, size_t head_length) {
  if (!body.known) return body;
  const uint16_t rest = (head_length & 1) != 0 ? checksum::at_odd_offset(body.sum) : body.sum;
  return {checksum::fold(checksum::sum(head, head_length, rest)), true};
}

// By reading: for bodies the relay made itself, and IPv4 datagrams without checksum that leave by
// IPv6.
[[nodiscard]] inline BodySum full_sum(const uint8_t* body, size_t length) {
  return {checksum::fold(checksum::sum(body, length)), true};
}

namespace detail {
inline size_t write_ethernet(uint8_t* ip, const Link& link, uint16_t ether_type) {
  store_be16(ip - 2, ether_type);
  uint8_t* addresses = ip - kEthernetHeader;
  if (link.vlan_tci != kNoVlan) {
    store_be16(ip - 4, link.vlan_tci);
    store_be16(ip - 6, kEtherVlan);
    addresses -= kVlanTag;
  }
  std::memcpy(addresses, link.to.data(), 6);
  std::memcpy(addresses + 6, link.from.data(), 6);
  return static_cast<size_t>(ip - addresses);
}

// Ports, length and checksum; `total`: pseudo-header (length included) plus body.
inline void write_udp(uint8_t* udp, const Outgoing& o, uint16_t length, uint64_t total) {
  store_be16(udp, o.source.port);
  store_be16(udp + 2, o.destination.port);
  store_be16(udp + 4, length);
  uint16_t field = 0;
  if (o.body.known) {
    field =
        checksum::udp_field(total + checksum::wire_word(o.source.port) +
                            checksum::wire_word(o.destination.port) + checksum::wire_word(length));
  }
  checksum::store_word(udp + 6, field);
}

[[nodiscard]] size_t write_headers_v6(uint8_t* body, size_t length, const Link& link,
                                      const Outgoing& o);
}  // namespace detail

// Writes Ethernet, IP and UDP headers that end where `body` (of `length` bytes) begins, and returns
// how many bytes they are: the frame is [body - result, body + length). 0: the body is too long for
// the family, or IPv6 was asked for without a body sum; nothing was written. At least kMaxHeaders
// bytes before `body` must be writable.
[[nodiscard]] inline size_t write_headers(uint8_t* body, size_t length, const Link& link,
                                          const Outgoing& o) {
  if (!o.destination.ip.is_v4()) return detail::write_headers_v6(body, length, link, o);
  if (length > kMaxBodyIpv4) return 0;
  const auto udp_length = static_cast<uint16_t>(length + kUdpHeader);
  uint8_t* const udp = body - kUdpHeader;
  uint8_t* const ip = udp - kIpv4Header;
  const uint32_t source = checksum::load_pair(o.source.ip.wire());
  const uint32_t destination = checksum::load_pair(o.destination.ip.wire());
  const uint64_t addresses = uint64_t{source} + destination;
  detail::write_udp(
      udp, o, udp_length,
      addresses + checksum::wire_word(kProtocolUdp) + checksum::wire_word(udp_length) + o.body.sum);
  // As three big-endian words: version, length, TOS, total length; identification, flags; TTL,
  // protocol.
  const uint32_t first = to_big_endian(0x45000000u | uint32_t{o.tos} << 16 |
                                       static_cast<uint32_t>(udp_length + kIpv4Header));
  const uint32_t second =
      to_big_endian(uint32_t{o.identification} << 16 | (o.dont_fragment ? 0x4000u : 0u));
  const uint32_t third = to_big_endian(uint32_t{o.ttl} << 24 | uint32_t{kProtocolUdp} << 16);
  const auto header = static_cast<uint16_t>(~checksum::fold(addresses + first + second + third));
  std::memcpy(ip, &first, 4);
  std::memcpy(ip + 4, &second, 4);
  std::memcpy(ip + 8, &third, 4);
  checksum::store_word(ip + 10, header);
  std::memcpy(ip + 12, &source, 4);
  std::memcpy(ip + 16, &destination, 4);
  return kUdpHeader + kIpv4Header + detail::write_ethernet(ip, link, kEtherIpv4);
}

// The UDP header of a datagram whose body is not behind it but will follow in pieces. `body_length`
// must fit the family.
void write_udp_header(uint8_t* udp, size_t body_length, const Outgoing& o);

// A piece of a datagram (UDP header and body) that is sent in fragments: IPv4's own fields
// (RFC 791), or a Fragment header (RFC 8200 section 4.5).
struct Piece {
  size_t offset = 0;  // a multiple of 8
  bool more = false;
  uint32_t identification = 0;  // of all pieces; of IPv4 the low 16 bits
};
// What write_piece_headers() may put before a piece.
inline constexpr size_t kMaxPieceHeaders =
    kEthernetHeader + kVlanTag + kIpv6Header + kIpv6FragmentHeader;

// Writes Ethernet and IP headers that end where `data` (of `length` bytes) begins, and returns how
// many bytes they are.
[[nodiscard]] size_t write_piece_headers(uint8_t* data, size_t length, const Piece& piece,
                                         const Link& link, const Outgoing& o);

}  // namespace culvert::frame
