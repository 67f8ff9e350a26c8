// Any bytes as a STUN message: what the parser accepts must be readable everywhere without leaving
// the block, consistent with itself, and survive being built again attribute by attribute.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <span>
#include <vector>

#include "dataplane/base/assert.h"
#include "dataplane/base/endian.h"
#include "dataplane/wire/stun.h"

namespace stun = culvert::stun;

namespace {

constexpr uint16_t kTypes[] = {
#define X(name, type) type,
    CULVERT_STUN_ATTRIBUTES(X)
#undef X
};

void check(const stun::Message& message) {
  std::vector<uint8_t> buffer(stun::kHeaderSize + 2 * message.bytes().size() + 64, 0xee);
  stun::Builder builder(buffer, message.message_class(), message.method(),
                        message.transaction_id());
  for (size_t i = 0; i < std::size(kTypes); ++i) {
    const auto slot = static_cast<stun::AttributeSlot>(i);
    if (!message.has(slot) || slot == stun::AttributeSlot::kFingerprint) continue;
    ENSURE(culvert::load_be16(message.bytes().data() + message.offset(slot)) == kTypes[i]);
    builder.add(static_cast<stun::Attribute>(kTypes[i]), message.value(slot));
  }
  builder.add_fingerprint();
  ENSURE(builder.ok());
  stun::Message again;
  ENSURE(stun::Message::parse(builder.bytes(), again) == stun::ParseError::kNone ||
         builder.size() > culvert::kMaxStunMessage);

  size_t peers = 0;
  message.each_peer([&](std::span<const uint8_t> value) {
    ++peers;
    if (const auto address = message.xor_address(value)) {
      // Decoding undoes encoding; the reserved byte is the only one lost.
      uint8_t encoded[20];
      ENSURE(stun::encode_xor_address(*address, message.transaction_id(), encoded) == value.size());
      ENSURE(std::memcmp(encoded + 1, value.data() + 1, value.size() - 1) == 0);
    }
    return true;
  });
  ENSURE((peers != 0) == message.has(stun::AttributeSlot::kXorPeerAddress));
  for (const uint16_t type : message.unknown_required())
    ENSURE(stun::comprehension_required(type));
}

// The shortcuts of the fast path say what the whole parser says.
void check_shortcuts(const stun::Message* message, std::span<const uint8_t> bytes) {
  using Slot = stun::AttributeSlot;
  const bool bare = message != nullptr && message->method() == stun::kAllocate &&
                    message->message_class() == stun::Class::kRequest &&
                    !message->has_integrity() && !message->has(Slot::kFingerprint);
  ENSURE(stun::is_bare_allocate(bytes) == bare);
  culvert::TransportAddress peer;
  std::span<const uint8_t> data;
  if (!stun::parse_plain_send(bytes, peer, data)) return;
  ENSURE(message != nullptr && message->method() == stun::kSend);
  ENSURE(message->xor_address(message->value(Slot::kXorPeerAddress)) == peer);
  ENSURE(message->value(Slot::kData).data() == data.data());
  ENSURE(message->value(Slot::kData).size() == data.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The fuzzer rarely guesses a CRC: a FINGERPRINT at the end is set right half of the time.
  std::vector<uint8_t> bytes(data, data + size);
  if (size >= 28 && (data[19] & 1) != 0 && culvert::load_be16(data + size - 8) == 0x8028) {
    const uint32_t crc = stun::crc32(std::span<const uint8_t>(bytes).first(size - 8));
    culvert::store_be32(&bytes[size - 4], crc ^ stun::kFingerprintXor);
  }
  stun::Message message;
  const bool sound = stun::Message::parse(bytes, message) == stun::ParseError::kNone;
  if (sound) check(message);
  check_shortcuts(sound ? &message : nullptr, bytes);
  return 0;
}
