// The Ethernet ports that EAL has probed, configured and started for a number of fast cores: a pair
// of queues and a buffer pool for each core and port, offloads negotiated, RSS programmed where the
// port has it. Built once, before privileges are dropped; drivers use what is in here.
//
// A port with fewer queues than there are cores serves them all the same: core n receives on queue
// n if there is one (the others get their datagrams handed over) and sends on queue n modulo their
// number, under a lock where cores share one.
//
// net_af_xdp ports of one interface, one for each of its queues, are one port with several queues.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "dataplane/api/limits.h"
#include "dataplane/api/stats.h"
#include "dataplane/base/address.h"
#include "dataplane/io/dpdk/flow_rules.h"
#include "dataplane/wire/frame.h"
#include "dataplane/wire/reassembly.h"

struct rte_mempool;

namespace culvert {

// Frames of one port are gathered in an array of one burst each, on every core.
inline constexpr size_t kMaxPorts = 8;

// Who does for a port what a host does besides UDP (DESIGN 8).
enum class PortKernel : uint8_t {
  kNobody,     // a bare port: the driver answers ARP, neighbour discovery and echo itself
  kInterface,  // the kernel, on the interface that the port stands on (Port::if_index)
  kTap,        // the kernel, on a TAP of ours that carries what is not for the relay
};

// Which of them a port gets: with kAuto the kernel's interface where there is one, else a TAP.
enum class PortKernelChoice : uint8_t { kNobody, kAuto, kInterface, kTap };

struct PortsOptions {
  CoreId cores = 1;
  std::array<uint8_t, 40> rss_key{};
  // Whose relayed ports are to arrive on their owner's queue, where a port can be told so.
  std::vector<IpAddress> relays;
  uint16_t relay_port_low = 49152;
  uint16_t relay_port_high = 65535;
  PortKernelChoice kernel = PortKernelChoice::kNobody;
  uint16_t descriptors = 1024;  // of each queue, as near as the port can (architecture.md 5.5)
  // For a port that keeps frames of its own (net_pcap's infinite_rx).
  uint32_t extra_buffers = 0;
  // Bytes of a buffer after the headroom; grows with a port's MTU.
  uint16_t buffer_bytes = 2048;
  // Random: which place a fragment's datagram has, and identifications of those sent.
  SipKey fragment_key;
};

// Of one sending queue, or of the table of fragments. A spin lock: its holder copies one burst or
// one fragment.
struct alignas(64) QueueLock {
  std::atomic<bool> held{false};
};

// Of an ethdev.
struct PortQueue {
  uint16_t id = 0;  // the ethdev's
  uint16_t queue = 0;
};

// Fragments carry no ports, so those of one datagram may come in by any queues, whatever steers:
// all cores put together in one table.
struct SharedFragments {
  explicit SharedFragments(const SipKey& k) : key(k), table(k) {}
  SipKey key;
  QueueLock lock;
  Reassembler table;
};

struct Port {
  uint16_t id = 0;                // ethdev's; the first one's
  std::vector<uint16_t> ethdevs;  // one, or one for each queue
  std::string name;
  std::string driver;
  frame::MacAddress mac{};
  uint16_t mtu = 1500;
  uint16_t rx_queues = 1;
  uint16_t tx_queues = 1;
  bool shared_tx = false;           // fewer sending queues than cores
  bool verifies_checksums = false;  // receive flags say good or bad
  bool rss = false;
  FlowRules rules;
  // Of the interface that the kernel keeps where the port stands on one (net_af_xdp, net_af_packet,
  // mlx5); 0: none.
  unsigned if_index = 0;
  PortKernel kernel = PortKernel::kNobody;
  std::vector<rte_mempool*> pools;  // by core
  std::unique_ptr<QueueLock[]> locks;

  [[nodiscard]] PortQueue queue(uint16_t n) const {
    return ethdevs.size() > 1 ? PortQueue{ethdevs[n], 0} : PortQueue{id, n};
  }
};

class DpdkPorts {
 public:
  // Every port there is, in EAL's order. Throws std::runtime_error with one sentence.
  explicit DpdkPorts(const PortsOptions& options);
  ~DpdkPorts();
  DpdkPorts(const DpdkPorts&) = delete;
  DpdkPorts& operator=(const DpdkPorts&) = delete;

  [[nodiscard]] std::vector<Port>& ports() { return ports_; }
  [[nodiscard]] const std::vector<Port>& ports() const { return ports_; }
  [[nodiscard]] const PortsOptions& options() const { return options_; }
  [[nodiscard]] SharedFragments& fragments() { return fragments_; }

  // What the ports themselves counted; returns how many there are.
  [[nodiscard]] uint32_t read_stats(std::span<PortStats> to) const;

 private:
  void gather_ethdevs();
  void configure(Port& port);
  void make_pools(Port& port);
  void set_up_queues(Port& port, uint64_t rx_offloads, uint64_t tx_offloads);
  void start(Port& port);
  void close();

  PortsOptions options_;
  SharedFragments fragments_;
  std::vector<Port> ports_;
};

}  // namespace culvert
