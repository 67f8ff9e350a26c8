// The driver for DPDK ports: frames in from a port's queue, datagrams to the path, frames out. One
// object per fast core, used by that core's thread alone.
//
// Fragments are the slow path (dpdk_fragments.cc): they are copied into a table that all cores
// share (wire/reassembly.h), and the datagram lies there until its burst has been sent.
//
// Receiving: a burst from one port after another; each frame is parsed where it lies
// (wire/frame.h), and datagrams for our listeners and relayed ports are handed out with their
// payload still in its buffer. On a bare port, ARP, neighbour discovery and echo are answered here
// (host.h). With a kernel beside the port (Port::kernel) that is the kernel's business, and link
// addresses and routes are the kernel's: what is not for the relay goes to it over a ring where it
// has no other way (exception.h). All else is counted by name (api/frame_counter.def) and freed.
// Sending: new headers are written into the very buffer that the datagram came in, in front of its
// payload; what the relay made itself, or another core handed over, is copied into a fresh one.
// UDP checksums are carried over incrementally: the payload is not read.
//
// Invariants: nothing is allocated after construction but buffers from the ports' pools; each
// buffer is freed or sent exactly once; a full port or an empty pool costs the datagram,
// counted, an unknown next hop makes a few wait (kMaxUnresolved), and nothing blocks. Cost:
// docs/performance.md.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "dataplane/api/snapshot.h"
#include "dataplane/api/stats.h"
#include "dataplane/base/ticks.h"
#include "dataplane/io/dpdk/exception.h"
#include "dataplane/io/dpdk/host.h"
#include "dataplane/io/dpdk/neighbours.h"
#include "dataplane/io/dpdk/ports.h"
#include "dataplane/io/dpdk/routes.h"
#include "dataplane/io/driver.h"
#include "dataplane/io/frames.h"
#include "dataplane/path/datagram.h"
#include "dataplane/wire/frame.h"
#include "dataplane/wire/icmp.h"
#include "dataplane/wire/reassembly.h"

struct rte_mbuf;

namespace culvert {

// ARP requests, solicitations and echo requests that one core answers in a second: a kernel's
// default for echo is 1000 (net.ipv4.icmp_msgs_per_sec).
inline constexpr uint32_t kMaxHostAnswersPerSecond = 1000;

// Datagrams that wait on one core until a next hop's link address is known, how many of them for
// one next hop, and how long: what came to be lost before a call's first second is over. Linux
// keeps about as many for one neighbour (net.ipv4.neigh.default.unres_qlen).
inline constexpr size_t kMaxUnresolved = 64;
inline constexpr size_t kMaxUnresolvedPerHop = 16;
inline constexpr Ticks kMaxUnresolvedTicks = 1 * kTicksPerSecond;

struct DpdkOptions {
  std::vector<PortAddress> addresses;
  std::vector<IpAddress> gateways;
  // Where a port has a kernel beside it: its thread's ends. Both or none.
  RouteTable* routes = nullptr;
  ExceptionPath* exception = nullptr;
  // Never sleeps. Otherwise an idle core sleeps up to 100 us at a time.
  bool busy = false;
  // UDP checksums of every datagram are verified, not only of STUN messages.
  bool verify_all = false;
  // Milliseconds for now(), instead of the clock: tests and replays.
  const Ticks* clock = nullptr;
};

class DpdkDriver {
 public:
  // `neighbours`, `ports`: shared by all cores. Throws std::runtime_error with a sentence when an
  // address of the snapshot stands on no port.
  DpdkDriver(const Snapshot& snapshot, CoreId core, DpdkPorts& ports, NeighbourTable& neighbours,
             const DpdkOptions& options, CoreStats& stats);
  ~DpdkDriver();
  DpdkDriver(const DpdkDriver&) = delete;
  DpdkDriver& operator=(const DpdkDriver&) = delete;

  [[nodiscard]] uint32_t rx_burst(std::span<RxDatagram> rx);
  [[nodiscard]] uint32_t tx_burst(TxBurst& tx);
  [[nodiscard]] Egress listener_egress(uint16_t listener) const;
  [[nodiscard]] Egress open_relay_port(RelayLeg leg);
  void close_relay_port(RelayLeg) {}
  [[nodiscard]] Ticks now();
  // True when it slept.
  bool wait(uint32_t wait_us);
  void wake() {}  // nobody sleeps longer than a wake-up would take

  // Datagrams from other cores, about to be processed: their payloads lie in a ring, and their
  // sums must outlive them until tx_burst().
  void handed_in(std::span<const RxDatagram> datagrams);

  // Frames asked of a port at once, at most kMaxBurst: tests cut a capture where its time changes.
  void set_burst(uint32_t frames) { burst_ = frames; }

 private:
  struct PortOfCore;

  // A datagram whose payload may be sent on.
  struct Held {
    rte_mbuf* mbuf = nullptr;  // nullptr: gone out, or not ours to keep
    const uint8_t* begin = nullptr;
    const uint8_t* end = nullptr;
    const uint8_t* payload = nullptr;
    uint16_t length = 0;
    uint16_t sum = 0;
    PayloadSum sum_state = PayloadSum::kUnknown;
  };
  struct HeldList {
    uint32_t count = 0;
    uint32_t cursor = 0;  // outgoing datagrams keep the order of arrival
    std::array<Held, kMaxBurst> items;
    [[nodiscard]] Held* find(const uint8_t* payload);
  };
  // How a datagram came that cannot be sent on as it is.
  struct Received {
    bool may_cut = true;
    bool from_peer = false;
    std::span<const uint8_t> packet;  // from its IP header on; empty: there is nobody to tell
  };
  struct NextHop {
    frame::MacAddress mac{};
    uint8_t port = 0;
    bool known = false;
    bool awaited = false;  // asked for: the datagram may wait
  };
  // A finished frame but for its destination's link address.
  struct Unresolved {
    rte_mbuf* mbuf = nullptr;
    IpAddress target;
    PortAddress by;
    Ticks since = 0;
  };

  void count(FrameCounter counter) { stats_.frames[static_cast<size_t>(counter)].add(1); }
  void index_addresses(const Snapshot& snapshot);
  [[nodiscard]] uint16_t address_index(const IpAddress& ip) const;

  // Receiving.
  void release_held();
  [[nodiscard]] uint32_t take_frames(PortOfCore& port, uint32_t frames, std::span<RxDatagram> rx);
  [[nodiscard]] bool take_frame(PortOfCore& port, rte_mbuf* mbuf, RxDatagram& rx);
  [[nodiscard]] bool for_path(PortOfCore& port, const rte_mbuf* mbuf, frame::Kind kind,
                              const frame::Parsed& parsed, bool good, RxDatagram& rx);
  void take_fragment(const rte_mbuf* mbuf, PortOfCore& port, RxDatagram& rx);
  void expire_fragments();
  void count_given_up(const Reassembler::GivenUp& given_up);
  void release_reassembled();
  void react(PortOfCore& port, const rte_mbuf* mbuf);
  void learn(PortOfCore& port, const uint8_t* frame, const IpAddress& source);

  // The kernel beside a port.
  void leave(PortOfCore& port, const rte_mbuf* mbuf, FrameCounter when_bare);
  void punt(PortOfCore& port, const rte_mbuf* mbuf);
  void send_from_kernel();

  // Sending.
  [[nodiscard]] NextHop next_hop(const Routes::Route& route);
  void ask(const PortAddress& by, const IpAddress& target);
  [[nodiscard]] bool may_hold(const Routes::Route& route, size_t frames) const;
  [[nodiscard]] bool hold_unresolved(rte_mbuf* mbuf, const Routes::Route& route);
  void send_resolved();
  // Longer than the port's MTU: dpdk_fragments.cc.
  [[nodiscard]] bool send_long(const TxDatagram& tx, const NextHop& hop,
                               const Routes::Route& route);
  [[nodiscard]] rte_mbuf* make_piece(PortOfCore& port, const frame::Link& link,
                                     const frame::Outgoing& o, const frame::Piece& piece,
                                     std::span<const uint8_t> data);
  [[nodiscard]] Received received_as(const uint8_t* payload);
  [[nodiscard]] Received received_elsewhere(const RxDatagram& rx);
  void tell_expired(const TxBurst& tx);
  [[nodiscard]] bool tell(const Received& received, frame::IcmpError error, uint32_t mtu);
  [[nodiscard]] frame::Outgoing outgoing(const TxDatagram& tx, const Held* sum_from);
  [[nodiscard]] rte_mbuf* make_frame(const TxDatagram& tx, const NextHop& hop);
  [[nodiscard]] frame::BodySum sum_of(const TxDatagram& tx, const Held* from) const;
  [[nodiscard]] bool queue(PortOfCore& port, rte_mbuf* mbuf);
  [[nodiscard]] uint32_t flush(PortOfCore& port);
  [[nodiscard]] bool host_budget();

  CoreStats& stats_;
  NeighbourTable& neighbours_;
  const Routes own_routes_;
  const Routes* routes_ = &own_routes_;
  CoreId core_;
  CoreId cores_;
  DpdkOptions options_;
  uint32_t burst_ = kMaxBurst;

  struct Service {
    uint16_t port = 0;
    uint16_t listener = 0;
  };
  struct Address {
    IpAddress bound;
    bool relays = false;
    std::vector<Service> listeners;
  };
  std::vector<Address> addresses_;  // Snapshot::addresses
  std::vector<uint16_t> listener_address_;
  std::vector<uint16_t> address_slots_;  // open addressing over IpAddress
  uint16_t port_low_;
  uint16_t port_high_;

  std::vector<std::unique_ptr<PortOfCore>> ports_;
  size_t next_port_ = 0;
  SharedFragments& fragments_;
  FragmentBudget fragment_budget_;
  IcmpErrorBudget icmp_error_budget_;
  std::vector<uint8_t> whole_;   // a datagram that is cut
  std::vector<uint8_t> quoted_;  // a packet that another core received, made again
  std::array<RxDatagram, kMaxBurst> foreign_rx_;
  bool fragments_wait_ = false;  // one that this core took may still be incomplete
  Ticks fragments_due_ = 0;      // when it is given up
  uint32_t reassembled_count_ = 0;
  std::array<Reassembler::Handle, kMaxBurst> reassembled_{};
  HeldList held_;
  HeldList foreign_;
  std::array<rte_mbuf*, kMaxBurst> frames_{};
  std::array<NextHop, kMaxBurst> hops_;
  std::array<Routes::Route, kMaxBurst> route_;
  uint32_t unresolved_count_ = 0;
  uint32_t unresolved_changes_ = 0;  // the neighbours' changes() and the tick of the last look
  Ticks unresolved_ticks_ = 0;
  std::array<Unresolved, kMaxUnresolved> unresolved_;

  Ticks ticks_ = 0;       // of now()
  uint16_t seconds_ = 0;  // the same: ages of neighbours
  PuntBudget punt_budget_;
  uint16_t budget_second_ = 0;
  uint32_t budget_left_ = kMaxHostAnswersPerSecond;
  uint16_t identification_ = 0;
  uint64_t cut_over_ipv6_ = 0;
  uint32_t idle_polls_ = 0;
  uint32_t sleep_us_ = 0;
};

static_assert(Driver<DpdkDriver>);

}  // namespace culvert
