// A fast core allocates nothing after it was built: jemalloc's own count of this thread's bytes
// does not move while allocations are installed, data flows both ways, errors are answered and all
// of it expires.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <jemalloc/jemalloc.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dataplane/core/ring_engine.h"
#include "dataplane/core/worker.h"
#include "dataplane/io/sockets/sockets_driver.h"
#include "tests/support/core_fixture.h"

namespace culvert::test {
namespace {

[[nodiscard]] uint64_t allocated_by_this_thread() {
  uint64_t bytes = 0;
  size_t size = sizeof bytes;
  EXPECT_EQ(mallctl("thread.allocated", &bytes, &size, nullptr, 0), 0);
  return bytes;
}

// A loopback socket whose sends and receives allocate nothing.
class Endpoint {
 public:
  Endpoint() : fd_(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0)) {
    sockaddr_in any{};
    any.sin_family = AF_INET;
    any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&any), sizeof any), 0);
    socklen_t length = sizeof address_;
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&address_), &length), 0);
  }
  ~Endpoint() { close(fd_); }
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;

  [[nodiscard]] TransportAddress address() const {
    return {IpAddress::v4(INADDR_LOOPBACK), ntohs(address_.sin_port)};
  }
  void send(uint16_t port, const uint8_t* data, size_t length) const {
    sockaddr_in to = address_;
    to.sin_port = htons(port);
    EXPECT_EQ(sendto(fd_, data, length, 0, reinterpret_cast<sockaddr*>(&to), sizeof to),
              static_cast<ssize_t>(length));
  }
  [[nodiscard]] uint32_t drain() const {
    uint8_t buffer[2048];
    uint32_t got = 0;
    while (recv(fd_, buffer, sizeof buffer, 0) >= 0)
      ++got;
    return got;
  }

 private:
  int fd_;
  sockaddr_in address_{};
};

[[nodiscard]] std::unique_ptr<Snapshot> loopback_snapshot(uint16_t listen_port) {
  auto snapshot = std::make_unique<Snapshot>();
  snapshot->version = 1;
  const IpAddress loopback = IpAddress::v4(INADDR_LOOPBACK);
  snapshot->addresses = {{loopback, loopback, true}};
  snapshot->listeners.resize(1);
  snapshot->listeners[0].port = listen_port;
  snapshot->listeners[0].realm_attribute = {0, 0x14, 0, 4, 't', 'e', 's', 't'};
  snapshot->relay_port_low = 40000;
  snapshot->relay_port_high = 49151;
  snapshot->reply_budget = {1'000'000, 1'000'000, 1000};
  return snapshot;
}

TEST(SealedMemory, AFastCoreAllocatesNothingAfterStart) {
  uint16_t listen_port = 0;
  {
    const Endpoint probe;
    listen_port = probe.address().port;
  }
  RingEngine engine({}, loopback_snapshot(listen_port));
  ListenerSockets listeners(engine.snapshot(), kListenerBufferBytes, kListenerBufferBytes);
  SocketsDriver driver(engine.snapshot(), 0, listeners);
  CoreLimits limits = TestCore::small_limits();
  limits.addresses = 1;
  limits.relay_port_low = 40000;
  limits.relay_port_high = 49151;
  Worker<SocketsDriver> worker(driver, engine.board(), 0, limits, CoreSeeds{},
                               engine.mutable_stats(0));
  const Endpoint client;
  const Endpoint peer;
  const Bytes response(100, 1);
  const Bytes data = channel_data(0x4000, Bytes(200, 7));
  const Bytes challenge = request(stun::kAllocate);
  const Bytes junk(30, 0xff);
  while (worker.run_once() != 0) {
  }

  const uint64_t before = allocated_by_this_thread();
  uint32_t to_peer = 0;
  uint32_t to_client = 0;
  for (uint32_t round = 1; round <= 50; ++round) {
    const auto port = static_cast<uint16_t>(40000 + 2 * round);
    InstallAllocation install;
    install.handle = {round % 8, round};
    install.client.client = client.address();
    install.ipv4 = {0, port};
    install.lifetime_ms = 600'000;
    ASSERT_TRUE(engine.send(0, install, response));
    BindChannel bind;
    bind.handle = install.handle;
    bind.peer = peer.address();
    bind.channel = 0x4000;
    ASSERT_TRUE(engine.send(0, bind, response));
    while (worker.run_once() != 0) {
    }
    for (int i = 0; i < 20; ++i) {
      client.send(listen_port, data.data(), data.size());
      peer.send(port, junk.data(), junk.size());
      client.send(listen_port, challenge.data(), challenge.size());
      client.send(listen_port, junk.data(), junk.size());
    }
    while (worker.run_once() != 0) {
    }
    to_peer += peer.drain();
    to_client += client.drain();
    RemoveAllocation remove;
    remove.handle = install.handle;
    ASSERT_TRUE(engine.send(0, remove, response));
    while (worker.run_once() != 0) {
    }
    while (engine.front_event(0) != nullptr)
      engine.pop_event(0);
  }
  EXPECT_EQ(allocated_by_this_thread() - before, 0u);
  EXPECT_EQ(to_peer, 50u * 20);
  // ChannelData, challenges, and three responses a round (the last is drained a round later).
  EXPECT_GE(to_client, 50u * 20 * 2);
  EXPECT_EQ(engine.stats(0).allocations.get(), 0u);
}

TEST(SealedMemory, TheCountingItselfSeesAnAllocation) {
  const uint64_t before = allocated_by_this_thread();
  const auto witness = std::make_unique<std::array<uint8_t, 4000>>();
  asm volatile("" : : "g"(witness.get()) : "memory");  // or clang would leave the allocation out
  EXPECT_GE(allocated_by_this_thread() - before, witness->size());
}

}  // namespace
}  // namespace culvert::test
