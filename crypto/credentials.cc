#include "crypto/credentials.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <utf8proc.h>

#include <cstdlib>
#include <memory>
#include <stdexcept>

#include "crypto/hmac.h"

namespace culvert::crypto {

namespace {

constexpr utf8proc_int32_t kSpace = 0x20;

// What PRECIS FreeformClass leaves out (RFC 8264 section 4.3.2).
[[nodiscard]] bool forbidden(utf8proc_int32_t c) {
  const utf8proc_property_t* property = utf8proc_get_property(c);
  switch (property->category) {
    case UTF8PROC_CATEGORY_CC:  // controls
    case UTF8PROC_CATEGORY_CN:  // unassigned and noncharacters
    case UTF8PROC_CATEGORY_CS:  // surrogates
      return true;
    default: break;
  }
  if (property->ignorable) return true;
  const bool old_jamo = (c >= 0x1100 && c <= 0x11FF) || (c >= 0xA960 && c <= 0xA97C) ||
                        (c >= 0xD7B0 && c <= 0xD7FB);
  return old_jamo;
}

using EvpContext = std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)>;

void digest(const EVP_MD* algorithm, const char* name, std::span<const std::string_view> parts,
            std::span<uint8_t> out) {
  const EvpContext context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  if (!context || EVP_DigestInit_ex(context.get(), algorithm, nullptr) != 1)
    throw std::runtime_error(std::string(name) + " is not available in this OpenSSL");
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i != 0) (void)EVP_DigestUpdate(context.get(), ":", 1);
    (void)EVP_DigestUpdate(context.get(), parts[i].data(), parts[i].size());
  }
  unsigned length = 0;
  if (EVP_DigestFinal_ex(context.get(), out.data(), &length) != 1 || length != out.size())
    throw std::runtime_error(std::string(name) + " failed");
}

[[nodiscard]] std::span<const uint8_t> as_bytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

}  // namespace

std::optional<std::string> opaque_string(std::string_view text) {
  const auto* at = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  auto left = static_cast<utf8proc_ssize_t>(text.size());
  std::string mapped;
  while (left > 0) {
    utf8proc_int32_t c = 0;
    const utf8proc_ssize_t used = utf8proc_iterate(at, left, &c);
    if (used <= 0) return std::nullopt;
    if (utf8proc_category(c) == UTF8PROC_CATEGORY_ZS) c = kSpace;
    if (forbidden(c)) return std::nullopt;
    utf8proc_uint8_t encoded[4];
    const utf8proc_ssize_t length = utf8proc_encode_char(c, encoded);
    mapped.append(reinterpret_cast<const char*>(encoded), static_cast<size_t>(length));
    at += used;
    left -= used;
  }
  utf8proc_uint8_t* composed = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(mapped.data()),
                   static_cast<utf8proc_ssize_t>(mapped.size()), &composed,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(composed, &std::free);
  if (length <= 0) return std::nullopt;
  return std::string(reinterpret_cast<const char*>(composed), static_cast<size_t>(length));
}

std::array<uint8_t, 16> md5_key(std::string_view user, std::string_view realm,
                                std::string_view password) {
  std::array<uint8_t, 16> out;
  const std::string_view parts[] = {user, realm, password};
  digest(EVP_md5(), "MD5", parts, out);
  return out;
}

std::array<uint8_t, 32> sha256_key(std::string_view user, std::string_view realm,
                                   std::string_view password) {
  std::array<uint8_t, 32> out;
  const std::string_view parts[] = {user, realm, password};
  digest(EVP_sha256(), "SHA-256", parts, out);
  return out;
}

std::array<uint8_t, 32> userhash(std::string_view user, std::string_view realm) {
  std::array<uint8_t, 32> out;
  const std::string_view parts[] = {user, realm};
  digest(EVP_sha256(), "SHA-256", parts, out);
  return out;
}

std::string rest_password(std::string_view secret, std::string_view username, bool sha256) {
  if (sha256) return base64(hmac_sha256(as_bytes(secret), as_bytes(username)));
  return base64(hmac_sha1(as_bytes(secret), as_bytes(username)));
}

std::string base64(std::span<const uint8_t> bytes) {
  std::string out(4 * ((bytes.size() + 2) / 3) + 1, '\0');  // EVP writes a terminator
  const int length = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()), bytes.data(),
                                     static_cast<int>(bytes.size()));
  out.resize(static_cast<size_t>(length));
  return out;
}

bool constant_time_equal(std::span<const uint8_t> a, std::span<const uint8_t> b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace culvert::crypto
