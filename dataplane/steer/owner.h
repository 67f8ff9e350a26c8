// Which core owns a relayed port: one pure function for the port allocator, NIC programming,
// software hand-off and simulator (DESIGN 4). owner(p) == owner(p ^ 1), so an EVEN-PORT pair shares
// a core.
#pragma once

#include <cstdint>

#include "dataplane/api/limits.h"

namespace culvert {

[[nodiscard]] constexpr CoreId owner(uint16_t port, CoreId cores) {
  return static_cast<CoreId>((port >> 1) % cores);
}

}  // namespace culvert
