// A port's own rules that bring datagrams for relayed ports to their owner's queue: best first, as
// the port takes them, all of a kind or none.
//
//   1. masked matches on the UDP destination port (steer/plan.h): exact, what a match means is the
//      same on every port that takes it;
//   2. a hash of the destination port alone, whose meaning depends on how the port lays out what it
//      hashes;
//   3. none: cores hand over to each other.
//
// Whatever a port does with them, the relay is right: the owner decides, and counts as `handoff`
// what came to another core.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "dataplane/api/limits.h"
#include "dataplane/base/address.h"

struct rte_flow;

namespace culvert {

class FlowRules {
 public:
  enum class Method : uint8_t { kNone, kPortMasks, kPortHash };

  struct Wanted {
    std::vector<IpAddress> relays;  // addresses whose ports are steered
    uint16_t port_low = 0;
    uint16_t port_high = 0;
    CoreId cores = 1;
  };

  FlowRules() = default;
  // Of a started port with a receiving queue for each core. Never throws: `why` has the port's own
  // words when it takes nothing.
  FlowRules(uint16_t port, const Wanted& wanted);
  ~FlowRules();
  FlowRules(FlowRules&& other) noexcept;
  FlowRules& operator=(FlowRules&& other) noexcept;

  [[nodiscard]] Method method() const { return method_; }
  [[nodiscard]] size_t count() const { return made_.size(); }
  [[nodiscard]] const std::string& why() const { return why_; }
  // "port masks", "port hash", "none"
  [[nodiscard]] static const char* name(Method method);

 private:
  [[nodiscard]] bool by_masks(const Wanted& wanted);
  [[nodiscard]] bool by_hash(const Wanted& wanted);
  void remove();

  uint16_t port_ = 0;
  Method method_ = Method::kNone;
  std::vector<rte_flow*> made_;
  std::string why_;
};

}  // namespace culvert
