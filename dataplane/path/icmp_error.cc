// ICMP errors about datagrams sent from a relayed port become Data indications with an ICMP
// attribute (RFC 8656 sections 11.5 and 18.13), whether or not a channel is bound. The address that
// sent the error is never checked; the destination of the lost datagram must have a permission.
#include "dataplane/path/no_flow.h"
#include "dataplane/steer/owner.h"

namespace culvert {

namespace {

constexpr uint8_t kIcmpv4Unreachable = 3;
constexpr uint8_t kIcmpv4FragmentationNeeded = 4;  // a code of type 3
constexpr uint8_t kIcmpv4TimeExceeded = 11;
constexpr uint8_t kIcmpv6Unreachable = 1;
constexpr uint8_t kIcmpv6PacketTooBig = 2;
constexpr uint8_t kIcmpv6TimeExceeded = 3;

[[nodiscard]] bool is_forwarded(const RxDatagram& rx) {
  if (rx.source.ip.is_v4())
    return rx.icmp_type == kIcmpv4Unreachable || rx.icmp_type == kIcmpv4TimeExceeded;
  return rx.icmp_type >= kIcmpv6Unreachable && rx.icmp_type <= kIcmpv6TimeExceeded;
}

// Next-hop MTU where the type carries one, else 0.
[[nodiscard]] uint32_t error_data(const RxDatagram& rx) {
  if (rx.source.ip.is_v6()) return rx.icmp_type == kIcmpv6PacketTooBig ? rx.icmp_mtu : 0;
  const bool too_big =
      rx.icmp_type == kIcmpv4Unreachable && rx.icmp_code == kIcmpv4FragmentationNeeded;
  return too_big ? rx.icmp_mtu : 0;
}

}  // namespace

void handle_icmp_error(PathContext& path, const RxDatagram& rx) {
  CoreState& core = path.core;
  FlowState& flows = core.flows;
  if (!is_forwarded(rx)) return core.count(Outcome::k_icmp_type_ignored);
  const PortEntry* entry = flows.port(rx.relay);
  if (entry == nullptr || entry->allocation >= flows.allocations.size()) {
    // Software steering, as for a peer's datagram: whichever core it comes to, the owner decides.
    const CoreId owner_core = owner(rx.relay.port, path.snapshot.cores);
    if (owner_core != core.id && rx.handed_over == 0)
      return hand_off(path, rx, owner_core, Outcome::k_handoff);
    return core.count(Outcome::k_icmp_unmatched);
  }
  const Allocation& a = flows.allocations[entry->allocation];
  // The permission of an IPv4 peer is not found by the mapped spelling of its address.
  const uint32_t slot = rx.source.ip.is_v4_mapped_v6()
                            ? kNoSlot
                            : flows.find_permission(entry->allocation, rx.source.ip);
  if (slot == kNoSlot || ticks_reached(path.now, flows.permission_table[slot].deadline) ||
      ticks_reached(path.now, a.leg[leg_index(rx.source.ip.family)].deadline))
    return core.count(Outcome::k_icmp_unmatched);

  TxDatagram& tx = next_out(path);
  const uint32_t at = begin_data_indication(path, tx, a, rx.source);
  uint8_t* attribute = tx.head.data() + at;
  store_be16(attribute, static_cast<uint16_t>(stun::Attribute::kIcmp));
  store_be16(attribute + 2, 8);
  store_be16(attribute + 4, 0);
  // Seven bits of type, nine of code (section 18.13); the forwarded types all fit.
  store_be16(attribute + 6, static_cast<uint16_t>(rx.icmp_type << 9 | rx.icmp_code));
  store_be32(attribute + 8, error_data(rx));
  tx.payload = nullptr;
  tx.length = 0;
  finish_data_indication(tx, at + 12);
  tx.ttl = 64;
  tx.tos = 0;
  tx.dont_fragment = false;
  emit(path, tx);
  core.count(Outcome::k_relayed_icmp_to_data);
}

}  // namespace culvert
