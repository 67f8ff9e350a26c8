// The CPU's own clock, for shares of time and cycles per packet: the time-stamp counter on x86
// (about 20 cycles to read), the virtual counter on arm64. Its rate is constant; what one unit is
// in seconds only control knows (control/cycle_clock.h).
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <x86intrin.h>
#elif !defined(__aarch64__)
#include <time.h>
#endif

namespace culvert {

[[nodiscard]] inline uint64_t read_cycles() {
#if defined(__x86_64__)
  return __rdtsc();
#elif defined(__aarch64__)
  uint64_t value;
  asm volatile("mrs %0, cntvct_el0" : "=r"(value));
  return value;
#else
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1000000000u + static_cast<uint64_t>(time.tv_nsec);
#endif
}

}  // namespace culvert
