// The stateless nonce (RFC 8489 sections 9.2 and 18.1): "obMatJos2", four base64 characters with
// the 24 security feature bits, then 16 base64 characters of 12 bytes: time (4) and a keyed MAC (8)
// over realm, features, time and the client's transport address. Nothing is stored: whoever holds
// the keys can check it, and two clients never get the same one.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "dataplane/api/snapshot.h"
#include "dataplane/base/address.h"

namespace culvert {

inline constexpr size_t kNonceLength = 9 + 4 + 16;
using Nonce = std::array<char, kNonceLength>;

// STUN security feature bits (RFC 8489 section 18.1), bit 0 is the most significant of the 24.
inline constexpr uint32_t kFeaturePasswordAlgorithms = 1u << 23;
inline constexpr uint32_t kFeatureUsernameAnonymity = 1u << 22;

enum class NonceState : uint8_t { kValid, kStale, kForeign };

struct NonceCheck {
  NonceState state = NonceState::kForeign;
  uint32_t features = 0;  // as offered with this nonce; meaningful when kValid or kStale
};

[[nodiscard]] Nonce make_nonce(const NonceKeys& keys, uint16_t realm, uint32_t features,
                               const TransportAddress& client);
// kStale: ours but older than `lifetime_seconds`. kForeign: not ours, or for another client or
// realm.
[[nodiscard]] NonceCheck check_nonce(const NonceKeys& keys, uint16_t realm,
                                     const TransportAddress& client, std::span<const uint8_t> nonce,
                                     uint32_t lifetime_seconds);

}  // namespace culvert
