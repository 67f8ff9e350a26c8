// Which core a datagram belongs to: RSS as NICs compute it, and the hand-over of clients that
// arrived elsewhere.
#include <gtest/gtest.h>

#include "dataplane/steer/client.h"
#include "dataplane/steer/owner.h"
#include "dataplane/steer/plan.h"
#include "tests/support/core_fixture.h"

namespace culvert::test {
namespace {

// Microsoft, "Verifying the RSS Hash Calculation".
constexpr RssKey kMicrosoftKey = {0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67,
                                  0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb,
                                  0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
                                  0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};

TEST(Steer, ComputesTheHashOfMicrosoftsVerificationSuite) {
  struct Vector {
    const char* source;
    const char* destination;
    uint32_t hash;
  };
  for (const Vector& v : {
           Vector{"66.9.149.187:2794", "161.142.100.80:1766", 0x51ccc178},
           Vector{"199.92.111.2:14230", "65.69.140.83:4739", 0xc626b0ea},
           Vector{"24.19.198.95:12898", "12.22.207.184:38024", 0x5c2b394a},
           Vector{"38.27.205.30:48228", "209.142.163.6:2217", 0xafc7327f},
           Vector{"153.39.163.191:44251", "202.188.127.2:1303", 0x10e828a2},
           Vector{"[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 0x40207d3d},
           Vector{"[3ffe:501:8::260:97ff:fe40:efab]:14230", "[ff02::1]:4739", 0xdde51bbf},
           Vector{"[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251", "[fe80::200:f8ff:fe21:67cf]:38024",
                  0x02d1feef},
       })
    EXPECT_EQ(rss_hash(kMicrosoftKey, at(v.source), at(v.destination)), v.hash) << v.source;
}

TEST(Steer, PortsInPairsBelongToOneCoreAndEveryCoreHasSome) {
  for (const CoreId cores : {CoreId{1}, CoreId{2}, CoreId{4}, CoreId{64}}) {
    std::vector<uint32_t> count(cores);
    for (uint32_t port = 0; port < 65536; ++port) {
      const auto p = static_cast<uint16_t>(port);
      ASSERT_EQ(owner(p, cores), owner(static_cast<uint16_t>(p ^ 1), cores));
      ++count[owner(p, cores)];
    }
    for (const uint32_t n : count)
      EXPECT_EQ(n, 65536u / cores);
  }
}

// ------------------------------------------------------------------ rules for a port

CoreId core_by_rules(const std::vector<PortRule>& rules, uint16_t port, int& matches) {
  CoreId core = 0;
  for (const PortRule& rule : rules) {
    if ((port & rule.mask) != rule.port) continue;
    core = rule.core;
    ++matches;
  }
  return core;
}

TEST(SteerPlan, EveryRelayedPortMatchesOneRuleItsOwnersAndNoOtherPortMatchesAny) {
  struct Range {
    uint16_t low, high;
  };
  for (const Range range : {Range{49152, 65535}, Range{32768, 65535}, Range{50000, 50003},
                            Range{50001, 50001}, Range{1024, 65535}, Range{0, 65535}}) {
    for (const CoreId cores : {CoreId{2}, CoreId{3}, CoreId{4}, CoreId{7}, CoreId{64}}) {
      const std::vector<PortRule> rules = plan_port_rules(range.low, range.high, cores);
      ASSERT_FALSE(rules.empty());
      for (uint32_t p = 0; p < 65536; ++p) {
        const auto port = static_cast<uint16_t>(p);
        int matches = 0;
        const CoreId core = core_by_rules(rules, port, matches);
        const bool relayed = port >= range.low && port <= range.high;
        ASSERT_EQ(matches, relayed ? 1 : 0) << port;
        if (relayed) {
          ASSERT_EQ(core, owner(port, cores)) << port;
        }
      }
    }
  }
}

TEST(SteerPlan, TheDefaultRangeTakesOneRuleACoreOrASlice) {
  EXPECT_EQ(plan_port_rules(49152, 65535, 4).size(), 4u);
  EXPECT_EQ(plan_port_rules(49152, 65535, 6).size(), kPortSlices);
  EXPECT_TRUE(plan_port_rules(49152, 65535, 1).empty());
}

TEST(SteerPlan, ARangeThatNeedsTooManyRulesGetsNone) {
  EXPECT_TRUE(plan_port_rules(1025, 65534, 63).empty());
}

// A port with room for so many rules.
struct SmallPort {
  size_t room = 0;
  std::vector<int> rules;
  bool create(int rule, int& handle) {
    if (rules.size() == room) return false;
    rules.push_back(rule);
    handle = rule * 10;
    return true;
  }
  void destroy(int handle) {
    ASSERT_FALSE(rules.empty());
    ASSERT_EQ(handle, rules.back() * 10);  // last first
    rules.pop_back();
  }
};

TEST(SteerPlan, APortThatIsFullHalfwayIsLeftWithNoneOfTheRules) {
  const std::vector<int> rules{1, 2, 3, 4};
  std::vector<int> made;
  SmallPort small{3, {}};
  const auto program = [&](SmallPort& port) {
    return program_all(
        rules, made, [&](int rule, int& handle) { return port.create(rule, handle); },
        [&](int handle) { port.destroy(handle); });
  };
  EXPECT_FALSE(program(small));
  EXPECT_TRUE(made.empty());
  EXPECT_TRUE(small.rules.empty());
  SmallPort large{4, {}};
  EXPECT_TRUE(program(large));
  EXPECT_EQ(made, (std::vector<int>{10, 20, 30, 40}));
  EXPECT_EQ(large.rules, rules);
}

class Steered : public ::testing::Test {
 protected:
  static constexpr CoreId kCores = 2;
  // A client that belongs to `core`.
  TransportAddress client_of(CoreId core) const {
    for (uint16_t port = 1024;; ++port) {
      const TransportAddress client{ip("203.0.113.77"), port};
      if (client_owner(core_.snapshot.steering.key, client, listener_, kCores) == core)
        return client;
    }
  }
  Steered() : core_(TestCore::small_limits(), 0, kCores), handoff_memory_(1024) {
    core_.snapshot.steering = {true, kMicrosoftKey};
    handoff_.reset(handoff_memory_);
    core_.state->handoff[1] = &handoff_;
  }
  TestCore core_;
  std::vector<RingSlot> handoff_memory_;
  SpscRing handoff_;
  TransportAddress listener_{ip("198.51.100.1"), 3478};
};

TEST_F(Steered, AClientsDatagramsGoToItsCoreWhereverTheyArrive) {
  const TransportAddress away = client_of(1);
  const Bytes data = channel_data(0x4001, bytes_of("x"));
  const Bytes send = send_indication(at("192.0.2.9:9"), bytes_of("y"));
  const Bytes refresh = request(stun::kRefresh);
  EXPECT_TRUE(core_
                  .run({TestCore::from_client(away, data), TestCore::from_client(away, send),
                        TestCore::from_client(away, refresh)})
                  .empty());
  EXPECT_EQ(core_.outcome(Outcome::k_handoff), 3u);
  EXPECT_TRUE(core_.conserved());
  const RingSlot* at_slot = handoff_.read();
  ASSERT_NE(at_slot, nullptr);
  EXPECT_EQ(MessageView(at_slot).as<Handoff>().datagram.handed_over, 1);
}

TEST_F(Steered, AClientOfThisCoreIsServedHere) {
  const TransportAddress here = client_of(0);
  ASSERT_NE(core_.allocate(0, here, 50000), kNoSlot);
  ASSERT_EQ(core_.permit(0, "192.0.2.9"), ApplyError::kNone);
  const Bytes send = send_indication(at("192.0.2.9:9"), bytes_of("y"));
  EXPECT_EQ(core_.run(TestCore::from_client(here, send)).size(), 1u);
  const Bytes unbound = channel_data(0x4001, bytes_of("x"));
  (void)core_.run(TestCore::from_client(here, unbound));
  EXPECT_EQ(core_.outcome(Outcome::k_no_channel), 1u);
  EXPECT_EQ(core_.outcome(Outcome::k_handoff), 0u);
}

TEST_F(Steered, WhatWasHandedOverOnceIsNotSteeredAgain) {
  RxDatagram rx = TestCore::from_client(client_of(1), bytes_of("@@"));
  const Bytes data = channel_data(0x4001, bytes_of("x"));
  rx.payload = data.data();
  rx.length = static_cast<uint16_t>(data.size());
  rx.handed_over = 1;
  (void)core_.run(rx);
  EXPECT_EQ(core_.outcome(Outcome::k_no_allocation), 1u);
  EXPECT_EQ(core_.outcome(Outcome::k_handoff), 0u);
}

TEST_F(Steered, AnAllocateIsChallengedWhereItArrivesAndMadeWhereItsClientBelongs) {
  const TransportAddress away = client_of(1);
  EXPECT_EQ(core_.run(TestCore::from_client(away, request(stun::kAllocate))).size(), 1u);
  EXPECT_EQ(core_.outcome(Outcome::k_challenged), 1u);
  std::array<uint8_t, 256> buffer;
  stun::Builder builder(buffer, stun::Class::kRequest, stun::kAllocate, kTransaction);
  builder.add(stun::Attribute::kMessageIntegrity, std::vector<uint8_t>(20));
  (void)core_.run(TestCore::from_client(away, finish(builder)));
  EXPECT_EQ(core_.outcome(Outcome::k_handoff), 1u);
  EXPECT_EQ(core_.outcome(Outcome::k_bad_nonce_to_control), 0u);
}

TEST_F(Steered, ARedirectIsFollowedFromTheClientsCoreButNotTwice) {
  const TransportAddress away = client_of(1);
  ASSERT_TRUE(core_.state->flows.add_redirect({away, 0, 0}, 1));
  const Bytes data = channel_data(0x4001, bytes_of("x"));
  RxDatagram rx = TestCore::from_client(away, data);
  rx.handed_over = 1;  // by the core where it arrived
  (void)core_.run(rx);
  EXPECT_EQ(core_.outcome(Outcome::k_handoff_reservation), 1u);
  rx.handed_over = 2;  // by another redirect
  (void)core_.run(rx);
  EXPECT_EQ(core_.outcome(Outcome::k_handoff_reservation), 1u);
  EXPECT_EQ(core_.outcome(Outcome::k_no_allocation), 1u);
}

}  // namespace
}  // namespace culvert::test
