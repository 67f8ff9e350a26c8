// MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256 (RFC 8489 sections 14.5 and 14.6). The key is the
// long-term key (credentials.h), or a password's bytes for short-term credentials. Comparison takes
// constant time. StunIntegrity holds its contexts; the free functions use one instance per thread,
// made at first use. Never called from fast cores.
#pragma once

#include <cstdint>
#include <span>

#include "crypto/hmac.h"
#include "dataplane/wire/stun.h"

namespace culvert::crypto {

class StunIntegrity {
 public:
  // Throws std::runtime_error when libcrypto lacks HMAC-SHA1 or HMAC-SHA256.
  StunIntegrity();

  // MESSAGE-INTEGRITY-SHA256 when the message has one, else MESSAGE-INTEGRITY (section 9.2.4).
  // False also when it has neither, when the attribute's length is not the full 20 or 32 bytes
  // (TURN allows no truncation), or when the key is empty.
  [[nodiscard]] bool verify(const stun::Message& message, std::span<const uint8_t> key);
  [[nodiscard]] bool verify_sha1(const stun::Message& message, std::span<const uint8_t> key);
  [[nodiscard]] bool verify_sha256(const stun::Message& message, std::span<const uint8_t> key);

  // Append the attribute over everything the builder holds. Too small a buffer: the builder's ok().
  void add_sha1(stun::Builder& builder, std::span<const uint8_t> key);
  void add_sha256(stun::Builder& builder, std::span<const uint8_t> key);

 private:
  [[nodiscard]] static bool verify_with(Hmac& hmac, const stun::Message& message,
                                        stun::AttributeSlot slot, std::span<const uint8_t> key);
  static void add_with(Hmac& hmac, stun::Builder& builder, stun::Attribute type,
                       std::span<const uint8_t> key);

  Hmac sha1_{HashKind::kSha1};
  Hmac sha256_{HashKind::kSha256};
};

// The calling thread's instance.
[[nodiscard]] StunIntegrity& thread_integrity();

[[nodiscard]] inline bool verify_integrity(const stun::Message& message,
                                           std::span<const uint8_t> key) {
  return thread_integrity().verify(message, key);
}
inline void add_integrity(stun::Builder& builder, std::span<const uint8_t> key) {
  thread_integrity().add_sha1(builder, key);
}
inline void add_integrity_sha256(stun::Builder& builder, std::span<const uint8_t> key) {
  thread_integrity().add_sha256(builder, key);
}

}  // namespace culvert::crypto
