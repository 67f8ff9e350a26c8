// Which endpoint a datagram is for: the tool's own addresses and ports to endpoints, open
// addressing with linear probing. Keys stay with the caller, who says how to read them; a removed
// one leaves no trace (the run behind it moves up), so endpoints may come and go for hours.
#pragma once

#include <cstdint>
#include <vector>

#include "dataplane/base/address.h"

namespace culvert::load {

class PortTable {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  // `key_of(value)`: the address that `value` was put in for.
  template <class KeyOf>
  void put(uint32_t value, const KeyOf& key_of) {
    if (2 * (count_ + 1) > slots_.size()) grow(key_of);
    insert(value, key_of);
    ++count_;
  }

  template <class KeyOf>
  [[nodiscard]] uint32_t find(const TransportAddress& key, const KeyOf& key_of) const {
    if (slots_.empty()) return kNone;
    for (size_t at = home(key);; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at] == kNone || key_of(slots_[at]) == key) return slots_[at];
    }
  }

  template <class KeyOf>
  void remove(const TransportAddress& key, const KeyOf& key_of) {
    const size_t mask = slots_.size() - 1;
    if (slots_.empty()) return;
    size_t hole = home(key);
    while (slots_[hole] != kNone && !(key_of(slots_[hole]) == key))
      hole = (hole + 1) & mask;
    if (slots_[hole] == kNone) return;
    --count_;
    for (size_t next = (hole + 1) & mask; slots_[next] != kNone; next = (next + 1) & mask) {
      // What stands between its home and its place may not move in front of its home.
      const size_t way = (next - home(key_of(slots_[next]))) & mask;
      if (way < ((next - hole) & mask)) continue;
      slots_[hole] = slots_[next];
      hole = next;
    }
    slots_[hole] = kNone;
  }

 private:
  static constexpr size_t kFirstSlots = 1024;

  [[nodiscard]] size_t home(const TransportAddress& key) const {
    uint64_t word = load_be64(&key.ip.bytes[8]);
    word ^= load_be64(&key.ip.bytes[0]) * 0xc2b2ae3d27d4eb4fu;
    word = (word ^ uint64_t{key.port} << 40) * 0x9e3779b97f4a7c15u;
    return (word >> 32) & (slots_.size() - 1);
  }
  template <class KeyOf>
  void insert(uint32_t value, const KeyOf& key_of) {
    size_t at = home(key_of(value));
    while (slots_[at] != kNone)
      at = (at + 1) & (slots_.size() - 1);
    slots_[at] = value;
  }
  template <class KeyOf>
  void grow(const KeyOf& key_of) {
    std::vector<uint32_t> old(slots_.empty() ? kFirstSlots : 2 * slots_.size(), kNone);
    old.swap(slots_);
    for (const uint32_t value : old)
      if (value != kNone) insert(value, key_of);
  }

  std::vector<uint32_t> slots_;
  size_t count_ = 0;
};

}  // namespace culvert::load
