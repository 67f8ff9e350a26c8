// What sockets do not show of the packets that arrive at this machine: header fields, fragments and
// ICMP errors, read from one interface by an AF_PACKET socket. Needs CAP_NET_RAW. Packets that this
// machine sends out are left aside; on the loopback interface each is seen once, arriving. One
// owner, one thread. Errors of the operating system are std::system_error.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "tools/culvert-conformance/socket.h"

namespace culvert::conformance {

struct Packet {
  TransportAddress from, to;  // ports are 0 unless the packet begins with a UDP header
  uint8_t protocol = 0;       // 1: ICMP, 17: UDP, 58: ICMPv6
  uint8_t tos = 0;            // or traffic class
  uint8_t ttl = 0;            // or hop limit
  bool dont_fragment = false;
  bool fragment = false;  // the packet is one of several of its datagram
  uint32_t flow_label = 0;
  size_t size = 0;  // of the packet with its IP header
  uint8_t icmp_type = 0, icmp_code = 0;
  uint32_t icmp_mtu = 0;  // of an ICMPv4 3/4 or ICMPv6 2
};

// nullopt: neither IPv4 nor IPv6, or cut short.
[[nodiscard]] std::optional<Packet> parse_packet(Bytes packet);

class Capture {
 public:
  explicit Capture(const std::string& interface);
  ~Capture();
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  using Wanted = std::function<bool(const Packet&)>;
  // The next packet that is wanted; others are dropped. nullopt: none came until `deadline`.
  [[nodiscard]] std::optional<Packet> next(Clock::time_point deadline, const Wanted& wanted);
  // Drops what has come so far.
  void forget();
  [[nodiscard]] size_t mtu() const { return mtu_; }

 private:
  [[nodiscard]] std::optional<Packet> read();

  int fd_ = -1;
  size_t mtu_ = 0;
};

// Sends an ICMPv4 error from `source`, which need not be an address of this machine, about a UDP
// datagram of `from` to `to` (RFC 792). Needs CAP_NET_RAW.
void forge_port_unreachable(const IpAddress& source, const TransportAddress& from,
                            const TransportAddress& to);

}  // namespace culvert::conformance
