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

#include "bench/micro/relay_fixture.h"
#include "dataplane/api/recording_engine.h"

namespace culvert {
namespace {

constexpr uint32_t kClients = 4096;

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
