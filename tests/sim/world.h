// The world of one scenario: clients and peers, NATs before them, an attacker, the network, and the
// relay with its judges (rig.h) in the middle. step() lets somebody do something drawn from the
// seed; time then passes until the next step.
#pragma once

#include <memory>
#include <vector>

#include "tests/sim/nat.h"
#include "tests/sim/rig.h"
#include "tests/sim/scenario.h"
#include "tools/stun_client/client.h"

namespace culvert::sim_test {

class World {
 public:
  World(const Scenario& scenario, Coverage& coverage);
  ~World();
  void step(uint32_t number);
  // Everybody falls silent, every lifetime ends, and nothing may be left.
  void finish();
  void gather();  // what was reached, into the coverage

 private:
  using Datagram = sim::Datagram;

  // Somebody with an address, maybe behind a NAT.
  struct Host {
    TransportAddress inside;
    Nat* nat = nullptr;
    sim::SocketId socket = sim::kNoSocket;
    std::vector<Datagram> inbox;
  };
  struct Client {
    Host host;
    TransportAddress server;
    std::unique_ptr<codec::TurnClient> turn;
    codec::Credentials* credentials = nullptr;
    std::vector<TransportAddress> peers;  // that it permitted
    std::vector<std::pair<uint16_t, TransportAddress>> channels;
    std::vector<TransportAddress> met;  // whose data came
    std::string nonce;                  // the last it was given
    bool broken = false;                // begins anew at its next step
    bool new_port = false;
    uint64_t lives = 0;
  };
  struct Peer {
    Host host;
    std::optional<TransportAddress> outside;  // as the relay saw it
    std::vector<TransportAddress> targets;    // relayed addresses it was told
  };

  void make_nats();
  void make_clients();
  void make_peers();
  [[nodiscard]] static Config config_of(const Scenario& scenario);
  [[nodiscard]] static Rig::Options options_of(const Scenario& scenario, const Config& config);
  void set_leniency();

  // ---- hosts
  void open(Host& host);
  void send(Host& host, const TransportAddress& to, codec::Bytes bytes, Rng& rng);
  void raw(const TransportAddress& from, const TransportAddress& to, codec::Bytes bytes,
           uint8_t ttl = 64);
  void deliver(const Datagram& d);
  void collect(Host& host);
  void turn_clients();
  void turn_client(Client& client);
  void turn_peers();
  void begin_anew(Client& client);
  void act();
  void pass(uint64_t us);
  [[nodiscard]] uint64_t now_ns() const { return network_.now_us() * 1000; }

  // ---- what they do (world_actions.cc)
  void client_step(Rng& rng);
  void allocate(Client& client, Rng& rng);
  void send_data(Client& client, Rng& rng, uint32_t count);
  void crafted(Client& client, Rng& rng);
  [[nodiscard]] TransportAddress any_peer(const Client& client, Rng& rng);
  [[nodiscard]] TransportAddress some_peer(const Client& client, Rng& rng);
  void peer_step(Rng& rng);
  void odd_step(Rng& rng);
  void fault_step(Rng& rng);
  void time_faults(Fault fault, Rng& rng);
  void operator_faults(Fault fault, Rng& rng);
  void hostile_faults(Fault fault, Rng& rng);
  void hostile_messages(Fault fault, Rng& rng);
  void flood_faults(Fault fault, Rng& rng);
  void packet_faults(Fault fault, Rng& rng);
  void fill_command_ring(Rng& rng);
  [[nodiscard]] std::vector<uint8_t> payload(Rng& rng, uint32_t flow, size_t size);
  [[nodiscard]] Client& some_client(Rng& rng) { return *clients_[rng.below(clients_.size())]; }
  [[nodiscard]] TransportAddress spoofed(Rng& rng) const;

  Scenario scenario_;
  Coverage& coverage_;
  sim::Network network_;
  Rig rig_;
  std::vector<std::unique_ptr<Nat>> nats_;
  std::vector<bool> nat_of_peers_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::map<TransportAddress, Host*, sim::AddressLess> hosts_;
  std::vector<std::unique_ptr<codec::Credentials>> credentials_;
  codec::ClientConfig client_configs_[2];
  std::optional<uint64_t> token_;  // somebody's reservation
  Host attacker_;
  std::map<uint32_t, uint32_t> sequence_;  // by flow
  uint64_t slice_us_ = 1000;
  uint64_t idle_us_ = 20'000;
  bool draining_ = false;
  uint64_t timeouts_ = 0;
};

}  // namespace culvert::sim_test
