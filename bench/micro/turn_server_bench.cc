// What control costs per authenticated allocation: Allocate and Refresh 0 through TurnServer with
// real integrity, against a recording engine (no core, no ring to another thread). Beside it the
// HMACs of the same messages alone: what is left is parsing, tables, ports and building answers.
//
//   cycle            Allocate + Refresh 0, requests made beforehand: the server's side only
//   hmac             the four HMACs of a cycle (two verified, two made)
//   bad_nonce        a request with right integrity and a stale nonce (438), what bad_nonce budgets
//   retransmission   an Allocate answered again
//   whole            401, Allocate and Refresh 0 through the whole relay: simulated network and
//                    driver, core, rings and control, on one thread
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "control/auth.h"
#include "control/snapshot_builder.h"
#include "control/turn_server.h"
#include "crypto/random.h"
#include "dataplane/api/nonce.h"
#include "dataplane/api/recording_engine.h"
#include "dataplane/core/ring_engine.h"
#include "dataplane/core/worker.h"
#include "dataplane/io/sim/sim_driver.h"
#include "dataplane/wire/stun.h"

namespace culvert {
namespace {

constexpr char kRealm[] = "example.org";
constexpr char kUser[] = "alice";
constexpr char kPassword[] = "wonderland";
constexpr uint32_t kClients = 4096;

Config bench_config() {
  Config config;
  RealmConfig realm;
  realm.name = kRealm;
  realm.users = {{kUser, kPassword}};
  config.realms = {realm};
  config.listeners = {{*TransportAddress::parse("198.51.100.1:3478"), 0}};
  config.relay_addresses = {{config.listeners[0].address.ip, config.listeners[0].address.ip}};
  return config;
}

IntegrityKey bench_key(PasswordAlgorithm algorithm) {
  StoredAccount account;
  static_cast<void>(make_account(kUser, kRealm, kPassword, account));
  return integrity_key(account.md5_key, account.sha256_key, algorithm);
}

std::vector<uint8_t> request(uint16_t method, const Snapshot& snapshot, const ClientTuple& from,
                             bool sha256) {
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

struct Client {
  Request event;
  std::vector<uint8_t> allocate;
  std::vector<uint8_t> remove;
};

class Bench {
 public:
  explicit Bench(bool sha256) : server(bench_config(), engine, random, {}, now) {
    for (uint32_t i = 0; i < kClients; ++i) {
      Client c;
      c.event.client.client = {IpAddress::v4(0x5db8d822), static_cast<uint16_t>(10000 + i)};
      c.event.nonce_valid = 1;
      c.allocate = request(stun::kAllocate, engine.snapshot(), c.event.client, sha256);
      c.remove = request(stun::kRefresh, engine.snapshot(), c.event.client, sha256);
      clients.push_back(std::move(c));
    }
  }
  // One request in, its command out. Returns false when it was not answered by `type`.
  bool turn(const Client& c, const std::vector<uint8_t>& bytes, CommandType type) {
    if (!engine.inject(0, c.event, bytes)) return false;
    server.poll(now);
    if (engine.waiting() != 1) return false;
    last = engine.take();
    return last.type() == type;
  }
  bool ended() {
    AllocationEnded e;
    e.handle = last.as<RemoveAllocation>().handle;
    e.reason = EndReason::kDeleted;
    if (!engine.inject(0, e)) return false;
    server.poll(now);
    return true;
  }

  ControlTime now{1'000'000, 1'767'225'600};
  RecordingEngine engine;
  crypto::Random random{1};
  TurnServer server;
  std::vector<Client> clients;
  RecordingEngine::Command last;
};

void cycle(benchmark::State& state) {
  Bench bench(state.range(0) != 0);
  size_t i = 0;
  for (auto _ : state) {
    const Client& c = bench.clients[i++ % kClients];
    if (!bench.turn(c, c.allocate, CommandType::kInstallAllocation) ||
        !bench.turn(c, c.remove, CommandType::kRemoveAllocation) || !bench.ended()) {
      state.SkipWithError("a request was not answered as expected");
      break;
    }
  }
  if (bench.server.stats().allocations != 0) state.SkipWithError("an allocation was left");
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(cycle)->ArgName("sha256")->Arg(0)->Arg(1);

void hmac(benchmark::State& state) {
  const bool sha256 = state.range(0) != 0;
  Bench bench(sha256);
  const IntegrityKey key = bench_key(sha256 ? PasswordAlgorithm::kSha256 : PasswordAlgorithm::kMd5);
  std::array<uint8_t, 256> buffer;
  const stun::TransactionId id{};
  size_t i = 0;
  for (auto _ : state) {
    const Client& c = bench.clients[i++ % kClients];
    for (const auto* bytes : {&c.allocate, &c.remove}) {
      stun::Message m;
      static_cast<void>(stun::Message::parse(*bytes, m));
      if (!integrity_holds(m, key)) state.SkipWithError("integrity does not hold");
      stun::Builder b(buffer, stun::Class::kSuccess, m.method(), id.data());
      b.add_u32(stun::Attribute::kLifetime, 600);
      add_integrity(b, {key, sha256});
      benchmark::DoNotOptimize(b.bytes().data());
    }
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(hmac)->ArgName("sha256")->Arg(0)->Arg(1);

void bad_nonce(benchmark::State& state) {
  Bench bench(false);
  bench.now.ms += 4'000'000;  // past the nonce's lifetime
  bench.server.poll(bench.now);
  for (Client& c : bench.clients)
    c.event.nonce_valid = 0;
  size_t i = 0;
  for (auto _ : state) {
    const Client& c = bench.clients[i++ % kClients];
    if (!bench.turn(c, c.allocate, CommandType::kSendReply)) {
      state.SkipWithError("not answered");
      break;
    }
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(bad_nonce);

void retransmission(benchmark::State& state) {
  Bench bench(false);
  for (const Client& c : bench.clients)
    if (!bench.turn(c, c.allocate, CommandType::kInstallAllocation)) state.SkipWithError("refused");
  size_t i = 0;
  for (auto _ : state) {
    const Client& c = bench.clients[i++ % kClients];
    if (!bench.turn(c, c.allocate, CommandType::kRefreshAllocation)) {
      state.SkipWithError("not answered");
      break;
    }
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(retransmission);

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

void whole(benchmark::State& state) {
  WholeRelay relay(state.range(0) != 0);
  for (auto _ : state) {
    if (!relay.cycle()) {
      state.SkipWithError("a request was not answered as expected");
      break;
    }
  }
  if (!relay.empty()) state.SkipWithError("an allocation was left");
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(whole)->ArgName("sha256")->Arg(0)->Arg(1);

}  // namespace
}  // namespace culvert
