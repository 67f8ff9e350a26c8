// What a port must be told so that datagrams to relayed ports arrive on their owner's queue: masked
// matches on the UDP destination port, or a hash of that port alone. Pure; io/dpdk/flow_rules turns
// it into rte_flow's words, and tests hold it against owner() and against DPDK's own hash.
//
// Listening ports must stay out of both: their clients are spread by the port's RSS (client.h).
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "dataplane/steer/client.h"
#include "dataplane/steer/owner.h"

namespace culvert {

// A datagram whose destination port p has (p & mask) == port goes to `core`.
struct PortRule {
  uint16_t port = 0;
  uint16_t mask = 0;
  CoreId core = 0;
};

// Of one relayed address. A NIC's table for masked matches holds some hundreds to thousands; the
// default range takes one rule a core, or 64 where their number is no power of two.
inline constexpr size_t kMaxPortRules = 512;

// 2^bits ports from `base` on, which is a multiple of that.
struct PortBlock {
  uint16_t base = 0;
  unsigned bits = 0;
  [[nodiscard]] constexpr uint16_t mask() const {
    return static_cast<uint16_t>(~((1u << bits) - 1));
  }
};

// The fewest blocks that make up [low, high], in order.
[[nodiscard]] inline std::vector<PortBlock> port_blocks(uint16_t low, uint16_t high) {
  std::vector<PortBlock> blocks;
  for (uint32_t at = low; at <= high;) {
    unsigned bits = at == 0 ? 16u : static_cast<unsigned>(std::countr_zero(at));
    while (at + (1u << bits) - 1 > high)
      --bits;
    blocks.push_back({static_cast<uint16_t>(at), bits});
    at += 1u << bits;
  }
  return blocks;
}

namespace detail {

inline void plan_block(const PortBlock& block, CoreId cores, std::vector<PortRule>& rules) {
  const CoreId period = std::has_single_bit(cores) ? cores : static_cast<CoreId>(kPortSlices);
  const unsigned slice_bits = static_cast<unsigned>(std::countr_zero(period));
  // The bits above the slice's are free within the block, as is the lowest: a pair's.
  const unsigned varied = std::min(slice_bits + 1, block.bits);
  const auto slices = static_cast<uint16_t>(varied == 0 ? 0u : ((1u << varied) - 1u) & ~1u);
  for (uint32_t pair = 0; pair < (varied == 0 ? 1u : 1u << (varied - 1)); ++pair) {
    const auto port = static_cast<uint16_t>(block.base | pair << 1);
    rules.push_back({port, static_cast<uint16_t>(block.mask() | slices), owner(port, cores)});
  }
}

}  // namespace detail

// Together they match each port of [low, high] once and no other. Empty: one core, or more than
// kMaxPortRules would be needed (a range that is far from whole powers of two).
[[nodiscard]] inline std::vector<PortRule> plan_port_rules(uint16_t low, uint16_t high,
                                                           CoreId cores) {
  std::vector<PortRule> rules;
  if (cores < 2) return rules;
  for (const PortBlock& block : port_blocks(low, high)) {
    detail::plan_block(block, cores, rules);
    if (rules.size() > kMaxPortRules) return {};
  }
  return rules;
}

// A Toeplitz key under which the low seven bits of the hash are the destination port's low seven
// in reverse and nothing else of the tuple counts (architecture.md 4.4: the window at bit i of the
// tuple is the key's bits i to i + 31, and only one bit of this key is set). One key serves one
// family: the other's tuple has an address where this one has the port.
[[nodiscard]] constexpr RssKey destination_port_key(Family family) {
  RssKey key{};
  const unsigned bit = family == Family::kIpv6 ? 312 : 120;
  key[bit / 8] = static_cast<uint8_t>(0x80u >> bit % 8);
  return key;
}

// The core for each of the kRedirectionEntries of such a hash.
[[nodiscard]] constexpr CoreId destination_port_redirection(uint32_t hash, CoreId cores) {
  uint32_t port = 0;
  for (unsigned bit = 0; bit < 7; ++bit)
    port |= (hash >> bit & 1) << (6 - bit);
  return owner(static_cast<uint16_t>(port), cores);
}

// All of `rules` or none: create(rule, handle) says whether the port took it and fills the handle;
// on the first refusal destroy(handle) takes back what was made, last first. True: `made` has them
// all.
template <class Rule, class Handle, class Create, class Destroy>
[[nodiscard]] bool program_all(const std::vector<Rule>& rules, std::vector<Handle>& made,
                               Create&& create, Destroy&& destroy) {
  made.clear();
  for (const Rule& rule : rules) {
    Handle handle{};
    if (create(rule, handle)) {
      made.push_back(handle);
      continue;
    }
    for (; !made.empty(); made.pop_back())
      destroy(made.back());
    return false;
  }
  return true;
}

}  // namespace culvert
