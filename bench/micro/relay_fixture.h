// Requests with real integrity, and a whole relay on one thread to send them to (simulated network
// and driver, core, rings, control): shared by what times allocations (turn_server_bench) and what
// counts their instructions (regression/hot_stages).
#pragma once

#include <array>
#include <string_view>
#include <vector>

#include "control/auth.h"
#include "control/snapshot_builder.h"
#include "control/turn_server.h"
#include "crypto/random.h"
#include "dataplane/api/nonce.h"
#include "dataplane/core/ring_engine.h"
#include "dataplane/core/worker.h"
#include "dataplane/io/sim/sim_driver.h"
#include "dataplane/wire/stun.h"

namespace culvert {

inline constexpr char kRealm[] = "example.org";
inline constexpr char kUser[] = "alice";
inline constexpr char kPassword[] = "wonderland";

inline Config bench_config() {
  Config config;
  RealmConfig realm;
  realm.name = kRealm;
  realm.users = {{kUser, kPassword}};
  config.realms = {realm};
  config.listeners = {{*TransportAddress::parse("198.51.100.1:3478"), 0}};
  config.relay_addresses = {{config.listeners[0].address.ip, config.listeners[0].address.ip}};
  return config;
}

inline IntegrityKey bench_key(PasswordAlgorithm algorithm) {
  StoredAccount account;
  static_cast<void>(make_account(kUser, kRealm, kPassword, account));
  return integrity_key(account.md5_key, account.sha256_key, algorithm);
}

inline std::vector<uint8_t> request(uint16_t method, const Snapshot& snapshot,
                                    const ClientTuple& from, bool sha256) {
  std::array<uint8_t, 512> buffer;
  stun::TransactionId id{};
  store_be16(id.data(), from.client.port);
  stun::Builder b(buffer, stun::Class::kRequest, method, id.data());
  if (method == stun::kAllocate)
    b.add_u32(stun::Attribute::kRequestedTransport, 17u << 24);
  else
    b.add_u32(stun::Attribute::kLifetime, 0);
  b.add(stun::Attribute::kUsername, std::string_view(kUser));
  b.add(stun::Attribute::kRealm, std::string_view(kRealm));
  const Nonce nonce =
      make_nonce(snapshot.nonce_keys, 0, snapshot.listeners[0].nonce_features, from.client);
  b.add(stun::Attribute::kNonce, std::string_view(nonce.data(), nonce.size()));
  if (sha256) {
    b.add_encoded(snapshot.listeners[0].algorithms_attribute);
    b.add_u32(stun::Attribute::kPasswordAlgorithm, 2u << 16);
  }
  const auto algorithm = sha256 ? PasswordAlgorithm::kSha256 : PasswordAlgorithm::kMd5;
  add_integrity(b, {bench_key(algorithm), sha256});
  return {b.bytes().begin(), b.bytes().end()};
}

// Core, rings and control on one thread, turned by hand.
class WholeRelay {
 public:
  explicit WholeRelay(bool sha256)
      : config_(bench_config()),
        network_(1, {}),
        engine_({}, build_snapshot(config_, 1, NonceKeys{})),
        server_(config_, engine_, random_, {}, now_),
        card_(network_, engine_.snapshot(), {}),
        driver_(card_, 0),
        worker_(driver_, engine_.board(), 0, limits(config_), CoreSeeds{},
                engine_.mutable_stats(0)) {
    const ClientTuple from{client_, 0, 0};
    allocate_ = request(stun::kAllocate, engine_.snapshot(), from, sha256);
    remove_ = request(stun::kRefresh, engine_.snapshot(), from, sha256);
    std::array<uint8_t, 64> buffer;
    const stun::TransactionId id{};
    stun::Builder first(buffer, stun::Class::kRequest, stun::kAllocate, id.data());
    first.add_u32(stun::Attribute::kRequestedTransport, 17u << 24);
    first_ = {first.bytes().begin(), first.bytes().end()};
    socket_ = network_.open(client_);
  }

  [[nodiscard]] bool cycle() {
    return ask(first_, stun::Class::kError) && ask(allocate_, stun::Class::kSuccess) &&
           ask(remove_, stun::Class::kSuccess);
  }
  [[nodiscard]] bool empty() const { return server_.stats().allocations == 0; }

 private:
  [[nodiscard]] static CoreLimits limits(const Config& config) {
    CoreLimits l;
    l.allocations = config.limits.max_allocations;
    l.permissions = l.narrow_channels = l.allocations * 4;
    return l;
  }
  [[nodiscard]] bool ask(const std::vector<uint8_t>& message, stun::Class wanted) {
    sim::Datagram out;
    out.from = client_;
    out.to = config_.listeners[0].address;
    out.payload = message;
    network_.send(out);
    network_.advance_to(network_.now_us() + 1);
    bool busy = true;
    while (busy) {
      busy = worker_.run_once() != 0;
      busy |= server_.poll(now_);
    }
    network_.advance_to(network_.now_us() + 1);
    sim::Datagram answer;
    stun::Message parsed;
    return network_.receive(socket_, answer) &&
           stun::Message::parse(answer.payload, parsed) == stun::ParseError::kNone &&
           parsed.message_class() == wanted;
  }

  const TransportAddress client_{IpAddress::v4(0x5db8d822), 10000};
  Config config_;
  sim::Network network_;
  ControlTime now_{1'000'000, 1'767'225'600};
  RingEngine engine_;
  crypto::Random random_{1};
  TurnServer server_;
  sim::Card card_;
  SimDriver driver_;
  Worker<SimDriver> worker_;
  sim::SocketId socket_ = 0;
  std::vector<uint8_t> first_;
  std::vector<uint8_t> allocate_;
  std::vector<uint8_t> remove_;
};

}  // namespace culvert
