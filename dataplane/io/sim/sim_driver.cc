// See sim_driver.h.
#include "dataplane/io/sim/sim_driver.h"

#include <algorithm>
#include <utility>

#include "dataplane/base/siphash.h"
#include "dataplane/steer/owner.h"

namespace culvert {

static_assert(Driver<SimDriver>);

namespace sim {

Card::Card(Network& network, const Snapshot& snapshot, const Options& options)
    : network_(network),
      options_(options),
      cores_(snapshot.cores),
      addresses_(snapshot.addresses),
      listeners_(snapshot.listeners),
      port_low_(snapshot.relay_port_low),
      port_high_(snapshot.relay_port_high),
      waiting_(snapshot.cores),
      stalled_until_us_(snapshot.cores) {
  for (const Listener& l : listeners_) {
    const TransportAddress at = address({l.address, l.port});
    if (socket_ == kNoSocket) {
      socket_ = network_.open(at, size_t{options.queue_limit} * cores_);
    } else {
      (void)network_.also_at(socket_, at);
    }
  }
}

TransportAddress Card::address(RelayLeg leg) const {
  return {addresses_[leg.address].bound, leg.port};
}

Egress Card::listener_egress(uint16_t listener) const {
  return key({listeners_[listener].address, listeners_[listener].port});
}

bool Card::classify(const Datagram& d, RxDatagram& rx) const {
  rx = RxDatagram{};
  rx.payload = d.payload.data();
  rx.length = static_cast<uint16_t>(d.payload.size());
  rx.ttl = d.ttl;
  rx.tos = d.tos;
  rx.df = d.dont_fragment ? DontFragment::kSet : DontFragment::kClear;
  rx.source = d.from;
  rx.icmp_type = d.icmp_type;
  rx.icmp_code = d.icmp_code;
  rx.icmp_mtu = d.icmp_mtu;
  for (size_t i = 0; !d.is_error && i < listeners_.size(); ++i) {
    if (address({listeners_[i].address, listeners_[i].port}) != d.to) continue;
    rx.kind = RxKind::kClient;
    rx.listener = static_cast<uint16_t>(i);
    return true;
  }
  if (d.to.port < port_low_ || d.to.port > port_high_) return false;
  for (size_t i = 0; i < addresses_.size(); ++i) {
    if (!addresses_[i].relays || addresses_[i].bound != d.to.ip) continue;
    rx.kind = d.is_error ? RxKind::kIcmpError : RxKind::kPeer;
    rx.relay = {static_cast<uint16_t>(i), d.to.port};
    return true;
  }
  return false;
}

// What RSS does: a client's datagrams always meet the same core, peers' the owner of the port.
CoreId Card::core_for(const Datagram& d, const RxDatagram& rx) const {
  if (cores_ == 1) return 0;
  if (rx.kind != RxKind::kClient && !options_.misdirect_relay) return owner(d.to.port, cores_);
  uint8_t text[16 + 2];
  std::copy(d.from.ip.bytes.begin(), d.from.ip.bytes.end(), text);
  store_be16(text + 16, d.from.port);
  return static_cast<CoreId>(siphash24({1, 2}, text, sizeof text) % cores_);
}

void Card::sort_arrivals() {
  if (socket_ == kNoSocket) return;
  while (network_.receive(socket_, scratch_)) {
    RxDatagram rx;
    if (!classify(scratch_, rx)) continue;  // an error about a datagram a listener sent
    Waiting& queue = waiting_[core_for(scratch_, rx)];
    if (queue.items.size() - queue.next >= options_.queue_limit) continue;
    queue.items.emplace_back(rx, Datagram{});
    std::swap(queue.items.back().second, scratch_);
  }
}

bool Card::receive(CoreId core, RxDatagram& rx, Datagram& store) {
  sort_arrivals();
  if (network_.now_us() < stalled_until_us_[core]) return false;
  Waiting& queue = waiting_[core];
  if (queue.next == queue.items.size()) {
    queue.items.clear();
    queue.next = 0;
    return false;
  }
  auto& [datagram, bytes] = queue.items[queue.next++];
  rx = datagram;
  std::swap(store, bytes);
  rx.payload = store.payload.data();
  return true;
}

bool Card::transmit(CoreId core, const TxDatagram& tx) {
  const RelayLeg leg{tx.from_address, tx.from_port};
  if (tx.egress != key(leg)) {
    ++wrong_egress_;
    return false;
  }
  scratch_.from = address(leg);
  scratch_.to = tx.to;
  scratch_.ttl = tx.ttl;
  scratch_.tos = tx.tos;
  scratch_.dont_fragment = tx.dont_fragment;
  scratch_.is_error = false;
  scratch_.icmp_type = scratch_.icmp_code = 0;
  scratch_.icmp_mtu = 0;
  scratch_.payload.assign(tx.head.data(), tx.head.data() + tx.head_length);
  if (tx.length != 0) {
    scratch_.payload.insert(scratch_.payload.end(), tx.payload, tx.payload + tx.length);
  }
  scratch_.payload.insert(scratch_.payload.end(), tx.pad_length, 0);
  if (!network_.is_open(scratch_.from)) return false;
  if (recording_) sent_.push_back({network_.now_us(), core, scratch_});
  network_.send(scratch_);
  return true;
}

Egress Card::open(CoreId /*core*/, RelayLeg leg) {
  if (leg.address >= addresses_.size() || occupied_.contains(key(leg))) return kNoEgress;
  if (!network_.also_at(socket_, address(leg))) return kNoEgress;
  open_.insert(key(leg));
  return key(leg);
}

void Card::close(RelayLeg leg) {
  if (open_.erase(key(leg)) != 0) network_.close_address(address(leg));
}

}  // namespace sim

uint32_t SimDriver::rx_burst(std::span<RxDatagram> rx) {
  uint32_t count = 0;
  while (count < rx.size() && card_.receive(core_, rx[count], burst_[count]))
    ++count;
  return count;
}

uint32_t SimDriver::tx_burst(TxBurst& tx) {
  uint32_t unsent = 0;
  for (uint32_t i = 0; i < tx.count; ++i) {
    if (!card_.transmit(core_, tx.items[i])) ++unsent;
  }
  return unsent;
}

}  // namespace culvert
