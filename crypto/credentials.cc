#include "crypto/credentials.h"

#include <openssl/err.h>
#include <openssl/evp.h>

#include <charconv>
#include <initializer_list>
#include <limits>
#include <memory>
#include <stdexcept>

#include "crypto/bytes.h"
#include "dataplane/base/assert.h"

namespace culvert::crypto {

namespace {

struct FreeDigest {
  void operator()(EVP_MD* digest) const { EVP_MD_free(digest); }
};
struct FreeContext {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

// One fetched digest and context, as Hmac does it and for the same reason.
class Digest {
 public:
  explicit Digest(const char* name)
      : digest_(EVP_MD_fetch(nullptr, name, nullptr)), context_(EVP_MD_CTX_new()) {
    // Fetching is where a FIPS configuration refuses MD5.
    if (digest_ != nullptr && context_ != nullptr) return;
    char reason[256];
    ERR_error_string_n(ERR_get_error(), reason, sizeof reason);
    throw std::runtime_error(std::string(name) + " is not available from libcrypto (" + reason +
                             "). TURN's long-term keys need it (RFC 8489 section 18.5.1); in FIPS "
                             "mode, load the default "
                             "provider beside the FIPS one.");
  }

  // The parts with ':' between them.
  template <size_t Bytes>
  [[nodiscard]] std::array<uint8_t, Bytes> joined(std::initializer_list<std::string_view> parts) {
    ENSURE(EVP_DigestInit_ex2(context_.get(), digest_.get(), nullptr) == 1);
    bool first = true;
    for (const std::string_view part : parts) {
      if (!first) ENSURE(EVP_DigestUpdate(context_.get(), ":", 1) == 1);
      first = false;
      ENSURE(EVP_DigestUpdate(context_.get(), part.data(), part.size()) == 1);
    }
    std::array<uint8_t, Bytes> out{};
    unsigned length = 0;
    ENSURE(static_cast<size_t>(EVP_MD_get_size(digest_.get())) == Bytes);
    ENSURE(EVP_DigestFinal_ex(context_.get(), out.data(), &length) == 1);
    return out;
  }

 private:
  std::unique_ptr<EVP_MD, FreeDigest> digest_;
  std::unique_ptr<EVP_MD_CTX, FreeContext> context_;
};

[[nodiscard]] Digest& md5() {
  static thread_local Digest digest("MD5");
  return digest;
}
[[nodiscard]] Digest& sha256() {
  static thread_local Digest digest("SHA256");
  return digest;
}
[[nodiscard]] Hmac& rest_hmac(HashKind kind) {
  static thread_local Hmac sha1_hmac(HashKind::kSha1);
  static thread_local Hmac sha256_hmac(HashKind::kSha256);
  return kind == HashKind::kSha1 ? sha1_hmac : sha256_hmac;
}

}  // namespace

void require_digests() {
  (void)md5();
  (void)sha256();
  (void)rest_hmac(HashKind::kSha1);
}

std::array<uint8_t, 16> md5_key(std::string_view user, std::string_view realm,
                                std::string_view password) {
  return md5().joined<16>({user, realm, password});
}

std::array<uint8_t, 32> sha256_key(std::string_view user, std::string_view realm,
                                   std::string_view password) {
  return sha256().joined<32>({user, realm, password});
}

std::array<uint8_t, 32> userhash(std::string_view user, std::string_view realm) {
  return sha256().joined<32>({user, realm});
}

std::string rest_password(std::string_view secret, std::string_view username, bool sha256) {
  Hmac& hmac = rest_hmac(sha256 ? HashKind::kSha256 : HashKind::kSha1);
  uint8_t mac[kSha256Bytes];
  hmac.compute(as_bytes(secret), as_bytes(username), {}, mac);
  return base64_encode({mac, hmac.size()});
}

std::optional<RestUsername> parse_rest_username(std::string_view username, char separator) {
  const size_t end = username.find(separator);
  const std::string_view digits = username.substr(0, end);
  RestUsername out;
  const auto [stop, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), out.expiry_unix_seconds);
  if (error != std::errc{} || stop != digits.data() + digits.size()) return std::nullopt;
  if (out.expiry_unix_seconds > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    return std::nullopt;
  if (end != std::string_view::npos) out.id = username.substr(end + 1);
  return out;
}

std::vector<RestCandidate> rest_candidates(std::span<const std::string> secrets,
                                           std::string_view username) {
  std::vector<RestCandidate> out;
  out.reserve(2 * secrets.size());
  for (size_t i = 0; i < secrets.size(); ++i)
    for (const HashKind hash : {HashKind::kSha1, HashKind::kSha256})
      out.push_back({i, hash, rest_password(secrets[i], username, hash == HashKind::kSha256)});
  return out;
}

MintedCredential mint_rest(std::string_view secret, uint64_t expiry_unix_seconds,
                           std::string_view id, HashKind hash, char separator) {
  MintedCredential out;
  out.username = std::to_string(expiry_unix_seconds);
  if (!id.empty()) {
    out.username += separator;
    out.username += id;
  }
  out.password = rest_password(secret, out.username, hash == HashKind::kSha256);
  return out;
}

}  // namespace culvert::crypto
