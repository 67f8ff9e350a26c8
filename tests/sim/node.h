// A whole relay on one thread and a virtual clock: the fast cores, control's TurnServer and the
// rings between them, in a virtual network with clients (the tools' own TURN client) and peers. A
// test turns it by asking for virtual time to pass. Everything follows from one seed.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "control/snapshot_builder.h"
#include "control/turn_server.h"
#include "crypto/random.h"
#include "dataplane/core/ring_engine.h"
#include "dataplane/core/worker.h"
#include "dataplane/io/sim/sim_driver.h"
#include "tests/sim/watcher.h"
#include "tools/stun_client/client.h"

namespace culvert::sim_test {

using sim::AddressLess;
using sim::Conditions;
using sim::Datagram;
using sim::Network;
namespace client_codec = culvert::stun_client;

inline constexpr uint64_t kMs = 1000;  // in microseconds of the virtual clock
inline constexpr uint64_t kSecond = 1000 * kMs;
inline constexpr uint64_t kUnixStart = 1'767'225'600;

inline TransportAddress at(const std::string& text) {
  return TransportAddress::parse(text).value();
}
inline IpAddress ip(const std::string& text) {
  return IpAddress::parse(text).value();
}

// CULVERT_TEST_SEED, or a fresh one; the caller prints it.
inline uint64_t test_seed() {
  const char* fixed = std::getenv("CULVERT_TEST_SEED");
  return fixed != nullptr ? std::stoull(fixed) : std::random_device{}();
}

inline Config relay_config(uint32_t cores = 1) {
  Config config;
  config.cores = cores;
  RealmConfig realm;
  realm.name = "example.org";
  realm.users = {{"alice", "wonderland"}};
  config.realms = {realm};
  config.listeners = {{at("192.0.2.1:3478"), 0}, {at("[2001:db8::1]:3478"), 0}};
  config.relay_addresses = {{ip("192.0.2.1"), ip("192.0.2.1")},
                            {ip("2001:db8::1"), ip("2001:db8::1")}};
  config.peers.default_deny = false;  // documentation addresses are on the list
  config.limits.max_allocations = 512;
  return config;
}

// ------------------------------------------------------------------------------------------- the
// node

class Node {
 public:
  struct Options {
    uint64_t seed = 1;
    Conditions conditions;
    sim::Card::Options card;
    Ticks start = 0;
  };

  Node(const Config& config, const Options& options)
      : network(options.seed, options.conditions, options.start),
        watcher(config),
        random_(options.seed),
        engine_(engine_options(config),
                build_snapshot(config, static_cast<CoreId>(config.cores), NonceKeys{})),
        server_(config, engine_, random_, {}, time()),
        card(network, engine_.snapshot(), options.card) {
    card.record(true);
    for (CoreId core = 0; core < config.cores; ++core) {
      drivers_.push_back(std::make_unique<SimDriver>(card, core));
      CoreSeeds seeds;
      seeds.transaction[0] = network.random() | 1;
      seeds.transaction[1] = network.random();
      workers_.push_back(std::make_unique<Worker<SimDriver>>(*drivers_.back(), engine_.board(),
                                                             core, limits(config), seeds,
                                                             engine_.mutable_stats(core)));
    }
  }

  [[nodiscard]] TurnServer& server() { return server_; }
  [[nodiscard]] RingEngine& engine() { return engine_; }
  [[nodiscard]] const FlowState& flows(CoreId core) { return workers_[core]->core().flows; }
  [[nodiscard]] ControlTime time() const {
    const uint64_t ms = network.now_us() / kMs;
    return {ms, kUnixStart + ms / 1000};
  }
  [[nodiscard]] uint64_t now_ns() const { return network.now_us() * 1000; }

  // Cores and control until neither has anything to do at this instant.
  void settle() {
    bool busy = true;
    while (busy) {
      busy = false;
      for (auto& worker : workers_)
        busy |= worker->run_once() != 0;
      busy |= server_.poll(time());
      for (const sim::Card::Sent& sent : card.sent()) {
        watcher.relay_sent(sent.datagram, sent.at_us / kMs);
        for (auto& tap : taps_)
          tap->push_back(sent);
        busy = true;
      }
      card.sent().clear();
    }
  }
  // A copy of everything that leaves from now on.
  std::shared_ptr<std::vector<sim::Card::Sent>> tap() {
    taps_.push_back(std::make_shared<std::vector<sim::Card::Sent>>());
    return taps_.back();
  }

  [[nodiscard]] uint64_t outcome(Outcome o) const {
    uint64_t sum = 0;
    for (CoreId c = 0; c < workers_.size(); ++c) {
      sum += engine_.stats(c).outcomes[static_cast<size_t>(o)].get();
    }
    return sum;
  }
  // Every datagram ended in one outcome, on each core.
  void expect_conservation() const {
    for (CoreId c = 0; c < workers_.size(); ++c) {
      const CoreStats& s = engine_.stats(c);
      uint64_t sum = 0;
      for (const Counter& counter : s.outcomes)
        sum += counter.get();
      EXPECT_EQ(s.received_packets.get() + s.hairpin_passes.get() + s.handed_in.get(), sum)
          << "core " << c;
      EXPECT_EQ(s.events_dropped.get(), 0u);
    }
  }
  // Nothing of any allocation is left anywhere.
  void expect_empty() {
    for (CoreId c = 0; c < workers_.size(); ++c) {
      EXPECT_EQ(flows(c).live_allocations, 0u) << "core " << c;
      EXPECT_EQ(flows(c).permission_table.size(), 0u) << "core " << c;
      EXPECT_EQ(flows(c).narrow.size() + flows(c).wide.size(), 0u) << "core " << c;
      EXPECT_EQ(flows(c).redirects.size(), 0u) << "core " << c;
      EXPECT_EQ(flows(c).open_ports, 0u) << "core " << c;
    }
    EXPECT_EQ(card.open_ports(), 0u);
    const TurnStats stats = server_.stats();
    EXPECT_EQ(stats.allocations, 0u);
    EXPECT_EQ(stats.reservations, 0u);
    EXPECT_EQ(stats.ports_free, stats.ports_total);
  }
  void expect_clean_watch() const {
    for (const std::string& v : watcher.violations())
      ADD_FAILURE() << v;
    EXPECT_EQ(card.wrong_egress(), 0u);
  }

  Network network;
  Watcher watcher;

 private:
  static RingEngine::Options engine_options(const Config& config) {
    RingEngine::Options o;
    o.cores = static_cast<CoreId>(config.cores);
    return o;
  }
  static CoreLimits limits(const Config& config) {
    CoreLimits l;
    l.allocations = config.limits.max_allocations;
    l.permissions = 8 * l.allocations;
    l.narrow_channels = l.wide_channels = 16 * l.allocations;
    l.policers = 64;
    l.relay_port_low = config.relay_port_low;
    l.relay_port_high = config.relay_port_high;
    l.addresses = static_cast<uint16_t>(local_addresses(config).size());
    return l;
  }

  crypto::Random random_;
  RingEngine engine_;
  TurnServer server_;

 public:
  sim::Card card;

 private:
  std::vector<std::unique_ptr<SimDriver>> drivers_;
  std::vector<std::unique_ptr<Worker<SimDriver>>> workers_;
  std::vector<std::shared_ptr<std::vector<sim::Card::Sent>>> taps_;
};

// ------------------------------------------------------------------------------------------- hosts

// A TURN client on a simulated host.
class Client {
 public:
  Client(Node& node, const TransportAddress& from, client_codec::Credentials& credentials,
         const client_codec::ClientConfig& config, uint64_t seed)
      : node_(node),
        address(from),
        server(from.ip.is_v4() ? at("192.0.2.1:3478") : at("[2001:db8::1]:3478")),
        turn(config, &credentials, seed),
        socket_(node.network.open(from)) {}

  struct Arrived {
    TransportAddress peer;  // of a Data indication
    uint16_t channel = 0;   // of ChannelData
    std::vector<uint8_t> data;
  };

  void send(std::span<const uint8_t> payload) {
    Datagram d;
    d.from = address;
    d.to = server;
    d.payload.assign(payload.begin(), payload.end());
    node_.watcher.client_sent(d);
    node_.network.send(d);
  }
  void send_channel(uint16_t channel, std::span<const uint8_t> data) {
    const auto head =
        client_codec::channel_data_header(channel, static_cast<uint16_t>(data.size()));
    std::vector<uint8_t> bytes(head.begin(), head.end());
    bytes.insert(bytes.end(), data.begin(), data.end());
    send(bytes);
  }
  void send_indication(const TransportAddress& peer, std::span<const uint8_t> data) {
    client_codec::TransactionId id{};
    store_be64(id.data(), ++indications_);
    client_codec::MessageBuilder message(client_codec::Method::kSend,
                                         client_codec::Class::kIndication, id);
    message.add_xor_address(client_codec::Attr::kXorPeerAddress, peer);
    message.add(client_codec::Attr::kData, data);
    send(message.bytes());
  }

  // Takes what has come and sends what is due.
  void turn_once() {
    Datagram d;
    while (node_.network.receive(socket_, d)) {
      if (d.is_error) continue;
      switch (turn.receive(d.payload, node_.now_ns())) {
        case client_codec::Received::kChannelData: {
          const auto data = client_codec::parse_channel_data(d.payload).value();
          arrived.push_back({{}, data.channel, {data.payload.begin(), data.payload.end()}});
          break;
        }
        case client_codec::Received::kIndication:
          if (const auto data = client_codec::parse_data_indication(d.payload)) {
            arrived.push_back({data->peer, 0, {data->payload.begin(), data->payload.end()}});
          } else {
            ++icmp_reports;
          }
          break;
        default:
          break;
      }
    }
    turn.tick(node_.now_ns());
    while (const auto bytes = turn.poll_transmit())
      send(*bytes);
    while (auto event = turn.poll_event())
      events.push_back(std::move(*event));
  }
  [[nodiscard]] bool succeeded(uint32_t request) const {
    for (const auto& e : events) {
      if (e.request == request) return e.kind == client_codec::Event::Kind::kSuccess;
    }
    return false;
  }
  [[nodiscard]] uint64_t next_us() const {
    const uint64_t ns = turn.next_deadline();
    return ns == client_codec::kNever ? UINT64_MAX : (ns + 999) / 1000;
  }

 private:
  Node& node_;

 public:
  TransportAddress address;
  TransportAddress server;
  client_codec::TurnClient turn;
  std::vector<client_codec::Event> events;
  std::vector<Arrived> arrived;
  uint64_t icmp_reports = 0;

 private:
  sim::SocketId socket_;
  uint64_t indications_ = 0;
};

class Peer {
 public:
  Peer(Node& node, const TransportAddress& where)
      : node_(node), address(where), socket_(node.network.open(where)) {}

  void send(const TransportAddress& to, std::span<const uint8_t> data) {
    Datagram d;
    d.from = address;
    d.to = to;
    d.payload.assign(data.begin(), data.end());
    node_.network.send(d);
  }
  void turn_once() {
    Datagram d;
    while (node_.network.receive(socket_, d)) {
      if (!d.is_error) arrived.push_back(d);
    }
  }

 private:
  Node& node_;

 public:
  TransportAddress address;
  std::vector<Datagram> arrived;

 private:
  sim::SocketId socket_;
};

// The node and everyone around it.
class World {
 public:
  World(const Config& config, const Node::Options& options)
      : node(config, options), credentials("alice", "wonderland"), seed_(options.seed) {}

  Client& add_client(const std::string& from) {
    clients.push_back(std::make_unique<Client>(node, at(from), credentials, client_config,
                                               seed_ * 1000 + clients.size()));
    return *clients.back();
  }
  Peer& add_peer(const std::string& where) {
    peers.push_back(std::make_unique<Peer>(node, at(where)));
    return *peers.back();
  }

  // Everyone acts at this instant until nobody has more to do.
  void act() {
    const sim::NetworkCounters& counters = node.network.counters();
    uint64_t before = 0;
    do {
      before = counters.sent + counters.delivered;
      for (auto& client : clients)
        client->turn_once();
      for (auto& peer : peers)
        peer->turn_once();
      node.network.advance_to(node.network.now_us());
      node.settle();
    } while (counters.sent + counters.delivered != before);
  }
  // Virtual time passes, stopping wherever something happens. The wheel is turned every 16 ms.
  void run_until(uint64_t us) {
    act();
    while (node.network.now_us() < us) {
      uint64_t next = std::min(us, (node.network.now_us() / (16 * kMs) + 1) * 16 * kMs);
      if (const auto arrival = node.network.next_arrival_us()) next = std::min(next, *arrival);
      for (auto& client : clients)
        next = std::min(next, client->next_us());
      node.network.advance_to(std::max(next, node.network.now_us() + 1));
      act();
    }
  }
  void run_for(uint64_t us) { run_until(node.network.now_us() + us); }

  Node node;
  client_codec::Credentials credentials;
  client_codec::ClientConfig client_config;
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<std::unique_ptr<Peer>> peers;

 private:
  uint64_t seed_;
};

}  // namespace culvert::sim_test
