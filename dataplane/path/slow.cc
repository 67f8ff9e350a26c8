// STUN on a listener. What can be answered without state is answered here: Binding, the 401
// challenge with its stateless nonce, and the bare 437 (DESIGN 5). Requests with integrity go to
// control over the event ring. Answers nobody authenticated are paid from the reply budget.
#include "dataplane/api/nonce.h"
#include "dataplane/path/no_flow.h"

namespace culvert {

namespace {

using stun::AttributeSlot;
using stun::Class;

constexpr uint16_t kUnauthorized = 401;
constexpr uint16_t kUnknownAttribute = 420;
constexpr uint16_t kAllocationMismatch = 437;
// What a challenge costs at least (100 bytes of answer for 20 of request): what a refund gives
// back.
constexpr uint32_t kChallengeCost = 100;
// One part in this many of the ring to control is not for requests.
constexpr uint32_t kEventRingSpareShare = 8;

[[nodiscard]] uint32_t headers_of(const IpAddress& ip) {
  return ip.is_v4() ? kIpv4UdpHeaders : kIpv6UdpHeaders;
}

[[nodiscard]] std::span<uint8_t> reply_buffer(PathContext& path) {
  return path.core.replies[path.out.count];
}

// Charges the budget and sends; counts `sent` or why not.
void send_reply(PathContext& path, const RxDatagram& rx, const stun::Builder& reply, Outcome sent) {
  CoreState& core = path.core;
  const uint32_t headers = headers_of(rx.source.ip);
  const uint32_t in = rx.length + headers;
  const auto out = static_cast<uint32_t>(reply.size()) + headers;
  using Verdict = ReplyBudgetBuckets::Verdict;
  const Verdict verdict =
      core.flows.budget.charge(path.snapshot.reply_budget, rx.source.ip, in, out, path.now);
  if (verdict == Verdict::kTooLarge || !reply.ok()) return core.count(Outcome::k_reply_too_large);
  if (verdict == Verdict::kOverBudget) return core.count(Outcome::k_reply_budget);
  core.stats.reply_bytes_in.add(in);
  core.stats.reply_bytes_out.add(out);

  const Listener& listener = path.snapshot.listeners[rx.listener];
  TxDatagram& tx = next_out(path);
  tx.payload = reply.bytes().data();
  tx.length = static_cast<uint16_t>(reply.size());
  tx.head_length = tx.pad_length = 0;
  tx.egress = core.listener_egress[rx.listener];
  tx.to = rx.source;
  tx.from_address = listener.address;
  tx.from_port = listener.port;
  tx.ttl = 64;
  tx.tos = 0;
  tx.dont_fragment = false;
  emit(path, tx);
  core.count(sent);
}

// RFC 8489 section 12; NAT behaviour discovery (RFC 5780) is refused with 420 while this server has
// no alternate address.
void answer_binding(PathContext& path, const RxDatagram& rx, const stun::Message& request) {
  std::array<uint16_t, stun::kMaxUnknownAttributes + 3> unknown;
  size_t unknown_count = 0;
  for (const uint16_t type : request.unknown_required())
    unknown[unknown_count++] = type;
  constexpr std::pair<AttributeSlot, stun::Attribute> kDiscovery[] = {
      {AttributeSlot::kChangeRequest, stun::Attribute::kChangeRequest},
      {AttributeSlot::kPadding, stun::Attribute::kPadding},
      {AttributeSlot::kResponsePort, stun::Attribute::kResponsePort}};
  for (const auto& [slot, type] : kDiscovery)
    if (request.has(slot)) unknown[unknown_count++] = static_cast<uint16_t>(type);

  const bool error = unknown_count != 0;
  stun::Builder reply(reply_buffer(path), error ? Class::kError : Class::kSuccess, stun::kBinding,
                      request.transaction_id());
  if (error) {
    reply.add_error(kUnknownAttribute);
    reply.add_unknown_attributes({unknown.data(), unknown_count});
  } else {
    reply.add_xor_address(stun::Attribute::kXorMappedAddress, rx.source);
  }
  if (request.has(AttributeSlot::kFingerprint)) reply.add_fingerprint();
  send_reply(path, rx, reply, error ? Outcome::k_stun_error_answered : Outcome::k_binding_answered);
}

// Of a challenge in its short form: header, ERROR-CODE without a reason, REALM, NONCE.
[[nodiscard]] uint32_t least_challenge(const Listener& listener) {
  constexpr size_t kAttributeHeader = 4;
  constexpr size_t kErrorCode = kAttributeHeader + 4;
  constexpr size_t kNonce = kAttributeHeader + (kNonceLength + 3) / 4 * 4;
  return static_cast<uint32_t>(stun::kHeaderSize + kErrorCode + listener.realm_attribute.size() +
                               kNonce);
}

// Whether a challenge to this source can be paid for; if not, that is counted.
[[nodiscard]] bool may_challenge(PathContext& path, const RxDatagram& rx) {
  const Listener& listener = path.snapshot.listeners[rx.listener];
  const uint32_t headers = headers_of(rx.source.ip);
  const bool exhausted = path.core.flows.budget.exhausted(
      path.snapshot.reply_budget, rx.source.ip, rx.length + headers,
      least_challenge(listener) + headers, path.now);
  if (exhausted) path.core.count(Outcome::k_reply_budget);
  return !exhausted;
}

void challenge(PathContext& path, const RxDatagram& rx, const stun::Message& request) {
  const Snapshot& snapshot = path.snapshot;
  const Listener& listener = snapshot.listeners[rx.listener];
  const uint32_t headers = headers_of(rx.source.ip);
  const auto build = [&](uint32_t features, std::span<const uint8_t> algorithms) {
    stun::Builder reply(reply_buffer(path), Class::kError, request.method(),
                        request.transaction_id());
    reply.add_error(kUnauthorized);
    reply.add_encoded(listener.realm_attribute);
    const Nonce nonce = make_nonce(snapshot.nonce_keys, listener.realm, features, rx.source);
    reply.add(stun::Attribute::kNonce, std::string_view(nonce.data(), nonce.size()));
    reply.add_encoded(algorithms);
    return reply;
  };
  stun::Builder reply = build(listener.nonce_features, listener.algorithms_attribute);
  if ((reply.size() + headers) * 10 > (rx.length + headers) * kMaxReplyRatioTenths) {
    // A request this short gets the short form: no algorithms offered, and the cookie says so.
    reply = build(listener.nonce_features & ~kFeaturePasswordAlgorithms, {});
  }
  send_reply(path, rx, reply, Outcome::k_challenged);
}

void answer_no_allocation(PathContext& path, const RxDatagram& rx, const stun::Message& request) {
  stun::Builder reply(reply_buffer(path), Class::kError, request.method(),
                      request.transaction_id());
  reply.add_error(kAllocationMismatch);
  send_reply(path, rx, reply, Outcome::k_no_allocation_answered);
}

void to_control(PathContext& path, const RxDatagram& rx, const stun::Message& message) {
  CoreState& core = path.core;
  const Snapshot& snapshot = path.snapshot;
  const Listener& listener = snapshot.listeners[rx.listener];
  NonceState nonce = NonceState::kForeign;
  if (message.has(AttributeSlot::kNonce))
    nonce = check_nonce(snapshot.nonce_keys, listener.realm, rx.source,
                        message.value(AttributeSlot::kNonce), snapshot.nonce_lifetime_seconds)
                .state;
  const bool valid = nonce == NonceState::kValid;
  ReplyBudgetBuckets& budget = core.flows.budget;
  // An old nonce of ours is no stranger's: a flood of invented ones must not keep live clients from
  // the 438 that lets them refresh.
  if (nonce == NonceState::kForeign && !budget.admit_bad_nonce(snapshot.reply_budget, path.now))
    return core.count(Outcome::k_bad_nonce_budget);
  // Requests leave room for what control must hear: failed commands and the ends of allocations.
  const size_t slots =
      kFixedSlots + (message.bytes().size() + sizeof(RingSlot) - 1) / sizeof(RingSlot);
  const bool room = core.events->can_reserve(static_cast<uint32_t>(slots),
                                             core.events->capacity() / kEventRingSpareShare);
  Request event;
  event.client = ClientTuple{rx.source, rx.listener, 0};
  event.nonce_valid = valid ? 1 : 0;
  event.at = path.now;
  if (!room || !ring_write(*core.events, event, message.bytes())) {
    core.stats.events_dropped.add(1);
    return core.count(Outcome::k_control_busy);
  }
  core.wake_control = true;
  if (valid && budget.refund(snapshot.reply_budget, rx.source.ip, kChallengeCost, path.now))
    core.stats.challenge_refunds.add(1);
  core.count(valid ? Outcome::k_request_to_control : Outcome::k_bad_nonce_to_control);
}

[[nodiscard]] bool is_turn_method(uint16_t method) {
  return method == stun::kAllocate || method == stun::kRefresh ||
         method == stun::kCreatePermission || method == stun::kChannelBind ||
         method == stun::kConnect || method == stun::kConnectionBind;
}

void handle_request(PathContext& path, const RxDatagram& rx, const stun::Message& message) {
  if (message.method() == stun::kBinding) return answer_binding(path, rx, message);
  if (!is_turn_method(message.method())) return path.core.count(Outcome::k_stun_method_unknown);
  if (message.has_integrity()) {
    // An allocation is made where its client belongs.
    if (!steered(path, rx)) to_control(path, rx, message);
    return;
  }
  const ClientTuple client{rx.source, rx.listener, 0};
  const FlowState& flows = path.core.flows;
  const bool known = message.method() == stun::kAllocate || flows.find_client(client) != kNoSlot ||
                     flows.find_redirect(client) != kNoSlot;
  if (known) {
    if (may_challenge(path, rx)) challenge(path, rx, message);
  } else if (!steered(path, rx)) {
    answer_no_allocation(path, rx, message);
  }
}

void handle_indication(PathContext& path, const RxDatagram& rx, const stun::Message& message) {
  if (message.method() == stun::kSend) return handle_send(path, rx, message);
  path.core.count(message.method() == stun::kBinding ? Outcome::k_keepalive
                                                     : Outcome::k_stun_method_unknown);
}

}  // namespace

void handle_stun(PathContext& path, const RxDatagram& rx) {
  // A flood of spoofed Allocates ends here, read no further than it must be.
  const bool bare = stun::is_bare_allocate({rx.payload, rx.length});
  if (bare && !may_challenge(path, rx)) return;
  stun::Message message;
  switch (stun::Message::parse({rx.payload, rx.length}, message)) {
    case stun::ParseError::kNone:
      break;
    case stun::ParseError::kTooLong:
      return path.core.count(Outcome::k_stun_too_long);
    case stun::ParseError::kBadFingerprint:
      return path.core.count(Outcome::k_stun_fingerprint_bad);
    case stun::ParseError::kNotStun:
    case stun::ParseError::kMalformed:
      return path.core.count(Outcome::k_stun_malformed);
  }
  switch (message.message_class()) {
    case Class::kRequest:
      return bare ? challenge(path, rx, message) : handle_request(path, rx, message);
    case Class::kIndication:
      return handle_indication(path, rx, message);
    case Class::kSuccess:
    case Class::kError:
      return path.core.count(Outcome::k_response_ignored);
  }
}

}  // namespace culvert
