// Loads and stores of network byte order at any alignment. memcpy, never a cast: misaligned access
// through a cast is undefined and has crashed relays remotely (turn.md 7.2).
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace culvert {

[[nodiscard]] constexpr uint16_t byte_swap(uint16_t v) {
  return __builtin_bswap16(v);
}
[[nodiscard]] constexpr uint32_t byte_swap(uint32_t v) {
  return __builtin_bswap32(v);
}
[[nodiscard]] constexpr uint64_t byte_swap(uint64_t v) {
  return __builtin_bswap64(v);
}

template <class T>
[[nodiscard]] constexpr T to_big_endian(T v) {
  if constexpr (std::endian::native == std::endian::little) return byte_swap(v);
  return v;
}

template <class T>
[[nodiscard]] inline T load_be(const void* from) {
  T v;
  std::memcpy(&v, from, sizeof v);
  return to_big_endian(v);
}
template <class T>
inline void store_be(void* to, T v) {
  v = to_big_endian(v);
  std::memcpy(to, &v, sizeof v);
}

[[nodiscard]] inline uint16_t load_be16(const void* p) {
  return load_be<uint16_t>(p);
}
[[nodiscard]] inline uint32_t load_be32(const void* p) {
  return load_be<uint32_t>(p);
}
[[nodiscard]] inline uint64_t load_be64(const void* p) {
  return load_be<uint64_t>(p);
}
inline void store_be16(void* p, uint16_t v) {
  store_be(p, v);
}
inline void store_be32(void* p, uint32_t v) {
  store_be(p, v);
}
inline void store_be64(void* p, uint64_t v) {
  store_be(p, v);
}

}  // namespace culvert
