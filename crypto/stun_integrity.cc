#include "crypto/stun_integrity.h"

#include <array>
#include <cstring>

#include "crypto/credentials.h"
#include "crypto/hmac.h"
#include "dataplane/base/endian.h"

namespace culvert::crypto {

namespace {

using stun::AttributeSlot;

constexpr size_t kAttributeHeader = 4;

// The STUN header with its length field as it was when the attribute at `offset` was the last one.
[[nodiscard]] std::array<uint8_t, stun::kHeaderSize> header_ending_at(const stun::Message& message,
                                                                      size_t end) {
  std::array<uint8_t, stun::kHeaderSize> header;
  std::memcpy(header.data(), message.bytes().data(), header.size());
  store_be16(header.data() + 2, static_cast<uint16_t>(end - stun::kHeaderSize));
  return header;
}

template <class Mac, class Compute>
[[nodiscard]] bool verify(const stun::Message& message, AttributeSlot slot, Compute&& compute) {
  const std::span<const uint8_t> given = message.value(slot);
  if (given.size() != std::tuple_size_v<Mac>) return false;
  const size_t offset = message.offset(slot);
  const auto header = header_ending_at(message, offset + kAttributeHeader + given.size());
  const auto body =
      message.bytes().subspan(stun::kHeaderSize, offset - stun::kHeaderSize);
  const Mac expected = compute(std::span<const uint8_t>(header), body);
  return constant_time_equal(given, expected);
}

}  // namespace

bool verify_integrity(const stun::Message& message, std::span<const uint8_t> key) {
  if (message.has(AttributeSlot::kMessageIntegritySha256)) {
    return verify<Sha256Mac>(message, AttributeSlot::kMessageIntegritySha256,
                             [&](auto header, auto body) { return hmac_sha256(key, header, body); });
  }
  if (!message.has(AttributeSlot::kMessageIntegrity)) return false;
  return verify<Sha1Mac>(message, AttributeSlot::kMessageIntegrity,
                         [&](auto header, auto body) { return hmac_sha1(key, header, body); });
}

void add_integrity(stun::Builder& builder, std::span<const uint8_t> key) {
  const auto covered = builder.cover(kAttributeHeader + std::tuple_size_v<Sha1Mac>);
  builder.add(stun::Attribute::kMessageIntegrity, hmac_sha1(key, covered));
}

void add_integrity_sha256(stun::Builder& builder, std::span<const uint8_t> key) {
  const auto covered = builder.cover(kAttributeHeader + std::tuple_size_v<Sha256Mac>);
  builder.add(stun::Attribute::kMessageIntegritySha256, hmac_sha256(key, covered));
}

}  // namespace culvert::crypto
