// When the n-th event of one trial is due: a fixed function of n, whatever happened before, which
// is what makes sending open loop. The rate is steady, or rises (or falls) evenly over the measured
// window; before the window it is the window's first. With a tick, events are due at whole ticks
// only, as from tools with a millisecond clock. Pure arithmetic, one owner, no state.
#pragma once

#include <cmath>
#include <cstdint>

namespace culvert::load {

// One window of traffic: its times on CLOCK_MONOTONIC and what is offered, over all threads.
struct Trial {
  uint64_t start = 0;
  uint64_t measure_from = 0;
  uint64_t measure_to = 0;
  double rate = 0;     // events a second; 0: unpaced
  double rate_to = 0;  // at the window's end; 0: the same

  [[nodiscard]] bool within(uint64_t at) const { return at >= measure_from && at < measure_to; }
};

class Schedule {
 public:
  Schedule() = default;
  // Shared by `threads`, each of which takes runs of `run_length` events at once.
  Schedule(const Trial& trial, uint32_t threads, uint32_t run_length, uint64_t tick_ns)
      : trial_(trial), run_length_(run_length), tick_ns_(tick_ns) {
    if (trial.rate <= 0) return;
    interval_ns_ = 1e9 * threads * run_length / trial.rate;
    if (trial.rate_to <= 0 || trial.rate_to == trial.rate) return;
    const double window = static_cast<double>(trial.measure_to - trial.measure_from);
    slope_ = (trial.rate_to / trial.rate - 1) / interval_ns_ / window;
  }

  [[nodiscard]] bool paced() const { return interval_ns_ > 0; }

  [[nodiscard]] uint64_t due(uint64_t n) const {
    const auto after = static_cast<uint64_t>(offset_ns(static_cast<double>(n)));
    if (tick_ns_ == 0) return trial_.start + after;
    return trial_.start + (after + tick_ns_ - 1) / tick_ns_ * tick_ns_;
  }

  // Events (datagrams, not runs) due within the measured window, to the last one.
  [[nodiscard]] uint64_t in_window() const {
    if (!paced()) return 0;
    return (first_at(trial_.measure_to) - first_at(trial_.measure_from)) * run_length_;
  }

 private:
  static constexpr double kNever = 9e18;

  [[nodiscard]] double warm_up_events() const {
    return static_cast<double>(trial_.measure_from - trial_.start) / interval_ns_;
  }

  [[nodiscard]] double offset_ns(double n) const {
    const double before = warm_up_events();
    if (slope_ == 0 || n <= before) return n * interval_ns_;
    // n - before = t / interval + slope * t^2 / 2, solved for t without cancellation.
    const double m = n - before;
    const double first = 1 / interval_ns_;
    const double root = first * first + 2 * slope_ * m;
    if (root < 0) return kNever;
    return before * interval_ns_ + 2 * m / (first + std::sqrt(root));
  }

  // The first event that is due at `at` or later.
  [[nodiscard]] uint64_t first_at(uint64_t at) const {
    uint64_t low = 0;
    uint64_t high = 1;
    while (due(high) < at)
      high *= 2;
    while (low < high) {
      const uint64_t middle = low + (high - low) / 2;
      if (due(middle) < at) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  Trial trial_;
  double interval_ns_ = 0;
  double slope_ = 0;  // of the rate, runs per ns per ns
  uint64_t run_length_ = 1;
  uint64_t tick_ns_ = 0;
};

}  // namespace culvert::load
