// What a port without a kernel knows and answers: ARP, neighbour discovery, echo, link addresses,
// routes. Frames are written out by hand, after the RFCs.
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "dataplane/io/dpdk/host.h"
#include "dataplane/io/dpdk/neighbours.h"
#include "dataplane/io/dpdk/routes.h"

namespace culvert {
namespace {

using Bytes = std::vector<uint8_t>;
using host::Reaction;

IpAddress ip(const char* text) {
  return IpAddress::parse(text).value();
}

constexpr frame::MacAddress kOwn = {2, 0, 0, 0, 0, 1};
constexpr frame::MacAddress kOther = {2, 0, 0, 0, 0, 7};

struct Host {
  std::vector<IpAddress> addresses{ip("192.0.2.1"), ip("2001:db8::1")};
  host::Port port{kOwn, addresses};
  Bytes reply = Bytes(2048);
  Reaction react(const Bytes& frame) { return host::react(frame, port, reply); }
};

void append(Bytes& to, std::initializer_list<int> bytes) {
  for (const int b : bytes)
    to.push_back(static_cast<uint8_t>(b));
}
void append(Bytes& to, const IpAddress& address) {
  to.insert(to.end(), address.wire(), address.wire() + address.size());
}
void append(Bytes& to, const frame::MacAddress& mac) {
  to.insert(to.end(), mac.begin(), mac.end());
}

Bytes arp(int operation, const frame::MacAddress& sender, const char* sender_ip,
          const char* target_ip) {
  Bytes f(6, 0xff);
  append(f, sender);
  append(f, {8, 6, 0, 1, 8, 0, 6, 4, 0, operation});
  append(f, sender);
  append(f, ip(sender_ip));
  append(f, {0, 0, 0, 0, 0, 0});
  append(f, ip(target_ip));
  f.resize(60);
  return f;
}

Bytes icmpv6(const char* from, const char* to, int hops, Bytes message) {
  Bytes f;
  append(f, kOwn);
  append(f, kOther);
  append(f, {0x86, 0xdd, 0x60, 0, 0, 0, 0, static_cast<int>(message.size()), 58, hops});
  append(f, ip(from));
  append(f, ip(to));
  message[2] = message[3] = 0;
  uint64_t sum = checksum::pseudo_v6(&f[22], &f[38], 58, static_cast<uint16_t>(message.size()));
  sum = checksum::sum(message.data(), message.size(), sum);
  checksum::store_word(&message[2], static_cast<uint16_t>(~checksum::fold(sum)));
  f.insert(f.end(), message.begin(), message.end());
  return f;
}

Bytes solicitation(const char* target, bool with_option = true) {
  Bytes m{135, 0, 0, 0, 0, 0, 0, 0};
  append(m, ip(target));
  if (with_option) {
    append(m, {1, 1});
    append(m, kOther);
  }
  return m;
}

Bytes advertisement(const char* target, int flags) {
  Bytes m;
  append(m, {136, 0, 0, 0, flags, 0, 0, 0});
  append(m, ip(target));
  append(m, {2, 1});
  append(m, kOther);
  return m;
}

bool icmpv6_checksum_is_right(const Bytes& frame, size_t bytes) {
  const size_t length = bytes - 54;
  const uint64_t pseudo =
      checksum::pseudo_v6(&frame[22], &frame[38], 58, static_cast<uint16_t>(length));
  return checksum::fold(checksum::sum(&frame[54], length, pseudo)) == 0xffff;
}

TEST(HostArp, ARequestForAnAddressOfOursIsAnsweredAndItsSenderLearned) {
  Host host;
  const Reaction r = host.react(arp(1, kOther, "192.0.2.7", "192.0.2.1"));
  ASSERT_EQ(r.kind, Reaction::Kind::kReply);
  EXPECT_EQ(r.count, FrameCounter::k_arp_answered);
  EXPECT_EQ(r.reply_bytes, 60u);
  Bytes wanted;
  append(wanted, kOther);
  append(wanted, kOwn);
  append(wanted, {8, 6, 0, 1, 8, 0, 6, 4, 0, 2});
  append(wanted, kOwn);
  append(wanted, ip("192.0.2.1"));
  append(wanted, kOther);
  append(wanted, ip("192.0.2.7"));
  wanted.resize(60);
  EXPECT_EQ(Bytes(host.reply.begin(), host.reply.begin() + 60), wanted);
  EXPECT_TRUE(r.learned && !r.only_update);
  EXPECT_EQ(r.learned_ip, ip("192.0.2.7"));
  EXPECT_EQ(r.learned_mac, kOther);
}

TEST(HostArp, OthersAddressesAndBrokenFramesAreLeftAlone) {
  Host host;
  EXPECT_EQ(host.react(arp(1, kOther, "192.0.2.7", "192.0.2.8")).kind, Reaction::Kind::kNone);
  Bytes broken = arp(1, kOther, "192.0.2.7", "192.0.2.1");
  broken[18] = 8;  // hardware address length
  EXPECT_EQ(host.react(broken).kind, Reaction::Kind::kNone);
  for (size_t cut = 0; cut < 42; ++cut)
    EXPECT_EQ(host.react(Bytes(broken.begin(), broken.begin() + static_cast<long>(cut))).kind,
              Reaction::Kind::kNone);
}

TEST(HostArp, AReplyAndAGratuitousOneTeachButWhoClaimsOurAddressTeachesNothing) {
  Host host;
  const Reaction reply = host.react(arp(2, kOther, "192.0.2.7", "192.0.2.1"));
  EXPECT_TRUE(reply.kind == Reaction::Kind::kTold && reply.learned && !reply.only_update);
  const Reaction gratuitous = host.react(arp(1, kOther, "192.0.2.7", "192.0.2.7"));
  EXPECT_TRUE(gratuitous.kind == Reaction::Kind::kTold && gratuitous.learned);
  EXPECT_TRUE(gratuitous.only_update);
  EXPECT_FALSE(host.react(arp(2, kOther, "192.0.2.1", "192.0.2.1")).learned);
  // A probe (RFC 5227) has no address yet: answered, not learned.
  const Reaction probe = host.react(arp(1, kOther, "0.0.0.0", "192.0.2.1"));
  EXPECT_TRUE(probe.kind == Reaction::Kind::kReply && !probe.learned);
}

TEST(HostNeighbourDiscovery, ASolicitationIsAnsweredWithASolicitedAdvertisement) {
  Host host;
  const Reaction r =
      host.react(icmpv6("2001:db8::7", "ff02::1:ff00:1", 255, solicitation("2001:db8::1")));
  ASSERT_EQ(r.kind, Reaction::Kind::kReply);
  EXPECT_EQ(r.count, FrameCounter::k_nd_answered);
  ASSERT_EQ(r.reply_bytes, 86u);
  EXPECT_TRUE(icmpv6_checksum_is_right(host.reply, 86));
  EXPECT_EQ(host.reply[21], 255);  // hop limit
  EXPECT_EQ(IpAddress::v6_bytes(&host.reply[22]), ip("2001:db8::1"));
  EXPECT_EQ(IpAddress::v6_bytes(&host.reply[38]), ip("2001:db8::7"));
  EXPECT_EQ(host.reply[54], 136);
  EXPECT_EQ(host.reply[58], 0x60);  // solicited, override
  EXPECT_EQ(host.reply[78], 2);     // target link-layer address
  EXPECT_TRUE(std::equal(kOwn.begin(), kOwn.end(), host.reply.begin() + 80));
  EXPECT_TRUE(r.learned);
  EXPECT_EQ(r.learned_ip, ip("2001:db8::7"));
}

TEST(HostNeighbourDiscovery, DuplicateAddressDetectionIsAnsweredToAllNodes) {
  Host host;
  const Reaction r =
      host.react(icmpv6("::", "ff02::1:ff00:1", 255, solicitation("2001:db8::1", false)));
  ASSERT_EQ(r.kind, Reaction::Kind::kReply);
  EXPECT_FALSE(r.learned);
  EXPECT_EQ(IpAddress::v6_bytes(&host.reply[38]), ip("ff02::1"));
  EXPECT_EQ(host.reply[58], 0x20);
  EXPECT_EQ(host.reply[0], 0x33);
}

TEST(HostNeighbourDiscovery, WhatARouterPassedOnOrWhatIsDamagedIsIgnored) {
  Host host;
  EXPECT_EQ(host.react(icmpv6("2001:db8::7", "2001:db8::1", 254, solicitation("2001:db8::1"))).kind,
            Reaction::Kind::kNone);
  EXPECT_EQ(host.react(icmpv6("2001:db8::7", "2001:db8::1", 255, solicitation("2001:db8::2"))).kind,
            Reaction::Kind::kNone);
  Bytes damaged = icmpv6("2001:db8::7", "2001:db8::1", 255, solicitation("2001:db8::1"));
  damaged.back() ^= 1;
  EXPECT_EQ(host.react(damaged).kind, Reaction::Kind::kNone);
}

TEST(HostNeighbourDiscovery, AnAdvertisementTeachesAndAnUnsolicitedOneOnlyUpdates) {
  Host host;
  const Reaction asked =
      host.react(icmpv6("2001:db8::7", "2001:db8::1", 255, advertisement("2001:db8::7", 0x60)));
  EXPECT_TRUE(asked.kind == Reaction::Kind::kTold && asked.learned && !asked.only_update);
  EXPECT_EQ(asked.learned_mac, kOther);
  const Reaction unasked =
      host.react(icmpv6("2001:db8::7", "ff02::1", 255, advertisement("2001:db8::7", 0x20)));
  EXPECT_TRUE(unasked.learned && unasked.only_update);
}

TEST(HostEcho, ComesBackWithItsDataAndARightChecksum) {
  Host host;
  Bytes f;
  append(f, kOwn);
  append(f, kOther);
  append(f, {8, 0, 0x45, 0, 0, 31, 1, 2, 0, 0, 9, 1, 0, 0});
  append(f, ip("192.0.2.7"));
  append(f, ip("192.0.2.1"));
  append(f, {8, 0, 0, 0, 0x12, 0x34, 0, 1, 'a', 'b', 'c'});
  checksum::store_word(&f[24], checksum::full({&f[14], 20}));
  checksum::store_word(&f[36], checksum::full({&f[34], 11}));
  f.resize(60);  // Ethernet's padding is no part of it
  const Reaction r = host.react(f);
  ASSERT_EQ(r.count, FrameCounter::k_echo_answered);
  ASSERT_EQ(r.reply_bytes, 45u);
  EXPECT_EQ(host.reply[34], 0);
  EXPECT_EQ(checksum::fold(checksum::sum(&host.reply[34], 11)), 0xffff);
  EXPECT_EQ(checksum::fold(checksum::sum(&host.reply[14], 20)), 0xffff);
  EXPECT_EQ(IpAddress::v4_bytes(&host.reply[30]), ip("192.0.2.7"));
  EXPECT_EQ(host.reply[22], 64);

  const Reaction v6 =
      host.react(icmpv6("2001:db8::7", "2001:db8::1", 9, {128, 0, 0, 0, 1, 2, 0, 1, 'a', 'b'}));
  ASSERT_EQ(v6.count, FrameCounter::k_echo_answered);
  EXPECT_EQ(host.reply[54], 129);
  EXPECT_TRUE(icmpv6_checksum_is_right(host.reply, v6.reply_bytes));
}

TEST(HostAsk, MakesWhatItsOwnReceiverAnswers) {
  Host us;
  Host them;
  them.addresses = {ip("192.0.2.7"), ip("2001:db8::7")};
  them.port = {kOther, them.addresses};
  for (const char* target : {"192.0.2.7", "2001:db8::7"}) {
    Bytes question(128);
    const IpAddress own = target[1] == '9' ? ip("192.0.2.1") : ip("2001:db8::1");
    question.resize(host::ask(question, us.port, own, ip(target)));
    const Reaction answered = them.react(question);
    ASSERT_EQ(answered.kind, Reaction::Kind::kReply) << target;
    them.reply.resize(answered.reply_bytes);
    const Reaction told = us.react(them.reply);
    them.reply.resize(2048);
    EXPECT_EQ(told.kind, Reaction::Kind::kTold) << target;
    EXPECT_EQ(told.learned_ip, ip(target));
    EXPECT_EQ(told.learned_mac, kOther);
  }
}

// ---------------------------------------------------------------- link addresses

using State = NeighbourTable::State;
using Origin = NeighbourTable::Origin;

TEST(Neighbours, AnUnknownOneIsAskedForOnceASecondUntilItAnswers) {
  NeighbourTable table(7, 64);
  NeighbourTable::Hop hop;
  EXPECT_EQ(table.find(ip("192.0.2.7"), 100, true, hop), State::kUnknown);
  EXPECT_EQ(table.find(ip("192.0.2.7"), 100, true, hop), State::kWaiting);
  EXPECT_EQ(table.find(ip("192.0.2.7"), 101, true, hop), State::kUnknown);
  EXPECT_TRUE(table.learn(ip("192.0.2.7"), {kOther, 3}, 101, Origin::kAnswer));
  EXPECT_EQ(table.find(ip("192.0.2.7"), 101, true, hop), State::kKnown);
  EXPECT_EQ(hop.mac, kOther);
  EXPECT_EQ(hop.port, 3);
}

TEST(Neighbours, AKnownOneIsAskedAgainWhileInUseAndForgottenWhenItStaysSilent) {
  NeighbourTable table(7, 64);
  NeighbourTable::Hop hop;
  ASSERT_TRUE(table.learn(ip("2001:db8::7"), {kOther, 0}, 0, Origin::kAnswer));
  EXPECT_EQ(table.find(ip("2001:db8::7"), 29, true, hop), State::kKnown);
  EXPECT_EQ(table.find(ip("2001:db8::7"), 30, true, hop), State::kStale);
  EXPECT_EQ(table.find(ip("2001:db8::7"), 30, true, hop), State::kKnown);
  EXPECT_EQ(table.find(ip("2001:db8::7"), 89, true, hop), State::kStale);
  EXPECT_EQ(table.find(ip("2001:db8::7"), 90, true, hop), State::kUnknown);
  // Not those that cannot be asked.
  EXPECT_EQ(table.find(ip("2001:db8::7"), 90, false, hop), State::kKnown);
}

TEST(Neighbours, ALinkAddressThatIsNewOrChangedIsAChangeAndAQuestionIsNone) {
  NeighbourTable table(7, 64);
  NeighbourTable::Hop hop;
  EXPECT_EQ(table.find(ip("192.0.2.7"), 0, true, hop), State::kUnknown);
  EXPECT_EQ(table.changes(), 0u);
  ASSERT_TRUE(table.learn(ip("192.0.2.7"), {kOther, 1}, 0, Origin::kAnswer));
  EXPECT_EQ(table.changes(), 1u);
  ASSERT_TRUE(table.learn(ip("192.0.2.7"), {kOther, 1}, 1, Origin::kAnswer));
  EXPECT_EQ(table.changes(), 1u);
  ASSERT_TRUE(table.learn(ip("192.0.2.7"), {kOwn, 1}, 1, Origin::kAnswer));
  EXPECT_EQ(table.changes(), 2u);
  ASSERT_TRUE(table.learn(ip("192.0.2.7"), {kOwn, 1}, 90, Origin::kAnswer));
  EXPECT_EQ(table.changes(), 2u) << "it was believed all the time";
  ASSERT_TRUE(table.learn(ip("192.0.2.7"), {kOwn, 1}, 180, Origin::kAnswer));
  EXPECT_EQ(table.changes(), 3u);
  table.forget(ip("192.0.2.7"), 181);
  EXPECT_EQ(table.changes(), 3u);
}

TEST(Neighbours, AConfiguredOneIsNeverChanged) {
  NeighbourTable table(7, 64);
  NeighbourTable::Hop hop;
  ASSERT_TRUE(table.learn(ip("192.0.2.7"), {kOther, 1}, 0, Origin::kConfigured));
  EXPECT_TRUE(table.learn(ip("192.0.2.7"), {kOwn, 2}, 0, Origin::kAnswer));
  EXPECT_EQ(table.find(ip("192.0.2.7"), 5000, true, hop), State::kKnown);
  EXPECT_EQ(hop.mac, kOther);
}

TEST(Neighbours, AnUpdateChangesWhatIsThereAndMakesNothing) {
  NeighbourTable table(7, 64);
  NeighbourTable::Hop hop;
  EXPECT_FALSE(table.learn(ip("192.0.2.7"), {kOther, 1}, 0, Origin::kUpdate));
  ASSERT_TRUE(table.learn(ip("192.0.2.7"), {kOther, 1}, 0, Origin::kAnswer));
  EXPECT_TRUE(table.learn(ip("192.0.2.7"), {kOwn, 1}, 0, Origin::kUpdate));
  EXPECT_EQ(table.find(ip("192.0.2.7"), 0, true, hop), State::kKnown);
  EXPECT_EQ(hop.mac, kOwn);
}

TEST(Neighbours, AFullTableGivesUpThoseThatNeverAnsweredAndThenTheOldest) {
  NeighbourTable table(7, 8);  // one bucket
  NeighbourTable::Hop hop;
  for (uint32_t i = 0; i < 7; ++i)
    ASSERT_TRUE(table.learn(IpAddress::v4(0x0a000000 + i), {kOther, 0}, static_cast<uint16_t>(i),
                            Origin::kAnswer));
  EXPECT_EQ(table.find(ip("10.9.9.9"), 7, true, hop), State::kUnknown);  // takes the eighth place
  ASSERT_TRUE(table.learn(ip("10.1.1.1"), {kOther, 0}, 8, Origin::kAnswer));
  for (uint32_t i = 0; i < 7; ++i)
    EXPECT_EQ(table.find(IpAddress::v4(0x0a000000 + i), 8, true, hop), State::kKnown);
  ASSERT_TRUE(table.learn(ip("10.1.1.2"), {kOther, 0}, 8, Origin::kAnswer));
  EXPECT_EQ(table.find(IpAddress::v4(0x0a000000), 8, false, hop), State::kUnknown);
  EXPECT_EQ(table.find(IpAddress::v4(0x0a000001), 8, false, hop), State::kKnown);
}

TEST(Neighbours, ReadersSeeAWholeAddressWhileAnotherThreadChangesIt) {
  NeighbourTable table(7, 64);
  constexpr frame::MacAddress kOnes = {1, 1, 1, 1, 1, 1};
  constexpr frame::MacAddress kTwos = {2, 2, 2, 2, 2, 2};
  ASSERT_TRUE(table.learn(ip("192.0.2.7"), {kOnes, 1}, 0, Origin::kAnswer));
  std::thread writer([&] {
    for (int i = 0; i < 200'000; ++i)
      (void)table.learn(ip("192.0.2.7"),
                        i % 2 == 0 ? NeighbourTable::Hop{kTwos, 2} : NeighbourTable::Hop{kOnes, 1},
                        0, Origin::kAnswer);
  });
  for (int i = 0; i < 200'000; ++i) {
    NeighbourTable::Hop hop;
    if (table.find(ip("192.0.2.7"), 0, false, hop) != State::kKnown) continue;
    ASSERT_EQ(hop.mac, hop.port == 2 ? kTwos : kOnes);
  }
  writer.join();
}

// ---------------------------------------------------------------- routes

TEST(RoutesTo, TheLongestNetworkThenTheGatewayThenBackToTheSender) {
  const std::vector<PortAddress> addresses = {
      {ip("192.0.2.1"), 24, 0}, {ip("192.0.2.129"), 25, 1}, {ip("2001:db8::1"), 64, 0}};
  const std::vector<IpAddress> gateways = {ip("192.0.2.254")};
  const Routes routes(addresses, gateways);
  const auto by = [&](const char* to) {
    const Routes::Route r = routes.route(ip(to));
    return r.target.to_string() + (r.by != nullptr ? " by " + r.by->ip.to_string() : "");
  };
  EXPECT_EQ(by("192.0.2.7"), "192.0.2.7 by 192.0.2.1");
  EXPECT_EQ(by("192.0.2.200"), "192.0.2.200 by 192.0.2.129");
  EXPECT_EQ(by("198.51.100.1"), "192.0.2.254 by 192.0.2.129");
  EXPECT_EQ(by("2001:db8::99"), "2001:db8::99 by 2001:db8::1");
  EXPECT_EQ(by("2001:db9::99"), "2001:db9::99");
  EXPECT_FALSE(routes.learns_from(ip("198.51.100.1")));
  EXPECT_FALSE(routes.learns_from(ip("2001:db8::99")));
  EXPECT_TRUE(routes.learns_from(ip("2001:db9::99")));
}

}  // namespace
}  // namespace culvert
