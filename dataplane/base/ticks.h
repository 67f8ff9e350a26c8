// Time on a fast core: milliseconds on a 32-bit clock that wraps after 49.7 days. Compare only
// through the functions here, which are right while the two instants lie within 24.8 days; the
// longest lifetime in the relay is one hour (kMaxAllocationLifetimeSeconds).
//
// `now` is read once per loop by the driver and passed down: nothing below reads a clock.
#pragma once

#include <cstdint>

namespace culvert {

using Ticks = uint32_t;  // milliseconds, wrapping

inline constexpr Ticks kTicksPerSecond = 1000;

[[nodiscard]] constexpr bool ticks_reached(Ticks now, Ticks deadline) {
  return static_cast<int32_t>(now - deadline) >= 0;
}
[[nodiscard]] constexpr Ticks ticks_earlier(Ticks a, Ticks b) {
  return static_cast<int32_t>(a - b) < 0 ? a : b;
}
[[nodiscard]] constexpr Ticks ticks_later(Ticks a, Ticks b) {
  return static_cast<int32_t>(a - b) < 0 ? b : a;
}

}  // namespace culvert
