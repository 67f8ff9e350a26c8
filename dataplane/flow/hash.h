// Seeded hash of fixed-size keys: one 64x64->128 multiply per 16 bytes, folded. A CRC would be
// cheaper by a cycle but is linear: its collisions do not depend on the seed, so anyone could
// compute them.
#pragma once

#include <cstdint>
#include <cstring>

namespace culvert {

struct HashSeed {
  uint64_t a = 0x9e3779b97f4a7c15u;
  uint64_t b = 0xc2b2ae3d27d4eb4fu;
};

__extension__ using Product128 = unsigned __int128;

[[nodiscard]] inline uint64_t hash_fold(uint64_t x, uint64_t y) {
  const Product128 product = static_cast<Product128>(x) * y;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// Key: trivially copyable, 16 or 32 bytes, no padding with undefined content.
template <class Key>
[[nodiscard]] inline uint64_t hash_key(const Key& key, const HashSeed& seed) {
  static_assert(sizeof(Key) == 16 || sizeof(Key) == 32);
  uint64_t w[sizeof(Key) / 8];
  std::memcpy(w, &key, sizeof key);
  const uint64_t h = hash_fold(w[0] ^ seed.a, w[1] ^ seed.b);
  if constexpr (sizeof(Key) == 16)
    return h;
  else
    return hash_fold(h ^ w[2] ^ seed.b, w[3] ^ seed.a);
}

}  // namespace culvert
