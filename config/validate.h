// The rules between keys, which no key can check alone. Three grades: what is contradictory
// (validate), what is missing before the relay can serve (check_complete), and what works but
// deserves a word (warnings). Pure functions.
#pragma once

#include <vector>

#include "config/config.h"
#include "config/diagnostic.h"

namespace culvert {

// `origins` says where keys were given, so that a message can name the line or flag.
[[nodiscard]] std::vector<Diagnostic> validate(const Config& config, const Origins& origins);
[[nodiscard]] std::vector<Diagnostic> check_complete(const Config& config, const Origins& origins);
[[nodiscard]] std::vector<Diagnostic> config_warnings(const Config& config, const Origins& origins);

[[nodiscard]] bool has_accounts(const RealmConfig& realm);

// Whether the realm sets the username-anonymity bit (RFC 8489 9.2), so that clients send USERHASH:
// only where every user can be enumerated. A user of a shared secret exists only in its own
// request.
[[nodiscard]] bool offers_userhash(const RealmConfig& realm);

// Bytes of the 401 to the shortest Allocate over IPv4, IP and UDP headers included, and what the
// reply ratio of 2.5 permits for it.
[[nodiscard]] size_t challenge_bytes(const RealmConfig& realm);
inline constexpr size_t kShortestAllocateBytes =
    20 + 8 + 20 + 8;  // IP, UDP, STUN header, transport
inline constexpr size_t kMaxChallengeBytes = kShortestAllocateBytes * kMaxReplyRatioTenths / 10;

}  // namespace culvert
