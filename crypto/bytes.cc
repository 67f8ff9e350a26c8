#include "crypto/bytes.h"

#include <openssl/crypto.h>

#include <array>

namespace culvert::crypto {

namespace {

constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr int8_t kNotADigit = -1;

constexpr std::array<int8_t, 256> make_digits() {
  std::array<int8_t, 256> out{};
  for (auto& digit : out)
    digit = kNotADigit;
  for (int8_t i = 0; i < 64; ++i)
    out[static_cast<uint8_t>(kAlphabet[i])] = i;
  return out;
}
constexpr std::array<int8_t, 256> kDigits = make_digits();

}  // namespace

bool constant_time_equal(std::span<const uint8_t> a, std::span<const uint8_t> b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

void wipe(void* at, size_t bytes) {
  if (bytes != 0) OPENSSL_cleanse(at, bytes);
}

Secret& Secret::operator=(Secret&& other) noexcept {
  if (this == &other) return *this;
  wipe(bytes_.data(), bytes_.size());
  bytes_ = std::move(other.bytes_);
  other.bytes_.clear();
  return *this;
}

std::string base64_encode(std::span<const uint8_t> bytes) {
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t left = bytes.size() - i;
    uint32_t word = static_cast<uint32_t>(bytes[i]) << 16;
    if (left > 1) word |= static_cast<uint32_t>(bytes[i + 1]) << 8;
    if (left > 2) word |= bytes[i + 2];
    out += kAlphabet[word >> 18];
    out += kAlphabet[word >> 12 & 63];
    out += left > 1 ? kAlphabet[word >> 6 & 63] : '=';
    out += left > 2 ? kAlphabet[word & 63] : '=';
  }
  return out;
}

std::optional<std::vector<uint8_t>> base64_decode(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  size_t padding = 0;
  while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=')
    ++padding;
  std::vector<uint8_t> out;
  out.reserve(text.size() / 4 * 3);
  uint32_t word = 0;
  for (size_t i = 0; i < text.size() - padding; ++i) {
    const int8_t digit = kDigits[static_cast<uint8_t>(text[i])];
    if (digit == kNotADigit) return std::nullopt;
    word = word << 6 | static_cast<uint32_t>(digit);
    if (i % 4 != 3) continue;
    out.push_back(static_cast<uint8_t>(word >> 16));
    out.push_back(static_cast<uint8_t>(word >> 8));
    out.push_back(static_cast<uint8_t>(word));
    word = 0;
  }
  if (padding == 1) {  // three digits, 18 bits: two bytes and two bits that must be zero
    if ((word & 3) != 0) return std::nullopt;
    out.push_back(static_cast<uint8_t>(word >> 10));
    out.push_back(static_cast<uint8_t>(word >> 2));
  } else if (padding == 2) {  // two digits, 12 bits: one byte and four bits
    if ((word & 15) != 0) return std::nullopt;
    out.push_back(static_cast<uint8_t>(word >> 4));
  }
  return out;
}

}  // namespace culvert::crypto
