// The timer wheel against a sorted map of deadlines, over random arming, moving, cancelling and
// jumps of time, at the start of its clock, across the wrap of Ticks and after months of running.
#include "dataplane/flow/wheel.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>

namespace culvert {
namespace {

constexpr uint32_t kIds = 200;

// Ids by the exact (unwrapped) instant from which they may fire.
using Model = std::map<uint32_t, uint64_t>;

struct Trial {
  Trial(uint32_t seed, uint64_t start)
      : random(seed), arena(TimerWheel::bytes_for(kIds) + 4096), now(start) {
    wheel.init(arena, kIds, static_cast<Ticks>(now));
  }

  uint64_t below(uint64_t limit) { return random() % limit; }

  uint64_t delay() {
    switch (below(5)) {
      case 0:
        return below(40);
      case 1:
        return below(2'000);
      case 2:
        return below(70'000);  // second level
      case 3:
        return below(5'000'000);  // third level and beyond its reach
      default:
        return (1 + below(200)) * TimerWheel::kTickMs;  // exactly on a tick
    }
  }

  void arm_something() {
    const auto id = static_cast<uint32_t>(below(kIds));
    const uint64_t deadline = now + delay();
    if (below(4) == 0) {
      wheel.arm_earlier(id, static_cast<Ticks>(deadline));
      const auto found = model.find(id);
      // It compares whole wheel ticks: a move within one tick changes nothing, which is within its
      // word.
      if (found == model.end() || deadline < found->second) model[id] = deadline;
    } else {
      wheel.arm(id, static_cast<Ticks>(deadline));
      model[id] = deadline;
    }
  }
  void cancel_something() {
    const auto id = static_cast<uint32_t>(below(kIds));
    wheel.cancel(id);
    model.erase(id);
  }

  // Moves time and checks that what fires is exactly what the map says is due.
  void advance(uint64_t by) {
    now += by;
    uint32_t fired = 0;
    do {
      fired = wheel.advance(static_cast<Ticks>(now), [&](uint32_t id) {
        const auto found = model.find(id);
        ASSERT_NE(found, model.end()) << "fired an id that was not armed";
        ASSERT_GE(now, found->second) << "fired early";
        model.erase(found);
      });
      ASSERT_LE(fired, TimerWheel::kMaxFiredPerCall);
    } while (fired == TimerWheel::kMaxFiredPerCall);
    for (const auto& [id, deadline] : model) {
      ASSERT_GT(deadline + TimerWheel::kTickMs, now) << "id " << id << " is more than a tick late";
      ASSERT_TRUE(wheel.armed(id));
    }
  }

  std::mt19937_64 random;
  Arena arena;
  TimerWheel wheel;
  uint64_t now;
  Model model;
};

class WheelProperty : public ::testing::TestWithParam<uint64_t> {};

TEST_P(WheelProperty, whatever_is_armed_fires_within_one_tick_of_its_deadline_and_never_early) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  Trial run(seed, GetParam());
  for (int step = 0; step < 20'000 && !::testing::Test::HasFatalFailure(); ++step) {
    switch (run.below(8)) {
      case 0:
        run.cancel_something();
        break;
      case 1:
        run.advance(run.below(100'000));
        break;
      case 2:
        run.advance(run.below(300));
        break;
      case 3:
        run.advance(run.below(TimerWheel::kTickMs + 2));
        break;
      default:
        run.arm_something();
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Starts, WheelProperty,
                         ::testing::Values(0u, 5u, 0x7ffff000u, 0xfffff000u, 0xffffffffu));

// Ticks wrap after 49.7 days and their sign flips after 24.9: a relay runs longer than both.
TEST(Wheel, timers_are_exact_for_four_months_of_uptime) {
  Trial run(1, 12'345);
  constexpr uint64_t kHour = 3'600'000;
  for (int hour = 0; hour < 24 * 120 && !::testing::Test::HasFatalFailure(); ++hour) {
    run.arm_something();
    run.arm_something();
    run.advance(kHour / 2);
    run.arm_something();
    run.advance(kHour / 2);
  }
}

TEST(Wheel, a_mass_expiry_is_spread_over_calls) {
  Trial run(1, 0);
  for (uint32_t id = 0; id < kIds; ++id)
    run.wheel.arm(id, 1000);
  uint32_t fired = 0;
  uint32_t calls = 0;
  while (fired < kIds) {
    const uint32_t now_fired = run.wheel.advance(5000, [](uint32_t) {});
    ASSERT_GT(now_fired, 0u);
    fired += now_fired;
    ++calls;
  }
  EXPECT_EQ(calls, (kIds + TimerWheel::kMaxFiredPerCall - 1) / TimerWheel::kMaxFiredPerCall);
}

TEST(Wheel, what_fires_may_arm_itself_and_others_again) {
  Trial run(1, 0);
  run.wheel.arm(0, 100);
  int fired = 0;
  for (Ticks now = 0; now <= 10'000; now += 7) {
    run.wheel.advance(now, [&](uint32_t id) {
      ++fired;
      run.wheel.arm(id, now + 1000);
    });
  }
  EXPECT_EQ(fired, 10);
}

}  // namespace
}  // namespace culvert
