// MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256 of STUN messages (RFC 8489 sections 14.5 and 14.6).
#pragma once

#include <cstdint>
#include <span>

#include "dataplane/wire/stun.h"

namespace culvert::crypto {

// Whether the message's integrity was made with `key`: MESSAGE-INTEGRITY-SHA256 when it is there, else
// MESSAGE-INTEGRITY (turn.md row 33). TURN allows no truncation: SHA-256 must have all 32 bytes (row 17).
// False also when neither is there. Constant time in the bytes compared.
[[nodiscard]] bool verify_integrity(const stun::Message& message, std::span<const uint8_t> key);

// Appends the attribute; only MESSAGE-INTEGRITY-SHA256 (after the first) and FINGERPRINT may follow.
void add_integrity(stun::Builder& builder, std::span<const uint8_t> key);
void add_integrity_sha256(stun::Builder& builder, std::span<const uint8_t> key);

}  // namespace culvert::crypto
