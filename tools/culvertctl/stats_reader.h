// Reads culvertd's stats segment (api/stats_segment.h): maps it read-only and looks. Speaks to
// nobody, so it works while control is stuck.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dataplane/api/stats_segment.h"

namespace culvert {

struct StatsNameView {
  std::string name;
  StatsScope scope = StatsScope::kCore;
  CounterKind kind = CounterKind::kCounter;
  uint8_t severity = 0;
  uint32_t offset = 0;
};

// All numbers at one time.
struct StatsSample {
  uint64_t at_ms = 0;      // CLOCK_MONOTONIC
  uint64_t at_cycles = 0;  // base/cycles.h
  uint64_t control_seen_ms = 0;
  uint64_t ports_seen_ms = 0;
  uint32_t state = 0;
  std::vector<std::vector<uint64_t>> cores;  // [core][index into names()]; 0 for names of ports
  struct Port {
    std::string name, driver;
    std::vector<uint64_t> values;  // [index into names()]; 0 for names of cores
  };
  std::vector<Port> ports;
};

class StatsReader {
 public:
  // Throws Unreachable (client.h) when there is no segment or it may not be read, and
  // std::runtime_error with a sentence when it is not one that this program understands.
  explicit StatsReader(const std::string& path);
  ~StatsReader();
  StatsReader(const StatsReader&) = delete;
  StatsReader& operator=(const StatsReader&) = delete;

  [[nodiscard]] const std::vector<StatsNameView>& names() const { return names_; }
  // Index into names(); names().size() when this relay does not count it.
  [[nodiscard]] size_t find(StatsScope scope, std::string_view name) const;
  [[nodiscard]] StatsSample sample() const;
  // The name has gone, or belongs to another relay by now.
  [[nodiscard]] bool replaced() const;

  [[nodiscard]] std::string build() const;
  [[nodiscard]] std::string driver() const;
  [[nodiscard]] uint32_t pid() const { return header().pid; }
  [[nodiscard]] uint64_t started_unix_ms() const { return header().started_unix_ms; }

 private:
  [[nodiscard]] const StatsHeader& header() const {
    return *reinterpret_cast<const StatsHeader*>(base_);
  }
  void map(int fd);
  void check() const;
  void read_names();
  [[nodiscard]] std::vector<uint64_t> read_block(StatsScope scope, uint64_t at) const;

  std::string path_;
  const uint8_t* base_ = nullptr;
  size_t bytes_ = 0;
  uint64_t device_ = 0;
  uint64_t inode_ = 0;
  std::vector<StatsNameView> names_;
};

}  // namespace culvert
