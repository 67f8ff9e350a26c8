// The reference's requests: what control may answer, and what an answer makes true.
#include <algorithm>

#include "dataplane/base/endian.h"
#include "tests/sim/reference.h"
#include "tests/sim/reference_attributes.h"

namespace culvert::sim_test {

namespace {

using codec::Attr;
using codec::Class;
using codec::MessageView;
using codec::Method;

// RFC 8656: sections 9, 12 and 7.2.
constexpr uint64_t kPermissionMs = 300'000;
constexpr uint64_t kChannelMs = 600'000;
constexpr uint64_t kReservationLeastMs = 30'000;
constexpr uint64_t kReservationMostMs = 33'000;
constexpr size_t kPermissionsEach = 256;
constexpr size_t kChannelsEach = 256;
constexpr size_t kPeersInOneRequest = 32;

std::string text_of(const MessageView& m, Attr type) {
  const auto text = m.text(type);
  return text ? std::string(*text) : std::string();
}

int length_error(const Seen& seen, Attr type, size_t length) {
  const auto* a = seen.find(type);
  return a != nullptr && a->value.size() != length ? 400 : 0;
}

}  // namespace

// ------------------------------------------------------------------ nonces

void Reference::learn_nonce(const MessageView& m, const TransportAddress& client, uint64_t now) {
  const std::string nonce = text_of(m, Attr::kNonce);
  if (nonce.empty() || nonce.size() > 127) throw Violation("a challenge without a usable NONCE");
  if (text_of(m, Attr::kRealm) != config_.realms[0].name)
    throw Violation("a challenge of another realm");
  // The same one again (the clock of nonces counts seconds) stays as old as it is.
  nonces_.emplace(nonce, Nonce{client, now});
}

Reference::NonceAge Reference::age_of(const MessageView& m, const TransportAddress& client,
                                      uint64_t now) const {
  const auto known = nonces_.find(text_of(m, Attr::kNonce));
  if (known == nonces_.end() || !(known->second.client == client)) return NonceAge::kBad;
  const uint64_t life = uint64_t{config_.limits.nonce_lifetime_seconds} * 1000;
  const uint64_t age = now - known->second.made_ms;
  if (age + leniency_.clock_slack_ms < life) return NonceAge::kGood;
  if (age > life + leniency_.clock_slack_ms) {
    coverage_.hit(Expiry::kNonce);
    return NonceAge::kBad;
  }
  return NonceAge::kEither;
}

// ------------------------------------------------------------------ a request comes

void Reference::note_request(CoreId core, const Arrival& a, uint64_t now) {
  const auto m = MessageView::parse(a.data);
  const Tuple tuple{a.from, a.to};
  Pending& p = pending_[{tuple, m->transaction_id()}];
  if (p.copies++ == 0) {
    p.message.assign(a.data.begin(), a.data.end());
    p.core = core;
    p.first_ms = now;
    p.allocate = m->method() == Method::kAllocate ? 1 : 0;
    pending_allocates_ += p.allocate;
    const auto lifetime = m->u32(Attr::kLifetime);
    p.removes = m->method() == Method::kRefresh && lifetime && *lifetime == 0;
    authenticate(p, *m, tuple);
  } else if (!std::equal(a.data.begin(), a.data.end(), p.message.begin(), p.message.end())) {
    // A forgery under the same transaction id: any of the answers may come first.
    Pending other;
    other.message.assign(a.data.begin(), a.data.end());
    authenticate(other, *m, tuple);
    judge(other, tuple, now, p.codes);
    p.silence_allowed = true;
    p.auth_error = -1;
    return;
  }
  judge(p, tuple, now, p.codes);
}

// What is supposed to have been refused may be the one that was answered: a copy more.
void Reference::unsure(CoreId core, const Arrival& a, Outcome supposed, uint64_t now_ms) {
  const bool noted =
      supposed == Outcome::k_request_to_control || supposed == Outcome::k_bad_nonce_to_control;
  if (!noted) note_request(core, a, now_ms);
  const auto m = MessageView::parse(a.data);
  pending_.at({{a.from, a.to}, m->transaction_id()}).silence_allowed = true;
}

// RFC 8489 section 9.2.4, up to the nonce.
void Reference::authenticate(Pending& p, const MessageView& m, const Tuple& tuple) {
  const Seen seen(m);
  p.auth_error = 400;
  const bool named = seen.has(Attr::kUsername) || seen.has(Attr::kUserhash);
  if (!named || !seen.has(Attr::kRealm) || !seen.has(Attr::kNonce)) return;
  const RealmConfig& realm = config_.realms[0];
  auto algorithm = codec::PasswordAlgorithm::kMd5;
  const bool has_list = seen.has(Attr::kPasswordAlgorithms);
  const bool has_choice = seen.has(Attr::kPasswordAlgorithm);
  if (codec::nonce_features(text_of(m, Attr::kNonce)).password_algorithms &&
      (has_list || has_choice)) {
    const auto choice = m.u32(Attr::kPasswordAlgorithm);
    if (!has_list || !choice) return;
    // SHA-256, then MD5, each without parameters, is what the simulator's realm offers.
    const std::array<uint8_t, 8> offered = {0, 2, 0, 0, 0, 1, 0, 0};
    const auto& list = m.find(Attr::kPasswordAlgorithms)->value;
    const auto nonce = nonces_.find(text_of(m, Attr::kNonce));
    const bool ours = nonce != nonces_.end() && nonce->second.client == tuple.client;
    if (ours && !std::equal(list.begin(), list.end(), offered.begin(), offered.end())) return;
    if (*choice != 0x00010000 && *choice != 0x00020000) return;
    algorithm = static_cast<codec::PasswordAlgorithm>(*choice >> 16);
    p.sha256 = true;
  }
  p.auth_error = 401;
  p.user = text_of(m, Attr::kUsername);
  if (!seen.has(Attr::kUsername)) {
    for (const auto& [name, user] : users_) {
      const auto hash = codec::userhash(name, realm.name);
      const auto& value = m.find(Attr::kUserhash)->value;
      if (realm.secrets.empty() && std::equal(hash.begin(), hash.end(), value.begin(), value.end()))
        p.user = name;
    }
  }
  const auto user = users_.find(p.user);
  if (user == users_.end()) return;
  codec::Key& key = keys_[{p.user, algorithm}];
  if (key.empty()) key = codec::long_term_key(algorithm, p.user, realm.name, user->second.password);
  p.key = key;
  const bool sha256_there = m.has(Attr::kMessageIntegritySha256);
  const bool holds = sha256_there ? m.integrity_sha256_valid(key) : m.integrity_valid(key);
  if (!holds || text_of(m, Attr::kRealm) != realm.name) return;
  p.expired = expired(p, tuple);
  if (p.expired)
    coverage_.hit(Expiry::kCredential);
  else
    p.auth_error = 0;
}

// A name whose time is over is heard only as long as its allocation lives.
bool Reference::expired(const Pending& p, const Tuple& tuple) const {
  const auto user = users_.find(p.user);
  if (user == users_.end() || user->second.expires_unix == 0) return false;
  const auto live = allocations_.find(tuple);
  const bool has_allocation = live != allocations_.end() && live->second.user == p.user;
  return user->second.expires_unix <= unix_seconds_ && !has_allocation;
}

// Adds the answers that are right now; 0 stands for success.
void Reference::judge(Pending& p, const Tuple& tuple, uint64_t now, std::set<int>& codes) {
  const auto m = MessageView::parse(p.message);
  if (p.auth_error > 0) {
    codes.insert(p.auth_error);
    // The wall clock may have been set back before control looked at it.
    if (!p.expired || expired(p, tuple)) return;
  }
  const auto user = users_.find(p.user);
  if (user != users_.end() && user->second.expires_unix != 0 &&
      user->second.expires_unix <= unix_seconds_) {
    const auto own = allocations_.find(tuple);
    if (own == allocations_.end() || life(own->second, now) != Life::kLive) codes.insert(401);
  }
  const NonceAge age = age_of(*m, tuple.client, now);
  if (age != NonceAge::kGood) codes.insert(438);
  if (age == NonceAge::kBad) return;
  const Seen seen(*m);
  if (!seen.unknown_required(false, true).empty()) {
    codes.insert(420);
    return;
  }
  if (m->method() == Method::kAllocate) return judge_allocate(p, *m, tuple, now, codes);
  if (m->method() != Method::kRefresh && m->method() != Method::kCreatePermission &&
      m->method() != Method::kChannelBind) {
    codes.insert(400);
    return;
  }
  const auto at = allocations_.find(tuple);
  const Life alive = at == allocations_.end() ? Life::kDead : life(at->second, now);
  if (alive != Life::kLive) codes.insert(437);
  // An end that control knows of and has not told the client yet.
  for (auto q = pending_.lower_bound({tuple, {}}); q != pending_.end() && q->first.tuple == tuple;
       ++q) {
    if (q->second.removes) codes.insert(437);
    // An Allocate under way may be true before its answer is seen here: anything goes until then.
    if (q->second.allocate != 0)
      for (const int code : {0, 400, 403, 437, 441, 443, 508})
        codes.insert(code);
  }
  if (at == allocations_.end()) return;
  const bool dead = alive == Life::kDead;
  if (at->second.user != p.user) {
    codes.insert(441);
    return;
  }
  if (dead) {
    // Control may not have heard of the end: it answers what is wrong with the request first.
    for (const int code : {400, 403, 443, 508})
      codes.insert(code);
    if (at->second.over || now > at->second.legs[0].until_hi + leniency_.clock_slack_ms) return;
  }
  std::set<int> found;
  if (m->method() == Method::kRefresh) judge_refresh(*m, at->second, found);
  if (m->method() == Method::kCreatePermission) judge_permission(*m, at->second, found, now);
  if (m->method() == Method::kChannelBind) judge_channel(*m, at->second, found, now);
  if (dead) found.erase(0);
  codes.insert(found.begin(), found.end());
}

// ------------------------------------------------------------------ Allocate

// RFC 8656 section 7.2: what is wrong with the request itself; 0: nothing.
int Reference::allocate_syntax(const MessageView& m) const {
  const Seen seen(m);
  const auto* transport = seen.find(Attr::kRequestedTransport);
  if (transport == nullptr || transport->value.size() != 4) return 400;
  if (transport->value[0] != 17) return 442;
  if (length_error(seen, Attr::kLifetime, 4) != 0) return 400;
  const bool even = seen.has(Attr::kEvenPort);
  const auto* family = seen.find(Attr::kRequestedAddressFamily);
  const auto* additional = seen.find(Attr::kAdditionalAddressFamily);
  if (const auto* token = seen.find(Attr::kReservationToken)) {
    const bool alone = !even && family == nullptr && additional == nullptr;
    return token->value.size() == 8 && alone ? 0 : 400;
  }
  if (family != nullptr && additional != nullptr) return 400;
  if (family != nullptr && family->value.size() != 4) return 400;
  if (even && seen.find(Attr::kEvenPort)->value.size() != 1) return 400;
  const bool pair = even && (seen.find(Attr::kEvenPort)->value[0] & 0x80) != 0;
  if (pair && additional != nullptr) return 400;
  if (additional != nullptr)
    return additional->value.size() == 4 && additional->value[0] == 2 ? 0 : 400;
  const uint8_t wanted = family == nullptr ? 1 : family->value[0];
  return wanted == 1 || wanted == 2 ? 0 : 440;
}

size_t Reference::held(const std::string& account, uint64_t now, bool at_most) const {
  size_t count = 0;
  for (const auto& [tuple, a] : allocations_) {
    if (!account.empty() && a.account != account) continue;
    count += at_most || life(a, now) == Life::kLive ? 1 : 0;
  }
  for (const auto& [token, r] : reservations_) {
    if (!account.empty() && r.account != account) continue;
    const uint64_t age = now - r.made_ms;
    count += age < (at_most ? kReservationMostMs + leniency_.clock_slack_ms : kReservationLeastMs)
                 ? 1
                 : 0;
  }
  return count;
}

void Reference::judge_allocate(Pending& p, const MessageView& m, const Tuple& tuple, uint64_t now,
                               std::set<int>& codes) {
  const auto at = allocations_.find(tuple);
  if (at != allocations_.end()) {
    const bool same = at->second.transaction == m.transaction_id() && at->second.user == p.user;
    const bool live = life(at->second, now) == Life::kLive;
    if (!live) {
      codes.insert(437);
      p.silence_allowed = true;  // its end is on the way; asked again, the client gets its answer
    } else {
      codes.insert(same ? 0 : 437);
      return;
    }
    if (same) codes.insert(0);
  }
  // Two requests at once: the second finds what the first has made.
  uint32_t others = 0;
  for (auto q = pending_.lower_bound({tuple, {}}); q != pending_.end() && q->first.tuple == tuple;
       ++q)
    others += q->second.allocate;
  if (others > 1) codes.insert(437);
  const int wrong = allocate_syntax(m);
  if (wrong != 0) {
    codes.insert(wrong);
    return;
  }
  const Seen seen(m);
  const auto* even = seen.find(Attr::kEvenPort);
  const auto* token_attribute = seen.find(Attr::kReservationToken);
  const size_t wanted = even != nullptr && (even->value[0] & 0x80) != 0 ? 2 : 1;
  const std::string account = users_.at(p.user).account;
  bool may_succeed = true;
  size_t own = 0;
  if (token_attribute != nullptr) {
    const auto r = reservations_.find(load_be64(token_attribute->value.data()));
    const bool there = r != reservations_.end();
    const uint64_t age = there ? now - r->second.made_ms : 0;
    if (!there || age >= kReservationLeastMs || pending_allocates_ > 1) codes.insert(508);
    may_succeed = there && age < kReservationMostMs + leniency_.clock_slack_ms;
    own = there && r->second.account == account ? 1 : 0;
  }
  const size_t quota = plant_ == Plant::kQuotaOff ? 0 : config_.realms[0].user_quota;
  const size_t slack = pending_allocates_ * 2;
  if (quota != 0) {
    if (held(account, now, true) + slack + wanted - own > quota) codes.insert(486);
    if (held(account, now, false) + wanted - own > quota) may_succeed = false;
  }
  const size_t limit = config_.limits.max_allocations;
  const size_t used_token = token_attribute != nullptr ? 1 : 0;
  if (draining_ || held({}, now, true) + slack + wanted - used_token > limit ||
      leniency_.ports_may_fail || leniency_.tables_may_fill)
    codes.insert(508);
  if (draining_ || held({}, now, false) + wanted - used_token > limit) may_succeed = false;
  if (may_succeed) codes.insert(0);
}

uint32_t Reference::granted_lifetime(const MessageView& m) const {
  const uint32_t wanted = m.u32(Attr::kLifetime).value_or(0);
  return std::max(config_.limits.default_lifetime_seconds,
                  std::min(wanted, config_.limits.max_lifetime_seconds));
}

void Reference::check_relayed(const MessageView& m, const TransportAddress& relayed,
                              uint64_t now) const {
  const Seen seen(m);
  if (!own_address(relayed.ip)) throw Violation("a relayed address that is not the relay's");
  if (relayed.port < config_.relay_port_low || relayed.port > config_.relay_port_high)
    throw Violation("a relayed port outside the range");
  if (seen.has(Attr::kEvenPort) && relayed.port % 2 != 0)
    throw Violation("EVEN-PORT was answered with an odd port");
  const auto* family = seen.find(Attr::kRequestedAddressFamily);
  const bool either = seen.has(Attr::kAdditionalAddressFamily) || seen.has(Attr::kReservationToken);
  const bool v6 = family != nullptr && family->value[0] == 2;
  if (!either && relayed.ip.is_v6() != v6) throw Violation("a relayed address of another family");
  for (const auto& [token, r] : reservations_) {
    if (!(r.relayed == relayed) || now >= r.made_ms + kReservationLeastMs) continue;
    const auto* used = seen.find(Attr::kReservationToken);
    if (used == nullptr || load_be64(used->value.data()) != token)
      throw Violation("a reserved port was given to somebody else");
  }
}

void Reference::allocated(const Pending& p, const MessageView& m, const Tuple& tuple,
                          const MessageView& answer, CoreId core, uint64_t now) {
  const auto relayed = answer.xor_addresses(Attr::kXorRelayedAddress);
  const auto mapped = answer.xor_address(Attr::kXorMappedAddress);
  if (!mapped || !(*mapped == tuple.client))
    throw Violation("XOR-MAPPED-ADDRESS is not the client's");
  const auto known = allocations_.find(tuple);
  if (known != allocations_.end() && !known->second.over &&
      known->second.transaction == m.transaction_id()) {
    for (const TransportAddress& r : relayed) {
      Leg& leg = known->second.legs[r.ip.is_v4() ? 0 : 1];
      if (!leg.present || !(leg.relayed == r))
        throw Violation("a repeated Allocate was answered with another relayed address");
      // The answer again keeps the expiry as control has it, which heard the request first.
      const uint64_t life = uint64_t{known->second.lifetime} * 1000;
      leg.until_lo = std::min(leg.until_lo, p.first_ms + life);
      leg.until_hi = std::max(leg.until_hi, now + life);
    }
    return;
  }
  Allocation a;
  a.user = p.user;
  a.account = users_.at(p.user).account;
  a.transaction = m.transaction_id();
  a.core = core;
  a.lifetime = granted_lifetime(m);
  if (answer.u32(Attr::kLifetime) != a.lifetime) throw Violation("another LIFETIME than was due");
  const bool dual = m.has(Attr::kAdditionalAddressFamily);
  if (relayed.empty() || relayed.size() > (dual ? 2u : 1u))
    throw Violation("a wrong number of relayed addresses");
  for (const TransportAddress& r : relayed) {
    check_relayed(m, r, now);
    if (by_relayed_.contains(r))
      throw Violation("relayed address " + r.to_string() + " given twice");
    const uint64_t until = now + uint64_t{a.lifetime} * 1000;
    a.legs[r.ip.is_v4() ? 0 : 1] = {true, r, until, until};
    by_relayed_[r] = tuple;
  }
  if (const auto* used = Seen(m).find(Attr::kReservationToken))
    reservations_.erase(load_be64(used->value.data()));
  const auto* token = answer.find(Attr::kReservationToken);
  const auto* even = m.find(Attr::kEvenPort);
  const bool pair = even != nullptr && (even->value[0] & 0x80) != 0;
  if (pair != (token != nullptr))
    throw Violation("RESERVATION-TOKEN that was not asked for, or none");
  if (pair) {
    const TransportAddress next{relayed[0].ip, static_cast<uint16_t>(relayed[0].port + 1)};
    if (by_relayed_.contains(next)) throw Violation("the reserved port is in use");
    reservations_[load_be64(token->value.data())] = {a.account, next, now};
  }
  redirects_left_.erase(tuple);
  allocations_[tuple] = std::move(a);
}

// ------------------------------------------------------------------ the other methods

void Reference::judge_refresh(const MessageView& m, const Allocation& a,
                              std::set<int>& codes) const {
  const Seen seen(m);
  if (length_error(seen, Attr::kLifetime, 4) != 0) {
    codes.insert(400);
    return;
  }
  if (const auto* family = seen.find(Attr::kRequestedAddressFamily)) {
    const uint8_t wanted = family->value.size() == 4 ? family->value[0] : 0;
    const bool there = (wanted == 1 && a.legs[0].present) || (wanted == 2 && a.legs[1].present);
    if (family->value.size() != 4 || !there) {
      codes.insert(family->value.size() != 4 ? 400 : 443);
      return;
    }
  }
  codes.insert(0);
}

int Reference::judge_peer(const Allocation& a, const IpAddress& peer) const {
  if (!a.legs[peer.is_v4() ? 0 : 1].present) return 443;
  if (peer.is_v4_mapped_v6()) return 403;
  if (own_address(peer)) return 0;
  for (const Cidr& denied : config_.peers.deny) {
    if (denied.address.family != peer.family) continue;
    const size_t bytes = denied.prefix_bits / 8;  // the simulator's end at whole bytes
    if (std::equal(peer.wire(), peer.wire() + bytes, denied.address.wire())) return 403;
  }
  return 0;
}

void Reference::judge_permission(const MessageView& m, const Allocation& a, std::set<int>& codes,
                                 uint64_t now) const {
  const Seen seen(m);
  size_t count = 0;
  int error = 0;
  size_t fresh = 0;
  const auto addresses = m.xor_addresses(Attr::kXorPeerAddress);
  size_t attributes = 0;
  for (const auto& attribute : m.attributes())
    attributes += attribute.type == Attr::kXorPeerAddress && attribute.offset <= seen.end() ? 1 : 0;
  for (const TransportAddress& peer : addresses) {
    if (++count > kPeersInOneRequest) break;
    if (error == 0) error = judge_peer(a, peer.ip);
    const auto known = a.permissions.find(peer.ip);
    fresh += known == a.permissions.end() || known->second <= now ? 1 : 0;
  }
  if (addresses.size() != attributes) error = attributes > kPeersInOneRequest ? -1 : 400;
  if (count == 0 && error == 0) error = 400;
  if (count > kPeersInOneRequest) error = 508;
  if (error == -1) {
    codes.insert(400);
    codes.insert(508);
    return;
  }
  if (error != 0) {
    codes.insert(error);
    return;
  }
  if (leniency_.tables_may_fill || a.permissions.size() + count > kPermissionsEach)
    codes.insert(508);
  size_t live = 0;
  for (const auto& [ip, until] : a.permissions)
    live += now < until ? 1 : 0;
  if (live + fresh <= kPermissionsEach + count) codes.insert(0);
}

void Reference::judge_channel(const MessageView& m, const Allocation& a, std::set<int>& codes,
                              uint64_t now) const {
  const Seen seen(m);
  const auto* number = seen.find(Attr::kChannelNumber);
  const auto peer =
      seen.has(Attr::kXorPeerAddress) ? m.xor_address(Attr::kXorPeerAddress) : std::nullopt;
  if (number == nullptr || number->value.size() != 4 || !peer || peer->port == 0) {
    codes.insert(400);
    return;
  }
  const uint16_t channel = load_be16(number->value.data());
  if (channel < 0x4000 || channel > 0x4fff) {
    codes.insert(400);
    return;
  }
  if (const int error = judge_peer(a, peer->ip); error != 0) {
    codes.insert(error);
    return;
  }
  if (own_address(peer->ip)) {
    const auto port = by_relayed_.find(*peer);
    if (port == by_relayed_.end() || life(allocations_.at(port->second), now) != Life::kLive) {
      codes.insert(403);
      // A port whose allocation control has just made, or has not heard the end of.
      if (port == by_relayed_.end() && pending_allocates_ == 0) return;
    }
  }
  bool conflict = false;
  for (const auto& [n, c] : a.channels) {
    if (now >= c.until) continue;
    conflict |= (n == channel) != (c.peer == *peer);
  }
  if (conflict) {
    codes.insert(400);
    return;
  }
  if (leniency_.tables_may_fill || a.channels.size() >= kChannelsEach ||
      a.permissions.size() >= kPermissionsEach)
    codes.insert(508);
  codes.insert(0);
}

void Reference::refreshed(const MessageView& m, const MessageView& answer, Allocation& a,
                          uint64_t now) {
  const auto asked = m.u32(Attr::kLifetime);
  const uint32_t due = asked && *asked == 0 ? 0 : granted_lifetime(m);
  if (answer.u32(Attr::kLifetime) != due) throw Violation("Refresh: another LIFETIME than was due");
  const auto* family = Seen(m).find(Attr::kRequestedAddressFamily);
  bool left = false;
  for (size_t i = 0; i < 2; ++i) {
    Leg& leg = a.legs[i];
    if (!leg.present) continue;
    if (family == nullptr || family->value[0] == i + 1)
      leg.until_lo = leg.until_hi = now + uint64_t{due} * 1000;
    left |= now < leg.until_hi;
  }
  if (due == 0 && !left) a.over = true;
}

// ------------------------------------------------------------------ an answer leaves

void Reference::check_integrity(const Pending& p, const MessageView& answer, int code) const {
  if (p.auth_error < 0) return;  // a forgery has the same transaction id
  const bool challenge = code == 401 || code == 438;
  if (p.auth_error != 0 || challenge) return;
  const bool holds =
      p.sha256 ? answer.integrity_sha256_valid(p.key) : answer.integrity_valid(p.key);
  if (!holds) throw Violation("an answer " + std::to_string(code) + " without the right integrity");
}

void Reference::answered(CoreId core, const sim::Datagram& left, uint64_t now) {
  const auto answer = MessageView::parse(left.payload);
  if (!answer || (answer->cls() != Class::kSuccess && answer->cls() != Class::kError))
    throw Violation("control sent what is no answer to " + left.to.to_string());
  const PendingKey id{{left.to, left.from}, answer->transaction_id()};
  const auto at = pending_.find(id);
  if (at == pending_.end())
    throw Violation("an answer to nobody's request, to " + left.to.to_string());
  Pending& p = at->second;
  const auto m = MessageView::parse(p.message);
  if (m->method() != answer->method()) throw Violation("an answer of another method");
  if (++p.answers > p.copies)
    throw Violation("more answers than requests to " + left.to.to_string());
  const auto error = answer->error();
  if (answer->cls() == Class::kError && !error) throw Violation("an error without ERROR-CODE");
  const int code = error ? error->code : 0;
  ++coverage_.answers[static_cast<size_t>(code) % coverage_.answers.size()];
  judge(p, id.tuple, now, p.codes);
  if (!p.codes.contains(code)) {
    std::string right;
    for (const int c : p.codes)
      right += " " + std::to_string(c);
    throw Violation("method " + std::to_string(static_cast<int>(m->method())) + " of " +
                    left.to.to_string() + " answered " + std::to_string(code) + ", right were" +
                    right);
  }
  check_integrity(p, *answer, code);
  if (m->has(Attr::kFingerprint) != answer->has(Attr::kFingerprint) && p.auth_error >= 0)
    throw Violation("FINGERPRINT does not follow the request's");
  if (answer->has(Attr::kFingerprint) && !answer->fingerprint_valid())
    throw Violation("an answer with a wrong FINGERPRINT");
  if (code == 401 || code == 438) learn_nonce(*answer, left.to, now);
  if (code == 0) granted(p, id.tuple, *answer, core, now);
  if (p.answers == p.copies) {
    pending_allocates_ -= p.allocate;
    pending_.erase(at);
  }
}

void Reference::granted(const Pending& p, const Tuple& tuple, const MessageView& answer,
                        CoreId core, uint64_t now) {
  const auto m = MessageView::parse(p.message);
  if (m->method() == Method::kAllocate) return allocated(p, *m, tuple, answer, core, now);
  const auto at = allocations_.find(tuple);
  if (at == allocations_.end()) throw Violation("success without an allocation");
  Allocation& a = at->second;
  if (m->method() == Method::kRefresh) return refreshed(*m, answer, a, now);
  const uint64_t life = plant_ == Plant::kPermissionShort ? 200'000 : kPermissionMs;
  if (m->method() == Method::kCreatePermission) {
    for (const TransportAddress& peer : m->xor_addresses(Attr::kXorPeerAddress))
      a.permissions[peer.ip] = now + life;
    return;
  }
  const auto peer = *m->xor_address(Attr::kXorPeerAddress);
  a.permissions[peer.ip] = now + life;
  std::erase_if(a.channels, [&](const auto& c) { return now >= c.second.until; });
  a.channels[load_be16(m->find(Attr::kChannelNumber)->value.data())] = {peer, now + kChannelMs};
}

// ------------------------------------------------------------------ ends

void Reference::closing(const TransportAddress& client) {
  for (auto& [tuple, a] : allocations_)
    if (tuple.client == client) a.closing = true;
}

void Reference::ended(const EndedAllocation& end, uint64_t now) {
  const auto at = allocations_.find({end.info.client, end.info.listener});
  if (at == allocations_.end()) throw Violation("an end of an allocation that nobody was told of");
  Allocation& a = at->second;
  if (end.reason == EndReason::kExpired) {
    coverage_.hit(Expiry::kAllocation);
    for (const Leg& leg : a.legs) {
      if (end.whole && leg.present && now < leg.until_lo)
        throw Violation("an allocation expired before its time");
    }
  }
  const AllocationCounters& c = end.counters;
  const AllocationCounters& mine = a.counters;
  const auto differs = [&](uint64_t theirs, uint64_t ours) {
    return std::max(theirs, ours) - std::min(theirs, ours) > a.unsure;
  };
  const bool bytes = a.unsure == 0 && (c.bytes_to_peer != mine.bytes_to_peer ||
                                       c.bytes_to_client != mine.bytes_to_client);
  if (bytes || differs(c.packets_to_peer, mine.packets_to_peer) ||
      differs(c.packets_to_client, mine.packets_to_client)) {
    throw Violation("the record of an end counts " + std::to_string(c.packets_to_peer) + "/" +
                    std::to_string(c.packets_to_client) + " packets, " +
                    std::to_string(mine.packets_to_peer) + "/" +
                    std::to_string(mine.packets_to_client) + " passed");
  }
  for (Leg& leg : a.legs) {
    if (!leg.present) continue;
    const bool gone = end.whole || life(a, leg, now) == Life::kDead;
    if (!gone) continue;
    by_relayed_.erase(leg.relayed);
    leg.present = false;
  }
  // What the family's end takes with it.
  if (!end.whole) {
    std::erase_if(a.permissions,
                  [&](const auto& p) { return !a.legs[p.first.is_v4() ? 0 : 1].present; });
    std::erase_if(a.channels, [&](const auto& c2) {
      return !a.legs[c2.second.peer.ip.is_v4() ? 0 : 1].present;
    });
    return;
  }
  redirects_left_[at->first] = a.core;
  allocations_.erase(at);
}

void Reference::quiet(uint64_t excuses, uint64_t now_ms) {
  uint64_t unanswered = 0;
  std::string who;
  for (auto& [id, p] : pending_) {
    if (p.answers == 0 && !p.silence_allowed) judge(p, id.tuple, now_ms, p.codes);
    // What it was about has ended meanwhile: asked again, the client is told so.
    if (p.codes.contains(437)) p.silence_allowed = true;
    if (p.answers == 0 && !p.silence_allowed) {
      ++unanswered;
      who = id.tuple.client.to_string() + " method " +
            std::to_string(static_cast<int>(MessageView::parse(p.message)->method()));
    }
  }
  pending_.clear();
  pending_allocates_ = 0;
  if (unanswered > excuses) {
    throw Violation(std::to_string(unanswered) + " requests were not answered, " +
                    std::to_string(excuses) + " drops explain it; the last was of " + who);
  }
  for (auto& [tuple, a] : allocations_)
    a.settled = true;
  for (auto r = reservations_.begin(); r != reservations_.end();) {
    const bool over = now_ms - r->second.made_ms > kReservationMostMs + leniency_.clock_slack_ms;
    if (over) coverage_.hit(Expiry::kReservation);
    r = over ? reservations_.erase(r) : std::next(r);
  }
}

Reference::Counts Reference::counts(uint64_t now_ms) const {
  Counts out;
  for (const auto& [tuple, a] : allocations_) {
    out.allocations += life(a, now_ms) == Life::kLive ? 1 : 0;
    ++out.at_most;
    for (const auto& [ip, until] : a.permissions)
      out.permissions += now_ms < until && life(a, now_ms) == Life::kLive ? 1 : 0;
  }
  return out;
}

uint64_t Reference::latest_end_ms() const {
  uint64_t out = 0;
  for (const auto& [tuple, a] : allocations_)
    for (const Leg& leg : a.legs)
      if (leg.present) out = std::max(out, leg.until_hi);
  for (const auto& [token, r] : reservations_)
    out = std::max(out, r.made_ms + kReservationMostMs);
  return out;
}

bool Reference::knows(const TransportAddress& client) const {
  return std::any_of(allocations_.begin(), allocations_.end(),
                     [&](const auto& a) { return a.first.client == client; });
}

}  // namespace culvert::sim_test
