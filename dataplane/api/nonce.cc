#include "dataplane/api/nonce.h"

#include <cstring>

namespace culvert {

namespace {

constexpr char kCookie[] = "obMatJos2";
constexpr size_t kCookieLength = sizeof kCookie - 1;
constexpr size_t kFeatureChars = 4;
constexpr size_t kBodyBytes = 12;
constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void encode3(const uint8_t* from, char* to) {
  const uint32_t v = static_cast<uint32_t>(from[0]) << 16 | static_cast<uint32_t>(from[1]) << 8 |
                     static_cast<uint32_t>(from[2]);
  for (int i = 0; i < 4; ++i)
    to[i] = kAlphabet[(v >> (18 - 6 * i)) & 63];
}

// -1 for a character outside the alphabet.
[[nodiscard]] int digit(uint8_t c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+') return 62;
  if (c == '/') return 63;
  return -1;
}

[[nodiscard]] bool decode3(const uint8_t* from, uint8_t* to) {
  uint32_t v = 0;
  for (int i = 0; i < 4; ++i) {
    const int d = digit(from[i]);
    if (d < 0) return false;
    v = v << 6 | static_cast<uint32_t>(d);
  }
  to[0] = static_cast<uint8_t>(v >> 16);
  to[1] = static_cast<uint8_t>(v >> 8);
  to[2] = static_cast<uint8_t>(v);
  return true;
}

[[nodiscard]] uint64_t mac(const SipKey& key, uint16_t realm, uint32_t features, uint32_t time,
                           const TransportAddress& client) {
  uint8_t text[16 + 1 + 1 + 2 + 2 + 4 + 4] = {};
  std::memcpy(text, client.ip.bytes.data(), 16);
  text[16] = static_cast<uint8_t>(client.ip.family);
  store_be16(text + 18, client.port);
  store_be16(text + 20, realm);
  store_be32(text + 22, features);
  store_be32(text + 26, time);
  return siphash24(key, text, sizeof text);
}

}  // namespace

Nonce make_nonce(const NonceKeys& keys, uint16_t realm, uint32_t features,
                 const TransportAddress& client) {
  Nonce out;
  std::memcpy(out.data(), kCookie, kCookieLength);
  uint8_t bits[4];
  store_be32(bits, features << 8);
  encode3(bits, out.data() + kCookieLength);

  // The top bit of the time says which key; 31 bits of seconds last 68 years of uptime.
  const uint32_t which = keys.current & 1;
  const uint32_t time = (keys.now_seconds & 0x7fffffff) | which << 31;
  uint8_t body[kBodyBytes];
  store_be32(body, time);
  store_be64(body + 4, mac(keys.key[which], realm, features, time, client));
  for (size_t i = 0; i < kBodyBytes / 3; ++i)
    encode3(body + 3 * i, out.data() + kCookieLength + kFeatureChars + 4 * i);
  return out;
}

NonceCheck check_nonce(const NonceKeys& keys, uint16_t realm, const TransportAddress& client,
                       std::span<const uint8_t> nonce, uint32_t lifetime_seconds) {
  if (nonce.size() != kNonceLength || std::memcmp(nonce.data(), kCookie, kCookieLength) != 0)
    return {};
  uint8_t bits[4] = {};
  if (!decode3(nonce.data() + kCookieLength, bits)) return {};
  const uint32_t features = load_be32(bits) >> 8;
  uint8_t body[kBodyBytes];
  for (size_t i = 0; i < kBodyBytes / 3; ++i) {
    if (!decode3(nonce.data() + kCookieLength + kFeatureChars + 4 * i, body + 3 * i)) return {};
  }
  const uint32_t time = load_be32(body);
  // One 64-bit compare: no early exit on the first differing byte.
  if (load_be64(body + 4) != mac(keys.key[time >> 31], realm, features, time, client)) return {};
  const uint32_t age = (keys.now_seconds - time) & 0x7fffffff;
  return {age <= lifetime_seconds ? NonceState::kValid : NonceState::kStale, features};
}

}  // namespace culvert
