#include "crypto/hmac.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include <memory>
#include <stdexcept>
#include <string>

namespace culvert::crypto {

namespace {

class KeyedMac {
 public:
  explicit KeyedMac(const char* digest) {
    // Fetched once per thread: a fetch takes locks.
    const std::unique_ptr<EVP_MAC, decltype(&EVP_MAC_free)> mac(
        EVP_MAC_fetch(nullptr, "HMAC", nullptr), &EVP_MAC_free);
    if (mac) context_ = EVP_MAC_CTX_new(mac.get());
    std::string name = digest;
    const OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, name.data(), 0),
        OSSL_PARAM_construct_end()};
    if (context_ == nullptr || EVP_MAC_CTX_set_params(context_, parameters) != 1)
      throw std::runtime_error(name + " is not available in this OpenSSL");
  }
  ~KeyedMac() { EVP_MAC_CTX_free(context_); }
  KeyedMac(const KeyedMac&) = delete;
  KeyedMac& operator=(const KeyedMac&) = delete;

  void compute(std::span<const uint8_t> key, std::span<const uint8_t> first,
               std::span<const uint8_t> second, std::span<uint8_t> out) {
    size_t length = 0;
    const bool ok = EVP_MAC_init(context_, key.data(), key.size(), nullptr) == 1 &&
                    EVP_MAC_update(context_, first.data(), first.size()) == 1 &&
                    EVP_MAC_update(context_, second.data(), second.size()) == 1 &&
                    EVP_MAC_final(context_, out.data(), &length, out.size()) == 1;
    if (!ok || length != out.size()) throw std::runtime_error("OpenSSL HMAC failed");
  }

 private:
  EVP_MAC_CTX* context_ = nullptr;
};

}  // namespace

Sha1Mac hmac_sha1(std::span<const uint8_t> key, std::span<const uint8_t> first,
                  std::span<const uint8_t> second) {
  thread_local KeyedMac mac("SHA1");
  Sha1Mac out;
  mac.compute(key, first, second, out);
  return out;
}

Sha256Mac hmac_sha256(std::span<const uint8_t> key, std::span<const uint8_t> first,
                      std::span<const uint8_t> second) {
  thread_local KeyedMac mac("SHA256");
  Sha256Mac out;
  mac.compute(key, first, second, out);
  return out;
}

}  // namespace culvert::crypto
