// Stages 2-4: hash and prefetch, probe, resolve. Three short loops, so that the memory of the whole burst
// is under way before the first entry is needed (architecture.md 5.4).
#include "dataplane/path/stages.h"

namespace culvert {

namespace {

[[nodiscard]] bool has_key(Step step) {
  return step == Step::kChannelData || step == Step::kPeerDatagram;
}

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

template <class Flow, class Key>
[[nodiscard]] uint32_t find(const SwissTable<Flow>& table, const Key& key, uint64_t hash) {
  return table.find(hash, [&](const Flow& flow) { return same_key(flow.key, key); });
}

void prefetch_policer(const FlowState& flows, uint32_t policer) {
  __builtin_prefetch(&flows.policers[policer], 1);
}

}  // namespace

void lookup(const FlowState& flows, size_t count, BurstWork& work) {
  for (size_t i = 0; i < count; ++i) {
    if (!has_key(work.step[i])) continue;
    if (work.wide[i]) {
      work.hash[i] = hash_key(work.wide_key[i], flows.seed);
      flows.wide.prefetch_group(work.hash[i]);
    } else {
      work.hash[i] = hash_key(work.narrow_key[i], flows.seed);
      flows.narrow.prefetch_group(work.hash[i]);
    }
  }
  for (size_t i = 0; i < count; ++i) {
    if (!has_key(work.step[i])) continue;
    if (work.wide[i]) flows.wide.prefetch_entry(work.hash[i]);
    else flows.narrow.prefetch_entry(work.hash[i]);
  }
  for (size_t i = 0; i < count; ++i) {
    if (!has_key(work.step[i])) continue;
    if (work.wide[i]) {
      work.slot[i] = find(flows.wide, work.wide_key[i], work.hash[i]);
      if (work.slot[i] != kNoSlot) prefetch_policer(flows, flows.wide[work.slot[i]].policer);
      continue;
    }
    work.slot[i] = find(flows.narrow, work.narrow_key[i], work.hash[i]);
    if (work.slot[i] != kNoSlot) [[likely]] {
      prefetch_policer(flows, flows.narrow[work.slot[i]].policer);
      continue;
    }
    if (flows.wide.size() == 0) continue;
    // An IPv4 side whose other side is IPv6.
    work.wide_key[i] = widen(work.narrow_key[i]);
    work.wide[i] = true;
    work.hash[i] = hash_key(work.wide_key[i], flows.seed);
    work.slot[i] = find(flows.wide, work.wide_key[i], work.hash[i]);
  }
}

}  // namespace culvert
