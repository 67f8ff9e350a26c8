// What one seed means: how large a world, which faults, for how many steps. Everything else is
// drawn from the seed by name, so that a smaller world made from the same seed behaves as alike as
// it can.
#pragma once

#include <cstdint>
#include <string>

#include "tests/sim/coverage.h"
#include "tests/sim/reference.h"

namespace culvert::sim_test {

struct Scenario {
  uint64_t seed = 1;
  uint32_t cores = 1;
  uint32_t clients = 4;
  uint32_t peers = 3;
  uint32_t steps = 200;
  uint32_t volume = 60;         // datagrams of a data step, about
  uint32_t burst = 64;          // datagrams a core takes at once
  uint32_t max_step_ms = 1000;  // longest time between two steps, mostly far less
  FaultBits faults = 0;
  Plant plant = Plant::kNone;
  bool trace = false;

  [[nodiscard]] bool has(Fault f) const { return (faults & bit(f)) != 0; }
};

// As seed `seed` has it.
[[nodiscard]] Scenario draw_scenario(uint64_t seed);
// The command line that repeats it.
[[nodiscard]] std::string command_of(const Scenario& scenario);
[[nodiscard]] std::string fault_list(FaultBits faults);

struct Result {
  bool ok = true;
  std::string violation;
  uint32_t step = 0;  // at which it was found
};

// Runs it whole; what it reached is added to `coverage`.
[[nodiscard]] Result run_scenario(const Scenario& scenario, Coverage& coverage);

// A generator of its own for each purpose: `random_for(seed, "nat", 3)`.
class Rng {
 public:
  explicit Rng(uint64_t state) : state_(state) {}
  uint64_t next() {
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  [[nodiscard]] uint32_t below(uint64_t bound) { return static_cast<uint32_t>(next() % bound); }
  [[nodiscard]] uint32_t between(uint32_t low, uint32_t high) {
    return low + below(high - low + 1);
  }
  [[nodiscard]] bool one_in(uint32_t n) { return below(n) == 0; }

 private:
  uint64_t state_;
};
[[nodiscard]] Rng random_for(uint64_t seed, const char* what, uint64_t number = 0);

}  // namespace culvert::sim_test
