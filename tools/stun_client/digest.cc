#include "tools/stun_client/digest.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

namespace culvert::stun_client {
namespace {

struct MdCtxFree {
  void operator()(EVP_MD_CTX* ctx) const { EVP_MD_CTX_free(ctx); }
};
using MdCtx = std::unique_ptr<EVP_MD_CTX, MdCtxFree>;

// A tool without its digests can do nothing useful; say which one is missing and end.
[[noreturn]] void digest_missing(const char* name) {
  std::fprintf(stderr, "OpenSSL on this machine does not offer %s (is a FIPS provider in force?)\n",
               name);
  std::exit(1);
}

struct Algorithm {
  explicit Algorithm(const char* name) : md(EVP_MD_fetch(nullptr, name, nullptr)) {
    if (md == nullptr) digest_missing(name);
    ctx.reset(EVP_MD_CTX_new());
    if (ctx == nullptr) digest_missing(name);
  }
  Algorithm(const Algorithm&) = delete;
  Algorithm& operator=(const Algorithm&) = delete;
  ~Algorithm() { EVP_MD_free(md); }

  EVP_MD* md;
  MdCtx ctx;
};

Algorithm& algorithm(int which) {
  thread_local Algorithm md5_algorithm("MD5");
  thread_local Algorithm sha1_algorithm("SHA1");
  thread_local Algorithm sha256_algorithm("SHA256");
  if (which == 0) return md5_algorithm;
  return which == 1 ? sha1_algorithm : sha256_algorithm;
}

template <size_t kSize>
std::array<uint8_t, kSize> digest(Algorithm& a,
                                  std::initializer_list<std::span<const uint8_t>> parts) {
  std::array<uint8_t, kSize> out{};
  unsigned size = 0;
  bool ok = EVP_DigestInit_ex(a.ctx.get(), a.md, nullptr) == 1;
  for (const auto part : parts)
    ok = ok && EVP_DigestUpdate(a.ctx.get(), part.data(), part.size()) == 1;
  ok = ok && EVP_DigestFinal_ex(a.ctx.get(), out.data(), &size) == 1;
  if (!ok || size != kSize) digest_missing(EVP_MD_get0_name(a.md));
  return out;
}

constexpr size_t kHmacBlock = 64;  // block size of MD5, SHA-1 and SHA-256 (RFC 2104)

// HMAC by its definition, RFC 2104: H(K ^ opad, H(K ^ ipad, text)).
template <size_t kSize>
std::array<uint8_t, kSize> hmac(Algorithm& a, std::span<const uint8_t> key,
                                std::initializer_list<std::span<const uint8_t>> parts) {
  std::array<uint8_t, kHmacBlock> block{};
  if (key.size() > kHmacBlock) {
    const auto hashed = digest<kSize>(a, {key});
    std::memcpy(block.data(), hashed.data(), hashed.size());
  } else if (!key.empty()) {
    std::memcpy(block.data(), key.data(), key.size());
  }
  std::array<uint8_t, kHmacBlock> inner_pad;
  std::array<uint8_t, kHmacBlock> outer_pad;
  for (size_t i = 0; i < kHmacBlock; ++i) {
    inner_pad[i] = block[i] ^ 0x36;
    outer_pad[i] = block[i] ^ 0x5c;
  }
  std::array<uint8_t, kSize> inner{};
  unsigned size = 0;
  bool ok = EVP_DigestInit_ex(a.ctx.get(), a.md, nullptr) == 1 &&
            EVP_DigestUpdate(a.ctx.get(), inner_pad.data(), kHmacBlock) == 1;
  for (const auto part : parts)
    ok = ok && EVP_DigestUpdate(a.ctx.get(), part.data(), part.size()) == 1;
  ok = ok && EVP_DigestFinal_ex(a.ctx.get(), inner.data(), &size) == 1;
  if (!ok) digest_missing(EVP_MD_get0_name(a.md));
  return digest<kSize>(a, {outer_pad, inner});
}

std::span<const uint8_t> as_bytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

template <size_t kSize>
std::array<uint8_t, kSize> digest_text(Algorithm& a,
                                       std::initializer_list<std::string_view> parts) {
  std::string joined;
  for (const auto part : parts)
    joined.append(part);
  return digest<kSize>(a, {as_bytes(joined)});
}

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit)
      value = (value >> 1) ^ ((value & 1u) ? 0xedb88320u : 0u);
    table[i] = value;
  }
  return table;
}
constexpr auto kCrcTable = make_crc_table();

}  // namespace

Md5 md5(std::initializer_list<std::string_view> parts) {
  return digest_text<16>(algorithm(0), parts);
}

Sha256 sha256(std::initializer_list<std::string_view> parts) {
  return digest_text<32>(algorithm(2), parts);
}

Sha1 hmac_sha1(std::span<const uint8_t> key,
               std::initializer_list<std::span<const uint8_t>> parts) {
  return hmac<20>(algorithm(1), key, parts);
}

Sha256 hmac_sha256(std::span<const uint8_t> key,
                   std::initializer_list<std::span<const uint8_t>> parts) {
  return hmac<32>(algorithm(2), key, parts);
}

uint32_t crc32(std::span<const uint8_t> data) {
  uint32_t crc = 0xffffffffu;
  for (const uint8_t byte : data)
    crc = (crc >> 8) ^ kCrcTable[(crc ^ byte) & 0xffu];
  return ~crc;
}

bool equal_constant_time(std::span<const uint8_t> a, std::span<const uint8_t> b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace culvert::stun_client
