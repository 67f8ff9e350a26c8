#include "control/ports.h"

#include <algorithm>

#include "crypto/random.h"
#include "dataplane/base/assert.h"
#include "dataplane/steer/owner.h"

namespace culvert {

namespace {

// With half of all ports even and a fraction f of ports free, one try finds a free pair with
// probability f/2: at f = 0.2, 32 tries fail in 3 of 100 draws; below that the exact walk is short
// because the free list is.
constexpr int kRejectionTries = 32;

}  // namespace

PortTable::PortTable(uint16_t low, uint16_t high, CoreId cores) : low_(low), cores_(cores) {
  ENSURE(low > 0 && low <= high && cores > 0);
  const uint32_t count = uint32_t{high} - low + 1;
  slices_.resize(cores);
  state_.assign(count, PortState::kFree);
  place_.resize(count);
  order_.resize(count);
  for (uint32_t i = 0; i < count; ++i)
    ++slices_[owner(static_cast<uint16_t>(low + i), cores)].size;
  uint32_t begin = 0;
  for (Slice& slice : slices_) {
    slice.begin = begin;
    begin += slice.size;
  }
  for (uint32_t i = 0; i < count; ++i) {
    const auto port = static_cast<uint16_t>(low + i);
    Slice& slice = slices_[owner(port, cores)];
    order_[slice.begin + slice.free] = port;
    place_[i] = static_cast<uint16_t>(slice.free++);
  }
}

PortState PortTable::state(uint16_t port) const {
  const uint32_t i = uint32_t{port} - low_;
  return port < low_ || i >= state_.size() ? PortState::kForeign : state_[i];
}

uint32_t PortTable::free_count() const {
  uint32_t sum = 0;
  for (const Slice& slice : slices_)
    sum += slice.free;
  return sum;
}

bool PortTable::serves_all_cores() const {
  return std::all_of(slices_.begin(), slices_.end(), [](const Slice& s) { return s.size > 0; });
}

bool PortTable::fits(uint16_t port, PortKind kind) const {
  if (kind == PortKind::kAny) return true;
  if ((port & 1) != 0) return false;
  return kind == PortKind::kEven ||
         (port != 0xffff && state(static_cast<uint16_t>(port + 1)) == PortState::kFree);
}

std::optional<uint16_t> PortTable::pick(const Slice& slice, PortKind kind,
                                        crypto::Random& random) const {
  if (slice.free == 0) return std::nullopt;
  const uint16_t* free = &order_[slice.begin];
  for (int i = 0; i < kRejectionTries; ++i) {
    const uint16_t port = free[random.below(slice.free)];
    if (fits(port, kind)) return port;
  }
  const auto fitting = static_cast<uint32_t>(
      std::count_if(free, free + slice.free, [&](uint16_t port) { return fits(port, kind); }));
  if (fitting == 0) return std::nullopt;
  uint32_t k = random.below(fitting);
  for (uint32_t i = 0; i < slice.free; ++i) {
    if (fits(free[i], kind) && k-- == 0) return free[i];
  }
  return std::nullopt;
}

std::optional<uint16_t> PortTable::draw(CoreId core, PortKind kind, crypto::Random& random) {
  const std::optional<uint16_t> port = pick(slices_[core], kind, random);
  if (!port) return std::nullopt;
  take(*port, PortState::kLive);
  if (kind == PortKind::kEvenPair) take(static_cast<uint16_t>(*port + 1), PortState::kHeld);
  return port;
}

void PortTable::use_held(uint16_t port) {
  ENSURE(state(port) == PortState::kHeld);
  state_[uint32_t{port} - low_] = PortState::kLive;
}

void PortTable::hold_again(uint16_t port) {
  ENSURE(state(port) == PortState::kLive);
  state_[uint32_t{port} - low_] = PortState::kHeld;
}

void PortTable::swap_places(uint32_t a, uint32_t b) {
  std::swap(order_[a], order_[b]);
  const uint32_t begin = slices_[owner(order_[a], cores_)].begin;
  place_[uint32_t{order_[a]} - low_] = static_cast<uint16_t>(a - begin);
  place_[uint32_t{order_[b]} - low_] = static_cast<uint16_t>(b - begin);
}

void PortTable::take(uint16_t port, PortState as) {
  ENSURE(state(port) == PortState::kFree);
  Slice& slice = slices_[owner(port, cores_)];
  --slice.free;
  swap_places(slice.begin + place_[uint32_t{port} - low_], slice.begin + slice.free);
  state_[uint32_t{port} - low_] = as;
}

void PortTable::give_back(uint16_t port) {
  ENSURE(state(port) == PortState::kLive || state(port) == PortState::kHeld);
  Slice& slice = slices_[owner(port, cores_)];
  swap_places(slice.begin + place_[uint32_t{port} - low_], slice.begin + slice.free);
  ++slice.free;
  state_[uint32_t{port} - low_] = PortState::kFree;
}

}  // namespace culvert
