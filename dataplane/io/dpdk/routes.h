// Where a datagram goes next: the longest prefix that holds its address, which is a network of one
// of our ports, or a gateway on one; else, on a bare port, back to whoever was heard from.
//
// Immutable. The prefixes stand in a row, longest first; those of one length are sorted and
// searched by halves. With the handful that a relay has this is one comparison each and faster than
// a trie. Routes of the kernel's change while the relay runs: RouteTable hands each core the row of
// the moment.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "dataplane/api/limits.h"
#include "dataplane/base/address.h"

namespace culvert {

// Prefixes in the row, of both families. Who has more (a full table of the Internet) has a gateway
// that knows them.
inline constexpr size_t kMaxRoutes = 256;
// Rows that wait until no core reads them any more.
inline constexpr size_t kMaxRetiredRoutes = 16;

// An address of ours on a port, with the network it stands in.
struct PortAddress {
  IpAddress ip;
  uint8_t prefix_bits = 0;  // within the address's own family
  uint8_t port = 0;         // position in EAL's order
};

// A route of the kernel's, over an interface beside one of our ports.
struct KernelRoute {
  IpAddress network;
  uint8_t prefix_bits = 0;  // within the network's own family; 0: the default route
  bool refused = false;     // blackhole, unreachable, prohibit: nothing is sent
  uint8_t port = 0;
  uint32_t metric = 0;  // the lowest of equal prefixes counts
  IpAddress gateway;    // of either family (RFC 5549); Family::kNone: on this link
  friend bool operator==(const KernelRoute&, const KernelRoute&) = default;
};

class Routes {
 public:
  struct Route {
    IpAddress target;                 // whose link address is wanted
    const PortAddress* by = nullptr;  // our end of that network; nullptr: where it was heard
  };
  struct Ports {
    std::span<const PortAddress> addresses;  // of all ports
    std::span<const IpAddress> gateways;     // configured: they count where no other route does
    uint32_t with_kernel = 0;  // bit n: port n, whose networks are what the kernel's routes say
  };

  Routes() = default;
  Routes(std::span<const PortAddress> addresses, std::span<const IpAddress> gateways)
      : Routes(Ports{addresses, gateways, 0}, {}) {}
  // Of more than kMaxRoutes routes only networks on a link and default routes are taken: left_out()
  // says how many were not.
  Routes(const Ports& ports, std::span<const KernelRoute> kernel)
      : ours_(ports.addresses.begin(), ports.addresses.end()) {
    for (const PortAddress& a : ours_) {
      if (a.port < 32 && (ports.with_kernel >> a.port & 1) != 0) continue;
      back_to_sender_ = true;
      add(a.ip, a.prefix_bits, 0, {IpAddress{}, &a});
    }
    const size_t others = row_.size() + ports.gateways.size();
    const bool too_many = kernel.size() + others > kMaxRoutes;
    for (const KernelRoute& r : kernel) {
      const bool wanted = !too_many || r.prefix_bits == 0 || r.gateway.family == Family::kNone;
      if (!wanted || row_.size() + ports.gateways.size() >= kMaxRoutes)
        ++left_out_;
      else if (r.refused)
        add(r.network, r.prefix_bits, r.metric, {IpAddress{}, nullptr}, true);
      else if (const PortAddress* by = our_end(r))
        add(r.network, r.prefix_bits, r.metric, {next(r), by});
    }
    for (const IpAddress& gateway : ports.gateways)
      if (const PortAddress* by = network_of(gateway))
        add(gateway.is_v4() ? IpAddress::v4(0) : zero_v6(), 0, UINT32_MAX, {gateway, by});
    group();
  }
  Routes(const Routes&) = delete;
  Routes& operator=(const Routes&) = delete;

  [[nodiscard]] Route route(const IpAddress& to) const {
    const uint64_t high = word(to, 0);
    const uint64_t low = word(to, 1);
    for (const Length& length : lengths_) {
      const Key key{high & length.mask.high, low & length.mask.low};
      const Key* at = length.first;
      // The first that is not less: of equal prefixes the one with the lowest metric.
      for (uint32_t count = length.count; count > 1;) {
        const uint32_t half = count / 2;
        at = at[half - 1] < key ? at + half : at;
        count -= half;
      }
      if (!(*at == key) || length.family != to.family) continue;
      const Prefix& p = row_[static_cast<size_t>(at - keys_.data())];
      if (p.refused) return {};
      return {p.route.target.family == Family::kNone ? to : p.route.target, p.route.by};
    }
    // An address that nobody has: in no table.
    return {back_to_sender_ ? to : IpAddress{}, nullptr};
  }
  // Whether datagrams are a source's only trace: no route holds its address.
  [[nodiscard]] bool learns_from(const IpAddress& source) const {
    return back_to_sender_ && route(source).by == nullptr;
  }
  // Of the networks of our own addresses the longest that holds `ip`; nullptr: none.
  [[nodiscard]] const PortAddress* network_of(const IpAddress& ip) const {
    const PortAddress* best = nullptr;
    for (const PortAddress& a : ours_)
      if (contains(a.ip, a.prefix_bits, ip) &&
          (best == nullptr || a.prefix_bits > best->prefix_bits))
        best = &a;
    return best;
  }
  [[nodiscard]] size_t size() const { return row_.size(); }
  [[nodiscard]] size_t left_out() const { return left_out_; }

  // A link-local address means something on its link alone. In tables of all links its second pair
  // of bytes, zero on the wire (RFC 4291 section 2.5.6), holds the port's number plus one.
  [[nodiscard]] static bool is_link_local(const IpAddress& ip) {
    return ip.is_v6() && ip.bytes[0] == 0xfe && (ip.bytes[1] & 0xc0) == 0x80;
  }
  [[nodiscard]] static IpAddress on_port(IpAddress ip, uint8_t port) {
    if (is_link_local(ip)) ip.bytes[3] = static_cast<uint8_t>(port + 1);
    return ip;
  }
  [[nodiscard]] static IpAddress on_wire(IpAddress ip) {
    if (is_link_local(ip)) ip.bytes[2] = ip.bytes[3] = 0;
    return ip;
  }

 private:
  // 16 bytes as words in memory; any order will do.
  struct Key {
    uint64_t high = 0;
    uint64_t low = 0;
    friend bool operator==(const Key& a, const Key& b) {
      return ((a.high ^ b.high) | (a.low ^ b.low)) == 0;
    }
    friend bool operator<(const Key& a, const Key& b) {
      return a.high != b.high ? a.high < b.high : a.low < b.low;
    }
  };
  struct Prefix {
    Key key;
    Family family;
    bool refused;
    uint8_t bits;  // of 128: IPv4 stands in v4-mapped form
    uint32_t metric;
    Route route;  // its target: Family::kNone where the addressee itself is the next hop
  };
  // The prefixes of one length and family: `count` keys from `first`.
  struct Length {
    Key mask;
    const Key* first = nullptr;
    uint32_t count = 0;
    Family family = Family::kNone;
  };
  [[nodiscard]] static uint64_t word(const IpAddress& ip, size_t i) {
    uint64_t w;
    std::memcpy(&w, ip.bytes.data() + 8 * i, sizeof w);
    return w;
  }
  // The leading `bits` of 128, as word `i` in memory.
  [[nodiscard]] static uint64_t mask(unsigned bits, size_t i) {
    const unsigned here = bits <= 64 * i ? 0 : (bits - 64 * i > 64 ? 64 : unsigned(bits - 64 * i));
    return here == 0 ? 0 : to_big_endian(~uint64_t{0} << (64 - here));
  }
  [[nodiscard]] static IpAddress zero_v6() {
    IpAddress ip;
    ip.family = Family::kIpv6;
    return ip;
  }
  [[nodiscard]] static bool contains(const IpAddress& network, uint8_t prefix_bits,
                                     const IpAddress& ip) {
    const unsigned bits = prefix_bits + (network.is_v4() ? 96u : 0u);
    return network.family == ip.family && ((word(network, 0) ^ word(ip, 0)) & mask(bits, 0)) == 0 &&
           ((word(network, 1) ^ word(ip, 1)) & mask(bits, 1)) == 0;
  }
  [[nodiscard]] static IpAddress next(const KernelRoute& r) {
    return r.gateway.family == Family::kNone ? IpAddress{} : on_port(r.gateway, r.port);
  }
  // One of the route's family where the port has any.
  [[nodiscard]] const PortAddress* our_end(const KernelRoute& r) const {
    const PortAddress* best = nullptr;
    for (const PortAddress& a : ours_)
      if (a.port == r.port && (best == nullptr || (best->ip.family != r.network.family &&
                                                   a.ip.family == r.network.family)))
        best = &a;
    return best;
  }
  void add(const IpAddress& network, uint8_t prefix_bits, uint32_t metric, const Route& route,
           bool refused = false) {
    const unsigned bits = prefix_bits + (network.is_v4() ? 96u : 0u);
    row_.push_back({{word(network, 0) & mask(bits, 0), word(network, 1) & mask(bits, 1)},
                    network.family,
                    refused,
                    static_cast<uint8_t>(bits),
                    metric,
                    route});
  }
  void group() {
    std::stable_sort(row_.begin(), row_.end(), [](const Prefix& a, const Prefix& b) {
      if (a.bits != b.bits) return a.bits > b.bits;
      if (a.family != b.family) return a.family < b.family;
      return a.key == b.key ? a.metric < b.metric : a.key < b.key;
    });
    for (const Prefix& p : row_)
      keys_.push_back(p.key);
    for (size_t i = 0; i < row_.size(); ++i) {
      const Prefix& p = row_[i];
      if (i == 0 || row_[i - 1].bits != p.bits || row_[i - 1].family != p.family)
        lengths_.push_back({{mask(p.bits, 0), mask(p.bits, 1)}, &keys_[i], 0, p.family});
      ++lengths_.back().count;
    }
  }

  std::vector<PortAddress> ours_;  // Route::by points here
  std::vector<Prefix> row_;        // longest first, then by key and metric
  std::vector<Key> keys_;          // of row_
  std::vector<Length> lengths_;    // longest first
  bool back_to_sender_ = false;
  size_t left_out_ = 0;
};

// The routes of the moment: one writer publishes, cores read without waiting. A core that enters
// says which row it goes on with; an older one is freed when every core has entered since (QSBR).
class RouteTable {
 public:
  // `cores` have all to enter() before anything is freed.
  RouteTable(std::unique_ptr<const Routes> first, CoreId cores)
      : seen_(std::make_unique<Seen[]>(cores)), cores_(cores) {
    owned_.push_back({1, std::move(first)});
    slots_[1 % slots_.size()] = owned_.back().routes.get();
    version_.store(1, std::memory_order_release);
  }

  // Core `core`, at the start of its loop: what it may use until it enters again.
  [[nodiscard]] const Routes& enter(CoreId core) {
    std::atomic<uint64_t>& seen = seen_[core].version;
    const uint64_t version = version_.load(std::memory_order_acquire);
    if (version != seen.load(std::memory_order_relaxed))
      seen.store(version, std::memory_order_release);
    return *slots_[version % slots_.size()];
  }

  // The writer. False: a core has not moved on for kMaxRetiredRoutes publications; try again later.
  [[nodiscard]] bool publish(std::unique_ptr<const Routes> next) {
    uint64_t oldest = owned_.back().version;
    for (CoreId core = 0; core < cores_; ++core)
      oldest = std::min(oldest, seen_[core].version.load(std::memory_order_acquire));
    std::erase_if(owned_, [&](const Owned& o) { return o.version < oldest; });
    if (owned_.size() > kMaxRetiredRoutes) return false;
    const uint64_t version = owned_.back().version + 1;
    owned_.push_back({version, std::move(next)});
    // A place is used again kSlots publications later, when all that could read it have moved on.
    slots_[version % slots_.size()] = owned_.back().routes.get();
    version_.store(version, std::memory_order_release);
    return true;
  }

 private:
  struct alignas(64) Seen {
    std::atomic<uint64_t> version{0};
  };
  struct Owned {
    uint64_t version = 0;
    std::unique_ptr<const Routes> routes;
  };
  std::vector<Owned> owned_;  // the writer's; the last is the one of the moment
  std::array<const Routes*, 2 * kMaxRetiredRoutes> slots_{};
  std::atomic<uint64_t> version_{0};
  std::unique_ptr<Seen[]> seen_;
  CoreId cores_;
};

}  // namespace culvert
