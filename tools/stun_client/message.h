// STUN and TURN messages as a client writes and reads them (RFC 8489 section 5, 14; RFC 8656
// section 18). Written apart from the server's codec on purpose: the tools and the conformance
// suite judge the server with it, so one mistake must not hide in both. A MessageBuilder owns its
// bytes; a MessageView borrows them and never reads outside the span it was given. Any bytes may be
// parsed: malformed input gives nullopt, never an assertion.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dataplane/base/address.h"

namespace culvert::stun_client {

using Bytes = std::span<const uint8_t>;
using TransactionId = std::array<uint8_t, 12>;

inline constexpr uint32_t kMagicCookie = 0x2112a442;
inline constexpr size_t kHeaderSize = 20;
inline constexpr size_t kChannelDataHeaderSize = 4;
inline constexpr uint16_t kChannelFirst = 0x4000;  // RFC 8656 section 12
inline constexpr uint16_t kChannelLast = 0x4fff;

enum class Class : uint8_t { kRequest = 0, kIndication = 1, kSuccess = 2, kError = 3 };

enum class Method : uint16_t {
  kBinding = 0x001,
  kAllocate = 0x003,
  kRefresh = 0x004,
  kSend = 0x006,
  kData = 0x007,
  kCreatePermission = 0x008,
  kChannelBind = 0x009,
  kConnect = 0x00a,            // RFC 6062
  kConnectionBind = 0x00b,     // RFC 6062
  kConnectionAttempt = 0x00c,  // RFC 6062
};

enum class Attr : uint16_t {
  kMappedAddress = 0x0001,
  kChangeRequest = 0x0003,  // RFC 5780
  kUsername = 0x0006,
  kMessageIntegrity = 0x0008,
  kErrorCode = 0x0009,
  kUnknownAttributes = 0x000a,
  kChannelNumber = 0x000c,
  kLifetime = 0x000d,
  kXorPeerAddress = 0x0012,
  kData = 0x0013,
  kRealm = 0x0014,
  kNonce = 0x0015,
  kXorRelayedAddress = 0x0016,
  kRequestedAddressFamily = 0x0017,
  kEvenPort = 0x0018,
  kRequestedTransport = 0x0019,
  kDontFragment = 0x001a,
  kAccessToken = 0x001b,  // RFC 7635
  kMessageIntegritySha256 = 0x001c,
  kPasswordAlgorithm = 0x001d,
  kUserhash = 0x001e,
  kXorMappedAddress = 0x0020,
  kReservationToken = 0x0022,
  kPriority = 0x0024,      // RFC 8445
  kUseCandidate = 0x0025,  // RFC 8445
  kPadding = 0x0026,       // RFC 5780
  kResponsePort = 0x0027,  // RFC 5780
  kConnectionId = 0x002a,  // RFC 6062
  kAdditionalAddressFamily = 0x8000,
  kAddressErrorCode = 0x8001,
  kPasswordAlgorithms = 0x8002,
  kAlternateDomain = 0x8003,
  kIcmp = 0x8004,
  kSoftware = 0x8022,
  kAlternateServer = 0x8023,
  kTransactionTransmitCounter = 0x8025,  // RFC 7982
  kFingerprint = 0x8028,
  kIceControlled = 0x8029,            // RFC 8445
  kIceControlling = 0x802a,           // RFC 8445
  kResponseOrigin = 0x802b,           // RFC 5780
  kOtherAddress = 0x802c,             // RFC 5780
  kThirdPartyAuthorization = 0x802e,  // RFC 7635
  kMobilityTicket = 0x8030,           // RFC 8016
};

enum class PasswordAlgorithm : uint16_t { kMd5 = 0x0001, kSha256 = 0x0002 };

// Address family values of REQUESTED-ADDRESS-FAMILY and its kin (RFC 8489 section 14.1).
[[nodiscard]] constexpr uint8_t family_code(Family family) {
  return family == Family::kIpv6 ? 0x02 : 0x01;
}

// Message type from method and class: the class bits are spread (RFC 8489 section 5).
[[nodiscard]] constexpr uint16_t message_type(Method method, Class cls) {
  const auto m = static_cast<unsigned>(method);
  const auto c = static_cast<unsigned>(cls);
  return static_cast<uint16_t>((m & 0x00fu) | ((m & 0x070u) << 1) | ((m & 0xf80u) << 2) |
                               ((c & 1u) << 4) | ((c & 2u) << 7));
}
[[nodiscard]] constexpr Method method_of(uint16_t type) {
  return static_cast<Method>((type & 0x000fu) | ((type & 0x00e0u) >> 1) | ((type & 0x3e00u) >> 2));
}
[[nodiscard]] constexpr Class class_of(uint16_t type) {
  return static_cast<Class>(((type >> 4) & 1u) | ((type >> 7) & 2u));
}

// A secret key for MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256.
using Key = std::vector<uint8_t>;

class MessageBuilder {
 public:
  MessageBuilder(Method method, Class cls, const TransactionId& id);

  // Appends one attribute and pads it to 4 bytes with zeros (or `pad`, for vectors that use
  // others).
  MessageBuilder& add(Attr type, Bytes value, uint8_t pad = 0);
  MessageBuilder& add(Attr type, std::string_view value, uint8_t pad = 0);
  MessageBuilder& add_u8(Attr type, uint8_t value);  // one byte and three reserved ones
  MessageBuilder& add_u32(Attr type, uint32_t value);
  MessageBuilder& add_flag(Attr type) { return add(type, Bytes{}); }
  MessageBuilder& add_address(Attr type, const TransportAddress& address);      // not XORed
  MessageBuilder& add_xor_address(Attr type, const TransportAddress& address);  // section 14.2
  MessageBuilder& add_channel(uint16_t channel);
  MessageBuilder& add_even_port(bool reserve_next);           // EVEN-PORT is one byte long
  MessageBuilder& add_password_algorithm(PasswordAlgorithm);  // no parameters
  // MESSAGE-INTEGRITY over all so far (section 14.5), then -SHA256 (14.6), then FINGERPRINT (14.7).
  MessageBuilder& add_integrity(const Key& key);
  MessageBuilder& add_integrity_sha256(const Key& key, size_t length = 32);
  MessageBuilder& add_fingerprint();

  [[nodiscard]] const std::vector<uint8_t>& bytes() const { return bytes_; }
  [[nodiscard]] std::vector<uint8_t> take() { return std::move(bytes_); }

 private:
  void set_length(size_t attributes_size);

  std::vector<uint8_t> bytes_;
};

struct AttributeView {
  Attr type{};
  Bytes value;
  size_t offset = 0;  // of the attribute's header from the start of the message
};

struct ErrorCode {
  int code = 0;
  std::string reason;
};

// The features a server promises in its nonce (RFC 8489 sections 9.2 and 18.1).
struct NonceFeatures {
  bool cookie = false;  // the nonce starts with "obMatJos2" and four base64 characters
  bool password_algorithms = false;
  bool username_anonymity = false;
};
[[nodiscard]] NonceFeatures nonce_features(std::string_view nonce);

class MessageView {
 public:
  // Checks the header, the length and the chain of attributes (section 5, 14); nothing else.
  [[nodiscard]] static std::optional<MessageView> parse(Bytes datagram);

  [[nodiscard]] uint16_t type() const;
  [[nodiscard]] Method method() const { return method_of(type()); }
  [[nodiscard]] Class cls() const { return class_of(type()); }
  [[nodiscard]] TransactionId transaction_id() const;
  [[nodiscard]] Bytes bytes() const { return bytes_; }
  [[nodiscard]] const std::vector<AttributeView>& attributes() const { return attributes_; }

  // The first attribute of that type, as section 14 says of duplicates.
  [[nodiscard]] const AttributeView* find(Attr type) const;
  [[nodiscard]] bool has(Attr type) const { return find(type) != nullptr; }
  [[nodiscard]] std::optional<std::string_view> text(Attr type) const;
  [[nodiscard]] std::optional<uint32_t> u32(Attr type) const;
  [[nodiscard]] std::optional<TransportAddress> address(Attr type) const;
  [[nodiscard]] std::optional<TransportAddress> xor_address(Attr type) const;
  [[nodiscard]] std::vector<TransportAddress> xor_addresses(Attr type) const;
  [[nodiscard]] std::optional<ErrorCode> error() const;
  // The algorithms of PASSWORD-ALGORITHMS in the server's order; unknown ones are kept as they are.
  [[nodiscard]] std::vector<PasswordAlgorithm> password_algorithms() const;

  // True when the attribute is there and right. Integrity over the message up to it, with the
  // length field as it would be if the attribute were last (sections 14.5, 14.6).
  [[nodiscard]] bool integrity_valid(const Key& key) const;
  [[nodiscard]] bool integrity_sha256_valid(const Key& key) const;
  [[nodiscard]] bool fingerprint_valid() const;

 private:
  Bytes bytes_;
  std::vector<AttributeView> attributes_;
};

// What a datagram from the server is, by its first byte (RFC 8656 section 12, RFC 7983).
[[nodiscard]] inline bool looks_like_channel_data(Bytes datagram) {
  return datagram.size() >= kChannelDataHeaderSize && datagram[0] >= 0x40 && datagram[0] <= 0x4f;
}

struct ChannelData {
  uint16_t channel = 0;
  Bytes payload;
};
// Over UDP trailing padding is allowed (RFC 8656 section 12.5); a length beyond the end is not.
[[nodiscard]] std::optional<ChannelData> parse_channel_data(Bytes datagram);

struct DataIndication {
  TransportAddress peer;
  Bytes payload;
};
// Reads a Data indication without building a list of its attributes, for callers that receive many.
[[nodiscard]] std::optional<DataIndication> parse_data_indication(Bytes datagram);

// The header that stands before a ChannelData payload of `size` bytes.
[[nodiscard]] std::array<uint8_t, 4> channel_data_header(uint16_t channel, uint16_t size);

}  // namespace culvert::stun_client
