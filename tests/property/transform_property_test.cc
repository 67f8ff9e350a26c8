// The fast core against an obvious slow relay. The model keeps allocations, permissions and
// channels in std::maps with the instant each ends, searches them linearly and builds every byte it
// expects by hand. The real side is a whole Worker on the simulator's driver, fed the same commands
// and datagrams at the same times: all sixteen transforms, hairpins, refreshes, removals, and steps
// of time that land one millisecond before, on and after deadlines. Bytes, addresses, header fields
// and outcomes must agree.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "dataplane/core/ring_engine.h"
#include "dataplane/core/worker.h"
#include "dataplane/io/sim/sim_driver.h"

namespace culvert {
namespace {

using Bytes = std::vector<uint8_t>;
using OutcomeSet = std::set<Outcome>;

TransportAddress at(const std::string& text) {
  return TransportAddress::parse(text).value();
}

constexpr uint16_t kPorts = 16;  // relayed ports in use, per address
constexpr uint16_t kFirstPort = 50000;
constexpr uint32_t kAllocations = 10;

// ------------------------------------------------------------------------------------- bytes by
// hand

void put16(Bytes& to, uint32_t value) {
  to.push_back(static_cast<uint8_t>(value >> 8));
  to.push_back(static_cast<uint8_t>(value));
}

Bytes channel_data(uint16_t channel, const Bytes& data) {
  Bytes out;
  put16(out, channel);
  put16(out, static_cast<uint32_t>(data.size()));
  out.insert(out.end(), data.begin(), data.end());
  return out;
}

void put_attribute(Bytes& to, uint16_t type, const Bytes& value) {
  put16(to, type);
  put16(to, static_cast<uint32_t>(value.size()));
  to.insert(to.end(), value.begin(), value.end());
  while (to.size() % 4 != 0)
    to.push_back(0);
}

// Method and class as they stand in the first two bytes.
Bytes indication(uint16_t type, const Bytes& id, const TransportAddress& peer, const Bytes& data,
                 bool dont_fragment = false) {
  const Bytes cookie = {0x21, 0x12, 0xa4, 0x42};
  Bytes key = cookie;
  key.insert(key.end(), id.begin(), id.end());
  Bytes address = {0, static_cast<uint8_t>(peer.ip.is_v4() ? 1 : 2)};
  put16(address, peer.port ^ 0x2112u);
  for (size_t i = 0; i < peer.ip.size(); ++i) {
    address.push_back(static_cast<uint8_t>(peer.ip.wire()[i] ^ key[i]));
  }
  Bytes body;
  put_attribute(body, 0x0012, address);
  put_attribute(body, 0x0013, data);
  if (dont_fragment) put_attribute(body, 0x001a, {});
  Bytes out;
  put16(out, type);
  put16(out, static_cast<uint32_t>(body.size()));
  out.insert(out.end(), cookie.begin(), cookie.end());
  out.insert(out.end(), id.begin(), id.end());
  out.insert(out.end(), body.begin(), body.end());
  return out;
}

constexpr uint16_t kSendIndication = 0x0016;
constexpr uint16_t kDataIndication = 0x0017;

// ------------------------------------------------------------------------------------- the slow
// relay

struct Expected {
  std::vector<OutcomeSet> outcomes;  // one set of acceptable outcomes per pass
  bool sends = false;
  TransportAddress from, to;
  uint8_t ttl = 0, tos = 0;
  bool dont_fragment = false;
  bool dont_fragment_if_long = false;
  bool is_data = false;  // a Data indication: payload below is its data, peer its peer
  TransportAddress peer;
  Bytes payload;
};

struct ModelChannel {
  TransportAddress peer;
  uint64_t deadline = 0;
};

struct ModelAllocation {
  uint32_t generation = 0;
  bool live = false;
  TransportAddress client;
  uint16_t port[2] = {0, 0};  // 0: this family is absent
  uint64_t deadline[2] = {0, 0};
  std::map<IpAddress, uint64_t, sim::AddressLess> permissions;
  std::map<uint16_t, ModelChannel> channels;
};

struct Incoming {
  bool from_client = true;
  TransportAddress from;
  uint16_t port = 0;  // relayed, when from a peer
  uint8_t ttl = 64, tos = 0;
  bool dont_fragment = false;
  uint16_t channel = 0;  // from a client: ChannelData, or 0: Send
  TransportAddress peer;
  bool dont_fragment_attribute = false;
  Bytes data;
};

class SlowRelay {
 public:
  SlowRelay(TransportAddress four, TransportAddress six) : listener_{four, six} {}

  std::array<ModelAllocation, kAllocations> allocations;

  static size_t family(const IpAddress& ip) { return ip.is_v4() ? 0 : 1; }
  [[nodiscard]] bool is_ours(const IpAddress& ip) const {
    return ip == listener_[0].ip || ip == listener_[1].ip;
  }

  [[nodiscard]] Expected handle(const Incoming& in, uint64_t now) const {
    return in.from_client ? client(in, now) : peer(in, now);
  }

 private:
  // The allocation of a client, dead legs and all. An end may be swept up to two wheel ticks late.
  [[nodiscard]] const ModelAllocation* of_client(const TransportAddress& address) const {
    for (const auto& a : allocations) {
      if (a.live && a.client == address) return &a;
    }
    return nullptr;
  }
  [[nodiscard]] static bool alive(const ModelAllocation& a, size_t f, uint64_t now) {
    return a.port[f] != 0 && now < a.deadline[f];
  }
  [[nodiscard]] static bool permitted(const ModelAllocation& a, const IpAddress& ip, uint64_t now) {
    const auto found = a.permissions.find(ip);
    return found != a.permissions.end() && now < found->second;
  }

  static Expected drop(OutcomeSet set) {
    return {{std::move(set)}, {}, {}, {}, {}, {}, {}, {}, {}, {}};
  }

  [[nodiscard]] Expected client(const Incoming& in, uint64_t now) const {
    const ModelAllocation* a = of_client(in.from);
    if (a == nullptr) return drop({Outcome::k_no_allocation});
    TransportAddress to = in.peer;
    if (in.channel != 0) {
      const auto channel = a->channels.find(in.channel);
      if (channel == a->channels.end()) {
        return drop(or_swept(*a, Outcome::k_no_channel, now));
      }
      to = channel->second.peer;
      if (!alive(*a, family(to.ip), now)) return drop(dead());
      if (now >= channel->second.deadline) return drop({Outcome::k_no_channel});
    }
    const size_t f = family(to.ip);
    if (a->port[f] == 0) return drop(or_swept(*a, Outcome::k_family_mismatch, now));
    if (!alive(*a, f, now)) return drop(dead());
    if (!permitted(*a, to.ip, now)) return drop({Outcome::k_no_permission});
    if (in.ttl <= 1) return drop({Outcome::k_ttl_exceeded});
    const TransportAddress relayed{listener_[f].ip, a->port[f]};
    if (is_ours(to.ip)) {
      Incoming second = in;
      second.from_client = false;
      second.from = relayed;
      second.port = to.port;
      second.ttl = static_cast<uint8_t>(in.ttl - 1);
      if (in.from.ip.is_v6() && to.ip.is_v4() && in.data.size() + 28 <= 1260)
        second.dont_fragment = false;
      Expected e = peer(second, now, f, true);
      e.outcomes.insert(e.outcomes.begin(), {Outcome::k_hairpinned});
      return e;
    }
    Expected e;
    e.outcomes = {
        {in.channel != 0 ? Outcome::k_relayed_channel_to_peer : Outcome::k_relayed_send_to_peer}};
    e.sends = true;
    e.from = relayed;
    e.to = to;
    e.payload = in.data;
    header(e, in, in.from.ip, to.ip);
    if (in.channel == 0 && in.dont_fragment_attribute && in.from.ip.is_v4() && to.ip.is_v4()) {
      e.dont_fragment = true;
    }
    return e;
  }

  // Once all of it has ended the sweep may have been.
  static OutcomeSet or_swept(const ModelAllocation& a, Outcome outcome, uint64_t now) {
    if (alive(a, 0, now) || alive(a, 1, now)) return {outcome};
    return {outcome, Outcome::k_no_allocation};
  }
  static OutcomeSet dead() {
    return {Outcome::k_expired_allocation, Outcome::k_no_allocation,
            Outcome::k_no_channel,         Outcome::k_family_mismatch,
            Outcome::k_no_relayed_port,    Outcome::k_own_port_not_relayed,
            Outcome::k_no_permission};
  }

  [[nodiscard]] Expected peer(const Incoming& in, uint64_t now) const {
    return peer(in, now, family(in.from.ip), false);
  }
  [[nodiscard]] Expected peer(const Incoming& in, uint64_t now, size_t f, bool hairpin) const {
    const ModelAllocation* a = nullptr;
    for (const auto& candidate : allocations) {
      if (candidate.live && candidate.port[f] == in.port) a = &candidate;
    }
    if (a == nullptr) {
      return drop({hairpin ? Outcome::k_own_port_not_relayed : Outcome::k_no_relayed_port});
    }
    if (!alive(*a, f, now)) return drop(dead());
    if (!permitted(*a, in.from.ip, now)) return drop({Outcome::k_no_permission});
    if (in.ttl <= 1) return drop({Outcome::k_ttl_exceeded});
    Expected e;
    e.sends = true;
    e.from = listener_[family(a->client.ip)];
    e.to = a->client;
    e.payload = in.data;
    header(e, in, in.from.ip, a->client.ip);
    for (const auto& [number, channel] : a->channels) {
      if (channel.peer != in.from || now >= channel.deadline) continue;
      e.outcomes = {{Outcome::k_relayed_peer_to_channel}};
      e.payload = channel_data(number, in.data);
      return e;
    }
    e.outcomes = {{Outcome::k_relayed_peer_to_data}};
    e.is_data = true;
    e.peer = in.from;
    return e;
  }

  static void header(Expected& e, const Incoming& in, const IpAddress& from, const IpAddress& to) {
    e.ttl = static_cast<uint8_t>(in.ttl - 1);
    e.tos = in.tos;
    e.dont_fragment = in.dont_fragment && from.is_v4() && to.is_v4();
    e.dont_fragment_if_long = in.dont_fragment && from.is_v6() && to.is_v4();
  }

  TransportAddress listener_[2];
};

// ------------------------------------------------------------------------------------- the trial

class Trial {
 public:
  Trial(uint64_t seed, Ticks start)
      : random_(seed),
        network_(seed, {}, start),
        engine_(options(), snapshot()),
        card_(network_, engine_.snapshot(), {}),
        driver_(card_, 0),
        worker_(driver_, engine_.board(), 0, limits(), CoreSeeds{}, engine_.mutable_stats(0)),
        model_(at("192.0.2.1:3478"), at("[2001:db8::1]:3478")) {
    card_.record(true);
    for (int i = 0; i < 6; ++i) {
      hosts_.push_back(
          at("198.51.100." + std::to_string(20 + i / 2) + ":" + std::to_string(7000 + i % 2)));
      hosts_.push_back(
          at("[2001:db8:5::" + std::to_string(20 + i / 2) + "]:" + std::to_string(7000 + i % 2)));
    }
    for (int i = 0; i < 8; ++i) {
      clients_.push_back(
          at("203.0.113." + std::to_string(1 + i / 2) + ":" + std::to_string(4000 + i % 2)));
      clients_.push_back(
          at("[2001:db8:c::" + std::to_string(1 + i / 2) + "]:" + std::to_string(4000 + i % 2)));
    }
  }

  void run(int steps) {
    for (int step = 0; step < steps && !::testing::Test::HasFatalFailure(); ++step) {
      SCOPED_TRACE("step " + std::to_string(step) + " at " + std::to_string(now()) + " ms");
      switch (below(16)) {
        case 0:
          pass_time();
          break;
        case 1:
          install();
          break;
        case 2:
          permit();
          break;
        case 3:
        case 4:
          bind();
          break;
        case 5:
          if (below(4) == 0) refresh_or_remove();
          break;
        default:
          datagrams();
      }
    }
    EXPECT_EQ(card_.wrong_egress(), 0u);
    seen_all_outcomes();
  }

  std::map<std::string, uint64_t> transforms;  // by families and direction, how often seen

 private:
  static RingEngine::Options options() {
    RingEngine::Options o;
    o.command_slots = o.event_slots = 4096;
    return o;
  }
  static std::unique_ptr<Snapshot> snapshot() {
    auto s = std::make_unique<Snapshot>();
    s->version = 1;
    const IpAddress four = IpAddress::parse("192.0.2.1").value();
    const IpAddress six = IpAddress::parse("2001:db8::1").value();
    s->addresses = {{four, four, true}, {six, six, true}};
    s->listeners.resize(2);
    s->listeners[1].address = 1;
    s->listeners[0].port = s->listeners[1].port = 3478;
    s->relay_port_low = kFirstPort;
    s->relay_port_high = kFirstPort + 999;
    return s;
  }
  static CoreLimits limits() {
    CoreLimits l;
    l.allocations = kAllocations;
    l.permissions = 256;
    l.narrow_channels = l.wide_channels = 256;
    l.relay_port_low = kFirstPort;
    l.relay_port_high = kFirstPort + 999;
    l.addresses = 2;
    return l;
  }

  uint64_t below(uint64_t n) { return random_() % n; }
  template <class T>
  const T& pick(const std::vector<T>& from) {
    return from[below(from.size())];
  }
  uint64_t now() const { return network_.now_us() / 1000; }

  // ---- time

  void pass_time() {
    uint64_t to = now() + below(3);
    if (below(3) == 0) to = now() + below(40'000);
    if (below(2) == 0) to = near_a_deadline().value_or(to);
    if (to < now()) return;
    network_.advance_to(to * 1000);
    turn();
    for (ModelAllocation& a : model_.allocations)
      forget_the_dead(a);
  }
  std::optional<uint64_t> near_a_deadline() {
    const ModelAllocation& a = model_.allocations[below(kAllocations)];
    if (!a.live) return std::nullopt;
    std::vector<uint64_t> instants;
    for (const size_t f : {0u, 1u}) {
      if (a.port[f] != 0 && below(4) == 0) instants.push_back(a.deadline[f]);
    }
    for (const auto& [ip, deadline] : a.permissions)
      instants.push_back(deadline);
    for (const auto& [number, channel] : a.channels)
      instants.push_back(channel.deadline);
    if (instants.empty()) return std::nullopt;
    return pick(instants) + below(3) - 1;
  }
  // Two wheel ticks after the end nothing of an allocation may be left.
  void forget_the_dead(ModelAllocation& a) {
    if (!a.live) return;
    const uint64_t swept = now() < 40 ? 0 : now() - 40;
    for (const size_t f : {0u, 1u}) {
      if (a.port[f] == 0 || a.deadline[f] > swept) continue;
      drop_family(a, f);
    }
    if (a.port[0] == 0 && a.port[1] == 0) a.live = false;
  }
  static void drop_family(ModelAllocation& a, size_t f) {
    a.port[f] = 0;
    std::erase_if(a.permissions, [&](const auto& p) { return SlowRelay::family(p.first) == f; });
    std::erase_if(a.channels,
                  [&](const auto& c) { return SlowRelay::family(c.second.peer.ip) == f; });
  }
  // Near its end an allocation may be there or not; commands leave such ones alone.
  bool settled(const ModelAllocation& a) const {
    for (const size_t f : {0u, 1u}) {
      if (a.port[f] != 0 && a.deadline[f] <= now()) return false;
    }
    return true;
  }

  uint32_t turn() {
    uint32_t done = 0;
    while (const uint32_t n = worker_.run_once())
      done += n;
    return done;
  }

  // ---- commands. Each returns the error the core gave, kNone on success.

  template <class T>
  ApplyError command(T message, std::span<const uint8_t> payload = {}) {
    drain_events();
    EXPECT_TRUE(engine_.send(0, message, payload));
    turn();
    ApplyError error = ApplyError::kNone;
    while (const RingSlot* slot = engine_.front_event(0)) {
      const MessageView view(slot);
      if (static_cast<EventType>(view.type()) == EventType::kCommandFailed) {
        error = view.as<CommandFailed>().error;
      }
      engine_.pop_event(0);
    }
    return error;
  }
  void drain_events() {
    while (engine_.front_event(0) != nullptr)
      engine_.pop_event(0);
  }

  void install() {
    const auto index = static_cast<uint32_t>(below(kAllocations));
    ModelAllocation& a = model_.allocations[index];
    if (a.live) return;
    for (const auto& other : model_.allocations) {
      if (other.live && !settled(other)) return;  // may or may not hold its port and client still
    }
    const TransportAddress client = pick(clients_);
    bool client_taken = false;
    for (const auto& other : model_.allocations)
      client_taken |= other.live && other.client == client;
    InstallAllocation message;
    message.handle = {index, ++a.generation};
    message.client.client = client;
    message.client.listener = client.ip.is_v4() ? 0 : 1;
    message.lifetime_ms = static_cast<uint32_t>(1000 + below(900'000));
    const auto families = 1 + below(3);
    const auto port = [&] { return static_cast<uint16_t>(kFirstPort + below(kPorts)); };
    if ((families & 1) != 0) message.ipv4 = {0, port()};
    if ((families & 2) != 0) message.ipv6 = {1, port()};
    const bool port_taken = taken(0, message.ipv4) || taken(1, message.ipv6);
    const ApplyError error = command(message);
    if (port_taken) {
      ASSERT_EQ(error, ApplyError::kPortInUse);
    } else if (client_taken) {
      ASSERT_EQ(error, ApplyError::kTableFull);
    } else {
      ASSERT_EQ(error, ApplyError::kNone);
      a.live = true;
      a.client = client;
      a.permissions.clear();
      a.channels.clear();
      a.port[0] = message.ipv4.present() ? message.ipv4.port : uint16_t{0};
      a.port[1] = message.ipv6.present() ? message.ipv6.port : uint16_t{0};
      a.deadline[0] = a.deadline[1] = now() + message.lifetime_ms;
    }
  }
  bool taken(size_t family, RelayLeg leg) const {
    if (!leg.present()) return false;
    for (const auto& a : model_.allocations) {
      if (a.live && a.port[family] == leg.port) return true;
    }
    return false;
  }

  ModelAllocation* some_live(uint32_t& index) {
    index = static_cast<uint32_t>(below(kAllocations));
    ModelAllocation& a = model_.allocations[index];
    return a.live && settled(a) ? &a : nullptr;
  }
  // A peer of a family the allocation has; now and then one of our own relayed addresses.
  std::optional<TransportAddress> some_peer(const ModelAllocation& a) {
    TransportAddress peer = pick(hosts_);
    if (below(4) == 0) {
      peer = below(2) == 0 ? at("192.0.2.1:1") : at("[2001:db8::1]:1");
      peer.port = static_cast<uint16_t>(kFirstPort + below(kPorts));
    }
    if (a.port[SlowRelay::family(peer.ip)] == 0) return std::nullopt;
    return peer;
  }

  void permit() {
    uint32_t index = 0;
    ModelAllocation* a = some_live(index);
    if (a == nullptr) return;
    std::vector<PermissionPeer> list;
    for (uint64_t i = 0; i <= below(3); ++i) {
      const auto peer = some_peer(*a);
      if (peer) list.push_back({peer->ip, model_.is_ours(peer->ip), 0});
    }
    if (list.empty()) return;
    CreatePermission message;
    message.handle = {index, a->generation};
    message.peer_count = static_cast<uint32_t>(list.size());
    const ApplyError error = command(
        message, {reinterpret_cast<const uint8_t*>(list.data()), list.size() * sizeof list[0]});
    ASSERT_EQ(error, ApplyError::kNone);
    for (const PermissionPeer& p : list)
      a->permissions[p.ip] = now() + 300'000;
  }

  void bind() {
    uint32_t index = 0;
    ModelAllocation* a = some_live(index);
    if (a == nullptr) return;
    const auto peer = some_peer(*a);
    if (!peer) return;
    BindChannel message;
    message.handle = {index, a->generation};
    message.peer = *peer;
    message.own_address = model_.is_ours(peer->ip);
    message.channel = static_cast<uint16_t>(0x4000 + below(4));
    // RFC 8656 section 12.2: neither the number nor the peer may be in another live binding.
    bool conflict = false;
    for (const auto& [number, channel] : a->channels) {
      if (now() >= channel.deadline) continue;
      conflict |= (number == message.channel) != (channel.peer == *peer);
    }
    const ApplyError error = command(message);
    ASSERT_EQ(error, conflict ? ApplyError::kChannelConflict : ApplyError::kNone);
    if (conflict) return;
    // A dead binding of the same peer under another number gives way.
    std::erase_if(a->channels, [&](const auto& c) { return c.second.peer == *peer; });
    a->channels[message.channel] = {*peer, now() + 600'000};
    a->permissions[peer->ip] = now() + 300'000;
  }

  void refresh_or_remove() {
    uint32_t index = 0;
    ModelAllocation* a = some_live(index);
    if (a == nullptr) return;
    const auto legs = static_cast<uint8_t>(1 + below(3));
    if (below(3) == 0) {
      RemoveAllocation message;
      message.handle = {index, a->generation};
      message.legs = legs;
      ASSERT_EQ(command(message), ApplyError::kNone);
      for (const size_t f : {0u, 1u}) {
        if ((legs >> f & 1) != 0) drop_family(*a, f);
      }
      if (a->port[0] == 0 && a->port[1] == 0) a->live = false;
      return;
    }
    RefreshAllocation message;
    message.handle = {index, a->generation};
    message.legs = legs;
    message.lifetime_ms = static_cast<uint32_t>(1000 + below(900'000));
    ASSERT_EQ(command(message), ApplyError::kNone);
    for (const size_t f : {0u, 1u}) {
      if ((legs >> f & 1) != 0) a->deadline[f] = now() + message.lifetime_ms;
    }
  }

  // ---- datagrams

  Incoming make() {
    Incoming in;
    in.ttl = static_cast<uint8_t>(below(20) == 0 ? below(4) : 2 + below(254));
    in.tos = static_cast<uint8_t>(below(256));
    in.dont_fragment = below(2) != 0;
    in.data.resize(below(3) == 0 ? below(4) : below(300));
    // Around the length from which RFC 7915 section 5.1 sets DF.
    if (below(8) == 0) in.data.resize(1160 + below(90));
    for (auto& b : in.data)
      b = static_cast<uint8_t>(random_());
    in.from_client = below(2) != 0;
    const ModelAllocation& a = model_.allocations[below(kAllocations)];
    if (in.from_client) {
      in.from = a.live && below(8) != 0 ? a.client : pick(clients_);
      if (below(2) != 0) {
        in.channel = static_cast<uint16_t>(0x4000 + below(5));
      } else {
        in.peer = some_peer(a).value_or(pick(hosts_));
        in.dont_fragment_attribute = below(2) != 0;
      }
    } else {
      in.from = pick(hosts_);
      const uint16_t port = a.port[SlowRelay::family(in.from.ip)];
      in.port = port != 0 ? port : static_cast<uint16_t>(kFirstPort + below(kPorts));
      // The kernel of a socket relay answers for closed ports; here they would not arrive.
      if (!network_.is_open(relayed(in))) in.port = 0;
    }
    return in;
  }
  TransportAddress relayed(const Incoming& in) const {
    TransportAddress to = in.from.ip.is_v4() ? at("192.0.2.1:1") : at("[2001:db8::1]:1");
    to.port = in.port;
    return to;
  }

  void offer(const Incoming& in) {
    sim::Datagram d;
    d.from = in.from;
    d.ttl = in.ttl;
    d.tos = in.tos;
    d.dont_fragment = in.dont_fragment;
    if (!in.from_client) {
      d.to = relayed(in);
      d.payload = in.data;
    } else {
      d.to = in.from.ip.is_v4() ? at("192.0.2.1:3478") : at("[2001:db8::1]:3478");
      d.payload = in.channel != 0 ? channel_data(in.channel, in.data)
                                  : indication(kSendIndication, Bytes(12, 7), in.peer, in.data,
                                               in.dont_fragment_attribute);
    }
    network_.send(d);
  }

  // A burst at one instant. Outputs come in the order of arrival, hairpins' second passes last.
  void datagrams() {
    std::vector<Expected> first, second;
    const uint64_t count = 1 + below(kMaxBurst);
    const auto before = counted();
    for (uint64_t i = 0; i < count; ++i) {
      const Incoming in = make();
      if (!in.from_client && in.port == 0) continue;
      Expected e = model_.handle(in, now());
      if (e.sends) note(in, e);
      offer(in);
      (e.outcomes.size() == 2 ? second : first).push_back(std::move(e));
    }
    network_.advance_to(network_.now_us());
    card_.sent().clear();
    turn();
    first.insert(first.end(), second.begin(), second.end());
    check_sent(first);
    check_outcomes(first, before);
  }
  void note(const Incoming& in, const Expected& e) {
    const auto name = [](const IpAddress& ip) { return ip.is_v4() ? "v4" : "v6"; };
    const bool hairpin = e.outcomes.size() == 2;
    const std::string kind(info(*e.outcomes.back().begin()).name);
    const IpAddress& client = in.from_client ? in.from.ip : e.to.ip;
    const IpAddress& peer = in.from_client ? e.to.ip : in.from.ip;
    ++transforms[(hairpin ? "hairpin " : std::string()) + kind + " client " + name(client) +
                 (hairpin ? " client " : " peer ") + name(peer)];
  }

  void check_sent(const std::vector<Expected>& expected) {
    size_t at_sent = 0;
    for (const Expected& e : expected) {
      if (!e.sends) continue;
      ASSERT_LT(at_sent, card_.sent().size()) << "not sent";
      const sim::Datagram& got = card_.sent()[at_sent++].datagram;
      ASSERT_EQ(got.from, e.from);
      ASSERT_EQ(got.to, e.to);
      ASSERT_EQ(got.ttl, e.ttl);
      ASSERT_EQ(got.tos, e.tos);
      ASSERT_EQ(got.dont_fragment,
                e.dont_fragment || (e.dont_fragment_if_long && got.payload.size() + 28 > 1260));
      if (!e.is_data) {
        ASSERT_EQ(got.payload, e.payload);
        continue;
      }
      ASSERT_GE(got.payload.size(), 20u);
      const Bytes id(got.payload.begin() + 8, got.payload.begin() + 20);
      ASSERT_EQ(got.payload, indication(kDataIndication, id, e.peer, e.payload));
      ASSERT_TRUE(ids_.insert(std::string(id.begin(), id.end())).second)
          << "transaction id used twice";
    }
    ASSERT_EQ(at_sent, card_.sent().size()) << "sent more than the model";
  }

  using Counts = std::array<uint64_t, kOutcomes>;
  Counts counted() const {
    Counts out;
    for (size_t i = 0; i < kOutcomes; ++i)
      out[i] = engine_.stats(0).outcomes[i].get();
    return out;
  }
  // Each pass ended in one of its acceptable outcomes.
  void check_outcomes(const std::vector<Expected>& expected, const Counts& before) {
    Counts left = counted();
    for (size_t i = 0; i < kOutcomes; ++i)
      left[i] -= before[i];
    std::vector<const OutcomeSet*> sets;
    for (const Expected& e : expected) {
      for (const OutcomeSet& set : e.outcomes)
        sets.push_back(&set);
    }
    // The narrowest choice first: the sets are nested, so this finds an assignment if there is one.
    std::sort(sets.begin(), sets.end(),
              [](const auto* x, const auto* y) { return x->size() < y->size(); });
    for (const OutcomeSet* set : sets) {
      const auto found = std::find_if(set->begin(), set->end(),
                                      [&](Outcome o) { return left[static_cast<size_t>(o)] != 0; });
      ASSERT_NE(found, set->end())
          << "missing " << info(*set->begin()).name << "; left over:" << names(left);
      --left[static_cast<size_t>(*found)];
    }
    for (size_t i = 0; i < kOutcomes; ++i)
      ASSERT_EQ(left[i], 0u) << kOutcomeInfo[i].name;
  }
  static std::string names(const Counts& counts) {
    std::string out;
    for (size_t i = 0; i < kOutcomes; ++i) {
      if (counts[i] != 0) out.append(" ").append(kOutcomeInfo[i].name);
    }
    return out;
  }
  void seen_all_outcomes() const {
    uint64_t sum = 0;
    for (const uint64_t n : counted())
      sum += n;
    EXPECT_EQ(sum, engine_.stats(0).received_packets.get() + engine_.stats(0).hairpin_passes.get());
  }

  std::mt19937_64 random_;
  sim::Network network_;
  RingEngine engine_;
  sim::Card card_;
  SimDriver driver_;
  Worker<SimDriver> worker_;
  SlowRelay model_;
  std::vector<TransportAddress> hosts_;
  std::vector<TransportAddress> clients_;
  std::set<std::string> ids_;
};

TEST(TransformProperty, the_fast_core_does_what_the_slow_relay_does) {
  const char* fixed = std::getenv("CULVERT_TEST_SEED");
  const uint64_t seed = fixed != nullptr ? std::stoull(fixed) : std::random_device{}();
  SCOPED_TRACE("CULVERT_TEST_SEED=" + std::to_string(seed));
  std::map<std::string, uint64_t> transforms;
  // From zero, and so that Ticks wrap during the run.
  for (const Ticks start : {Ticks{0}, Ticks{0xffff0000}}) {
    auto trial = std::make_unique<Trial>(seed + start, start);
    trial->run(12'000);
    for (const auto& [name, n] : trial->transforms)
      transforms[name] += n;
  }
  // The run must have met every transform: 4 kinds by 2 by 2 families, and hairpins.
  for (const char* kind : {"relayed_channel_to_peer", "relayed_send_to_peer",
                           "relayed_peer_to_channel", "relayed_peer_to_data"}) {
    for (const char* client : {"v4", "v6"}) {
      for (const char* peer : {"v4", "v6"}) {
        const std::string name = std::string(kind) + " client " + client + " peer " + peer;
        EXPECT_GT(transforms[name], 20u) << name;
      }
    }
  }
  EXPECT_GE(transforms.size(), 20u) << "hairpins were missed";
}

}  // namespace
}  // namespace culvert
