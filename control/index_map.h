// A map from keys that live elsewhere to 32-bit indices: open addressing with linear probing and
// deletion by shifting back, so that it never degrades, at a load of at most one half. The owner
// hands in the hash and an equality test on the index; the map stores 8 bytes per slot (index and
// the hash's high bits) and allocates only at construction. Keys from the network must be hashed
// with a secret seed.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "dataplane/base/assert.h"

namespace culvert {

class IndexMap {
 public:
  static constexpr uint32_t kNone = 0xffffffff;

  explicit IndexMap(uint32_t capacity)
      : slots_(std::bit_ceil(size_t{capacity} * 2 + 2)), mask_(slots_.size() - 1) {}

  // equal(index) says whether the key of that index is the one looked for. kNone: not there.
  template <class Equal>
  [[nodiscard]] uint32_t find(uint64_t hash, Equal&& equal) const {
    const auto tag = static_cast<uint32_t>(hash >> 32);
    for (size_t at = hash & mask_; slots_[at].index != kNone; at = (at + 1) & mask_) {
      if (slots_[at].tag == tag && equal(slots_[at].index)) return slots_[at].index;
    }
    return kNone;
  }
  void insert(uint64_t hash, uint32_t index) {
    ENSURE(size_ < slots_.size() / 2);
    size_t at = hash & mask_;
    while (slots_[at].index != kNone)
      at = (at + 1) & mask_;
    slots_[at] = {index, static_cast<uint32_t>(hash >> 32)};
    ++size_;
  }
  // hash_of(index): the hash that index was inserted with.
  template <class HashOf>
  void erase(uint64_t hash, uint32_t index, HashOf&& hash_of) {
    size_t hole = hash & mask_;
    while (slots_[hole].index != index) {
      ENSURE(slots_[hole].index != kNone);
      hole = (hole + 1) & mask_;
    }
    for (size_t at = (hole + 1) & mask_; slots_[at].index != kNone; at = (at + 1) & mask_) {
      const size_t home = hash_of(slots_[at].index) & mask_;
      // Moves back unless its home lies (cyclically) behind the hole.
      if (((at - home) & mask_) >= ((at - hole) & mask_)) {
        slots_[hole] = slots_[at];
        hole = at;
      }
    }
    slots_[hole] = Slot{};
    --size_;
  }
  [[nodiscard]] size_t size() const { return size_; }

 private:
  struct Slot {
    uint32_t index = kNone;
    uint32_t tag = 0;
  };
  std::vector<Slot> slots_;
  size_t mask_;
  size_t size_ = 0;
};

}  // namespace culvert
