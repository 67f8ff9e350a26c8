// Fixed-capacity hash table with control groups (the "Swiss" layout) and entries stored inline.
//
// One byte per slot holds 7 bits of the hash or "empty"; sixteen of them are compared in one
// instruction. A look-up that hits touches one control line (small, stays in cache) and one entry.
// Deletion leaves no tombstones: each group counts the entries that had to go past it, and a
// look-up stops at the first group that nothing went past. So a table that has churned for a year
// is as fast as a new one.
//
// Any number of groups: a group is picked by multiply and shift, so memory follows the configured
// limit and not the next power of two.
//
// Invariants: entries never move, so a slot index names an entry until it is erased; no rehash; the
// table refuses (kNoSlot) at kLoad/16 of its slots. Single owner, no locks, memory from the owner's
// Arena.
#pragma once

#include <bit>
#include <cstdint>
#include <span>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "dataplane/base/arena.h"
#include "dataplane/base/assert.h"

namespace culvert {

inline constexpr uint32_t kNoSlot = 0xffffffff;

// kLoad: entries per sixteen slots when the table is at its limit. 14 keeps hits at one group for
// five keys of six; cold tables take 15 and save memory.
template <class Entry, uint32_t kLoad = 14>
class SwissTable {
 public:
  static constexpr uint32_t kGroup = 16;
  static_assert(kLoad > 0 && kLoad < kGroup);

  // Slots needed so that `entries` fit under the load limit.
  [[nodiscard]] static constexpr size_t slots_for(size_t entries) {
    const size_t wanted = entries * kGroup / kLoad + 1;
    return (wanted + kGroup - 1) / kGroup * kGroup;
  }
  // Bytes of arena (entries, control bytes, overflow counts; alignment slack included).
  [[nodiscard]] static constexpr size_t bytes_for(size_t entries) {
    const size_t slots = slots_for(entries);
    return slots * (sizeof(Entry) + 1) + slots / kGroup * sizeof(uint16_t) + 4 * kCacheLine;
  }

  void init(Arena& arena, size_t entries) {
    const size_t slots = slots_for(entries);
    entries_ = arena.make<Entry>(slots).data();
    control_ = arena.make<uint8_t>(slots).data();
    overflow_ = arena.make<uint16_t>(slots / kGroup).data();
    for (size_t i = 0; i < slots; ++i)
      control_[i] = kEmpty;
    groups_ = static_cast<uint32_t>(slots / kGroup);
    limit_ = static_cast<uint32_t>(entries);
  }

  [[nodiscard]] uint32_t size() const { return size_; }
  [[nodiscard]] uint32_t limit() const { return limit_; }
  [[nodiscard]] bool has_room(uint32_t count) const { return limit_ - size_ >= count; }

  [[nodiscard]] Entry& operator[](uint32_t slot) { return entries_[slot]; }
  [[nodiscard]] const Entry& operator[](uint32_t slot) const { return entries_[slot]; }

  // First step of a burst look-up: bring the control group in.
  void prefetch_group(uint64_t hash) const {
    __builtin_prefetch(control_ + size_t{group_of(hash)} * kGroup);
  }
  // Second step: the first slot of the home group whose tag matches, or kNoSlot; its entry is
  // prefetched. Nearly always the one that find() will return: the caller compares its key before
  // it calls find().
  [[nodiscard]] uint32_t probe(uint64_t hash) const {
    const uint32_t group = group_of(hash);
    const uint32_t match = match_tag(group, tag_of(hash));
    if (match == 0) return kNoSlot;
    const uint32_t slot = group * kGroup + static_cast<uint32_t>(std::countr_zero(match));
    const Entry* at = entries_ + slot;
    __builtin_prefetch(at, 1);
    if constexpr (sizeof(Entry) > kCacheLine)
      __builtin_prefetch(reinterpret_cast<const uint8_t*>(at) + kCacheLine, 1);
    return slot;
  }

  // The slot of the entry for which equal(entry) holds, or kNoSlot.
  template <class Equal>
  [[nodiscard]] uint32_t find(uint64_t hash, Equal&& equal) const {
    const uint8_t tag = tag_of(hash);
    uint32_t group = group_of(hash);
    for (uint32_t step = 1;; ++step) {
      for (uint32_t match = match_tag(group, tag); match != 0; match &= match - 1) {
        const uint32_t slot = group * kGroup + static_cast<uint32_t>(std::countr_zero(match));
        if (equal(entries_[slot])) [[likely]]
          return slot;
      }
      if (overflow_[group] == 0 || step == groups_) return kNoSlot;
      group = next(group);
    }
  }

  // Takes a slot for a key that is not in the table; the entry is left for the caller to write.
  [[nodiscard]] uint32_t insert(uint64_t hash) {
    if (size_ >= limit_) return kNoSlot;
    uint32_t group = group_of(hash);
    for (uint32_t step = 1;; ++step) {
      const uint32_t empty = match_tag(group, kEmpty);
      if (empty != 0) {
        const uint32_t slot = group * kGroup + static_cast<uint32_t>(std::countr_zero(empty));
        control_[slot] = tag_of(hash);
        ++size_;
        return slot;
      }
      ENSURE(step < groups_);  // the load limit leaves an empty slot somewhere
      ++overflow_[group];
      group = next(group);
    }
  }

  // `hash` is the one the slot was inserted with.
  void erase(uint32_t slot, uint64_t hash) {
    const uint32_t home = slot / kGroup;
    for (uint32_t group = group_of(hash); group != home; group = next(group))
      --overflow_[group];
    control_[slot] = kEmpty;
    --size_;
  }

  // Visits every used slot in order; for dumps and tests.
  template <class Visitor>
  void each(Visitor&& visit) const {
    for (uint32_t slot = 0; slot < groups_ * kGroup; ++slot)
      if (control_[slot] != kEmpty) visit(slot, entries_[slot]);
  }

 private:
  static constexpr uint8_t kEmpty = 0x80;

  [[nodiscard]] uint32_t group_of(uint64_t hash) const {
    return static_cast<uint32_t>(((hash >> 32) * groups_) >> 32);
  }
  [[nodiscard]] uint32_t next(uint32_t group) const { return group + 1 == groups_ ? 0 : group + 1; }
  [[nodiscard]] static uint8_t tag_of(uint64_t hash) { return static_cast<uint8_t>(hash & 0x7f); }

  // Bit i is set when slot i of the group carries this control byte.
  [[nodiscard]] uint32_t match_tag(uint32_t group, uint8_t tag) const {
    const uint8_t* at = control_ + size_t{group} * kGroup;
#if defined(__SSE2__)
    const __m128i bytes = _mm_load_si128(reinterpret_cast<const __m128i*>(at));
    const __m128i wanted = _mm_set1_epi8(static_cast<char>(tag));
    return static_cast<uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, wanted)));
#else
    uint32_t mask = 0;
    for (uint32_t i = 0; i < kGroup; ++i)
      mask |= static_cast<uint32_t>(at[i] == tag) << i;
    return mask;
#endif
  }

  Entry* entries_ = nullptr;
  uint8_t* control_ = nullptr;
  uint16_t* overflow_ = nullptr;
  uint32_t groups_ = 0;
  uint32_t limit_ = 0;
  uint32_t size_ = 0;
};

}  // namespace culvert
