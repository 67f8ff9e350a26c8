// A virtual network: hosts with sockets, datagrams that take time, get lost, doubled and overtaken,
// ICMP errors from closed ports, and one clock for everybody. Everything random comes from one
// seed, so a run can be repeated exactly. Used by the simulator's driver (sim_driver.h), by
// simulated clients and peers, and by benchmarks that want a relay without a kernel.
//
// Invariants: datagrams between one pair of transport addresses arrive in the order they were sent
// unless reordering was drawn for one; time moves only by advance_to() and step(); what is sent is
// delivered, lost on the way, refused or still under way, and counted as such. One thread.
// Allocates as it grows and then reuses.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <queue>
#include <set>
#include <tuple>
#include <vector>

#include "dataplane/base/address.h"
#include "dataplane/base/ticks.h"

namespace culvert::sim {

// Chances are in parts per million of datagrams.
struct Conditions {
  uint32_t loss_ppm = 0;
  uint32_t duplicate_ppm = 0;
  uint32_t reorder_ppm = 0;
  uint32_t delay_min_us = 0;
  uint32_t delay_max_us = 0;
  uint32_t reorder_by_us = 5000;  // how much later an overtaken datagram comes, at most
};

struct Datagram {
  TransportAddress from;
  TransportAddress to;
  uint8_t ttl = 64;
  uint8_t tos = 0;
  bool dont_fragment = false;
  // An ICMP error about a datagram from `to` to `from`, delivered to its sender; no payload.
  bool is_error = false;
  uint8_t icmp_type = 0;
  uint8_t icmp_code = 0;
  uint32_t icmp_mtu = 0;
  std::vector<uint8_t> payload;
};

// Where datagrams to a transport address go.
using SocketId = uint32_t;
inline constexpr SocketId kNoSocket = 0xffffffff;

struct AddressLess {
  bool operator()(const IpAddress& a, const IpAddress& b) const {
    return std::tie(a.family, a.bytes) < std::tie(b.family, b.bytes);
  }
  bool operator()(const TransportAddress& a, const TransportAddress& b) const {
    return std::tie(a.ip.family, a.ip.bytes, a.port) < std::tie(b.ip.family, b.ip.bytes, b.port);
  }
};

struct NetworkCounters {
  uint64_t sent = 0;
  uint64_t duplicated = 0;
  uint64_t lost = 0;  // by Conditions
  uint64_t delivered = 0;
  uint64_t refused = 0;      // no socket there; the host answered with ICMP
  uint64_t unreachable = 0;  // no such host: silence
  uint64_t overflowed = 0;   // the socket's queue was full
};

class Network {
 public:
  // `start`: what now() begins at; near 2^32 to see the wrap of Ticks.
  Network(uint64_t seed, const Conditions& conditions, Ticks start = 0);

  void set_conditions(const Conditions& conditions) { conditions_ = conditions; }
  [[nodiscard]] uint64_t now_us() const { return now_us_; }
  [[nodiscard]] Ticks now() const { return start_ + static_cast<Ticks>(now_us_ / 1000); }
  [[nodiscard]] const NetworkCounters& counters() const { return counters_; }
  [[nodiscard]] size_t under_way() const { return heap_.size(); }
  // 64 random bits of the network's own generator, for tests that want just one seed.
  [[nodiscard]] uint64_t random();

  // Opening a socket makes its host exist: closed ports on it then answer with ICMP. kNoSocket:
  // taken. `queue_limit` datagrams wait at most; more are dropped.
  [[nodiscard]] SocketId open(const TransportAddress& at, size_t queue_limit = 65536);
  // Another address at which the same socket receives (a core with many relayed ports).
  [[nodiscard]] bool also_at(SocketId socket, const TransportAddress& at);
  void close_address(const TransportAddress& at);
  [[nodiscard]] bool is_open(const TransportAddress& at) const { return sockets_.contains(at); }
  // The oldest datagram waiting; false: none. Swaps, so that buffers are reused.
  [[nodiscard]] bool receive(SocketId socket, Datagram& out);
  [[nodiscard]] bool has_waiting(SocketId socket) const;

  // Into the network, now. TTL counts one hop: it is not decremented further.
  void send(const Datagram& datagram);

  // When the next datagram arrives; nullopt: none is under way.
  [[nodiscard]] std::optional<uint64_t> next_arrival_us() const;
  // Moves time to `us` (never back) and delivers what arrives until then, in order.
  void advance_to(uint64_t us);
  // Moves time to the next arrival. False: there is none.
  bool step();

 private:
  struct Queue {
    std::vector<Datagram> ring;  // [first, first + count) modulo its size
    size_t first = 0;
    size_t count = 0;
    size_t limit = 0;
  };
  struct Flight {
    uint64_t due_us;
    uint64_t sequence;
    uint32_t slot;
    bool operator>(const Flight& other) const {
      return std::tie(due_us, sequence) > std::tie(other.due_us, other.sequence);
    }
  };

  [[nodiscard]] bool chance(uint32_t ppm) { return ppm != 0 && random() % 1'000'000 < ppm; }
  void launch(const Datagram& datagram);
  void arrive(Datagram& datagram);
  void refuse(const Datagram& datagram);
  void push(Queue& queue, Datagram& datagram);

  Conditions conditions_;
  Ticks start_;
  uint64_t now_us_ = 0;
  uint64_t random_state_[2];
  uint64_t sequence_ = 0;
  std::map<TransportAddress, SocketId, AddressLess> sockets_;
  std::set<IpAddress, AddressLess> hosts_;
  std::vector<Queue> queues_;
  std::vector<Datagram> pool_;
  std::vector<uint32_t> free_;
  std::priority_queue<Flight, std::vector<Flight>, std::greater<>> heap_;
  // Latest arrival per pair, so that an unlucky delay does not reorder; only kept when delays vary.
  using Pair = std::pair<TransportAddress, TransportAddress>;
  struct PairLess {
    bool operator()(const Pair& a, const Pair& b) const {
      const AddressLess less;
      if (less(a.first, b.first)) return true;
      if (less(b.first, a.first)) return false;
      return less(a.second, b.second);
    }
  };
  std::map<Pair, uint64_t, PairLess> latest_;
  NetworkCounters counters_;
};

}  // namespace culvert::sim
