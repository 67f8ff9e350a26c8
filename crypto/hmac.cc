#include "crypto/hmac.h"

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include <cstring>
#include <stdexcept>
#include <string>

#include "crypto/bytes.h"
#include "dataplane/base/assert.h"

namespace culvert::crypto {

void Hmac::Free::operator()(evp_mac_ctx_st* context) const {
  EVP_MAC_CTX_free(context);
}

Hmac::Hmac(HashKind kind) : kind_(kind) {
  const std::string digest = kind == HashKind::kSha1 ? "SHA1" : "SHA256";
  EVP_MAC* mac = EVP_MAC_fetch(nullptr, "HMAC", nullptr);
  if (mac != nullptr) context_.reset(EVP_MAC_CTX_new(mac));
  EVP_MAC_free(mac);  // the context holds its own reference
  std::string name = digest;
  OSSL_PARAM params[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, name.data(), name.size()),
      OSSL_PARAM_construct_end()};
  if (context_ == nullptr || EVP_MAC_CTX_set_params(context_.get(), params) != 1) {
    char reason[256];
    ERR_error_string_n(ERR_get_error(), reason, sizeof reason);
    throw std::runtime_error("HMAC-" + digest + " is not available from libcrypto: " + reason);
  }
}

Hmac::~Hmac() {
  wipe(last_key_.data(), last_key_.size());
}

void Hmac::set_key(std::span<const uint8_t> key) {
  const bool same = keyed_ && constant_time_equal(key, {last_key_.data(), last_key_length_});
  static constexpr uint8_t kEmpty = 0;
  const uint8_t* bytes = key.empty() ? &kEmpty : key.data();  // a null key means "the last one"
  // After the algorithm was fetched only an exhausted heap can fail here, and an unsigned answer or
  // an unchecked request must not come of it.
  ENSURE(EVP_MAC_init(context_.get(), same ? nullptr : bytes, same ? 0 : key.size(), nullptr) == 1);
  if (same) return;
  keyed_ = key.size() <= kBlockBytes;
  if (!keyed_) return;
  if (!key.empty()) std::memcpy(last_key_.data(), key.data(), key.size());
  last_key_length_ = key.size();
}

void Hmac::compute(std::span<const uint8_t> key, std::span<const uint8_t> first,
                   std::span<const uint8_t> second, uint8_t* out) {
  set_key(key);
  EVP_MAC_CTX* context = context_.get();
  size_t written = 0;
  ENSURE(first.empty() || EVP_MAC_update(context, first.data(), first.size()) == 1);
  ENSURE(second.empty() || EVP_MAC_update(context, second.data(), second.size()) == 1);
  ENSURE(EVP_MAC_final(context, out, &written, size()) == 1 && written == size());
}

}  // namespace culvert::crypto
