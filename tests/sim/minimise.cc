#include "tests/sim/minimise.h"

#include <algorithm>

namespace culvert::sim_test {

namespace {

constexpr uint32_t kMaxRuns = 400;

class Minimiser {
 public:
  Minimiser(const Scenario& scenario,
            const std::function<void(const Scenario&, const Result&)>& progress)
      : best_{scenario, {}, 0}, progress_(progress) {
    (void)try_it(scenario);
  }

  Minimised run() {
    bool smaller = true;
    while (smaller && best_.runs < kMaxRuns) {
      smaller = false;
      smaller |= drop_faults();
      for (auto member : {&Scenario::cores, &Scenario::clients, &Scenario::peers, &Scenario::volume,
                          &Scenario::burst})
        smaller |= shrink(member);
      smaller |= shorten();
    }
    return best_;
  }

 private:
  bool try_it(const Scenario& candidate) {
    ++best_.runs;
    Coverage coverage;
    const Result result = run_scenario(candidate, coverage);
    if (result.ok) return false;
    best_.scenario = candidate;
    best_.result = result;
    // What comes after the violation was never reached.
    best_.scenario.steps = std::min(candidate.steps, result.step + 1);
    progress_(best_.scenario, result);
    return true;
  }

  bool drop_faults() {
    bool any = false;
    Scenario none = best_.scenario;
    none.faults = 0;
    if (best_.scenario.faults != 0 && try_it(none)) return true;
    for (size_t f = 0; f < kFaults; ++f) {
      if ((best_.scenario.faults >> f & 1) == 0) continue;
      Scenario candidate = best_.scenario;
      candidate.faults &= ~(FaultBits{1} << f);
      any |= try_it(candidate);
    }
    return any;
  }

  // The smallest value, by halving and then by one.
  bool shrink(uint32_t Scenario::*member) {
    bool any = false;
    for (;;) {
      const uint32_t now = best_.scenario.*member;
      Scenario half = best_.scenario;
      half.*member = now / 2;
      Scenario less = best_.scenario;
      less.*member = now - 1;
      if (now > 2 && try_it(half)) {
        any = true;
      } else if (now > 1 && now < 10 && try_it(less)) {
        any = true;
      } else {
        return any;
      }
    }
  }

  // Violations found while the world ends need not come after the last step: fewer may do.
  bool shorten() {
    bool any = false;
    uint32_t low = 0;
    while (low + 1 < best_.scenario.steps && best_.runs < kMaxRuns) {
      Scenario candidate = best_.scenario;
      candidate.steps = (low + best_.scenario.steps) / 2;
      if (try_it(candidate))
        any = true;
      else
        low = candidate.steps;
    }
    return any;
  }

  Minimised best_;
  const std::function<void(const Scenario&, const Result&)>& progress_;
};

}  // namespace

Minimised minimise(const Scenario& scenario,
                   const std::function<void(const Scenario&, const Result&)>& progress) {
  return Minimiser(scenario, progress).run();
}

}  // namespace culvert::sim_test
