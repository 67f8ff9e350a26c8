// A NAT of any behaviour (RFC 4787) between hosts of a simulation and the virtual network. Hosts
// inside hand it their datagrams; it owns one public address, makes and forgets mappings, and hands
// back what its filter lets in. Nothing here is random: a port that is not preserved is the next
// one.
//
// Mapping and filtering are each endpoint-independent, address-dependent or address-and-port-
// dependent (sections 4.1 and 5); a mapping lives `lifetime_us` after the last datagram that went
// out through it (section 4.3; what comes in does not prolong it); a port is preserved where it is
// free (section 4.2.1); datagrams from inside to the NAT's own address are looped, with their
// source translated, or dropped (section 6).
#pragma once

#include <array>
#include <functional>
#include <map>
#include <optional>
#include <set>

#include "dataplane/io/sim/network.h"

namespace culvert::sim_test {

enum class NatKind : uint8_t { kEndpointIndependent, kAddressDependent, kAddressAndPortDependent };
inline constexpr size_t kNatKinds = 3;
inline constexpr std::array<const char*, kNatKinds> kNatNames = {"EI", "AD", "APD"};

struct NatBehaviour {
  NatKind mapping = NatKind::kEndpointIndependent;
  NatKind filtering = NatKind::kEndpointIndependent;
  uint64_t lifetime_us = 120'000'000;
  bool preserve_ports = true;
  bool hairpin = false;
};

struct NatCounters {
  uint64_t out = 0;
  uint64_t in = 0;
  uint64_t filtered = 0;  // came in and was not let in
  uint64_t mapped = 0;
  uint64_t preserved = 0;
  uint64_t expired = 0;  // mappings
  uint64_t forgotten = 0;
  uint64_t hairpinned = 0;
  uint64_t hairpin_refused = 0;
};

class Nat {
 public:
  using Datagram = sim::Datagram;
  // `deliver` is called for each datagram that reaches a host inside; `to` is the host's address.
  using Deliver = std::function<void(const Datagram&)>;

  Nat(sim::Network& network, const IpAddress& address, const NatBehaviour& behaviour,
      Deliver deliver)
      : network_(network),
        address_(address),
        behaviour_(behaviour),
        deliver_(std::move(deliver)),
        socket_(network.open({address, 1})) {}

  // A datagram from inside; `from` is the host's own address.
  void send(Datagram d) {
    const Mapping* mapping = outbound(d.from, d.to);
    if (mapping == nullptr) return;  // out of ports
    d.from = {address_, mapping->port};
    ++counters_.out;
    if (!(d.to.ip == address_)) return network_.send(d);
    if (!behaviour_.hairpin) {
      ++counters_.hairpin_refused;
      return;
    }
    ++counters_.hairpinned;
    inbound(d);
  }
  // Takes what has come from outside.
  void poll() {
    while (network_.receive(socket_, scratch_))
      inbound(scratch_);
  }
  // The NAT starts anew: every host behind it comes back from other ports.
  void forget_all() {
    counters_.forgotten += by_port_.size();
    for (const auto& [port, key] : by_port_)
      network_.close_address({address_, port});
    by_port_.clear();
    mappings_.clear();
    next_port_ = static_cast<uint16_t>(next_port_ + 1000);
    reboots_ = true;
  }

  [[nodiscard]] const NatCounters& counters() const { return counters_; }
  [[nodiscard]] const NatBehaviour& behaviour() const { return behaviour_; }
  [[nodiscard]] const IpAddress& address() const { return address_; }

 private:
  // Inside address, and of the destination what the kind of mapping looks at.
  struct Key {
    TransportAddress inside;
    TransportAddress remote;
    friend bool operator<(const Key& a, const Key& b) {
      const sim::AddressLess less;
      if (less(a.inside, b.inside)) return true;
      if (less(b.inside, a.inside)) return false;
      return less(a.remote, b.remote);
    }
  };
  struct Mapping {
    uint16_t port = 0;
    uint64_t expires_us = 0;
    std::set<TransportAddress, sim::AddressLess> contacted;
  };

  [[nodiscard]] static TransportAddress seen_by(NatKind kind, const TransportAddress& remote) {
    if (kind == NatKind::kEndpointIndependent) return {};
    if (kind == NatKind::kAddressDependent) return {remote.ip, 0};
    return remote;
  }

  Mapping* outbound(const TransportAddress& inside, const TransportAddress& remote) {
    const Key key{inside, seen_by(behaviour_.mapping, remote)};
    auto at = mappings_.find(key);
    if (at != mappings_.end() && at->second.expires_us <= network_.now_us()) {
      drop(at);
      at = mappings_.end();
    }
    if (at == mappings_.end()) {
      const auto port = take_port(inside.port);
      if (!port) return nullptr;
      at = mappings_.emplace(key, Mapping{*port, 0, {}}).first;
      by_port_.emplace(*port, key);
      ++counters_.mapped;
      counters_.preserved += *port == inside.port ? 1 : 0;
    }
    at->second.expires_us = network_.now_us() + behaviour_.lifetime_us;
    at->second.contacted.insert(seen_by(behaviour_.filtering, remote));
    return &at->second;
  }

  void drop(std::map<Key, Mapping>::iterator at) {
    ++counters_.expired;
    network_.close_address({address_, at->second.port});
    by_port_.erase(at->second.port);
    mappings_.erase(at);
  }

  std::optional<uint16_t> take_port(uint16_t wanted) {
    // After a reboot even a port-preserving NAT may not give the same port again.
    if (behaviour_.preserve_ports && !reboots_ && open(wanted)) return wanted;
    for (int tries = 0; tries < 1000; ++tries) {
      next_port_ = next_port_ < 20'000 || next_port_ > 60'000
                       ? uint16_t{20'000}
                       : static_cast<uint16_t>(next_port_ + 1);
      if (open(next_port_)) return next_port_;
    }
    return std::nullopt;
  }
  bool open(uint16_t port) { return network_.also_at(socket_, {address_, port}); }

  void inbound(const Datagram& came) {
    const auto at = by_port_.find(came.to.port);
    if (at == by_port_.end()) return;
    const auto mapping = mappings_.find(at->second);
    if (mapping->second.expires_us <= network_.now_us()) return drop(mapping);
    if (!mapping->second.contacted.contains(seen_by(behaviour_.filtering, came.from))) {
      ++counters_.filtered;
      return;
    }
    ++counters_.in;
    Datagram d = came;
    d.to = mapping->first.inside;
    deliver_(d);
  }

  sim::Network& network_;
  IpAddress address_;
  NatBehaviour behaviour_;
  Deliver deliver_;
  sim::SocketId socket_;
  std::map<Key, Mapping> mappings_;
  std::map<uint16_t, Key> by_port_;
  uint16_t next_port_ = 20'000;
  bool reboots_ = false;
  NatCounters counters_;
  Datagram scratch_;
};

}  // namespace culvert::sim_test
