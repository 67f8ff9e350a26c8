#include "tests/sim/world.h"

#include <algorithm>

#include "config/derive.h"
#include "control/snapshot_builder.h"
#include "dataplane/base/endian.h"

namespace culvert::sim_test {

namespace {

TransportAddress at(const std::string& text) {
  return TransportAddress::parse(text).value();
}
IpAddress ip(const std::string& text) {
  return IpAddress::parse(text).value();
}
constexpr uint32_t kUsers = 4;

}  // namespace

// ------------------------------------------------------------------ the relay

Config World::config_of(const Scenario& s) {
  Rng rng = random_for(s.seed, "config");
  Config config;
  config.cores = s.cores;
  RealmConfig realm;
  realm.name = rng.one_in(4) ? "a-realm-with-a-long-name.relay.example.org" : "example.org";
  for (uint32_t u = 0; u < kUsers; ++u)
    realm.users.push_back({"user" + std::to_string(u), "password" + std::to_string(u)});
  if (s.has(Fault::k_timed_credentials)) realm.secrets = {"north"};
  if (s.has(Fault::k_quota)) realm.user_quota = rng.between(1, 4);
  if (s.has(Fault::k_bandwidth)) realm.user_bandwidth = rng.between(5'000, 100'000);
  config.realms = {realm};
  config.listeners = {{at("192.0.2.1:3478"), 0}, {at("[2001:db8::1]:3478"), 0}};
  config.relay_addresses = {{ip("192.0.2.1"), ip("192.0.2.1")},
                            {ip("2001:db8::1"), ip("2001:db8::1")}};
  config.relay_port_low = 50000;
  config.relay_port_high = s.has(Fault::k_ports_taken) ? 50063 : 50511;
  config.peers.default_deny = false;  // documentation addresses are on the list
  config.peers.deny = {{ip("10.0.0.0"), 8}, {ip("2001:dba::"), 32}};
  config.limits.max_allocations = s.has(Fault::k_full_tables) ? rng.between(2, 6) : 256;
  if (s.has(Fault::k_short_lifetimes)) {
    config.limits.default_lifetime_seconds = rng.between(5, 60);
    config.limits.nonce_lifetime_seconds = rng.between(20, 120);
  }
  if (s.has(Fault::k_short_budget)) {
    config.reply_budget.per_prefix = rng.between(50, 500);
    config.reply_budget.total = rng.between(500, 5000);
    config.reply_budget.bad_nonce_per_second = rng.between(1, 20);
  }
  return config;
}

Rig::Options World::options_of(const Scenario& s, const Config& config) {
  Rig::Options o;
  o.seed = s.seed;
  o.burst = s.burst;
  o.plant = s.plant;
  if (s.has(Fault::k_full_command_ring)) o.command_slots = SpscRing::kMinSlots;
  if (s.has(Fault::k_full_event_ring)) o.event_slots = SpscRing::kMinSlots;
  if (s.has(Fault::k_full_handoff_ring)) o.handoff_slots = SpscRing::kMinSlots;
  o.card.misdirect_relay = s.has(Fault::k_misdirected);
  const bool small = s.has(Fault::k_full_tables);
  CoreLimits& l = o.limits;
  l.allocations = allocations_per_core(config.limits.max_allocations, config.cores);
  l.permissions = small ? 12 : 4096;
  l.narrow_channels = l.wide_channels = small ? 4 : 1024;
  l.policers = 64;
  l.count_policers = config.cores > 1;
  l.relay_port_low = config.relay_port_low;
  l.relay_port_high = config.relay_port_high;
  l.addresses = static_cast<uint16_t>(local_addresses(config).size());
  return o;
}

World::World(const Scenario& scenario, Coverage& coverage)
    : scenario_(scenario),
      coverage_(coverage),
      network_(scenario.seed, {},
               random_for(scenario.seed, "clock").one_in(2) ? Ticks{0xffff0000} : Ticks{0}),
      rig_(network_, config_of(scenario), options_of(scenario, config_of(scenario)), coverage) {
  Rng rng = random_for(scenario.seed, "world");
  constexpr uint64_t kSlices[] = {1000, 1000, 5000, 20'000};
  slice_us_ = kSlices[rng.below(4)];
  idle_us_ = uint64_t{rng.between(16, 250)} * kMilli;
  client_configs_[0].verify_integrity = true;
  client_configs_[1].keep_alive = false;
  client_configs_[1].auth = codec::ClientConfig::Auth::kRfc5389;
  client_configs_[1].fingerprint = true;
  set_leniency();
  for (uint32_t u = 0; u < kUsers; ++u) {
    const UserConfig& user = rig_.config().realms[0].users[u];
    rig_.reference().add_user(user.name, {user.password, user.name, 0});
    credentials_.push_back(std::make_unique<codec::Credentials>(user.name, user.password));
  }
  make_nats();
  make_clients();
  make_peers();
  attacker_.inside = at("198.18.0.66:6666");
  attacker_.socket = network_.open(attacker_.inside);
}

World::~World() = default;

void World::set_leniency() {
  const Scenario& s = scenario_;
  Reference::Leniency& l = rig_.reference().leniency();
  const auto any = [&](std::initializer_list<Fault> list) {
    return std::any_of(list.begin(), list.end(), [&](Fault f) { return s.has(f); });
  };
  l.rings_may_fill = any({Fault::k_full_command_ring, Fault::k_full_event_ring,
                          Fault::k_full_handoff_ring, Fault::k_control_stall, Fault::k_core_freeze,
                          Fault::k_core_stall, Fault::k_permission_flood, Fault::k_oversized});
  l.budget_may_end = any({Fault::k_short_budget});
  l.tables_may_fill = any({Fault::k_full_tables, Fault::k_permission_flood});
  l.ports_may_fail = any({Fault::k_ports_taken});
  if (any({Fault::k_control_stall, Fault::k_core_freeze, Fault::k_core_stall}))
    l.clock_slack_ms += 4000;
  if (s.has(Fault::k_clock_forward)) l.clock_slack_ms += 700'000;
}

void World::make_nats() {
  for (uint32_t n = 0; n < 6; ++n) {
    Rng rng = random_for(scenario_.seed, "nat", n);
    NatBehaviour b;
    b.mapping = static_cast<NatKind>(rng.below(3));
    b.filtering = static_cast<NatKind>(rng.below(3));
    b.lifetime_us = (scenario_.has(Fault::k_nat_lifetime) ? rng.between(2, 20) : 300) * kSec;
    b.preserve_ports = rng.one_in(2);
    b.hairpin = rng.one_in(2);
    const std::string number = std::to_string(n);
    const IpAddress address =
        n % 2 == 0 ? ip("203.0.113.20" + number) : ip("2001:db8:99::" + number);
    nats_.push_back(
        std::make_unique<Nat>(network_, address, b, [this](const Datagram& d) { deliver(d); }));
    nat_of_peers_.push_back(n >= 4);
  }
}

void World::open(Host& host) {
  if (host.nat == nullptr) host.socket = network_.open(host.inside);
  hosts_[host.inside] = &host;
}

void World::make_clients() {
  for (uint32_t i = 0; i < scenario_.clients; ++i) {
    Rng rng = random_for(scenario_.seed, "client", i);
    auto client = std::make_unique<Client>();
    const bool v6 = rng.one_in(3);
    const uint32_t nat = rng.below(4);  // 0, 1: of its family; 2, 3: none
    if (nat < 2) client->host.nat = nats_[nat * 2 + (v6 ? 1 : 0)].get();
    const std::string n = std::to_string(i + 1);
    client->host.inside =
        nat < 2 ? at(v6 ? "[fd00::" + n + "]:4000" : "172.16.0." + n + ":4000")
                : at(v6 ? "[2001:db8:c::" + n + "]:4000" : "203.0.113." + n + ":4000");
    client->server = rig_.config().listeners[v6 ? 1 : 0].address;
    client->credentials = credentials_[rng.below(credentials_.size())].get();
    open(client->host);
    clients_.push_back(std::move(client));
    begin_anew(*clients_.back());
  }
}

void World::make_peers() {
  for (uint32_t i = 0; i < scenario_.peers; ++i) {
    Rng rng = random_for(scenario_.seed, "peer", i);
    auto peer = std::make_unique<Peer>();
    const bool v6 = rng.one_in(3);
    if (rng.one_in(2)) peer->host.nat = nats_[v6 ? 5 : 4].get();
    const std::string n = std::to_string(i + 1);
    peer->host.inside = peer->host.nat != nullptr
                            ? at(v6 ? "[fd01::" + n + "]:7000" : "172.17.0." + n + ":7000")
                            : at(v6 ? "[2001:db8:5::" + n + "]:7000" : "198.51.100." + n + ":7000");
    open(peer->host);
    peers_.push_back(std::move(peer));
  }
}

// ------------------------------------------------------------------ hosts

void World::send(Host& host, const TransportAddress& to, codec::Bytes bytes, Rng& rng) {
  Datagram d;
  d.from = host.inside;
  d.to = to;
  d.payload.assign(bytes.begin(), bytes.end());
  const uint64_t bits = rng.next();
  d.tos = (bits & 7) == 0 ? static_cast<uint8_t>(bits >> 8) : 0;
  d.dont_fragment = (bits & 0x18) == 0;
  if (scenario_.has(Fault::k_hop_limit) && (bits >> 16 & 15) == 0) {
    d.ttl = static_cast<uint8_t>(1 + (bits >> 20 & 3));
    coverage_.hit(Fault::k_hop_limit);
  }
  if (host.nat != nullptr)
    host.nat->send(std::move(d));
  else
    network_.send(d);
}

void World::raw(const TransportAddress& from, const TransportAddress& to, codec::Bytes bytes,
                uint8_t ttl) {
  Datagram d;
  d.from = from;
  d.to = to;
  d.ttl = ttl;
  d.payload.assign(bytes.begin(), bytes.end());
  network_.send(d);
}

void World::deliver(const Datagram& d) {
  const auto host = hosts_.find(d.to);
  if (host != hosts_.end()) host->second->inbox.push_back(d);
}

void World::collect(Host& host) {
  if (host.socket == sim::kNoSocket) return;
  Datagram d;
  while (network_.receive(host.socket, d))
    host.inbox.push_back(d);
}

// A client that starts over: a new TURN client, on another port where its last one is burnt.
void World::begin_anew(Client& client) {
  ++client.lives;
  if (client.new_port) {
    hosts_.erase(client.host.inside);
    if (client.host.nat == nullptr) network_.close_address(client.host.inside);
    client.host.inside.port = static_cast<uint16_t>(client.host.inside.port % 60'000 + 1);
    client.host.inbox.clear();
    open(client.host);
  }
  const uint64_t seed =
      random_for(scenario_.seed, "turn", client.lives * 1000 + client.host.inside.port).next() ^
      client.host.inside.ip.bytes[15];
  Rng rng(seed);
  if (rig_.config().realms[0].secrets.empty()) {
    // keeps its user
  } else if (rng.one_in(2)) {
    const auto minted = rig_.server().mint("", "guest", rng.between(5, 300), rig_.time());
    credentials_.push_back(
        std::make_unique<codec::Credentials>(minted->username, minted->password));
    rig_.reference().add_user(minted->username,
                              {minted->password, "guest", minted->expires_unix_seconds});
    client.credentials = credentials_.back().get();
  }
  client.turn =
      std::make_unique<codec::TurnClient>(client_configs_[rng.below(2)], client.credentials, seed);
  client.peers.clear();
  client.channels.clear();
  client.met.clear();
  client.nonce.clear();
  client.broken = client.new_port = false;
}

void World::turn_client(Client& client) {
  collect(client.host);
  Rng rng = random_for(scenario_.seed, "wire", network_.now_us());
  for (const Datagram& d : client.host.inbox) {
    if (d.is_error || d.from == TransportAddress{}) continue;
    if (!(d.from == client.server)) continue;
    if (d.payload.size() > 20 && d.payload[0] == 1) {
      const auto m = codec::MessageView::parse(d.payload);
      if (const auto nonce = m ? m->text(codec::Attr::kNonce) : std::nullopt) client.nonce = *nonce;
    }
    if (client.turn->receive(d.payload, now_ns()) != codec::Received::kIndication) continue;
    const auto data = codec::parse_data_indication(d.payload);
    if (data && client.met.size() < 16 &&
        std::find(client.met.begin(), client.met.end(), data->peer) == client.met.end())
      client.met.push_back(data->peer);
  }
  client.host.inbox.clear();
  client.turn->tick(now_ns());
  while (const auto bytes = client.turn->poll_transmit())
    send(client.host, client.server, *bytes, rng);
  while (const auto event = client.turn->poll_event()) {
    if (event->kind == codec::Event::Kind::kTimeout) {
      ++timeouts_;
      client.broken = true;
    }
    if (event->kind == codec::Event::Kind::kError && (event->code == 437 || event->code == 441))
      client.broken = client.new_port = true;
    if (event->kind == codec::Event::Kind::kError && event->code == 401) client.broken = true;
    if (event->kind != codec::Event::Kind::kSuccess) continue;
    if (event->method == codec::Method::kAllocate) {
      if (client.turn->reservation_token()) token_ = client.turn->reservation_token();
      for (auto& peer : peers_) {
        for (const TransportAddress& relayed : client.turn->relayed()) {
          if (peer->targets.size() >= 6) peer->targets.erase(peer->targets.begin());
          peer->targets.push_back(relayed);
        }
      }
    }
  }
}

void World::turn_clients() {
  for (auto& nat : nats_)
    nat->poll();
  for (auto& client : clients_) {
    if (!client->host.inbox.empty() || client->host.socket == sim::kNoSocket ||
        network_.has_waiting(client->host.socket) || client->turn->next_deadline() <= now_ns())
      turn_client(*client);
  }
}

void World::turn_peers() {
  for (auto& peer : peers_) {
    collect(peer->host);
    for (const Datagram& d : peer->host.inbox) {
      if (d.is_error || d.payload.size() < 20 || d.payload[0] != 1) continue;
      const auto m = codec::MessageView::parse(d.payload);
      if (m && m->cls() == codec::Class::kSuccess)
        peer->outside = m->xor_address(codec::Attr::kXorMappedAddress);
    }
    peer->host.inbox.clear();
  }
  collect(attacker_);
  attacker_.inbox.clear();
}

void World::act() {
  const sim::NetworkCounters& counters = network_.counters();
  uint64_t before = 0;
  do {
    before = counters.sent + counters.delivered;
    turn_clients();
    turn_peers();
    network_.advance_to(network_.now_us());
    rig_.settle();
  } while (counters.sent + counters.delivered != before);
}

void World::pass(uint64_t us) {
  const uint64_t end = network_.now_us() + us;
  act();
  while (network_.now_us() < end) {
    const uint64_t now = network_.now_us();
    uint64_t next = std::min(end, now + idle_us_);
    if (const auto arrival = network_.next_arrival_us()) next = std::min(next, *arrival);
    for (const auto& client : clients_) {
      const uint64_t ns = client->turn->next_deadline();
      if (ns != codec::kNever) next = std::min(next, (ns + 999) / 1000);
    }
    network_.advance_to(std::min(end, std::max(next, now + slice_us_)));
    act();
  }
}

void World::step(uint32_t number) {
  Rng rng = random_for(scenario_.seed, "step", number);
  const uint32_t what = rng.below(100);
  if (what < 55)
    client_step(rng);
  else if (what < 80)
    peer_step(rng);
  else if (what < 85)
    odd_step(rng);
  else if (scenario_.faults != 0)
    fault_step(rng);
  act();
  // Mostly a moment, now and then a long one.
  const uint64_t ms = rng.one_in(12)  ? rng.below(scenario_.max_step_ms * 20)
                      : rng.one_in(3) ? rng.below(scenario_.max_step_ms)
                                      : rng.below(50);
  pass(ms * kMilli);
  if (number % 16 == 0 && rig_.reference().requests_waiting() == 0) rig_.check_tables();
  if (timeouts_ != 0 && scenario_.faults == 0)
    throw Violation("a client's request was never answered in a world without faults");
}

void World::finish() {
  network_.set_conditions({});
  gather();
  hosts_.clear();
  clients_.clear();
  for (auto& peer : peers_)
    peer->host.inbox.clear();
  pass(45 * kSec);
  rig_.check_tables();
  const uint64_t end = rig_.reference().latest_end_ms() * kMilli;
  idle_us_ = kSec;
  if (end > network_.now_us()) pass(end - network_.now_us());
  pass(3 * kSec);
  rig_.check_empty();
  coverage_.virtual_us += network_.now_us();
  coverage_.packets += rig_.packets();
  ++coverage_.seeds;
}

void World::gather() {
  coverage_.timeouts += timeouts_;
  const sim::NetworkCounters& n = network_.counters();
  if (scenario_.has(Fault::k_loss)) coverage_.hit(Fault::k_loss, n.lost);
  if (scenario_.has(Fault::k_duplication)) coverage_.hit(Fault::k_duplication, n.duplicated);
  for (size_t i = 0; i < nats_.size(); ++i) {
    const NatCounters& c = nats_[i]->counters();
    const NatBehaviour& b = nats_[i]->behaviour();
    const size_t kind =
        static_cast<size_t>(b.mapping) * kNatKinds + static_cast<size_t>(b.filtering);
    coverage_.nats[nat_of_peers_[i] ? 1 : 0][kind] += c.out + c.in;
    coverage_.hit(NatEvent::kMapped, c.mapped);
    coverage_.hit(NatEvent::kPreserved, c.preserved);
    coverage_.hit(NatEvent::kFiltered, c.filtered);
    coverage_.hit(NatEvent::kHairpinned, c.hairpinned);
    coverage_.hit(NatEvent::kHairpinRefused, c.hairpin_refused);
    coverage_.hit(NatEvent::kForgotten, c.forgotten);
    coverage_.hit(Expiry::kNatMapping, c.expired);
    if (scenario_.has(Fault::k_nat_lifetime)) coverage_.hit(Fault::k_nat_lifetime, c.expired);
  }
}

Result run_scenario(const Scenario& scenario, Coverage& coverage) {
  Result result;
  try {
    World world(scenario, coverage);
    for (result.step = 0; result.step < scenario.steps; ++result.step)
      world.step(result.step);
    world.finish();
  } catch (const Violation& v) {
    result.ok = false;
    result.violation = v.what();
  }
  return result;
}

}  // namespace culvert::sim_test
