// Permissions, channels, allocations and their end, as the commands make them.
#include <gtest/gtest.h>

#include "tests/support/core_fixture.h"

namespace culvert::test {
namespace {

const TransportAddress kClient = at("192.0.2.10:5000");

TEST(FlowState, AChannelIsRefreshedByTheSamePairOnly) {  // row 80
  TestCore core;
  core.allocate(0, kClient, 50000);
  EXPECT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  EXPECT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  EXPECT_EQ(core.bind(0, 0x4001, "192.0.2.99:7001"), ApplyError::kChannelConflict);
  EXPECT_EQ(core.bind(0, 0x4002, "192.0.2.99:7000"), ApplyError::kChannelConflict);
  EXPECT_EQ(core.state->flows.narrow.size(), 2u);
}

TEST(FlowState, AnExpiredChannelMayBeBoundAnew) {  // row 82
  TestCore core;
  core.allocate(0, kClient, 50000, 0, 3'600'000);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  EXPECT_EQ(core.bind(0, 0x4001, "192.0.2.98:7000", 600'000), ApplyError::kNone);
  EXPECT_EQ(core.bind(0, 0x4002, "192.0.2.99:7000", 600'000), ApplyError::kNone);
  EXPECT_EQ(core.state->flows.narrow.size(), 4u);
}

TEST(FlowState, AChannelNumberIsUniqueAcrossBothFamilies) {
  TestCore core;
  core.allocate(0, kClient, 50000, 50001);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  EXPECT_EQ(core.bind(0, 0x4001, "[2001:db8::9]:7000"), ApplyError::kChannelConflict);
}

TEST(FlowState, PermissionsAreAllOrNothing) {  // row 67
  CoreLimits limits = TestCore::small_limits();
  limits.permissions = 2;
  TestCore core(limits);
  core.allocate(0, kClient, 50000);
  const PermissionPeer three[] = {
      {ip("192.0.2.1"), 0, 0}, {ip("192.0.2.2"), 0, 0}, {ip("192.0.2.3"), 0, 0}};
  EXPECT_EQ(core.state->flows.permit(0, three, 1000), ApplyError::kTableFull);
  EXPECT_EQ(core.state->flows.permission_table.size(), 0u);
  const PermissionPeer mixed[] = {{ip("192.0.2.1"), 0, 0}, {ip("2001:db8::5"), 0, 0}};
  EXPECT_EQ(core.state->flows.permit(0, mixed, 1000), ApplyError::kFamilyMismatch);
  EXPECT_EQ(core.state->flows.permission_table.size(), 0u);
}

TEST(FlowState, APeerNamedTwiceNeedsOnePlace) {
  TestCore core;
  core.allocate(0, kClient, 50000);
  for (uint32_t i = 0; i < kMaxPermissionsPerAllocation - 1; ++i)
    ASSERT_EQ(core.permit(0, "192.0." + std::to_string(i / 250) + "." + std::to_string(i % 250)),
              ApplyError::kNone);
  const PermissionPeer twice[] = {{ip("198.18.0.1"), 0, 0}, {ip("198.18.0.1"), 0, 0}};
  EXPECT_EQ(core.state->flows.permit(0, twice, 1000), ApplyError::kNone);
  const PermissionPeer more[] = {{ip("198.18.0.2"), 0, 0}, {ip("198.18.0.2"), 0, 0}};
  EXPECT_EQ(core.state->flows.permit(0, more, 1000), ApplyError::kTableFull);
  EXPECT_EQ(core.state->flows.allocations[0].permission_count, kMaxPermissionsPerAllocation);
}

TEST(FlowState, ThePolicerOfAnAllocationAndAllItsChannelsMayChange) {
  TestCore core;
  core.allocate(0, kClient, 50000, 50001);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.1:1"), ApplyError::kNone);
  ASSERT_EQ(core.bind(0, 0x4002, "192.0.2.1:2"), ApplyError::kNone);
  ASSERT_EQ(core.bind(0, 0x4003, "[2001:db8::9]:1"), ApplyError::kNone);
  FlowState& flows = core.state->flows;
  flows.policers[3].rate_bytes_per_second = 1;  // an empty bucket
  flows.set_policer(flows.allocations[0], 3);
  for (uint16_t channel = 0x4001; channel <= 0x4003; ++channel) {
    const Bytes in = channel_data(channel, bytes_of("x"));
    EXPECT_TRUE(core.run(core.from_client(kClient, in)).empty()) << channel;
  }
  const Bytes peer = bytes_of("x");
  EXPECT_TRUE(core.run(core.from_peer(at("192.0.2.1:1"), 50000, peer)).empty());
  EXPECT_TRUE(core.run(core.from_peer(at("192.0.2.1:9"), 50000, peer)).empty());
  EXPECT_EQ(core.outcome(Outcome::k_policed), 5u);
  flows.set_policer(flows.allocations[0], 99);  // out of range: nothing changes
  EXPECT_EQ(flows.allocations[0].policer, 3u);
}

TEST(FlowState, AFullChannelTableRefusesAndRecovers) {
  CoreLimits limits = TestCore::small_limits();
  limits.narrow_channels = 2;
  TestCore core(limits);
  core.allocate(0, kClient, 50000);
  EXPECT_EQ(core.bind(0, 0x4001, "192.0.2.1:1"), ApplyError::kNone);
  EXPECT_EQ(core.bind(0, 0x4002, "192.0.2.2:1"), ApplyError::kNone);
  EXPECT_EQ(core.bind(0, 0x4003, "192.0.2.3:1"), ApplyError::kTableFull);
  EXPECT_EQ(core.state->flows.find_permission(0, ip("192.0.2.3")), kNoSlot);
  EXPECT_EQ(core.bind(0, 0x4001, "192.0.2.1:1"), ApplyError::kNone);  // refresh needs no room
  core.state->flows.remove_legs(0, kLegIpv4);
  core.state->flows.forget(0);
  core.allocate(0, kClient, 50000);
  EXPECT_EQ(core.bind(0, 0x4003, "192.0.2.3:1"), ApplyError::kNone);
}

TEST(FlowState, OneFamilyOfADualAllocationEndsAlone) {  // row 58
  TestCore core;
  core.allocate(0, kClient, 50000, 50001);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  ASSERT_EQ(core.bind(0, 0x4002, "[2001:db8::9]:7000"), ApplyError::kNone);
  EXPECT_EQ(core.state->flows.remove_legs(0, kLegIpv6), kLegIpv6);
  EXPECT_EQ(core.state->flows.wide.size(), 0u);
  EXPECT_EQ(core.state->flows.narrow.size(), 2u);
  const Bytes in = channel_data(0x4001, bytes_of("x"));
  EXPECT_EQ(core.run(core.from_client(kClient, in)).size(), 1u);
  EXPECT_EQ(core.bind(0, 0x4003, "[2001:db8::9]:7000"), ApplyError::kFamilyMismatch);
}

TEST(FlowState, SweepingLeavesNothingBehind) {
  TestCore core;
  core.allocate(0, kClient, 50000, 50001, 3'600'000);
  for (uint16_t i = 0; i < 20; ++i) {
    ASSERT_EQ(core.bind(0, static_cast<uint16_t>(0x4000 + i),
                        "192.0.2." + std::to_string(i % 5 + 1) + ":" + std::to_string(1000 + i)),
              ApplyError::kNone);
    ASSERT_EQ(
        core.bind(0, static_cast<uint16_t>(0x4100 + i),
                  "[2001:db8::" + std::to_string(i % 5 + 1) + "]:" + std::to_string(1000 + i)),
        ApplyError::kNone);
  }
  FlowState& flows = core.state->flows;
  EXPECT_EQ(flows.permission_table.size(), 10u);
  EXPECT_EQ(flows.sweep(0, 300'000), 0);
  EXPECT_EQ(flows.permission_table.size(), 10u);  // channels still hold them
  EXPECT_EQ(flows.sweep(0, 600'000), 0);
  EXPECT_EQ(flows.permission_table.size(), 0u);
  EXPECT_EQ(flows.narrow.size() + flows.wide.size(), 0u);
  EXPECT_EQ(flows.allocations[0].channel_count, 0);
  EXPECT_EQ(flows.sweep(0, 3'600'000), kLegIpv4 | kLegIpv6);
}

TEST(FlowState, CountersSumFlowsPermissionsAndWhatWasFolded) {
  TestCore core;
  core.allocate(0, kClient, 50000, 0, 3'600'000);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  const Bytes channel = channel_data(0x4001, bytes_of("12345"));
  const Bytes send = send_indication(at("192.0.2.99:7001"), bytes_of("123"));
  const Bytes peer = bytes_of("1234567");
  (void)core.run({core.from_client(kClient, channel), core.from_client(kClient, send),
                  core.from_peer(at("192.0.2.99:7000"), 50000, peer),
                  core.from_peer(at("192.0.2.99:7001"), 50000, peer)});
  const auto check = [&] {
    const AllocationCounters c = core.state->flows.counters(0);
    EXPECT_EQ(c.packets_to_peer, 2u);
    EXPECT_EQ(c.bytes_to_peer, 8u);
    EXPECT_EQ(c.packets_to_client, 2u);
    EXPECT_EQ(c.bytes_to_client, 14u);
  };
  check();
  (void)core.permit(0, "192.0.2.99", 1000);  // folds
  check();
  (void)core.state->flows.sweep(0, 900'000);  // the flows are gone
  check();
}

TEST(FlowState, AStaleHandleNamesNothing) {
  TestCore core;
  core.allocate(3, kClient, 50000);
  EXPECT_NE(core.state->flows.find({3, 1}), nullptr);
  EXPECT_EQ(core.state->flows.find({3, 2}), nullptr);
  EXPECT_EQ(core.state->flows.find({4, 1}), nullptr);
  EXPECT_EQ(core.state->flows.find({999, 1}), nullptr);
}

TEST(FlowState, TheSameClientCannotHaveTwoAllocations) {
  TestCore core;
  EXPECT_EQ(core.allocate(0, kClient, 50000), 0u);
  EXPECT_EQ(core.allocate(1, kClient, 50002), kNoSlot);
}

TEST(FlowState, MoreThanTheNamedLimitOfChannelsIsRefused) {
  CoreLimits limits = TestCore::small_limits();
  limits.narrow_channels = 1024;
  TestCore core(limits);
  core.allocate(0, kClient, 50000);
  ApplyError last = ApplyError::kNone;
  uint32_t bound = 0;
  for (uint16_t i = 0; i < kMaxChannelsPerAllocation + 1; ++i) {
    last = core.bind(0, static_cast<uint16_t>(kFirstChannel + i),
                     "192.0.2.1:" + std::to_string(i + 1));
    bound += last == ApplyError::kNone;
  }
  EXPECT_EQ(bound, kMaxChannelsPerAllocation);
  EXPECT_EQ(last, ApplyError::kTableFull);
}

TEST(FlowState, AV4MappedPeerOfTheIpv6FamilyIsRefused) {
  // Permissions of both families share a table in which the mapped form means IPv4: taken as given,
  // its channels would be looked for in the wrong flow table.
  TestCore core;
  core.allocate(0, at("192.0.2.1:1000"), 50000, 50001);
  EXPECT_EQ(core.permit(0, "::ffff:93.184.216.34"), ApplyError::kFamilyMismatch);
  EXPECT_EQ(core.bind(0, 0x4000, "[::ffff:93.184.216.34]:9"), ApplyError::kFamilyMismatch);
  EXPECT_EQ(core.state->flows.permission_table.size(), 0u);
  EXPECT_EQ(core.state->flows.wide.size(), 0u);
}

}  // namespace
}  // namespace culvert::test
