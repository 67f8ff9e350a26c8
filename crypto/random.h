// The relay's random numbers. Random() draws from the kernel's generator (getrandom) through a
// small buffer whose bytes are wiped as they are handed out; Random(seed) repeats the same numbers
// for the same seed and is for tests and the simulator. One instance per thread. Cost: about 10 ns
// for 8 bytes, and one system call per kBufferBytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace culvert::crypto {

class Random {
 public:
  // Secure. Throws std::system_error at once when the kernel has no generator.
  Random();
  // Repeatable, NOT secure.
  explicit Random(uint64_t seed);
  ~Random();
  Random(const Random&) = delete;
  Random& operator=(const Random&) = delete;

  void fill(std::span<uint8_t> out);
  [[nodiscard]] uint32_t u32();
  [[nodiscard]] uint64_t u64();
  // Uniform in [0, bound), without modulo bias; bound > 0.
  [[nodiscard]] uint32_t below(uint32_t bound);

 private:
  // getrandom never returns less than asked, nor is interrupted, up to 256 bytes.
  static constexpr size_t kBufferBytes = 256;

  void refill();

  std::array<uint8_t, kBufferBytes> buffer_{};
  size_t used_ = kBufferBytes;
  bool seeded_ = false;
  uint64_t state_ = 0;  // of the repeatable sequence
};

}  // namespace culvert::crypto
