// What an allocation costs in the kernel alone, through the sockets driver: a relayed port opened
// and closed, and a request received with an answer sent. Three of the latter and one of the former
// are the floor under a complete allocation (401, Allocate, Refresh 0) on kernel sockets, whatever
// the server does between. On loopback an answer's delivery into its receiver is part of sending.
// The clients' own calls are not counted. Reported per operation as `us_best` and `us_median`.
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <system_error>
#include <vector>

#include "dataplane/io/sockets/sockets_driver.h"
#include "dataplane/io/sockets/udp_socket.h"

namespace culvert {
namespace {

constexpr uint32_t kRequestBytes = 120;  // a signed Allocate
constexpr uint32_t kAnswerBytes = 100;
constexpr uint32_t kPorts = 256;

struct Bench {
  Bench() {
    snapshot.cores = 1;
    snapshot.addresses.push_back({kLoopback, kLoopback, true});
    snapshot.listeners.resize(1);
    snapshot.relay_port_low = 20000;
    snapshot.relay_port_high = 29999;
    for (uint16_t port = 3000; listeners == nullptr; ++port) {
      if (port == 4000) throw std::runtime_error("no free port on loopback");
      snapshot.listeners[0].port = port;
      try {
        listeners = std::make_unique<ListenerSockets>(snapshot, kListenerBufferBytes, 0);
      } catch (const std::system_error&) {
        continue;  // another program's
      }
    }
    driver = std::make_unique<SocketsDriver>(snapshot, 0, *listeners, SocketsOptions{});
  }

  static inline const IpAddress kLoopback = IpAddress::v4(0x7f000001);
  Snapshot snapshot;
  std::unique_ptr<ListenerSockets> listeners;
  std::unique_ptr<SocketsDriver> driver;
};

class Passes {
 public:
  void begin() { began_ = std::chrono::steady_clock::now(); }
  void end(size_t operations) {
    const std::chrono::duration<double, std::micro> spent =
        std::chrono::steady_clock::now() - began_;
    us_.push_back(spent.count() / static_cast<double>(operations));
  }
  void report(benchmark::State& state) {
    std::sort(us_.begin(), us_.end());
    state.counters["us_best"] = us_.front();
    state.counters["us_median"] = us_[us_.size() / 2];
  }

 private:
  std::chrono::steady_clock::time_point began_;
  std::vector<double> us_;
};

void relay_port_opened_and_closed(benchmark::State& state) {
  Bench bench;
  Passes passes;
  uint16_t port = bench.snapshot.relay_port_low;
  for (auto _ : state) {
    passes.begin();
    for (uint32_t i = 0; i < kPorts; ++i) {
      port = port == bench.snapshot.relay_port_high ? bench.snapshot.relay_port_low
                                                    : static_cast<uint16_t>(port + 1);
      if (bench.driver->open_relay_port({0, port}) != kNoEgress) {
        bench.driver->close_relay_port({0, port});
      }
    }
    passes.end(kPorts);
  }
  passes.report(state);
}
BENCHMARK(relay_port_opened_and_closed);

// Bursts of that many clients' requests, each client with a socket of its own.
void request_and_answer(benchmark::State& state) {
  Bench bench;
  const auto clients = static_cast<size_t>(state.range(0));
  std::vector<int> sockets;
  SocketName server;
  const socklen_t length =
      to_socket_name({Bench::kLoopback, bench.snapshot.listeners[0].port}, server);
  for (size_t i = 0; i < clients; ++i) {
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, &server.any, length) != 0) {
      throw std::system_error(errno, std::generic_category(), "client socket");
    }
    sockets.push_back(fd);
  }
  const std::array<uint8_t, kRequestBytes> request{};
  std::array<uint8_t, 2048> answer{};
  auto tx = std::make_unique<TxBurst>();
  std::array<RxDatagram, kMaxBurst> rx;
  Passes passes;
  for (auto _ : state) {
    for (const int fd : sockets) {
      if (send(fd, request.data(), request.size(), 0) < 0) state.SkipWithError("send");
    }
    passes.begin();
    for (size_t answered = 0; answered < clients;) {
      const uint32_t received = bench.driver->rx_burst(rx);
      if (received == 0) bench.driver->wait(1000);
      tx->count = 0;
      for (uint32_t i = 0; i < received; ++i) {
        TxDatagram& d = tx->items[tx->count++];
        d = TxDatagram{};
        d.egress = bench.driver->listener_egress(0);
        d.to = rx[i].source;
        d.payload = answer.data();
        d.length = kAnswerBytes;
        d.ttl = 64;
      }
      if (bench.driver->tx_burst(*tx) != 0) state.SkipWithError("an answer was not sent");
      answered += received;
    }
    passes.end(clients);
    for (const int fd : sockets) {
      if (recv(fd, answer.data(), answer.size(), 0) < 0) state.SkipWithError("recv");
    }
  }
  for (const int fd : sockets)
    close(fd);
  passes.report(state);
}
BENCHMARK(request_and_answer)->Arg(1)->Arg(8)->Arg(32);

}  // namespace
}  // namespace culvert
