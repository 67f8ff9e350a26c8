// A relay's network card in a virtual network, and the driver of one core on it. The whole node
// then runs on one thread and a virtual clock, exactly repeatable from a seed: cores, control,
// clients and peers are turned by the test.
//
// The card plays what hardware and kernel do to a relay: it spreads listeners over cores by a hash
// of the source, brings relayed ports to their owner or (if asked) to the wrong core, refuses ports
// that another process holds, can stall a core and fill its queue. It also checks what leaves: a
// datagram whose egress does not belong to the address and port it claims to come from is counted,
// because a driver with real sockets would have sent it from another port.
#pragma once

#include <array>
#include <cstdint>
#include <set>
#include <span>
#include <vector>

#include "dataplane/api/snapshot.h"
#include "dataplane/io/driver.h"
#include "dataplane/io/sim/network.h"
#include "dataplane/path/datagram.h"

namespace culvert {

namespace sim {

class Card {
 public:
  struct Options {
    size_t queue_limit = 65536;    // datagrams waiting for one core
    bool misdirect_relay = false;  // relayed ports come to any core, as without steering
  };
  // What left the relay, for checkers; kept only while record() is on.
  struct Sent {
    uint64_t at_us = 0;
    CoreId core = 0;
    Datagram datagram;
  };

  Card(Network& network, const Snapshot& snapshot, const Options& options);

  [[nodiscard]] Network& network() { return network_; }
  // Another process takes or leaves a port: open_relay_port() fails there as with EADDRINUSE.
  void occupy(RelayLeg leg) { occupied_.insert(key(leg)); }
  void vacate(RelayLeg leg) { occupied_.erase(key(leg)); }
  // Datagrams for that core wait until the virtual time `us`.
  void stall(CoreId core, uint64_t until_us) { stalled_until_us_[core] = until_us; }
  void record(bool on) { recording_ = on; }
  [[nodiscard]] std::vector<Sent>& sent() { return sent_; }
  [[nodiscard]] uint64_t wrong_egress() const { return wrong_egress_; }
  [[nodiscard]] size_t open_ports() const { return open_.size(); }
  [[nodiscard]] CoreId cores() const { return cores_; }

  // ---- for SimDriver
  [[nodiscard]] bool receive(CoreId core, RxDatagram& rx, Datagram& store);
  [[nodiscard]] bool transmit(CoreId core, const TxDatagram& tx);
  [[nodiscard]] Egress open(CoreId core, RelayLeg leg);
  void close(RelayLeg leg);
  [[nodiscard]] Egress listener_egress(uint16_t listener) const;

 private:
  [[nodiscard]] static uint32_t key(RelayLeg leg) { return uint32_t{leg.address} << 16 | leg.port; }
  [[nodiscard]] TransportAddress address(RelayLeg leg) const;
  [[nodiscard]] bool classify(const Datagram& datagram, RxDatagram& rx) const;
  [[nodiscard]] CoreId core_for(const Datagram& datagram, const RxDatagram& rx) const;
  void sort_arrivals();

  struct Waiting {
    std::vector<std::pair<RxDatagram, Datagram>> items;
    size_t next = 0;
  };

  Network& network_;
  Options options_;
  CoreId cores_;
  std::vector<LocalAddress> addresses_;
  std::vector<Listener> listeners_;
  uint16_t port_low_;
  uint16_t port_high_;
  SocketId socket_ = kNoSocket;
  std::vector<Waiting> waiting_;  // per core
  std::vector<uint64_t> stalled_until_us_;
  std::set<uint32_t> open_;
  std::set<uint32_t> occupied_;
  bool recording_ = false;
  std::vector<Sent> sent_;
  uint64_t wrong_egress_ = 0;
  Datagram scratch_;
};

}  // namespace sim

class SimDriver {
 public:
  SimDriver(sim::Card& card, CoreId core) : card_(card), core_(core) {}

  [[nodiscard]] uint32_t rx_burst(std::span<RxDatagram> rx);
  [[nodiscard]] uint32_t tx_burst(TxBurst& tx);
  [[nodiscard]] Egress listener_egress(uint16_t listener) const {
    return card_.listener_egress(listener);
  }
  [[nodiscard]] Egress open_relay_port(RelayLeg leg) { return card_.open(core_, leg); }
  void close_relay_port(RelayLeg leg) { card_.close(leg); }
  [[nodiscard]] Ticks now() const { return card_.network().now(); }
  void wait(uint32_t /*wait_us*/) {}  // the test moves time
  void wake() {}

 private:
  sim::Card& card_;
  CoreId core_;
  std::array<sim::Datagram, kMaxBurst> burst_;  // payloads stay valid until the next rx_burst()
};

}  // namespace culvert
