// STUN messages (RFC 8489 sections 5 and 14, RFC 8656 section 18): parse without copying, build
// without allocating. Shared by the fast path and control; the tools have a codec of their own on
// purpose.
//
// parse() checks the whole structure once (header, lengths, FINGERPRINT if present) and leaves an
// index of the first occurrence of every attribute the relay understands, so that look-ups are
// array reads. Attributes after MESSAGE-INTEGRITY do not exist for the reader, except
// MESSAGE-INTEGRITY-SHA256 and FINGERPRINT (RFC 8489 section 14.5); after MESSAGE-INTEGRITY-SHA256
// only FINGERPRINT does.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "dataplane/api/limits.h"
#include "dataplane/base/address.h"

namespace culvert::stun {

inline constexpr uint32_t kMagicCookie = 0x2112A442;
inline constexpr size_t kHeaderSize = 20;
inline constexpr uint32_t kFingerprintXor = 0x5354554E;

enum class Class : uint8_t { kRequest = 0, kIndication = 1, kSuccess = 2, kError = 3 };

enum Method : uint16_t {
  kBinding = 0x001,
  kAllocate = 0x003,
  kRefresh = 0x004,
  kSend = 0x006,
  kData = 0x007,
  kCreatePermission = 0x008,
  kChannelBind = 0x009,
  kConnect = 0x00A,
  kConnectionBind = 0x00B,
  kConnectionAttempt = 0x00C,
};

// Attribute types the relay reads or writes. X(name, type)
#define CULVERT_STUN_ATTRIBUTES(X)   \
  X(MappedAddress, 0x0001)           \
  X(ChangeRequest, 0x0003)           \
  X(Username, 0x0006)                \
  X(MessageIntegrity, 0x0008)        \
  X(ErrorCode, 0x0009)               \
  X(UnknownAttributes, 0x000A)       \
  X(ChannelNumber, 0x000C)           \
  X(Lifetime, 0x000D)                \
  X(XorPeerAddress, 0x0012)          \
  X(Data, 0x0013)                    \
  X(Realm, 0x0014)                   \
  X(Nonce, 0x0015)                   \
  X(XorRelayedAddress, 0x0016)       \
  X(RequestedAddressFamily, 0x0017)  \
  X(EvenPort, 0x0018)                \
  X(RequestedTransport, 0x0019)      \
  X(DontFragment, 0x001A)            \
  X(AccessToken, 0x001B)             \
  X(MessageIntegritySha256, 0x001C)  \
  X(PasswordAlgorithm, 0x001D)       \
  X(Userhash, 0x001E)                \
  X(XorMappedAddress, 0x0020)        \
  X(ReservationToken, 0x0022)        \
  X(Priority, 0x0024)                \
  X(UseCandidate, 0x0025)            \
  X(Padding, 0x0026)                 \
  X(ResponsePort, 0x0027)            \
  X(ConnectionId, 0x002A)            \
  X(AdditionalAddressFamily, 0x8000) \
  X(AddressErrorCode, 0x8001)        \
  X(PasswordAlgorithms, 0x8002)      \
  X(AlternateDomain, 0x8003)         \
  X(Icmp, 0x8004)                    \
  X(Software, 0x8022)                \
  X(AlternateServer, 0x8023)         \
  X(Fingerprint, 0x8028)             \
  X(MobilityTicket, 0x8030)

enum class Attribute : uint16_t {
#define X(name, type) k##name = type,
  CULVERT_STUN_ATTRIBUTES(X)
#undef X
};

// Dense index of the attributes above.
enum class AttributeSlot : uint8_t {
#define X(name, type) k##name,
  CULVERT_STUN_ATTRIBUTES(X)
#undef X
      kCount
};

[[nodiscard]] constexpr bool comprehension_required(uint16_t type) {
  return type < 0x8000;
}

using TransactionId = std::array<uint8_t, 12>;

enum class ParseError : uint8_t {
  kNone,
  kNotStun,    // first two bits, cookie or length field wrong: silently discarded (section 6.3)
  kMalformed,  // attribute lengths do not fit
  kBadFingerprint,  // present and wrong, or not last
  kTooLong,         // longer than kMaxStunMessage (an indication: kMaxStunIndication)
};

// Most unknown comprehension-required attributes named in one 420. Section 6.3.1 wants all of them:
// 64 is more than any RFC defines, and bounds both the answer (128 bytes) and the search for
// repeats.
inline constexpr size_t kMaxUnknownAttributes = 64;

class Message {
 public:
  // `bytes` must outlive the Message. UDP: the message must be exactly the datagram. An attribute
  // is "known" when it is in CULVERT_STUN_ATTRIBUTES; which known ones a given request may carry is
  // the caller's business. `out` is meaningful only after kNone.
  [[nodiscard]] static ParseError parse(std::span<const uint8_t> bytes, Message& out);

  [[nodiscard]] Class message_class() const { return class_; }
  [[nodiscard]] uint16_t method() const { return method_; }
  [[nodiscard]] const uint8_t* transaction_id() const { return bytes_.data() + 8; }
  [[nodiscard]] std::span<const uint8_t> bytes() const { return bytes_; }

  [[nodiscard]] bool has(AttributeSlot slot) const {
    return offset_[static_cast<size_t>(slot)] != 0;
  }
  // The value (without padding); empty also when absent, so ask has() where empty is legal.
  [[nodiscard]] std::span<const uint8_t> value(AttributeSlot slot) const;
  // 0-based offset of the attribute's header in bytes(); 0 when absent.
  [[nodiscard]] uint16_t offset(AttributeSlot slot) const {
    return offset_[static_cast<size_t>(slot)];
  }
  [[nodiscard]] bool has_integrity() const {
    return has(AttributeSlot::kMessageIntegrity) || has(AttributeSlot::kMessageIntegritySha256);
  }

  // Decodes an address attribute value that is XORed with cookie and transaction id. nullopt: wrong
  // length or family.
  [[nodiscard]] std::optional<TransportAddress> xor_address(std::span<const uint8_t> value) const;

  // Calls visit(value) for every XOR-PEER-ADDRESS in order (RFC 8656 section 10.2); stops when it
  // returns false.
  template <class Visitor>
  void each_peer(Visitor&& visit) const {
    uint16_t at = offset(AttributeSlot::kXorPeerAddress);
    while (at != 0) {
      if (!visit(value_at(at))) return;
      at = next_of(static_cast<uint16_t>(Attribute::kXorPeerAddress), at);
    }
  }

  // Unknown comprehension-required attribute types, each once, in order of appearance.
  [[nodiscard]] std::span<const uint16_t> unknown_required() const {
    return {unknown_.data(), unknown_count_};
  }

 private:
  [[nodiscard]] std::span<const uint8_t> value_at(uint16_t offset) const;
  [[nodiscard]] uint16_t next_of(uint16_t type, uint16_t after) const;
  [[nodiscard]] ParseError index_attributes();
  void note_unknown(uint16_t type);

  std::span<const uint8_t> bytes_;
  uint16_t method_ = 0;
  Class class_ = Class::kRequest;
  uint8_t unknown_count_ = 0;
  uint16_t end_ = 0;  // attributes at or behind this offset are not readable (integrity rule)
  std::array<uint16_t, static_cast<size_t>(AttributeSlot::kCount)> offset_{};
  std::array<uint16_t, kMaxUnknownAttributes> unknown_{};
};

// The Send indication that clients write: XOR-PEER-ADDRESS, then DATA, then nothing. True only
// where parse() would find just these two, and then with the same values; false says nothing. The
// fast path asks this first: no index of attributes, one forward read of 44 or 32 bytes.
[[nodiscard]] inline bool parse_plain_send(std::span<const uint8_t> bytes, TransportAddress& peer,
                                           std::span<const uint8_t>& data) {
  constexpr uint16_t kSendIndication = kSend | 0x0010;  // class: indication
  constexpr size_t kAttribute = kHeaderSize + 4;        // where the address's value stands
  const uint8_t* at = bytes.data();
  if (bytes.size() < kAttribute + 8 + 4 || load_be16(at) != kSendIndication ||
      load_be32(at + 4) != kMagicCookie || load_be16(at + 2) + kHeaderSize != bytes.size() ||
      load_be16(at + kHeaderSize) != static_cast<uint16_t>(Attribute::kXorPeerAddress))
    return false;
  const size_t length = load_be16(at + kHeaderSize + 2);
  const uint8_t family = at[kAttribute + 1];
  const size_t data_at = kAttribute + length + 4;
  if (!(length == 8 && family == 1) && !(length == 20 && family == 2)) return false;
  if (bytes.size() < data_at ||
      load_be16(at + data_at - 4) != static_cast<uint16_t>(Attribute::kData))
    return false;
  const size_t data_length = load_be16(at + data_at - 2);
  if (data_at + ((data_length + 3) & ~size_t{3}) != bytes.size()) return false;
  const uint8_t* address = at + kAttribute + 4;
  if (family == 1) {
    peer.ip = IpAddress::v4(load_be32(address) ^ kMagicCookie);
  } else {
    uint64_t word[2], pad[2];  // the cookie and the transaction id
    std::memcpy(word, address, sizeof word);
    std::memcpy(pad, at + 4, sizeof pad);
    word[0] ^= pad[0];
    word[1] ^= pad[1];
    peer.ip = IpAddress::v6_bytes(word);
  }
  peer.port = static_cast<uint16_t>(load_be16(at + kAttribute + 2) ^ kMagicCookie >> 16);
  data = bytes.subspan(data_at, data_length);
  return true;
}

// The Allocate request of a stranger: no integrity, no FINGERPRINT. True just where parse() accepts
// an Allocate request and finds neither. A flood of them is told by this, without an index of the
// attributes.
[[nodiscard]] inline bool is_bare_allocate(std::span<const uint8_t> bytes) {
  const size_t size = bytes.size();
  const uint8_t* const data = bytes.data();
  // A request's class bits are zero: the type is the method.
  if (size < kHeaderSize || size > kMaxStunMessage || size % 4 != 0 ||
      load_be16(data) != kAllocate || load_be32(data + 4) != kMagicCookie ||
      load_be16(data + 2) + kHeaderSize != size)
    return false;
  size_t at = kHeaderSize;
  while (at < size) {
    const auto type = static_cast<Attribute>(load_be16(data + at));
    if (type == Attribute::kMessageIntegrity || type == Attribute::kMessageIntegritySha256 ||
        type == Attribute::kFingerprint)
      return false;
    at += 4 + ((load_be16(data + at + 2) + size_t{3}) & ~size_t{3});
  }
  return at == size;
}

// Builds a message into a caller's buffer. Padding is always written as zero. When the buffer is
// too small the builder stops writing and ok() is false.
class Builder {
 public:
  Builder(std::span<uint8_t> buffer, Class message_class, uint16_t method,
          const uint8_t* transaction_id);

  void add(Attribute type, std::span<const uint8_t> value);
  void add(Attribute type, std::string_view text);
  void add_empty(Attribute type) { add(type, std::span<const uint8_t>{}); }
  void add_u32(Attribute type, uint32_t value);
  void add_xor_address(Attribute type, const TransportAddress& address);
  // ERROR-CODE; reason may be empty, at most 127 characters.
  void add_error(uint16_t code, std::string_view reason = {});
  // ADDRESS-ERROR-CODE (RFC 8656 section 18.12).
  void add_address_error(Family family, uint16_t code, std::string_view reason = {});
  void add_unknown_attributes(std::span<const uint16_t> types);
  // Complete encoded attributes, padding included.
  void add_encoded(std::span<const uint8_t> attributes);
  void add_fingerprint();

  // For integrity attributes: sets the header length as if `attribute_bytes` more followed, and
  // returns what the HMAC covers (everything up to here).
  [[nodiscard]] std::span<const uint8_t> cover(size_t attribute_bytes);

  [[nodiscard]] bool ok() const { return ok_; }
  [[nodiscard]] std::span<const uint8_t> bytes() const { return buffer_.first(size_); }
  [[nodiscard]] size_t size() const { return size_; }

 private:
  [[nodiscard]] uint8_t* append(Attribute type, size_t value_length);
  void set_length(size_t attributes);

  std::span<uint8_t> buffer_;
  size_t size_ = 0;
  bool ok_ = true;
};

// Writes an address value as in XOR-MAPPED-ADDRESS (8 or 20 bytes) and returns its length.
size_t encode_xor_address(const TransportAddress& address, const uint8_t* transaction_id,
                          uint8_t* to);

// CRC-32 (ISO 3309) as FINGERPRINT uses it, before the XOR.
[[nodiscard]] uint32_t crc32(std::span<const uint8_t> bytes);

}  // namespace culvert::stun
