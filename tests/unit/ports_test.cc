// Relayed ports: owner slices, uniform draws, even ports and pairs, and that nothing is ever lost.
#include "control/ports.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "crypto/random.h"
#include "dataplane/steer/owner.h"

namespace culvert {
namespace {

TEST(Ports, EveryDrawnPortLiesInTheRangeAndBelongsToTheCoreThatAsked) {
  crypto::Random random(1);
  PortTable table(49152, 49407, 3);
  for (CoreId core = 0; core < 3; ++core) {
    const uint32_t count = table.free_count(core);
    std::set<uint16_t> seen;
    for (uint32_t i = 0; i < count; ++i) {
      const auto port = table.draw(core, PortKind::kAny, random);
      ASSERT_TRUE(port);
      EXPECT_GE(*port, 49152);
      EXPECT_LE(*port, 49407);
      EXPECT_EQ(owner(*port, 3), core);
      EXPECT_TRUE(seen.insert(*port).second) << "port " << *port << " drawn twice";
    }
    EXPECT_FALSE(table.draw(core, PortKind::kAny, random));
  }
  EXPECT_EQ(table.free_count(), 0u);
}

TEST(Ports, TheLastPortOfTheNumberSpaceCanBeDrawnAndIsNeverTheFirstOfAPair) {
  crypto::Random random(2);
  PortTable table(65534, 65535, 1);
  const auto pair = table.draw(0, PortKind::kEvenPair, random);
  ASSERT_TRUE(pair);
  EXPECT_EQ(*pair, 65534);
  EXPECT_EQ(table.state(65535), PortState::kHeld);
  EXPECT_EQ(table.state(1), PortState::kForeign);

  PortTable odd(65535, 65535, 1);
  EXPECT_FALSE(odd.draw(0, PortKind::kEven, random));
  EXPECT_FALSE(odd.draw(0, PortKind::kEvenPair, random));
  EXPECT_EQ(odd.draw(0, PortKind::kAny, random), std::optional<uint16_t>(65535));
}

TEST(Ports, APairAtTheUpperEdgeOfTheRangeIsNotGivenHalf) {
  crypto::Random random(3);
  PortTable table(50000, 50002, 1);
  const auto pair = table.draw(0, PortKind::kEvenPair, random);
  ASSERT_TRUE(pair);
  EXPECT_EQ(*pair, 50000);
  EXPECT_FALSE(table.draw(0, PortKind::kEvenPair, random)) << "50003 is outside";
  EXPECT_EQ(table.draw(0, PortKind::kEven, random), std::optional<uint16_t>(50002));
}

// T50
TEST(Ports, EvenDrawsAreEvenAndPairsHoldTheNextPort) {
  crypto::Random random(4);
  PortTable table(49152, 65535, 4);
  for (int i = 0; i < 500; ++i) {
    const auto port = table.draw(2, i % 2 == 0 ? PortKind::kEven : PortKind::kEvenPair, random);
    ASSERT_TRUE(port);
    EXPECT_EQ(*port % 2, 0);
    EXPECT_TRUE(table.live(*port));
    if (i % 2 == 1) {
      EXPECT_EQ(table.state(static_cast<uint16_t>(*port + 1)), PortState::kHeld);
      EXPECT_FALSE(table.live(static_cast<uint16_t>(*port + 1)));
    }
  }
}

TEST(Ports, TheLastPairIsFoundInAnAlmostFullTable) {
  crypto::Random random(5);
  PortTable table(40000, 49999, 1);
  for (uint32_t i = 0; i < 10000; ++i)
    ASSERT_TRUE(table.draw(0, PortKind::kAny, random));
  // All odd ports but one have an even neighbour that is taken.
  for (uint16_t port = 40001; port < 50000; port = static_cast<uint16_t>(port + 2))
    table.give_back(port);
  EXPECT_FALSE(table.draw(0, PortKind::kEvenPair, random));
  EXPECT_FALSE(table.draw(0, PortKind::kEven, random));
  table.give_back(44444);
  EXPECT_EQ(table.draw(0, PortKind::kEvenPair, random), std::optional<uint16_t>(44444));
}

TEST(Ports, AHeldPortIsUsedOnceAndGivenBackOnce) {
  crypto::Random random(6);
  PortTable table(50000, 50001, 1);
  ASSERT_TRUE(table.draw(0, PortKind::kEvenPair, random));
  table.use_held(50001);
  EXPECT_TRUE(table.live(50001));
  table.hold_again(50001);
  EXPECT_EQ(table.state(50001), PortState::kHeld);
  table.give_back(50001);
  table.give_back(50000);
  EXPECT_EQ(table.free_count(), 2u);
}

// CVE-2025-69217, RFC 6056: over many draws every port is as likely as any other.
TEST(Ports, DrawsAreUniformAlsoWhenNineteenOfTwentyPortsAreTaken) {
  crypto::Random random(7);
  PortTable table(40000, 40999, 1);
  std::set<uint16_t> free;
  for (int i = 0; i < 950; ++i)
    ASSERT_TRUE(table.draw(0, PortKind::kAny, random));
  std::map<uint16_t, int> seen;
  constexpr int kDraws = 50000;
  for (int i = 0; i < kDraws; ++i) {
    const auto port = table.draw(0, PortKind::kAny, random);
    ASSERT_TRUE(port);
    ++seen[*port];
    table.give_back(*port);
  }
  EXPECT_EQ(seen.size(), 50u);
  // Chi-square with 49 degrees of freedom: above 94.0 in 1 of 10,000 runs, and the seed is fixed.
  double chi = 0;
  for (const auto& [port, count] : seen)
    chi += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi, 94.0);
}

TEST(Ports, AMillionRandomDrawsAndReturnsLoseNothing) {
  const uint64_t seed = 8;
  SCOPED_TRACE("seed " + std::to_string(seed));
  crypto::Random random(seed);
  PortTable table(50000, 50255, 2);
  std::vector<uint16_t> taken;
  for (int i = 0; i < 1'000'000; ++i) {
    if (random.below(2) == 0 || taken.empty()) {
      const auto kind = static_cast<PortKind>(random.below(3));
      const auto port = table.draw(static_cast<CoreId>(random.below(2)), kind, random);
      if (!port) continue;
      taken.push_back(*port);
      if (kind == PortKind::kEvenPair) taken.push_back(static_cast<uint16_t>(*port + 1));
    } else {
      const uint32_t k = random.below(static_cast<uint32_t>(taken.size()));
      table.give_back(taken[k]);
      taken[k] = taken.back();
      taken.pop_back();
    }
    ASSERT_EQ(table.free_count() + taken.size(), 256u);
  }
  for (const uint16_t port : taken)
    table.give_back(port);
  EXPECT_EQ(table.free_count(), 256u);
}

TEST(Ports, ARangeTooSmallForAllCoresSaysSo) {
  EXPECT_TRUE(PortTable(50000, 50003, 2).serves_all_cores());
  EXPECT_FALSE(PortTable(50000, 50001, 2).serves_all_cores());
}

}  // namespace
}  // namespace culvert
