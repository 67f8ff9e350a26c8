// Long-term credentials (RFC 8489 section 9.2): user, password, and the keys made from them for a
// realm. Keys are cached because tens of thousands of clients of one test share one user. Strings
// must already be in the form OpaqueString asks for (any ASCII is). Not for use by two threads.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "tools/stun_client/digest.h"
#include "tools/stun_client/message.h"

namespace culvert::stun_client {

// MD5 or SHA-256 of "user:realm:password" (RFC 8489 sections 9.2.2 and 18.5).
[[nodiscard]] Key long_term_key(PasswordAlgorithm algorithm, std::string_view user,
                                std::string_view realm, std::string_view password);
// SHA-256 of "user:realm" (section 14.4).
[[nodiscard]] Sha256 userhash(std::string_view user, std::string_view realm);

class Credentials {
 public:
  Credentials(std::string user, std::string password)
      : user_(std::move(user)), password_(std::move(password)) {}

  [[nodiscard]] const std::string& user() const { return user_; }
  [[nodiscard]] const Key& key(PasswordAlgorithm algorithm, const std::string& realm);
  [[nodiscard]] const Sha256& hashed_user(const std::string& realm);

 private:
  std::string user_;
  std::string password_;
  std::map<std::pair<PasswordAlgorithm, std::string>, Key> keys_;
  std::map<std::string, Sha256> userhashes_;
};

}  // namespace culvert::stun_client
