// Long-term credential keys (RFC 8489 sections 9.2.2 and 18.5), USERHASH (14.4), the OpaqueString profile
// (RFC 8265) and the time-limited passwords of the TURN REST convention.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace culvert::crypto {

// OpaqueString enforcement (RFC 8265 section 4.2.2): non-ASCII spaces become U+0020, then NFC. nullopt:
// empty, not UTF-8, or with characters the profile forbids (controls, unassigned, ignorable, old jamo).
[[nodiscard]] std::optional<std::string> opaque_string(std::string_view text);

// The arguments have passed opaque_string(). MD5 throws std::runtime_error where OpenSSL runs in a mode that
// forbids it (FIPS).
[[nodiscard]] std::array<uint8_t, 16> md5_key(std::string_view user, std::string_view realm,
                                              std::string_view password);
[[nodiscard]] std::array<uint8_t, 32> sha256_key(std::string_view user, std::string_view realm,
                                                 std::string_view password);
[[nodiscard]] std::array<uint8_t, 32> userhash(std::string_view user, std::string_view realm);

// base64(HMAC-SHA1(secret, username)), or with SHA-256.
[[nodiscard]] std::string rest_password(std::string_view secret, std::string_view username,
                                        bool sha256);

[[nodiscard]] std::string base64(std::span<const uint8_t> bytes);

// Takes the same time wherever the first difference lies.
[[nodiscard]] bool constant_time_equal(std::span<const uint8_t> a, std::span<const uint8_t> b);

}  // namespace culvert::crypto
