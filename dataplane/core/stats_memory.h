// Where the cores' counters live: one shared mapping laid out as api/stats_segment.h says. It has
// no name at first; publish() gives it one before threads start, without moving it, so that whoever
// holds a reference to a CoreStats keeps it. Owned by RingEngine.
#pragma once

#include <sys/types.h>

#include <span>
#include <string>
#include <string_view>

#include "dataplane/api/limits.h"
#include "dataplane/api/stats_segment.h"

namespace culvert {

class StatsMemory {
 public:
  // Throws std::system_error when there is no memory.
  explicit StatsMemory(CoreId cores);
  // Says that the relay has ended and removes the name if it is still ours.
  ~StatsMemory();
  StatsMemory(const StatsMemory&) = delete;
  StatsMemory& operator=(const StatsMemory&) = delete;

  // Makes the file and maps it in place. No thread may write meanwhile. A file of that name (of a
  // relay that was killed) is replaced. Throws std::runtime_error with a sentence.
  void publish(const StatsFile& file, std::string_view build, std::string_view driver);

  [[nodiscard]] std::span<CoreStats> cores() const { return cores_; }
  [[nodiscard]] std::span<PortStats> ports() const { return ports_; }
  [[nodiscard]] StatsHeader& header() const { return *header_; }

 private:
  size_t bytes_ = 0;
  uint8_t* base_ = nullptr;
  StatsHeader* header_ = nullptr;
  std::span<CoreStats> cores_;
  std::span<PortStats> ports_;
  std::string path_;  // empty: not published
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace culvert
