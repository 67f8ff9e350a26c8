#include "dataplane/io/dpdk/flow_rules.h"

#include <rte_byteorder.h>
#include <rte_ethdev.h>
#include <rte_flow.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "dataplane/steer/plan.h"

namespace culvert {

namespace {

// Datagrams to `to`, UDP, whose destination port matches under the mask.
class Pattern {
 public:
  Pattern(const IpAddress& to, uint16_t port, uint16_t mask) {
    items_[0].type = RTE_FLOW_ITEM_TYPE_ETH;
    if (to.is_v4()) {
      std::memcpy(&ipv4_.hdr.dst_addr, to.wire(), sizeof ipv4_.hdr.dst_addr);
      std::memset(&ipv4_mask_.hdr.dst_addr, 0xff, sizeof ipv4_mask_.hdr.dst_addr);
      items_[1] = {RTE_FLOW_ITEM_TYPE_IPV4, &ipv4_, nullptr, &ipv4_mask_};
    } else {
      std::memcpy(&ipv6_.hdr.dst_addr, to.wire(), sizeof ipv6_.hdr.dst_addr);
      std::memset(&ipv6_mask_.hdr.dst_addr, 0xff, sizeof ipv6_mask_.hdr.dst_addr);
      items_[1] = {RTE_FLOW_ITEM_TYPE_IPV6, &ipv6_, nullptr, &ipv6_mask_};
    }
    udp_.hdr.dst_port = rte_cpu_to_be_16(port);
    udp_mask_.hdr.dst_port = rte_cpu_to_be_16(mask);
    items_[2] = {RTE_FLOW_ITEM_TYPE_UDP, &udp_, nullptr, &udp_mask_};
    items_[3].type = RTE_FLOW_ITEM_TYPE_END;
  }
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;
  [[nodiscard]] const rte_flow_item* items() const { return items_.data(); }

 private:
  rte_flow_item_ipv4 ipv4_{}, ipv4_mask_{};
  rte_flow_item_ipv6 ipv6_{}, ipv6_mask_{};
  rte_flow_item_udp udp_{}, udp_mask_{};
  std::array<rte_flow_item, 4> items_{};
};

// nullptr: refused, and `why` says so in the port's words.
[[nodiscard]] rte_flow* create(uint16_t port, const Pattern& pattern, rte_flow_action_type type,
                               const void* configuration, std::string& why) {
  rte_flow_attr attributes{};
  attributes.ingress = 1;
  std::array<rte_flow_action, 2> actions{};
  actions[0] = {type, configuration};
  actions[1].type = RTE_FLOW_ACTION_TYPE_END;
  rte_flow_error error{};
  rte_flow* made = nullptr;
  // A port may take a rule here and refuse to make it all the same (net_tap without multiq).
  if (rte_flow_validate(port, &attributes, pattern.items(), actions.data(), &error) == 0)
    made = rte_flow_create(port, &attributes, pattern.items(), actions.data(), &error);
  if (made == nullptr) why = error.message != nullptr ? error.message : rte_strerror(rte_errno);
  return made;
}

struct MaskRule {
  IpAddress to;
  PortRule rule;
};

// One hash over a block of ports.
struct HashRule {
  IpAddress to;
  uint16_t port = 0;
  uint16_t mask = 0;
};

}  // namespace

FlowRules::FlowRules(uint16_t port, const Wanted& wanted) : port_(port) {
  if (wanted.cores < 2 || wanted.relays.empty()) {
    why_ = "nothing to steer";
    return;
  }
  if (by_masks(wanted))
    method_ = Method::kPortMasks;
  else if (by_hash(wanted))
    method_ = Method::kPortHash;
}

FlowRules::~FlowRules() {
  remove();
}

FlowRules::FlowRules(FlowRules&& other) noexcept {
  *this = std::move(other);
}

FlowRules& FlowRules::operator=(FlowRules&& other) noexcept {
  if (this == &other) return *this;
  remove();
  port_ = other.port_;
  method_ = std::exchange(other.method_, Method::kNone);
  made_ = std::exchange(other.made_, {});
  why_ = std::move(other.why_);
  return *this;
}

const char* FlowRules::name(Method method) {
  switch (method) {
    case Method::kPortMasks:
      return "port masks";
    case Method::kPortHash:
      return "port hash";
    case Method::kNone:
      break;
  }
  return "none";
}

void FlowRules::remove() {
  rte_flow_error error{};
  for (; !made_.empty(); made_.pop_back())
    (void)rte_flow_destroy(port_, made_.back(), &error);
  method_ = Method::kNone;
}

bool FlowRules::by_masks(const Wanted& wanted) {
  const std::vector<PortRule> plan =
      plan_port_rules(wanted.port_low, wanted.port_high, wanted.cores);
  if (plan.empty()) {
    why_ = "the range of relayed ports takes too many rules: begin and end it at powers of two";
    return false;
  }
  std::vector<MaskRule> rules;
  for (const IpAddress& to : wanted.relays)
    for (const PortRule& rule : plan)
      rules.push_back({to, rule});
  return program_all(
      rules, made_,
      [&](const MaskRule& r, rte_flow*& made) {
        rte_flow_action_queue queue{};
        queue.index = r.rule.core;
        made = create(port_, Pattern(r.to, r.rule.port, r.rule.mask), RTE_FLOW_ACTION_TYPE_QUEUE,
                      &queue, why_);
        return made != nullptr;
      },
      [&](rte_flow* made) {
        rte_flow_error error{};
        (void)rte_flow_destroy(port_, made, &error);
      });
}

bool FlowRules::by_hash(const Wanted& wanted) {
  // Listening ports stay with the port's own RSS: only whole blocks of relayed ports match.
  std::vector<HashRule> rules;
  for (const IpAddress& to : wanted.relays)
    for (const PortBlock& block : port_blocks(wanted.port_low, wanted.port_high))
      rules.push_back({to, block.base, block.mask()});
  return program_all(
      rules, made_,
      [&](const HashRule& r, rte_flow*& made) {
        const RssKey key = destination_port_key(r.to.family);
        std::array<uint16_t, kRedirectionEntries> queues;
        for (uint32_t i = 0; i < queues.size(); ++i)
          queues[i] = destination_port_redirection(i, wanted.cores);
        rte_flow_action_rss rss{};
        rss.func = RTE_ETH_HASH_FUNCTION_TOEPLITZ;
        rss.types = (r.to.is_v4() ? RTE_ETH_RSS_NONFRAG_IPV4_UDP : RTE_ETH_RSS_NONFRAG_IPV6_UDP) |
                    RTE_ETH_RSS_L4_DST_ONLY;
        rss.key_len = static_cast<uint32_t>(key.size());
        rss.key = key.data();
        rss.queue_num = static_cast<uint32_t>(queues.size());
        rss.queue = queues.data();
        made = create(port_, Pattern(r.to, r.port, r.mask), RTE_FLOW_ACTION_TYPE_RSS, &rss, why_);
        return made != nullptr;
      },
      [&](rte_flow* made) {
        rte_flow_error error{};
        (void)rte_flow_destroy(port_, made, &error);
      });
}

}  // namespace culvert
