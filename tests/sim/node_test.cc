// Whole-node simulations (node.h): what the relay promises, watched from outside it.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/sim/node.h"

namespace culvert::sim_test {
namespace {

std::vector<uint8_t> numbered(uint32_t flow, uint32_t sequence) {
  std::vector<uint8_t> out(8 + sequence % 50);
  store_be32(out.data(), flow);
  store_be32(out.data() + 4, sequence);
  return out;
}

// Counts what arrived of a flow and how much of it was out of order.
struct Tally {
  void take(std::span<const uint8_t> data, uint32_t expected_flow) {
    ASSERT_GE(data.size(), 8u);
    ASSERT_EQ(load_be32(data.data()), expected_flow) << "a datagram of another flow";
    const uint32_t sequence = load_be32(data.data() + 4);
    if (received != 0 && sequence <= highest) ++late_or_double;
    highest = std::max(highest, sequence);
    ++received;
  }
  uint32_t received = 0;
  uint32_t highest = 0;
  uint32_t late_or_double = 0;
};

struct Scenario {
  const char* name;
  uint32_t cores;
  Conditions conditions;
  bool misdirect;
};

class NodeScenario : public ::testing::TestWithParam<Scenario> {};

// Half of the clients are IPv4 and half IPv6, and so are their peers; half speak ChannelData.
struct Pair {
  Client* client = nullptr;
  Peer* peer = nullptr;
  uint16_t channel = 0;  // 0: Send indications
  Tally at_peer;
  Tally at_client;
};

std::vector<Pair> make_pairs(World& world, int count) {
  std::vector<Pair> pairs(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    const std::string n = std::to_string(i + 1);
    Pair& p = pairs[static_cast<size_t>(i)];
    p.client =
        &world.add_client(i % 2 == 0 ? "203.0.113." + n + ":4000" : "[2001:db8:c::" + n + "]:4000");
    p.peer =
        &world.add_peer(i % 4 < 2 ? "198.51.100." + n + ":7000" : "[2001:db8:5::" + n + "]:7000");
    p.channel = i % 3 == 0 ? uint16_t{0} : static_cast<uint16_t>(0x4000 + i);
    client_codec::AllocateOptions options;
    options.family = p.peer->address.ip.family;
    (void)p.client->turn.allocate(options, world.node.now_ns());
  }
  return pairs;
}

void exchange(World& world, std::vector<Pair>& pairs, uint32_t rounds) {
  for (uint32_t round = 1; round <= rounds; ++round) {
    for (uint32_t i = 0; i < pairs.size(); ++i) {
      Pair& p = pairs[i];
      const auto data = numbered(i, round);
      if (p.channel != 0) {
        p.client->send_channel(p.channel, data);
      } else {
        p.client->send_indication(p.peer->address, data);
      }
      if (!p.client->turn.relayed().empty()) p.peer->send(p.client->turn.relayed()[0], data);
    }
    world.run_for(20 * kMs);
  }
}

// After what was under way has arrived.
void tally(World& world, std::vector<Pair>& pairs) {
  world.run_for(kSecond);
  for (uint32_t i = 0; i < pairs.size(); ++i) {
    for (const Datagram& d : pairs[i].peer->arrived)
      pairs[i].at_peer.take(d.payload, i);
    for (const auto& a : pairs[i].client->arrived)
      pairs[i].at_client.take(a.data, i);
    pairs[i].peer->arrived.clear();
    pairs[i].client->arrived.clear();
  }
}

TEST_P(NodeScenario, clients_allocate_permit_bind_and_talk_and_nothing_is_left_behind) {
  const auto [name, cores, conditions, misdirect] = GetParam();
  const uint64_t seed = test_seed();
  SCOPED_TRACE("CULVERT_TEST_SEED=" + std::to_string(seed));
  World world(relay_config(cores), {seed, conditions, {.misdirect_relay = misdirect}, 0xfffff000});
  auto pairs = make_pairs(world, 24);
  world.run_for(20 * kSecond);  // retransmissions included
  for (Pair& p : pairs) {
    ASSERT_TRUE(p.client->turn.allocated()) << p.client->address.to_string();
    const TransportAddress peer = p.peer->address;
    if (p.channel != 0) {
      (void)p.client->turn.channel_bind(p.channel, peer, world.node.now_ns());
    } else {
      (void)p.client->turn.create_permission({&peer, 1}, world.node.now_ns());
    }
  }
  world.run_for(20 * kSecond);
  constexpr uint32_t kRounds = 200;
  exchange(world, pairs, kRounds);
  tally(world, pairs);

  const double kept = 1.0 - conditions.loss_ppm / 1e6;
  for (const Pair& p : pairs) {
    for (const Tally& t : {p.at_peer, p.at_client}) {
      if (conditions.loss_ppm == 0) {
        EXPECT_GE(t.received, kRounds) << p.client->address.to_string();
      } else {
        EXPECT_GT(t.received, kRounds * kept * kept * 0.75) << p.client->address.to_string();
      }
      if (conditions.reorder_ppm == 0 && conditions.duplicate_ppm == 0) {
        EXPECT_EQ(t.late_or_double, 0u) << "order within a flow was lost";
      }
    }
  }
  world.node.expect_clean_watch();
  EXPECT_GT(world.node.watcher.to_peers(), 0u);
  if (!misdirect) {
    EXPECT_EQ(world.node.outcome(Outcome::k_handoff), 0u);
  }

  // Clients fall silent without a word: an hour later (the longest lifetime) nothing is left.
  world.clients.clear();
  world.peers.clear();
  world.run_for(700 * kSecond);
  world.node.expect_empty();
  world.node.expect_conservation();
  world.node.expect_clean_watch();
}

constexpr Conditions kPerfect = {};
constexpr Conditions kJitter = {.delay_min_us = 2'000, .delay_max_us = 30'000};
constexpr Conditions kBad = {.loss_ppm = 50'000,
                             .duplicate_ppm = 20'000,
                             .reorder_ppm = 50'000,
                             .delay_min_us = 1'000,
                             .delay_max_us = 40'000};
INSTANTIATE_TEST_SUITE_P(All, NodeScenario,
                         ::testing::Values(Scenario{"perfect", 1, kPerfect, false},
                                           Scenario{"jitter", 1, kJitter, false},
                                           Scenario{"bad_network", 1, kBad, false},
                                           Scenario{"four_cores", 4, kJitter, false},
                                           Scenario{"four_cores_misdirected", 4, kPerfect, true},
                                           Scenario{"four_cores_bad_network", 4, kBad, true}),
                         [](const auto& tested) { return std::string(tested.param.name); });

// One client and one peer on a network without delay, no keep-alives: lifetimes to the millisecond.
class NodeLifetime : public ::testing::Test {
 protected:
  NodeLifetime() : world_(relay_config(), {test_seed(), {}, {}, 0}) {
    world_.client_config.keep_alive = false;
    client_ = &world_.add_client("203.0.113.1:4000");
    peer_ = &world_.add_peer("198.51.100.1:7000");
  }
  void allocate(uint32_t lifetime_s) {
    client_codec::AllocateOptions options;
    options.lifetime_s = lifetime_s;
    (void)client_->turn.allocate(options, world_.node.now_ns());
    world_.act();
    ASSERT_TRUE(client_->turn.allocated());
    relayed_ = client_->turn.relayed()[0];
    allocated_us_ = world_.node.network.now_us();
  }
  void permit() {
    const TransportAddress peer = peer_->address;
    (void)client_->turn.create_permission({&peer, 1}, world_.node.now_ns());
    world_.act();
  }
  // Does a datagram pass at that instant?
  bool to_peer(uint64_t us, uint16_t channel = 0) {
    world_.run_until(us);
    const std::vector<uint8_t> data = {1, 2, 3};
    if (channel != 0) {
      client_->send_channel(channel, data);
    } else {
      client_->send_indication(peer_->address, data);
    }
    world_.act();
    const bool came = !peer_->arrived.empty();
    peer_->arrived.clear();
    return came;
  }
  // 0: not at all; 1: as a Data indication; else the channel.
  uint16_t to_client(uint64_t us) {
    world_.run_until(us);
    peer_->send(relayed_, std::vector<uint8_t>{4, 5});
    world_.act();
    uint16_t how = 0;
    if (!client_->arrived.empty()) {
      how = client_->arrived[0].channel != 0 ? client_->arrived[0].channel : uint16_t{1};
    }
    client_->arrived.clear();
    return how;
  }

  World world_;
  Client* client_ = nullptr;
  Peer* peer_ = nullptr;
  TransportAddress relayed_;
  uint64_t allocated_us_ = 0;
};

TEST_F(NodeLifetime, a_permission_lives_300_s_whatever_passes_through_it) {
  allocate(3600);
  world_.run_until(7 * kSecond);
  permit();
  const uint64_t end = world_.node.network.now_us() + 300 * kSecond;
  for (uint64_t s = 50; s < 300; s += 50)
    EXPECT_TRUE(to_peer(end - s * kSecond));
  EXPECT_TRUE(to_peer(end - kMs));
  EXPECT_EQ(to_client(end - kMs), 1);
  EXPECT_FALSE(to_peer(end));
  EXPECT_EQ(to_client(end), 0);
  permit();
  EXPECT_TRUE(to_peer(end + kMs));
}

TEST_F(NodeLifetime, a_channel_lives_600_s_and_its_permission_300) {
  allocate(3600);
  const uint32_t bound = client_->turn.channel_bind(0x4000, peer_->address, world_.node.now_ns());
  world_.act();
  ASSERT_TRUE(client_->succeeded(bound));
  const uint64_t start = world_.node.network.now_us();
  EXPECT_TRUE(to_peer(start + 299'999 * kMs, 0x4000));
  EXPECT_EQ(to_client(start + 299'999 * kMs), 0x4000);
  EXPECT_FALSE(to_peer(start + 300'000 * kMs, 0x4000));
  EXPECT_EQ(to_client(start + 300'000 * kMs), 0);
  // A permission alone does not prolong the channel.
  world_.run_until(start + 400 * kSecond);
  permit();
  EXPECT_TRUE(to_peer(start + 599'999 * kMs, 0x4000));
  EXPECT_EQ(to_client(start + 599'999 * kMs), 0x4000);
  EXPECT_FALSE(to_peer(start + 600'000 * kMs, 0x4000));
  EXPECT_EQ(to_client(start + 600'000 * kMs), 1) << "the permission lives: a Data indication";
}

TEST_F(NodeLifetime, an_allocation_lives_its_lifetime_and_then_its_port_is_free) {
  allocate(777);
  const uint64_t end = allocated_us_ + 777 * kSecond;
  world_.run_until(end - 100 * kSecond);
  permit();
  EXPECT_TRUE(to_peer(end - kMs));
  EXPECT_EQ(to_client(end - kMs), 1);
  EXPECT_FALSE(to_peer(end));
  EXPECT_EQ(to_client(end), 0);
  world_.run_until(end + 2 * TimerWheel::kTickMs * kMs);
  world_.node.expect_empty();
  EXPECT_EQ(world_.node.server().stats().ended[static_cast<size_t>(EndReason::kExpired)], 1u);
}

TEST_F(NodeLifetime, a_refresh_of_zero_ends_an_allocation_at_once) {
  allocate(600);
  permit();
  EXPECT_TRUE(to_peer(kSecond));
  (void)client_->turn.refresh(0, world_.node.now_ns());
  world_.act();
  world_.node.expect_empty();
  EXPECT_FALSE(to_peer(2 * kSecond));
}

TEST_F(NodeLifetime, an_icmp_error_from_a_peers_host_reaches_the_client) {
  allocate(600);
  permit();
  client_->send_indication(at("198.51.100.1:7001"), std::vector<uint8_t>{1});
  world_.act();
  EXPECT_EQ(client_->icmp_reports, 1u);
  EXPECT_EQ(world_.node.outcome(Outcome::k_relayed_icmp_to_data), 1u);
}

TEST(Node, two_clients_talk_through_their_relayed_addresses_on_any_cores) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("CULVERT_TEST_SEED=" + std::to_string(seed));
  World world(relay_config(4), {seed, {}, {}, 0});
  std::vector<Client*> clients;
  for (int i = 0; i < 12; ++i) {
    clients.push_back(&world.add_client("203.0.113." + std::to_string(i + 1) + ":4000"));
    (void)clients.back()->turn.allocate({}, world.node.now_ns());
  }
  world.act();
  for (size_t i = 0; i < clients.size(); i += 2) {
    ASSERT_TRUE(clients[i]->turn.allocated() && clients[i + 1]->turn.allocated());
    (void)clients[i]->turn.channel_bind(0x4000, clients[i + 1]->turn.relayed()[0],
                                        world.node.now_ns());
    (void)clients[i + 1]->turn.channel_bind(0x4001, clients[i]->turn.relayed()[0],
                                            world.node.now_ns());
  }
  world.act();
  for (size_t i = 0; i < clients.size(); i += 2) {
    clients[i]->send_channel(0x4000, numbered(1, 1));
    clients[i + 1]->send_channel(0x4001, numbered(2, 2));
  }
  world.act();
  for (size_t i = 0; i < clients.size(); ++i) {
    ASSERT_EQ(clients[i]->arrived.size(), 1u) << i;
    EXPECT_EQ(clients[i]->arrived[0].channel, i % 2 == 0 ? 0x4000 : 0x4001);
  }
  EXPECT_EQ(
      world.node.outcome(Outcome::k_hairpinned) + world.node.outcome(Outcome::k_hairpin_cross),
      clients.size());
  world.node.expect_conservation();
}

// The second client of an EVEN-PORT pair gets a port whose owner is the first one's core, while its
// own datagrams arrive wherever its address hashes to.
TEST(Node, a_used_reservation_works_from_whichever_core_its_client_arrives_on) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("CULVERT_TEST_SEED=" + std::to_string(seed));
  World world(relay_config(4), {seed, {}, {}, 0});
  world.client_config.keep_alive = false;
  Peer& peer = world.add_peer("198.51.100.1:7000");
  for (int i = 0; i < 8; ++i) {
    Client& even = world.add_client("203.0.113.1:" + std::to_string(4000 + i));
    Client& odd = world.add_client("203.0.113.2:" + std::to_string(4000 + i));
    client_codec::AllocateOptions reserve;
    reserve.even_port = true;
    (void)even.turn.allocate(reserve, world.node.now_ns());
    world.act();
    ASSERT_TRUE(even.turn.allocated() && even.turn.reservation_token());
    client_codec::AllocateOptions use;
    use.reservation_token = even.turn.reservation_token();
    (void)odd.turn.allocate(use, world.node.now_ns());
    world.act();
    ASSERT_TRUE(odd.turn.allocated());
    EXPECT_EQ(even.turn.relayed()[0].port + 1, odd.turn.relayed()[0].port);
    (void)odd.turn.channel_bind(0x4000, peer.address, world.node.now_ns());
    world.act();
    odd.send_channel(0x4000, numbered(1, 1));
    odd.send_indication(peer.address, numbered(1, 2));
    world.act();
    peer.send(odd.turn.relayed()[0], numbered(2, 1));
    world.act();
    EXPECT_EQ(peer.arrived.size(), 2u) << i;
    EXPECT_EQ(odd.arrived.size(), 1u) << i;
    peer.arrived.clear();
  }
  // Of eight clients on four cores some arrive elsewhere: all at home has a chance of 4^-8.
  EXPECT_GT(world.node.outcome(Outcome::k_handoff_reservation), 0u);
  world.run_for(700 * kSecond);
  world.node.expect_empty();
  world.node.expect_conservation();
  world.node.expect_clean_watch();
}

TEST(Node, a_port_another_process_holds_is_replaced_by_another_draw) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("CULVERT_TEST_SEED=" + std::to_string(seed));
  Config config = relay_config();
  config.relay_port_low = 50000;
  config.relay_port_high = 50063;
  World world(config, {seed, {}, {}, 0});
  for (uint16_t port = 50000; port < 50063; port = static_cast<uint16_t>(port + 2)) {
    world.node.card.occupy({0, port});
  }
  for (int i = 0; i < 16; ++i) {
    (void)world.add_client("203.0.113." + std::to_string(i + 1) + ":4000")
        .turn.allocate({}, world.node.now_ns());
  }
  world.run_for(5 * kSecond);
  int allocated = 0;
  for (const auto& client : world.clients)
    allocated += client->turn.allocated() ? 1 : 0;
  // A client's eight draws all fail with chance 1/2 ^ 8 at first and 2/3 ^ 8 (4 %) for the last
  // one, when 16 of the 32 free ports are in use; four of sixteen failing is a matter of 10^-4.
  EXPECT_GE(allocated, 13);
  EXPECT_GT(world.node.server().stats().port_retries, 0u);
  world.node.expect_conservation();
}

TEST(Node, a_core_that_stalls_for_two_seconds_loses_nothing_it_was_sent) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("CULVERT_TEST_SEED=" + std::to_string(seed));
  World world(relay_config(), {seed, kJitter, {}, 0});
  auto pairs = make_pairs(world, 4);
  world.run_for(5 * kSecond);
  for (Pair& p : pairs) {
    p.channel = 0x4000;
    (void)p.client->turn.channel_bind(p.channel, p.peer->address, world.node.now_ns());
  }
  world.run_for(5 * kSecond);
  world.node.card.stall(0, world.node.network.now_us() + 2 * kSecond);
  exchange(world, pairs, 100);
  tally(world, pairs);
  for (const Pair& p : pairs) {
    EXPECT_EQ(p.at_peer.received, 100u);
    EXPECT_EQ(p.at_client.received, 100u);
    EXPECT_EQ(p.at_peer.late_or_double + p.at_client.late_or_double, 0u);
  }
  world.node.expect_clean_watch();
}

// 50,000 Allocates from as many addresses, none of which ever answers the challenge.
TEST(Node, a_flood_of_unauthenticated_requests_leaves_no_state_and_is_not_amplified) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("CULVERT_TEST_SEED=" + std::to_string(seed));
  World world(relay_config(), {seed, {}, {}, 0});
  const auto sent = world.node.tap();
  client_codec::TransactionId id{};
  client_codec::MessageBuilder request(client_codec::Method::kAllocate,
                                       client_codec::Class::kRequest, id);
  request.add_u8(client_codec::Attr::kRequestedTransport, 17);
  const uint64_t in_bytes = request.bytes().size() + 28;
  constexpr uint32_t kSeconds = 25;
  constexpr uint32_t kPerSecond = 8'000;
  std::array<uint64_t, kSeconds> in{};
  std::array<uint64_t, kSeconds> out{};
  for (uint32_t i = 0; i < kSeconds * kPerSecond; ++i) {
    Datagram d;
    // One /24, so that it is this prefix's budget that runs out.
    d.from = at("203.0.113." + std::to_string(i % 250 + 1) + ":" + std::to_string(1024 + i / 250));
    d.to = at("192.0.2.1:3478");
    d.payload = request.bytes();
    world.node.network.send(d);
    in[i / kPerSecond] += in_bytes;
    if (i % 8 != 7) continue;
    world.node.network.advance_to(uint64_t{i + 1} * kSecond / kPerSecond);
    world.node.settle();
  }
  for (const sim::Card::Sent& s : *sent) {
    const uint64_t bytes = s.datagram.payload.size() + 28;
    EXPECT_LE(bytes * 10, in_bytes * 25) << "one answer is at most 2.5 times its request";
    out[std::min<uint64_t>(s.at_us / kSecond, kSeconds - 1)] += bytes;
  }
  uint32_t over_budget = 0;  // the first second in which answers were withheld
  while (over_budget < kSeconds && out[over_budget] > in[over_budget])
    ++over_budget;
  ASSERT_LT(over_budget + 11, kSeconds) << "the budget never ran out";
  for (uint32_t from = over_budget + 1; from + 10 <= kSeconds; ++from) {
    uint64_t ten_in = 0;
    uint64_t ten_out = 0;
    for (uint32_t s = from; s < from + 10; ++s) {
      ten_in += in[s];
      ten_out += out[s];
    }
    EXPECT_LE(ten_out, ten_in) << "10 s from second " << from;
  }
  EXPECT_GT(world.node.outcome(Outcome::k_reply_budget), 0u);
  EXPECT_GT(world.node.outcome(Outcome::k_challenged), 0u);
  world.node.expect_empty();
  world.node.expect_conservation();
  EXPECT_EQ(world.node.server().stats().known_users, 0u);
}

// Clients that complete are never limited by the budget: their challenges are paid back.
TEST(Node, ten_thousand_allocations_from_one_address_are_never_refused_by_the_budget) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("CULVERT_TEST_SEED=" + std::to_string(seed));
  World world(relay_config(), {seed, {}, {}, 0});
  constexpr uint32_t kTotal = 10'000;
  uint32_t completed = 0;
  for (uint32_t i = 0; i < kTotal; ++i) {
    Client client(world.node, at("203.0.113.1:" + std::to_string(1024 + i)), world.credentials,
                  world.client_config, seed + i);
    const auto turn = [&] {
      client.turn_once();
      world.node.network.advance_to(world.node.network.now_us());
      world.node.settle();
      world.node.network.advance_to(world.node.network.now_us());
    };
    (void)client.turn.allocate({}, world.node.now_ns());
    for (int round = 0; round < 4 && !client.turn.allocated(); ++round)
      turn();
    ASSERT_TRUE(client.turn.allocated()) << i;
    (void)client.turn.refresh(0, world.node.now_ns());
    for (int round = 0; round < 4 && client.turn.allocated(); ++round)
      turn();
    completed += client.turn.allocated() ? 0 : 1;
    world.node.network.close_address(client.address);
    if (i % 100 == 99) world.node.network.advance_to(world.node.network.now_us() + kMs);
  }
  EXPECT_EQ(completed, kTotal);
  EXPECT_EQ(world.node.outcome(Outcome::k_reply_budget), 0u);
  world.node.expect_empty();
  world.node.expect_conservation();
}

TEST(Node, the_same_seed_gives_the_same_run) {
  const auto run = [](uint64_t seed) {
    World world(relay_config(2), {seed, kBad, {}, 0});
    const auto sent = world.node.tap();
    auto pairs = make_pairs(world, 6);
    world.run_for(10 * kSecond);
    exchange(world, pairs, 20);
    std::string digest;
    for (const sim::Card::Sent& s : *sent) {
      digest += std::to_string(s.at_us) + " " + s.datagram.to.to_string() + " ";
      digest.append(s.datagram.payload.begin(), s.datagram.payload.end());
    }
    return digest;
  };
  EXPECT_EQ(run(5), run(5));
  EXPECT_NE(run(5), run(6));
}

}  // namespace
}  // namespace culvert::sim_test
