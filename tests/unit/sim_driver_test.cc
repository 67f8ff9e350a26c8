// The virtual network and the relay's card in it: what the simulator's verdicts rest on.
#include "dataplane/io/sim/sim_driver.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace culvert {
namespace {

using sim::Card;
using sim::Conditions;
using sim::Datagram;
using sim::Network;

TransportAddress at(std::string_view text) {
  return TransportAddress::parse(text).value();
}

Datagram datagram(std::string_view from, std::string_view to, std::string_view text) {
  Datagram d;
  d.from = at(from);
  d.to = at(to);
  d.payload.assign(text.begin(), text.end());
  return d;
}

std::string text_of(const Datagram& d) {
  return {d.payload.begin(), d.payload.end()};
}

std::vector<std::string> receive_all(Network& network, sim::SocketId socket) {
  std::vector<std::string> out;
  Datagram d;
  while (network.receive(socket, d))
    out.push_back(text_of(d));
  return out;
}

TEST(SimNetwork, a_datagram_arrives_after_its_delay_and_not_before) {
  Network network(1, {.delay_min_us = 1500, .delay_max_us = 1500});
  const auto socket = network.open(at("10.0.0.2:9"));
  network.send(datagram("10.0.0.1:1", "10.0.0.2:9", "hello"));
  network.advance_to(1499);
  EXPECT_FALSE(network.has_waiting(socket));
  EXPECT_EQ(network.next_arrival_us(), 1500u);
  EXPECT_TRUE(network.step());
  EXPECT_EQ(receive_all(network, socket), std::vector<std::string>{"hello"});
  EXPECT_EQ(network.now_us(), 1500u);
  EXPECT_FALSE(network.step());
}

TEST(SimNetwork, order_holds_between_two_addresses_however_delays_vary) {
  Network network(2, {.delay_min_us = 0, .delay_max_us = 100'000});
  const auto socket = network.open(at("10.0.0.2:9"));
  std::vector<std::string> sent;
  for (int i = 0; i < 500; ++i) {
    sent.push_back(std::to_string(i));
    network.send(datagram("10.0.0.1:1", "10.0.0.2:9", sent.back()));
    network.advance_to(network.now_us() + 100);
  }
  while (network.step()) {
  }
  EXPECT_EQ(receive_all(network, socket), sent);
}

TEST(SimNetwork, loss_duplication_and_reordering_happen_as_often_as_asked) {
  Network network(3, {.loss_ppm = 100'000,
                      .duplicate_ppm = 50'000,
                      .reorder_ppm = 200'000,
                      .delay_min_us = 10,
                      .delay_max_us = 10});
  const auto socket = network.open(at("10.0.0.2:9"));
  constexpr int kSent = 20'000;
  for (int i = 0; i < kSent; ++i) {
    network.send(datagram("10.0.0.1:1", "10.0.0.2:9", std::to_string(i)));
    network.advance_to(network.now_us() + 20);
  }
  while (network.step()) {
  }
  const auto& counters = network.counters();
  // Binomial, five sigma: sd 42 and 29.
  EXPECT_NEAR(static_cast<double>(counters.lost), kSent * 0.1, 215);
  EXPECT_NEAR(static_cast<double>(counters.duplicated), kSent * 0.9 * 0.05, 150);
  EXPECT_EQ(counters.delivered, counters.sent - counters.lost + counters.duplicated);
  int overtaken = 0;
  int latest = -1;
  for (const std::string& text : receive_all(network, socket)) {
    if (std::stoi(text) < latest) ++overtaken;
    latest = std::max(latest, std::stoi(text));
  }
  EXPECT_GT(overtaken, kSent / 10);
}

TEST(SimNetwork, the_same_seed_gives_the_same_run_and_another_seed_another) {
  const auto run = [](uint64_t seed) {
    Network network(seed, {.loss_ppm = 300'000,
                           .duplicate_ppm = 300'000,
                           .reorder_ppm = 300'000,
                           .delay_min_us = 1,
                           .delay_max_us = 9'000});
    const auto socket = network.open(at("10.0.0.2:9"));
    for (int i = 0; i < 100; ++i) {
      network.send(datagram("10.0.0.1:1", "10.0.0.2:9", std::to_string(i)));
    }
    while (network.step()) {
    }
    return receive_all(network, socket);
  };
  EXPECT_EQ(run(7), run(7));
  EXPECT_NE(run(7), run(8));
}

TEST(SimNetwork, a_closed_port_answers_with_icmp_and_a_missing_host_with_silence) {
  Network network(1, {});
  const auto client = network.open(at("10.0.0.1:1"));
  const auto other = network.open(at("10.0.0.2:9"));
  EXPECT_EQ(network.open(at("10.0.0.2:9")), sim::kNoSocket);
  network.close_address(at("10.0.0.2:9"));
  network.send(datagram("10.0.0.1:1", "10.0.0.2:9", "to a closed port"));
  network.send(datagram("10.0.0.1:1", "10.0.0.3:9", "to nobody"));
  network.advance_to(0);
  Datagram d;
  ASSERT_TRUE(network.receive(client, d));
  EXPECT_TRUE(d.is_error);
  EXPECT_EQ(d.icmp_type, 3);
  EXPECT_EQ(d.icmp_code, 3);
  EXPECT_EQ(d.from, at("10.0.0.2:9"));
  EXPECT_FALSE(network.receive(client, d));
  EXPECT_FALSE(network.has_waiting(other));
  EXPECT_EQ(network.counters().refused, 1u);
  EXPECT_EQ(network.counters().unreachable, 1u);
}

TEST(SimNetwork, a_full_queue_drops_and_counts) {
  Network network(1, {});
  const auto socket = network.open(at("10.0.0.2:9"), 10);
  for (int i = 0; i < 15; ++i) {
    network.send(datagram("10.0.0.1:1", "10.0.0.2:9", std::to_string(i)));
  }
  network.advance_to(0);
  EXPECT_EQ(receive_all(network, socket).size(), 10u);
  EXPECT_EQ(network.counters().overflowed, 5u);
}

TEST(SimNetwork, ticks_wrap_where_they_are_told_to_begin) {
  Network network(1, {}, 0xfffffff0);
  EXPECT_EQ(network.now(), 0xfffffff0u);
  network.advance_to(20'000);
  EXPECT_EQ(network.now(), 4u);
}

Snapshot relay(CoreId cores) {
  Snapshot s;
  s.cores = cores;
  const IpAddress four = IpAddress::parse("192.0.2.1").value();
  s.addresses = {{four, four, true}};
  s.listeners.resize(1);
  s.listeners[0].port = 3478;
  s.relay_port_low = 50000;
  s.relay_port_high = 50999;
  return s;
}

TEST(SimCard, listeners_and_relayed_ports_are_told_apart) {
  Network network(1, {});
  Card card(network, relay(1), {});
  SimDriver driver(card, 0);
  EXPECT_NE(driver.open_relay_port({0, 50000}), kNoEgress);
  (void)network.open(at("10.0.0.1:1"));
  network.send(datagram("10.0.0.1:1", "192.0.2.1:3478", "to the listener"));
  network.send(datagram("10.0.0.1:1", "192.0.2.1:50000", "to the port"));
  network.send(datagram("10.0.0.1:1", "192.0.2.1:50001", "to a closed port"));
  network.advance_to(0);
  std::array<RxDatagram, kMaxBurst> rx;
  ASSERT_EQ(driver.rx_burst(rx), 2u);
  EXPECT_EQ(rx[0].kind, RxKind::kClient);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(rx[0].payload), rx[0].length),
            "to the listener");
  EXPECT_EQ(rx[1].kind, RxKind::kPeer);
  EXPECT_EQ(rx[1].relay.port, 50000);
  EXPECT_EQ(network.counters().refused, 1u);
}

TEST(SimCard, an_error_about_what_a_relayed_port_sent_comes_back_to_it) {
  Network network(1, {});
  Card card(network, relay(1), {});
  SimDriver driver(card, 0);
  const Egress egress = driver.open_relay_port({0, 50000});
  (void)network.open(at("10.0.0.1:1"));
  TxBurst tx;
  tx.count = 1;
  tx.items[0] = TxDatagram{};
  tx.items[0].egress = egress;
  tx.items[0].from_port = 50000;
  tx.items[0].to = at("10.0.0.1:2");
  EXPECT_EQ(driver.tx_burst(tx), 0u);
  network.advance_to(0);
  std::array<RxDatagram, kMaxBurst> rx;
  ASSERT_EQ(driver.rx_burst(rx), 1u);
  EXPECT_EQ(rx[0].kind, RxKind::kIcmpError);
  EXPECT_EQ(rx[0].relay.port, 50000);
  EXPECT_EQ(rx[0].source, at("10.0.0.1:2"));
}

TEST(SimCard, a_port_is_refused_when_open_or_held_by_another_process) {
  Network network(1, {});
  Card card(network, relay(1), {});
  SimDriver driver(card, 0);
  card.occupy({0, 50004});
  EXPECT_EQ(driver.open_relay_port({0, 50004}), kNoEgress);
  card.vacate({0, 50004});
  EXPECT_NE(driver.open_relay_port({0, 50004}), kNoEgress);
  EXPECT_EQ(driver.open_relay_port({0, 50004}), kNoEgress);
  driver.close_relay_port({0, 50004});
  EXPECT_NE(driver.open_relay_port({0, 50004}), kNoEgress);
  EXPECT_EQ(card.open_ports(), 1u);
}

TEST(SimCard, a_datagram_that_would_leave_by_another_port_than_it_says_is_caught) {
  Network network(1, {});
  Card card(network, relay(1), {});
  SimDriver driver(card, 0);
  const Egress egress = driver.open_relay_port({0, 50000});
  TxBurst tx;
  tx.count = 1;
  tx.items[0] = TxDatagram{};
  tx.items[0].egress = egress;
  tx.items[0].from_port = 50002;
  tx.items[0].to = at("10.0.0.1:2");
  EXPECT_EQ(driver.tx_burst(tx), 1u);
  EXPECT_EQ(card.wrong_egress(), 1u);
}

TEST(SimCard, a_stalled_core_gets_its_datagrams_later_and_none_is_lost) {
  Network network(1, {});
  Card card(network, relay(1), {});
  SimDriver driver(card, 0);
  (void)network.open(at("10.0.0.1:1"));
  card.stall(0, 5000);
  network.send(datagram("10.0.0.1:1", "192.0.2.1:3478", "x"));
  network.advance_to(4999);
  std::array<RxDatagram, kMaxBurst> rx;
  EXPECT_EQ(driver.rx_burst(rx), 0u);
  network.advance_to(5000);
  EXPECT_EQ(driver.rx_burst(rx), 1u);
}

TEST(SimCard, relayed_ports_reach_their_owner_unless_steering_is_broken_on_purpose) {
  for (const bool misdirect : {false, true}) {
    Network network(1, {});
    Card card(network, relay(4), {.misdirect_relay = misdirect});
    std::vector<SimDriver> drivers;
    for (CoreId c = 0; c < 4; ++c)
      drivers.emplace_back(card, c);
    ASSERT_NE(drivers[1].open_relay_port({0, 50002}), kNoEgress);
    for (int i = 0; i < 64; ++i) {
      const std::string from = "10.0.0.1:" + std::to_string(1000 + i);
      (void)network.open(at(from));
      network.send(datagram(from, "192.0.2.1:50002", "x"));
    }
    network.advance_to(0);
    std::array<RxDatagram, kMaxBurst> rx;
    uint32_t elsewhere = 0;
    for (CoreId c = 0; c < 4; ++c) {
      const uint32_t n = drivers[c].rx_burst(rx);
      if (c != 1) elsewhere += n;
    }
    EXPECT_EQ(elsewhere != 0, misdirect);
  }
}

}  // namespace
}  // namespace culvert
