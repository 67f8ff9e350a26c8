// The digests a STUN client needs, over OpenSSL's EVP. This folder and `crypto` are the only places
// that include OpenSSL; the tools do not share `crypto` so that a mistake there is seen from here.
// Contexts are cached per thread, because OpenSSL 3.0 looks its algorithms up on every one-shot
// call.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>

namespace culvert::stun_client {

using Md5 = std::array<uint8_t, 16>;
using Sha1 = std::array<uint8_t, 20>;
using Sha256 = std::array<uint8_t, 32>;

// The parts are hashed one after the other, as if they were one string.
[[nodiscard]] Md5 md5(std::initializer_list<std::string_view> parts);
[[nodiscard]] Sha256 sha256(std::initializer_list<std::string_view> parts);
[[nodiscard]] Sha1 hmac_sha1(std::span<const uint8_t> key,
                             std::initializer_list<std::span<const uint8_t>> parts);
[[nodiscard]] Sha256 hmac_sha256(std::span<const uint8_t> key,
                                 std::initializer_list<std::span<const uint8_t>> parts);
// CRC-32 of ITU V.42 (the one of zip), before FINGERPRINT's XOR.
[[nodiscard]] uint32_t crc32(std::span<const uint8_t> data);
// Compares in a time that depends on the sizes only.
[[nodiscard]] bool equal_constant_time(std::span<const uint8_t> a, std::span<const uint8_t> b);

}  // namespace culvert::stun_client
