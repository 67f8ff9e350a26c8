// Long-term credentials as RFC 8489 section 9.2.4 orders their checks: 400 for what is missing, the
// PASSWORD-ALGORITHM checks against bidding down, 401 for an unknown user or wrong integrity, and
// the nonce last. Users come from the configuration, from stored accounts, or from a shared secret
// (the TURN REST convention: username "expiry:name", password base64(HMAC(secret, username)) by
// SHA-1 or SHA-256).
//
// A time-limited credential that has expired is refused with 401 for everything but requests on an
// allocation that the same username made while it was good: a call must not end because its
// password did (draft-uberti-behave-turn-rest-00 section 2.2); taking the secret away ends those
// too.
//
// No oracle: an unknown user costs the same HMAC, against a key nobody knows, as a known one. State
// is made only after integrity was right: the derived keys of a time-limited user, those of the
// password seen last. Cost: one HMAC; under a time-limited name whose keys are not kept, or that
// comes with another of its passwords, at most kMaxTimedCandidates derivations.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"
#include "control/accounts.h"
#include "control/users.h"
#include "dataplane/api/nonce.h"
#include "dataplane/wire/stun.h"

namespace culvert::crypto {
class Random;
}

namespace culvert {

// Passwords that one shared secret gives one username: by SHA-1 and by SHA-256.
inline constexpr size_t kHashesPerSecret = 2;
// What a request with a time-limited username costs at most, right or wrong: 2 secrets * 2 hashes.
inline constexpr size_t kMaxTimedCandidates = kMaxSecretsPerRealm * kHashesPerSecret;

// A realm as it is served now.
struct RealmState {
  std::string name;
  std::shared_ptr<const StoredAccounts> configured;
  std::shared_ptr<const StoredAccounts> stored;  // may be null
  std::vector<std::string> secrets;
  uint32_t secrets_epoch = 1;  // grows when the secrets change: derived keys of before are void
  uint32_t user_quota = 0;
  uint64_t user_bandwidth = 0;
  uint32_t features = 0;
  std::vector<PasswordAlgorithm> algorithms;
  std::vector<uint8_t> realm_attribute;       // encoded
  std::vector<uint8_t> algorithms_attribute;  // encoded, or empty

  [[nodiscard]] const StoredAccount* find(std::string_view name) const;
  [[nodiscard]] const StoredAccount* find(const Userhash& userhash) const;
};

// The key of an HMAC: MD5 (16 bytes) or SHA-256 (32) of user, realm and password.
struct IntegrityKey {
  std::array<uint8_t, 32> bytes{};
  uint8_t length = 0;
  [[nodiscard]] std::span<const uint8_t> span() const { return {bytes.data(), length}; }
};
[[nodiscard]] IntegrityKey integrity_key(const Md5Key& md5, const Sha256Key& sha256,
                                         PasswordAlgorithm algorithm);

// Which integrity attribute and key answers carry (RFC 8489 section 9.2.4).
struct ResponseIntegrity {
  IntegrityKey key;
  bool sha256 = false;  // MESSAGE-INTEGRITY-SHA256, else MESSAGE-INTEGRITY
};

// Whether the integrity attribute of a message (MESSAGE-INTEGRITY-SHA256 if there, else
// MESSAGE-INTEGRITY) was made with this key. Constant time in the bytes compared.
[[nodiscard]] bool integrity_holds(const stun::Message& message, const IntegrityKey& key);

// Appends the integrity attribute (and nothing behind it).
void add_integrity(stun::Builder& builder, const ResponseIntegrity& integrity);

struct AuthResult {
  uint16_t error = 0;           // 0: authenticated; 400, 401 or 438
  ResponseIntegrity integrity;  // when authenticated
  std::string_view username;    // views into the request or the realm's accounts
  std::string_view account;
};

class Authenticator {
 public:
  Authenticator(UserTable& users, crypto::Random& random);

  // `nonce`: what check_nonce() says of the request's NONCE with today's keys; `nonce_valid`:
  // whether the core found it valid when the request came (keys may have turned since).
  // `live_user`: who made the allocation on this 5-tuple, or kNoUser.
  [[nodiscard]] AuthResult check(const stun::Message& request, const RealmState& realm,
                                 uint16_t realm_index, const NonceCheck& nonce, bool nonce_valid,
                                 UserId live_user, uint64_t unix_seconds);

  // By which of a user's keys, and with which attribute, an answer of ours was signed that was then
  // not sent: for its replacement, made when its request is gone. Nothing: the user is gone since.
  [[nodiscard]] std::optional<ResponseIntegrity> signature_of(const stun::Message& unsent,
                                                              UserId user,
                                                              const RealmState& realm) const;

 private:
  struct Candidate;
  [[nodiscard]] bool verify_timed(const stun::Message& request, const RealmState& realm,
                                  uint16_t realm_index, const Candidate& who,
                                  PasswordAlgorithm algorithm, AuthResult& out);

  [[nodiscard]] static size_t timed_candidates(const RealmState& realm) {
    return realm.secrets.size() * kHashesPerSecret;
  }
  [[nodiscard]] static bool derive_candidate(const RealmState& realm, std::string_view username,
                                             size_t candidate, StoredAccount& out);

  UserTable& users_;
  Md5Key dummy_md5_{};
  Sha256Key dummy_sha256_{};
};

}  // namespace culvert
