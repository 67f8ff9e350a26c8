// The kernel beside a port, without a port: routes against a naive search, the table of them while
// it changes, budgets and rings of what is handed to the kernel, and rtnetlink's messages.
#include <gtest/gtest.h>

#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <random>
#include <thread>

#include "dataplane/io/dpdk/exception.h"
#include "dataplane/io/dpdk/kernel_mirror.h"

namespace culvert {
namespace {

[[nodiscard]] IpAddress ip(const char* text) {
  const auto parsed = IpAddress::parse(text);
  EXPECT_TRUE(parsed) << text;
  return parsed.value_or(IpAddress{});
}

// ---------------------------------------------------------------- routes

[[nodiscard]] bool bit(const IpAddress& a, unsigned n) {
  return (a.wire()[n / 8] >> (7 - n % 8) & 1) != 0;
}
[[nodiscard]] bool in(const IpAddress& a, const KernelRoute& r) {
  if (a.family != r.network.family) return false;
  for (unsigned n = 0; n < r.prefix_bits; ++n)
    if (bit(a, n) != bit(r.network, n)) return false;
  return true;
}

[[nodiscard]] IpAddress any(std::mt19937_64& random, bool v6) {
  // Few different bits, so that prefixes contain one another.
  uint8_t bytes[16];
  for (uint8_t& b : bytes)
    b = static_cast<uint8_t>((random() & 3) * 0x55);
  if (!v6) return IpAddress::v4_bytes(bytes);
  bytes[0] = 0x20;
  return IpAddress::v6_bytes(bytes);
}

TEST(KernelRoutes, TheLongestPrefixAndTheLowestMetricDecideAsInANaiveSearch) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const std::vector<PortAddress> ours = {{ip("10.0.0.1"), 24, 0}, {ip("2001:db8::1"), 64, 0}};
  for (int round = 0; round < 200; ++round) {
    std::vector<KernelRoute> table;
    const size_t routes = random() % 60;
    for (size_t i = 0; i < routes; ++i) {
      const bool v6 = (random() & 1) != 0;
      KernelRoute r;
      r.network = any(random, v6);
      r.prefix_bits = static_cast<uint8_t>(random() % (v6 ? 129 : 33));
      r.metric = static_cast<uint32_t>(random() % 4);
      r.refused = random() % 8 == 0;
      // Told apart by their gateways.
      r.gateway = IpAddress::v4(static_cast<uint32_t>(0x0a000000 + i));
      table.push_back(r);
    }
    const Routes under_test({ours, {}, 1}, table);
    for (int probe = 0; probe < 100; ++probe) {
      const IpAddress to = any(random, (random() & 1) != 0);
      const KernelRoute* best = nullptr;
      for (const KernelRoute& r : table) {
        if (!in(to, r)) continue;
        if (best == nullptr || r.prefix_bits > best->prefix_bits ||
            (r.prefix_bits == best->prefix_bits && r.metric < best->metric))
          best = &r;
      }
      const Routes::Route got = under_test.route(to);
      if (best == nullptr || best->refused) {
        EXPECT_EQ(got.by, nullptr) << to.to_string();
        EXPECT_EQ(got.target, IpAddress{});
      } else {
        ASSERT_NE(got.by, nullptr) << to.to_string();
        EXPECT_EQ(got.target, best->gateway) << to.to_string();
        EXPECT_EQ(got.by->ip.family, to.family);
      }
    }
  }
}

[[nodiscard]] KernelRoute via(const char* network, uint8_t bits, const char* gateway,
                              uint8_t port) {
  KernelRoute r;
  r.network = ip(network);
  r.prefix_bits = bits;
  r.port = port;
  if (gateway != nullptr) r.gateway = ip(gateway);
  return r;
}

TEST(KernelRoutes, GatewaysAreOfEitherFamilyAndLinkLocalOnesAreTheirPorts) {
  const std::vector<PortAddress> ours = {
      {ip("192.0.2.1"), 24, 0}, {ip("2001:db8::1"), 64, 0}, {ip("198.51.100.1"), 24, 1}};
  const std::vector<IpAddress> configured = {ip("192.0.2.254")};
  const std::vector<KernelRoute> table = {
      via("192.0.2.0", 24, nullptr, 0), via("2001:db8:1::", 48, "fe80::1", 0),
      via("2001:db8:2::", 48, "fe80::1", 1), via("203.0.113.0", 24, "fe80::2", 1)};
  const Routes routes({ours, configured, 3}, table);
  EXPECT_EQ(routes.route(ip("192.0.2.7")).target, ip("192.0.2.7"));
  const auto one = routes.route(ip("2001:db8:1::7"));
  const auto other = routes.route(ip("2001:db8:2::7"));
  EXPECT_NE(one.target, other.target);
  EXPECT_EQ(Routes::on_wire(one.target), ip("fe80::1"));
  EXPECT_EQ(Routes::on_wire(other.target), ip("fe80::1"));
  EXPECT_EQ(other.by->port, 1);
  EXPECT_EQ(Routes::on_wire(routes.route(ip("203.0.113.9")).target), ip("fe80::2"));
  // Where the kernel has no route, the configured gateway; and never back to the sender.
  EXPECT_EQ(routes.route(ip("8.8.8.8")).target, ip("192.0.2.254"));
  EXPECT_EQ(routes.route(ip("2001:db8:9::1")).by, nullptr);
  EXPECT_FALSE(routes.learns_from(ip("2001:db8:9::1")));
  // The port's own network is the kernel's to say.
  EXPECT_EQ(routes.route(ip("198.51.100.7")).target, ip("192.0.2.254"));
}

TEST(KernelRoutes, OfTooManyOnlyLinksAndDefaultRoutesAreTaken) {
  const std::vector<PortAddress> ours = {{ip("192.0.2.1"), 24, 0}};
  std::vector<KernelRoute> table;
  for (uint32_t i = 0; i < 2 * kMaxRoutes; ++i) {
    table.push_back(via("10.0.0.0", 32, "192.0.2.9", 0));
    table.back().network = IpAddress::v4(0x0a000000 + i);
  }
  table.push_back(via("0.0.0.0", 0, "192.0.2.254", 0));
  table.push_back(via("192.0.2.0", 24, nullptr, 0));
  const Routes routes({ours, {}, 1}, table);
  EXPECT_EQ(routes.left_out(), 2 * kMaxRoutes);
  EXPECT_EQ(routes.size(), 2u);
  EXPECT_EQ(routes.route(ip("10.0.0.7")).target, ip("192.0.2.254"));
  EXPECT_EQ(routes.route(ip("192.0.2.7")).target, ip("192.0.2.7"));
}

[[nodiscard]] std::unique_ptr<const Routes> all_by(uint32_t gateway) {
  static const std::vector<PortAddress> ours = {{IpAddress::v4(1), 24, 0}};
  std::vector<KernelRoute> table(10);
  for (uint8_t i = 0; i < 10; ++i) {
    table[i].network = IpAddress::v4(uint32_t{i} << 24);
    table[i].prefix_bits = 8;
    table[i].gateway = IpAddress::v4(gateway);
  }
  return std::make_unique<Routes>(Routes::Ports{ours, {}, 1}, table);
}

// Run under AddressSanitizer and ThreadSanitizer, too: a row freed too early is seen there.
TEST(KernelRoutes, CoresReadAWholeTableWhileItIsReplaced) {
  constexpr CoreId kReaders = 2;
  RouteTable table(all_by(1), kReaders);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> changes{0};
  std::vector<std::thread> readers;
  for (CoreId core = 0; core < kReaders; ++core)
    readers.emplace_back([&, core] {
      uint32_t last = 0;
      while (!stop.load(std::memory_order_relaxed)) {
        const Routes& routes = table.enter(core);
        const uint32_t first = routes.route(IpAddress::v4(0)).target.v4_host();
        for (uint32_t i = 1; i < 10; ++i)
          ASSERT_EQ(routes.route(IpAddress::v4(i << 24)).target.v4_host(), first);
        ASSERT_GE(first, last);
        if (first != last) changes.fetch_add(1, std::memory_order_relaxed);
        last = first;
      }
    });
  uint32_t published = 1;
  while (changes.load(std::memory_order_relaxed) < 2000)
    published += table.publish(all_by(published + 1)) ? 1 : 0;
  stop = true;
  for (std::thread& reader : readers)
    reader.join();
  EXPECT_EQ(table.enter(0).route(IpAddress::v4(0)).target.v4_host(), published);
}

TEST(KernelRoutes, ACoreThatStandsStillHoldsUpThePublisherAndLosesNothing) {
  RouteTable table(all_by(1), 1);
  const Routes& old = table.enter(0);
  uint32_t published = 0;
  while (table.publish(all_by(published + 2)))
    ++published;
  EXPECT_EQ(published, kMaxRetiredRoutes);
  EXPECT_EQ(old.route(IpAddress::v4(0)).target.v4_host(), 1u);
  EXPECT_EQ(table.enter(0).route(IpAddress::v4(0)).target.v4_host(), published + 1);
  EXPECT_TRUE(table.publish(all_by(99)));
}

// ---------------------------------------------------------------- what goes to the kernel

[[nodiscard]] std::vector<uint8_t> frame_of(uint16_t type, size_t protocol_at, uint8_t protocol,
                                            uint8_t first = 0) {
  std::vector<uint8_t> frame(100);
  store_be16(&frame[12], type);
  if (protocol_at != 0) frame[14 + protocol_at] = protocol;
  if (type == 0x86dd) frame[14 + 40] = first;
  return frame;
}

TEST(Exception, FramesAreOfTheKindTheyShow) {
  EXPECT_EQ(punt_kind(frame_of(0x0806, 0, 0)), PuntKind::kNeighbour);
  EXPECT_EQ(punt_kind(frame_of(0x0800, 9, 1)), PuntKind::kIcmp);
  EXPECT_EQ(punt_kind(frame_of(0x0800, 9, 6)), PuntKind::kTcp);
  EXPECT_EQ(punt_kind(frame_of(0x0800, 9, 17)), PuntKind::kOther);
  EXPECT_EQ(punt_kind(frame_of(0x86dd, 6, 6)), PuntKind::kTcp);
  EXPECT_EQ(punt_kind(frame_of(0x86dd, 6, 58, 128)), PuntKind::kIcmp);
  for (uint8_t type = 133; type <= 137; ++type)
    EXPECT_EQ(punt_kind(frame_of(0x86dd, 6, 58, type)), PuntKind::kNeighbour);
  EXPECT_EQ(punt_kind(frame_of(0x86dd, 6, 58, 138)), PuntKind::kIcmp);
  EXPECT_EQ(punt_kind(frame_of(0x8100, 0, 0)), PuntKind::kOther);
  // Any bytes, of any length.
  for (const uint16_t type : std::initializer_list<uint16_t>{0x0800, 0x86dd, 0x0806})
    for (size_t length = 0; length <= 60; ++length) {
      std::vector<uint8_t> cut = frame_of(type, 9, 58);
      cut.resize(length);
      cut.shrink_to_fit();
      (void)punt_kind(cut);
    }
}

TEST(Exception, EachKindHasItsSecondsWorthAndNoMore) {
  PuntBudget budget;
  const auto take_all = [&](PuntKind kind, Ticks now) {
    uint32_t taken = 0;
    while (budget.take(kind, now))
      ++taken;
    return taken;
  };
  const Ticks start = UINT32_MAX - 300;  // the clock wraps on the way
  for (size_t kind = 0; kind < kPuntKinds; ++kind)
    EXPECT_EQ(take_all(static_cast<PuntKind>(kind), start), kMaxPuntsPerSecond[kind]);
  // A tenth of a second later a tenth of it, of each kind whatever the others took.
  EXPECT_EQ(take_all(PuntKind::kTcp, start + 100), kMaxPuntsPerSecond[2] / 10);
  EXPECT_EQ(take_all(PuntKind::kNeighbour, start + 100), kMaxPuntsPerSecond[0] / 10);
  EXPECT_EQ(take_all(PuntKind::kIcmp, start + 500), kMaxPuntsPerSecond[1] / 2);
  // Quiet for an hour: one second's worth.
  EXPECT_EQ(take_all(PuntKind::kOther, start + 3'600'000), kMaxPuntsPerSecond[3]);
}

TEST(Exception, FramesAndQuestionsArriveWholeAndInOrderAndAFullRingRefuses) {
  ExceptionPath path(2, 3);
  std::vector<uint8_t> frame(1514);
  for (size_t i = 0; i < frame.size(); ++i)
    frame[i] = static_cast<uint8_t>(i * 7);
  EXPECT_TRUE(path.punt(1, 2, frame));
  EXPECT_TRUE(path.ask(1, 1, ip("2001:db8::7")));
  ExceptionPath::Item item;
  EXPECT_FALSE(path.next(0, item));
  ASSERT_TRUE(path.next(1, item));
  EXPECT_FALSE(item.question);
  EXPECT_EQ(item.port, 2);
  EXPECT_EQ(std::vector<uint8_t>(item.frame.begin(), item.frame.end()), frame);
  path.done(1);
  ASSERT_TRUE(path.next(1, item));
  EXPECT_TRUE(item.question);
  EXPECT_EQ(item.target, ip("2001:db8::7"));
  path.done(1);
  EXPECT_FALSE(path.next(1, item));

  uint32_t sent = 0;
  while (path.send(0, frame))
    ++sent;
  EXPECT_GT(sent, 200u);
  EXPECT_TRUE(path.send(1, frame));  // another port's ring
  for (uint32_t i = 0; i < sent; ++i) {
    ASSERT_EQ(path.front(0).size(), frame.size());
    path.sent_on(0);
  }
  EXPECT_TRUE(path.front(0).empty());
  EXPECT_FALSE(path.punt(0, 0, std::vector<uint8_t>(1 << 20)));
}

TEST(Exception, ASleeperIsWokenOnce) {
  ExceptionPath path(1, 1);
  const std::vector<uint8_t> frame(60);
  ASSERT_TRUE(path.punt(0, 0, frame));
  EXPECT_TRUE(path.arm());  // something waits: no sleep
  path.disarm();
  ExceptionPath::Item item;
  ASSERT_TRUE(path.next(0, item));
  path.done(0);
  EXPECT_FALSE(path.arm());
  ASSERT_TRUE(path.punt(0, 0, frame));
  path.ring(0);
  uint64_t rung = 0;
  EXPECT_EQ(read(path.wake_fd(), &rung, sizeof rung), static_cast<ssize_t>(sizeof rung));
  path.ring(0);
  EXPECT_EQ(read(path.wake_fd(), &rung, sizeof rung), -1);
}

// ---------------------------------------------------------------- rtnetlink

// One message as the kernel writes it.
class Message {
 public:
  template <class Body>
  Message(uint16_t type, const Body& body) {
    add(nlmsghdr{0, type, 0, 0, 0});
    add(body);
  }
  template <class Value>
  Message& attribute(uint16_t type, const Value& value) {
    return attribute(type, &value, sizeof value);
  }
  Message& attribute(uint16_t type, const IpAddress& value) {
    return attribute(type, value.wire(), value.size());
  }
  Message& attribute(uint16_t type, const void* value, size_t size) {
    const rtattr head{static_cast<uint16_t>(RTA_LENGTH(size)), type};
    add(head);
    bytes_.insert(bytes_.end(), static_cast<const uint8_t*>(value),
                  static_cast<const uint8_t*>(value) + size);
    bytes_.resize(NLMSG_ALIGN(bytes_.size()));
    return *this;
  }
  [[nodiscard]] const nlmsghdr* get() {
    const auto length = static_cast<uint32_t>(bytes_.size());
    std::memcpy(bytes_.data(), &length, sizeof length);
    aligned_.assign((bytes_.size() + 7) / 8, 0);
    std::memcpy(aligned_.data(), bytes_.data(), bytes_.size());
    return reinterpret_cast<const nlmsghdr*>(aligned_.data());
  }

 private:
  template <class T>
  void add(const T& value) {
    const auto* from = reinterpret_cast<const uint8_t*>(&value);
    bytes_.insert(bytes_.end(), from, from + sizeof value);
  }
  std::vector<uint8_t> bytes_;
  std::vector<uint64_t> aligned_;
};

constexpr frame::MacAddress kOne = {2, 0, 0, 0, 0, 1};
constexpr frame::MacAddress kTwo = {2, 0, 0, 0, 0, 2};

[[nodiscard]] std::optional<NeighbourChange> neighbour(uint16_t type, const IpAddress& who,
                                                       uint16_t state,
                                                       const frame::MacAddress* mac) {
  ndmsg body{};
  body.ndm_family = who.is_v4() ? AF_INET : AF_INET6;
  body.ndm_ifindex = 5;
  body.ndm_state = state;
  Message message(type, body);
  message.attribute(NDA_DST, who);
  if (mac != nullptr) message.attribute(NDA_LLADDR, *mac);
  return parse_neighbour(message.get());
}

TEST(KernelNeighbours, WhatTheKernelSaysIsTakenOver) {
  NeighbourTable table(7, 64);
  NeighbourTable::Hop hop;
  using State = NeighbourTable::State;
  const auto say = [&](uint16_t type, const char* who, uint16_t state, const frame::MacAddress* mac,
                       uint16_t second) {
    const auto change = neighbour(type, ip(who), state, mac);
    ASSERT_TRUE(change);
    EXPECT_EQ(change->if_index, 5u);
    apply(*change, 3, second, table);
  };
  for (const char* who : {"192.0.2.7", "2001:db8::7"}) {
    SCOPED_TRACE(who);
    EXPECT_EQ(table.find(ip(who), 0, true, hop), State::kUnknown);
    say(RTM_NEWNEIGH, who, NUD_INCOMPLETE, nullptr, 0);
    EXPECT_EQ(table.find(ip(who), 0, true, hop), State::kWaiting);
    say(RTM_NEWNEIGH, who, NUD_REACHABLE, &kOne, 0);
    EXPECT_EQ(table.find(ip(who), 0, true, hop), State::kKnown);
    EXPECT_EQ(hop.mac, kOne);
    EXPECT_EQ(hop.port, 3);
    // Used for longer than the kernel was heard: it is to be told; but not forgotten by itself.
    EXPECT_EQ(table.find(ip(who), 40, true, hop), State::kStale);
    EXPECT_EQ(table.find(ip(who), 500, true, hop), State::kStale);
    say(RTM_NEWNEIGH, who, NUD_STALE, &kOne, 501);  // no news
    EXPECT_EQ(table.find(ip(who), 501, true, hop), State::kStale);
    say(RTM_NEWNEIGH, who, NUD_STALE, &kTwo, 502);  // another link address is
    EXPECT_EQ(table.find(ip(who), 502, true, hop), State::kKnown);
    EXPECT_EQ(hop.mac, kTwo);
    say(RTM_NEWNEIGH, who, NUD_FAILED, &kTwo, 503);
    EXPECT_EQ(table.find(ip(who), 504, true, hop), State::kUnknown);
    say(RTM_NEWNEIGH, who, NUD_PERMANENT, &kTwo, 505);
    EXPECT_EQ(table.find(ip(who), 505, true, hop), State::kKnown);
    say(RTM_DELNEIGH, who, NUD_PERMANENT, &kTwo, 506);
    EXPECT_EQ(table.find(ip(who), 507, true, hop), State::kUnknown);
  }
}

TEST(KernelNeighbours, LinkLocalOnesAreTheirPorts) {
  NeighbourTable table(7, 64);
  NeighbourTable::Hop hop;
  const auto change = neighbour(RTM_NEWNEIGH, ip("fe80::1"), NUD_REACHABLE, &kOne);
  ASSERT_TRUE(change);
  apply(*change, 0, 0, table);
  EXPECT_EQ(table.find(Routes::on_port(ip("fe80::1"), 0), 0, true, hop),
            NeighbourTable::State::kKnown);
  EXPECT_NE(table.find(Routes::on_port(ip("fe80::1"), 1), 0, true, hop),
            NeighbourTable::State::kKnown);
}

TEST(KernelNeighbours, AConfiguredOneStays) {
  NeighbourTable table(7, 64);
  NeighbourTable::Hop hop;
  ASSERT_TRUE(table.learn(ip("192.0.2.7"), {kOne, 0}, 0, NeighbourTable::Origin::kConfigured));
  for (const auto& [type, state] : {std::pair<uint16_t, uint16_t>{RTM_NEWNEIGH, NUD_REACHABLE},
                                    {RTM_DELNEIGH, NUD_REACHABLE}}) {
    const auto change = neighbour(type, ip("192.0.2.7"), state, &kTwo);
    ASSERT_TRUE(change);
    apply(*change, 0, 0, table);
    EXPECT_EQ(table.find(ip("192.0.2.7"), 0, true, hop), NeighbourTable::State::kKnown);
    EXPECT_EQ(hop.mac, kOne);
  }
}

TEST(KernelNeighbours, ABridgesTableIsNotOurs) {
  ndmsg body{};
  body.ndm_family = AF_BRIDGE;
  body.ndm_state = NUD_PERMANENT;
  Message message(RTM_NEWNEIGH, body);
  message.attribute(NDA_LLADDR, kOne);
  EXPECT_FALSE(parse_neighbour(message.get()));
}

const std::vector<MirroredInterface> kInterfaces = {{5, 0, "five"}, {6, 1, "six"}};

struct RouteText {
  const char* network = "198.51.100.0";
  uint8_t bits = 24;
  uint8_t table = RT_TABLE_MAIN;
  uint8_t type = RTN_UNICAST;
  uint32_t if_index = 6;
  const char* gateway = nullptr;
  uint32_t metric = 0;
};

[[nodiscard]] std::optional<KernelRoute> route(const RouteText& r) {
  const IpAddress network = ip(r.network);
  rtmsg body{};
  body.rtm_family = network.is_v4() ? AF_INET : AF_INET6;
  body.rtm_dst_len = r.bits;
  body.rtm_table = r.table;
  body.rtm_type = r.type;
  Message message(RTM_NEWROUTE, body);
  if (r.bits != 0) message.attribute(RTA_DST, network);
  if (r.if_index != 0) message.attribute(RTA_OIF, r.if_index);
  if (r.gateway != nullptr) message.attribute(RTA_GATEWAY, ip(r.gateway));
  if (r.metric != 0) message.attribute(RTA_PRIORITY, r.metric);
  return parse_route(message.get(), kInterfaces);
}

TEST(KernelRouteMessages, WhatConcernsOurPortsIsUnderstood) {
  const auto link = route({});
  ASSERT_TRUE(link);
  EXPECT_EQ(link->network, ip("198.51.100.0"));
  EXPECT_EQ(link->prefix_bits, 24);
  EXPECT_EQ(link->port, 1);
  EXPECT_EQ(link->gateway.family, Family::kNone);

  RouteText text;
  text.network = "::";
  text.bits = 0;
  text.if_index = 5;
  text.gateway = "fe80::1";
  text.metric = 1024;
  const auto by_default = route(text);
  ASSERT_TRUE(by_default);
  EXPECT_TRUE(by_default->network.is_v6());
  EXPECT_EQ(by_default->prefix_bits, 0);
  EXPECT_EQ(by_default->gateway, ip("fe80::1"));
  EXPECT_EQ(by_default->metric, 1024u);

  text = {};
  text.type = RTN_BLACKHOLE;
  text.if_index = 0;
  const auto refused = route(text);
  ASSERT_TRUE(refused);
  EXPECT_TRUE(refused->refused);
}

TEST(KernelRouteMessages, WhatDoesNotConcernThemIsLeftOut) {
  RouteText text;
  text.if_index = 9;
  EXPECT_FALSE(route(text)) << "another interface";
  text = {};
  text.table = RT_TABLE_LOCAL;
  EXPECT_FALSE(route(text)) << "another table";
  text = {};
  text.type = RTN_LOCAL;
  EXPECT_FALSE(route(text)) << "our own address";
  text = {};
  text.network = "fe80::";
  text.bits = 64;
  EXPECT_FALSE(route(text)) << "every link has it";
  text.network = "ff00::";
  text.bits = 8;
  EXPECT_FALSE(route(text)) << "groups";
}

}  // namespace
}  // namespace culvert
