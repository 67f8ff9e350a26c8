// How far two CPUs are from each other at this moment: nanoseconds for one cache line to go there
// and back. On a machine whose CPUs are another's threads this changes fivefold within seconds, and
// whatever two CPUs hand each other (memif) changes with it; bench/compare asks before and after
// such a run (docs/benchmarking.md).
//
//   cpu_distance 0 1     prints one number
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <thread>

namespace {

constexpr uint32_t kTurns = 2000;   // of one sample
constexpr uint32_t kSamples = 101;  // 101 * 2000 * 100 to 500 ns: 20 to 100 ms

struct alignas(128) Line {
  std::atomic<uint32_t> turn{0};
};

void pin(int cpu) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(static_cast<size_t>(cpu), &cpus);
  if (pthread_setaffinity_np(pthread_self(), sizeof cpus, &cpus) == 0) return;
  std::fprintf(stderr, "cpu_distance: there is no CPU %d for this process\n", cpu);
  std::_Exit(1);
}

// Negative: no number.
int cpu_of(std::string_view text) {
  int cpu = -1;
  const auto end = text.data() + text.size();
  return std::from_chars(text.data(), end, cpu).ptr == end ? cpu : -1;
}

uint64_t now_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

}  // namespace

int main(int argc, char** argv) {
  const int one = argc == 3 ? cpu_of(argv[1]) : -1;
  const int two = argc == 3 ? cpu_of(argv[2]) : -1;
  if (one < 0 || two < 0 || one == two) {
    std::fprintf(stderr, "usage: cpu_distance CPU OTHER_CPU\n");
    return 2;
  }
  Line there;
  Line back;
  constexpr uint32_t kAll = kTurns * kSamples;
  std::thread other([&] {
    pin(two);
    for (uint32_t turn = 1; turn <= kAll; ++turn) {
      while (there.turn.load(std::memory_order_acquire) != turn) {
      }
      back.turn.store(turn, std::memory_order_release);
    }
  });
  pin(one);
  std::array<double, kSamples> samples;
  uint32_t turn = 0;
  for (double& sample : samples) {
    const uint64_t begin = now_ns();
    for (uint32_t i = 0; i < kTurns; ++i) {
      there.turn.store(++turn, std::memory_order_release);
      while (back.turn.load(std::memory_order_acquire) != turn) {
      }
    }
    sample = static_cast<double>(now_ns() - begin) / kTurns;
  }
  other.join();
  // The median: a sample in which either CPU was taken away says nothing.
  std::nth_element(samples.begin(), samples.begin() + kSamples / 2, samples.end());
  std::printf("%.0f\n", samples[kSamples / 2]);
  return 0;
}
