// Where a datagram goes next: the network of one of our ports, else a gateway, else back to whoever
// was heard from. A handful of prefixes, compared in a row; read-only after start.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "dataplane/base/address.h"

namespace culvert {

// An address of ours on a port, with the network it stands in.
struct PortAddress {
  IpAddress ip;
  uint8_t prefix_bits = 0;  // within the address's own family
  uint8_t port = 0;         // position in EAL's order
};

class Routes {
 public:
  struct Route {
    IpAddress target;                 // whose link address is wanted
    const PortAddress* by = nullptr;  // our end of that network; nullptr: where it was heard
  };

  Routes() = default;
  Routes(std::span<const PortAddress> addresses, std::span<const IpAddress> gateways) {
    for (const PortAddress& a : addresses)
      networks_.push_back(
          {a, word(a.ip, 0) & mask(a, 0), word(a.ip, 1) & mask(a, 1), mask(a, 0), mask(a, 1)});
    for (const IpAddress& gateway : gateways) {
      if (const PortAddress* by = network_of(gateway))
        gateways_[gateway.is_v6() ? 1 : 0] = {gateway, by};
    }
  }

  // The network that contains `ip`, the longest prefix where several do; nullptr: none.
  [[nodiscard]] const PortAddress* network_of(const IpAddress& ip) const {
    const uint64_t high = word(ip, 0);
    const uint64_t low = word(ip, 1);
    const Network* best = nullptr;
    for (const Network& n : networks_) {
      if (((high & n.mask_high) ^ n.high) != 0 || ((low & n.mask_low) ^ n.low) != 0) continue;
      if (n.address.ip.family != ip.family) continue;
      if (best == nullptr || n.address.prefix_bits > best->address.prefix_bits) best = &n;
    }
    return best == nullptr ? nullptr : &best->address;
  }

  [[nodiscard]] Route route(const IpAddress& to) const {
    if (const PortAddress* by = network_of(to)) return {to, by};
    const Route& gateway = gateways_[to.is_v6() ? 1 : 0];
    if (gateway.by != nullptr) return gateway;
    return {to, nullptr};
  }
  // Whether datagrams are a source's only trace: it is on no network of ours and there is no
  // gateway to go by.
  [[nodiscard]] bool learns_from(const IpAddress& source) const {
    return gateways_[source.is_v6() ? 1 : 0].by == nullptr && network_of(source) == nullptr;
  }

 private:
  struct Network {
    PortAddress address;
    uint64_t high, low, mask_high, mask_low;  // as words in memory
  };
  [[nodiscard]] static uint64_t word(const IpAddress& ip, size_t i) {
    uint64_t w;
    std::memcpy(&w, ip.bytes.data() + 8 * i, sizeof w);
    return w;
  }
  // IPv4 stands in v4-mapped form: its prefix is 96 bits longer.
  [[nodiscard]] static uint64_t mask(const PortAddress& a, size_t i) {
    const unsigned bits = a.prefix_bits + (a.ip.is_v4() ? 96u : 0u);
    const unsigned here = bits <= 64 * i ? 0 : (bits - 64 * i > 64 ? 64 : unsigned(bits - 64 * i));
    return here == 0 ? 0 : to_big_endian(~uint64_t{0} << (64 - here));
  }

  std::vector<Network> networks_;
  std::array<Route, 2> gateways_;
};

}  // namespace culvert
