// Makes a failing scenario small: fewer faults, clients, peers, cores and datagrams, and the
// shortest prefix of its steps that still fails. The violation may change on the way; it must stay
// one.
#pragma once

#include <functional>

#include "tests/sim/scenario.h"

namespace culvert::sim_test {

struct Minimised {
  Scenario scenario;
  Result result;
  uint32_t runs = 0;
};
// `scenario` must fail. `progress` is called with each smaller one found.
[[nodiscard]] Minimised minimise(
    const Scenario& scenario, const std::function<void(const Scenario&, const Result&)>& progress);

}  // namespace culvert::sim_test
