// Runs every golden case: a Worker over the pcap driver reads the case's in.pcap, after the case's
// allocations have been installed by the same commands control sends, and what it wrote must equal
// out.pcap frame by frame (bytes and timestamps), the outcomes must equal the case's exactly, and
// every datagram must have ended in one outcome. The captures are made from case.json by
// make_captures.py, which implements the formats on its own.
#include <gtest/gtest.h>
#include <unistd.h>

#include <set>
#include <string>

#include "dataplane/core/worker.h"
#include "dataplane/io/pcap/pcap_driver.h"
#include "tests/golden/golden_case.h"

namespace culvert::golden {
namespace {

const fs::path kFolder = CULVERT_GOLDEN_DIR;

PcapDriver::Config driver_config(const Json& test, const fs::path& folder, const fs::path& output) {
  PcapDriver::Config config;
  config.input = (folder / "in.pcap").string();
  config.output = output.string();
  config.own_mac = {2, 0, 0, 0, 0, 1};
  config.mtu = 1500;  // as a DPDK port's
  for (const char* side : {"in", "out"}) {
    for (const Json& packet : test[side]) {
      for (const char* end : {"from", "to"}) {
        if (!packet.contains(end)) continue;
        const IpAddress host = at(packet[end]).ip;
        config.neighbours.push_back({host, mac_of(host)});
      }
    }
  }
  return config;
}

std::map<std::string, uint64_t> counted_frames(const PcapDriver& driver) {
  std::map<std::string, uint64_t> out;
  for (size_t i = 0; i < frame::kKinds; ++i) {
    if (frame::kKindInfo[i].disposition == frame::Disposition::path) continue;
    const uint64_t n = driver.frames(static_cast<frame::Kind>(i));
    if (n != 0) out[std::string(frame::kKindInfo[i].name)] = n;
  }
  for (size_t i = 0; i < kFrameCounters; ++i) {
    const uint64_t n = driver.counted(static_cast<FrameCounter>(i));
    if (n != 0) out[std::string(kFrameCounterInfo[i].name)] += n;
  }
  if (driver.not_ours() != 0) out["not_ours"] = driver.not_ours();
  return out;
}

void run_case(const fs::path& folder, const fs::path& output) {
  const Json test = read_json(folder / "case.json");
  SCOPED_TRACE(test["sentence"].get<std::string>());
  RingEngine::Options options;
  options.command_slots = options.event_slots = 1024;
  RingEngine engine(options, snapshot_of(read_json(kFolder / "relay.json")));
  const Snapshot& snapshot = engine.snapshot();

  std::string error;
  auto driver = PcapDriver::open(driver_config(test, folder, output), snapshot, error);
  ASSERT_NE(driver, nullptr) << error;
  const CoreStats& stats = engine.stats(0);
  {
    Worker<PcapDriver> worker(*driver, engine.board(), 0, limits_of(snapshot), CoreSeeds{},
                              engine.mutable_stats(0));
    Installer installer(engine, snapshot);
    for (const Json& allocation : test.value("allocations", Json::array())) {
      installer.install(allocation);
    }
    ASSERT_LE(stats.commands_applied.get(), kMaxCommandsPerLoop);
    while (!driver->finished())
      (void)worker.run_once();
    if (test.contains("run_on_ms")) {
      driver->advance_to(test["run_on_ms"]);
      (void)worker.run_once();
    }
    EXPECT_EQ(stats.commands_failed.get(), test.value("commands_failed", 0u));
    if (test.contains("allocations_left")) {
      EXPECT_EQ(worker.core().flows.live_allocations, test["allocations_left"].get<uint32_t>());
    }
  }
  EXPECT_EQ(counted(stats), test["outcomes"].get<decltype(counted(stats))>());
  EXPECT_EQ(counted_frames(*driver), test.value("frames", decltype(counted(stats)){}));
  uint64_t outcomes = 0;
  for (const auto& [name, n] : counted(stats))
    outcomes += n;
  EXPECT_EQ(stats.received_packets.get() + stats.hairpin_passes.get(), outcomes);
  driver.reset();
  compare(read_capture(output), read_capture(folder / "out.pcap"), Times::kCompared);
}

class Golden : public ::testing::TestWithParam<std::string> {};

TEST_P(Golden, gives_the_frames_and_counters_its_case_says) {
  std::string temporary = (fs::temp_directory_path() / "culvert-golden-XXXXXX").string();
  ASSERT_NE(mkdtemp(temporary.data()), nullptr);
  run_case(kFolder / "cases" / GetParam(), fs::path(temporary) / "out.pcap");
  fs::remove_all(temporary);
}
INSTANTIATE_TEST_SUITE_P(Cases, Golden, ::testing::ValuesIn(case_names(kFolder)),
                         [](const auto& tested) { return tested.param; });

// The names that any case counts under `part`, on either driver.
std::set<std::string> reached(const char* part) {
  std::set<std::string> out;
  for (const std::string& name : case_names(kFolder)) {
    const Json test = read_json(kFolder / "cases" / name / "case.json");
    for (const Json& of : {test, test.value("dpdk", Json::object())}) {
      const Json counts = of.value(part, Json::object());
      for (const auto& [counter, n] : counts.items())
        out.insert(counter);
    }
  }
  return out;
}

// What the cases leave out is named here with the reason, so that a new outcome or counter cannot
// be forgotten.
TEST(GoldenCases, reach_every_outcome_that_one_core_and_one_capture_can_reach) {
  const std::map<std::string, std::string> elsewhere = {
      {"hairpin_cross", "needs a second core: path_forward_test, the simulator"},
      {"handoff", "needs a second core: path_forward_test, steer_test, the simulator"},
      {"handoff_reservation", "needs a second core: path_boundaries_test, the simulator"},
      {"handoff_full", "needs a second core: the simulator"},
      {"control_busy", "needs a full event ring: worker_test, the simulator"},
  };
  const std::set<std::string> in_cases = reached("outcomes");
  for (const OutcomeInfo& outcome : kOutcomeInfo) {
    const std::string name(outcome.name);
    EXPECT_NE(in_cases.contains(name), elsewhere.contains(name)) << name;
  }
}

TEST(GoldenCases, reach_every_frame_counter_that_a_capture_can_reach) {
  constexpr const char* kKernel =
      "needs a kernel beside the port: dpdk_kernel_test, "
      "tap_exception_test";
  const std::map<std::string, std::string> elsewhere = {
      {"port_full", "EAL's pcap port takes every frame it is given"},
      {"no_buffer", "a pool of 2047 buffers does not run dry within a burst of 64"},
      {"left_to_kernel", kKernel},
      {"punted_neighbour", kKernel},
      {"punted_icmp", kKernel},
      {"punted_tcp", kKernel},
      {"punted_other", kKernel},
      {"limited_neighbour", kKernel},
      {"limited_icmp", kKernel},
      {"limited_tcp", kKernel},
      {"limited_other", kKernel},
      {"punt_full", kKernel},
      {"from_kernel", kKernel},
  };
  const std::set<std::string> in_cases = reached("frames");
  for (const FrameCounterInfo& counter : kFrameCounterInfo) {
    const std::string name(counter.name);
    EXPECT_NE(in_cases.contains(name), elsewhere.contains(name)) << name;
  }
}

}  // namespace
}  // namespace culvert::golden
