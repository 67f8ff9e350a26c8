// Stages 5-7 for datagrams that found their flow: expiry, police, transform, emit. One cache line
// of flow (two with IPv6), already fetched, plus the user's token bucket.
#include "dataplane/path/stages.h"
#include "dataplane/steer/owner.h"
#include "dataplane/wire/channel_data.h"

namespace culvert {

namespace {

// Which of channel, permission and allocation ended first. Off the hot path.
[[gnu::cold, gnu::noinline]] Outcome why_expired(const FlowState& flows, uint32_t allocation,
                                                 const IpAddress& peer, Ticks channel_deadline,
                                                 Ticks now) {
  const Allocation& a = flows.allocations[allocation];
  if (ticks_reached(now, a.leg[leg_index(peer.family)].deadline))
    return Outcome::k_expired_allocation;
  if (ticks_reached(now, channel_deadline)) return Outcome::k_no_channel;
  return Outcome::k_no_permission;
}

template <class Flow>
[[nodiscard]] auto& flow_at(FlowState& flows, uint32_t slot) {
  if constexpr (std::is_same_v<Flow, NarrowFlow>)
    return flows.narrow[slot];
  else
    return flows.wide[slot];
}

template <class Flow>
void account(Flow& flow, uint32_t bytes) {
  ++flow.packets;
  flow.bytes += bytes;
}

}  // namespace

template <class Flow>
void forward_channel_data(PathContext& path, const RxDatagram& rx, uint32_t slot) {
  FlowState& flows = path.core.flows;
  Flow& flow = flow_at<Flow>(flows, slot);
  if (ticks_reached(path.now, flow.deadline)) [[unlikely]] {
    const Ticks channel_deadline = flow_at<Flow>(flows, flow.twin).link;
    const TransportAddress peer = destination(flow);
    path.core.count(why_expired(flows, flow.allocation, peer.ip, channel_deadline, path.now));
    return;
  }
  if (rx.ttl <= 1) [[unlikely]]
    return ttl_exceeded(path, rx);
  const uint16_t length = load_be16(rx.payload + 2);
  if (!flows.admit(flow.policer, length, path.now)) [[unlikely]]
    return path.core.count(Outcome::k_policed);
  account(flow, length);

  if (flow.egress == kHairpinEgress) [[unlikely]] {
    hairpin(path, rx, {rx.payload + kChannelHeaderSize, length},
            RelayLeg{flow.from_address, flow.from_port}, destination(flow));
    return;
  }
  TxDatagram& tx = next_out(path);
  tx.payload = rx.payload + kChannelHeaderSize;
  tx.length = length;
  tx.head_length = 0;
  tx.pad_length = 0;
  tx.egress = flow.egress;
  tx.to = destination(flow);
  tx.from_address = flow.from_address;
  tx.from_port = flow.from_port;
  copy_header_fields(tx, rx);
  emit(path, tx);
  path.core.count(Outcome::k_relayed_channel_to_peer);
}

template <class Flow>
void forward_peer_datagram(PathContext& path, const RxDatagram& rx, uint32_t slot) {
  FlowState& flows = path.core.flows;
  Flow& flow = flow_at<Flow>(flows, slot);
  if (ticks_reached(path.now, flow.deadline)) [[unlikely]] {
    // The channel may have gone while the permission lives: then it is a Data indication.
    if (ticks_reached(path.now, flow.link)) return peer_without_flow(path, rx);
    path.core.count(why_expired(flows, flow.allocation, rx.source.ip, flow.link, path.now));
    return;
  }
  if (rx.ttl <= 1) [[unlikely]]
    return ttl_exceeded(path, rx);
  if (size_t{rx.length} + kChannelHeaderSize > kMaxUdpPayload) [[unlikely]]
    return path.core.count(Outcome::k_too_big);
  if (!flows.admit(flow.policer, rx.length, path.now)) [[unlikely]]
    return path.core.count(Outcome::k_policed);
  account(flow, rx.length);

  const Listener& listener = path.snapshot.listeners[flow.from_address];
  TxDatagram& tx = next_out(path);
  tx.payload = rx.payload;
  tx.length = rx.length;
  store_be16(tx.head.data(), flow.channel);
  store_be16(tx.head.data() + 2, rx.length);
  tx.head_length = kChannelHeaderSize;
  tx.pad_length = 0;  // over UDP padding is optional (section 12.5)
  tx.egress = flow.egress;
  tx.to = destination(flow);
  tx.from_address = listener.address;
  tx.from_port = listener.port;
  copy_header_fields(tx, rx);
  emit(path, tx);
  path.core.count(Outcome::k_relayed_peer_to_channel);
}

template void forward_channel_data<NarrowFlow>(PathContext&, const RxDatagram&, uint32_t);
template void forward_channel_data<WideFlow>(PathContext&, const RxDatagram&, uint32_t);
template void forward_peer_datagram<NarrowFlow>(PathContext&, const RxDatagram&, uint32_t);
template void forward_peer_datagram<WideFlow>(PathContext&, const RxDatagram&, uint32_t);

// ---- shared leaves

uint16_t relay_address_index(const Snapshot& snapshot, const IpAddress& ip) {
  for (size_t i = 0; i < snapshot.addresses.size(); ++i) {
    const LocalAddress& a = snapshot.addresses[i];
    if (a.relays && (a.bound == ip || a.advertised == ip)) return static_cast<uint16_t>(i);
  }
  return RelayLeg::kNoAddress;
}

void ttl_exceeded(PathContext& path, const RxDatagram& rx) {
  TxBurst& out = path.out;
  if (out.expired_count < out.expired.size()) out.expired[out.expired_count++] = rx.payload;
  path.core.count(Outcome::k_ttl_exceeded);
}

void hand_off(PathContext& path, const RxDatagram& rx, CoreId owner, Outcome sent) {
  CoreState& core = path.core;
  SpscRing* ring = core.handoff[owner];
  if (ring == nullptr) return core.count(Outcome::k_handoff_full);
  Handoff message;
  message.datagram = rx;
  message.datagram.payload = nullptr;
  message.datagram.handed_over = static_cast<uint8_t>(rx.handed_over + 1);
  if (!ring_write(*ring, message, {rx.payload, rx.length}))
    return core.count(Outcome::k_handoff_full);
  core.wake_cores |= uint64_t{1} << owner;
  core.count(sent);
}

void hairpin(PathContext& path, const RxDatagram& rx, std::span<const uint8_t> payload,
             RelayLeg from, const TransportAddress& to) {
  CoreState& core = path.core;
  const uint16_t address = relay_address_index(path.snapshot, to.ip);
  if (address == RelayLeg::kNoAddress || !core.flows.in_relay_range(to.port))
    return core.count(Outcome::k_own_port_not_relayed);

  // In its place already: one of this core's own needs no copy.
  RxDatagram& second = core.second[path.second_count];
  second = RxDatagram{};
  second.payload = payload.data();
  second.length = static_cast<uint16_t>(payload.size());
  second.kind = RxKind::kPeer;
  second.ttl = static_cast<uint8_t>(rx.ttl - 1);
  second.tos = rx.tos;
  const bool short_from_ipv6 =
      rx.source.ip.is_v6() && to.ip.is_v4() && kIpv4UdpHeaders + payload.size() <= kMaxFragmentable;
  second.df = short_from_ipv6 ? DontFragment::kClear : rx.df;
  second.relay = RelayLeg{address, to.port};
  // The far client has permitted the address it was told: the advertised one.
  second.source = {path.snapshot.addresses[from.address].advertised, from.port};
  second.hops_done = 1;

  const CoreId owner_core = owner(to.port, path.snapshot.cores);
  if (owner_core != core.id) return hand_off(path, second, owner_core, Outcome::k_hairpin_cross);
  ++path.second_count;
  core.count(Outcome::k_hairpinned);
}

}  // namespace culvert
