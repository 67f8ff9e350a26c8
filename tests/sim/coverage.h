// What a campaign reached, counted by name, and the least it must reach: a run that never filled a
// ring has proven nothing about full rings.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "dataplane/api/outcome.h"
#include "tests/sim/nat.h"

namespace culvert::sim_test {

// X(name): a kind of fault, on its own switch in a scenario (--faults).
#define CULVERT_SIM_FAULTS(X) \
  X(loss)                     \
  X(duplication)              \
  X(reordering)               \
  X(delay)                    \
  X(bursts)                   \
  X(core_stall)               \
  X(core_freeze)              \
  X(control_stall)            \
  X(control_restart)          \
  X(full_command_ring)        \
  X(full_event_ring)          \
  X(full_handoff_ring)        \
  X(full_tables)              \
  X(clock_forward)            \
  X(wall_clock_back)          \
  X(reload)                   \
  X(drain)                    \
  X(operator_close)           \
  X(rebind)                   \
  X(nat_lifetime)             \
  X(ports_taken)              \
  X(misdirected)              \
  X(bandwidth)                \
  X(quota)                    \
  X(short_lifetimes)          \
  X(short_budget)             \
  X(timed_credentials)        \
  X(garbage)                  \
  X(truncated)                \
  X(replayed)                 \
  X(forged_integrity)         \
  X(wrong_nonce)              \
  X(spoofed_flood)            \
  X(challenge_flood)          \
  X(foreign_channels)         \
  X(permission_flood)         \
  X(icmp)                     \
  X(hop_limit)                \
  X(oversized)

enum class Fault : uint8_t {
#define X(name) k_##name,
  CULVERT_SIM_FAULTS(X)
#undef X
      kCount
};
inline constexpr size_t kFaults = static_cast<size_t>(Fault::kCount);
inline constexpr std::array<const char*, kFaults> kFaultNames = {
#define X(name) #name,
    CULVERT_SIM_FAULTS(X)
#undef X
};
using FaultBits = uint64_t;
static_assert(kFaults <= 64);
[[nodiscard]] constexpr FaultBits bit(Fault f) {
  return FaultBits{1} << static_cast<unsigned>(f);
}

// Lifetimes seen to end.
enum class Expiry : uint8_t {
  kPermission,
  kChannel,
  kAllocation,
  kReservation,
  kNonce,
  kCredential,
  kNatMapping,
  kCount
};
inline constexpr std::array<const char*, static_cast<size_t>(Expiry::kCount)> kExpiryNames = {
    "permission", "channel", "allocation", "reservation", "nonce", "credential", "nat_mapping"};

// client IPv4/IPv6 x peer IPv4/IPv6 x direction x ChannelData/indication.
[[nodiscard]] constexpr size_t transform(bool client_v6, bool peer_v6, bool to_peer, bool channel) {
  return (client_v6 ? 8u : 0u) + (peer_v6 ? 4u : 0u) + (to_peer ? 2u : 0u) + (channel ? 1u : 0u);
}
inline constexpr size_t kTransforms = 16;

enum class NatEvent : uint8_t {
  kMapped,
  kPreserved,
  kFiltered,
  kHairpinned,
  kHairpinRefused,
  kForgotten,
  kCount
};
inline constexpr std::array<const char*, static_cast<size_t>(NatEvent::kCount)> kNatEventNames = {
    "mapped", "port_preserved", "filtered", "hairpinned", "hairpin_refused", "forgotten"};

struct Coverage {
  std::array<uint64_t, kOutcomes> outcomes{};
  std::array<uint64_t, kTransforms> transforms{};
  std::array<uint64_t, kFaults> faults{};
  std::array<uint64_t, static_cast<size_t>(Expiry::kCount)> expiries{};
  std::array<uint64_t, static_cast<size_t>(NatEvent::kCount)> nat_events{};
  // Datagrams through a NAT of that mapping and filtering, by side (clients', peers').
  std::array<std::array<uint64_t, kNatKinds * kNatKinds>, 2> nats{};
  std::array<uint64_t, 1024> answers{};  // control's answers by code; 0: success
  uint64_t packets = 0;                  // datagrams that the relay received
  uint64_t seeds = 0;
  uint64_t virtual_us = 0;
  uint64_t timeouts = 0;  // transactions of honest clients that ended without an answer

  void hit(Outcome o) { ++outcomes[static_cast<size_t>(o)]; }
  void hit(Fault f, uint64_t n = 1) { faults[static_cast<size_t>(f)] += n; }
  void hit(Expiry e, uint64_t n = 1) { expiries[static_cast<size_t>(e)] += n; }
  void hit(NatEvent e, uint64_t n) { nat_events[static_cast<size_t>(e)] += n; }
  void add(const Coverage& other);
};

// One line of the table of floors.
struct Floor {
  std::string kind;
  std::string name;
  uint64_t reached = 0;
  uint64_t least = 0;
  std::string unreachable;  // why, when nothing in the simulator can reach it
  [[nodiscard]] bool met() const { return reached >= least; }
};
// `per_seed`: floors are for a campaign of that many seeds; at least one of each is asked for.
[[nodiscard]] std::vector<Floor> floors(const Coverage& coverage);
[[nodiscard]] std::string print_floors(const std::vector<Floor>& table, bool all);

}  // namespace culvert::sim_test
