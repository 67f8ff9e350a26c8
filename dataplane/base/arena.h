// Memory of the data plane: taken once at start, in one mapping per owner, then sealed. A fast core
// carves its tables from its Arena while it is built; after seal() a further request is a broken
// invariant. Pages are touched at start so that a fast thread never faults.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <type_traits>

namespace culvert {

inline constexpr size_t kCacheLine = 64;

class Arena {
 public:
  // Reserves `bytes` (rounded up to 2 MiB pages when large). Throws std::bad_alloc when the system
  // refuses: start-up code turns that into a sentence.
  explicit Arena(size_t bytes);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // `count` value-initialised objects of T, aligned to a cache line at least.
  template <class T>
  [[nodiscard]] std::span<T> make(size_t count) {
    static_assert(std::is_trivially_destructible_v<T>);
    constexpr size_t align = alignof(T) > kCacheLine ? alignof(T) : kCacheLine;
    T* first = static_cast<T*>(take(count * sizeof(T), align));
    for (size_t i = 0; i < count; ++i)
      new (first + i) T{};
    return {first, count};
  }

  void seal() { sealed_ = true; }
  [[nodiscard]] size_t used() const { return used_; }
  [[nodiscard]] size_t capacity() const { return capacity_; }

 private:
  [[nodiscard]] void* take(size_t bytes, size_t align);

  uint8_t* base_ = nullptr;
  size_t capacity_ = 0;
  size_t used_ = 0;
  bool sealed_ = false;
};

}  // namespace culvert
