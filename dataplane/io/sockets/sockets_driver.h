// The sockets driver: relaying through the kernel's UDP sockets, anywhere and without privileges.
// One object per fast core, used by that core's thread alone (wake() excepted). One socket per
// listener, shared with the other cores by SO_REUSEPORT, and one per open relayed port.
//
// Receiving: epoll (edge-triggered) tells which sockets have datagrams, recvmmsg reads them into 64
// KiB buffers, one per message, so that a GRO run arrives whole; rx_burst hands out its segments in
// place. Nothing is copied: payloads stay where the kernel put them until the run is used up.
// Sending: tx_groups.h turns a burst into messages; a run leaves by UDP_SEGMENT over gathered
// pieces. TTL and TOS ride on the socket when they repeat and on the message when they do not.
//
// Invariants: all memory is taken in the constructor; a socket that may have datagrams is in
// exactly one ready queue or in epoll's; a datagram is never given up because another peer's ICMP
// error was waiting on its socket. Cost: dominated by the kernel, docs/architecture.md has the
// measurements.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

#include "dataplane/api/snapshot.h"
#include "dataplane/base/arena.h"
#include "dataplane/base/ticks.h"
#include "dataplane/io/driver.h"
#include "dataplane/io/sockets/listener_sockets.h"
#include "dataplane/io/sockets/tx_groups.h"
#include "dataplane/path/datagram.h"

namespace culvert {

struct SocketsOptions {
  // Relayed ports that may be open at once on this core (capacity of the socket table).
  uint32_t max_relay_ports = 4096;
  // SO_RCVBUF of a relayed port: 1 MiB holds ten 64 KiB GRO runs or about 1300 small datagrams (the
  // kernel counts 768 bytes for one of 200). Used only while datagrams wait.
  int relay_receive_bytes = 1 << 20;
  // SO_SNDBUF of a relayed port; 0: the system's default (212992), over three whole runs.
  int relay_send_bytes = 0;
  // Sends runs by UDP_SEGMENT. Off only to measure what it gives.
  bool segment = true;
};

// SO_RCVBUF and SO_SNDBUF of a listener, through which all clients of a core come: 4 MiB is 25 ms
// at 200 kpps of small datagrams.
inline constexpr int kListenerBufferBytes = 4 << 20;

// What the driver saw beyond what the path counts. Plain: read by the owning thread or after it
// ended.
struct SocketsStats {
  uint64_t reads = 0;            // receive calls that brought something
  uint64_t runs = 0;             // GRO reads of more than one datagram
  uint64_t messages = 0;         // sent; a run is one
  uint64_t send_failed = 0;      // datagrams given up
  uint64_t send_retried = 0;     // attempts repeated (another peer's ICMP error, a full queue)
  uint64_t segment_refused = 0;  // runs the kernel refused to cut: sent singly instead
  uint64_t receive_errors = 0;
  uint64_t icmp_errors = 0;
  uint64_t icmp_ignored = 0;    // not from ICMP, or without the addresses to report it
  uint64_t option_changes = 0;  // setsockopt calls for TTL, TOS and DF
};

class SocketsDriver {
 public:
  // Takes core's sockets out of `listeners`, which must have been made of the same snapshot. Throws
  // std::system_error or std::runtime_error with one sentence.
  SocketsDriver(const Snapshot& snapshot, CoreId core, ListenerSockets& listeners,
                const SocketsOptions& options = {});
  ~SocketsDriver();
  SocketsDriver(const SocketsDriver&) = delete;
  SocketsDriver& operator=(const SocketsDriver&) = delete;

  [[nodiscard]] uint32_t rx_burst(std::span<RxDatagram> rx);
  [[nodiscard]] uint32_t tx_burst(TxBurst& tx);
  [[nodiscard]] Egress listener_egress(uint16_t listener) const { return listener; }
  [[nodiscard]] Egress open_relay_port(RelayLeg leg);
  void close_relay_port(RelayLeg leg);
  [[nodiscard]] Ticks now() const;
  void wait(uint32_t wait_us);
  void wake();

  [[nodiscard]] const SocketsStats& stats() const { return stats_; }
  [[nodiscard]] uint32_t open_ports() const { return open_ports_; }

 private:
  struct Socket;    // one open socket
  struct RxSlots;   // receive buffers and the message headers bound to them
  struct TxSlots;   // message headers of one batch to one socket
  struct Pending;   // a message read and not yet handed out whole
  class SlotQueue;  // sockets that may have datagrams, oldest first

  void adopt_listeners(const Snapshot& snapshot, CoreId core, ListenerSockets& listeners);
  [[nodiscard]] bool watch(uint32_t slot);
  [[nodiscard]] uint32_t* port_slot(RelayLeg leg);

  // Receiving (sockets_rx.cc).
  void collect_ready(int64_t wait_us);
  void read_ready(uint32_t budget);
  [[nodiscard]] uint32_t read_socket(uint32_t slot, uint32_t limit, uint32_t budget);
  void read_errors(uint32_t slot);
  void take_message(uint32_t index, const Socket& socket);
  [[nodiscard]] uint32_t hand_out(std::span<RxDatagram> rx);

  // Sending (sockets_tx.cc).
  void add_message(const TxBurst& tx, const TxGroups::Group& group, Socket& socket);
  [[nodiscard]] uint32_t flush(const TxBurst& tx, Socket& socket);
  [[nodiscard]] uint32_t send_singly(const TxBurst& tx, const TxGroups::Group& group,
                                     Socket& socket);
  void set_dont_fragment(Socket& socket, bool on);
  void settle_options(Socket& socket);

  Arena arena_;
  std::span<Socket> sockets_;        // listeners first, then relayed ports
  std::span<uint32_t> ports_;        // [relaying address][port - low]: slot or 0
  std::span<uint16_t> address_row_;  // Snapshot::addresses -> row of ports_, or kNoRow
  std::span<IpAddress> addresses_;   // bound
  RxSlots* rx_ = nullptr;
  TxSlots* tx_ = nullptr;
  SlotQueue* ready_listeners_ = nullptr;
  SlotQueue* ready_relays_ = nullptr;
  std::span<Pending> pending_;
  uint32_t pending_head_ = 0;
  uint32_t pending_count_ = 0;
  uint32_t buffers_used_ = 0;
  uint32_t listener_count_ = 0;
  uint32_t free_slot_ = 0;  // head of the list of free relay slots; 0: none
  uint32_t open_ports_ = 0;
  uint32_t port_low_ = 0;
  uint32_t port_count_ = 0;
  bool collected_ = false;  // the last call of epoll brought something, all read or queued
  bool fresh_ = false;      // that call was wait()'s, and nothing was read since
  int epoll_fd_ = -1;
  int wake_fd_ = -1;
  SocketsOptions options_;
  SocketsStats stats_;
  TxGroups groups_;

  alignas(kCacheLine) std::atomic<bool> sleeping_{false};
  std::atomic<bool> wake_asked_{false};
};

static_assert(Driver<SocketsDriver>);

}  // namespace culvert
