// How many bytes a core may spend on answers nobody has authenticated (DESIGN 5). Token buckets per
// source prefix (/24, /56) and for the core, in bytes out minus bytes in. A challenge is paid back
// when a request with a valid nonce comes from the prefix, so clients that complete are never
// limited; what is paid back never exceeds what that prefix was charged, so a host cannot fill the
// purse for spoofed sources.
//
// Buckets live in a 4-way set-associative array with a seeded hash: a flood of prefixes evicts the
// fullest bucket of a set (the one with the least to remember), never the busy ones.
#pragma once

#include <algorithm>
#include <cstdint>

#include "dataplane/api/limits.h"
#include "dataplane/api/snapshot.h"
#include "dataplane/base/address.h"
#include "dataplane/base/arena.h"
#include "dataplane/base/ticks.h"
#include "dataplane/flow/hash.h"

namespace culvert {

class ReplyBudgetBuckets {
 public:
  static constexpr uint32_t kSets = 4096;  // 16384 prefixes, 384 KiB per core
  static constexpr uint32_t kWays = 4;
  // A prefix's bucket saves up this many seconds of its rate, the core's own less: what a prefix
  // has saved serves the clients behind one address, what the core has saved a flood would spend,
  // and its work with it.
  static constexpr uint32_t kPrefixBurstSeconds = 10;
  static constexpr uint32_t kTotalBurstSeconds = 1;
  // What the core's own bucket holds at least, be its share ever so small: a few challenges.
  static constexpr int64_t kMinTotalBurstBytes = 1000;

  enum class Verdict : uint8_t { kSend, kTooLarge, kOverBudget };

  [[nodiscard]] static constexpr size_t bytes_for() {
    return size_t{kSets} * kWays * sizeof(Bucket) + kCacheLine;
  }
  void init(Arena& arena, HashSeed seed) {
    buckets_ = arena.make<Bucket>(size_t{kSets} * kWays).data();
    seed_ = seed;
  }

  // May an answer of `out` bytes go to `source` for a request of `in` bytes (both with IP and UDP
  // headers)? kSend has charged the difference.
  [[nodiscard]] Verdict charge(const ReplyBudget& budget, const IpAddress& source, uint32_t in,
                               uint32_t out, Ticks now) {
    if (out * 10 > in * kMaxReplyRatioTenths) return Verdict::kTooLarge;
    if (out <= in) return Verdict::kSend;  // never more than was received: no amplification
    const auto cost = static_cast<int64_t>(out - in);
    Bucket& prefix = find(source, now, budget);
    refill_prefix(prefix, budget, now);
    refill_total(budget, now);
    if (prefix.tokens < cost || total_.tokens < cost) return Verdict::kOverBudget;
    prefix.tokens -= cost;
    total_.tokens -= cost;
    prefix.charged += cost;
    return Verdict::kSend;
  }

  // Whether charge() would say kOverBudget to any answer of `least` bytes or more that is not too
  // large. Asked before an answer is made: a flood must not buy work that nobody receives. The
  // core's bucket comes first: once it is empty, a flood from many prefixes reads no other memory
  // and evicts nothing.
  [[nodiscard]] bool exhausted(const ReplyBudget& budget, const IpAddress& source, uint32_t in,
                               uint32_t least, Ticks now) {
    if (least <= in || least * 10 > in * kMaxReplyRatioTenths) return false;
    const auto cost = static_cast<int64_t>(least - in);
    refill_total(budget, now);
    if (total_.tokens < cost) return true;
    Bucket& prefix = find(source, now, budget);
    refill_prefix(prefix, budget, now);
    return prefix.tokens < cost;
  }

  // A request with a valid nonce came from `source`: its challenge had cost about `cost` bytes.
  bool refund(const ReplyBudget& budget, const IpAddress& source, uint32_t cost, Ticks now) {
    Bucket& prefix = find(source, now, budget);
    const int64_t back = std::min<int64_t>(cost, prefix.charged);
    prefix.charged -= back;
    prefix.tokens = std::min(prefix.tokens + back, prefix_capacity(budget));
    total_.tokens = std::min(total_.tokens + back, total_capacity(budget));
    return back != 0;
  }

  // Requests per second with integrity but no valid nonce.
  [[nodiscard]] bool admit_bad_nonce(const ReplyBudget& budget, Ticks now) {
    refill_units(budget.bad_nonce_per_second, now);
    if (bad_nonce_milli_ < 1000) return false;
    bad_nonce_milli_ -= 1000;
    return true;
  }

 private:
  struct Bucket {
    uint64_t prefix = 0;  // 0: unused
    int64_t tokens = 0;
    int64_t charged = 0;  // not yet paid back
    Ticks last = 0;
    uint32_t remainder = 0;  // of a byte, in thousandths
  };

  [[nodiscard]] static int64_t prefix_capacity(const ReplyBudget& budget) {
    return static_cast<int64_t>(budget.per_prefix_bytes_per_second) * kPrefixBurstSeconds;
  }
  [[nodiscard]] static int64_t total_capacity(const ReplyBudget& budget) {
    const auto rate = static_cast<int64_t>(budget.total_bytes_per_second);
    return rate == 0 ? 0 : std::max(rate * kTotalBurstSeconds, kMinTotalBurstBytes);
  }
  static void refill_prefix(Bucket& bucket, const ReplyBudget& budget, Ticks now) {
    refill(bucket, budget.per_prefix_bytes_per_second, prefix_capacity(budget), now);
  }
  // The first call fills it.
  void refill_total(const ReplyBudget& budget, Ticks now) {
    if (total_.prefix == 0) total_ = Bucket{1, total_capacity(budget), 0, now, 0};
    refill(total_, budget.total_bytes_per_second, total_capacity(budget), now);
  }
  static void refill(Bucket& bucket, uint64_t rate, int64_t capacity, Ticks now) {
    const uint32_t elapsed = now - bucket.last;
    if (elapsed == 0) return;
    const uint64_t add =
        rate * std::min<uint32_t>(elapsed, kPrefixBurstSeconds * 1000) + bucket.remainder;
    bucket.tokens = std::min(bucket.tokens + static_cast<int64_t>(add / 1000), capacity);
    bucket.remainder = static_cast<uint32_t>(add % 1000);
    bucket.last = now;
    if (bucket.tokens == capacity) bucket.charged = 0;
  }
  void refill_units(uint32_t per_second, Ticks now) {
    // It begins full, whatever the clock says: Ticks start anywhere.
    const uint64_t elapsed =
        bad_nonce_started_ ? std::min<uint32_t>(now - bad_nonce_last_, 1000) : uint64_t{1000};
    bad_nonce_started_ = true;
    bad_nonce_milli_ =
        std::min<uint64_t>(bad_nonce_milli_ + elapsed * per_second, uint64_t{per_second} * 1000);
    bad_nonce_last_ = now;
  }

  // /24 or /56 with a family bit, never 0.
  [[nodiscard]] static uint64_t prefix_of(const IpAddress& a) {
    if (a.is_v4()) return uint64_t{a.v4_host() & 0xffffff00u} | 1;
    return (load_be64(a.bytes.data()) & ~uint64_t{0xff}) | 2;
  }

  [[nodiscard]] Bucket& find(const IpAddress& source, Ticks now, const ReplyBudget& budget) {
    const uint64_t prefix = prefix_of(source);
    const uint64_t h = hash_fold(prefix ^ seed_.a, seed_.b);
    Bucket* set = buckets_ + (h & (kSets - 1)) * kWays;
    Bucket* victim = set;
    for (uint32_t way = 0; way < kWays; ++way) {
      if (set[way].prefix == prefix) return set[way];
      if (set[way].prefix == 0) {
        if (victim->prefix != 0) victim = &set[way];
      } else if (victim->prefix != 0) {
        refill_prefix(set[way], budget, now);
        if (set[way].tokens > victim->tokens) victim = &set[way];
      }
    }
    *victim = Bucket{prefix, prefix_capacity(budget), 0, now, 0};
    return *victim;
  }

  Bucket* buckets_ = nullptr;
  HashSeed seed_;
  Bucket total_;
  uint64_t bad_nonce_milli_ = 0;
  Ticks bad_nonce_last_ = 0;
  bool bad_nonce_started_ = false;
};

}  // namespace culvert
