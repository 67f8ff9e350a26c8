#include "crypto/random.h"

#include <openssl/crypto.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

namespace culvert::crypto {

uint32_t Random::u32() {
  uint8_t bytes[4];
  fill(bytes);
  uint32_t value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

uint64_t Random::u64() {
  uint8_t bytes[8];
  fill(bytes);
  uint64_t value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

uint32_t Random::below(uint32_t bound) {
  // 2^32 mod bound values at the low end would be likelier than the rest: draw again.
  const uint32_t threshold = (0u - bound) % bound;
  for (;;) {
    const uint32_t value = u32();
    if (value >= threshold) return value % bound;
  }
}

SystemRandom::~SystemRandom() { OPENSSL_cleanse(block_, sizeof block_); }

void SystemRandom::fill(std::span<uint8_t> out) {
  while (!out.empty()) {
    if (used_ == kBlock) {
      size_t got = 0;
      while (got < kBlock) {
        const ssize_t n = getrandom(block_ + got, kBlock - got, 0);
        if (n < 0 && errno != EINTR)
          throw std::system_error(errno, std::generic_category(), "getrandom");
        if (n > 0) got += static_cast<size_t>(n);
      }
      used_ = 0;
    }
    const size_t take = std::min(out.size(), kBlock - used_);
    std::memcpy(out.data(), block_ + used_, take);
    OPENSSL_cleanse(block_ + used_, take);
    used_ += take;
    out = out.subspan(take);
  }
}

void SeededRandom::fill(std::span<uint8_t> out) {
  while (!out.empty()) {
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    const size_t take = std::min(out.size(), sizeof z);
    std::memcpy(out.data(), &z, take);
    out = out.subspan(take);
  }
}

}  // namespace culvert::crypto
