// The Swiss table against std::unordered_map under random insertion, look-up and erasure, with good
// hashes and with hashes so bad that every group overflows; and the hash itself, for the properties
// the table needs of it.
#include "dataplane/flow/swiss_table.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "dataplane/flow/hash.h"
#include "dataplane/flow/key.h"

namespace culvert {
namespace {

struct Entry {
  uint64_t key = 0;
  uint64_t value = 0;
};

using HashOf = uint64_t (*)(uint64_t key);

uint64_t good_hash(uint64_t key) {
  return hash_fold(key ^ 0x9e3779b97f4a7c15u, 0xc2b2ae3d27d4eb4fu);
}
uint64_t one_group(uint64_t key) {
  return key & 0x7f;
}  // all tags, one home group
uint64_t one_tag(uint64_t key) {
  return key << 7;
}  // all groups, one tag
uint64_t all_the_same(uint64_t) {
  return 42;
}

struct Case {
  const char* name;
  HashOf hash;
  size_t limit;
};

class TableProperty : public ::testing::TestWithParam<Case> {};

TEST_P(TableProperty, holds_what_unordered_map_holds) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const HashOf hash = GetParam().hash;
  const size_t limit = GetParam().limit;
  Arena arena(SwissTable<Entry>::bytes_for(limit) + 4096);
  SwissTable<Entry> table;
  table.init(arena, limit);
  std::unordered_map<uint64_t, std::pair<uint64_t, uint32_t>> model;  // key -> value, slot
  const auto find = [&](uint64_t key) {
    return table.find(hash(key), [&](const Entry& e) { return e.key == key; });
  };
  for (int step = 0; step < 60'000; ++step) {
    const uint64_t key = random() % (limit * 2);
    const auto known = model.find(key);
    const uint32_t slot = find(key);
    ASSERT_EQ(slot != kNoSlot, known != model.end()) << "step " << step;
    if (known != model.end()) {
      ASSERT_EQ(table[slot].value, known->second.first);
      ASSERT_EQ(slot, known->second.second) << "an entry moved";
    }
    // Swings between nearly full and nearly empty.
    const bool filling = step / 5'000 % 2 == 0;
    if (known == model.end() && random() % 4 != (filling ? 3u : 4u)) {
      const uint32_t taken = table.insert(hash(key));
      ASSERT_EQ(taken == kNoSlot, model.size() == limit) << "the table is full at its limit only";
      if (taken == kNoSlot) continue;
      table[taken] = {key, random()};
      model[key] = {table[taken].value, taken};
    } else if (known != model.end() && random() % 4 < (filling ? 1u : 3u)) {
      table.erase(slot, hash(key));
      model.erase(known);
    }
    ASSERT_EQ(table.size(), model.size());
  }
  size_t seen = 0;
  table.each([&](uint32_t slot, const Entry& e) {
    ++seen;
    ASSERT_TRUE(model.contains(e.key));
    EXPECT_EQ(model[e.key].second, slot);
  });
  EXPECT_EQ(seen, model.size());
}
INSTANTIATE_TEST_SUITE_P(Hashes, TableProperty,
                         ::testing::Values(Case{"good", good_hash, 500}, Case{"good", good_hash, 1},
                                           Case{"good", good_hash, 14}, Case{"good", good_hash, 15},
                                           Case{"one_group", one_group, 200},
                                           Case{"one_tag", one_tag, 200},
                                           Case{"all_the_same", all_the_same, 100}),
                         [](const auto& tested) {
                           return std::string(tested.param.name) + "_" +
                                  std::to_string(tested.param.limit);
                         });

// No tombstones: after any amount of churn a miss in an empty table ends at its first group, which
// shows as calls of the comparison: none.
TEST(Table, churn_leaves_nothing_behind) {
  constexpr size_t kLimit = 100;
  Arena arena(SwissTable<Entry>::bytes_for(kLimit) + 4096);
  SwissTable<Entry> table;
  table.init(arena, kLimit);
  std::mt19937_64 random(7);
  std::vector<std::pair<uint32_t, uint64_t>> live;
  for (int round = 0; round < 1000; ++round) {
    while (live.size() < kLimit) {
      const uint64_t h = random() & 0xfff;  // crowded
      live.emplace_back(table.insert(h), h);
    }
    while (!live.empty()) {
      const size_t at = random() % live.size();
      table.erase(live[at].first, live[at].second);
      live[at] = live.back();
      live.pop_back();
    }
  }
  EXPECT_EQ(table.size(), 0u);
  for (uint64_t h = 0; h < 0x1000; ++h) {
    const uint32_t slot = table.find(h, [](const Entry&) { return true; });
    ASSERT_EQ(slot, kNoSlot);
  }
}

// The table takes its tag from the low seven bits and its group from those above. Neighbouring
// addresses and ports, which is what real traffic has, must spread over both. One multiplication is
// not a random function of such keys, so some seeds are worse than chance; what counts is how many
// flows find their home group (16 slots) full when groups hold 8 on average: 0.1 % by chance.
TEST(FlowHash, neighbouring_flows_spread_over_groups_and_tags) {
  constexpr uint32_t kGroups = 4096;
  constexpr uint32_t kFlows = 8 * kGroups;
  constexpr int kSeeds = 64;
  const uint32_t seed_of_seeds = 5;
  std::mt19937_64 random(seed_of_seeds);
  uint32_t displaced_in_all = 0;
  for (int s = 0; s < kSeeds; ++s) {
    const HashSeed seed{random(), random()};
    std::vector<uint32_t> groups(kGroups);
    std::vector<uint32_t> tags(128);
    for (uint32_t i = 0; i < kFlows; ++i) {
      const TransportAddress client{IpAddress::v4(0x0a000000u + i / 16),
                                    static_cast<uint16_t>(40000 + i % 16)};
      const uint64_t h = hash_key(client_key<NarrowKey>(client, 0, 0x4000), seed);
      ++groups[(h >> 7) % kGroups];
      ++tags[h & 0x7f];
    }
    uint32_t displaced = 0;
    for (const uint32_t n : groups)
      displaced += n > 16 ? n - 16 : 0;
    EXPECT_LT(displaced, kFlows / 8) << "seed " << s;
    displaced_in_all += displaced;
    for (const uint32_t n : tags)
      EXPECT_LT(n, 3 * kFlows / 128) << "seed " << s;
  }
  EXPECT_LT(displaced_in_all, kSeeds * (kFlows / 100));
}

TEST(FlowHash, another_seed_gives_other_collisions) {
  const auto low_bits = [](uint64_t s, uint32_t i) {
    const TransportAddress client{IpAddress::v4(i * 2654435761u), 4000};
    return hash_key(client_key<NarrowKey>(client, 0, 0x4000), HashSeed{s, ~s * 3}) & 0xffff;
  };
  // Pairs that collide in 16 bits under one seed must not do so under another.
  std::unordered_map<uint64_t, uint32_t> first;
  uint32_t pairs = 0;
  uint32_t again = 0;
  for (uint32_t i = 0; i < 20'000; ++i) {
    const auto [at, fresh] = first.try_emplace(low_bits(0x1234567890abcdefu, i), i);
    if (fresh) continue;
    ++pairs;
    again +=
        low_bits(0xdeadbeefcafef00du, i) == low_bits(0xdeadbeefcafef00du, at->second) ? 1u : 0u;
  }
  EXPECT_GT(pairs, 1000u);
  EXPECT_LE(again, 3u) << "expected " << pairs / 65536.0;
}

}  // namespace
}  // namespace culvert
