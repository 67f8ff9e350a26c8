// Datagrams that found no channel: ChannelData on an unbound number, Send indications, and peers
// that get a Data indication. Two or three dependent look-ups instead of one; still no state is
// made.
#include "dataplane/path/no_flow.h"
#include "dataplane/steer/client.h"
#include "dataplane/steer/owner.h"
#include "dataplane/wire/channel_data.h"

namespace culvert {

namespace {

// xorshift128+: unique enough for a Data indication, whose transaction id nobody answers.
[[nodiscard]] uint64_t next_random(FlowState& flows) {
  uint64_t a = flows.transaction_state[0];
  const uint64_t b = flows.transaction_state[1];
  flows.transaction_state[0] = b;
  a ^= a << 23;
  flows.transaction_state[1] = a ^ b ^ (a >> 17) ^ (b >> 26);
  return flows.transaction_state[1] + b;
}

// A client's datagram whose allocation lives on another core (a used reservation). It may come from
// the core where it arrived, but not from there by a redirect already: two redirects that point at
// each other must not pass it on for ever.
constexpr uint8_t kMaxHandovers = 2;
[[nodiscard]] bool redirected(PathContext& path, const RxDatagram& rx, const ClientTuple& client) {
  const uint8_t before_redirect = path.snapshot.steering.by_hash ? kMaxHandovers - 1 : 0;
  if (rx.handed_over > before_redirect) return false;
  const uint32_t slot = path.core.flows.find_redirect(client);
  if (slot == kNoSlot) return false;
  hand_off(path, rx, path.core.flows.redirects[slot].owner, Outcome::k_handoff_reservation);
  return true;
}

}  // namespace

bool steered(PathContext& path, const RxDatagram& rx) {
  const ClientSteering& steering = path.snapshot.steering;
  if (!steering.by_hash || rx.handed_over != 0) return false;
  const Listener& listener = path.snapshot.listeners[rx.listener];
  const TransportAddress to{path.snapshot.addresses[listener.address].bound, listener.port};
  const CoreId core = client_owner(steering.key, rx.source, to, path.snapshot.cores);
  if (core == path.core.id) return false;
  hand_off(path, rx, core, Outcome::k_handoff);
  return true;
}

uint32_t begin_data_indication(PathContext& path, TxDatagram& tx, const Allocation& allocation,
                               const TransportAddress& peer) {
  uint8_t* head = tx.head.data();
  const uint64_t id_high = next_random(path.core.flows);
  const auto id_low = static_cast<uint32_t>(next_random(path.core.flows));
  store_be16(head, static_cast<uint16_t>(stun::kData | 0x0010));  // class: indication
  store_be32(head + 4, stun::kMagicCookie);
  store_be64(head + 8, id_high);
  store_be32(head + 16, id_low);
  // XOR-PEER-ADDRESS by words, without reading back what was just written.
  const bool v4 = peer.ip.is_v4();
  const uint64_t length = v4 ? 8 : 20;
  const uint64_t port = peer.port ^ stun::kMagicCookie >> 16;
  store_be64(head + stun::kHeaderSize,
             uint64_t{0x0012} << 48 | length << 32 | uint64_t{v4 ? 1u : 2u} << 16 | port);
  uint8_t* address = head + stun::kHeaderSize + 8;
  if (v4) {
    store_be32(address, peer.ip.v4_host() ^ stun::kMagicCookie);
  } else {
    store_be64(address, load_be64(peer.ip.bytes.data()) ^
                            (uint64_t{stun::kMagicCookie} << 32 | id_high >> 32));
    store_be64(address + 8, load_be64(&peer.ip.bytes[8]) ^ (id_high << 32 | id_low));
  }
  const auto at = static_cast<uint32_t>(stun::kHeaderSize + 4 + length);

  const Listener& listener = path.snapshot.listeners[allocation.client.listener];
  tx.egress = allocation.client_egress;
  tx.to = allocation.client.client;
  tx.from_address = listener.address;
  tx.from_port = listener.port;
  return at;
}

void finish_data_indication(TxDatagram& tx, uint32_t head_length) {
  tx.head_length = static_cast<uint8_t>(head_length);
  tx.pad_length = static_cast<uint8_t>((4 - tx.length % 4) % 4);
  store_be16(tx.head.data() + 2, static_cast<uint16_t>(tx.size() - stun::kHeaderSize));
}

void channel_without_flow(PathContext& path, const RxDatagram& rx) {
  const ClientTuple client{rx.source, rx.listener, 0};
  if (path.core.flows.find_client(client) != kNoSlot) return path.core.count(Outcome::k_no_channel);
  if (redirected(path, rx, client) || steered(path, rx)) return;
  path.core.count(Outcome::k_no_allocation);
}

namespace {

struct Send {
  TransportAddress peer;
  std::span<const uint8_t> data;
  bool dont_fragment = false;
};

// RFC 8656 section 11.2, once the allocation and the permission (or kNoSlot) are known.
void send_to_peer(PathContext& path, const RxDatagram& rx, uint32_t index, uint32_t permission,
                  const Send& send) {
  CoreState& core = path.core;
  FlowState& flows = core.flows;
  Allocation& a = flows.allocations[index];
  const AllocationLeg& leg = a.leg[leg_index(send.peer.ip.family)];
  if (!leg.relay.present()) return core.count(Outcome::k_family_mismatch);
  if (ticks_reached(path.now, leg.deadline)) return core.count(Outcome::k_expired_allocation);
  // The permission of an IPv4 peer is not for the mapped spelling of its address.
  if (permission == kNoSlot || send.peer.ip.is_v4_mapped_v6() ||
      ticks_reached(path.now, flows.permission_table[permission].deadline))
    return core.count(Outcome::k_no_permission);
  if (send.peer.port == 0) return core.count(Outcome::k_indication_malformed);
  if (rx.ttl <= 1) return ttl_exceeded(path, rx);
  const auto length = static_cast<uint16_t>(send.data.size());
  if (!flows.admit(a.policer, length, path.now)) return core.count(Outcome::k_policed);
  ++a.counters.packets_to_peer;
  a.counters.bytes_to_peer += length;

  if (flows.is_own_address(flows.permission_table[permission]))
    return hairpin(path, rx, send.data, leg.relay, send.peer);
  TxDatagram& tx = next_out(path);
  tx.payload = send.data.data();
  tx.length = length;
  tx.head_length = 0;
  tx.pad_length = 0;
  tx.egress = leg.egress;
  tx.to = send.peer;
  tx.from_address = leg.relay.address;
  tx.from_port = leg.relay.port;
  copy_header_fields(tx, rx);
  // DONT-FRAGMENT counts from IPv4 to IPv4 only (RFC 8656 sections 13 and 14).
  if (send.dont_fragment && rx.source.ip.is_v4() && send.peer.ip.is_v4()) tx.dont_fragment = true;
  emit(path, tx);
  core.count(Outcome::k_relayed_send_to_peer);
}

void no_client(PathContext& path, const RxDatagram& rx) {
  const ClientTuple client{rx.source, rx.listener, 0};
  if (!redirected(path, rx, client) && !steered(path, rx))
    path.core.count(Outcome::k_no_allocation);
}

}  // namespace

void plain_send(PathContext& path, const RxDatagram& rx, const WithoutFlow& found) {
  if (found.allocation == kNoSlot) return no_client(path, rx);
  send_to_peer(path, rx, found.allocation, found.permission, {found.peer, found.data});
}

void handle_send(PathContext& path, const RxDatagram& rx, const stun::Message& message) {
  const FlowState& flows = path.core.flows;
  const uint32_t index = flows.find_client({rx.source, rx.listener, 0});
  if (index == kNoSlot) return no_client(path, rx);
  using stun::AttributeSlot;
  const auto peer = message.xor_address(message.value(AttributeSlot::kXorPeerAddress));
  if (!peer || !message.has(AttributeSlot::kData) || !message.unknown_required().empty())
    return path.core.count(Outcome::k_indication_malformed);
  send_to_peer(
      path, rx, index, flows.find_permission(index, peer->ip),
      {*peer, message.value(AttributeSlot::kData), message.has(AttributeSlot::kDontFragment)});
}

namespace {

// RFC 8656 section 11.3, once the allocation and the permission (or kNoSlot) are known.
void data_to_client(PathContext& path, const RxDatagram& rx, uint32_t index, uint32_t permission) {
  CoreState& core = path.core;
  FlowState& flows = core.flows;
  Allocation& a = flows.allocations[index];
  if (ticks_reached(path.now, a.leg[leg_index(rx.source.ip.family)].deadline))
    return core.count(Outcome::k_expired_allocation);
  if (permission == kNoSlot || ticks_reached(path.now, flows.permission_table[permission].deadline))
    return core.count(Outcome::k_no_permission);
  if (rx.ttl <= 1) return ttl_exceeded(path, rx);
  if (size_t{rx.length} + kMaxHead > kMaxUdpPayload) return core.count(Outcome::k_too_big);
  if (!flows.admit(a.policer, rx.length, path.now)) return core.count(Outcome::k_policed);
  ++a.counters.packets_to_client;
  a.counters.bytes_to_client += rx.length;

  TxDatagram& tx = next_out(path);
  uint32_t at = begin_data_indication(path, tx, a, rx.source);
  store_be16(tx.head.data() + at, static_cast<uint16_t>(stun::Attribute::kData));
  store_be16(tx.head.data() + at + 2, rx.length);
  tx.payload = rx.payload;
  tx.length = rx.length;
  finish_data_indication(tx, at + 4);
  copy_header_fields(tx, rx);
  emit(path, tx);
  core.count(Outcome::k_relayed_peer_to_data);
}

}  // namespace

void unbound_peer(PathContext& path, const RxDatagram& rx, const WithoutFlow& found) {
  data_to_client(path, rx, found.allocation, found.permission);
}

void peer_without_flow(PathContext& path, const RxDatagram& rx) {
  CoreState& core = path.core;
  FlowState& flows = core.flows;
  const PortEntry* entry = flows.port(rx.relay);
  if (entry == nullptr || entry->allocation >= flows.allocations.size()) {
    // Software steering: whichever core a driver delivers to, the owner decides.
    const CoreId owner_core = owner(rx.relay.port, path.snapshot.cores);
    if (owner_core != core.id && rx.handed_over == 0)
      return hand_off(path, rx, owner_core, Outcome::k_handoff);
    return core.count(rx.hops_done != 0 ? Outcome::k_own_port_not_relayed
                                        : Outcome::k_no_relayed_port);
  }
  const uint32_t index = entry->allocation;
  data_to_client(path, rx, index, flows.find_permission(index, rx.source.ip));
}

}  // namespace culvert
