// Sending: next hops, headers, frames.
#include <algorithm>

#include "dataplane/io/dpdk/dpdk_state.h"

namespace culvert {

namespace {

[[nodiscard]] bool fits(const TxDatagram& tx, size_t frame_limit) {
  const size_t headers = frame::kEthernetHeader + frame::kUdpHeader +
                         (tx.to.ip.is_v4() ? frame::kIpv4Header : frame::kIpv6Header);
  return headers + tx.size() <= frame_limit;
}

}  // namespace

uint32_t DpdkDriver::tx_burst(TxBurst& tx) {
  // The table's lines for the whole burst are under way before the first is needed.
  for (uint32_t i = 0; i < tx.count; ++i) {
    route_[i] = routes_->route(tx.items[i].to.ip);
    neighbours_.prefetch(route_[i].target);
  }
  for (uint32_t i = 0; i < tx.count; ++i) {
    const bool again = i != 0 && hops_[i - 1].known && route_[i].target == route_[i - 1].target;
    hops_[i] = again ? hops_[i - 1] : next_hop(route_[i]);
  }
  uint32_t failed = 0;
  for (uint32_t i = 0; i < tx.count; ++i) {
    const TxDatagram& datagram = tx.items[i];
    const NextHop& hop = hops_[i];
    const bool wanted = hop.known || hop.awaited;
    if (wanted && !fits(datagram, ports_[hop.port]->frame_limit)) [[unlikely]] {
      if (!send_long(datagram, hop, route_[i])) ++failed;
      continue;
    }
    rte_mbuf* mbuf = wanted ? make_frame(datagram, hop) : nullptr;
    if (mbuf == nullptr)
      ++failed;
    else if (hop.awaited)
      failed += hold_unresolved(mbuf, route_[i]) ? 0 : 1;
    else if (!queue(*ports_[hop.port], mbuf)) {
      rte_pktmbuf_free(mbuf);
      ++failed;
    }
  }
  if (tx.expired_count != 0) [[unlikely]]
    tell_expired(tx);
  for (const auto& port : ports_)
    if (port->queued != 0) failed += flush(*port);
  if (options_.exception != nullptr) options_.exception->ring(core_);
  // What the port did not take may be a request for a link address, or one of several fragments.
  return std::min(failed, tx.count);
}

// Known, awaited, or counted why not.
DpdkDriver::NextHop DpdkDriver::next_hop(const Routes::Route& route) {
  NeighbourTable::Hop hop;
  using State = NeighbourTable::State;
  const State state = neighbours_.find(route.target, seconds_, route.by != nullptr, hop);
  if (state == State::kKnown || state == State::kStale) {
    if (state == State::kStale) ask(*route.by, route.target);
    return {hop.mac, hop.port, hop.port < ports_.size(), false};
  }
  if (route.by == nullptr) {
    count(FrameCounter::k_no_route);
    return {};
  }
  if (state == State::kUnknown) ask(*route.by, route.target);
  return {{}, route.by->port, false, route.by->port < ports_.size()};
}

// A next hop that never answers takes no more than its share.
bool DpdkDriver::may_hold(const Routes::Route& route, size_t frames) const {
  size_t same = 0;
  for (uint32_t i = 0; i < unresolved_count_; ++i)
    same += unresolved_[i].target == route.target ? 1 : 0;
  return unresolved_count_ + frames <= unresolved_.size() && same + frames <= kMaxUnresolvedPerHop;
}

// False: freed and counted.
bool DpdkDriver::hold_unresolved(rte_mbuf* mbuf, const Routes::Route& route) {
  if (!may_hold(route, 1)) {
    count(FrameCounter::k_no_next_hop);
    rte_pktmbuf_free(mbuf);
    return false;
  }
  unresolved_[unresolved_count_++] = {mbuf, route.target, *route.by, ticks_};
  return true;
}

// Those whose next hop has become known go out in the order in which they came. Looked at when some
// neighbour answered, and once a tick to ask again or give up: a flood from hosts that are not
// there must not have the whole table of those who wait searched with every burst.
void DpdkDriver::send_resolved() {
  const uint32_t changes = neighbours_.changes();
  if (changes == unresolved_changes_ && ticks_ == unresolved_ticks_) return;
  unresolved_changes_ = changes;
  unresolved_ticks_ = ticks_;
  uint32_t left = 0;
  for (uint32_t i = 0; i < unresolved_count_; ++i) {
    const Unresolved u = unresolved_[i];
    NeighbourTable::Hop hop;
    using State = NeighbourTable::State;
    const State state = neighbours_.find(u.target, seconds_, true, hop);
    if (state == State::kKnown || state == State::kStale) {
      std::memcpy(rte_pktmbuf_mtod(u.mbuf, uint8_t*), hop.mac.data(), hop.mac.size());
      count(FrameCounter::k_next_hop_awaited);
      if (!queue(*ports_[u.by.port], u.mbuf)) rte_pktmbuf_free(u.mbuf);
    } else if (ticks_ - u.since >= kMaxUnresolvedTicks) {
      count(FrameCounter::k_no_next_hop);
      rte_pktmbuf_free(u.mbuf);
    } else {
      if (state == State::kUnknown) ask(u.by, u.target);
      unresolved_[left++] = u;
    }
  }
  unresolved_count_ = left;
  for (const auto& port : ports_)
    if (port->queued != 0) (void)flush(*port);
  if (options_.exception != nullptr) options_.exception->ring(core_);
}

void DpdkDriver::ask(const PortAddress& by, const IpAddress& target) {
  if (by.port >= ports_.size()) return;
  PortOfCore& port = *ports_[by.port];
  if (!port.learns) {
    const bool asked = options_.exception->ask(core_, port.position, target);
    return count(asked ? FrameCounter::k_neighbour_asked : FrameCounter::k_punt_full);
  }
  rte_mbuf* mbuf = rte_pktmbuf_alloc(port.pool);
  if (mbuf == nullptr) return count(FrameCounter::k_no_buffer);
  const std::span<uint8_t> room{rte_pktmbuf_mtod(mbuf, uint8_t*), rte_pktmbuf_tailroom(mbuf)};
  mbuf->data_len = static_cast<uint16_t>(host::ask(room, port.host, by.ip, target));
  mbuf->pkt_len = mbuf->data_len;
  if (queue(port, mbuf))
    count(FrameCounter::k_neighbour_asked);
  else
    rte_pktmbuf_free(mbuf);
}

// The new UDP checksum follows from the received one where that is known; a body the relay made
// itself is summed, and a datagram without a checksum gets none where the family permits it.
frame::BodySum DpdkDriver::sum_of(const TxDatagram& tx, const Held* from) const {
  frame::BodySum rest;
  if (from != nullptr && from->sum_state == PayloadSum::kKnown) {
    frame::Parsed received;
    received.payload = from->payload;
    received.length = from->length;
    received.payload_sum = from->sum;
    received.sum_known = true;
    rest = frame::piece_sum(received, tx.payload, tx.length);
  } else if (from == nullptr || from->sum_state == PayloadSum::kUnknown || tx.to.ip.is_v6()) {
    rest = frame::full_sum(tx.payload, tx.length);
  }
  return frame::with_head(rest, tx.head.data(), tx.head_length);
}

// Of a datagram that fits the port. nullptr: counted.
rte_mbuf* DpdkDriver::make_frame(const TxDatagram& tx, const NextHop& hop) {
  PortOfCore& port = *ports_[hop.port];
  Held* from = tx.payload == nullptr ? nullptr : held_.find(tx.payload);
  const Held* sum_from =
      from == nullptr && tx.payload != nullptr ? foreign_.find(tx.payload) : from;
  const frame::Outgoing o = outgoing(tx, sum_from);
  const size_t size = tx.size();
  // In place where the buffer has room before and after the payload, which received frames have.
  rte_mbuf* mbuf = from == nullptr ? nullptr : from->mbuf;
  uint8_t* body = nullptr;
  if (mbuf != nullptr) [[likely]] {
    auto* const buffer = static_cast<uint8_t*>(mbuf->buf_addr);
    const auto offset = static_cast<size_t>(tx.payload - buffer);
    if (offset >= tx.head_length + frame::kMaxHeaders &&
        offset + tx.length + tx.pad_length <= mbuf->buf_len) {
      body = buffer + offset - tx.head_length;
      from->mbuf = nullptr;
    } else {
      mbuf = nullptr;
    }
  }
  if (mbuf == nullptr) {
    mbuf = rte_pktmbuf_alloc(port.pool);
    if (mbuf == nullptr) {
      count(FrameCounter::k_no_buffer);
      return nullptr;
    }
    body = rte_pktmbuf_mtod(mbuf, uint8_t*) + frame::kMaxHeaders;
    if (tx.length != 0) std::memcpy(body + tx.head_length, tx.payload, tx.length);
  }
  std::memcpy(body, tx.head.data(), tx.head_length);
  std::memset(body + tx.head_length + tx.length, 0, tx.pad_length);
  const frame::Link link{hop.mac, port.host.mac, frame::kNoVlan};
  const size_t written = frame::write_headers(body, size, link, o);
  if (written == 0) [[unlikely]] {
    count(FrameCounter::k_exceeds_mtu);
    rte_pktmbuf_free(mbuf);
    return nullptr;
  }
  mbuf->data_off = static_cast<uint16_t>(body - written - static_cast<uint8_t*>(mbuf->buf_addr));
  mbuf->data_len = static_cast<uint16_t>(written + size);
  mbuf->pkt_len = mbuf->data_len;
  mbuf->ol_flags = 0;
  return mbuf;
}

// False: no place is left, counted; the buffer stays the caller's.
bool DpdkDriver::queue(PortOfCore& port, rte_mbuf* mbuf) {
  if (port.queued == port.out.size()) {
    count(FrameCounter::k_port_full);
    return false;
  }
  port.out[port.queued++] = mbuf;
  return true;
}

// What the port does not take is freed and counted: a core never waits for one.
uint32_t DpdkDriver::flush(PortOfCore& port) {
  uint16_t sent = 0;
  {
    const QueueGuard guard(port.tx_lock);
    sent = rte_eth_tx_burst(port.tx.id, port.tx.queue, port.out.data(), port.queued);
  }
  const uint32_t left = static_cast<uint32_t>(port.queued) - sent;
  port.queued = 0;
  if (left != 0) [[unlikely]] {
    stats_.frames[static_cast<size_t>(FrameCounter::k_port_full)].add(left);
    rte_pktmbuf_free_bulk(&port.out[sent], left);
  }
  return left;
}

}  // namespace culvert
