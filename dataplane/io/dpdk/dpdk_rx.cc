// Receiving: from buffers to datagrams.
#include <algorithm>

#include "dataplane/io/dpdk/dpdk_state.h"
#include "dataplane/io/frames.h"

namespace culvert {

namespace {

// Frames whose first lines are fetched ahead of the one that is parsed.
constexpr uint32_t kPrefetchAhead = 4;
// RFC 8656 section 12: what a listener gets is STUN when its first byte is 0 to 3.
constexpr uint8_t kLastStunByte = 3;

}  // namespace

void DpdkDriver::release_held() {
  uint32_t left = 0;
  for (uint32_t i = 0; i < held_.count; ++i)
    if (held_.items[i].mbuf != nullptr) frames_[left++] = held_.items[i].mbuf;
  if (left != 0) rte_pktmbuf_free_bulk(frames_.data(), left);
  held_.count = held_.cursor = 0;
  if (reassembled_count_ != 0) [[unlikely]]
    release_reassembled();
}

uint32_t DpdkDriver::rx_burst(std::span<RxDatagram> rx) {
  release_held();
  if (fragments_wait_ && ticks_reached(ticks_, fragments_due_)) [[unlikely]]
    expire_fragments();
  if (options_.routes != nullptr) {
    routes_ = &options_.routes->enter(core_);
    if (core_ == 0) send_from_kernel();
  }
  if (unresolved_count_ != 0) [[unlikely]]
    send_resolved();
  const auto want = static_cast<uint16_t>(std::min<size_t>({rx.size(), burst_, kMaxBurst}));
  for (size_t tried = 0; tried < ports_.size(); ++tried) {
    PortOfCore& port = *ports_[next_port_];
    next_port_ = next_port_ + 1 == ports_.size() ? 0 : next_port_ + 1;
    if (!port.receives) continue;
    const uint16_t frames = rte_eth_rx_burst(port.rx.id, port.rx.queue, frames_.data(), want);
    if (frames == 0) continue;
    idle_polls_ = 0;
    sleep_us_ /= 2;
    const uint32_t taken = take_frames(port, frames, rx);
    // A burst of nothing but ARP is work done all the same: the next port has its turn at the next
    // call.
    return taken;
  }
  return 0;
}

uint32_t DpdkDriver::take_frames(PortOfCore& port, uint32_t frames, std::span<RxDatagram> rx) {
  for (uint32_t i = 0; i < std::min(frames, kPrefetchAhead); ++i)
    rte_prefetch0(rte_pktmbuf_mtod(frames_[i], void*));
  uint32_t dropped = 0;
  for (uint32_t i = 0; i < frames; ++i) {
    if (i + kPrefetchAhead < frames)
      rte_prefetch0(rte_pktmbuf_mtod(frames_[i + kPrefetchAhead], void*));
    if (take_frame(port, frames_[i], rx[held_.count]))
      ++held_.count;
    else
      frames_[dropped++] = frames_[i];
  }
  if (dropped != 0) rte_pktmbuf_free_bulk(frames_.data(), dropped);
  if (port.queued != 0) (void)flush(port);
  if (options_.exception != nullptr) options_.exception->ring(core_);
  return held_.count;
}

// True: rx and the next place of held_ are filled. False: counted (or a fragment, whose datagram
// take_fragment() has added), and the buffer is the caller's.
bool DpdkDriver::take_frame(PortOfCore& port, rte_mbuf* mbuf, RxDatagram& rx) {
  if (mbuf->nb_segs != 1 && rte_pktmbuf_linearize(mbuf) != 0) [[unlikely]] {
    count(FrameCounter::k_segments_too_long);
    return false;
  }
  const auto* bytes = rte_pktmbuf_mtod(mbuf, const uint8_t*);
  const size_t length = mbuf->data_len;
  const uint64_t flags = mbuf->ol_flags;
  const uint64_t l4 = flags & RTE_MBUF_F_RX_L4_CKSUM_MASK;
  if ((flags & RTE_MBUF_F_RX_IP_CKSUM_MASK) == RTE_MBUF_F_RX_IP_CKSUM_BAD) [[unlikely]] {
    count(FrameCounter::k_bad_ip_checksum);
    return false;
  }
  if (l4 == RTE_MBUF_F_RX_L4_CKSUM_BAD) [[unlikely]] {
    count(FrameCounter::k_bad_udp_checksum);
    return false;
  }
  if (length >= frame::kEthernetHeader && load_be16(bytes + 12) == frame::kEtherVlan) [[unlikely]] {
    leave(port, mbuf, FrameCounter::k_vlan_tagged);
    return false;
  }
  frame::Parsed parsed;
  const auto verify = options_.verify_all ? frame::Verify::kAll : frame::Verify::kHeaders;
  const frame::Kind kind = frame::parse({bytes, length}, verify, parsed);
  if (frame::info(kind).disposition != frame::Disposition::path) [[unlikely]] {
    if (kind == frame::Kind::k_not_ip || kind == frame::Kind::k_other_protocol)
      port.learns ? react(port, mbuf) : leave(port, mbuf, frame_counter(kind));
    else if (kind == frame::Kind::k_fragment)
      take_fragment(mbuf, port, rx);
    else
      count(frame_counter(kind));
    return false;
  }
  // "None": sound, though the field was never filled in (a guest on this host sent it).
  const bool unfilled = l4 == RTE_MBUF_F_RX_L4_CKSUM_NONE;
  const bool good = unfilled || l4 == RTE_MBUF_F_RX_L4_CKSUM_GOOD;
  if (!for_path(port, mbuf, kind, parsed, good, rx)) return false;
  if (unfilled) [[unlikely]]
    rx.sum_state = PayloadSum::kUnknown;
  Held& held = held_.items[held_.count];
  held.mbuf = mbuf;
  held.begin = bytes;
  held.end = bytes + length;
  held.payload = parsed.payload;
  held.length = parsed.length;
  held.sum = parsed.payload_sum;
  held.sum_state = rx.sum_state;
  if (port.learns && kind == frame::Kind::k_udp && routes_->learns_from(parsed.source.ip))
      [[unlikely]]
    learn(port, bytes, parsed.source.ip);
  return true;
}

// What the datagram is to us; false: counted, and the kernel's where there is one.
bool DpdkDriver::for_path(PortOfCore& port, const rte_mbuf* mbuf, frame::Kind kind,
                          const frame::Parsed& parsed, bool good, RxDatagram& rx) {
  const bool is_error = kind == frame::Kind::k_icmp_error;
  const TransportAddress& ours = is_error ? parsed.source : parsed.destination;
  const uint16_t index = address_index(ours.ip);
  if (index == kNoAddressIndex) {
    leave(port, mbuf, FrameCounter::k_not_ours);
    return false;
  }
  const Address& address = addresses_[index];
  rx.payload = parsed.payload;
  rx.length = parsed.length;
  rx.ttl = parsed.ttl;
  rx.tos = parsed.tos;
  rx.df = parsed.dont_fragment ? DontFragment::kSet : DontFragment::kClear;
  rx.source = is_error ? parsed.destination : parsed.source;
  rx.hops_done = rx.handed_over = 0;
  rx.payload_sum = parsed.payload_sum;
  rx.sum_state = is_error           ? PayloadSum::kUnknown
                 : parsed.sum_known ? PayloadSum::kKnown
                                    : PayloadSum::kAbsent;
  if (is_error) [[unlikely]] {
    rx.icmp_type = parsed.icmp_type;
    rx.icmp_code = parsed.icmp_code;
    rx.icmp_mtu = parsed.icmp_mtu;
  } else {
    for (const Service& service : address.listeners) {
      if (service.port != ours.port) continue;
      rx.kind = RxKind::kClient;
      rx.listener = service.listener;
      // Of STUN this relay is the end, and has to look; what it relays, the far end looks at.
      const bool look =
          !good && parsed.sum_known && parsed.length != 0 && parsed.payload[0] <= kLastStunByte;
      if (look && checksum::fold(checksum::sum(parsed.payload, parsed.length)) % 0xffff !=
                      parsed.payload_sum % 0xffff) {
        count(FrameCounter::k_bad_udp_checksum);
        return false;
      }
      return true;
    }
  }
  if (!address.relays || ours.port < port_low_ || ours.port > port_high_) {
    leave(port, mbuf, FrameCounter::k_not_ours);
    return false;
  }
  rx.kind = is_error ? RxKind::kIcmpError : RxKind::kPeer;
  rx.relay = {index, ours.port};
  return true;
}

// ARP, neighbour discovery, echo.
void DpdkDriver::react(PortOfCore& port, const rte_mbuf* mbuf) {
  const auto* bytes = rte_pktmbuf_mtod(mbuf, const uint8_t*);
  const auto not_for_us = [&] {
    count(load_be16(bytes + 12) == frame::kEtherIpv4 || load_be16(bytes + 12) == frame::kEtherIpv6
              ? FrameCounter::k_other_protocol
              : FrameCounter::k_not_ip);
  };
  const std::span<const uint8_t> frame{bytes, mbuf->data_len};
  rte_mbuf* answer = rte_pktmbuf_alloc(port.pool);
  if (answer == nullptr) return count(FrameCounter::k_no_buffer);
  const std::span<uint8_t> room{rte_pktmbuf_mtod(answer, uint8_t*), rte_pktmbuf_tailroom(answer)};
  const host::Reaction reaction = host::react(frame, port.host, room);
  using Kind = host::Reaction::Kind;
  if (reaction.kind == Kind::kNone) {
    not_for_us();
  } else if (host_budget()) {
    count(reaction.count);
    if (reaction.learned)
      (void)neighbours_.learn(
          reaction.learned_ip, {reaction.learned_mac, port.position}, seconds_,
          reaction.only_update ? NeighbourTable::Origin::kUpdate : NeighbourTable::Origin::kAnswer);
    if (reaction.kind == Kind::kReply) {
      answer->data_len = static_cast<uint16_t>(reaction.reply_bytes);
      answer->pkt_len = answer->data_len;
      if (queue(port, answer)) return;
    }
  }
  rte_pktmbuf_free(answer);
}

void DpdkDriver::learn(PortOfCore& port, const uint8_t* frame, const IpAddress& source) {
  NeighbourTable::Hop hop;
  std::copy_n(frame + 6, hop.mac.size(), hop.mac.begin());
  hop.port = port.position;
  (void)neighbours_.learn(source, hop, seconds_, NeighbourTable::Origin::kAnswer);
}

}  // namespace culvert
