// Allocate: its checks in the order of RFC 8656 section 7.2, reservations, dual allocations, the
// port drawn and drawn again, and what becomes of an installation that a core refused.
#include <algorithm>

#include "control/turn_impl.h"
#include "crypto/random.h"
#include "dataplane/base/assert.h"

namespace culvert {

using stun::Attribute;
using stun::AttributeSlot;

namespace {

constexpr uint8_t kUdp = 17;            // REQUESTED-TRANSPORT, RFC 8656 section 18.8
constexpr uint8_t kReserveNext = 0x80;  // EVEN-PORT's R bit, section 18.6

// RFC 8656 section 18.7 asks for at least 30 s; two more for the answer's way to the client.
constexpr uint64_t kReservationMs = (kReservationLifetimeSeconds + 2) * 1000;

// An address family attribute: kNone when it names no family we know. `wrong`: its length is.
[[nodiscard]] Family family_of(std::span<const uint8_t> value, bool& wrong) {
  wrong = value.size() != 4;
  if (wrong) return Family::kNone;
  return value[0] == 1 ? Family::kIpv4 : value[0] == 2 ? Family::kIpv6 : Family::kNone;
}

}  // namespace

struct TurnServer::Impl::AllocateOptions {
  bool ipv4 = false;
  bool ipv6 = false;
  bool dual = false;  // ADDITIONAL-ADDRESS-FAMILY: one of the two is enough
  PortKind port_kind = PortKind::kAny;
  bool use_token = false;
  uint64_t token = 0;
};

// RFC 8656 section 7.2, steps 3 to 9. 0, or the error code.
uint16_t TurnServer::Impl::parse_allocate(const stun::Message& m, AllocateOptions& out) const {
  const auto transport = m.value(AttributeSlot::kRequestedTransport);
  if (transport.size() != 4) return 400;
  if (transport[0] != kUdp) return 442;
  if (m.has(AttributeSlot::kLifetime) && m.value(AttributeSlot::kLifetime).size() != 4) return 400;

  const bool has_even = m.has(AttributeSlot::kEvenPort);
  const bool has_family = m.has(AttributeSlot::kRequestedAddressFamily);
  const bool has_additional = m.has(AttributeSlot::kAdditionalAddressFamily);
  if (m.has(AttributeSlot::kReservationToken)) {
    const auto token = m.value(AttributeSlot::kReservationToken);
    if (token.size() != 8 || has_even || has_family || has_additional) return 400;
    out.use_token = true;
    out.token = load_be64(token.data());
    return reservations_.contains(out.token) ? 0 : 508;
  }
  if (has_family && has_additional) return 400;
  bool wrong = false;
  Family family = Family::kIpv4;
  if (has_family) family = family_of(m.value(AttributeSlot::kRequestedAddressFamily), wrong);
  if (wrong) return 400;
  if (has_even) {
    const auto value = m.value(AttributeSlot::kEvenPort);
    if (value.size() != 1) return 400;
    out.port_kind = (value[0] & kReserveNext) != 0 ? PortKind::kEvenPair : PortKind::kEven;
    if (out.port_kind == PortKind::kEvenPair && has_additional) return 400;
  }
  if (has_additional) {
    if (family_of(m.value(AttributeSlot::kAdditionalAddressFamily), wrong) != Family::kIpv6 ||
        wrong)
      return 400;
    out.dual = out.ipv4 = out.ipv6 = true;
    return relays_ipv4_.empty() && relays_ipv6_.empty() ? 440 : 0;
  }
  out.ipv4 = family == Family::kIpv4;
  out.ipv6 = family == Family::kIpv6;
  return (out.ipv4 && !relays_ipv4_.empty()) || (out.ipv6 && !relays_ipv6_.empty()) ? 0 : 440;
}

void TurnServer::Impl::allocate(const Call& call) {
  if (call.record != kNoRecord) {
    const AllocationRecord& record = records_[call.record];
    // Its removal is on the way through another core's ring: the retransmission will find it gone.
    if (record.live_legs() == 0) return;
    const User& user = users_[record.user];
    const bool same =
        std::equal(record.transaction.begin(), record.transaction.end(), call.reply.transaction) &&
        user.name == call.username && user.realm == call.realm;
    return same ? answer_again(call) : send_error(call.reply, 437);
  }
  AllocateOptions options;
  const uint16_t error = parse_allocate(call.message, options);
  if (error != 0) return send_error(call.reply, error);
  const uint32_t quota = realms_[call.realm].user_quota;
  const UserId account = users_.find(call.realm, call.account);
  const uint32_t held = account == kNoUser ? 0 : users_[account].held;
  const uint32_t wanted = options.port_kind == PortKind::kEvenPair ? 2 : 1;
  // A reservation already counts; who uses another user's takes it over.
  const bool own_token =
      options.use_token && account != kNoUser &&
      users_.account_of(reservations_.at(options.token).user).name == call.account;
  if (quota != 0 && held + wanted - (own_token ? 1 : 0) > quota) return send_error(call.reply, 486);
  const size_t total = live_ + reservations_.size() + wanted - (options.use_token ? 1 : 0);
  if (draining_ || total > max_allocations_) return send_error(call.reply, 508);
  if (wanted == 2 && reservations_.size() >= kMaxReservations) return send_error(call.reply, 508);
  install_new(call, options);
}

// The answer to a retransmission is built anew from the record. It travels in a RefreshAllocation
// that keeps the expiry where it is: behind the installation in the same ring, and void if that
// failed.
void TurnServer::Impl::answer_again(const Call& call) {
  AllocationRecord& record = records_[call.record];
  heal_steering(call);
  stun::Builder builder = begin(call.reply, stun::Class::kSuccess);
  add_allocate_answer(builder, record);
  finish(builder, call.reply);
  RefreshAllocation command;
  command.cookie = users_.ticket(record.user);
  command.handle = handle_of(call.record);
  command.legs = record.live_legs();
  command.lifetime_ms =
      record.expires_ms > now_.ms ? static_cast<uint32_t>(record.expires_ms - now_.ms) : 1;
  if (!engine_.send(core_of(call.record), command, builder.bytes())) return ring_full();
  ++stats_.retransmitted_allocates;
}

std::optional<RelayLeg> TurnServer::Impl::draw_leg(Family family, CoreId core, PortKind kind,
                                                   uint16_t listener) {
  const auto& relays = family == Family::kIpv4 ? relays_ipv4_ : relays_ipv6_;
  if (relays.empty()) return std::nullopt;
  // The address the client talks to, where it relays: the route that works for it. Else a random
  // one.
  const uint16_t heard = engine_.snapshot().listeners[listener].address;
  auto at = std::find(relays.begin(), relays.end(), heard);
  if (at == relays.end() && relays.size() > 1)
    at = relays.begin() + random_.below(static_cast<uint32_t>(relays.size()));
  const auto start = at == relays.end() ? size_t{0} : static_cast<size_t>(at - relays.begin());
  for (size_t i = 0; i < relays.size(); ++i) {
    const uint16_t address = relays[(start + i) % relays.size()];
    const auto port = ports_[address].draw(core, kind, random_);
    if (port) return RelayLeg{address, *port};
  }
  return std::nullopt;
}

// 0, or the error code; with `dual` one family is enough and the other's error goes into the
// answer.
uint16_t TurnServer::Impl::draw_legs(uint32_t index, const AllocateOptions& options) {
  AllocationRecord& record = records_[index];
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    if (!(family == Family::kIpv4 ? options.ipv4 : options.ipv6)) continue;
    const auto leg = draw_leg(family, core_of(index), options.port_kind, record.client.listener);
    if (leg) {
      record.leg(family) = *leg;
      continue;
    }
    const bool none = family == Family::kIpv4 ? relays_ipv4_.empty() : relays_ipv6_.empty();
    record.missing_error = none ? 440 : 508;
    record.missing_family = family;
  }
  return record.legs() != 0 ? 0 : 508;
}

bool TurnServer::Impl::make_reservation(uint32_t index) {
  AllocationRecord& record = records_[index];
  const RelayLeg& leg = record.ipv4.present() ? record.ipv4 : record.ipv6;
  Reservation held;
  held.leg = {leg.address, static_cast<uint16_t>(leg.port + 1)};
  held.core = core_of(index);
  held.user = record.user;
  held.expires_ms = now_.ms + kReservationMs;
  const uint64_t token = random_.u64();
  if (!reservations_.emplace(token, held).second) return false;
  reservation_expiry_.push_back({held.expires_ms, token});
  users_.add_reference(held.user);
  ++users_.account_of(held.user).held;
  record.token = token;
  record.has_token = true;
  ++stats_.reservations_made;
  return true;
}

void TurnServer::Impl::install_new(const Call& call, const AllocateOptions& options) {
  const CoreId core = options.use_token ? reservations_.at(options.token).core : call.reply.core;
  const uint32_t index = new_record(core, call.reply.client);
  if (index == kNoRecord) return send_error(call.reply, 508);
  AllocationRecord& record = records_[index];
  std::copy_n(call.reply.transaction, record.transaction.size(), record.transaction.begin());
  record.user = users_.obtain(call.realm, call.username, call.account);
  users_.add_reference(record.user);
  ++users_.account_of(record.user).held;
  record.lifetime_seconds = granted_lifetime(call.message);
  record.expires_ms = now_.ms + uint64_t{record.lifetime_seconds} * 1000;
  record.ingress_core = call.reply.core;
  record.port_kind = options.port_kind;

  Reservation used;
  if (options.use_token) {
    used = take_reservation(index, options.token);
  } else {
    const uint16_t error = draw_legs(index, options);
    const bool pair_failed =
        options.port_kind == PortKind::kEvenPair && error == 0 && !make_reservation(index);
    if (error != 0 || pair_failed) {
      abandon(index);
      return send_error(call.reply, 508);
    }
  }
  if (!join_bandwidth(index) || !send_install(index, call.reply)) {
    ring_full();
    if (options.use_token) put_back_reservation(index, options.token, used);
    record.ingress_core = core;  // no redirect was sent
    return abandon(index);
  }
  ++stats_.allocations_made;
  if (options.use_token) {
    --users_.account_of(used.user).held;
    users_.drop_reference(used.user);
    ++stats_.reservations_used;
  }
  heal_steering({call.message, call.reply, call.realm, call.username, call.account, index});
}

// The held port becomes the record's; it changes hands without being closed. The reservation's
// place in its maker's quota is given up by the caller once the installation is sent.
Reservation TurnServer::Impl::take_reservation(uint32_t index, uint64_t token) {
  AllocationRecord& record = records_[index];
  const Reservation used = reservations_.at(token);
  reservations_.erase(token);
  record.from_reservation = true;
  const bool ipv4 = addresses_[used.leg.address].bound.is_v4();
  (ipv4 ? record.ipv4 : record.ipv6) = used.leg;
  ports_[used.leg.address].use_held(used.leg.port);
  return used;
}

void TurnServer::Impl::put_back_reservation(uint32_t index, uint64_t token,
                                            const Reservation& used) {
  AllocationRecord& record = records_[index];
  ports_[used.leg.address].hold_again(used.leg.port);
  record.ipv4 = record.ipv6 = RelayLeg{};
  record.from_reservation = false;
  reservations_.emplace(token, used);
}

void TurnServer::Impl::add_allocate_answer(stun::Builder& builder,
                                           const AllocationRecord& record) const {
  for (const RelayLeg* leg : {&record.ipv4, &record.ipv6}) {
    if (leg->present()) builder.add_xor_address(Attribute::kXorRelayedAddress, *advertised(*leg));
  }
  if (record.missing_error != 0)
    builder.add_address_error(record.missing_family, record.missing_error);
  builder.add_u32(Attribute::kLifetime, record.lifetime_seconds);
  if (record.has_token) {
    uint8_t token[8];
    store_be64(token, record.token);
    builder.add(Attribute::kReservationToken, token);
  }
  builder.add_xor_address(Attribute::kXorMappedAddress, record.client.client);
}

bool TurnServer::Impl::send_install(uint32_t index, const Reply& reply) {
  const AllocationRecord& record = records_[index];
  stun::Builder builder = begin(reply, stun::Class::kSuccess);
  add_allocate_answer(builder, record);
  finish(builder, reply);
  InstallAllocation command;
  command.cookie = users_.ticket(record.user);
  command.handle = handle_of(index);
  command.client = record.client;
  command.ipv4 = record.ipv4;
  command.ipv6 = record.ipv6;
  command.lifetime_ms = record.lifetime_seconds * 1000;
  command.policer = record.policed ? users_.account_of(record.user).policer : 0;
  command.ingress_core = record.ingress_core;
  command.reserve_next = record.port_kind == PortKind::kEvenPair ? 1 : 0;
  command.port_already_open = record.from_reservation ? 1 : 0;
  return builder.ok() && engine_.send(core_of(index), command, builder.bytes());
}

// Takes back an installation that was not or could not be made. Its answer was not sent.
void TurnServer::Impl::abandon(uint32_t index) {
  AllocationRecord& record = records_[index];
  if (record.has_token) drop_reservation(record.token, false);
  if (record.from_reservation) {
    // The core still holds the port open from the reservation; it is given back with the close.
    const RelayLeg leg = record.ipv4.present() ? record.ipv4 : record.ipv6;
    record.ipv4 = record.ipv6 = RelayLeg{};
    defer({core_of(index), CommandType::kClosePort, leg, {}});
  }
  if (record.ingress_core != core_of(index))
    defer({record.ingress_core, CommandType::kRemoveRedirect, {}, record.client});
  free_record(index);
}

// Other ports instead of those the operating system refused. The refused ones are given back only
// after the draw, so that they are not drawn again at once.
bool TurnServer::Impl::redraw(uint32_t index, uint8_t failed_legs) {
  AllocationRecord& record = records_[index];
  ++stats_.port_retries;
  if (record.port_tries++ >= kMaxPortTries) return false;
  if (record.has_token) {
    drop_reservation(record.token, false);
    record.has_token = false;
  }
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    RelayLeg& leg = record.leg(family);
    if (!leg.present() || (failed_legs & leg_bit(family)) == 0) continue;
    const auto other = draw_leg(family, core_of(index), record.port_kind, record.client.listener);
    give_back_leg(leg);
    if (other) {
      leg = *other;
      continue;
    }
    record.missing_error = 508;
    record.missing_family = family;
  }
  if (record.legs() == 0) return false;
  return record.port_kind != PortKind::kEvenPair || make_reservation(index);
}

void TurnServer::Impl::on_install_failed(uint32_t index, const CommandFailed& event,
                                         const Reply& reply) {
  AllocationRecord& record = records_[index];
  // A removal that was sent behind the installation has found nothing: it must not be made after
  // all.
  const bool removed = record.ending_legs != 0 || record.close_wanted;
  if (event.error == ApplyError::kPortInUse && !record.from_reservation && !removed) {
    // Without a hint all of them are suspect.
    const uint8_t failed = event.failed_legs != 0 ? event.failed_legs : record.legs();
    if (redraw(index, failed)) {
      ++record.generation;  // whatever was sent after the refused command names nobody
      if (send_install(index, reply)) return;
      ring_full();
      return abandon(index);
    }
  }
  abandon(index);
  send_error(reply, 508);
}

// Makes a Reply from an answer that was not sent: by which of the user's keys and attributes it was
// signed is found by trying them, so that nothing need be kept per request.
std::optional<Reply> TurnServer::Impl::reopen(CoreId core, const ClientTuple& client, UserId user,
                                              const stun::Message& unsent) const {
  const auto signature = auth_.signature_of(unsent, user, realms_[users_[user].realm]);
  if (!signature) return std::nullopt;
  Reply reply;
  reply.core = core;
  reply.client = client;
  reply.method = unsent.method();
  reply.transaction = unsent.transaction_id();
  reply.fingerprint = unsent.has(AttributeSlot::kFingerprint);
  reply.authenticated = true;
  reply.integrity = *signature;
  return reply;
}

}  // namespace culvert
