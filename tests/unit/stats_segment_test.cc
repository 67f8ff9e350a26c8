// The stats segment as its writer makes it and as `culvertctl top` reads it: live, by name, and
// refused with a sentence when it is not what it says.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "dataplane/core/stats_memory.h"
#include "tools/culvertctl/client.h"
#include "tools/culvertctl/top.h"

namespace culvert {
namespace {

class StatsSegment : public ::testing::Test {
 protected:
  StatsSegment() {
    char folder[] = "/tmp/culvert-stats-XXXXXX";
    folder_ = mkdtemp(folder);
    path_ = folder_ + "/control.stats";
  }
  ~StatsSegment() override {
    unlink(path_.c_str());
    rmdir(folder_.c_str());
  }
  [[nodiscard]] StatsFile file() const { return {path_, 0600, {}, {}}; }
  // The sentence with which the file is refused.
  [[nodiscard]] std::string refusal() const {
    try {
      const StatsReader reader(path_);
    } catch (const std::runtime_error& e) {
      return e.what();
    }
    return "";
  }
  void overwrite(size_t at, const void* bytes, size_t count) const {
    const int fd = open(path_.c_str(), O_WRONLY);
    EXPECT_EQ(pwrite(fd, bytes, count, static_cast<off_t>(at)), static_cast<ssize_t>(count));
    close(fd);
  }
  std::string folder_, path_;
};

TEST_F(StatsSegment, ALookSeesWhatACoreWroteAMomentAgoAndReferencesStayGood) {
  StatsMemory memory(3);
  CoreStats& core = memory.cores()[2];
  core.received_packets.add(5);
  memory.publish(file(), "1.2.3", "dpdk");
  core.received_packets.add(2);
  core.outcomes[static_cast<size_t>(Outcome::k_no_permission)].add(9);
  memory.ports()[0].missed.set(4);
  const std::string_view name = "net_memif0";
  std::copy(name.begin(), name.end(), memory.ports()[0].name.begin());
  memory.header().ports.store(1);

  const StatsReader reader(path_);
  EXPECT_EQ(reader.build(), "1.2.3");
  EXPECT_EQ(reader.driver(), "dpdk");
  StatsSample sample = reader.sample();
  ASSERT_EQ(sample.cores.size(), 3u);
  const size_t received = reader.find(StatsScope::kCore, "received_packets");
  EXPECT_EQ(sample.cores[2][received], 7u);
  EXPECT_EQ(sample.cores[1][received], 0u);
  EXPECT_EQ(sample.cores[2][reader.find(StatsScope::kCore, "outcome/no_permission")], 9u);
  ASSERT_EQ(sample.ports.size(), 1u);
  EXPECT_EQ(sample.ports[0].name, "net_memif0");
  EXPECT_EQ(sample.ports[0].values[reader.find(StatsScope::kPort, "missed")], 4u);
  core.received_packets.add(1);
  EXPECT_EQ(reader.sample().cores[2][received], 8u);
}

TEST_F(StatsSegment, EveryCounterHasAPlaceOfItsOwn) {
  StatsMemory memory(1);
  memory.publish(file(), "", "");
  const StatsReader reader(path_);
  std::vector<std::pair<StatsScope, uint32_t>> places;
  for (const StatsNameView& n : reader.names())
    places.emplace_back(n.scope, n.offset);
  std::sort(places.begin(), places.end());
  EXPECT_EQ(std::adjacent_find(places.begin(), places.end()), places.end());
  EXPECT_EQ(places.size(),
            std::size(kCoreCounters) + kOutcomes + kFrameCounters + std::size(kPortCounters));
}

TEST_F(StatsSegment, TheNameGoesWithItsRelayAndNeverWithAnother) {
  struct stat there {};
  {
    StatsMemory first(1);
    first.publish(file(), "first", "");
    const StatsReader reader(path_);
    EXPECT_FALSE(reader.replaced());
    StatsMemory second(1);
    second.publish(file(), "second", "");
    EXPECT_TRUE(reader.replaced());
    EXPECT_EQ(reader.build(), "first");  // what it has mapped stays
    EXPECT_EQ(StatsReader(path_).build(), "second");
    second.publish({folder_ + "/other", 0600, {}, {}}, "second", "");
  }
  EXPECT_EQ(stat((folder_ + "/other").c_str(), &there), -1);
  ASSERT_EQ(stat(path_.c_str(), &there), 0) << "of the first, which it no longer was";
  EXPECT_EQ(there.st_mode & 0777u, 0600u);
}

TEST_F(StatsSegment, TopTellsRatesOfTwoLooks) {
  StatsMemory memory(2);
  memory.publish(file(), "1", "sockets");
  const StatsReader reader(path_);
  const StatsSample before = reader.sample();
  memory.cores()[0].loops.add(10);
  memory.cores()[0].received_packets.add(1000);
  memory.cores()[0].busy_cycles.add(500'000);
  memory.cores()[0].outcomes[static_cast<size_t>(Outcome::k_no_channel)].add(40);
  memory.cores()[0].outcomes[static_cast<size_t>(Outcome::k_challenged)].add(7);
  StatsSample now = reader.sample();
  now.at_ms = before.at_ms + 2000;
  now.at_cycles = before.at_cycles + 1'000'000;
  const nlohmann::json view = top_view(reader, before, now);
  const nlohmann::json& core = view.at("cores")[0];
  EXPECT_EQ(core.at("in_per_second"), 500.0);
  EXPECT_EQ(core.at("drops_per_second"), 20.0) << "an answer is no drop";
  EXPECT_EQ(core.at("cycles_per_packet"), 500);
  EXPECT_EQ(core.at("busy_share"), 0.5);
  EXPECT_EQ(core.at("moves"), true);
  EXPECT_EQ(view.at("cores")[1].at("moves"), false);
  EXPECT_TRUE(view.at("cores")[1].at("cycles_per_packet").is_null());
  ASSERT_EQ(view.at("drops").size(), 1u);
  EXPECT_EQ(view.at("drops")[0].at("name"), "no_channel");

  const std::string wide = render_top(view, 0, 0);
  EXPECT_NE(wide.find("STANDS STILL"), std::string::npos);
  EXPECT_NE(wide.find("no_channel"), std::string::npos);
  size_t lines = 1, width = 0, longest = 0;
  for (const char c : render_top(view, 20, 4)) {
    if (c == '\n') {
      ++lines;
      width = 0;
    } else {
      longest = std::max(longest, ++width);
    }
  }
  EXPECT_EQ(lines, 4u);
  EXPECT_EQ(longest, 20u);
}

TEST_F(StatsSegment, WhatIsNoneIsRefusedWithASentence) {
  EXPECT_THROW(StatsReader reader(path_), Unreachable);
  std::ofstream(path_) << "short";
  EXPECT_NE(refusal().find("too short"), std::string::npos);
  std::ofstream(path_) << std::string(8192, 'x');
  EXPECT_NE(refusal().find("is no stats segment"), std::string::npos);
  unlink(path_.c_str());

  StatsMemory memory(2);
  memory.publish(file(), "9.9", "");
  const auto spoil = [&](uint32_t StatsHeader::*field, uint32_t value) {
    StatsHeader& header = memory.header();
    const uint32_t before = header.*field;
    header.*field = value;
    const std::string said = refusal();
    header.*field = before;
    return said;
  };
  EXPECT_NE(spoil(&StatsHeader::version, 77).find("9.9"), std::string::npos);
  for (uint32_t StatsHeader::*field :
       {&StatsHeader::names, &StatsHeader::names_offset, &StatsHeader::cores,
        &StatsHeader::cores_offset, &StatsHeader::core_bytes, &StatsHeader::max_ports,
        &StatsHeader::port_bytes, &StatsHeader::ports_offset, &StatsHeader::name_bytes})
    for (const uint32_t value : {0xffffffffu, 0xfffffff8u})
      EXPECT_NE(spoil(field, value).find("is damaged"), std::string::npos) << value;
  EXPECT_EQ(refusal(), "");
  // A name that points out of its block.
  StatsName name;
  name.offset = memory.header().core_bytes;
  overwrite(memory.header().names_offset, &name, sizeof name);
  EXPECT_NE(refusal().find("points outside"), std::string::npos);
}

}  // namespace
}  // namespace culvert
