#include "dataplane/core/explain.h"

#include "dataplane/path/stages.h"
#include "dataplane/steer/owner.h"

namespace culvert {

namespace {

[[nodiscard]] uint32_t remaining(Ticks deadline, Ticks now) {
  return ticks_reached(now, deadline) ? 0 : deadline - now;
}

template <class Flow>
[[nodiscard]] const SwissTable<Flow>& table_of(const FlowState& flows) {
  if constexpr (std::is_same_v<Flow, NarrowFlow>)
    return flows.narrow;
  else
    return flows.wide;
}

class Explainer {
 public:
  Explainer(const CoreState& core, const Snapshot& snapshot, Ticks now)
      : core_(core), flows_(core.flows), snapshot_(snapshot), now_(now) {}

  ExplainReport from_client(const Explain& q) {
    const uint32_t index = flows_.find_client(ClientTuple{q.from, q.listener, 0});
    if (index == kNoSlot) return end(Outcome::k_no_allocation);
    note_allocation(index);
    if (q.channel == 0) return send_indication(index, q.peer);
    const bool v4 = q.from.ip.is_v4();
    if (v4 && channel<NarrowFlow>(client_key<NarrowKey>(q.from, q.listener, q.channel)))
      return report_;
    if (channel<WideFlow>(client_key<WideKey>(q.from, q.listener, q.channel))) return report_;
    return end(Outcome::k_no_channel);
  }

  ExplainReport from_peer(const Explain& q) {
    if (q.from.ip.is_v4() && peer<NarrowFlow>(peer_key<NarrowKey>(q.from, q.relay))) return report_;
    if (peer<WideFlow>(peer_key<WideKey>(q.from, q.relay))) return report_;
    const PortEntry* entry = flows_.port(q.relay);
    if (entry == nullptr || entry->allocation >= flows_.allocations.size())
      return end(Outcome::k_no_relayed_port);
    note_allocation(entry->allocation);
    if (ended(entry->allocation, q.from.ip)) return end(Outcome::k_expired_allocation);
    if (!permission(entry->allocation, q.from.ip)) return end(Outcome::k_no_permission);
    report_.to = flows_.allocations[entry->allocation].client.client;
    return end(Outcome::k_relayed_peer_to_data);
  }

 private:
  ExplainReport end(Outcome outcome) {
    report_.outcome = static_cast<uint8_t>(outcome);
    return report_;
  }
  void note_allocation(uint32_t index) {
    const Allocation& a = flows_.allocations[index];
    report_.has_allocation = 1;
    report_.handle = {index, a.generation};
  }
  // Of the family of `peer`.
  [[nodiscard]] bool ended(uint32_t index, const IpAddress& peer) const {
    return ticks_reached(now_, flows_.allocations[index].leg[leg_index(peer.family)].deadline);
  }
  // To another relayed port of ours.
  ExplainReport hairpin(const TransportAddress& to) {
    if (relay_address_index(snapshot_, to.ip) == RelayLeg::kNoAddress ||
        !flows_.in_relay_range(to.port))
      return end(Outcome::k_own_port_not_relayed);
    return end(owner(to.port, snapshot_.cores) == core_.id ? Outcome::k_hairpinned
                                                           : Outcome::k_hairpin_cross);
  }
  bool permission(uint32_t index, const IpAddress& ip) {
    // The permission of an IPv4 peer is not found by the mapped spelling of its address.
    const uint32_t slot = ip.is_v4_mapped_v6() ? kNoSlot : flows_.find_permission(index, ip);
    if (slot == kNoSlot) return false;
    report_.permission_remaining_ms = remaining(flows_.permission_table[slot].deadline, now_);
    return report_.permission_remaining_ms != 0;
  }
  ExplainReport send_indication(uint32_t index, const TransportAddress& to) {
    const AllocationLeg& leg = flows_.allocations[index].leg[leg_index(to.ip.family)];
    if (!leg.relay.present()) return end(Outcome::k_family_mismatch);
    if (ticks_reached(now_, leg.deadline)) return end(Outcome::k_expired_allocation);
    if (!permission(index, to.ip)) return end(Outcome::k_no_permission);
    report_.to = to;
    report_.from_relay = leg.relay;
    const Permission& permitted = flows_.permission_table[flows_.find_permission(index, to.ip)];
    return flows_.is_own_address(permitted) ? hairpin(to) : end(Outcome::k_relayed_send_to_peer);
  }

  template <class Flow>
  const Flow* find(const decltype(Flow::key)& key) const {
    const SwissTable<Flow>& table = table_of<Flow>(flows_);
    const uint32_t slot =
        table.find(hash_key(key, flows_.seed), [&](const Flow& f) { return same_key(f.key, key); });
    return slot == kNoSlot ? nullptr : &table[slot];
  }
  // True when the channel exists; the report then says what becomes of the datagram.
  template <class Flow>
  bool channel(const decltype(Flow::key)& key) {
    const Flow* flow = find<Flow>(key);
    if (flow == nullptr) return false;
    const Flow& twin = table_of<Flow>(flows_)[flow->twin];
    report_.channel = flow->channel;
    report_.channel_remaining_ms = remaining(twin.link, now_);
    const TransportAddress to = destination(*flow);
    const bool permitted = permission(flow->allocation, to.ip);
    if (ended(flow->allocation, to.ip)) return end(Outcome::k_expired_allocation), true;
    if (report_.channel_remaining_ms == 0) return end(Outcome::k_no_channel), true;
    if (!permitted) return end(Outcome::k_no_permission), true;
    report_.to = to;
    report_.from_relay = {flow->from_address, flow->from_port};
    if (flow->egress == kHairpinEgress) return hairpin(to), true;
    return end(Outcome::k_relayed_channel_to_peer), true;
  }
  template <class Flow>
  bool peer(const decltype(Flow::key)& key) {
    const Flow* flow = find<Flow>(key);
    if (flow == nullptr || ticks_reached(now_, flow->link)) return false;
    note_allocation(flow->allocation);
    report_.channel = flow->channel;
    report_.channel_remaining_ms = remaining(flow->link, now_);
    const TransportAddress from = destination(table_of<Flow>(flows_)[flow->twin]);
    if (ended(flow->allocation, from.ip)) return end(Outcome::k_expired_allocation), true;
    if (!permission(flow->allocation, from.ip)) return end(Outcome::k_no_permission), true;
    report_.to = destination(*flow);
    end(Outcome::k_relayed_peer_to_channel);
    return true;
  }

  const CoreState& core_;
  const FlowState& flows_;
  const Snapshot& snapshot_;
  Ticks now_;
  ExplainReport report_;
};

}  // namespace

ExplainReport explain(const CoreState& core, const Snapshot& snapshot, const Explain& question,
                      Ticks now) {
  Explainer explainer(core, snapshot, now);
  return question.relay.present() ? explainer.from_peer(question) : explainer.from_client(question);
}

}  // namespace culvert
