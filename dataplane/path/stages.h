// The stages of process(), for process.cc, their unit tests and their micro-benchmarks.
#pragma once

#include <span>

#include "dataplane/path/process.h"

namespace culvert {

struct PathContext {
  CoreState& core;
  const Snapshot& snapshot;
  Ticks now;
  TxBurst& out;
  uint32_t sent_bytes = 0;
  uint32_t second_count = 0;  // of core.second: hairpins met in the first pass

  PathContext(CoreState& c, const Snapshot& s, Ticks n, TxBurst& o)
      : core(c), snapshot(s), now(n), out(o) {}
};

void classify(CoreState& core, std::span<const RxDatagram> in, BurstWork& work);
void lookup(const FlowState& flows, BurstWork& work);
void resolve_without_flow(const FlowState& flows, std::span<const RxDatagram> in, BurstWork& work);

template <class Flow>
void forward_channel_data(PathContext& path, const RxDatagram& rx, uint32_t slot);
template <class Flow>
void forward_peer_datagram(PathContext& path, const RxDatagram& rx, uint32_t slot);

// ChannelData whose channel is not bound on this core.
void channel_without_flow(PathContext& path, const RxDatagram& rx);
// A peer datagram without a channel: Data indication when it has a permission.
void peer_without_flow(PathContext& path, const RxDatagram& rx);
// The same two kinds with what resolve_without_flow() found.
void plain_send(PathContext& path, const RxDatagram& rx, const WithoutFlow& found);
void unbound_peer(PathContext& path, const RxDatagram& rx, const WithoutFlow& found);
void handle_stun(PathContext& path, const RxDatagram& rx);
void handle_icmp_error(PathContext& path, const RxDatagram& rx);

// ---- shared leaves

// Passes a datagram to another core; counts `sent` or handoff_full.
void hand_off(PathContext& path, const RxDatagram& rx, CoreId owner, Outcome sent);
// Where clients belong to cores by a hash (Snapshot::steering), a datagram that found nothing on
// the core where it arrived goes to its client's. True: handed over and counted.
[[nodiscard]] bool steered(PathContext& path, const RxDatagram& rx);
// A client's datagram to one of our own addresses: second pass here, or on the owner of the port.
void hairpin(PathContext& path, const RxDatagram& rx, std::span<const uint8_t> payload,
             RelayLeg from, const TransportAddress& to);
// The address index whose bound or advertised form is `ip` and on which we relay; kNoAddress: none.
[[nodiscard]] uint16_t relay_address_index(const Snapshot& snapshot, const IpAddress& ip);

[[nodiscard]] inline TxDatagram& next_out(PathContext& path) {
  return path.out.items[path.out.count];
}
inline void emit(PathContext& path, TxDatagram& tx) {
  path.sent_bytes += static_cast<uint32_t>(tx.size());
  ++path.out.count;
}

// A datagram to be relayed whose TTL is used up.
[[gnu::cold]] void ttl_exceeded(PathContext& path, const RxDatagram& rx);

// The longest IPv4 packet made from an IPv6 one that routers may still cut (RFC 7915 section 5.1).
inline constexpr uint32_t kMaxFragmentable = 1260;

// Header fields that follow the datagram (RFC 8656 sections 13-14): TTL decremented, DSCP and ECN
// copied, DF from IPv4 to IPv4 too. What came whole over IPv6 and is longer than kMaxFragmentable
// leaves over IPv4 with DF set. `tx` has its destination and all its bytes.
inline void copy_header_fields(TxDatagram& tx, const RxDatagram& rx) {
  tx.ttl = static_cast<uint8_t>(rx.ttl - 1);
  tx.tos = rx.tos;
  const uint32_t packet = kIpv4UdpHeaders + tx.head_length + tx.length + tx.pad_length;
  tx.dont_fragment = rx.df == DontFragment::kSet && tx.to.ip.is_v4() &&
                     (rx.source.ip.is_v4() || packet > kMaxFragmentable);
}

}  // namespace culvert
