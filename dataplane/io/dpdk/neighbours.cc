#include "dataplane/io/dpdk/neighbours.h"

#include <bit>
#include <thread>

namespace culvert {

namespace {

constexpr uint64_t kUsed = uint64_t{1} << 63;
constexpr uint64_t kResolved = uint64_t{1} << 62;
constexpr uint64_t kStatic = uint64_t{1} << 61;
constexpr uint64_t kMirrored = uint64_t{1} << 60;
// So that a small seed multiplies as well as a random one.
constexpr uint64_t kSpread = 0x9e3779b97f4a7c15u;

__extension__ using Product = unsigned __int128;

[[nodiscard]] uint64_t pack(const NeighbourTable::Hop& hop) {
  uint64_t link = uint64_t{hop.port} << 48;
  for (size_t i = 0; i < hop.mac.size(); ++i)
    link |= uint64_t{hop.mac[i]} << (8 * i);
  return link;
}

[[nodiscard]] NeighbourTable::Hop unpack(uint64_t link) {
  NeighbourTable::Hop hop;
  std::memcpy(hop.mac.data(), &link, hop.mac.size());
  static_assert(std::endian::native == std::endian::little);
  hop.port = static_cast<uint8_t>(link >> 48);
  return hop;
}

[[nodiscard]] std::array<uint64_t, 2> words(const IpAddress& ip) {
  std::array<uint64_t, 2> w;
  std::memcpy(w.data(), ip.bytes.data(), sizeof w);
  return w;
}

[[nodiscard]] uint16_t age(uint16_t now, uint16_t then) {
  return static_cast<uint16_t>(now - then);
}

}  // namespace

NeighbourTable::NeighbourTable(uint64_t seed, uint32_t capacity)
    : seed_((seed ^ kSpread) | 1), mask_(std::bit_ceil(capacity / kWays) - 1) {
  buckets_ = std::make_unique<Bucket[]>(mask_ + 1);
}

NeighbourTable::Bucket& NeighbourTable::bucket(const IpAddress& ip) const {
  const auto w = words(ip);
  const Product product = static_cast<Product>(w[0] ^ seed_) * (w[1] ^ std::rotl(seed_, 32) ^ 1);
  const uint64_t folded = static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  return buckets_[(folded ^ folded >> 29) & mask_];
}

// Slots are filled from the front and never emptied: the first unused one ends the search.
NeighbourTable::Slot* NeighbourTable::match(Bucket& bucket, const IpAddress& ip, uint64_t& link) {
  const auto w = words(ip);
  for (Slot& slot : bucket) {
    const uint32_t before = slot.sequence.load(std::memory_order_acquire);
    link = slot.link.load(std::memory_order_acquire);
    if ((link & kUsed) == 0) return nullptr;
    const bool same = slot.ip[0].load(std::memory_order_acquire) == w[0] &&
                      slot.ip[1].load(std::memory_order_acquire) == w[1];
    if (!same) continue;
    // Torn by a writer: as if it were not there, for this one datagram.
    if ((before & 1) != 0 || slot.sequence.load(std::memory_order_relaxed) != before)
      return nullptr;
    return &slot;
  }
  return nullptr;
}

NeighbourTable::State NeighbourTable::find(const IpAddress& ip, uint16_t now_seconds, bool ages,
                                           Hop& hop) {
  Bucket& in = bucket(ip);
  uint64_t link = 0;
  Slot* slot = match(in, ip, link);
  if (slot == nullptr) {
    if (!ages || writing_.test_and_set(std::memory_order_acquire)) return State::kUnknown;
    slot = match(in, ip, link) == nullptr ? victim(in, now_seconds) : nullptr;
    if (slot != nullptr) {
      write(*slot, ip, kUsed, now_seconds);
      slot->asked_seconds.store(now_seconds, std::memory_order_relaxed);
    }
    writing_.clear(std::memory_order_release);
    return State::kUnknown;
  }
  const uint16_t since = age(now_seconds, slot->confirmed_seconds.load(std::memory_order_relaxed));
  const bool believed =
      (link & (kStatic | kMirrored)) != 0 || !ages || since < kNeighbourGoneSeconds;
  const bool known = (link & kResolved) != 0 && believed;
  if (known) hop = unpack(link);
  if ((link & kStatic) != 0 || !ages) return known ? State::kKnown : State::kUnknown;
  if (known && since < kNeighbourReachableSeconds) return State::kKnown;
  const bool due = age(now_seconds, slot->asked_seconds.load(std::memory_order_relaxed)) != 0;
  if (due) slot->asked_seconds.store(now_seconds, std::memory_order_relaxed);
  if (known) return due ? State::kStale : State::kKnown;
  return due ? State::kUnknown : State::kWaiting;
}

bool NeighbourTable::learn(const IpAddress& ip, const Hop& hop, uint16_t now_seconds,
                           Origin origin) {
  Bucket& in = bucket(ip);
  uint64_t link = 0;
  Slot* slot = match(in, ip, link);
  const uint64_t wanted = kUsed | kResolved | (origin == Origin::kConfigured ? kStatic : 0) |
                          (origin == Origin::kKernel ? kMirrored : 0) | pack(hop);
  if (slot != nullptr && origin != Origin::kConfigured) {
    if ((link & kStatic) != 0) return true;
    if (link == wanted) {
      const uint16_t confirmed = slot->confirmed_seconds.load(std::memory_order_relaxed);
      if (confirmed == now_seconds) return true;
      slot->confirmed_seconds.store(now_seconds, std::memory_order_relaxed);
      if (age(now_seconds, confirmed) >= kNeighbourGoneSeconds)
        changes_.fetch_add(1, std::memory_order_release);
      return true;
    }
  }
  if (slot == nullptr && origin == Origin::kUpdate) return false;
  if (writing_.test_and_set(std::memory_order_acquire)) return false;
  // Another writer may have placed it since.
  slot = match(in, ip, link);
  if (slot == nullptr) slot = victim(in, now_seconds);
  if (slot != nullptr) write(*slot, ip, wanted, now_seconds);
  writing_.clear(std::memory_order_release);
  return slot != nullptr;
}

bool NeighbourTable::mirrors(const IpAddress& ip, const Hop& hop) const {
  uint64_t link = 0;
  return match(bucket(ip), ip, link) != nullptr &&
         link == (kUsed | kResolved | kMirrored | pack(hop));
}

// learn() gives up where another thread writes, or where the bucket is full of configured entries:
// the first passes in a moment, the second never.
void NeighbourTable::mirror(const IpAddress& ip, const Hop& hop, uint16_t now_seconds) {
  constexpr int kTries = 1000;
  for (int i = 0; i < kTries && !learn(ip, hop, now_seconds, Origin::kKernel); ++i)
    std::this_thread::yield();
}

void NeighbourTable::forget(const IpAddress& ip, uint16_t now_seconds) {
  while (writing_.test_and_set(std::memory_order_acquire))
    std::this_thread::yield();
  uint64_t link = 0;
  Slot* slot = match(bucket(ip), ip, link);
  if (slot != nullptr && (link & kStatic) == 0 && (link & kResolved) != 0)
    write(*slot, ip, kUsed, now_seconds);
  writing_.clear(std::memory_order_release);
}

NeighbourTable::Slot* NeighbourTable::victim(Bucket& bucket, uint16_t now_seconds) {
  Slot* oldest = nullptr;
  uint32_t oldest_age = 0;
  for (Slot& slot : bucket) {
    const uint64_t link = slot.link.load(std::memory_order_relaxed);
    if ((link & kUsed) == 0) return &slot;
    if ((link & kStatic) != 0) continue;
    // Those that never answered go before all that did.
    const uint32_t years = (link & kResolved) == 0 ? 0x10000u : 0u;
    const uint32_t old =
        years + age(now_seconds, slot.confirmed_seconds.load(std::memory_order_relaxed));
    if (oldest == nullptr || old > oldest_age) {
      oldest = &slot;
      oldest_age = old;
    }
  }
  return oldest;
}

void NeighbourTable::write(Slot& slot, const IpAddress& ip, uint64_t link, uint16_t now_seconds) {
  const auto w = words(ip);
  const uint32_t sequence = slot.sequence.load(std::memory_order_relaxed);
  slot.sequence.store(sequence + 1, std::memory_order_relaxed);
  slot.ip[0].store(w[0], std::memory_order_release);
  slot.ip[1].store(w[1], std::memory_order_release);
  slot.link.store(link, std::memory_order_release);
  slot.confirmed_seconds.store(now_seconds, std::memory_order_relaxed);
  slot.sequence.store(sequence + 2, std::memory_order_release);
  if ((link & kResolved) != 0) changes_.fetch_add(1, std::memory_order_release);
}

}  // namespace culvert
