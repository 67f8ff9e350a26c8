#include "crypto/stun_integrity.h"

#include <cstring>

#include "crypto/bytes.h"
#include "dataplane/base/endian.h"

namespace culvert::crypto {

namespace {
constexpr size_t kAttributeHeader = 4;
}

StunIntegrity::StunIntegrity() = default;

bool StunIntegrity::verify(const stun::Message& message, std::span<const uint8_t> key) {
  return message.has(stun::AttributeSlot::kMessageIntegritySha256) ? verify_sha256(message, key)
                                                                   : verify_sha1(message, key);
}

bool StunIntegrity::verify_sha1(const stun::Message& message, std::span<const uint8_t> key) {
  return verify_with(sha1_, message, stun::AttributeSlot::kMessageIntegrity, key);
}

bool StunIntegrity::verify_sha256(const stun::Message& message, std::span<const uint8_t> key) {
  return verify_with(sha256_, message, stun::AttributeSlot::kMessageIntegritySha256, key);
}

bool StunIntegrity::verify_with(Hmac& hmac, const stun::Message& message, stun::AttributeSlot slot,
                                std::span<const uint8_t> key) {
  const size_t at = message.offset(slot);
  const std::span<const uint8_t> theirs = message.value(slot);
  if (at == 0 || theirs.size() != hmac.size() || key.empty()) return false;
  // The HMAC covers everything before the attribute, with a length field that ends behind it: the
  // one in the message may count attributes that follow.
  uint8_t header[stun::kHeaderSize];
  std::memcpy(header, message.bytes().data(), sizeof header);
  store_be16(header + 2,
             static_cast<uint16_t>(at + kAttributeHeader + hmac.size() - sizeof header));
  uint8_t ours[kSha256Bytes];
  hmac.compute(key, header, message.bytes().subspan(sizeof header, at - sizeof header), ours);
  return constant_time_equal(theirs, {ours, hmac.size()});
}

void StunIntegrity::add_sha1(stun::Builder& builder, std::span<const uint8_t> key) {
  add_with(sha1_, builder, stun::Attribute::kMessageIntegrity, key);
}

void StunIntegrity::add_sha256(stun::Builder& builder, std::span<const uint8_t> key) {
  add_with(sha256_, builder, stun::Attribute::kMessageIntegritySha256, key);
}

void StunIntegrity::add_with(Hmac& hmac, stun::Builder& builder, stun::Attribute type,
                             std::span<const uint8_t> key) {
  uint8_t mac[kSha256Bytes];
  hmac.compute(key, builder.cover(kAttributeHeader + hmac.size()), {}, mac);
  builder.add(type, std::span<const uint8_t>(mac, hmac.size()));
}

StunIntegrity& thread_integrity() {
  // Contexts are bound to their thread by nature; passing one through every caller would only
  // invite sharing it.
  static thread_local StunIntegrity integrity;
  return integrity;
}

}  // namespace culvert::crypto
