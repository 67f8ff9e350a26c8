#include "tools/stun_client/credentials.h"

namespace culvert::stun_client {

Key long_term_key(PasswordAlgorithm algorithm, std::string_view user, std::string_view realm,
                  std::string_view password) {
  if (algorithm == PasswordAlgorithm::kSha256) {
    const auto digest = sha256({user, ":", realm, ":", password});
    return {digest.begin(), digest.end()};
  }
  const auto digest = md5({user, ":", realm, ":", password});
  return {digest.begin(), digest.end()};
}

Sha256 userhash(std::string_view user, std::string_view realm) {
  return sha256({user, ":", realm});
}

const Key& Credentials::key(PasswordAlgorithm algorithm, const std::string& realm) {
  const auto [at, is_new] = keys_.try_emplace({algorithm, realm});
  if (is_new) at->second = long_term_key(algorithm, user_, realm, password_);
  return at->second;
}

const Sha256& Credentials::hashed_user(const std::string& realm) {
  const auto [at, is_new] = userhashes_.try_emplace(realm);
  if (is_new) at->second = userhash(user_, realm);
  return at->second;
}

}  // namespace culvert::stun_client
