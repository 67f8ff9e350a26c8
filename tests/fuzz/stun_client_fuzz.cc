// Any bytes through the tools' STUN codec (conformance suite, load tool) and through the server's,
// which were written apart: what both read must be the same, and what one refuses and the other
// takes must be one of the differences that are meant. What the tools' builder writes, both read.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <vector>

#include "crypto/stun_integrity.h"
#include "dataplane/base/assert.h"
#include "dataplane/wire/channel_data.h"
#include "dataplane/wire/stun.h"
#include "tools/stun_client/message.h"

namespace {

using culvert::stun::Message;
using culvert::stun::ParseError;
namespace tool = culvert::stun_client;

constexpr uint16_t kTypes[] = {
#define X(name, type) type,
    CULVERT_STUN_ATTRIBUTES(X)
#undef X
};

[[nodiscard]] bool equal(std::span<const uint8_t> a, std::span<const uint8_t> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

[[nodiscard]] size_t integrity_offset(const tool::MessageView& view) {
  size_t out = view.bytes().size();
  for (const tool::Attr type : {tool::Attr::kMessageIntegrity, tool::Attr::kMessageIntegritySha256})
    if (const auto* found = view.find(type)) out = std::min(out, found->offset);
  return out;
}

void same_reading(const Message& server, const tool::MessageView& view) {
  ENSURE(static_cast<int>(server.message_class()) == static_cast<int>(view.cls()));
  ENSURE(server.method() == static_cast<uint16_t>(view.method()));
  ENSURE(equal({server.transaction_id(), 12}, view.transaction_id()));
  const size_t integrity = integrity_offset(view);
  for (size_t i = 0; i < std::size(kTypes); ++i) {
    const auto slot = static_cast<culvert::stun::AttributeSlot>(i);
    const auto* found = view.find(static_cast<tool::Attr>(kTypes[i]));
    // The server does not see what stands behind the integrity; the tools see everything.
    if (found != nullptr && found->offset <= integrity) ENSURE(server.has(slot));
    if (!server.has(slot)) continue;
    ENSURE(found != nullptr && found->offset == server.offset(slot));
    ENSURE(equal(found->value, server.value(slot)));
    ENSURE(view.xor_address(found->type) == server.xor_address(server.value(slot)));
    if (found->value.size() == 4) ENSURE(view.u32(found->type).has_value());
    ENSURE(view.text(found->type)->size() == found->value.size());
    (void)view.address(found->type);
  }
  if (server.has(culvert::stun::AttributeSlot::kFingerprint)) ENSURE(view.fingerprint_valid());
}

void same_data_indication(const tool::MessageView& view) {
  const auto quick = tool::parse_data_indication(view.bytes());
  const bool is_one =
      view.method() == tool::Method::kData && view.cls() == tool::Class::kIndication;
  const auto* data = view.find(tool::Attr::kData);
  const auto peers = view.xor_addresses(tool::Attr::kXorPeerAddress);
  ENSURE(quick.has_value() == (is_one && data != nullptr && !peers.empty()));
  if (quick) ENSURE(quick->peer == peers[0] && equal(quick->payload, data->value));
}

// The same message from the tools' builder, signed: the server's crypto agrees.
void build_again(const tool::MessageView& view) {
  if (view.bytes().size() > culvert::kMaxStunMessage - 100) return;
  tool::MessageBuilder builder(view.method(), view.cls(), view.transaction_id());
  for (const tool::AttributeView& a : view.attributes()) {
    if (a.type == tool::Attr::kMessageIntegrity || a.type == tool::Attr::kFingerprint ||
        a.type == tool::Attr::kMessageIntegritySha256)
      continue;
    builder.add(a.type, a.value, a.value.empty() ? uint8_t{0} : a.value[0]);
  }
  const tool::Key key{'k', 'e', 'y'};
  const std::vector<uint8_t> plain = builder.bytes();
  builder.add_integrity(key).add_integrity_sha256(key).add_fingerprint();
  const auto again = tool::MessageView::parse(builder.bytes());
  ENSURE(again && again->integrity_valid(key) && again->integrity_sha256_valid(key));
  ENSURE(again->fingerprint_valid());
  Message server;
  ENSURE(Message::parse(builder.bytes(), server) == ParseError::kNone);
  ENSURE(culvert::crypto::verify_integrity(server, key));
  ENSURE(again->attributes().size() >= 3);
  same_reading(server, *again);
  std::vector<uint8_t> damaged = builder.bytes();
  damaged[0] ^= 1;  // another method or class
  const auto other = tool::MessageView::parse(damaged);
  ENSURE(other && !other->integrity_valid(key) && !other->fingerprint_valid());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::vector<uint8_t> bytes(data, data + size);  // exact, for the sanitizer
  const auto ours = culvert::parse_channel_data(bytes);
  const auto theirs = tool::parse_channel_data(bytes);
  ENSURE(ours.has_value() == theirs.has_value());
  if (ours) ENSURE(ours->channel == theirs->channel && equal(ours->data, theirs->payload));

  Message server;
  const ParseError error = Message::parse(bytes, server);
  const auto view = tool::MessageView::parse(bytes);
  const auto features =
      tool::nonce_features({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  ENSURE(features.cookie || (!features.password_algorithms && !features.username_anonymity));
  if (!view) {
    ENSURE(error == ParseError::kNotStun || error == ParseError::kMalformed ||
           error == ParseError::kTooLong || error == ParseError::kBadFingerprint);
    return 0;
  }
  same_data_indication(*view);
  ENSURE(view->password_algorithms().size() <= bytes.size());
  if (const auto e = view->error()) ENSURE(e->code >= 0 && e->code < 1000);
  build_again(*view);
  // The server alone has limits of length, and takes FINGERPRINT for part of the structure.
  if (error == ParseError::kBadFingerprint) ENSURE(!view->fingerprint_valid());
  if (error == ParseError::kNone)
    same_reading(server, *view);
  else
    ENSURE(error == ParseError::kBadFingerprint || error == ParseError::kTooLong);
  return 0;
}
