// Small things every secret needs: comparison in constant time, wiping that the compiler may not
// remove, a string that wipes itself, base64 (RFC 4648 section 4). Sizes are not secret, contents
// are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace culvert::crypto {

[[nodiscard]] inline std::span<const uint8_t> as_bytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// False at once when the sizes differ; else takes the same time wherever the first difference lies.
[[nodiscard]] bool constant_time_equal(std::span<const uint8_t> a, std::span<const uint8_t> b);

// Overwrites with zeros, also when nothing reads the memory afterwards.
void wipe(void* at, size_t bytes);

// Bytes that are wiped when they go. Copies are explicit (copy()), so that a secret does not spread
// by passing it on.
class Secret {
 public:
  Secret() = default;
  explicit Secret(std::string_view text) : Secret(as_bytes(text)) {}
  explicit Secret(std::span<const uint8_t> bytes) : bytes_(bytes.begin(), bytes.end()) {}
  Secret(Secret&& other) noexcept : bytes_(std::move(other.bytes_)) { other.bytes_.clear(); }
  Secret& operator=(Secret&& other) noexcept;
  Secret(const Secret&) = delete;
  Secret& operator=(const Secret&) = delete;
  ~Secret() { wipe(bytes_.data(), bytes_.size()); }

  [[nodiscard]] Secret copy() const { return Secret(bytes()); }
  [[nodiscard]] std::span<const uint8_t> bytes() const { return bytes_; }
  [[nodiscard]] std::string_view text() const {
    return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()};
  }
  [[nodiscard]] bool empty() const { return bytes_.empty(); }

 private:
  std::vector<uint8_t> bytes_;
};

// With padding, without line breaks.
[[nodiscard]] std::string base64_encode(std::span<const uint8_t> bytes);
// nullopt: length not a multiple of four, a character outside the alphabet, misplaced padding, or
// bits set that belong to no byte (one value has one spelling).
[[nodiscard]] std::optional<std::vector<uint8_t>> base64_decode(std::string_view text);

}  // namespace culvert::crypto
