// Sources whose requests keep failing authentication. A request with a valid nonce costs control up
// to four derivations and HMACs before it is refused, and a nonce is free: one host could keep the
// one control thread busy with wrong passwords. A source (an IPv4 address, an IPv6 /64) that has
// used up its failures is not listened to for a while, at the cost of one look-up a request.
//
// Only failures with a nonce that this source was given are counted, so nobody can be silenced by
// forged packets, and the owner does not ask about clients that have an allocation. A fixed table,
// two places to a source; one that is found full of others' failures lets the newcomer pass
// uncounted. Owned by the control thread; 96 KiB.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "dataplane/base/address.h"
#include "dataplane/base/siphash.h"

namespace culvert {

// 100 failures a second at 20 us each are 2 ms: 0.2 % of the control thread for one source. The
// burst is what 200 clients behind one address need to fail once each.
inline constexpr uint32_t kAuthFailuresPerSecond = 100;
inline constexpr uint32_t kAuthFailureBurst = 200;
inline constexpr uint32_t kAuthFailureSlots = 4096;

class AuthFailures {
 public:
  explicit AuthFailures(const SipKey& key) : key_(key), slots_(kAuthFailureSlots) {}

  [[nodiscard]] bool exhausted(const IpAddress& source, uint64_t now_ms) {
    Slot* slot = find(hash_of(source));
    return slot != nullptr && refilled(*slot, now_ms) < 1000;
  }
  // Counts a failure. True when it was the last that this source had: once per silence.
  bool count(const IpAddress& source, uint64_t now_ms) {
    const uint64_t hash = hash_of(source);
    Slot* slot = find(hash);
    if (slot == nullptr) slot = take(hash, now_ms);
    if (slot == nullptr) return false;
    const uint64_t tokens = refilled(*slot, now_ms);
    slot->milli = tokens < 1000 ? 0 : tokens - 1000;
    slot->last_ms = now_ms;
    return tokens >= 1000 && slot->milli < 1000;
  }

 private:
  static constexpr uint64_t kFull = uint64_t{kAuthFailureBurst} * 1000;
  struct Slot {
    uint64_t hash = 0;  // 0: never used
    uint64_t milli = kFull;
    uint64_t last_ms = 0;
  };

  [[nodiscard]] uint64_t hash_of(const IpAddress& source) const {
    const size_t length = source.is_v4() ? 16 : 8;
    return siphash24(key_, source.bytes.data(), length) | 1;
  }
  [[nodiscard]] static uint64_t refilled(const Slot& slot, uint64_t now_ms) {
    return std::min(kFull, slot.milli + (now_ms - slot.last_ms) * kAuthFailuresPerSecond);
  }
  [[nodiscard]] Slot* pair_of(uint64_t hash) {
    return &slots_[(hash >> 32) % (kAuthFailureSlots / 2) * 2];
  }
  [[nodiscard]] Slot* find(uint64_t hash) {
    Slot* pair = pair_of(hash);
    return pair[0].hash == hash ? &pair[0] : pair[1].hash == hash ? &pair[1] : nullptr;
  }
  // A place whose source has been quiet for so long that it has nothing to remember.
  [[nodiscard]] Slot* take(uint64_t hash, uint64_t now_ms) {
    Slot* pair = pair_of(hash);
    for (size_t i = 0; i < 2; ++i) {
      if (refilled(pair[i], now_ms) < kFull) continue;
      pair[i] = {hash, kFull, now_ms};
      return &pair[i];
    }
    return nullptr;
  }

  SipKey key_;
  std::vector<Slot> slots_;
};

}  // namespace culvert
