// Relayed ports: which are free, held by a reservation, or live. One PortSlice per relay address
// and core; the ports of a slice are those of the range whose dataplane/steer owner is that core,
// so that a drawn port's packets arrive where its allocation lives. Owned by the control thread.
//
// Draws are uniform over the free ports by a CSPRNG (RFC 6056 section 3.3.1, CVE-2025-69217): a
// free list in an array with each port's place beside it makes a draw O(1) at any fill. Even ports
// and pairs are drawn by rejection (32 tries), then exactly, by counting the fitting ones and
// taking the k-th: uniform too, and at most one walk over the free list. Memory: 5 bytes per port
// of the range and address.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "dataplane/api/limits.h"

namespace culvert::crypto {
class Random;
}

namespace culvert {

enum class PortState : uint8_t { kForeign = 0, kFree, kHeld, kLive };

enum class PortKind : uint8_t {
  kAny,
  kEven,      // EVEN-PORT, R = 0
  kEvenPair,  // EVEN-PORT, R = 1: the port is even and port + 1 is free too
};

// The ports of one relay address.
class PortTable {
 public:
  // Ports low..high (both included; low <= high), divided among `cores`.
  PortTable(uint16_t low, uint16_t high, CoreId cores);

  // Takes a free port of `core`'s slice: it becomes kLive (and port + 1 kHeld with kEvenPair).
  // nullopt: there is none.
  [[nodiscard]] std::optional<uint16_t> draw(CoreId core, PortKind kind, crypto::Random& random);
  // A held port becomes live (its reservation was used).
  void use_held(uint16_t port);
  // A live port becomes held (that use did not come about).
  void hold_again(uint16_t port);
  // A live or held port becomes free.
  void give_back(uint16_t port);

  [[nodiscard]] PortState state(uint16_t port) const;
  [[nodiscard]] bool live(uint16_t port) const { return state(port) == PortState::kLive; }
  [[nodiscard]] uint32_t free_count(CoreId core) const { return slices_[core].free; }
  [[nodiscard]] uint32_t free_count() const;
  [[nodiscard]] uint32_t total() const { return static_cast<uint32_t>(state_.size()); }
  // Whether every core has at least one port.
  [[nodiscard]] bool serves_all_cores() const;

 private:
  // Where a core's ports lie in order_: free ones first, in random order.
  struct Slice {
    uint32_t begin = 0;
    uint32_t free = 0;
    uint32_t size = 0;
  };

  [[nodiscard]] bool fits(uint16_t port, PortKind kind) const;
  [[nodiscard]] std::optional<uint16_t> pick(const Slice& slice, PortKind kind,
                                             crypto::Random& random) const;
  void take(uint16_t port, PortState as);
  void swap_places(uint32_t a, uint32_t b);

  uint16_t low_;
  CoreId cores_;
  std::vector<Slice> slices_;
  std::vector<uint16_t> order_;   // ports, slice by slice
  std::vector<uint16_t> place_;   // by port - low: place in order_, relative to its slice's begin
  std::vector<PortState> state_;  // by port - low
};

}  // namespace culvert
