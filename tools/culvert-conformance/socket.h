// A UDP socket of the suite: blocking with a deadline, and able to set and see the header fields
// that RFC 8656 sections 13 to 15 speak of (DSCP and ECN, TTL, IPv4 options, flow label). One
// owner, one thread. Errors of the operating system are std::system_error.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "dataplane/base/address.h"
#include "tools/stun_client/message.h"

namespace culvert::conformance {

using Bytes = stun_client::Bytes;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// A UDP payload is at most 65,507 bytes; one more shows a truncation.
inline constexpr size_t kReceiveBuffer = 65'508;

struct Datagram {
  std::vector<uint8_t> payload;
  TransportAddress from;
  int tos = -1;  // -1: the kernel did not say
  int ttl = -1;
  bool options = false;  // the IPv4 header carried some
  uint32_t flow_label = 0;
};

class UdpSocket {
 public:
  // Bound to `ip` and a port that this run has not used lately, or the one given.
  explicit UdpSocket(const IpAddress& ip, uint16_t port = 0);
  ~UdpSocket();
  UdpSocket(UdpSocket&& other) noexcept : fd_(other.fd_), address_(other.address_) {
    other.fd_ = -1;
  }
  UdpSocket(const UdpSocket&) = delete;
  UdpSocket& operator=(const UdpSocket&) = delete;
  UdpSocket& operator=(UdpSocket&&) = delete;

  [[nodiscard]] const TransportAddress& address() const { return address_; }
  [[nodiscard]] int fd() const { return fd_; }
  void set_tos(int tos);
  void set_ttl(int ttl);
  void set_no_operation_options();  // IPv4: four bytes of NOP
  void set_dont_fragment(bool on);  // IPv4: the DF bit; IPv6: no fragmentation here
  // IPv6: fragments of at most `size` bytes; 0: as large as the path takes.
  void set_fragment_size(int size);
  void set_flow_label(uint32_t label);  // IPv6, of what is sent from now on
  void send(const TransportAddress& to, Bytes payload);
  // nullopt: nothing came until `deadline`. ICMP errors are not errors of the test.
  [[nodiscard]] std::optional<Datagram> receive(Clock::time_point deadline);

 private:
  int fd_ = -1;
  TransportAddress address_;
  uint32_t flow_label_ = 0;
};

// The local address that the kernel would send from to `to`.
[[nodiscard]] IpAddress source_towards(const TransportAddress& to);
// "127.0.0.1:3478", "[::1]:3478", "relay.example:3478"; the first address that the name has.
[[nodiscard]] TransportAddress resolve(const std::string& host_and_port);

}  // namespace culvert::conformance
