// Which core owns a relayed port: one pure function for the port allocator, NIC programming,
// software hand-off and simulator (DESIGN 4). owner(p) == owner(p ^ 1), so an EVEN-PORT pair shares
// a core.
//
// Ports fall into kPortSlices by six of their bits, and slices to cores in turn. Six bits, because
// a port can only be told masks and tables of 128: with any number of cores a rule per slice says
// the same as owner() does. 64 cores are the most there are; where their number is no power of two,
// some have one slice more than others.
#pragma once

#include <cstdint>

#include "dataplane/api/limits.h"

namespace culvert {

inline constexpr uint32_t kPortSlices = 64;
static_assert(kMaxCores <= kPortSlices);

[[nodiscard]] constexpr uint32_t port_slice(uint16_t port) {
  return port >> 1 & (kPortSlices - 1);
}

[[nodiscard]] constexpr CoreId owner(uint16_t port, CoreId cores) {
  return static_cast<CoreId>(port_slice(port) % cores);
}

}  // namespace culvert
