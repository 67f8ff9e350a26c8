// The rare half of the frame layer: VLAN tags, IPv4 options, IPv6 with its extension headers, ICMP
// errors. Same invariants as frame.h; the costs here are tens of cycles and do not matter, except
// IPv6 UDP, which takes one call more than IPv4.
#include "dataplane/wire/frame.h"

namespace culvert::frame {
namespace {

constexpr uint8_t kHopByHop = 0;
constexpr uint8_t kRouting = 43;
constexpr uint8_t kFragmentHeader = 44;
constexpr uint8_t kDestinationOptions = 60;
constexpr size_t kIcmpHeader = 8;

constexpr uint8_t kOptionEnd = 0;
constexpr uint8_t kOptionNop = 1;
constexpr uint8_t kOptionLooseRoute = 131;
constexpr uint8_t kOptionStrictRoute = 137;

// k_udp: nothing against these options.
Kind check_ipv4_options(std::span<const uint8_t> options) {
  size_t at = 0;
  while (at < options.size() && options[at] != kOptionEnd) {
    const uint8_t type = options[at];
    if (type == kOptionNop) {
      ++at;
      continue;
    }
    if (at + 2 > options.size()) return Kind::k_bad_ip_header;
    const size_t length = options[at + 1];
    if (length < 2 || at + length > options.size()) return Kind::k_bad_ip_header;
    if (type == kOptionLooseRoute || type == kOptionStrictRoute) return Kind::k_source_routed;
    at += length;
  }
  return Kind::k_udp;
}

// Where the upper layer of an IPv6 packet begins. `ip` holds the fixed header and is already cut to
// what the packet says it is; a quoted packet may end early.
struct UpperLayer {
  Kind refused = Kind::k_udp;  // k_udp: found
  uint8_t protocol = 0;
  size_t offset = 0;
};

UpperLayer find_upper_layer(std::span<const uint8_t> ip) {
  UpperLayer upper{Kind::k_udp, ip[6], kIpv6Header};
  for (int count = 0;; ++count) {
    const uint8_t type = upper.protocol;
    if (type != kHopByHop && type != kRouting && type != kFragmentHeader &&
        type != kDestinationOptions) {
      return upper;
    }
    if (count == kMaxExtensionHeaders || (type == kHopByHop && count != 0)) {
      upper.refused = Kind::k_bad_extension_headers;
      return upper;
    }
    if (upper.offset + 8 > ip.size()) {
      upper.refused = Kind::k_truncated;
      return upper;
    }
    const uint8_t* header = ip.data() + upper.offset;
    size_t length = (size_t{header[1]} + 1) * 8;
    if (type == kRouting && header[3] != 0) upper.refused = Kind::k_source_routed;
    if (type == kFragmentHeader) {
      length = 8;
      // An atomic fragment (offset 0, none to follow) is a whole packet (RFC 6946).
      if ((load_be16(header + 2) & 0xfff9) != 0) upper.refused = Kind::k_fragment;
    }
    upper.protocol = header[0];
    upper.offset += length;
    if (upper.offset > kIpv6Header + kMaxExtensionBytes) {
      upper.refused = Kind::k_bad_extension_headers;
    }
    if (upper.refused != Kind::k_udp) return upper;
    if (upper.offset > ip.size()) {
      upper.refused = Kind::k_truncated;
      return upper;
    }
  }
}

bool quotes_a_datagram(uint8_t type, bool is_v6) {
  if (is_v6) return type >= 1 && type <= 4;  // RFC 4443: unreachable, too big, exceeded, parameter
  return type == 3 || type == 4 || type == 11 || type == 12;  // RFC 792
}

// The quoted packet: its own IP header and at least the UDP header (RFC 792 promises just that).
Kind parse_quoted(std::span<const uint8_t> quoted, bool is_v6, Parsed& out) {
  size_t offset = 0;
  uint8_t protocol = 0;
  if (is_v6) {
    if (quoted.size() < kIpv6Header) return Kind::k_bad_icmp;
    if (quoted[0] >> 4 != 6) return Kind::k_bad_icmp;
    const UpperLayer upper = find_upper_layer(quoted);
    const bool fragment = upper.refused == Kind::k_fragment;
    if (fragment && (load_be16(&quoted[upper.offset - kIpv6FragmentHeader + 2]) & 0xfff8) != 0)
      return Kind::k_other_protocol;  // no UDP header in it
    if (!fragment && upper.refused != Kind::k_udp) return Kind::k_bad_icmp;
    offset = upper.offset;
    protocol = upper.protocol;
    out.source.ip = IpAddress::v6_bytes(&quoted[8]);
    out.destination.ip = IpAddress::v6_bytes(&quoted[24]);
  } else {
    if (quoted.size() < kIpv4Header) return Kind::k_bad_icmp;
    offset = (quoted[0] & 0x0fu) * size_t{4};
    if (quoted[0] >> 4 != 4 || offset < kIpv4Header) return Kind::k_bad_icmp;
    if ((load_be16(&quoted[6]) & 0x1fff) != 0)
      return Kind::k_other_protocol;  // no UDP header in it
    protocol = quoted[9];
    out.source.ip = IpAddress::v4_bytes(&quoted[12]);
    out.destination.ip = IpAddress::v4_bytes(&quoted[16]);
  }
  if (protocol != kProtocolUdp) return Kind::k_other_protocol;
  if (quoted.size() < offset + kUdpHeader) return Kind::k_bad_icmp;
  const uint8_t* udp = quoted.data() + offset;
  out.source.port = load_be16(udp);
  out.destination.port = load_be16(udp + 2);
  const size_t said = load_be16(udp + 4);
  if (said < kUdpHeader) return Kind::k_bad_icmp;
  const size_t there = quoted.size() - offset - kUdpHeader;
  out.payload = udp + kUdpHeader;
  out.length = static_cast<uint16_t>(said - kUdpHeader < there ? said - kUdpHeader : there);
  return Kind::k_icmp_error;
}

// `icmp`: the whole ICMP message; `pseudo`: 0 for ICMPv4, which has no pseudo-header.
Kind parse_icmp(std::span<const uint8_t> icmp, uint64_t pseudo, bool is_v6, Parsed& out) {
  if (icmp.size() < kIcmpHeader) return Kind::k_truncated;
  if (!quotes_a_datagram(icmp[0], is_v6)) return Kind::k_other_protocol;
  if (checksum::fold(checksum::sum(icmp.data(), icmp.size(), pseudo)) != 0xffff) {
    return Kind::k_bad_icmp;
  }
  out.icmp_type = icmp[0];
  out.icmp_code = icmp[1];
  out.icmp_mtu = 0;
  if (is_v6 && icmp[0] == 2) out.icmp_mtu = load_be32(&icmp[4]);
  if (!is_v6 && icmp[0] == 3 && icmp[1] == 4) out.icmp_mtu = load_be16(&icmp[6]);
  out.sum_known = false;
  out.payload_sum = 0;
  return parse_quoted(icmp.subspan(kIcmpHeader), is_v6, out);
}

Kind parse_ipv4(std::span<const uint8_t> ip, Verify verify, Parsed& out) {
  if (ip.size() < kIpv4Header) return Kind::k_truncated;
  const size_t header = (ip[0] & 0x0fu) * size_t{4};
  const size_t total = load_be16(&ip[2]);
  if (ip[0] >> 4 != 4 || header < kIpv4Header || total < header) return Kind::k_bad_ip_header;
  if (total > ip.size()) return Kind::k_truncated;
  if (checksum::fold(checksum::sum(ip.data(), header)) != 0xffff) return Kind::k_bad_ip_checksum;
  const Kind options = check_ipv4_options(ip.subspan(kIpv4Header, header - kIpv4Header));
  if (options != Kind::k_udp) return options;
  const uint8_t protocol = ip[9];
  if (protocol != kProtocolUdp && protocol != kProtocolIcmp) return Kind::k_other_protocol;
  const uint16_t fragment = load_be16(&ip[6]);
  if ((fragment & 0x3fff) != 0) return Kind::k_fragment;
  out.dont_fragment = (fragment & 0x4000) != 0;
  out.ttl = ip[8];
  out.tos = ip[1];
  const auto upper = ip.subspan(header, total - header);
  if (protocol == kProtocolIcmp) return parse_icmp(upper, 0, false, out);
  out.source.ip = IpAddress::v4_bytes(&ip[12]);
  out.destination.ip = IpAddress::v4_bytes(&ip[16]);
  // The length is added by parse_udp(), from the UDP header, as RFC 768 has it.
  const uint64_t pseudo = checksum::pseudo_v4(&ip[12], &ip[16], kProtocolUdp, 0);
  return detail::parse_udp(upper.data(), upper.size(), pseudo, false, verify, out);
}

Kind parse_ipv6(std::span<const uint8_t> ip, Verify verify, Parsed& out) {
  if (ip.size() < kIpv6Header) return Kind::k_truncated;
  if (ip[0] >> 4 != 6) return Kind::k_bad_ip_header;
  const size_t payload = load_be16(&ip[4]);
  if (payload == 0) return Kind::k_bad_ip_header;  // nothing in it, or a jumbogram
  if (payload > ip.size() - kIpv6Header) return Kind::k_truncated;
  ip = ip.first(kIpv6Header + payload);
  const UpperLayer upper = find_upper_layer(ip);
  if (upper.refused != Kind::k_udp) return upper.refused;
  out.dont_fragment = true;
  out.ttl = ip[7];
  out.tos = static_cast<uint8_t>(load_be16(ip.data()) >> 4);
  const auto body = ip.subspan(upper.offset);
  if (upper.protocol == kProtocolIcmpv6) {
    const uint64_t pseudo =
        checksum::pseudo_v6(&ip[8], &ip[24], kProtocolIcmpv6, static_cast<uint16_t>(body.size()));
    return parse_icmp(body, pseudo, true, out);
  }
  if (upper.protocol != kProtocolUdp) return Kind::k_other_protocol;
  out.source.ip = IpAddress::v6_bytes(&ip[8]);
  out.destination.ip = IpAddress::v6_bytes(&ip[24]);
  const uint64_t pseudo = checksum::pseudo_v6(&ip[8], &ip[24], kProtocolUdp, 0);
  return detail::parse_udp(body.data(), body.size(), pseudo, true, verify, out);
}

}  // namespace

bool parse_fragment(std::span<const uint8_t> frame, Fragment& out) {
  Parsed parsed;
  if (parse(frame, Verify::kHeaders, parsed) != Kind::k_fragment) return false;
  // All lengths up to the fragment's data have been checked.
  const bool tagged = load_be16(&frame[12]) == kEtherVlan;
  out.vlan_tci = tagged ? load_be16(&frame[14]) : kNoVlan;
  auto ip = frame.subspan(kEthernetHeader + (tagged ? kVlanTag : 0));
  if (ip[0] >> 4 == 4) {
    const size_t header = (ip[0] & 0x0fu) * size_t{4};
    const uint16_t flags = load_be16(&ip[6]);
    out.source = IpAddress::v4_bytes(&ip[12]);
    out.destination = IpAddress::v4_bytes(&ip[16]);
    out.identification = load_be16(&ip[4]);
    out.offset = (flags & 0x1fffu) * 8u;
    out.more = (flags & 0x2000) != 0;
    out.protocol = ip[9];
    out.ttl = ip[8];
    out.tos = ip[1];
    out.headers = static_cast<uint16_t>(header);
    out.data = ip.subspan(header, load_be16(&ip[2]) - header);
    return true;
  }
  ip = ip.first(kIpv6Header + load_be16(&ip[4]));
  const UpperLayer upper = find_upper_layer(ip);
  const uint8_t* const header = &ip[upper.offset - kIpv6FragmentHeader];
  const uint16_t flags = load_be16(header + 2);
  out.source = IpAddress::v6_bytes(&ip[8]);
  out.destination = IpAddress::v6_bytes(&ip[24]);
  out.identification = load_be32(header + 4);
  out.offset = flags & 0xfff8u;
  out.more = (flags & 1) != 0;
  out.protocol = upper.protocol;
  out.ttl = ip[7];
  out.tos = static_cast<uint8_t>(load_be16(ip.data()) >> 4);
  out.headers = static_cast<uint16_t>(upper.offset - kIpv6FragmentHeader - kIpv6Header);
  out.data = ip.subspan(upper.offset);
  return true;
}

void write_udp_header(uint8_t* udp, size_t body_length, const Outgoing& o) {
  const auto length = static_cast<uint16_t>(body_length + kUdpHeader);
  const uint8_t* const source = o.source.ip.wire();
  const uint8_t* const destination = o.destination.ip.wire();
  const uint64_t pseudo = o.destination.ip.is_v4()
                              ? checksum::pseudo_v4(source, destination, kProtocolUdp, length)
                              : checksum::pseudo_v6(source, destination, kProtocolUdp, length);
  detail::write_udp(udp, o, length, pseudo + o.body.sum);
}

size_t write_piece_headers(uint8_t* data, size_t length, const Piece& piece, const Link& link,
                           const Outgoing& o) {
  if (o.destination.ip.is_v4()) {
    uint8_t* const ip = data - kIpv4Header;
    store_be16(ip, static_cast<uint16_t>(0x4500u | o.tos));
    store_be16(ip + 2, static_cast<uint16_t>(length + kIpv4Header));
    store_be16(ip + 4, static_cast<uint16_t>(piece.identification));
    store_be16(ip + 6, static_cast<uint16_t>(piece.offset / 8 | (piece.more ? 0x2000u : 0u)));
    ip[8] = o.ttl;
    ip[9] = kProtocolUdp;
    store_be16(ip + 10, 0);
    std::memcpy(ip + 12, o.source.ip.wire(), 4);
    std::memcpy(ip + 16, o.destination.ip.wire(), 4);
    checksum::store_word(ip + 10, checksum::full({ip, kIpv4Header}));
    return kIpv4Header + detail::write_ethernet(ip, link, kEtherIpv4);
  }
  uint8_t* const header = data - kIpv6FragmentHeader;
  uint8_t* const ip = header - kIpv6Header;
  header[0] = kProtocolUdp;
  header[1] = 0;
  store_be16(header + 2, static_cast<uint16_t>(piece.offset | (piece.more ? 1u : 0u)));
  store_be32(header + 4, piece.identification);
  store_be32(ip, 0x60000000u | uint32_t{o.tos} << 20 | (o.flow_label & 0xfffffu));
  store_be16(ip + 4, static_cast<uint16_t>(length + kIpv6FragmentHeader));
  ip[6] = kFragmentHeader;
  ip[7] = o.ttl;
  std::memcpy(ip + 8, o.source.ip.bytes.data(), 16);
  std::memcpy(ip + 24, o.destination.ip.bytes.data(), 16);
  return kIpv6FragmentHeader + kIpv6Header + detail::write_ethernet(ip, link, kEtherIpv6);
}

namespace detail {

Kind parse_rare(std::span<const uint8_t> frame, Verify verify, Parsed& out) {
  if (frame.size() < kEthernetHeader) return Kind::k_truncated;
  uint16_t type = load_be16(&frame[12]);
  size_t offset = kEthernetHeader;
  out.vlan_tci = kNoVlan;
  if (type == kEtherVlan) {
    if (frame.size() < kEthernetHeader + kVlanTag) return Kind::k_truncated;
    out.vlan_tci = load_be16(&frame[14]);
    type = load_be16(&frame[16]);
    offset += kVlanTag;
  }
  if (type == kEtherIpv4) return parse_ipv4(frame.subspan(offset), verify, out);
  if (type == kEtherIpv6) return parse_ipv6(frame.subspan(offset), verify, out);
  return Kind::k_not_ip;
}

size_t write_headers_v6(uint8_t* body, size_t length, const Link& link, const Outgoing& o) {
  if (length > kMaxBodyIpv6 || !o.body.known) return 0;
  const auto udp_length = static_cast<uint16_t>(length + kUdpHeader);
  uint8_t* const udp = body - kUdpHeader;
  uint8_t* const ip = udp - kIpv6Header;
  store_be32(ip, 0x60000000u | uint32_t{o.tos} << 20 | (o.flow_label & 0xfffffu));
  store_be16(ip + 4, udp_length);
  ip[6] = kProtocolUdp;
  ip[7] = o.ttl;
  std::memcpy(ip + 8, o.source.ip.bytes.data(), 16);
  std::memcpy(ip + 24, o.destination.ip.bytes.data(), 16);
  write_udp(udp, o, udp_length,
            checksum::pseudo_v6(ip + 8, ip + 24, kProtocolUdp, udp_length) + o.body.sum);
  return kUdpHeader + kIpv6Header + write_ethernet(ip, link, kEtherIpv6);
}

}  // namespace detail
}  // namespace culvert::frame
