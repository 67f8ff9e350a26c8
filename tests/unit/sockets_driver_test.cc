// The sockets driver over loopback, against plain sockets of the test's own. Every test that does
// not depend on a family runs on IPv4 and on IPv6. Nothing sleeps: a wait ends with the event, or
// the test fails after kPatience. Tests that need raw sockets or a network namespace are skipped
// without root.
#include "dataplane/io/sockets/sockets_driver.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <gtest/gtest.h>
#include <linux/udp.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <random>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "dataplane/io/sockets/udp_socket.h"
#include "tests/support/needs.h"

#if defined(__SANITIZE_THREAD__)
#define CULVERT_COUNTS_ALLOCATIONS 0
#elif defined(__has_feature)
#define CULVERT_COUNTS_ALLOCATIONS !__has_feature(thread_sanitizer)
#else
#define CULVERT_COUNTS_ALLOCATIONS 1
#endif

#if CULVERT_COUNTS_ALLOCATIONS  // clang's TSan has its own operators and takes no others
namespace {
std::atomic<uint64_t> allocations{0};
}

// Counts, so that a test can show that the driver allocates nothing once it is built. Not inlined:
// GCC would take malloc and free for a mismatched pair.
[[gnu::noinline]] void* operator new(size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* at = std::malloc(bytes == 0 ? 1 : bytes);
  if (at == nullptr) std::abort();
  return at;
}
[[gnu::noinline]] void operator delete(void* at) noexcept {
  std::free(at);
}
[[gnu::noinline]] void operator delete(void* at, size_t) noexcept {
  std::free(at);
}
#endif

namespace culvert {
namespace {

using std::chrono::steady_clock;
constexpr auto kPatience = std::chrono::seconds(10);

[[nodiscard]] uint32_t make_seed() {
  static const uint32_t seed = [] {
    const uint32_t s = std::random_device{}();
    std::printf("seed %u\n", s);
    return s;
  }();
  return seed;
}

struct Received {
  std::vector<uint8_t> bytes;
  TransportAddress from;
  int ttl = -1;
  int tos = -1;
  int segment = 0;
};

// An ordinary UDP socket: a client or a peer.
class Plain {
 public:
  explicit Plain(Family family, bool gro = false, uint16_t port = 0) : family_(family) {
    const int domain = family == Family::kIpv4 ? AF_INET : AF_INET6;
    fd_ = socket(domain, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    EXPECT_GE(fd_, 0);
    const int on = 1;
    const int bytes = 8 << 20;
    setsockopt(fd_, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
    if (family == Family::kIpv4) {
      setsockopt(fd_, IPPROTO_IP, IP_RECVTTL, &on, sizeof on);
      setsockopt(fd_, IPPROTO_IP, IP_RECVTOS, &on, sizeof on);
    } else {
      setsockopt(fd_, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, &on, sizeof on);
      setsockopt(fd_, IPPROTO_IPV6, IPV6_RECVTCLASS, &on, sizeof on);
    }
    if (gro) setsockopt(fd_, IPPROTO_UDP, UDP_GRO, &on, sizeof on);
    SocketName name;
    socklen_t length = to_socket_name({loopback(family), port}, name);
    EXPECT_EQ(bind(fd_, &name.any, length), 0);
    EXPECT_EQ(getsockname(fd_, &name.any, &length), 0);
    address_ = from_socket_name(name);
  }
  ~Plain() { shut(); }
  Plain(const Plain&) = delete;
  Plain& operator=(const Plain&) = delete;

  [[nodiscard]] static IpAddress loopback(Family family) {
    return *IpAddress::parse(family == Family::kIpv4 ? "127.0.0.1" : "::1");
  }
  [[nodiscard]] const TransportAddress& address() const { return address_; }
  void shut() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  void set_header(int ttl, int tos) {
    const bool v4 = family_ == Family::kIpv4;
    const int level = v4 ? IPPROTO_IP : IPPROTO_IPV6;
    setsockopt(fd_, level, v4 ? IP_TTL : IPV6_UNICAST_HOPS, &ttl, sizeof ttl);
    setsockopt(fd_, level, v4 ? IP_TOS : IPV6_TCLASS, &tos, sizeof tos);
  }
  void send(const TransportAddress& to, const std::vector<uint8_t>& bytes) {
    SocketName name;
    const socklen_t length = to_socket_name(to, name);
    EXPECT_EQ(sendto(fd_, bytes.data(), bytes.size(), 0, &name.any, length),
              static_cast<ssize_t>(bytes.size()));
  }
  void send_run(const TransportAddress& to, std::vector<uint8_t> bytes, uint16_t segment) {
    SocketName name;
    iovec piece{bytes.data(), bytes.size()};
    alignas(cmsghdr) std::array<uint8_t, CMSG_SPACE(sizeof segment)> control{};
    msghdr message{};
    message.msg_name = &name;
    message.msg_namelen = to_socket_name(to, name);
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = IPPROTO_UDP;
    head->cmsg_type = UDP_SEGMENT;
    head->cmsg_len = CMSG_LEN(sizeof segment);
    std::memcpy(CMSG_DATA(head), &segment, sizeof segment);
    EXPECT_EQ(sendmsg(fd_, &message, 0), static_cast<ssize_t>(bytes.size()));
  }
  // Waits for one; no `bytes` and ttl -1 when patience ends.
  [[nodiscard]] Received receive() {
    pollfd wait{fd_, POLLIN, 0};
    if (poll(&wait, 1, static_cast<int>(kPatience / std::chrono::milliseconds(1))) != 1) return {};
    return *receive_now();
  }
  [[nodiscard]] std::optional<Received> receive_now() {
    Received out;
    out.bytes.resize(65536);
    SocketName name;
    iovec piece{out.bytes.data(), out.bytes.size()};
    alignas(cmsghdr) std::array<uint8_t, 256> control;
    msghdr message{};
    message.msg_name = &name;
    message.msg_namelen = sizeof name;
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t length = recvmsg(fd_, &message, MSG_DONTWAIT);
    if (length < 0) return std::nullopt;
    out.bytes.resize(static_cast<size_t>(length));
    out.from = from_socket_name(name);
    for (cmsghdr* m = CMSG_FIRSTHDR(&message); m != nullptr; m = CMSG_NXTHDR(&message, m)) {
      int value = 0;
      std::memcpy(&value, CMSG_DATA(m), std::min(sizeof value, m->cmsg_len - CMSG_LEN(0)));
      if (m->cmsg_type == IP_TTL && m->cmsg_level == IPPROTO_IP) out.ttl = value;
      if (m->cmsg_type == IP_TOS && m->cmsg_level == IPPROTO_IP) out.tos = value;
      if (m->cmsg_type == IPV6_HOPLIMIT && m->cmsg_level == IPPROTO_IPV6) out.ttl = value;
      if (m->cmsg_type == IPV6_TCLASS && m->cmsg_level == IPPROTO_IPV6) out.tos = value;
      if (m->cmsg_type == UDP_GRO && m->cmsg_level == IPPROTO_UDP) out.segment = value;
    }
    return out;
  }

 private:
  Family family_;
  int fd_ = -1;
  TransportAddress address_;
};

[[nodiscard]] std::vector<uint8_t> text(const char* from) {
  return {from, from + std::strlen(from)};
}
[[nodiscard]] std::vector<uint8_t> bytes_of(const RxDatagram& d) {
  return {d.payload, d.payload + d.length};
}

// A datagram as a test keeps it, after its burst.
struct Kept {
  RxDatagram d;
  std::vector<uint8_t> bytes;
};

// A relay without logic: one address, one listener, a driver per core.
class Node {
 public:
  explicit Node(Family family, uint16_t cores = 1, SocketsOptions options = {}) : family_(family) {
    std::mt19937 random(make_seed() + static_cast<uint32_t>(reinterpret_cast<uintptr_t>(this)));
    snapshot_.cores = cores;
    snapshot_.addresses.push_back({Plain::loopback(family), Plain::loopback(family), true});
    snapshot_.addresses.push_back({Plain::loopback(family), Plain::loopback(family), false});
    snapshot_.listeners.resize(1);
    // Below the ephemeral range (32768 on), which the plain sockets use.
    snapshot_.relay_port_low = static_cast<uint16_t>(10000 + random() % 10000);
    snapshot_.relay_port_high = static_cast<uint16_t>(snapshot_.relay_port_low + 9999);
    std::unique_ptr<ListenerSockets> sockets;
    for (int tries = 0; sockets == nullptr && tries < 100; ++tries) {
      snapshot_.listeners[0].port = static_cast<uint16_t>(2000 + random() % 7000);
      try {
        sockets = std::make_unique<ListenerSockets>(snapshot_, kListenerBufferBytes, 0);
      } catch (const std::system_error&) {
        continue;  // another program's port
      }
    }
    EXPECT_NE(sockets, nullptr);
    for (CoreId core = 0; core < cores; ++core) {
      drivers_.push_back(std::make_unique<SocketsDriver>(snapshot_, core, *sockets, options));
    }
  }

  [[nodiscard]] SocketsDriver& driver(size_t core = 0) { return *drivers_[core]; }
  [[nodiscard]] TransportAddress listener() const {
    return {Plain::loopback(family_), snapshot_.listeners[0].port};
  }
  [[nodiscard]] const Snapshot& snapshot() const { return snapshot_; }
  [[nodiscard]] TransportAddress at(RelayLeg leg) const {
    return {Plain::loopback(family_), leg.port};
  }
  // The next free port of the range.
  Egress open(RelayLeg& leg) {
    for (; next_port_ < 10000;) {
      leg = {0, static_cast<uint16_t>(snapshot_.relay_port_low + next_port_++)};
      const Egress egress = driver().open_relay_port(leg);
      if (egress != kNoEgress) return egress;
    }
    ADD_FAILURE() << "no free relay port";
    return kNoEgress;
  }
  // Receives until `enough` says so.
  void receive_until(const std::function<bool(const RxDatagram&)>& enough,
                     size_t burst = kMaxBurst) {
    const auto end = steady_clock::now() + kPatience;
    std::array<RxDatagram, kMaxBurst> rx;
    while (steady_clock::now() < end) {
      const uint32_t count = driver().rx_burst({rx.data(), burst});
      bool done = false;
      for (uint32_t i = 0; i < count; ++i)
        done = enough(rx[i]) || done;
      if (done) return;
      if (count == 0) driver().wait(100000);
    }
    ADD_FAILURE() << "patience ended";
  }
  [[nodiscard]] std::vector<Kept> receive(size_t count, size_t burst = kMaxBurst) {
    std::vector<Kept> out;
    receive_until(
        [&](const RxDatagram& d) {
          out.push_back({d, bytes_of(d)});
          return out.size() >= count;
        },
        burst);
    return out;
  }

 private:
  Family family_;
  Snapshot snapshot_;
  std::vector<std::unique_ptr<SocketsDriver>> drivers_;
  uint32_t next_port_ = 0;
};

TxDatagram& add(TxBurst& tx, Egress egress, const TransportAddress& to,
                const std::vector<uint8_t>& payload) {
  TxDatagram& d = tx.items[tx.count++];
  d.payload = payload.data();
  d.length = static_cast<uint16_t>(payload.size());
  d.head_length = d.pad_length = 0;
  d.egress = egress;
  d.to = to;
  d.ttl = 64;
  d.tos = 0;
  d.dont_fragment = false;
  return d;
}

// Runs `body` with its thread in a network namespace whose loopback has that MTU. False without the
// right to make one.
bool in_namespace(int mtu, const std::function<void()>& body) {
  bool made = false;
  std::thread inside([&] {
    if (unshare(CLONE_NEWNET) != 0) return;
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ifreq request{};
    std::memcpy(request.ifr_name, "lo", 3);
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    made = ioctl(fd, SIOCSIFFLAGS, &request) == 0;
    request.ifr_mtu = mtu;
    made = made && ioctl(fd, SIOCSIFMTU, &request) == 0;
    close(fd);
    if (made) body();
  });
  inside.join();
  return made;
}

class SocketsDriverTest : public testing::TestWithParam<Family> {};
INSTANTIATE_TEST_SUITE_P(Families, SocketsDriverTest, testing::Values(Family::kIpv4, Family::kIpv6),
                         [](const auto& p) { return p.param == Family::kIpv4 ? "ipv4" : "ipv6"; });

TEST_P(SocketsDriverTest, ADatagramToAListenerArrivesWithItsSourceTtlAndTos) {
  Node node(GetParam());
  Plain client(GetParam());
  client.set_header(33, 0xb9);
  client.send(node.listener(), text("hello"));
  const auto got = node.receive(1);
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(got[0].bytes, text("hello"));
  EXPECT_EQ(got[0].d.kind, RxKind::kClient);
  EXPECT_EQ(got[0].d.listener, 0);
  EXPECT_EQ(got[0].d.source, client.address());
  EXPECT_EQ(got[0].d.ttl, 33);
  EXPECT_EQ(got[0].d.tos, 0xb9);
  EXPECT_EQ(got[0].d.df, DontFragment::kUnknown);
}

TEST_P(SocketsDriverTest, ADatagramToARelayedPortNamesItsLeg) {
  Node node(GetParam());
  RelayLeg leg;
  ASSERT_NE(node.open(leg), kNoEgress);
  Plain peer(GetParam());
  peer.set_header(7, 0x03);
  peer.send(node.at(leg), text("from a peer"));
  peer.send(node.at(leg), {});
  const auto got = node.receive(2);
  ASSERT_EQ(got.size(), 2u);
  EXPECT_EQ(got[0].bytes, text("from a peer"));
  EXPECT_EQ(got[0].d.kind, RxKind::kPeer);
  EXPECT_EQ(got[0].d.relay.address, leg.address);
  EXPECT_EQ(got[0].d.relay.port, leg.port);
  EXPECT_EQ(got[0].d.source, peer.address());
  EXPECT_EQ(got[0].d.ttl, 7);
  EXPECT_EQ(got[0].d.tos, 0x03);
  EXPECT_EQ(got[1].d.length, 0) << "an empty datagram is a datagram";
}

TEST_P(SocketsDriverTest, TtlTosAndBytesLeaveAsGivenWhateverCameBefore) {
  Node node(GetParam());
  RelayLeg leg;
  const Egress relay = node.open(leg);
  std::mt19937 random(make_seed());
  Plain peer(GetParam());
  const std::vector<uint8_t> payload = text("payload");
  for (int round = 0; round < 60; ++round) {
    TxBurst tx;
    std::vector<std::array<int, 3>> sent;  // ttl, tos, size
    // Few values, so that runs of equal ones settle on the socket and others depart from it again.
    const uint32_t values = 1 + static_cast<uint32_t>(random() % 3);
    for (uint32_t i = 0; i < 40; ++i) {
      TxDatagram& d = add(tx, round % 2 == 0 ? relay : node.driver().listener_egress(0),
                          peer.address(), payload);
      d.ttl = static_cast<uint8_t>(60 + random() % values);
      d.tos = static_cast<uint8_t>(random() % values * 0x2a);
      d.head_length = static_cast<uint8_t>(random() % 3 * 4);
      d.pad_length = static_cast<uint8_t>(random() % 4);
      for (size_t h = 0; h < d.head_length; ++h)
        d.head[h] = static_cast<uint8_t>(h + 1);
      sent.push_back({d.ttl, d.tos, static_cast<int>(d.size())});
    }
    ASSERT_EQ(node.driver().tx_burst(tx), 0u);
    for (size_t i = 0; i < sent.size(); ++i) {
      const Received got = peer.receive();
      ASSERT_EQ(got.ttl, sent[i][0]) << "round " << round << " datagram " << i;
      ASSERT_EQ(got.tos, sent[i][1]) << "round " << round << " datagram " << i;
      const TxDatagram& d = tx.items[i];
      std::vector<uint8_t> expected(d.head.data(), d.head.data() + d.head_length);
      expected.insert(expected.end(), payload.begin(), payload.end());
      expected.insert(expected.end(), d.pad_length, 0);
      ASSERT_EQ(got.bytes, expected) << "round " << round << " datagram " << i;
      ASSERT_EQ(got.from.port, round % 2 == 0 ? leg.port : node.listener().port);
    }
  }
}

TEST_P(SocketsDriverTest, ARunOfSixtyFourArrivesInPlaceAndLeavesAsOneRun) {
  Node node(GetParam());
  RelayLeg leg;
  const Egress relay = node.open(leg);
  Plain client(GetParam());
  Plain peer(GetParam(), true);
  constexpr size_t kSize = 500;
  std::vector<uint8_t> run;
  for (size_t i = 0; i < 63 * kSize + 99; ++i)
    run.push_back(static_cast<uint8_t>(i * 7 + i / kSize));
  client.send_run(node.listener(), run, kSize);
  TxBurst tx;
  const uint8_t* first = nullptr;
  node.receive_until([&](const RxDatagram& d) {
    if (first == nullptr) first = d.payload;
    EXPECT_EQ(d.payload, first + tx.count * kSize) << "segments stay where the kernel put them";
    EXPECT_EQ(d.source, client.address());
    TxDatagram& out = add(tx, relay, peer.address(), {});
    out.payload = d.payload;
    out.length = d.length;
    return tx.count == 64;
  });
  ASSERT_EQ(tx.count, 64u);
  EXPECT_EQ(tx.items[63].length, 99);
  ASSERT_EQ(node.driver().tx_burst(tx), 0u);
  EXPECT_EQ(node.driver().stats().messages, 1u);
  const Received got = peer.receive();
  EXPECT_EQ(got.segment, static_cast<int>(kSize));
  EXPECT_EQ(got.bytes, run);
  EXPECT_EQ(node.driver().stats().segment_refused, 0u);
}

TEST_P(SocketsDriverTest, ARunLongerThanTheBurstIsCarriedOver) {
  Node node(GetParam());
  Plain client(GetParam());
  std::vector<uint8_t> run(64 * 1000);
  for (size_t i = 0; i < run.size(); ++i)
    run[i] = static_cast<uint8_t>(i / 1000);
  client.send_run(node.listener(), run, 1000);
  client.send(node.listener(), text("after"));
  const auto got = node.receive(65, 7);
  ASSERT_EQ(got.size(), 65u);
  for (size_t i = 0; i < 64; ++i) {
    EXPECT_EQ(got[i].bytes, std::vector<uint8_t>(1000, static_cast<uint8_t>(i)));
  }
  EXPECT_EQ(got[64].bytes, text("after"));
}

TEST_P(SocketsDriverTest, InterleavedFlowsLeaveAsOneMessageEachAndKeepTheirOrder) {
  Node node(GetParam());
  RelayLeg leg;
  const Egress relay = node.open(leg);
  Plain a(GetParam());
  Plain b(GetParam());
  TxBurst tx;
  std::vector<std::vector<uint8_t>> payloads;
  for (uint8_t i = 0; i < 40; ++i)
    payloads.push_back({i, 1, 2, 3});
  for (uint8_t i = 0; i < 40; ++i) {
    const TransportAddress& to = i % 2 == 0 ? a.address() : b.address();
    TxDatagram& d = add(tx, relay, to, payloads[i]);
    d.head_length = 4;
    d.head = {9, 9, 9, i};
  }
  ASSERT_EQ(node.driver().tx_burst(tx), 0u);
  EXPECT_EQ(node.driver().stats().messages, 2u);
  for (uint8_t i = 0; i < 40; ++i) {
    EXPECT_EQ((i % 2 == 0 ? a : b).receive().bytes, (std::vector<uint8_t>{9, 9, 9, i, i, 1, 2, 3}));
  }
}

TEST(TxGroupsTest, EveryFlowOfABurstIsOneGroupWhateverTheHash) {
  std::mt19937 random(make_seed());
  const std::vector<uint8_t> payload(10);
  for (int round = 0; round < 1000; ++round) {
    TransportAddress to[16];
    for (auto& t : to)
      t = {IpAddress::v4(0x7f000001), static_cast<uint16_t>(random())};
    size_t distinct = 0;
    for (size_t i = 0; i < 16; ++i)
      distinct += std::find(to, to + i, to[i]) == to + i ? 1 : 0;
    TxBurst tx;
    for (size_t i = 0; i < kMaxBurst; ++i)
      add(tx, 1, to[i % 16], payload);
    TxGroups groups;
    groups.build(tx, true);
    ASSERT_EQ(groups.count(), distinct);
    size_t seen = 0;
    for (uint32_t g = 0; g < groups.count(); ++g) {
      for (uint8_t i = groups.group(g).first; i != TxGroups::kEnd; i = groups.next(i)) {
        ASSERT_EQ(tx.items[i].to, tx.items[groups.group(g).first].to);
        ++seen;
      }
    }
    ASSERT_EQ(seen, kMaxBurst);
    groups.build(tx, false);
    ASSERT_EQ(groups.count(), kMaxBurst);
  }
}

TEST_P(SocketsDriverTest, SizesThatDifferKeepTheirOrderWithinAFlow) {
  Node node(GetParam());
  std::mt19937 random(make_seed());
  Plain peers[3] = {Plain(GetParam()), Plain(GetParam()), Plain(GetParam())};
  for (int round = 0; round < 50; ++round) {
    TxBurst tx;
    std::vector<std::vector<uint8_t>> payloads(kMaxBurst);
    std::vector<std::vector<uint8_t>> expected[3];
    for (size_t i = 0; i < kMaxBurst; ++i) {
      payloads[i].assign(random() % 4 * 100, static_cast<uint8_t>(i));
      const size_t peer = random() % 3;
      expected[peer].push_back(payloads[i]);
      add(tx, node.driver().listener_egress(0), peers[peer].address(), payloads[i]);
    }
    ASSERT_EQ(node.driver().tx_burst(tx), 0u);
    for (size_t p = 0; p < 3; ++p) {
      for (const auto& payload : expected[p])
        ASSERT_EQ(peers[p].receive().bytes, payload);
    }
  }
}

TEST_P(SocketsDriverTest, AClosedPeersErrorIsReportedAndTheNextSendIsNotLost) {
  Node node(GetParam());
  RelayLeg leg;
  const Egress relay = node.open(leg);
  Plain open_peer(GetParam());
  Plain closed_peer(GetParam());
  const TransportAddress gone = closed_peer.address();
  closed_peer.shut();
  const auto lost = text("lost");
  const auto arrives = text("arrives");
  TxBurst tx;
  add(tx, relay, gone, lost);
  EXPECT_EQ(node.driver().tx_burst(tx), 0u);
  tx.count = 0;
  add(tx, relay, open_peer.address(), arrives);
  EXPECT_EQ(node.driver().tx_burst(tx), 0u);
  EXPECT_EQ(open_peer.receive().bytes, arrives);
  EXPECT_EQ(node.driver().stats().send_retried, 1u) << "the error was met and the send repeated";
  const auto got = node.receive(1);
  ASSERT_EQ(got.size(), 1u);
  const RxDatagram& d = got[0].d;
  EXPECT_EQ(d.kind, RxKind::kIcmpError);
  EXPECT_EQ(d.source, gone);
  EXPECT_EQ(d.relay.address, leg.address);
  EXPECT_EQ(d.relay.port, leg.port);
  const bool v4 = GetParam() == Family::kIpv4;
  EXPECT_EQ(d.icmp_type, v4 ? ICMP_DEST_UNREACH : ICMP6_DST_UNREACH);
  EXPECT_EQ(d.icmp_code, v4 ? ICMP_PORT_UNREACH : ICMP6_DST_UNREACH_NOPORT);
  EXPECT_EQ(d.icmp_mtu, 0u);
  EXPECT_EQ(got[0].bytes, lost);
}

// The kernel limits how many ICMP errors it sends (1000 a second and 50 at once), so the number of
// reports has no lower bound here; the datagrams to the open peer and back must all arrive.
TEST_P(SocketsDriverTest, NothingIsLostAmongErrorsInEitherDirection) {
  Node node(GetParam());
  RelayLeg leg;
  const Egress relay = node.open(leg);
  Plain open_peer(GetParam());
  Plain closed_peer(GetParam());
  const TransportAddress gone = closed_peer.address();
  closed_peer.shut();
  const auto lost = text("lost");
  uint32_t back = 0;
  uint32_t errors = 0;
  for (uint32_t round = 0; round < 200; ++round) {
    TxBurst tx;
    std::vector<std::vector<uint8_t>> payloads;
    for (uint8_t i = 0; i < 32; ++i) {
      // Growing sizes: no run forms, so that sendmmsg meets the errors in the middle.
      payloads.push_back(std::vector<uint8_t>(size_t{i} + 1, static_cast<uint8_t>(round)));
    }
    for (uint8_t i = 0; i < 32; ++i) {
      add(tx, relay, gone, lost).ttl = static_cast<uint8_t>(64 + i);
      add(tx, relay, open_peer.address(), payloads[i]);
    }
    ASSERT_EQ(node.driver().tx_burst(tx), 0u);
    for (uint8_t i = 0; i < 32; ++i) {
      ASSERT_EQ(open_peer.receive().bytes, payloads[i]);
      open_peer.send(node.at(leg), payloads[i]);
    }
    node.receive_until([&](const RxDatagram& d) {
      if (d.kind == RxKind::kIcmpError) {
        ++errors;
        EXPECT_EQ(d.source, gone);
      } else {
        EXPECT_EQ(bytes_of(d), payloads[back % 32]);
        ++back;
      }
      return back == (round + 1) * 32;
    });
  }
  EXPECT_EQ(back, 6400u);
  EXPECT_GT(errors, 0u);
  EXPECT_EQ(node.driver().stats().send_failed, 0u);
}

TEST_P(SocketsDriverTest, AClientThatIsGoneCostsItsListenerNothing) {
  Node node(GetParam());
  Plain client(GetParam());
  Plain closed_client(GetParam());
  const TransportAddress gone = closed_client.address();
  closed_client.shut();
  const auto payload = text("x");
  TxBurst tx;
  for (int i = 0; i < 10; ++i) {
    add(tx, node.driver().listener_egress(0), gone, payload);
    add(tx, node.driver().listener_egress(0), client.address(), payload).ttl = 3;
  }
  EXPECT_EQ(node.driver().tx_burst(tx), 0u);
  for (int i = 0; i < 10; ++i)
    EXPECT_EQ(client.receive().ttl, 3);
  EXPECT_EQ(node.driver().stats().send_retried, 0u);
}

// Builds what a router would send: an ICMP error about a datagram from `from` to `to`. Not inlined:
// GCC 12 then merges the two families' copies and warns of the longer one.
[[nodiscard, gnu::noinline]] bool send_too_big(const TransportAddress& from,
                                               const TransportAddress& to, uint32_t mtu) {
  const bool v4 = from.ip.is_v4();
  const int fd = socket(v4 ? AF_INET : AF_INET6, SOCK_RAW | SOCK_CLOEXEC,
                        v4 ? int{IPPROTO_ICMP} : int{IPPROTO_ICMPV6});
  if (fd < 0) return false;
  std::vector<uint8_t> packet(8);
  packet[0] = v4 ? ICMP_DEST_UNREACH : ICMP6_PACKET_TOO_BIG;
  packet[1] = v4 ? ICMP_FRAG_NEEDED : 0;
  store_be32(&packet[4], mtu);  // IPv4: 16 bits in the lower half
  std::vector<uint8_t> inner(v4 ? 20 : 40);
  if (v4) {
    inner[0] = 0x45;
    store_be16(&inner[2], 20 + 8 + 3);
    inner[6] = 0x40;
    inner[8] = 60;
    inner[9] = IPPROTO_UDP;
    std::memcpy(&inner[12], from.ip.wire(), 4);
    std::memcpy(&inner[16], to.ip.wire(), 4);
  } else {
    inner[0] = 0x60;
    store_be16(&inner[4], 8 + 3);
    inner[6] = IPPROTO_UDP;
    inner[7] = 60;
    std::memcpy(&inner[8], from.ip.wire(), 16);
    std::memcpy(&inner[24], to.ip.wire(), 16);
  }
  inner.resize(inner.size() + 8 + 3);
  store_be16(&inner[inner.size() - 11], from.port);
  store_be16(&inner[inner.size() - 9], to.port);
  store_be16(&inner[inner.size() - 7], 8 + 3);
  packet.insert(packet.end(), inner.begin(), inner.end());
  if (v4) {  // IPv6: the kernel fills it in
    uint32_t sum = 0;
    if (packet.size() % 2 != 0) packet.push_back(0);
    for (size_t i = 0; i < packet.size(); i += 2)
      sum += load_be16(&packet[i]);
    while (sum >> 16 != 0)
      sum = (sum & 0xffff) + (sum >> 16);
    store_be16(&packet[2], static_cast<uint16_t>(~sum));
  }
  SocketName name;
  const socklen_t length = to_socket_name({from.ip, 0}, name);
  const bool sent = sendto(fd, packet.data(), packet.size(), 0, &name.any, length) ==
                    static_cast<ssize_t>(packet.size());
  close(fd);
  return sent;
}

TEST_P(SocketsDriverTest, PacketTooBigCarriesTheNextHopsMtu) {
  const bool made = in_namespace(65536, [&] {
    Node node(GetParam());
    RelayLeg leg;
    ASSERT_NE(node.open(leg), kNoEgress);
    Plain peer(GetParam());
    ASSERT_TRUE(send_too_big(node.at(leg), peer.address(), 1400));
    const auto got = node.receive(1);
    ASSERT_EQ(got.size(), 1u);
    EXPECT_EQ(got[0].d.kind, RxKind::kIcmpError);
    EXPECT_EQ(got[0].d.source, peer.address());
    EXPECT_EQ(got[0].d.icmp_mtu, 1400u);
    EXPECT_EQ(got[0].d.icmp_type,
              GetParam() == Family::kIpv4 ? ICMP_DEST_UNREACH : ICMP6_PACKET_TOO_BIG);
    EXPECT_EQ(got[0].d.icmp_code, GetParam() == Family::kIpv4 ? ICMP_FRAG_NEEDED : 0);
  });
  CULVERT_TEST_NEEDS(made, "needs the right to make a network namespace");
}

TEST(SocketsDriverHeaderTest, DfIsSetExactlyWhereAskedFor) {
  const bool made = in_namespace(65536, [] {
    Node node(Family::kIpv4);
    RelayLeg leg;
    const Egress relay = node.open(leg);
    Plain peer(Family::kIpv4);
    const int raw = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_UDP);
    ASSERT_GE(raw, 0);
    const auto payload = text("df?");
    TxBurst tx;
    std::vector<bool> asked;
    for (uint32_t i = 0; i < 30; ++i) {
      const bool df = i % 5 == 2 || i % 7 == 0;
      TxDatagram& d = add(tx, relay, peer.address(), payload);
      d.dont_fragment = df;
      d.ttl = static_cast<uint8_t>(20 + i);  // no runs; and names the datagram
      asked.push_back(df);
    }
    ASSERT_EQ(node.driver().tx_burst(tx), 0u);
    for (uint32_t i = 0; i < 30; ++i) {
      pollfd wait{raw, POLLIN, 0};
      ASSERT_EQ(poll(&wait, 1, 10000), 1);
      std::array<uint8_t, 128> packet;
      ASSERT_GT(recv(raw, packet.data(), packet.size(), 0), 20);
      EXPECT_EQ(packet[8], 20 + i);
      EXPECT_EQ((packet[6] & 0x40) != 0, asked[i]) << i;
    }
    close(raw);
  });
  CULVERT_TEST_NEEDS(made, "needs the right to make a network namespace");
}

TEST_P(SocketsDriverTest, ARunTheKernelCannotCutIsSentSinglyAndFragmented) {
  const bool made = in_namespace(1500, [&] {
    Node node(GetParam());
    RelayLeg leg;
    const Egress relay = node.open(leg);
    Plain peer(GetParam());
    Plain other(GetParam());
    std::vector<std::vector<uint8_t>> payloads;
    for (uint8_t i = 0; i < 5; ++i)
      payloads.push_back(std::vector<uint8_t>(2000, i));
    const auto small = text("small");
    TxBurst tx;
    add(tx, relay, other.address(), small);
    for (const auto& payload : payloads)
      add(tx, relay, peer.address(), payload);
    add(tx, relay, other.address(), small).ttl = 9;
    add(tx, relay, other.address(), small).ttl = 9;
    ASSERT_EQ(node.driver().tx_burst(tx), 0u);
    EXPECT_EQ(node.driver().stats().segment_refused, 1u);
    for (const auto& payload : payloads)
      EXPECT_EQ(peer.receive().bytes, payload);
    EXPECT_EQ(other.receive().bytes, small);
    EXPECT_EQ(other.receive().ttl, 9);
    EXPECT_EQ(other.receive().ttl, 9);
  });
  CULVERT_TEST_NEEDS(made, "needs the right to make a network namespace");
}

TEST_P(SocketsDriverTest, WhatMayNotBeFragmentedAndDoesNotFitIsCountedAndTheRestArrives) {
  const bool made = in_namespace(1500, [&] {
    Node node(GetParam());
    RelayLeg leg;
    const Egress relay = node.open(leg);
    Plain peer(GetParam());
    const std::vector<uint8_t> large(2000, 1);
    const auto small = text("small");
    TxBurst tx;
    add(tx, relay, peer.address(), small).dont_fragment = true;
    add(tx, relay, peer.address(), large).dont_fragment = true;
    add(tx, relay, peer.address(), small).dont_fragment = true;
    add(tx, relay, peer.address(), large);
    EXPECT_EQ(node.driver().tx_burst(tx), 1u);
    EXPECT_EQ(node.driver().stats().send_failed, 1u);
    EXPECT_EQ(peer.receive().bytes, small);
    EXPECT_EQ(peer.receive().bytes, small);
    EXPECT_EQ(peer.receive().bytes, large);
  });
  CULVERT_TEST_NEEDS(made, "needs the right to make a network namespace");
}

TEST_P(SocketsDriverTest, APortHeldByAnotherIsRefusedAndOpensOnceItIsFree) {
  Node node(GetParam());
  RelayLeg leg;
  ASSERT_NE(node.open(leg), kNoEgress);
  node.driver().close_relay_port(leg);
  {
    Plain squatter(GetParam(), false, leg.port);
    EXPECT_EQ(node.driver().open_relay_port(leg), kNoEgress);
    EXPECT_EQ(node.driver().open_ports(), 0u);
  }
  EXPECT_NE(node.driver().open_relay_port(leg), kNoEgress);
  EXPECT_EQ(node.driver().open_relay_port(leg), kNoEgress) << "open already";
  EXPECT_EQ(node.driver().open_ports(), 1u);
}

TEST_P(SocketsDriverTest, PortsOutsideTheRangeOrOnOtherAddressesAreRefused) {
  Node node(GetParam());
  const uint16_t low = node.snapshot().relay_port_low;
  for (const RelayLeg leg : {RelayLeg{0, static_cast<uint16_t>(low - 1)},
                             RelayLeg{0, static_cast<uint16_t>(low + 10000)}, RelayLeg{1, low},
                             RelayLeg{2, low}, RelayLeg{}}) {
    EXPECT_EQ(node.driver().open_relay_port(leg), kNoEgress);
    node.driver().close_relay_port(leg);  // harmless
  }
}

[[nodiscard]] size_t open_descriptors() {
  size_t count = 0;
  DIR* dir = opendir("/proc/self/fd");
  while (readdir(dir) != nullptr)
    ++count;
  closedir(dir);
  return count;
}

TEST_P(SocketsDriverTest, AThousandPortsOpenCarryAndCloseWithoutLeaks) {
  constexpr uint32_t kPorts = 1000;
  const SocketsOptions options{.max_relay_ports = kPorts};
  Node node(GetParam(), 1, options);
  const size_t descriptors = open_descriptors();
  Plain peer(GetParam());
  for (int round = 0; round < 2; ++round) {
    std::vector<RelayLeg> legs(kPorts);
    std::vector<Egress> egresses;
    for (RelayLeg& leg : legs)
      egresses.push_back(node.open(leg));
    EXPECT_EQ(node.driver().open_ports(), kPorts);
    const uint16_t high = node.snapshot().relay_port_high;
    EXPECT_EQ(node.driver().open_relay_port({0, high}), kNoEgress) << "the table is full";
    std::sort(egresses.begin(), egresses.end());
    EXPECT_EQ(std::adjacent_find(egresses.begin(), egresses.end()), egresses.end());
    for (const RelayLeg& leg : legs)
      peer.send(node.at(leg), text("to each"));
    std::vector<uint32_t> seen(65536);
    for (const Kept& kept : node.receive(kPorts))
      ++seen[kept.d.relay.port];
    for (const RelayLeg& leg : legs)
      EXPECT_EQ(seen[leg.port], 1u);
    for (const RelayLeg& leg : legs)
      node.driver().close_relay_port(leg);
    EXPECT_EQ(node.driver().open_ports(), 0u);
  }
  EXPECT_EQ(open_descriptors(), descriptors + 1) << "the plain peer's socket";
}

TEST_P(SocketsDriverTest, NothingReadForAClosedPortIsReported) {
  Node node(GetParam());
  RelayLeg closed;
  RelayLeg kept;
  ASSERT_NE(node.open(closed), kNoEgress);
  ASSERT_NE(node.open(kept), kNoEgress);
  Plain peer(GetParam());
  peer.send_run(node.at(closed), std::vector<uint8_t>(1000), 100);
  ASSERT_EQ(node.receive(1, 3)[0].d.relay.port, closed.port);
  node.driver().close_relay_port(closed);
  const Egress again = node.driver().open_relay_port(closed);
  ASSERT_NE(again, kNoEgress);
  peer.send(node.at(kept), text("kept"));
  peer.send(node.at(closed), text("new"));
  const auto got = node.receive(2, 3);
  ASSERT_EQ(got.size(), 2u);
  for (const Kept& k : got) {
    EXPECT_EQ(k.bytes, text(k.d.relay.port == kept.port ? "kept" : "new"));
  }
  TxBurst tx;
  node.driver().close_relay_port(closed);
  const auto payload = text("x");
  add(tx, again, peer.address(), payload);
  add(tx, kNoEgress, peer.address(), payload);
  EXPECT_EQ(node.driver().tx_burst(tx), 2u) << "no socket behind either";
}

TEST_P(SocketsDriverTest, BothDirectionsAdvanceWhenBothAreFull) {
  Node node(GetParam());
  Plain client(GetParam());
  Plain peer(GetParam());
  std::vector<RelayLeg> legs(40);
  for (RelayLeg& leg : legs)
    ASSERT_NE(node.open(leg), kNoEgress);
  for (int i = 0; i < 200; ++i)
    client.send(node.listener(), text("c"));
  for (int i = 0; i < 20; ++i) {
    for (const RelayLeg& leg : legs)
      peer.send(node.at(leg), text("p"));
  }
  std::array<RxDatagram, kMaxBurst> rx;
  size_t clients = 0;
  size_t peers = 0;
  for (int burst = 0; burst < 4; ++burst) {
    const uint32_t count = node.driver().rx_burst(rx);
    for (uint32_t i = 0; i < count; ++i)
      ++(rx[i].kind == RxKind::kClient ? clients : peers);
  }
  EXPECT_GE(clients, 64u);
  EXPECT_GE(peers, 64u);
  const auto rest = node.receive(1000 - clients - peers);
  EXPECT_EQ(rest.size(), 1000 - clients - peers);
}

TEST_P(SocketsDriverTest, AHundredThousandPacedDatagramsAllGoThroughInOrder) {
  Node node(GetParam());
  constexpr uint32_t kFlows = 8;
  constexpr uint32_t kTotal = 100000;
  constexpr uint32_t kWindow = 256;
  std::vector<std::unique_ptr<Plain>> peers;
  std::vector<Egress> egresses(kFlows);
  std::vector<RelayLeg> legs(kFlows);
  std::vector<size_t> leg_flow(65536);
  for (uint32_t f = 0; f < kFlows; ++f) {
    peers.push_back(std::make_unique<Plain>(GetParam()));
    egresses[f] = node.open(legs[f]);
    leg_flow[legs[f].port] = f;
  }
  Plain client(GetParam());
  uint32_t to_peers = 0;
  uint32_t back = 0;
  std::vector<uint32_t> next(kFlows);
  std::vector<uint8_t> bytes(120);
  // Client -> listener -> relayed port -> peer -> relayed port -> counted here; the window is what
  // is under way anywhere.
  for (uint32_t sent = 0; back < kTotal;) {
    for (; sent < kTotal && sent - back < kWindow; ++sent) {
      store_be32(bytes.data(), sent);
      client.send(node.listener(), bytes);
    }
    TxBurst tx;
    node.receive_until([&](const RxDatagram& d) {
      const uint32_t number = load_be32(d.payload);
      if (d.kind == RxKind::kClient) {
        EXPECT_EQ(number, to_peers++);
        const uint32_t flow = number % kFlows;
        TxDatagram& out = add(tx, egresses[flow], peers[flow]->address(), {});
        out.payload = d.payload;
        out.length = d.length;
      } else {
        const size_t flow = leg_flow[d.relay.port];
        EXPECT_EQ(number, next[flow] * kFlows + flow);
        ++next[flow];
        ++back;
      }
      return true;
    });
    ASSERT_EQ(node.driver().tx_burst(tx), 0u);
    for (uint32_t f = 0; f < kFlows; ++f) {
      while (const auto got = peers[f]->receive_now())
        peers[f]->send(node.at(legs[f]), got->bytes);
    }
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_EQ(to_peers, kTotal);
  EXPECT_EQ(back, kTotal);
}

#if CULVERT_COUNTS_ALLOCATIONS
TEST_P(SocketsDriverTest, TheDriverAllocatesNothingOnceItIsBuilt) {
  Node node(GetParam());
  Plain client(GetParam());
  Plain peer(GetParam());
  client.send_run(node.listener(), std::vector<uint8_t>(6400), 100);
  const auto payload = text("payload");
  RelayLeg leg;
  ASSERT_NE(node.open(leg), kNoEgress);
  node.driver().close_relay_port(leg);
  TxBurst tx;
  std::array<RxDatagram, kMaxBurst> rx;
  const uint64_t before = allocations.load();
  const Egress relay = node.driver().open_relay_port(leg);
  for (int i = 0; i < 40; ++i)
    add(tx, relay, peer.address(), payload).tos = static_cast<uint8_t>(i);
  const uint32_t failed = node.driver().tx_burst(tx);
  node.driver().wait(100000);
  const uint32_t count = node.driver().rx_burst(rx);
  node.driver().close_relay_port(leg);
  const uint64_t after = allocations.load();
  EXPECT_EQ(after, before);
  EXPECT_EQ(failed, 0u);
  EXPECT_EQ(count, 64u);
}
#endif

TEST(SocketsDriverWaitTest, WakeEndsAWaitFromAnotherThreadAndTheNextOne) {
  Node node(Family::kIpv4);
  const auto start = steady_clock::now();
  node.driver().wake();
  node.driver().wait(60000000);  // ended by the wake before it
  std::atomic<bool> ended{false};
  std::thread other([&] {
    while (!ended.load())
      node.driver().wake();
  });
  for (int i = 0; i < 1000; ++i)
    node.driver().wait(60000000);
  ended = true;
  other.join();
  EXPECT_LT(steady_clock::now() - start, std::chrono::seconds(30));
}

TEST(SocketsDriverWaitTest, AWaitEndsWithADatagramOrItsTime) {
  Node node(Family::kIpv4);
  Plain client(Family::kIpv4);
  const Ticks before = node.driver().now();
  auto start = steady_clock::now();
  node.driver().wait(20000);
  EXPECT_GE(steady_clock::now() - start, std::chrono::milliseconds(19));
  EXPECT_GE(node.driver().now() - before, 10u) << "a coarse clock, ticking every 4 or 10 ms";
  EXPECT_LT(node.driver().now() - before, 60000u);
  start = steady_clock::now();
  std::thread sender([&] { client.send(node.listener(), text("x")); });
  node.driver().wait(60000000);
  sender.join();
  EXPECT_LT(steady_clock::now() - start, std::chrono::seconds(30));
  EXPECT_EQ(node.receive(1).size(), 1u);
}

[[nodiscard]] std::string refusal(const Snapshot& snapshot) {
  try {
    ListenerSockets sockets(snapshot, 0, 0);
  } catch (const std::system_error& error) {
    return error.what();
  }
  return "";
}

TEST_P(SocketsDriverTest, AListenerThatCannotBeOpenedIsNamedWithItsReason) {
  Node node(GetParam());
  for (const uint16_t cores : {uint16_t{1}, uint16_t{2}}) {
    Snapshot second = node.snapshot();
    second.cores = cores;
    const std::string text = refusal(second);
    EXPECT_NE(text.find(node.listener().to_string()), std::string::npos) << text;
    EXPECT_NE(text.find("another program holds this UDP port"), std::string::npos) << text;
  }
  Snapshot foreign = node.snapshot();
  foreign.addresses[0].bound =
      *IpAddress::parse(GetParam() == Family::kIpv4 ? "192.0.2.77" : "2001:db8::77");
  EXPECT_NE(refusal(foreign).find("no such address"), std::string::npos);
}

TEST_P(SocketsDriverTest, AGroupOfCoresIsNotJoinedByASecondRelay) {
  Node node(GetParam(), 2);
  for (const uint16_t cores : {uint16_t{1}, uint16_t{2}}) {
    Snapshot second = node.snapshot();
    second.cores = cores;
    EXPECT_NE(refusal(second).find("another program holds this UDP port"), std::string::npos);
  }
}

TEST_P(SocketsDriverTest, EachClientStaysOnOneOfTheCores) {
  Node node(GetParam(), 2);
  std::vector<std::unique_ptr<Plain>> clients;
  for (int i = 0; i < 50; ++i)
    clients.push_back(std::make_unique<Plain>(GetParam()));
  std::vector<std::array<uint32_t, 2>> seen(65536);
  std::array<RxDatagram, kMaxBurst> rx;
  std::array<uint32_t, 2> total{};
  for (int round = 0; round < 10; ++round) {
    for (auto& client : clients)
      client->send(node.listener(), text("x"));
  }
  const auto end = steady_clock::now() + kPatience;
  while (total[0] + total[1] < 500 && steady_clock::now() < end) {
    for (size_t core = 0; core < 2; ++core) {
      const uint32_t count = node.driver(core).rx_burst(rx);
      for (uint32_t i = 0; i < count; ++i)
        ++seen[rx[i].source.port][core];
      total[core] += count;
    }
  }
  EXPECT_EQ(total[0] + total[1], 500u);
  EXPECT_GT(total[0], 0u);
  EXPECT_GT(total[1], 0u);
  for (auto& client : clients) {
    const auto& counts = seen[client->address().port];
    EXPECT_EQ(counts[0] + counts[1], 10u);
    EXPECT_EQ(std::min(counts[0], counts[1]), 0u);
  }
}

}  // namespace
}  // namespace culvert
