#include "dataplane/wire/icmp.h"

#include <algorithm>
#include <cstring>

namespace culvert::frame {

namespace {

constexpr size_t kIcmpHeader = 8;
constexpr uint8_t kTtl = 64;

size_t write_v4(uint8_t* ip, const IpAddress& from, const IpAddress& to, IcmpError error,
                uint32_t mtu, std::span<const uint8_t> packet) {
  const size_t quoted = std::min(packet.size(), kMaxIcmpErrorIpv4 - kIpv4Header - kIcmpHeader);
  const size_t total = kIpv4Header + kIcmpHeader + quoted;
  store_be32(ip, 0x45000000u | static_cast<uint32_t>(total));
  store_be32(ip + 4, 0x4000);  // never cut again, so its identification means nothing
  ip[8] = kTtl;
  ip[9] = kProtocolIcmp;
  store_be16(ip + 10, 0);
  std::memcpy(ip + 12, from.wire(), 4);
  std::memcpy(ip + 16, to.wire(), 4);
  checksum::store_word(ip + 10, checksum::full({ip, kIpv4Header}));
  uint8_t* const icmp = ip + kIpv4Header;
  const bool too_big = error == IcmpError::kTooBig;
  store_be32(icmp, too_big ? 0x03040000u : 0x0b000000u);
  store_be32(icmp + 4, too_big ? std::min<uint32_t>(mtu, 0xffff) : 0);
  std::memcpy(icmp + kIcmpHeader, packet.data(), quoted);
  checksum::store_word(icmp + 2, checksum::full({icmp, kIcmpHeader + quoted}));
  return total;
}

size_t write_v6(uint8_t* ip, const IpAddress& from, const IpAddress& to, IcmpError error,
                uint32_t mtu, std::span<const uint8_t> packet) {
  const size_t quoted = std::min(packet.size(), kMaxIcmpErrorIpv6 - kIpv6Header - kIcmpHeader);
  const auto length = static_cast<uint16_t>(kIcmpHeader + quoted);
  store_be32(ip, 0x60000000u);
  store_be16(ip + 4, length);
  ip[6] = kProtocolIcmpv6;
  ip[7] = kTtl;
  std::memcpy(ip + 8, from.wire(), 16);
  std::memcpy(ip + 24, to.wire(), 16);
  uint8_t* const icmp = ip + kIpv6Header;
  const bool too_big = error == IcmpError::kTooBig;
  store_be32(icmp, too_big ? 0x02000000u : 0x03000000u);
  store_be32(icmp + 4, too_big ? mtu : 0);
  std::memcpy(icmp + kIcmpHeader, packet.data(), quoted);
  const uint64_t pseudo = checksum::pseudo_v6(ip + 8, ip + 24, kProtocolIcmpv6, length);
  checksum::store_word(icmp + 2,
                       static_cast<uint16_t>(~checksum::fold(checksum::sum(icmp, length, pseudo))));
  return kIpv6Header + length;
}

}  // namespace

size_t write_icmp_error(std::span<uint8_t> room, const Link& link, const IpAddress& from,
                        const IpAddress& to, IcmpError error, uint32_t mtu,
                        std::span<const uint8_t> packet) {
  const size_t ethernet = kEthernetHeader + (link.vlan_tci != kNoVlan ? kVlanTag : 0);
  uint8_t* const ip = room.data() + ethernet;
  (void)detail::write_ethernet(ip, link, to.is_v4() ? kEtherIpv4 : kEtherIpv6);
  return ethernet + (to.is_v4() ? write_v4(ip, from, to, error, mtu, packet)
                                : write_v6(ip, from, to, error, mtu, packet));
}

}  // namespace culvert::frame
