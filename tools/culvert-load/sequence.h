// What became of one flow's numbered datagrams: unique, duplicated, reordered (RFC 4737: arrived
// after one with a higher number). A window of 1024 numbers tells a late datagram from a duplicate;
// one older than that counts as late and unique. 160 bytes a flow, one owner.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace culvert::load {

enum class Arrival : uint8_t { kInOrder, kReordered, kDuplicate };

class SequenceTracker {
 public:
  static constexpr uint64_t kWindow = 1024;

  Arrival arrive(uint64_t sequence) {
    if (sequence >= next_) {
      // The bits of the numbers skipped are cleared, at most one whole window of them.
      const uint64_t first = sequence - next_ >= kWindow ? sequence - kWindow + 1 : next_;
      for (uint64_t s = first; s < sequence; ++s)
        clear(s);
      set(sequence);
      next_ = sequence + 1;
      return Arrival::kInOrder;
    }
    if (next_ - sequence > kWindow) return Arrival::kReordered;
    if (seen(sequence)) return Arrival::kDuplicate;
    set(sequence);
    return Arrival::kReordered;
  }

  [[nodiscard]] uint64_t next() const { return next_; }

 private:
  static size_t word(uint64_t s) { return (s % kWindow) / 64; }
  static uint64_t bit(uint64_t s) { return uint64_t{1} << (s % 64); }
  void set(uint64_t s) { seen_[word(s)] |= bit(s); }
  void clear(uint64_t s) { seen_[word(s)] &= ~bit(s); }
  [[nodiscard]] bool seen(uint64_t s) const { return (seen_[word(s)] & bit(s)) != 0; }

  uint64_t next_ = 0;
  std::array<uint64_t, kWindow / 64> seen_{};
};

}  // namespace culvert::load
