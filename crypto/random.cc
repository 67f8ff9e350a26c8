#include "crypto/random.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "crypto/bytes.h"
#include "dataplane/base/assert.h"

namespace culvert::crypto {

namespace {

// SplitMix64 (Steele, Lea and Flood, 2014): every seed is a good one, and the sequence is the same
// on every machine, which std::mt19937's distributions are not.
[[nodiscard]] uint64_t split_mix(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

}  // namespace

Random::Random() {
  refill();
}
Random::Random(uint64_t seed) : seeded_(true), state_(seed) {}
Random::~Random() {
  wipe(buffer_.data(), buffer_.size());
}

void Random::refill() {
  if (seeded_) {
    for (size_t i = 0; i < kBufferBytes; i += sizeof(uint64_t)) {
      // Little-endian by definition, so that a seed means the same everywhere.
      const uint64_t word = split_mix(state_);
      for (size_t k = 0; k < sizeof word; ++k)
        buffer_[i + k] = static_cast<uint8_t>(word >> 8 * k);
    }
  } else {
    ssize_t got;
    do {
      got = getrandom(buffer_.data(), kBufferBytes, 0);
    } while (got < 0 && errno == EINTR);
    if (got != static_cast<ssize_t>(kBufferBytes))
      throw std::system_error(errno, std::generic_category(), "no random numbers from the kernel");
  }
  used_ = 0;
}

void Random::fill(std::span<uint8_t> out) {
  while (!out.empty()) {
    if (used_ == kBufferBytes) refill();
    const size_t count = std::min(out.size(), kBufferBytes - used_);
    std::memcpy(out.data(), &buffer_[used_], count);
    std::memset(&buffer_[used_], 0, count);  // what was handed out cannot be read again here
    used_ += count;
    out = out.subspan(count);
  }
}

uint32_t Random::u32() {
  uint8_t b[4];
  fill(b);
  return b[0] | static_cast<uint32_t>(b[1]) << 8 | static_cast<uint32_t>(b[2]) << 16 |
         static_cast<uint32_t>(b[3]) << 24;
}

uint64_t Random::u64() {
  const uint64_t low = u32();
  return low | static_cast<uint64_t>(u32()) << 32;
}

uint32_t Random::below(uint32_t bound) {
  ENSURE(bound > 0);
  // 2^32 mod bound low values would be likelier than the rest: they are drawn again.
  const uint32_t refused = (0u - bound) % bound;
  for (;;) {
    const uint32_t value = u32();
    if (value >= refused) return value % bound;
  }
}

}  // namespace culvert::crypto
