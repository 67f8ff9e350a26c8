#include "control/auth.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "crypto/credentials.h"
#include "crypto/random.h"
#include "crypto/stun_integrity.h"

namespace culvert {

using stun::AttributeSlot;

namespace {

// What a request says about algorithms (RFC 8489 section 9.2.4).
struct AlgorithmChoice {
  bool ok = true;  // false: 400
  PasswordAlgorithm algorithm = PasswordAlgorithm::kMd5;
  bool sha256_response = false;  // it was not processed "as though MD5"
};

// Whether the nonce says that algorithms were offered with it. Read from the cookie's text, also of
// nonces we cannot verify: those end in 438 in any case, but the checks before must come first.
[[nodiscard]] bool cookie_offers_algorithms(std::span<const uint8_t> nonce) {
  static constexpr std::string_view kCookie = "obMatJos2";
  if (nonce.size() < kCookie.size() + 4) return false;
  if (!std::equal(kCookie.begin(), kCookie.end(), nonce.begin())) return false;
  // Bit 0 is the highest of the first base64 character's six: 'g' (32) and above.
  const uint8_t c = nonce[kCookie.size()];
  return (c >= 'g' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '/';
}

[[nodiscard]] AlgorithmChoice choose_algorithm(const stun::Message& request,
                                               const RealmState& realm, const NonceCheck& nonce) {
  AlgorithmChoice out;
  if (!cookie_offers_algorithms(request.value(AttributeSlot::kNonce))) return out;
  const bool has_list = request.has(AttributeSlot::kPasswordAlgorithms);
  const bool has_choice = request.has(AttributeSlot::kPasswordAlgorithm);
  if (!has_list && !has_choice) return out;
  out.ok = false;
  if (!has_list || !has_choice) return out;

  const auto list = request.value(AttributeSlot::kPasswordAlgorithms);
  const auto choice = request.value(AttributeSlot::kPasswordAlgorithm);
  // What was sent with a nonce of ours is what we offer now (new offers come with new nonce keys).
  // What was sent with a stranger's nonce nobody knows.
  const auto offered = std::span(realm.algorithms_attribute);
  const bool ours = nonce.state != NonceState::kForeign;
  if (ours && (offered.size() < 4 ||
               !std::equal(list.begin(), list.end(), offered.begin() + 4, offered.end())))
    return out;
  // Neither MD5 nor SHA-256 has parameters.
  if (choice.size() != 4 || load_be16(choice.data() + 2) != 0) return out;
  const uint16_t wanted = load_be16(choice.data());
  for (const PasswordAlgorithm algorithm : realm.algorithms) {
    if (static_cast<uint16_t>(algorithm) != wanted) continue;
    out.ok = true;
    out.algorithm = algorithm;
    out.sha256_response = true;
  }
  return out;
}

[[nodiscard]] std::string_view as_text(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

const StoredAccount* RealmState::find(std::string_view user) const {
  const StoredAccount* found = configured ? configured->find(user) : nullptr;
  return found == nullptr && stored ? stored->find(user) : found;
}

const StoredAccount* RealmState::find(const Userhash& userhash) const {
  const StoredAccount* found = configured ? configured->find(userhash) : nullptr;
  return found == nullptr && stored ? stored->find(userhash) : found;
}

IntegrityKey integrity_key(const Md5Key& md5, const Sha256Key& sha256,
                           PasswordAlgorithm algorithm) {
  IntegrityKey out;
  if (algorithm == PasswordAlgorithm::kMd5) {
    std::copy(md5.begin(), md5.end(), out.bytes.begin());
    out.length = static_cast<uint8_t>(md5.size());
  } else {
    out.bytes = sha256;
    out.length = static_cast<uint8_t>(sha256.size());
  }
  return out;
}

Authenticator::Authenticator(UserTable& users, crypto::Random& random) : users_(users) {
  random.fill(dummy_md5_);
  random.fill(dummy_sha256_);
}

// A username that names itself and when it ends.
struct Authenticator::Candidate {
  std::string_view username;
  TimedName timed;
};

// The candidates of a shared-secret username: by each secret SHA-1 first, which is what services
// mint. Derives the account of one of them. False: there is no such account (OpaqueString).
bool Authenticator::derive_candidate(const RealmState& realm, std::string_view username,
                                     size_t candidate, StoredAccount& out) {
  const bool sha256 = candidate % 2 != 0;
  const std::string password =
      crypto::rest_password(realm.secrets[candidate / 2], username, sha256);
  return make_account(username, realm.name, password, out);
}

bool Authenticator::verify_timed(const stun::Message& request, const RealmState& realm,
                                 uint16_t realm_index, const Candidate& who,
                                 PasswordAlgorithm algorithm, AuthResult& out) {
  const UserId known = users_.find(realm_index, who.username);
  const bool kept = known != kNoUser && users_[known].has_derived_keys &&
                    users_[known].secrets_epoch == realm.secrets_epoch;
  if (kept) {
    const User& user = users_[known];
    out.integrity.key = integrity_key(user.md5_key, user.sha256_key, algorithm);
    if (integrity_holds(request, out.integrity.key)) return true;
  }
  // One username may be minted by SHA-1 and by SHA-256, and by either secret while they are being
  // changed; all of those passwords are good at once. So a mismatch with the kept keys tries the
  // others: no dearer for us than a wrong password under a name that we keep nothing of.
  for (size_t i = 0; i < timed_candidates(realm); ++i) {
    if (kept && users_[known].derived_candidate == i) continue;
    StoredAccount account;
    if (!derive_candidate(realm, who.username, i, account)) return false;
    out.integrity.key = integrity_key(account.md5_key, account.sha256_key, algorithm);
    if (!integrity_holds(request, out.integrity.key)) continue;
    User& user = users_[users_.obtain(realm_index, who.username, who.timed.account)];
    user.has_derived_keys = true;
    static_assert(kMaxTimedCandidates <= std::numeric_limits<uint8_t>::max());
    user.derived_candidate = static_cast<uint8_t>(i);
    user.secrets_epoch = realm.secrets_epoch;
    user.md5_key = account.md5_key;
    user.sha256_key = account.sha256_key;
    return true;
  }
  return false;
}

AuthResult Authenticator::check(const stun::Message& request, const RealmState& realm,
                                uint16_t realm_index, const NonceCheck& nonce, bool nonce_valid,
                                UserId live_user, uint64_t unix_seconds) {
  AuthResult out;
  const bool named = request.has(AttributeSlot::kUsername) || request.has(AttributeSlot::kUserhash);
  if (!named || !request.has(AttributeSlot::kRealm) || !request.has(AttributeSlot::kNonce)) {
    out.error = 400;
    return out;
  }
  const AlgorithmChoice choice = choose_algorithm(request, realm, nonce);
  if (!choice.ok) {
    out.error = 400;
    return out;
  }

  const StoredAccount* account = nullptr;
  Candidate timed;
  if (request.has(AttributeSlot::kUsername)) {
    out.username = as_text(request.value(AttributeSlot::kUsername));
    account = realm.find(out.username);
    if (account == nullptr && !realm.secrets.empty())
      timed = {out.username, parse_timed_name(out.username)};
    const bool live = live_user != kNoUser && users_[live_user].name == out.username &&
                      users_[live_user].realm == realm_index;
    if (timed.timed.expires_unix_seconds <= unix_seconds && !live) timed.timed.valid = false;
  } else {
    const auto hash = request.value(AttributeSlot::kUserhash);
    Userhash key{};
    if (hash.size() == key.size() && (realm.features & kFeatureUsernameAnonymity) != 0) {
      std::copy(hash.begin(), hash.end(), key.begin());
      account = realm.find(key);
    }
    if (account != nullptr) out.username = account->name;
  }
  out.account = out.username;
  const bool right_realm = as_text(request.value(AttributeSlot::kRealm)) == realm.name;

  bool holds = false;
  if (account == nullptr && timed.timed.valid) {
    out.account = timed.timed.account;
    holds = verify_timed(request, realm, realm_index, timed, choice.algorithm, out);
  } else {
    out.integrity.key = account != nullptr
                            ? integrity_key(account->md5_key, account->sha256_key, choice.algorithm)
                            : integrity_key(dummy_md5_, dummy_sha256_, choice.algorithm);
    holds = integrity_holds(request, out.integrity.key) && account != nullptr;
  }
  if (!holds || !right_realm) {
    out.error = 401;
  } else if (!nonce_valid && nonce.state != NonceState::kValid) {
    out.error = 438;
  }
  out.integrity.sha256 = choice.sha256_response;
  return out;
}

std::optional<ResponseIntegrity> Authenticator::signature_of(const stun::Message& unsent, UserId id,
                                                             const RealmState& realm) const {
  ResponseIntegrity out;
  out.sha256 = unsent.has(AttributeSlot::kMessageIntegritySha256);
  const auto made_with = [&](const Md5Key& md5, const Sha256Key& sha256) {
    for (const auto algorithm : {PasswordAlgorithm::kMd5, PasswordAlgorithm::kSha256}) {
      out.key = integrity_key(md5, sha256, algorithm);
      if (integrity_holds(unsent, out.key)) return true;
    }
    return false;
  };
  const User& user = users_[id];
  if (const StoredAccount* account = realm.find(user.name))
    return made_with(account->md5_key, account->sha256_key) ? std::optional(out) : std::nullopt;
  if (!user.has_derived_keys) return std::nullopt;
  if (made_with(user.md5_key, user.sha256_key)) return out;
  for (size_t i = 0; i < timed_candidates(realm); ++i) {
    StoredAccount account;
    if (!derive_candidate(realm, user.name, i, account)) break;
    if (made_with(account.md5_key, account.sha256_key)) return out;
  }
  return std::nullopt;
}

bool integrity_holds(const stun::Message& message, const IntegrityKey& key) {
  return crypto::verify_integrity(message, key.span());
}

void add_integrity(stun::Builder& builder, const ResponseIntegrity& integrity) {
  if (integrity.sha256)
    crypto::add_integrity_sha256(builder, integrity.key.span());
  else
    crypto::add_integrity(builder, integrity.key.span());
}

}  // namespace culvert
