#include "tools/culvert-conformance/capture.h"

#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "dataplane/base/endian.h"

namespace culvert::conformance {
namespace {

constexpr size_t kIpv4Header = 20;
constexpr size_t kIpv6Header = 40;
constexpr size_t kIpv6FragmentHeader = 8;
constexpr size_t kUdpHeader = 8;
constexpr uint8_t kFragmentHeader = 44;
constexpr uint16_t kDontFragment = 0x4000;
constexpr uint16_t kMoreOrOffset = 0x3fff;
constexpr uint8_t kUnreachable = 3, kPortUnreachable = 3, kFragmentationNeeded = 4;
constexpr uint8_t kPacketTooBig = 2;  // ICMPv6

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

// What follows the IP header of a first or only fragment.
void parse_transport(Bytes rest, Packet& out) {
  if (rest.size() < kUdpHeader) return;
  if (out.protocol == IPPROTO_UDP) {
    out.from.port = load_be16(rest.data());
    out.to.port = load_be16(&rest[2]);
  } else if (out.protocol == IPPROTO_ICMP || out.protocol == IPPROTO_ICMPV6) {
    out.icmp_type = rest[0];
    out.icmp_code = rest[1];
    if (out.protocol == IPPROTO_ICMPV6 && out.icmp_type == kPacketTooBig)
      out.icmp_mtu = load_be32(&rest[4]);
    if (out.protocol == IPPROTO_ICMP && out.icmp_type == kUnreachable &&
        out.icmp_code == kFragmentationNeeded)
      out.icmp_mtu = load_be16(&rest[6]);
  }
}

std::optional<Packet> parse_ipv4(Bytes packet) {
  const size_t header = size_t{packet[0]} % 16 * 4;
  if (packet.size() < kIpv4Header || header < kIpv4Header || packet.size() < header)
    return std::nullopt;
  const uint16_t flags = load_be16(&packet[6]);
  Packet out;
  out.from.ip = IpAddress::v4_bytes(&packet[12]);
  out.to.ip = IpAddress::v4_bytes(&packet[16]);
  out.protocol = packet[9];
  out.tos = packet[1];
  out.ttl = packet[8];
  out.size = load_be16(&packet[2]);
  out.dont_fragment = (flags & kDontFragment) != 0;
  out.fragment = (flags & kMoreOrOffset) != 0;
  if ((flags & 0x1fff) == 0) parse_transport(packet.subspan(header), out);
  return out;
}

std::optional<Packet> parse_ipv6(Bytes packet) {
  if (packet.size() < kIpv6Header) return std::nullopt;
  const uint32_t first = load_be32(packet.data());
  Packet out;
  out.from.ip = IpAddress::v6_bytes(&packet[8]);
  out.to.ip = IpAddress::v6_bytes(&packet[24]);
  out.protocol = packet[6];
  out.tos = static_cast<uint8_t>(first >> 20);
  out.flow_label = first & 0xfffff;
  out.ttl = packet[7];
  out.size = kIpv6Header + load_be16(&packet[4]);
  Bytes rest = packet.subspan(kIpv6Header);
  bool starts = true;
  if (out.protocol == kFragmentHeader) {
    if (rest.size() < kIpv6FragmentHeader) return std::nullopt;
    out.fragment = true;
    out.protocol = rest[0];
    starts = (load_be16(&rest[2]) & 0xfff8) == 0;
    rest = rest.subspan(kIpv6FragmentHeader);
  }
  if (starts) parse_transport(rest, out);
  return out;
}

// RFC 1071.
uint16_t checksum(Bytes data) {
  uint32_t sum = 0;
  for (size_t i = 0; i + 1 < data.size(); i += 2)
    sum += load_be16(&data[i]);
  while (sum >> 16 != 0)
    sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

void put_ipv4_header(uint8_t* at, size_t size, uint8_t protocol, const IpAddress& from,
                     const IpAddress& to) {
  at[0] = 0x45;
  store_be16(at + 2, static_cast<uint16_t>(size));
  at[8] = 64;
  at[9] = protocol;
  std::memcpy(at + 12, from.wire(), 4);
  std::memcpy(at + 16, to.wire(), 4);
  store_be16(at + 10, checksum({at, kIpv4Header}));
}

}  // namespace

std::optional<Packet> parse_packet(Bytes packet) {
  if (packet.empty()) return std::nullopt;
  if (packet[0] >> 4 == 4) return parse_ipv4(packet);
  if (packet[0] >> 4 == 6) return parse_ipv6(packet);
  return std::nullopt;
}

Capture::Capture(const std::string& interface) {
  const unsigned index = if_nametoindex(interface.c_str());
  if (index == 0) fail(("--capture " + interface).c_str());
  fd_ = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd_ < 0) fail("AF_PACKET socket");
  sockaddr_ll at{};
  at.sll_family = AF_PACKET;
  at.sll_protocol = htons(ETH_P_ALL);
  at.sll_ifindex = static_cast<int>(index);
  ifreq request{};
  interface.copy(request.ifr_name, sizeof request.ifr_name - 1);
  if (bind(fd_, reinterpret_cast<sockaddr*>(&at), sizeof at) != 0 ||
      ioctl(fd_, SIOCGIFMTU, &request) != 0) {
    const int error = errno;
    close(fd_);
    throw std::system_error(error, std::generic_category(), "--capture " + interface);
  }
  mtu_ = static_cast<size_t>(request.ifr_mtu);
}

Capture::~Capture() {
  close(fd_);
}

std::optional<Packet> Capture::read() {
  std::array<uint8_t, 256> start{};  // headers are enough
  sockaddr_ll from{};
  socklen_t size = sizeof from;
  const ssize_t got = recvfrom(fd_, start.data(), start.size(), MSG_DONTWAIT,
                               reinterpret_cast<sockaddr*>(&from), &size);
  if (got <= 0 || from.sll_pkttype == PACKET_OUTGOING) return std::nullopt;
  return parse_packet(Bytes(start).first(static_cast<size_t>(got)));
}

std::optional<Packet> Capture::next(Clock::time_point deadline, const Wanted& wanted) {
  for (;;) {
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now()).count();
    pollfd waiting{fd_, POLLIN, 0};
    const int ready = poll(&waiting, 1, left > 0 ? static_cast<int>(left) : 0);
    if (ready < 0 && errno != EINTR) fail("poll");
    if (ready == 0) return std::nullopt;
    const auto packet = read();
    if (packet && wanted(*packet)) return packet;
  }
}

void Capture::forget() {
  while (next(Clock::now(), [](const Packet&) { return true; })) {
  }
}

void forge_port_unreachable(const IpAddress& source, const TransportAddress& from,
                            const TransportAddress& to) {
  constexpr size_t kIcmpHeader = 8;
  std::array<uint8_t, kIpv4Header + kIcmpHeader + kIpv4Header + kUdpHeader> packet{};
  uint8_t* const icmp = &packet[kIpv4Header];
  uint8_t* const inner = icmp + kIcmpHeader;
  put_ipv4_header(inner, kIpv4Header + kUdpHeader, IPPROTO_UDP, from.ip, to.ip);
  store_be16(inner + kIpv4Header, from.port);
  store_be16(inner + kIpv4Header + 2, to.port);
  store_be16(inner + kIpv4Header + 4, kUdpHeader);
  icmp[0] = kUnreachable;
  icmp[1] = kPortUnreachable;
  store_be16(icmp + 2, checksum({icmp, packet.size() - kIpv4Header}));
  put_ipv4_header(packet.data(), packet.size(), IPPROTO_ICMP, source, from.ip);
  const int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
  if (fd < 0) fail("raw socket");
  sockaddr_in target{};
  target.sin_family = AF_INET;
  std::memcpy(&target.sin_addr, from.ip.wire(), 4);
  const bool sent = sendto(fd, packet.data(), packet.size(), 0,
                           reinterpret_cast<sockaddr*>(&target), sizeof target) >= 0;
  const int error = errno;
  close(fd);
  if (!sent) throw std::system_error(error, std::generic_category(), "raw send");
}

}  // namespace culvert::conformance
