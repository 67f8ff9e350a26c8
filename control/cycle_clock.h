// Turns read_cycles() differences into seconds: both clocks are read at start and at each question,
// so the rate gets better with time (10 ms after start to 1 in 10^4). Control thread.
#pragma once

#include <chrono>

#include "dataplane/base/cycles.h"

namespace culvert {

class CycleClock {
 public:
  // Cycles of a second; 0 when asked at once.
  [[nodiscard]] double hertz() const {
    const std::chrono::duration<double> passed = Clock::now() - started_;
    return passed.count() > 0 ? static_cast<double>(read_cycles() - first_) / passed.count() : 0;
  }
  [[nodiscard]] double seconds(uint64_t cycles) const {
    const double rate = hertz();
    return rate > 0 ? static_cast<double>(cycles) / rate : 0;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point started_ = Clock::now();
  uint64_t first_ = read_cycles();
};

}  // namespace culvert
