// Keys from names and passwords: the OpaqueString profile (RFC 8265 section 4.2), long-term keys
// (RFC 8489 sections 9.2.2 and 18.5.1), USERHASH (section 14.4), and time-limited credentials by
// shared secret (the TURN REST convention, draft-uberti-behave-turn-rest-00). Control and tools
// only, never fast cores.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "crypto/hmac.h"

namespace culvert::crypto {

// Throws std::runtime_error with a sentence for the operator when libcrypto lacks a digest the
// relay needs (MD5 in FIPS mode). Call at start: the functions below throw the same at first use
// otherwise.
void require_digests();

// OpaqueString: spaces other than U+0020 become U+0020, then NFC. nullopt: empty, not UTF-8, or a
// code point outside PRECIS FreeformClass (controls, unassigned, private use, ignorable, joiners
// out of context).
[[nodiscard]] std::optional<std::string> opaque_string(std::string_view text);

// The three arguments as OpaqueString leaves them; the functions do not apply it again.
[[nodiscard]] std::array<uint8_t, 16> md5_key(std::string_view user, std::string_view realm,
                                              std::string_view password);
[[nodiscard]] std::array<uint8_t, 32> sha256_key(std::string_view user, std::string_view realm,
                                                 std::string_view password);
[[nodiscard]] std::array<uint8_t, 32> userhash(std::string_view user, std::string_view realm);

// base64(HMAC(secret, username)), by SHA-1 as the convention says or by SHA-256.
[[nodiscard]] std::string rest_password(std::string_view secret, std::string_view username,
                                        bool sha256);

// A username of the convention, "expiry" or "expiry:id".
struct RestUsername {
  uint64_t expiry_unix_seconds = 0;
  std::string_view id;  // empty without a separator; a view into the text parsed
};
// nullopt: it does not begin with decimal digits that end at the separator or the end, or above
// 2^63.
[[nodiscard]] std::optional<RestUsername> parse_rest_username(std::string_view username,
                                                              char separator = ':');

// One password a REST username may have come with.
struct RestCandidate {
  size_t secret = 0;  // index of the secret
  HashKind hash = HashKind::kSha1;
  std::string password;
};
// Every secret by both hashes, in the order in which they should be tried: secrets as given (new
// before old), SHA-1 first because that is what services mint.
[[nodiscard]] std::vector<RestCandidate> rest_candidates(std::span<const std::string> secrets,
                                                         std::string_view username);

struct MintedCredential {
  std::string username;
  std::string password;
};
// `id` may be empty. The caller knows the time: expiry is absolute, in Unix seconds.
[[nodiscard]] MintedCredential mint_rest(std::string_view secret, uint64_t expiry_unix_seconds,
                                         std::string_view id, HashKind hash = HashKind::kSha1,
                                         char separator = ':');

}  // namespace culvert::crypto
