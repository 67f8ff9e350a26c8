// Notices a fast core that stopped looping. A core that has nothing to do sleeps, but never longer
// than its driver's longest sleep, so `loops` must move within kCoreStall. Judged on control's 100
// ms tick: one load per core, no allocation. While a core is stalled /healthz says so and systemd's
// watchdog is not fed, so that the service manager restarts us rather than leave a dead relay in
// place.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string>

#include "dataplane/api/engine.h"

namespace culvert {

// Twenty ticks, and a hundred times the longest sleep of a core (20 ms).
inline constexpr std::chrono::milliseconds kCoreStall{2000};

// What the kernel says of the thread of this name in our process: its state ("R (runnable)", "S
// (sleeping)", "t (tracing stop)", ...), and the time it has run and has waited for a CPU. A core
// that is runnable and does not run has lost its CPU to somebody else: isolate it.
struct ThreadReport {
  std::string state = "gone";
  uint64_t ran_ms = 0;
  uint64_t waited_for_cpu_ms = 0;
};
[[nodiscard]] ThreadReport report_thread(const std::string& name);

class CoreWatchdog {
 public:
  using Clock = std::chrono::steady_clock;

  // Cores that stalled or recovered since the last look; bit n: core n.
  struct Change {
    uint64_t stalled = 0;
    uint64_t recovered = 0;
  };
  [[nodiscard]] Change look(const Engine& engine, Clock::time_point now);

  [[nodiscard]] bool stalled(CoreId core) const { return (stalled_ >> core & 1) != 0; }
  [[nodiscard]] bool all_well() const { return stalled_ == 0; }

 private:
  struct Seen {
    uint64_t loops = 0;
    Clock::time_point at{};  // when `loops` was last seen to change; zero: never looked
  };
  static_assert(kMaxCores <= 64, "one bit of a word for each core");

  std::array<Seen, kMaxCores> seen_{};
  uint64_t stalled_ = 0;
};

}  // namespace culvert
