// The slow path: fragments received, and datagrams longer than the port they leave by, which are
// cut, or dropped with an ICMP error to whoever sent them (RFC 8656 sections 13 and 14).
#include <algorithm>
#include <cstring>

#include "dataplane/io/dpdk/dpdk_state.h"
#include "dataplane/io/frames.h"

namespace culvert {

// Counts the fragment; where it completes a datagram for us, `rx` and the next place of held_ are
// filled and held_.count has grown. The frame's bytes are copied: the buffer stays the caller's.
void DpdkDriver::take_fragment(const rte_mbuf* mbuf, PortOfCore& port, RxDatagram& rx) {
  const auto* bytes = rte_pktmbuf_mtod(mbuf, const uint8_t*);
  frame::Fragment fragment;
  if (!frame::parse_fragment({bytes, mbuf->data_len}, fragment))
    return count(FrameCounter::k_fragment);
  if (address_index(fragment.destination) == kNoAddressIndex ||
      (!port.learns && fragment.protocol != frame::kProtocolUdp))
    return leave(port, mbuf, FrameCounter::k_not_ours);
  if (!fragment_budget_.take(ticks_)) return count(FrameCounter::k_fragment_budget);

  const auto verify = options_.verify_all ? frame::Verify::kAll : frame::Verify::kHeaders;
  Reassembler::Handle handle = 0;
  Reassembler::Result result;
  Reassembler::GivenUp given_up;
  {
    const QueueGuard guard(&fragments_.lock);
    result = fragments_.table.take(fragment, ticks_, handle);
    given_up = fragments_.table.given_up();
  }
  count(frame_counter(result));
  count_given_up(given_up);
  if (result == Reassembler::Result::kHeld && !fragments_wait_) {
    fragments_wait_ = true;
    fragments_due_ = ticks_ + kReassemblyLifetimeMs;
  }
  if (result != Reassembler::Result::kComplete) return;

  // Ours alone from here on, until it is released.
  reassembled_[reassembled_count_++] = handle;
  frame::Parsed parsed;
  const frame::Kind kind = fragments_.table.parse(handle, verify, parsed);
  if (kind != frame::Kind::k_udp) return count(frame_counter(kind));
  if (!for_path(port, mbuf, kind, parsed, false, rx)) return;
  Held& held = held_.items[held_.count++];
  held.mbuf = nullptr;
  held.begin = held.payload = parsed.payload;
  held.end = parsed.payload + parsed.length;
  held.length = parsed.length;
  held.sum = parsed.payload_sum;
  held.sum_state = rx.sum_state;
  if (port.learns && routes_->learns_from(parsed.source.ip)) learn(port, bytes, parsed.source.ip);
}

void DpdkDriver::release_reassembled() {
  const QueueGuard guard(&fragments_.lock);
  for (uint32_t i = 0; i < reassembled_count_; ++i)
    fragments_.table.release(reassembled_[i]);
  reassembled_count_ = 0;
}

// Due once for each core after it held a fragment, so that no time passes here while there are
// none.
void DpdkDriver::expire_fragments() {
  const QueueGuard guard(&fragments_.lock);
  fragments_.table.expire(ticks_);
  fragments_wait_ = !fragments_.table.idle();
  fragments_due_ = ticks_ + kReassemblyLifetimeMs;
  count_given_up(fragments_.table.given_up());
}

// ---- sending

// True: queued or held, whole though in pieces; false: counted.
bool DpdkDriver::send_long(const TxDatagram& tx, const NextHop& hop, const Routes::Route& route) {
  PortOfCore& port = *ports_[hop.port];
  const size_t mtu = port.frame_limit - frame::kEthernetHeader;
  const bool ipv6 = tx.to.ip.is_v6();
  const Received received = received_as(tx.payload);
  if (tx.dont_fragment || !received.may_cut) {
    count(FrameCounter::k_exceeds_mtu);
    const auto link_mtu = static_cast<uint32_t>(mtu);
    if (!received.packet.empty() &&
        tell(received, frame::IcmpError::kTooBig,
             told_mtu(link_mtu, received.packet[0] >> 4 == 6, ipv6, received.from_peer)))
      count(FrameCounter::k_too_big_told);
    return false;
  }
  const Held* from = tx.payload == nullptr ? nullptr : held_.find(tx.payload);
  if (from == nullptr && tx.payload != nullptr) from = foreign_.find(tx.payload);
  const frame::Outgoing o = outgoing(tx, from);
  const size_t total = frame::kUdpHeader + tx.size();
  const size_t step = piece_bytes(mtu, ipv6);
  const size_t pieces = (total + step - 1) / step;
  // All of its pieces wait for the next hop, or none.
  if (hop.awaited && !may_hold(route, pieces)) {
    count(FrameCounter::k_no_next_hop);
    return false;
  }
  uint8_t* body = whole_.data() + frame::kUdpHeader;
  frame::write_udp_header(whole_.data(), tx.size(), o);
  std::memcpy(body, tx.head.data(), tx.head_length);
  if (tx.length != 0) std::memcpy(body + tx.head_length, tx.payload, tx.length);
  std::memset(body + tx.head_length + tx.length, 0, tx.pad_length);

  if (port.queued + pieces > port.out.size()) (void)flush(port);
  const uint32_t identification =
      ipv6 ? ipv6_identification(fragments_.key, ++cut_over_ipv6_ * cores_ + core_)
           : o.identification;
  const frame::Link link{hop.mac, port.host.mac, frame::kNoVlan};
  for (size_t at = 0; at < total; at += step) {
    const size_t length = std::min(step, total - at);
    rte_mbuf* mbuf = make_piece(port, link, o, {at, at + length < total, identification},
                                {whole_.data() + at, length});
    if (mbuf == nullptr) continue;
    if (hop.awaited)
      (void)hold_unresolved(mbuf, route);
    else if (!queue(port, mbuf))
      rte_pktmbuf_free(mbuf);
  }
  count(FrameCounter::k_cut);
  return true;
}

// nullptr: counted.
rte_mbuf* DpdkDriver::make_piece(PortOfCore& port, const frame::Link& link,
                                 const frame::Outgoing& o, const frame::Piece& piece,
                                 std::span<const uint8_t> data) {
  rte_mbuf* mbuf = rte_pktmbuf_alloc(port.pool);
  if (mbuf == nullptr) {
    count(FrameCounter::k_no_buffer);
    return nullptr;
  }
  uint8_t* const to = rte_pktmbuf_mtod(mbuf, uint8_t*) + frame::kMaxPieceHeaders;
  std::memcpy(to, data.data(), data.size());
  const size_t headers = frame::write_piece_headers(to, data.size(), piece, link, o);
  mbuf->data_off = static_cast<uint16_t>(to - headers - static_cast<uint8_t*>(mbuf->buf_addr));
  mbuf->data_len = static_cast<uint16_t>(headers + data.size());
  mbuf->pkt_len = mbuf->data_len;
  return mbuf;
}

// How a datagram came that cannot be sent on as it is.
DpdkDriver::Received DpdkDriver::received_as(const uint8_t* payload) {
  if (payload == nullptr) return {};  // made here
  const Held* held = held_.find(payload);
  if (held == nullptr) {
    held = foreign_.find(payload);
    if (held == nullptr) return {};
    return received_elsewhere(foreign_rx_[static_cast<size_t>(held - foreign_.items.data())]);
  }
  if (fragments_.table.holds(held->begin)) return {};
  const std::span<const uint8_t> frame{held->begin, held->end};
  frame::Parsed parsed;
  if (frame::parse(frame, frame::Verify::kHeaders, parsed) != frame::Kind::k_udp) return {};
  const uint16_t index = address_index(parsed.destination.ip);
  bool from_peer = true;
  if (index != kNoAddressIndex)
    for (const Service& service : addresses_[index].listeners)
      from_peer = from_peer && service.port != parsed.destination.port;
  return {!parsed.dont_fragment, from_peer, frame.subspan(frame::kEthernetHeader)};
}

// Another core has the frame: the packet is made again from what came along, as far as an error
// quotes it.
DpdkDriver::Received DpdkDriver::received_elsewhere(const RxDatagram& rx) {
  Received out{rx.df != DontFragment::kSet, rx.kind != RxKind::kClient, {}};
  // A hairpin's second pass comes from a port of ours.
  if (rx.hops_done != 0) return out;
  frame::Outgoing o;
  o.source = rx.source;
  o.destination.port = rx.relay.port;
  uint16_t address = rx.relay.address;
  if (rx.kind == RxKind::kClient) {
    address = listener_address_[rx.listener];
    for (const Service& service : addresses_[address].listeners)
      if (service.listener == rx.listener) o.destination.port = service.port;
  }
  o.destination.ip = addresses_[address].bound;
  o.ttl = rx.ttl;
  o.tos = rx.tos;
  o.dont_fragment = !out.may_cut;
  o.body = {rx.payload_sum, rx.sum_state == PayloadSum::kKnown || o.source.ip.is_v6()};
  uint8_t* const body = quoted_.data() + frame::kMaxHeaders;
  const size_t quoted = std::min<size_t>(rx.length, frame::kMaxIcmpErrorIpv6);
  std::memcpy(body, rx.payload, quoted);
  const size_t headers = frame::write_headers(body, rx.length, {}, o);
  out.packet = {body - headers + frame::kEthernetHeader, body + quoted};
  return out;
}

void DpdkDriver::tell_expired(const TxBurst& tx) {
  for (uint32_t i = 0; i < tx.expired_count; ++i) {
    const Received received = received_as(tx.expired[i]);
    if (!received.packet.empty() && tell(received, frame::IcmpError::kTimeExceeded, 0))
      count(FrameCounter::k_expiry_told);
  }
}

// True: queued; false: counted why not.
bool DpdkDriver::tell(const Received& received, frame::IcmpError error, uint32_t mtu) {
  if (!icmp_error_budget_.take(ticks_)) {
    count(FrameCounter::k_icmp_error_budget);
    return false;
  }
  const auto packet = received.packet;
  const bool v6 = packet[0] >> 4 == 6;
  const IpAddress sender = v6 ? IpAddress::v6_bytes(&packet[8]) : IpAddress::v4_bytes(&packet[12]);
  const IpAddress ours = v6 ? IpAddress::v6_bytes(&packet[24]) : IpAddress::v4_bytes(&packet[16]);
  const NextHop hop = next_hop(routes_->route(sender));
  if (hop.awaited) count(FrameCounter::k_no_next_hop);
  if (!hop.known) return false;
  PortOfCore& port = *ports_[hop.port];
  rte_mbuf* mbuf = rte_pktmbuf_alloc(port.pool);
  if (mbuf == nullptr) {
    count(FrameCounter::k_no_buffer);
    return false;
  }
  const std::span<uint8_t> room{rte_pktmbuf_mtod(mbuf, uint8_t*), rte_pktmbuf_tailroom(mbuf)};
  const frame::Link link{hop.mac, port.host.mac, frame::kNoVlan};
  mbuf->data_len =
      static_cast<uint16_t>(frame::write_icmp_error(room, link, ours, sender, error, mtu, packet));
  mbuf->pkt_len = mbuf->data_len;
  if (queue(port, mbuf)) return true;
  rte_pktmbuf_free(mbuf);
  return false;
}

void DpdkDriver::count_given_up(const Reassembler::GivenUp& given_up) {
  const auto add = [this](FrameCounter counter, uint32_t n) {
    if (n != 0) stats_.frames[static_cast<size_t>(counter)].add(n);
  };
  add(FrameCounter::k_fragment_timeout, given_up.timeout);
  add(FrameCounter::k_fragment_table_full, given_up.table_full);
  add(FrameCounter::k_fragment_prefix_full, given_up.prefix_full);
}

}  // namespace culvert
