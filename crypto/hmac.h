// HMAC by OpenSSL's EVP_MAC, one re-keyed context per thread and digest: a fresh context, or the one-shot
// HMAC(), costs two to five times as much (architecture.md 5.16). Internal to crypto/.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace culvert::crypto {

using Sha1Mac = std::array<uint8_t, 20>;
using Sha256Mac = std::array<uint8_t, 32>;

// The MAC of `first` followed by `second`. Throws std::runtime_error when OpenSSL refuses the digest.
[[nodiscard]] Sha1Mac hmac_sha1(std::span<const uint8_t> key, std::span<const uint8_t> first,
                                std::span<const uint8_t> second = {});
[[nodiscard]] Sha256Mac hmac_sha256(std::span<const uint8_t> key, std::span<const uint8_t> first,
                                    std::span<const uint8_t> second = {});

}  // namespace culvert::crypto
