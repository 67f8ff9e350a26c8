// Stages 2-4: hash and prefetch, probe, resolve. Three short loops per table, so that the memory of
// the whole burst is under way before the first entry is needed (architecture.md 5.4).
#include "dataplane/path/stages.h"

namespace culvert {

namespace {

[[nodiscard]] WideKey widen(const NarrowKey& narrow) {
  WideKey key;
  key.source_ip = IpAddress::v4(narrow.source_ip).bytes;
  key.family = Family::kIpv4;
  key.source_port = narrow.source_port;
  key.local_address = narrow.local_address;
  key.local_port = narrow.local_port;
  key.channel = narrow.channel;
  key.kind = narrow.kind;
  return key;
}

// Fills work.slot for every datagram listed. The user's token bucket is the one other line a packet
// needs: fetched as soon as its flow names it.
template <class Flow, class Key>
void resolve(const FlowState& flows, const SwissTable<Flow>& table, KeyList<Key>& list,
             BurstWork& work) {
  for (uint32_t k = 0; k < list.count; ++k) {
    list.hash[k] = hash_key(list.key[k], flows.seed);
    table.prefetch_group(list.hash[k]);
  }
  std::array<uint32_t, kMaxBurst> candidate;
  for (uint32_t k = 0; k < list.count; ++k)
    candidate[k] = table.probe(list.hash[k]);
  for (uint32_t k = 0; k < list.count; ++k) {
    const Key& key = list.key[k];
    uint32_t slot = candidate[k];
    if (slot == kNoSlot || !same_key(table[slot].key, key)) [[unlikely]] {
      slot = table.find(list.hash[k], [&](const Flow& f) { return same_key(f.key, key); });
    }
    const uint8_t i = list.index[k];
    work.slot[i] = slot;
    work.wide[i] = std::is_same_v<Flow, WideFlow>;
    if (slot != kNoSlot) [[likely]]
      __builtin_prefetch(&flows.policers[table[slot].policer], 1);
    else
      ++work.loose;
  }
}

}  // namespace

void lookup(const FlowState& flows, BurstWork& work) {
  resolve(flows, flows.narrow, work.narrow, work);
  if (flows.wide.size() != 0) {
    // IPv4 datagrams whose flow has an IPv6 side.
    for (uint32_t k = 0; k < work.narrow.count; ++k) {
      const uint8_t i = work.narrow.index[k];
      if (work.slot[i] == kNoSlot) work.wide_keys.add(i, widen(work.narrow.key[k]));
    }
  }
  resolve(flows, flows.wide, work.wide_keys, work);
}

}  // namespace culvert
