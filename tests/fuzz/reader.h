// What a fuzz target draws its decisions from: the input's bytes in order, zeros once they are used
// up, so that a shorter input is always a valid one and minimising works.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "dataplane/base/endian.h"

namespace culvert::fuzz {

class Reader {
 public:
  Reader(const uint8_t* data, size_t size) : rest_(data, size) {}

  [[nodiscard]] bool empty() const { return rest_.empty(); }
  [[nodiscard]] uint8_t u8() {
    if (rest_.empty()) return 0;
    const uint8_t out = rest_[0];
    rest_ = rest_.subspan(1);
    return out;
  }
  [[nodiscard]] uint16_t u16() { return static_cast<uint16_t>(u8() << 8 | u8()); }
  [[nodiscard]] uint32_t u32() { return uint32_t{u16()} << 16 | u16(); }
  // 0 to limit - 1.
  [[nodiscard]] uint32_t below(uint32_t limit) { return u8() % limit; }
  [[nodiscard]] bool flag() { return (u8() & 1) != 0; }
  // Up to `count` bytes: fewer at the end of the input.
  [[nodiscard]] std::span<const uint8_t> bytes(size_t count) {
    const auto out = rest_.first(std::min(count, rest_.size()));
    rest_ = rest_.subspan(out.size());
    return out;
  }

 private:
  std::span<const uint8_t> rest_;
};

}  // namespace culvert::fuzz
