// The golden cases through a DPDK port: the same captures, read and written by EAL's pcap port, the
// same allocations, the same clock (each frame's own millisecond), the same seeds; the datagrams
// and outcomes must be the same as the pcap driver's. Where a port cannot, or does more (it has no
// kernel beside it, so it answers ARP, neighbour discovery and echo itself), the case says what
// under "dpdk". Frames' times are not compared: the port writes the time of day.
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

#include "dataplane/core/worker.h"
#include "dataplane/io/dpdk/dpdk_driver.h"
#include "dataplane/io/dpdk/eal.h"
#include "tests/golden/golden_case.h"

namespace culvert::golden {
namespace {

const fs::path kFolder = CULVERT_GOLDEN_DIR;

constexpr uint64_t kNanosecondsPerTick = 1'000'000;
constexpr const char* kDevice = "net_pcap_golden";

// One EAL for all cases: it can be started once in a process.
Eal& eal() {
  static Eal only({"--lcores", "0@0", "--no-huge", "-m", "128", "--no-pci", "--no-telemetry",
                   "--iova-mode=va", "--log-level", "*:warning", "--file-prefix",
                   "culvert_golden_" + std::to_string(getpid())});
  return only;
}

// A part of a case as it is for this driver.
Json expected(const Json& test, const char* part) {
  const Json own = test.value("dpdk", Json::object());
  return own.contains(part) ? own[part] : test.value(part, Json::object());
}

DpdkOptions driver_options(const Json& test, const Snapshot& snapshot, const Ticks& clock) {
  DpdkOptions options;
  const bool networks = expected(test, "networks") == true;
  for (const LocalAddress& a : snapshot.addresses) {
    const int bits = a.bound.is_v4() ? (networks ? 24 : 32) : (networks ? 64 : 128);
    options.addresses.push_back({a.bound, static_cast<uint8_t>(bits), 0});
  }
  options.verify_all = true;
  options.busy = true;
  options.clock = &clock;
  return options;
}

void know(NeighbourTable& neighbours, const Json& test, const IpAddress& host) {
  for (const Json& unknown : expected(test, "unknown"))
    if (ip(unknown) == host) return;
  ASSERT_TRUE(neighbours.learn(host, {mac_of(host), 0}, 0, NeighbourTable::Origin::kConfigured));
}

void know_everyone(NeighbourTable& neighbours, const Json& test) {
  for (const char* side : {"in", "out"})
    for (const Json& packet : test[side])
      for (const char* end : {"from", "to"})
        if (packet.contains(end)) know(neighbours, test, at(packet[end]).ip);
  for (const Json& allocation : test.value("allocations", Json::array())) {
    know(neighbours, test, at(allocation["client"]).ip);
    for (const Json& peer : allocation.value("permissions", Json::array()))
      know(neighbours, test, ip(peer));
  }
}

std::map<std::string, uint64_t> counted_frames(const CoreStats& stats) {
  std::map<std::string, uint64_t> out;
  for (size_t i = 0; i < kFrameCounters; ++i)
    if (stats.frames[i].get() != 0)
      out[std::string(kFrameCounterInfo[i].name)] = stats.frames[i].get();
  return out;
}

// One loop for each millisecond of the capture, with just its frames.
template <class Loop>
void play(const std::vector<Frame>& frames, DpdkDriver& driver, Ticks& clock, Loop&& loop) {
  for (size_t i = 0; i < frames.size();) {
    const auto tick = [&](size_t n) {
      return static_cast<Ticks>((frames[n].time_ns - frames[0].time_ns) / kNanosecondsPerTick);
    };
    clock = tick(i);
    size_t end = i;
    while (end < frames.size() && tick(end) == clock && end - i < kMaxBurst)
      ++end;
    driver.set_burst(static_cast<uint32_t>(end - i));
    loop();
    i = end;
  }
}

class Device {
 public:
  Device(const fs::path& in, const fs::path& out) {
    const std::string arguments = "rx_pcap=" + in.string() + ",tx_pcap=" + out.string();
    eal().attach(kDevice, arguments);
  }
  ~Device() { eal().detach(kDevice); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
};

void run_case(const fs::path& folder, const fs::path& output) {
  const Json test = read_json(folder / "case.json");
  SCOPED_TRACE(test["sentence"].get<std::string>());
  RingEngine::Options options;
  options.command_slots = options.event_slots = 1024;
  RingEngine engine(options, snapshot_of(read_json(kFolder / "relay.json")));
  const Snapshot& snapshot = engine.snapshot();
  const CoreStats& stats = engine.stats(0);
  {
    const Device device(folder / "in.pcap", output);
    PortsOptions ports_options;
    ports_options.descriptors = 256;
    ports_options.buffer_bytes = 9216;  // the longest frames of the cases but one
    DpdkPorts ports(ports_options);
    // The captures' frames are to and from this address.
    ports.ports()[0].mac = {2, 0, 0, 0, 0, 1};
    NeighbourTable neighbours(1, 1024);
    know_everyone(neighbours, test);
    Ticks clock = 0;
    DpdkDriver driver(snapshot, 0, ports, neighbours, driver_options(test, snapshot, clock),
                      engine.mutable_stats(0));
    Worker<DpdkDriver> worker(driver, engine.board(), 0, limits_of(snapshot), CoreSeeds{},
                              engine.mutable_stats(0));
    Installer installer(engine, snapshot);
    for (const Json& allocation : test.value("allocations", Json::array()))
      installer.install(allocation);
    play(read_capture(folder / "in.pcap"), driver, clock, [&] { (void)worker.run_once(); });
    if (test.contains("run_on_ms")) {
      clock = test["run_on_ms"];
      (void)worker.run_once();
    }
    EXPECT_EQ(stats.commands_failed.get(), test.value("commands_failed", 0u));
    if (test.contains("allocations_left")) {
      EXPECT_EQ(worker.core().flows.live_allocations, test["allocations_left"].get<uint32_t>());
    }
  }
  using Counts = decltype(counted(stats));
  EXPECT_EQ(counted(stats), expected(test, "outcomes").get<Counts>());
  EXPECT_EQ(counted_frames(stats), expected(test, "frames").get<Counts>());
  uint64_t outcomes = 0;
  for (const auto& [name, n] : counted(stats))
    outcomes += n;
  EXPECT_EQ(stats.received_packets.get() + stats.hairpin_passes.get(), outcomes);
  const bool own_output = test.value("dpdk", Json::object()).contains("out");
  compare(read_capture(output), read_capture(folder / (own_output ? "out.dpdk.pcap" : "out.pcap")),
          Times::kIgnored);
}

class GoldenDpdk : public ::testing::TestWithParam<std::string> {};

TEST_P(GoldenDpdk, gives_the_datagrams_and_counters_that_the_pcap_driver_gives) {
  std::string temporary = (fs::temp_directory_path() / "culvert-golden-XXXXXX").string();
  ASSERT_NE(mkdtemp(temporary.data()), nullptr);
  run_case(kFolder / "cases" / GetParam(), fs::path(temporary) / "out.pcap");
  fs::remove_all(temporary);
}
INSTANTIATE_TEST_SUITE_P(Cases, GoldenDpdk, ::testing::ValuesIn(case_names(kFolder)),
                         [](const auto& tested) { return tested.param; });

}  // namespace
}  // namespace culvert::golden
