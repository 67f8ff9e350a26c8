// Sorts a burst into the messages it leaves as: datagrams of one flow (egress and destination) with
// the same size and header fields become one message, which the kernel cuts apart again
// (UDP_SEGMENT). They need not be neighbours in the burst: two hundred interleaved flows of two
// datagrams each cost half the sends. Order within a flow is kept: a datagram that does not fit its
// flow's open message opens the next one, and messages leave in the order in which they were
// opened.
//
// Pure; no system call. Cost: one hash and about one compare per datagram, 128 bytes cleared per
// burst.
#pragma once

#include <array>
#include <cstdint>

#include "dataplane/path/datagram.h"

namespace culvert {

// UDP_MAX_SEGMENTS of every kernel that has UDP_SEGMENT (128 since 6.10: not relied upon).
inline constexpr uint32_t kMaxSegments = 64;
// 65535 less IPv4 and UDP headers: what one message may carry before it is cut.
inline constexpr size_t kMaxMessageBytes = 65535 - 20 - 8;

class TxGroups {
 public:
  struct Group {
    uint8_t first = 0;  // item that opened it
    uint8_t last = 0;
    uint8_t segments = 0;
    bool open = true;  // a further segment may join
    uint32_t bytes = 0;
  };

  // Fills the groups of tx.items[0..count). `segment` false: every datagram is a group of its own.
  void build(const TxBurst& tx, bool segment) {
    count_ = 0;
    slots_.fill(0);
    for (uint32_t i = 0; i < tx.count; ++i) {
      uint8_t& slot = find(tx, tx.items[i]);
      if (segment && slot != 0 && join(tx, groups_[slot - 1u], i)) continue;
      next_[i] = kEnd;
      groups_[count_] = Group{static_cast<uint8_t>(i), static_cast<uint8_t>(i), 1,
                              tx.items[i].size() != 0, static_cast<uint32_t>(tx.items[i].size())};
      slot = static_cast<uint8_t>(++count_);
    }
  }

  [[nodiscard]] uint32_t count() const { return count_; }
  [[nodiscard]] const Group& group(uint32_t i) const { return groups_[i]; }
  // The item after `item` in its group, or kEnd.
  [[nodiscard]] uint8_t next(uint8_t item) const { return next_[item]; }
  static constexpr uint8_t kEnd = 0xff;

 private:
  static constexpr uint32_t kSlots = 128;  // two per datagram: probing always ends, and soon
  static_assert(kMaxBurst < kEnd && kSlots >= 2 * kMaxBurst);

  [[nodiscard]] static uint32_t hash(const TxDatagram& d) {
    uint32_t ip;
    std::memcpy(&ip, &d.to.ip.bytes[12], sizeof ip);
    const uint64_t mixed =
        (uint64_t{d.egress} << 32 ^ ip ^ uint64_t{d.to.port} << 16) * 0x9e3779b97f4a7c15u;
    return static_cast<uint32_t>(mixed >> 57);
  }

  // The slot with the flow's latest group, or the free one where it belongs.
  [[nodiscard]] uint8_t& find(const TxBurst& tx, const TxDatagram& d) {
    for (uint32_t at = hash(d);; at = (at + 1) % kSlots) {
      uint8_t& slot = slots_[at];
      if (slot == 0) return slot;
      const TxDatagram& other = tx.items[groups_[slot - 1u].first];
      if (other.egress == d.egress && other.to == d.to) return slot;
    }
  }

  [[nodiscard]] bool join(const TxBurst& tx, Group& group, uint32_t i) {
    const TxDatagram& a = tx.items[group.first];
    const TxDatagram& b = tx.items[i];
    const size_t size = b.size();
    if (!group.open || group.segments == kMaxSegments || size == 0 || size > a.size() ||
        group.bytes + size > kMaxMessageBytes || a.ttl != b.ttl || a.tos != b.tos ||
        a.dont_fragment != b.dont_fragment) {
      return false;
    }
    next_[group.last] = static_cast<uint8_t>(i);
    next_[i] = kEnd;
    group.last = static_cast<uint8_t>(i);
    ++group.segments;
    group.bytes += static_cast<uint32_t>(size);
    group.open = size == a.size();  // only the last segment may be shorter
    return true;
  }

  uint32_t count_ = 0;
  std::array<uint8_t, kSlots> slots_;
  std::array<uint8_t, kMaxBurst> next_;
  std::array<Group, kMaxBurst> groups_;
};

}  // namespace culvert
