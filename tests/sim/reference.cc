// The reference's datagrams. Requests are in reference_requests.cc.
#include "tests/sim/reference.h"

#include <algorithm>

#include "dataplane/base/endian.h"
#include "dataplane/steer/owner.h"
#include "tests/sim/reference_attributes.h"

namespace culvert::sim_test {

namespace {

using codec::Attr;
using codec::Class;
using codec::MessageView;
using codec::Method;

// What may become of a datagram that meets something which is over or ending: never forwarded.
constexpr OutcomeBits kGone = bit(Outcome::k_expired_allocation) | bit(Outcome::k_no_channel) |
                              bit(Outcome::k_no_permission) | bit(Outcome::k_no_allocation) |
                              bit(Outcome::k_family_mismatch) | bit(Outcome::k_no_relayed_port) |
                              bit(Outcome::k_own_port_not_relayed) | bit(Outcome::k_icmp_unmatched);

Fate dropped(Outcome outcome, OutcomeBits may = 0) {
  Fate fate;
  fate.outcome = outcome;
  fate.may = may;
  return fate;
}

}  // namespace

Reference::Reference(const Config& config, CoreId cores, Coverage& coverage, Plant plant)
    : config_(config), cores_(cores), coverage_(coverage), plant_(plant) {}

void Reference::reset() {
  allocations_.clear();
  by_relayed_.clear();
  reservations_.clear();
  redirects_left_.clear();
  nonces_.clear();
  pending_.clear();
  spent_.clear();
  pending_allocates_ = 0;
}

bool Reference::own_address(const IpAddress& ip) const {
  return std::any_of(config_.relay_addresses.begin(), config_.relay_addresses.end(),
                     [&](const RelayAddressConfig& r) { return r.bound == ip; });
}

Reference::Life Reference::life(const Allocation& a, const Leg& leg, uint64_t now) const {
  if (!leg.present || a.over || now >= leg.until_hi) return Life::kDead;
  return a.closing || now >= leg.until_lo ? Life::kEither : Life::kLive;
}

Reference::Life Reference::life(const Allocation& a, uint64_t now) const {
  const Life v4 = life(a, a.legs[0], now);
  const Life v6 = life(a, a.legs[1], now);
  if (v4 == Life::kLive || v6 == Life::kLive) return Life::kLive;
  return v4 == Life::kEither || v6 == Life::kEither ? Life::kEither : Life::kDead;
}

bool Reference::permitted(const Allocation& a, const IpAddress& peer, uint64_t now) {
  const auto at = a.permissions.find(peer);
  if (at == a.permissions.end()) return false;
  if (now < at->second) return true;
  coverage_.hit(Expiry::kPermission);
  return false;
}

void Reference::maybe_policed(Fate& fate) const {
  if (config_.realms[0].user_bandwidth != 0 || config_.limits.total_bandwidth != 0)
    fate.may |= bit(Outcome::k_policed);
}

// ------------------------------------------------------------------ arrivals

Fate Reference::received(CoreId core, const Arrival& a, uint64_t now) {
  if (a.kind == RxKind::kIcmpError) return icmp_error(core, a, now);
  if (a.from.port == 0 || a.from.ip.is_v4_mapped_v6()) return dropped(Outcome::k_martian);
  return a.kind == RxKind::kPeer ? from_peer(core, a, now) : from_client(core, a, now);
}

Fate Reference::from_peer(CoreId core, const Arrival& a, uint64_t now) {
  const CoreId home = owner(a.to.port, cores_);
  if (home != core) {
    Fate fate = dropped(Outcome::k_handoff);
    fate.way = Fate::Way::kHandOff;
    fate.core = home;
    fate.next = a;
    fate.next.handed = true;
    if (leniency_.rings_may_fill) fate.may = bit(Outcome::k_handoff_full);
    return fate;
  }
  const auto known = by_relayed_.find(a.to);
  if (known == by_relayed_.end()) {
    return dropped(a.second ? Outcome::k_own_port_not_relayed : Outcome::k_no_relayed_port);
  }
  const auto at = allocations_.find(known->second);
  const Tuple& tuple = at->first;
  Allocation& allocation = at->second;
  const Leg& leg = allocation.legs[a.to.ip.is_v4() ? 0 : 1];
  const Life alive = life(allocation, leg, now);
  if (alive == Life::kDead) return dropped(Outcome::k_expired_allocation, kGone);

  const OutcomeBits either = alive == Life::kEither ? kGone : 0;
  const Channel* channel = nullptr;
  uint16_t number = 0;
  for (const auto& [n, c] : allocation.channels) {
    if (!(c.peer == a.from)) continue;
    if (now < c.until) {
      channel = &c;
      number = n;
    } else {
      coverage_.hit(Expiry::kChannel);
    }
  }
  if (!permitted(allocation, a.from.ip, now)) return dropped(Outcome::k_no_permission, either);
  if (a.ttl <= 1) return dropped(Outcome::k_ttl_exceeded, either);
  // With the ChannelData header, or the 64 bytes around a Data indication, it must fit an IPv4
  // datagram.
  if (a.data.size() + (channel != nullptr ? 4 : 64) > 65507)
    return dropped(Outcome::k_too_big, either);

  Fate fate;
  fate.outcome =
      channel != nullptr ? Outcome::k_relayed_peer_to_channel : Outcome::k_relayed_peer_to_data;
  fate.way = channel != nullptr ? Fate::Way::kChannel : Fate::Way::kData;
  fate.may = either;
  fate.from = tuple.server;
  fate.to = tuple.client;
  fate.ttl = static_cast<uint8_t>(a.ttl - 1);
  fate.tos = a.tos;
  fate.df = a.df && a.from.ip.is_v4() && tuple.client.ip.is_v4();
  fate.df_if_long = a.df && a.from.ip.is_v6() && tuple.client.ip.is_v4();
  fate.data = a.data;
  fate.channel = number;
  fate.peer = a.from;
  fate.charged = &tuple;
  maybe_policed(fate);
  return fate;
}

Fate Reference::icmp_error(CoreId core, const Arrival& a, uint64_t now) {
  const bool v4 = a.from.ip.is_v4();
  const bool passed =
      v4 ? a.icmp_type == 3 || a.icmp_type == 11 : a.icmp_type >= 1 && a.icmp_type <= 3;
  if (!passed) return dropped(Outcome::k_icmp_type_ignored);
  const CoreId home = owner(a.to.port, cores_);
  if (home != core) {
    Fate fate = dropped(Outcome::k_handoff);
    fate.way = Fate::Way::kHandOff;
    fate.core = home;
    fate.next = a;
    fate.next.handed = true;
    if (leniency_.rings_may_fill) fate.may = bit(Outcome::k_handoff_full);
    return fate;
  }
  const auto known = by_relayed_.find(a.to);
  if (known == by_relayed_.end()) return dropped(Outcome::k_icmp_unmatched);
  const auto at = allocations_.find(known->second);
  const Life alive = life(at->second, at->second.legs[a.to.ip.is_v4() ? 0 : 1], now);
  if (alive == Life::kDead || !permitted(at->second, a.from.ip, now))
    return dropped(Outcome::k_icmp_unmatched);
  Fate fate;
  fate.outcome = Outcome::k_relayed_icmp_to_data;
  fate.way = Fate::Way::kIcmp;
  fate.may = alive == Life::kEither ? kGone : 0;
  fate.from = at->first.server;
  fate.to = at->first.client;
  fate.peer = a.from;
  fate.icmp_type_code = static_cast<uint16_t>(a.icmp_type << 9 | a.icmp_code);
  const bool has_mtu = v4 ? a.icmp_type == 3 && a.icmp_code == 4 : a.icmp_type == 2;
  fate.icmp_data = has_mtu ? a.icmp_mtu : 0;
  return fate;
}

Fate Reference::from_client(CoreId core, const Arrival& a, uint64_t now) {
  if (a.data.empty()) return dropped(Outcome::k_not_stun_nor_channel);
  const uint8_t first = a.data[0];
  if (first <= 3) return stun(core, a, now);
  if (first >= 0x40 && first <= 0x4f) return channel_data(core, a, now);
  if (first >= 0x50 && first <= 0x7f) return dropped(Outcome::k_channel_number_reserved);
  return dropped(Outcome::k_not_stun_nor_channel);
}

// The 5-tuple's allocation is not on this core: handed over, or nobody's.
std::optional<Fate> Reference::elsewhere(CoreId core, const Arrival& a, const Tuple& tuple) {
  const auto at = allocations_.find(tuple);
  if (at != allocations_.end() && at->second.core == core) return std::nullopt;
  const auto left = redirects_left_.find(tuple);
  const bool here = at != allocations_.end();
  if (a.handed || (!here && (left == redirects_left_.end() || left->second == core)))
    return dropped(Outcome::k_no_allocation, kGone);
  Fate fate = dropped(Outcome::k_handoff_reservation);
  fate.way = Fate::Way::kHandOff;
  fate.core = here ? at->second.core : left->second;
  fate.next = a;
  fate.next.handed = true;
  if (!here || !at->second.settled || life(at->second, 0) != Life::kLive || at->second.over)
    fate.may |= bit(Outcome::k_no_allocation);
  if (leniency_.rings_may_fill)
    fate.may |= bit(Outcome::k_handoff_full) | bit(Outcome::k_no_allocation);
  return fate;
}

Fate Reference::channel_data(CoreId core, const Arrival& a, uint64_t now) {
  const auto message = codec::parse_channel_data(a.data);
  if (!message) return dropped(Outcome::k_channel_data_short);
  const Tuple tuple{a.from, a.to};
  if (auto fate = elsewhere(core, a, tuple)) return *fate;
  const auto at = allocations_.find(tuple);
  Allocation& allocation = at->second;
  const auto bound = allocation.channels.find(message->channel);
  const bool all_live =
      life(allocation, now) == Life::kLive &&
      (!allocation.legs[0].present || life(allocation, allocation.legs[0], now) == Life::kLive) &&
      (!allocation.legs[1].present || life(allocation, allocation.legs[1], now) == Life::kLive);
  if (bound == allocation.channels.end() || now >= bound->second.until) {
    if (bound != allocation.channels.end()) coverage_.hit(Expiry::kChannel);
    return dropped(Outcome::k_no_channel, all_live ? 0 : kGone);
  }
  return to_peer(core, a, at->first, allocation, bound->second.peer, message->payload, a.df, now);
}

Fate Reference::to_peer(CoreId core, const Arrival& a, const Tuple& tuple, Allocation& allocation,
                        const TransportAddress& peer, codec::Bytes data, bool df, uint64_t now) {
  const bool channel = codec::looks_like_channel_data(a.data);
  const Leg& leg = allocation.legs[peer.ip.is_v4() ? 0 : 1];
  if (!leg.present) {
    return dropped(Outcome::k_family_mismatch, life(allocation, now) == Life::kLive ? 0 : kGone);
  }
  const Life alive = life(allocation, leg, now);
  if (alive == Life::kDead) return dropped(Outcome::k_expired_allocation, kGone);
  const OutcomeBits either = alive == Life::kEither ? kGone : 0;
  if (peer.ip.is_v4_mapped_v6() || !permitted(allocation, peer.ip, now))
    return dropped(Outcome::k_no_permission, either);
  if (peer.port == 0) return dropped(Outcome::k_indication_malformed, either);
  if (a.ttl <= 1) return dropped(Outcome::k_ttl_exceeded, either);

  Fate fate;
  fate.may = either;
  fate.charged = &tuple;
  fate.to_peer = true;
  fate.data = data;
  maybe_policed(fate);
  if (own_address(peer.ip)) {
    // RFC 8656 section 11: to another allocation of this relay, whose client sees the relayed
    // address as the peer.
    if (peer.port < config_.relay_port_low || peer.port > config_.relay_port_high) {
      fate.outcome = Outcome::k_own_port_not_relayed;
      return fate;
    }
    fate.next.kind = RxKind::kPeer;
    fate.next.from = leg.relayed;
    fate.next.to = peer;
    fate.next.ttl = static_cast<uint8_t>(a.ttl - 1);
    fate.next.tos = a.tos;
    fate.next.df = a.df && (a.from.ip.is_v4() || peer.ip.is_v6() || data.size() + 28 > 1260);
    fate.next.second = true;
    fate.next.data = data;
    const CoreId home = owner(peer.port, cores_);
    fate.core = home;
    fate.way = home == core ? Fate::Way::kSecond : Fate::Way::kHandOff;
    fate.outcome = home == core ? Outcome::k_hairpinned : Outcome::k_hairpin_cross;
    fate.next.handed = home != core;
    if (home != core && leniency_.rings_may_fill) fate.may |= bit(Outcome::k_handoff_full);
    return fate;
  }
  fate.outcome = channel ? Outcome::k_relayed_channel_to_peer : Outcome::k_relayed_send_to_peer;
  fate.way = Fate::Way::kRaw;
  fate.from = leg.relayed;
  fate.to = peer;
  fate.ttl = static_cast<uint8_t>(plant_ == Plant::kHopsKept ? a.ttl : a.ttl - 1);
  fate.tos = a.tos;
  fate.df = df && a.from.ip.is_v4() && peer.ip.is_v4();
  fate.df_if_long = a.df && a.from.ip.is_v6() && peer.ip.is_v4();
  return fate;
}

// ------------------------------------------------------------------ STUN

Fate Reference::stun(CoreId core, const Arrival& a, uint64_t now) {
  constexpr size_t kLongest = 2048;
  const auto m = MessageView::parse(a.data);
  if (!m) {
    return dropped(Outcome::k_stun_malformed,
                   bit(Outcome::k_stun_fingerprint_bad) | bit(Outcome::k_stun_too_long));
  }
  if (a.data.size() > kLongest && m->cls() != Class::kIndication)
    return dropped(Outcome::k_stun_too_long);
  if (m->has(Attr::kFingerprint) && !m->fingerprint_valid())
    return dropped(Outcome::k_stun_fingerprint_bad);
  if (m->cls() == Class::kSuccess || m->cls() == Class::kError)
    return dropped(Outcome::k_response_ignored);
  if (m->cls() == Class::kIndication) {
    if (m->method() == Method::kSend) return send_indication(core, a, *m, now);
    return dropped(m->method() == Method::kBinding ? Outcome::k_keepalive
                                                   : Outcome::k_stun_method_unknown);
  }
  if (m->method() == Method::kBinding) return binding(a, *m);
  if (!is_turn_request(m->method())) return dropped(Outcome::k_stun_method_unknown);
  const Seen seen(*m);
  if (!seen.has(Attr::kMessageIntegrity) && !m->has(Attr::kMessageIntegritySha256))
    return without_integrity(core, a, *m, now);

  const NonceAge age = age_of(*m, a.from, now);
  Fate fate;
  fate.way = Fate::Way::kControl;
  fate.outcome =
      age == NonceAge::kGood ? Outcome::k_request_to_control : Outcome::k_bad_nonce_to_control;
  if (age == NonceAge::kEither) fate.may |= bit(Outcome::k_request_to_control);
  if (leniency_.rings_may_fill) fate.may |= bit(Outcome::k_control_busy);
  if (leniency_.budget_may_end && age != NonceAge::kGood)
    fate.may |= bit(Outcome::k_bad_nonce_budget);
  return fate;
}

Fate Reference::binding(const Arrival& a, const MessageView& m) {
  const Seen seen(m);
  Fate fate;
  const bool bad = !seen.unknown_required(false).empty();
  fate.outcome = bad ? Outcome::k_stun_error_answered : Outcome::k_binding_answered;
  fate.way = bad ? Fate::Way::kError : Fate::Way::kBinding;
  fate.code = bad ? 420 : 0;
  fate.from = a.to;
  fate.to = a.from;
  if (leniency_.budget_may_end) fate.may = bit(Outcome::k_reply_budget);
  return fate;
}

Fate Reference::without_integrity(CoreId core, const Arrival& a, const MessageView& m,
                                  uint64_t now) {
  const Tuple tuple{a.from, a.to};
  const auto at = allocations_.find(tuple);
  const bool allocate = m.method() == Method::kAllocate;
  bool known = allocate;
  bool sure = true;
  if (!allocate && at != allocations_.end()) {
    known = true;
    sure = life(at->second, now) == Life::kLive &&
           (at->second.core == core || at->second.settled) &&
           !(at->second.core != core && leniency_.rings_may_fill);
  } else if (!allocate && redirects_left_.contains(tuple)) {
    sure = false;
  }
  Fate fate;
  fate.way = Fate::Way::kError;
  fate.from = a.to;
  fate.to = a.from;
  fate.code = known ? 401 : 437;
  fate.outcome = known ? Outcome::k_challenged : Outcome::k_no_allocation_answered;
  if (!sure) {
    fate.other_code = known ? 437 : 401;
    fate.other_outcome = known ? Outcome::k_no_allocation_answered : Outcome::k_challenged;
  }
  if (leniency_.budget_may_end) fate.may = bit(Outcome::k_reply_budget);
  // Header, ERROR-CODE, REALM, NONCE: more than 2.5 times the request is not sent, whatever the
  // budget.
  const size_t headers = a.from.ip.is_v4() ? 28 : 48;
  const size_t least = headers + 20 + 8 + 4 + (config_.realms[0].name.size() + 3) / 4 * 4 + 36;
  const bool too_large = least * 10 > (a.data.size() + headers) * 25;
  if (too_large && known && sure) return dropped(Outcome::k_reply_too_large);
  if (too_large) fate.may |= bit(Outcome::k_reply_too_large);
  return fate;
}

Fate Reference::send_indication(CoreId core, const Arrival& a, const MessageView& m, uint64_t now) {
  const Tuple tuple{a.from, a.to};
  if (auto fate = elsewhere(core, a, tuple)) return *fate;
  const auto at = allocations_.find(tuple);
  const OutcomeBits over = life(at->second, now) == Life::kLive ? 0 : kGone;
  const Seen seen(m);
  const auto* data = seen.find(Attr::kData);
  const auto* peer_attribute = seen.find(Attr::kXorPeerAddress);
  const auto peer = peer_attribute != nullptr ? m.xor_address(Attr::kXorPeerAddress) : std::nullopt;
  if (!peer || data == nullptr || !seen.unknown_required(true).empty())
    return dropped(Outcome::k_indication_malformed, over);
  return to_peer(core, a, at->first, at->second, *peer, data->value,
                 a.df || seen.has(Attr::kDontFragment), now);
}

// ------------------------------------------------------------------ what leaves

namespace {

bool same_bytes(codec::Bytes a, codec::Bytes b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
}

bool is_icmp_indication(const Fate& fate, codec::Bytes payload) {
  const auto m = MessageView::parse(payload);
  if (!m || m->cls() != Class::kIndication || m->method() != Method::kData) return false;
  const auto* icmp = m->find(Attr::kIcmp);
  const auto peer = m->xor_address(Attr::kXorPeerAddress);
  return icmp != nullptr && icmp->value.size() == 8 && peer && *peer == fate.peer &&
         load_be16(&icmp->value[2]) == fate.icmp_type_code &&
         load_be32(&icmp->value[4]) == fate.icmp_data && !m->has(Attr::kData);
}

}  // namespace

bool Reference::matches(const Fate& fate, const sim::Datagram& left, const Arrival& arrival,
                        uint64_t now_ms, Outcome& outcome) {
  outcome = fate.outcome;
  if (!(left.from == fate.from) || !(left.to == fate.to)) return false;
  if (fate.way == Fate::Way::kBinding || fate.way == Fate::Way::kError) {
    const auto asked = MessageView::parse(arrival.data);
    const auto m = MessageView::parse(left.payload);
    if (!m || m->transaction_id() != asked->transaction_id() || m->method() != asked->method())
      return false;
    const size_t headers = left.to.ip.is_v4() ? 28 : 48;
    if ((left.payload.size() + headers) * 10 > (arrival.data.size() + headers) * 25)
      throw Violation("an answer of more than 2.5 times its request to " + left.to.to_string());
    if (asked->has(Attr::kFingerprint) && fate.way == Fate::Way::kBinding &&
        !m->fingerprint_valid())
      return false;
    if (fate.way == Fate::Way::kBinding) {
      const auto mapped = m->xor_address(Attr::kXorMappedAddress);
      return m->cls() == Class::kSuccess && mapped && *mapped == fate.to;
    }
    const auto error = m->error();
    if (m->cls() != Class::kError || !error) return false;
    if (error->code == 401) learn_nonce(*m, left.to, now_ms);
    if (error->code == fate.code) return true;
    outcome = fate.other_outcome;
    return fate.other_code != 0 && error->code == fate.other_code;
  }
  if (fate.way == Fate::Way::kIcmp) return is_icmp_indication(fate, left.payload);
  const bool df = fate.df || (fate.df_if_long && left.payload.size() + 28 > 1260);
  if (left.ttl != fate.ttl || left.tos != fate.tos || left.dont_fragment != df) return false;
  if (fate.way == Fate::Way::kRaw) return same_bytes(left.payload, fate.data);
  if (fate.way == Fate::Way::kChannel) {
    const auto data = codec::parse_channel_data(left.payload);
    return data && data->channel == fate.channel && same_bytes(data->payload, fate.data);
  }
  const auto data = codec::parse_data_indication(left.payload);
  return data && data->peer == fate.peer && same_bytes(data->payload, fate.data);
}

void Reference::confirm(CoreId core, const Arrival& a, const Fate& fate, Outcome outcome,
                        uint64_t now_ms) {
  coverage_.hit(outcome);
  if (outcome == Outcome::k_request_to_control || outcome == Outcome::k_bad_nonce_to_control)
    return note_request(core, a, now_ms);
  const bool carried = outcome == fate.outcome || outcome == Outcome::k_handoff_full;
  if (fate.charged == nullptr) return;
  const auto at = allocations_.find(*fate.charged);
  if (at == allocations_.end()) return;
  const bool unseen = fate.way == Fate::Way::kSecond || fate.way == Fate::Way::kHandOff;
  if (unseen && fate.may != 0 && cores_ > 1) ++at->second.unsure;
  if (!carried) return;
  AllocationCounters& counters = at->second.counters;
  if (fate.to_peer) {
    ++counters.packets_to_peer;
    counters.bytes_to_peer += fate.data.size();
  } else {
    ++counters.packets_to_client;
    counters.bytes_to_client += fate.data.size();
  }
  spend(at->second.account, fate.data.size(), now_ms);
  if (fate.way != Fate::Way::kRaw && fate.way != Fate::Way::kChannel &&
      fate.way != Fate::Way::kData)
    return;
  const bool channel = outcome == Outcome::k_relayed_channel_to_peer ||
                       outcome == Outcome::k_relayed_peer_to_channel;
  const TransportAddress& peer = fate.to_peer ? fate.to : fate.peer;
  ++coverage_
        .transforms[transform(at->first.client.ip.is_v6(), peer.ip.is_v6(), fate.to_peer, channel)];
}

// A leaky bucket of the account's rate: what passed beyond it must fit the bursts of its cores
// (turn_bandwidth.cc states the bound).
void Reference::spend(const std::string& account, uint64_t bytes, uint64_t now_ms) {
  const uint64_t rate = config_.realms[0].user_bandwidth;
  if (rate == 0) return;
  Spent& s = spent_[account];
  const double refill = static_cast<double>(rate) * static_cast<double>(now_ms - s.at_ms) / 1000.0;
  s.level = std::max(0.0, s.level - refill) + static_cast<double>(bytes);
  s.at_ms = now_ms;
  const double burst = static_cast<double>(std::max<uint64_t>(rate / 10, 65536));
  const double bound = burst * cores_ + static_cast<double>(rate) *
                                            static_cast<double>(200 + leniency_.clock_slack_ms) /
                                            1000;
  if (s.level > bound) throw Violation("account '" + account + "' passed more than its bandwidth");
}

}  // namespace culvert::sim_test
