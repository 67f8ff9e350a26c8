#include "tests/sim/scenario.h"

namespace culvert::sim_test {

Rng random_for(uint64_t seed, const char* what, uint64_t number) {
  uint64_t h = 0xcbf29ce484222325u;
  for (const char* c = what; *c != 0; ++c)
    h = (h ^ static_cast<uint8_t>(*c)) * 0x100000001b3u;
  Rng mix(seed * 0x9e3779b97f4a7c15u ^ h);
  return Rng(mix.next() ^ (number + 1) * 0xd1b54a32d192ed03u);
}

Scenario draw_scenario(uint64_t seed) {
  Scenario s;
  s.seed = seed;
  Rng rng = random_for(seed, "scenario");
  constexpr uint32_t kCores[] = {1, 1, 2, 4};
  s.cores = kCores[rng.below(4)];
  s.clients = rng.between(2, 8);
  s.peers = rng.between(2, 6);
  s.steps = rng.between(120, 400);
  s.volume = rng.between(40, 200);
  constexpr uint32_t kBursts[] = {1, 4, 16, 64};
  s.burst = kBursts[rng.below(4)];
  constexpr uint32_t kSteps[] = {200, 1000, 5000, 20'000};
  s.max_step_ms = kSteps[rng.below(4)];
  // One seed in ten is a fair world: nothing goes wrong, so nothing may be excused.
  const uint32_t chance = rng.one_in(10) ? 0 : rng.between(5, 35);
  for (size_t f = 0; f < kFaults; ++f) {
    if (rng.below(100) < chance) s.faults |= FaultBits{1} << f;
  }
  // Which of several datagrams of one burst a policer or a full ring refused cannot be told from
  // outside, where nothing of them leaves at once.
  constexpr FaultBits kUnclear = bit(Fault::k_full_handoff_ring) | bit(Fault::k_oversized) |
                                 bit(Fault::k_core_freeze) | bit(Fault::k_full_command_ring);
  if (s.has(Fault::k_bandwidth) || (s.cores > 1 && (s.faults & kUnclear) != 0)) s.burst = 1;
  if (s.has(Fault::k_bandwidth) && s.cores > 1)
    s.faults &= ~(bit(Fault::k_core_freeze) | bit(Fault::k_full_command_ring) |
                  bit(Fault::k_full_handoff_ring));
  return s;
}

std::string fault_list(FaultBits faults) {
  std::string out;
  for (size_t f = 0; f < kFaults; ++f) {
    if ((faults >> f & 1) == 0) continue;
    if (!out.empty()) out += ",";
    out += kFaultNames[f];
  }
  return out.empty() ? "none" : out;
}

std::string command_of(const Scenario& s) {
  std::string out = "culvert-sim --seed " + std::to_string(s.seed) + " --cores " +
                    std::to_string(s.cores) + " --clients " + std::to_string(s.clients) +
                    " --peers " + std::to_string(s.peers) + " --steps " + std::to_string(s.steps) +
                    " --volume " + std::to_string(s.volume) + " --burst " +
                    std::to_string(s.burst) + " --step-ms " + std::to_string(s.max_step_ms) +
                    " --faults " + fault_list(s.faults);
  constexpr const char* kPlants[] = {"", "permission-short", "hops-kept", "quota-off"};
  if (s.plant != Plant::kNone) out += std::string(" --plant ") + kPlants[static_cast<int>(s.plant)];
  return out;
}

}  // namespace culvert::sim_test
