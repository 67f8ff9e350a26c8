#include "tools/stun_client/message.h"

#include <algorithm>
#include <cstring>

#include "dataplane/base/endian.h"
#include "tools/stun_client/digest.h"

namespace culvert::stun_client {
namespace {

constexpr uint32_t kFingerprintXor = 0x5354554e;  // "STUN", RFC 8489 section 14.7
constexpr std::string_view kNonceCookie = "obMatJos2";
constexpr size_t kFeatureCharacters = 4;  // 24 bits in base64

constexpr size_t padded(size_t size) {
  return (size + 3) & ~size_t{3};
}

// The XOR mask of an address: magic cookie, then the transaction id (section 14.2).
std::array<uint8_t, 16> xor_mask(const uint8_t* header) {
  std::array<uint8_t, 16> mask{};
  std::memcpy(mask.data(), header + 4, 16);
  return mask;
}

std::optional<TransportAddress> decode_address(Bytes value, const uint8_t* header, bool xored) {
  if (value.size() < 4) return std::nullopt;
  const size_t ip_size = value[1] == 0x01 ? 4u : value[1] == 0x02 ? 16u : 0u;
  if (ip_size == 0 || value.size() != 4 + ip_size) return std::nullopt;
  std::array<uint8_t, 16> mask{};
  if (xored) mask = xor_mask(header);
  std::array<uint8_t, 16> ip{};
  for (size_t i = 0; i < ip_size; ++i)
    ip[i] = value[4 + i] ^ mask[i];
  const auto port_mask = static_cast<uint16_t>(mask[0] << 8 | mask[1]);
  TransportAddress out;
  out.ip = ip_size == 4 ? IpAddress::v4_bytes(ip.data()) : IpAddress::v6_bytes(ip.data());
  out.port = static_cast<uint16_t>(load_be16(&value[2]) ^ port_mask);
  return out;
}

int base64_value(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+') return 62;
  return c == '/' ? 63 : -1;
}

}  // namespace

MessageBuilder::MessageBuilder(Method method, Class cls, const TransactionId& id) {
  bytes_.reserve(192);
  bytes_.resize(kHeaderSize);
  store_be16(&bytes_[0], message_type(method, cls));
  store_be32(&bytes_[4], kMagicCookie);
  std::copy(id.begin(), id.end(), bytes_.begin() + 8);
}

void MessageBuilder::set_length(size_t attributes_size) {
  store_be16(&bytes_[2], static_cast<uint16_t>(attributes_size));
}

MessageBuilder& MessageBuilder::add(Attr type, Bytes value, uint8_t pad) {
  const size_t at = bytes_.size();
  bytes_.resize(at + 4 + padded(value.size()), pad);
  store_be16(&bytes_[at], static_cast<uint16_t>(type));
  store_be16(&bytes_[at + 2], static_cast<uint16_t>(value.size()));
  if (!value.empty()) std::memcpy(&bytes_[at + 4], value.data(), value.size());
  set_length(bytes_.size() - kHeaderSize);
  return *this;
}

MessageBuilder& MessageBuilder::add(Attr type, std::string_view value, uint8_t pad) {
  return add(type, Bytes{reinterpret_cast<const uint8_t*>(value.data()), value.size()}, pad);
}

MessageBuilder& MessageBuilder::add_u8(Attr type, uint8_t value) {
  const std::array<uint8_t, 4> out{value, 0, 0, 0};
  return add(type, out);
}

MessageBuilder& MessageBuilder::add_u32(Attr type, uint32_t value) {
  std::array<uint8_t, 4> out{};
  store_be32(out.data(), value);
  return add(type, out);
}

MessageBuilder& MessageBuilder::add_address(Attr type, const TransportAddress& address) {
  std::array<uint8_t, 20> out{};
  out[1] = family_code(address.ip.family);
  store_be16(&out[2], address.port);
  std::memcpy(&out[4], address.ip.wire(), address.ip.size());
  return add(type, Bytes{out.data(), 4 + address.ip.size()});
}

MessageBuilder& MessageBuilder::add_xor_address(Attr type, const TransportAddress& address) {
  const auto mask = xor_mask(bytes_.data());
  std::array<uint8_t, 20> out{};
  out[1] = family_code(address.ip.family);
  store_be16(&out[2], static_cast<uint16_t>(address.port ^ (kMagicCookie >> 16)));
  for (size_t i = 0; i < address.ip.size(); ++i)
    out[4 + i] = static_cast<uint8_t>(address.ip.wire()[i] ^ mask[i]);
  return add(type, Bytes{out.data(), 4 + address.ip.size()});
}

MessageBuilder& MessageBuilder::add_channel(uint16_t channel) {
  return add_u32(Attr::kChannelNumber, static_cast<uint32_t>(channel) << 16);
}

MessageBuilder& MessageBuilder::add_even_port(bool reserve_next) {
  const std::array<uint8_t, 1> out{static_cast<uint8_t>(reserve_next ? 0x80 : 0x00)};
  return add(Attr::kEvenPort, out);
}

MessageBuilder& MessageBuilder::add_password_algorithm(PasswordAlgorithm algorithm) {
  return add_u32(Attr::kPasswordAlgorithm, static_cast<uint32_t>(algorithm) << 16);
}

MessageBuilder& MessageBuilder::add_integrity(const Key& key) {
  set_length(bytes_.size() - kHeaderSize + 24);
  const auto mac = hmac_sha1(key, {Bytes{bytes_}});
  return add(Attr::kMessageIntegrity, mac);
}

MessageBuilder& MessageBuilder::add_integrity_sha256(const Key& key, size_t length) {
  set_length(bytes_.size() - kHeaderSize + 4 + length);
  const auto mac = hmac_sha256(key, {Bytes{bytes_}});
  return add(Attr::kMessageIntegritySha256, Bytes{mac.data(), std::min(length, mac.size())});
}

MessageBuilder& MessageBuilder::add_fingerprint() {
  set_length(bytes_.size() - kHeaderSize + 8);
  return add_u32(Attr::kFingerprint, crc32(bytes_) ^ kFingerprintXor);
}

NonceFeatures nonce_features(std::string_view nonce) {
  NonceFeatures out;
  if (nonce.size() < kNonceCookie.size() + kFeatureCharacters) return out;
  if (!nonce.starts_with(kNonceCookie)) return out;
  uint32_t bits = 0;
  for (size_t i = 0; i < kFeatureCharacters; ++i) {
    const int value = base64_value(nonce[kNonceCookie.size() + i]);
    if (value < 0) return out;
    bits = (bits << 6) | static_cast<uint32_t>(value);
  }
  out.cookie = true;
  out.password_algorithms = (bits & 0x800000u) != 0;  // bit 0 is the leftmost of 24
  out.username_anonymity = (bits & 0x400000u) != 0;
  return out;
}

std::optional<MessageView> MessageView::parse(Bytes datagram) {
  if (datagram.size() < kHeaderSize || (datagram[0] & 0xc0) != 0) return std::nullopt;
  if (load_be32(&datagram[4]) != kMagicCookie) return std::nullopt;
  const size_t length = load_be16(&datagram[2]);
  if (length % 4 != 0 || kHeaderSize + length != datagram.size()) return std::nullopt;
  MessageView out;
  out.bytes_ = datagram;
  size_t at = kHeaderSize;
  while (at < datagram.size()) {
    if (datagram.size() - at < 4) return std::nullopt;
    const size_t size = load_be16(&datagram[at + 2]);
    if (padded(size) > datagram.size() - at - 4) return std::nullopt;
    out.attributes_.push_back(
        {static_cast<Attr>(load_be16(&datagram[at])), datagram.subspan(at + 4, size), at});
    at += 4 + padded(size);
  }
  return out;
}

uint16_t MessageView::type() const {
  return load_be16(bytes_.data());
}

TransactionId MessageView::transaction_id() const {
  TransactionId id;
  std::memcpy(id.data(), &bytes_[8], id.size());
  return id;
}

const AttributeView* MessageView::find(Attr type) const {
  for (const auto& attribute : attributes_)
    if (attribute.type == type) return &attribute;
  return nullptr;
}

std::optional<std::string_view> MessageView::text(Attr type) const {
  const auto* attribute = find(type);
  if (attribute == nullptr) return std::nullopt;
  return std::string_view(reinterpret_cast<const char*>(attribute->value.data()),
                          attribute->value.size());
}

std::optional<uint32_t> MessageView::u32(Attr type) const {
  const auto* attribute = find(type);
  if (attribute == nullptr || attribute->value.size() != 4) return std::nullopt;
  return load_be32(attribute->value.data());
}

std::optional<TransportAddress> MessageView::address(Attr type) const {
  const auto* attribute = find(type);
  if (attribute == nullptr) return std::nullopt;
  return decode_address(attribute->value, bytes_.data(), false);
}

std::optional<TransportAddress> MessageView::xor_address(Attr type) const {
  const auto* attribute = find(type);
  if (attribute == nullptr) return std::nullopt;
  return decode_address(attribute->value, bytes_.data(), true);
}

std::vector<TransportAddress> MessageView::xor_addresses(Attr type) const {
  std::vector<TransportAddress> out;
  for (const auto& attribute : attributes_) {
    if (attribute.type != type) continue;
    if (const auto address = decode_address(attribute.value, bytes_.data(), true))
      out.push_back(*address);
  }
  return out;
}

std::optional<ErrorCode> MessageView::error() const {
  const auto* attribute = find(Attr::kErrorCode);
  if (attribute == nullptr || attribute->value.size() < 4) return std::nullopt;
  const auto value = attribute->value;
  ErrorCode out;
  out.code = (value[2] & 0x07) * 100 + value[3];
  out.reason.assign(reinterpret_cast<const char*>(value.data()) + 4, value.size() - 4);
  return out;
}

std::vector<PasswordAlgorithm> MessageView::password_algorithms() const {
  std::vector<PasswordAlgorithm> out;
  const auto* attribute = find(Attr::kPasswordAlgorithms);
  if (attribute == nullptr) return out;
  Bytes rest = attribute->value;
  while (rest.size() >= 4) {
    out.push_back(static_cast<PasswordAlgorithm>(load_be16(rest.data())));
    const size_t size = 4 + padded(load_be16(rest.data() + 2));
    rest = rest.subspan(std::min(size, rest.size()));
  }
  return out;
}

bool MessageView::integrity_valid(const Key& key) const {
  const auto* attribute = find(Attr::kMessageIntegrity);
  if (attribute == nullptr || attribute->value.size() != 20) return false;
  std::array<uint8_t, 4> start{bytes_[0], bytes_[1], 0, 0};
  store_be16(&start[2], static_cast<uint16_t>(attribute->offset + 24 - kHeaderSize));
  return equal_constant_time(
      hmac_sha1(key, {Bytes{start}, bytes_.subspan(4, attribute->offset - 4)}), attribute->value);
}

bool MessageView::integrity_sha256_valid(const Key& key) const {
  const auto* attribute = find(Attr::kMessageIntegritySha256);
  if (attribute == nullptr) return false;
  const size_t size = attribute->value.size();
  if (size < 16 || size > 32 || size % 4 != 0) return false;  // section 14.6
  std::array<uint8_t, 4> start{bytes_[0], bytes_[1], 0, 0};
  store_be16(&start[2], static_cast<uint16_t>(attribute->offset + 4 + size - kHeaderSize));
  const auto mac = hmac_sha256(key, {Bytes{start}, bytes_.subspan(4, attribute->offset - 4)});
  return equal_constant_time(Bytes{mac.data(), size}, attribute->value);
}

bool MessageView::fingerprint_valid() const {
  const auto* attribute = find(Attr::kFingerprint);
  if (attribute == nullptr || attribute->value.size() != 4) return false;
  if (attribute->offset + 8 != bytes_.size()) return false;  // it must be last
  return load_be32(attribute->value.data()) ==
         (crc32(bytes_.first(attribute->offset)) ^ kFingerprintXor);
}

std::optional<ChannelData> parse_channel_data(Bytes datagram) {
  if (!looks_like_channel_data(datagram)) return std::nullopt;
  const size_t size = load_be16(&datagram[2]);
  if (size > datagram.size() - kChannelDataHeaderSize) return std::nullopt;
  return ChannelData{load_be16(datagram.data()), datagram.subspan(kChannelDataHeaderSize, size)};
}

std::optional<DataIndication> parse_data_indication(Bytes datagram) {
  constexpr uint16_t kType = message_type(Method::kData, Class::kIndication);
  if (datagram.size() < kHeaderSize || load_be16(datagram.data()) != kType) return std::nullopt;
  if (load_be32(&datagram[4]) != kMagicCookie) return std::nullopt;
  if (kHeaderSize + load_be16(&datagram[2]) != datagram.size()) return std::nullopt;
  std::optional<TransportAddress> peer;
  std::optional<Bytes> payload;
  for (size_t at = kHeaderSize; at + 4 <= datagram.size();) {
    const auto type = static_cast<Attr>(load_be16(&datagram[at]));
    const size_t size = load_be16(&datagram[at + 2]);
    if (padded(size) > datagram.size() - at - 4) return std::nullopt;
    const Bytes value = datagram.subspan(at + 4, size);
    if (type == Attr::kXorPeerAddress && !peer) peer = decode_address(value, datagram.data(), true);
    if (type == Attr::kData && !payload) payload = value;
    at += 4 + padded(size);
  }
  if (!peer || !payload) return std::nullopt;
  return DataIndication{*peer, *payload};
}

std::array<uint8_t, 4> channel_data_header(uint16_t channel, uint16_t size) {
  std::array<uint8_t, 4> out{};
  store_be16(&out[0], channel);
  store_be16(&out[2], size);
  return out;
}

}  // namespace culvert::stun_client
