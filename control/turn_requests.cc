// A request from its event to its answer: integrity, 420, then the methods on an existing
// allocation (Refresh, CreatePermission, ChannelBind), and the answers to commands that a core
// refused.
#include <algorithm>

#include "control/snapshot_builder.h"
#include "control/turn_impl.h"

namespace culvert {

using stun::Attribute;
using stun::AttributeSlot;

namespace {

// Known to the codec, but not understood in a request to a TURN server over UDP: ICE's attributes,
// NAT behaviour discovery (RFC 5780, needs a second address), OAuth (RFC 7635), TCP allocations
// (RFC 6062).
constexpr AttributeSlot kNotUnderstood[] = {
    AttributeSlot::kChangeRequest, AttributeSlot::kAccessToken, AttributeSlot::kPriority,
    AttributeSlot::kUseCandidate,  AttributeSlot::kPadding,     AttributeSlot::kResponsePort,
    AttributeSlot::kConnectionId,
};
constexpr Attribute kNotUnderstoodTypes[] = {
    Attribute::kChangeRequest, Attribute::kAccessToken, Attribute::kPriority,
    Attribute::kUseCandidate,  Attribute::kPadding,     Attribute::kResponsePort,
    Attribute::kConnectionId,
};

// Reason phrases go only to clients that have authenticated: elsewhere they would feed
// amplification.
[[nodiscard]] std::string_view reason_of(uint16_t code) {
  switch (code) {
    case 400:
      return "Bad Request";
    case 403:
      return "Forbidden";
    case 420:
      return "Unknown Attribute";
    case 437:
      return "Allocation Mismatch";
    case 440:
      return "Address Family not Supported";
    case 441:
      return "Wrong Credentials";
    case 442:
      return "Unsupported Transport Protocol";
    case 443:
      return "Peer Address Family Mismatch";
    case 486:
      return "Allocation Quota Reached";
    case 508:
      return "Insufficient Capacity";
    default:
      return "Server Error";
  }
}

}  // namespace

// ---------------------------------------------------------------- answers

stun::Builder TurnServer::Impl::begin(const Reply& reply, stun::Class message_class) {
  return {buffer_, message_class, reply.method, reply.transaction};
}

void TurnServer::Impl::finish(stun::Builder& builder, const Reply& reply) {
  if (reply.authenticated) {
    builder.add_encoded(software_);
    add_integrity(builder, reply.integrity);
  }
  if (reply.fingerprint) builder.add_fingerprint();
}

void TurnServer::Impl::count_error(uint16_t code) {
  const auto at = std::find(kTurnErrorCodes.begin(), kTurnErrorCodes.end(), code);
  if (at != kTurnErrorCodes.end())
    ++stats_.errors[static_cast<size_t>(at - kTurnErrorCodes.begin())];
}

void TurnServer::Impl::send_error(const Reply& reply, uint16_t code,
                                  std::span<const uint16_t> unknown_attributes) {
  count_error(code);
  stun::Builder builder = begin(reply, stun::Class::kError);
  builder.add_error(code, reason_of(code));
  if (code == 420) builder.add_unknown_attributes(unknown_attributes);
  finish(builder, reply);
  SendReply command;
  command.client = reply.client;
  if (!builder.ok() || !engine_.send(reply.core, command, builder.bytes())) ring_full();
}

// RFC 8489 section 9.2.4: 401 and 438 carry REALM, a fresh NONCE and PASSWORD-ALGORITHMS; 400
// carries nothing; none of them has integrity.
void TurnServer::Impl::send_auth_error(const Reply& reply, uint16_t realm, uint16_t code) {
  stun::Builder builder = begin(reply, stun::Class::kError);
  builder.add_error(code);
  if (code != 400) {
    const RealmState& state = realms_[realm];
    builder.add_encoded(state.realm_attribute);
    const Nonce nonce = make_nonce(nonce_keys_, realm, state.features, reply.client.client);
    builder.add(Attribute::kNonce, std::string_view(nonce.data(), nonce.size()));
    builder.add_encoded(state.algorithms_attribute);
  }
  finish(builder, reply);
  if (reply.unproven_bytes != 0) {
    const size_t headers = reply.client.client.ip.is_v4() ? kIpv4UdpHeaders : kIpv6UdpHeaders;
    if ((builder.bytes().size() + headers) * 10 >
        (reply.unproven_bytes + headers) * kMaxReplyRatioTenths) {
      ++stats_.requests_silenced;
      return;
    }
  }
  count_error(code);
  SendReply command;
  command.client = reply.client;
  if (!builder.ok() || !engine_.send(reply.core, command, builder.bytes())) ring_full();
}

// ---------------------------------------------------------------- requests

void TurnServer::Impl::on_request(CoreId core, const Request& event,
                                  std::span<const uint8_t> payload) {
  ++stats_.requests;
  stun::Message message;
  if (stun::Message::parse(payload, message) != stun::ParseError::kNone ||
      message.message_class() != stun::Class::kRequest || !message.has_integrity() ||
      event.client.listener >= config_.listeners.size()) {
    ++stats_.malformed;
    return;
  }
  const uint16_t realm = config_.listeners[event.client.listener].realm;
  const uint32_t record = find_client(event.client);
  Reply reply;
  reply.core = core;
  reply.client = event.client;
  reply.method = message.method();
  reply.transaction = message.transaction_id();
  reply.fingerprint = message.has(AttributeSlot::kFingerprint);

  const NonceCheck nonce =
      check_nonce(nonce_keys_, realm, event.client.client, message.value(AttributeSlot::kNonce),
                  config_.limits.nonce_lifetime_seconds);
  if (nonce.state == NonceState::kForeign) reply.unproven_bytes = payload.size();
  const UserId live_user = record == kNoRecord ? kNoUser : records_[record].user;
  // The address is proven by a nonce of ours; who has an allocation here is heard in any case.
  const bool stranger = record == kNoRecord && nonce.state != NonceState::kForeign;
  const IpAddress& source = event.client.client.ip;
  if (stranger && failures_.exhausted(source, now_.ms)) {
    ++stats_.requests_silenced;
    return;
  }
  const AuthResult auth = auth_.check(message, realms_[realm], realm, nonce, event.nonce_valid != 0,
                                      live_user, now_.unix_seconds);
  if (auth.error == 401 && stranger && failures_.count(source, now_.ms) && hooks_.notice)
    hooks_.notice("too many failed authentications from " + source.to_string() +
                  ": its requests are dropped for a while");
  if (auth.error != 0) return send_auth_error(reply, realm, auth.error);
  reply.authenticated = true;
  reply.integrity = auth.integrity;

  const Call call{message, reply, realm, auth.username, auth.account, record};
  if (refuse_unknown_attributes(call)) return;
  switch (message.method()) {
    case stun::kAllocate:
      return allocate(call);
    case stun::kRefresh:
      return refresh(call);
    case stun::kCreatePermission:
      return create_permission(call);
    case stun::kChannelBind:
      return channel_bind(call);
    default:
      return send_error(reply, 400);
  }
}

bool TurnServer::Impl::refuse_unknown_attributes(const Call& call) {
  std::array<uint16_t, stun::kMaxUnknownAttributes + std::size(kNotUnderstood)> types;
  size_t count = 0;
  for (const uint16_t type : call.message.unknown_required())
    types[count++] = type;
  for (size_t i = 0; i < std::size(kNotUnderstood); ++i) {
    if (call.message.has(kNotUnderstood[i]))
      types[count++] = static_cast<uint16_t>(kNotUnderstoodTypes[i]);
  }
  if (count == 0) return false;
  send_error(call.reply, 420, {types.data(), count});
  return true;
}

bool TurnServer::Impl::has_own_allocation(const Call& call) {
  if (call.record == kNoRecord || records_[call.record].live_legs() == 0) {
    send_error(call.reply, 437);
    return false;
  }
  const User& user = users_[records_[call.record].user];
  if (user.name != call.username || user.realm != call.realm) {
    send_error(call.reply, 441);
    return false;
  }
  heal_steering(call);
  return true;
}

// A client's packets may arrive at another core than before (its NAT or our steering changed).
// Whichever core passes us a request and is not the owner gets a redirect, so that data finds its
// flow too.
void TurnServer::Impl::heal_steering(const Call& call) {
  AllocationRecord& record = records_[call.record];
  const CoreId owner_core = core_of(call.record);
  if (call.reply.core == owner_core) return;
  InstallRedirect redirect;
  redirect.client = record.client;
  redirect.owner = owner_core;
  if (!engine_.send(call.reply.core, redirect)) return;  // the next request tries again
  if (record.ingress_core != owner_core && record.ingress_core != call.reply.core)
    defer({record.ingress_core, CommandType::kRemoveRedirect, {}, record.client});
  if (record.ingress_core != call.reply.core) ++stats_.redirects;
  record.ingress_core = call.reply.core;
}

uint32_t TurnServer::Impl::granted_lifetime(const stun::Message& message) const {
  const LimitsConfig& limits = config_.limits;
  const auto value = message.value(AttributeSlot::kLifetime);
  const uint32_t wanted = value.size() == 4 ? load_be32(value.data()) : 0;
  return std::max(limits.default_lifetime_seconds, std::min(wanted, limits.max_lifetime_seconds));
}

// RFC 8656 section 8.2.
void TurnServer::Impl::refresh(const Call& call) {
  if (!has_own_allocation(call)) return;
  const stun::Message& m = call.message;
  AllocationRecord& record = records_[call.record];
  if (m.has(AttributeSlot::kLifetime) && m.value(AttributeSlot::kLifetime).size() != 4)
    return send_error(call.reply, 400);
  uint8_t legs = record.live_legs();
  if (m.has(AttributeSlot::kRequestedAddressFamily)) {
    const auto family = m.value(AttributeSlot::kRequestedAddressFamily);
    if (family.size() != 4) return send_error(call.reply, 400);
    const int wanted = family[0] == 1 ? kLegIpv4 : family[0] == 2 ? kLegIpv6 : 0;
    legs = static_cast<uint8_t>(legs & wanted);
    if (legs == 0) return send_error(call.reply, 443);
  }
  const bool removes =
      m.has(AttributeSlot::kLifetime) && load_be32(m.value(AttributeSlot::kLifetime).data()) == 0;
  const uint32_t lifetime = removes ? 0 : granted_lifetime(m);
  stun::Builder builder = begin(call.reply, stun::Class::kSuccess);
  builder.add_u32(Attribute::kLifetime, lifetime);
  finish(builder, call.reply);

  if (removes) {
    if (!remove(call.record, legs, EndReason::kDeleted, builder.bytes())) return ring_full();
    ++stats_.deletions;
    return;
  }
  RefreshAllocation command;
  command.cookie = users_.ticket(record.user);
  command.handle = handle_of(call.record);
  command.lifetime_ms = lifetime * 1000;
  command.legs = legs;
  if (!engine_.send(core_of(call.record), command, builder.bytes())) return ring_full();
  // What it has until its last family ends.
  const uint64_t expires_ms = now_.ms + command.lifetime_ms;
  record.expires_ms =
      legs == record.live_legs() ? expires_ms : std::max(record.expires_ms, expires_ms);
  ++stats_.refreshes;
}

uint16_t TurnServer::Impl::judge_peer(const AllocationRecord& record, const IpAddress& peer,
                                      uint8_t& own_address) const {
  if ((record.live_legs() & leg_bit(peer.family)) == 0) return 443;
  // Whatever the rules allow: the cores' tables know this spelling as IPv4.
  if (peer.is_v4_mapped_v6()) return 403;
  const PeerVerdict verdict = policy_.judge(peer);
  own_address = verdict == PeerVerdict::kOwnRelay ? 1 : 0;
  return verdict == PeerVerdict::kDenied ? 403 : 0;
}

// RFC 8656 section 10.2.
void TurnServer::Impl::create_permission(const Call& call) {
  if (!has_own_allocation(call)) return;
  const AllocationRecord& record = records_[call.record];
  std::array<PermissionPeer, kMaxPermissionPeers> peers;
  size_t count = 0;
  uint16_t error = 0;
  call.message.each_peer([&](std::span<const uint8_t> value) {
    const auto peer = call.message.xor_address(value);
    if (!peer) {
      error = 400;
    } else if (count == peers.size()) {
      error = 508;
    } else {
      peers[count].ip = peer->ip;
      if (error == 0) error = judge_peer(record, peer->ip, peers[count].own_address);
      ++count;
    }
    return error != 400 && error != 508;  // a malformed one decides, wherever it stands
  });
  if (count == 0 && error == 0) error = 400;
  if (error != 0) return send_error(call.reply, error);

  stun::Builder builder = begin(call.reply, stun::Class::kSuccess);
  finish(builder, call.reply);
  CreatePermission command;
  command.cookie = users_.ticket(record.user);
  command.handle = handle_of(call.record);
  command.peer_count = static_cast<uint32_t>(count);
  const std::span<const uint8_t> list{reinterpret_cast<const uint8_t*>(peers.data()),
                                      count * sizeof(PermissionPeer)};
  if (!engine_.send(core_of(call.record), command, list, builder.bytes())) return ring_full();
  ++stats_.permission_requests;
}

bool TurnServer::Impl::live_own_port(const TransportAddress& peer) const {
  for (size_t i = 0; i < ports_.size(); ++i) {
    const LocalAddress& a = addresses_[i];
    if ((a.bound == peer.ip || a.advertised == peer.ip) && ports_[i].live(peer.port)) return true;
  }
  return false;
}

// RFC 8656 section 12.2.
void TurnServer::Impl::channel_bind(const Call& call) {
  if (!has_own_allocation(call)) return;
  const stun::Message& m = call.message;
  const AllocationRecord& record = records_[call.record];
  const auto number = m.value(AttributeSlot::kChannelNumber);
  const auto peer = m.xor_address(m.value(AttributeSlot::kXorPeerAddress));
  if (number.size() != 4 || !peer || peer->port == 0) return send_error(call.reply, 400);
  BindChannel command;
  command.channel = load_be16(number.data());
  if (command.channel < kFirstChannel || command.channel > kLastChannel)
    return send_error(call.reply, 400);
  uint16_t error = judge_peer(record, peer->ip, command.own_address);
  // A port of ours that relays nothing would be a way to our own services.
  if (error == 0 && command.own_address != 0 && !live_own_port(*peer)) error = 403;
  if (error != 0) return send_error(call.reply, error);

  stun::Builder builder = begin(call.reply, stun::Class::kSuccess);
  finish(builder, call.reply);
  command.cookie = users_.ticket(record.user);
  command.handle = handle_of(call.record);
  command.peer = *peer;
  if (!engine_.send(core_of(call.record), command, builder.bytes())) return ring_full();
  ++stats_.channel_binds;
}

}  // namespace culvert
