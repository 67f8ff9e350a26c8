// See network.h.
#include "dataplane/io/sim/network.h"

#include <algorithm>
#include <utility>

namespace culvert::sim {
namespace {

constexpr uint8_t kIcmpv4Unreachable = 3;
constexpr uint8_t kIcmpv4PortUnreachable = 3;
constexpr uint8_t kIcmpv6Unreachable = 1;
constexpr uint8_t kIcmpv6PortUnreachable = 4;

// splitmix64, to spread a small seed over the state.
uint64_t spread(uint64_t& seed) {
  uint64_t z = (seed += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

Network::Network(uint64_t seed, const Conditions& conditions, Ticks start)
    : conditions_(conditions), start_(start) {
  random_state_[0] = spread(seed);
  random_state_[1] = spread(seed);
}

uint64_t Network::random() {  // xorshift128+
  uint64_t a = random_state_[0];
  const uint64_t b = random_state_[1];
  random_state_[0] = b;
  a ^= a << 23;
  random_state_[1] = a ^ b ^ (a >> 17) ^ (b >> 26);
  return random_state_[1] + b;
}

SocketId Network::open(const TransportAddress& at, size_t queue_limit) {
  if (sockets_.contains(at)) return kNoSocket;
  const auto id = static_cast<SocketId>(queues_.size());
  queues_.emplace_back();
  queues_.back().limit = queue_limit;
  sockets_[at] = id;
  hosts_.insert(at.ip);
  return id;
}

bool Network::also_at(SocketId socket, const TransportAddress& at) {
  hosts_.insert(at.ip);
  return sockets_.try_emplace(at, socket).second;
}

void Network::close_address(const TransportAddress& at) {
  sockets_.erase(at);
}

bool Network::has_waiting(SocketId socket) const {
  return queues_[socket].count != 0;
}

bool Network::receive(SocketId socket, Datagram& out) {
  Queue& queue = queues_[socket];
  if (queue.count == 0) return false;
  std::swap(out, queue.ring[queue.first]);
  queue.first = (queue.first + 1) % queue.ring.size();
  --queue.count;
  return true;
}

void Network::push(Queue& queue, Datagram& datagram) {
  if (queue.count == queue.limit) {
    ++counters_.overflowed;
    return;
  }
  if (queue.count == queue.ring.size()) {
    std::rotate(queue.ring.begin(), queue.ring.begin() + static_cast<ptrdiff_t>(queue.first),
                queue.ring.end());
    queue.first = 0;
    queue.ring.resize(std::max<size_t>(8, queue.ring.size() * 2));
  }
  std::swap(queue.ring[(queue.first + queue.count) % queue.ring.size()], datagram);
  ++queue.count;
  ++counters_.delivered;
}

void Network::send(const Datagram& datagram) {
  ++counters_.sent;
  if (chance(conditions_.loss_ppm)) {
    ++counters_.lost;
    return;
  }
  launch(datagram);
  if (chance(conditions_.duplicate_ppm)) {
    ++counters_.duplicated;
    launch(datagram);
  }
}

void Network::launch(const Datagram& datagram) {
  uint64_t due = now_us_ + conditions_.delay_min_us;
  const uint32_t spread_us = conditions_.delay_max_us - conditions_.delay_min_us;
  if (conditions_.delay_max_us > conditions_.delay_min_us) due += random() % (spread_us + 1);
  if (chance(conditions_.reorder_ppm)) {
    due += random() % (uint64_t{conditions_.reorder_by_us} + 1);
  } else if (conditions_.delay_max_us > conditions_.delay_min_us) {
    uint64_t& latest = latest_[{datagram.from, datagram.to}];
    due = latest = std::max(due, latest);
  }
  uint32_t slot = 0;
  if (free_.empty()) {
    slot = static_cast<uint32_t>(pool_.size());
    pool_.emplace_back();
  } else {
    slot = free_.back();
    free_.pop_back();
  }
  pool_[slot] = datagram;
  heap_.push({due, sequence_++, slot});
}

void Network::arrive(Datagram& datagram) {
  const auto socket = sockets_.find(datagram.to);
  if (socket != sockets_.end()) return push(queues_[socket->second], datagram);
  if (!hosts_.contains(datagram.to.ip)) {
    ++counters_.unreachable;
    return;
  }
  ++counters_.refused;
  if (!datagram.is_error) refuse(datagram);  // an error is never answered with one (RFC 1122)
}

void Network::refuse(const Datagram& datagram) {
  Datagram error;
  error.from = datagram.to;
  error.to = datagram.from;
  error.is_error = true;
  const bool v4 = datagram.to.ip.is_v4();
  error.icmp_type = v4 ? kIcmpv4Unreachable : kIcmpv6Unreachable;
  error.icmp_code = v4 ? kIcmpv4PortUnreachable : kIcmpv6PortUnreachable;
  send(error);
}

std::optional<uint64_t> Network::next_arrival_us() const {
  if (heap_.empty()) return std::nullopt;
  return heap_.top().due_us;
}

void Network::advance_to(uint64_t us) {
  while (!heap_.empty() && heap_.top().due_us <= us) {
    const Flight flight = heap_.top();
    heap_.pop();
    now_us_ = std::max(now_us_, flight.due_us);
    Datagram datagram;
    std::swap(datagram, pool_[flight.slot]);
    arrive(datagram);  // may send an error, which may use the pool
    std::swap(datagram, pool_[flight.slot]);
    free_.push_back(flight.slot);
  }
  now_us_ = std::max(now_us_, us);
}

bool Network::step() {
  if (heap_.empty()) return false;
  advance_to(heap_.top().due_us);
  return true;
}

}  // namespace culvert::sim
