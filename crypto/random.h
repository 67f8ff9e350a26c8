// Random bytes: the system's generator in the daemon, a seeded one in tests and the simulator. Passed as an
// object so that nothing draws randomness behind anybody's back.
#pragma once

#include <cstdint>
#include <span>

namespace culvert::crypto {

class Random {
 public:
  virtual ~Random() = default;
  virtual void fill(std::span<uint8_t> out) = 0;

  [[nodiscard]] uint32_t u32();
  [[nodiscard]] uint64_t u64();
  // Uniform in [0, bound), without modulo bias; bound > 0.
  [[nodiscard]] uint32_t below(uint32_t bound);
};

// getrandom(2), read ahead in blocks of 4 KiB; each byte is used once and wiped. One thread.
class SystemRandom final : public Random {
 public:
  void fill(std::span<uint8_t> out) override;
  ~SystemRandom() override;

 private:
  static constexpr size_t kBlock = 4096;
  uint8_t block_[kBlock] = {};
  size_t used_ = kBlock;
};

// The same bytes for the same seed (SplitMix64). Never for keys of a running relay.
class SeededRandom final : public Random {
 public:
  explicit SeededRandom(uint64_t seed) : state_(seed) {}
  void fill(std::span<uint8_t> out) override;

 private:
  uint64_t state_;
};

}  // namespace culvert::crypto
