// Hierarchical timer wheel over a fixed set of ids (allocation indices): three levels of 64 slots,
// 16 ms a tick, so 64^3 * 16 ms = 4194 s reaches past the longest lifetime (3600 s). Links are
// 32-bit indices in a side array. arm() and cancel() are O(1); advance() costs one bitmap test per
// tick passed.
//
// An id fires at or after its deadline, never before, at most one tick late. Whoever is fired looks
// at the real deadlines and arms again when they have moved (lazy): the packet path never touches
// this.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "dataplane/base/arena.h"
#include "dataplane/base/assert.h"
#include "dataplane/base/ticks.h"

namespace culvert {

class TimerWheel {
 public:
  static constexpr uint32_t kTickMs = 16;
  static constexpr uint32_t kSlots = 64;
  static constexpr uint32_t kLevels = 3;
  static constexpr uint32_t kNone = 0xffffffff;
  // Fired per advance() call, so that a mass expiry cannot hold up packets.
  static constexpr uint32_t kMaxFiredPerCall = 64;

  [[nodiscard]] static constexpr size_t bytes_for(size_t ids) {
    return ids * sizeof(Node) + kCacheLine;
  }

  void init(Arena& arena, size_t ids, Ticks now) {
    ENSURE(ids < kNoId);
    nodes_ = arena.make<Node>(ids).data();
    for (auto& level : heads_)
      level.fill(kNone);
    due_ = kNone;
    current_at_ = now;
    current_ = 0;
  }

  [[nodiscard]] bool armed(uint32_t id) const { return nodes_[id].where != kNotArmed; }

  // Arms (or moves) `id` to fire when `deadline` has been reached.
  void arm(uint32_t id, Ticks deadline) {
    cancel(id);
    nodes_[id].tick = tick_of(deadline);
    place(id);
  }
  // As arm(), but only when that is earlier than what is armed now.
  void arm_earlier(uint32_t id, Ticks deadline) {
    const uint32_t tick = tick_of(deadline);
    if (armed(id) && static_cast<int32_t>(tick - nodes_[id].tick) >= 0) return;
    arm(id, deadline);
  }
  void cancel(uint32_t id) {
    Node& node = nodes_[id];
    if (node.where == kNotArmed) return;
    if (node.next != kNone) nodes_[node.next].previous = node.previous;
    if (node.previous != kNoId)
      nodes_[node.previous].next = node.next;
    else
      unlink_head(node);
    node = Node{};
  }

  // Moves time on and calls fire(id) for each due id, which is disarmed first and may be armed
  // again from inside. Returns how many fired; at kMaxFiredPerCall the rest waits for the next
  // call.
  template <class Fire>
  uint32_t advance(Ticks now, Fire&& fire) {
    uint32_t fired = 0;
    // From the wheel's own instant, never from its start: Ticks wrap, and the distance stays short.
    const int32_t passed = static_cast<int32_t>(now - current_at_);
    const uint32_t target = current_ + (passed > 0 ? static_cast<uint32_t>(passed) / kTickMs : 0);
    for (;;) {
      while (due_ != kNone) {
        if (fired == kMaxFiredPerCall) return fired;
        const uint32_t id = due_;
        cancel(id);
        ++fired;
        fire(id);
      }
      if (static_cast<int32_t>(target - current_) <= 0) return fired;
      step(target);
    }
  }

 private:
  static constexpr uint8_t kNotArmed = 0;
  static constexpr uint8_t kDue = 0xff;
  static constexpr uint32_t kNoId = 0xffffff;
  static_assert(kLevels * kSlots < kDue);
  struct Node {
    uint32_t next = kNone;
    // 24 bits name 16 million ids, far beyond the allocations of a core.
    uint32_t previous : 24 = kNoId;
    uint32_t where : 8 = kNotArmed;  // 1 + level * kSlots + slot, or kDue
    uint32_t tick = 0;
  };
  static_assert(sizeof(Node) == 12);

  // Rounded up: never early.
  [[nodiscard]] uint32_t tick_of(Ticks deadline) const {
    const int32_t ahead = static_cast<int32_t>(deadline - current_at_);
    if (ahead <= 0) return current_;
    return current_ + (static_cast<uint32_t>(ahead) + kTickMs - 1) / kTickMs;
  }

  void link(uint32_t id, uint32_t& head, uint8_t where) {
    Node& node = nodes_[id];
    node.previous = kNoId;
    node.next = head;
    node.where = where;
    if (head != kNone) nodes_[head].previous = id & kNoId;
    head = id;
  }
  void unlink_head(const Node& node) {
    if (node.where == kDue) {
      due_ = node.next;
      return;
    }
    const uint32_t level = (node.where - 1u) / kSlots;
    const uint32_t slot = (node.where - 1u) % kSlots;
    heads_[level][slot] = node.next;
    if (node.next == kNone) used_[level] &= ~(uint64_t{1} << slot);
  }

  void place(uint32_t id) {
    const uint32_t tick = nodes_[id].tick;
    const int32_t ahead = static_cast<int32_t>(tick - current_);
    if (ahead <= 0) {
      link(id, due_, kDue);
      return;
    }
    uint32_t level = 0;
    uint32_t span = kSlots;
    while (level + 1 < kLevels && static_cast<uint32_t>(ahead) >= span) {
      ++level;
      span *= kSlots;
    }
    // Beyond the last level's reach: the farthest slot, and placed again from there.
    const uint32_t reach = static_cast<uint32_t>(ahead) >= span ? current_ + span - 1 : tick;
    const uint32_t slot = (reach >> (6 * level)) & (kSlots - 1);
    link(id, heads_[level][slot], static_cast<uint8_t>(1 + level * kSlots + slot));
    used_[level] |= uint64_t{1} << slot;
  }

  // One tick forward, or straight to the next tick at which something can happen.
  void step(uint32_t target) {
    const uint32_t within = current_ & (kSlots - 1);
    const uint64_t ahead = within == kSlots - 1 ? 0 : used_[0] >> (within + 1);
    const uint32_t to_wrap = kSlots - within;
    uint32_t jump = ahead != 0 ? static_cast<uint32_t>(std::countr_zero(ahead)) + 1 : to_wrap;
    if (jump > to_wrap) jump = to_wrap;
    if (jump > target - current_) jump = target - current_;
    current_ += jump;
    current_at_ += jump * kTickMs;
    for (uint32_t level = 1; level < kLevels; ++level) {
      if ((current_ & ((1u << (6 * level)) - 1)) != 0) break;
      replace_all(level, (current_ >> (6 * level)) & (kSlots - 1));
    }
    replace_all(0, current_ & (kSlots - 1));
  }
  void replace_all(uint32_t level, uint32_t slot) {
    uint32_t id = heads_[level][slot];
    heads_[level][slot] = kNone;
    used_[level] &= ~(uint64_t{1} << slot);
    while (id != kNone) {
      const uint32_t next = nodes_[id].next;
      if (next != kNone) __builtin_prefetch(&nodes_[next]);
      place(id);
      id = next;
    }
  }

  Node* nodes_ = nullptr;
  std::array<std::array<uint32_t, kSlots>, kLevels> heads_{};
  std::array<uint64_t, kLevels> used_{};
  uint32_t due_ = kNone;
  uint32_t current_ = 0;  // ticks since the start, wrapping (slots are its low bits)
  Ticks current_at_ = 0;  // the instant of current_, wrapping too
};

}  // namespace culvert
