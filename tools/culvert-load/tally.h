// What one generator thread counts in one trial. Datagrams and operations count by the time at
// which they were due: in the window or not, and in which second of it, so a second's loss and
// latency are those of what was offered in that second. One owner; merged after the trial.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tools/culvert-load/histogram.h"
#include "tools/culvert-load/schedule.h"

namespace culvert::load {

inline constexpr uint64_t kSecond = 1'000'000'000;

// Index of a direction in the arrays below.
inline constexpr size_t kToPeerIndex = 0;
inline constexpr size_t kToClientIndex = 1;

struct FlowTally {
  uint64_t sent = 0;  // within the measured window, by the time they were due
  uint64_t unique = 0;
  uint64_t duplicates = 0;
  uint64_t reordered = 0;
  Histogram latency;

  [[nodiscard]] uint64_t lost() const { return sent > unique ? sent - unique : 0; }
};

struct SecondTally {
  uint64_t sent = 0;
  uint64_t unique = 0;
  CoarseHistogram latency;

  void merge(const SecondTally& other);
};

// A flood beside the measured traffic, over the whole trial; IP and UDP headers included.
struct FloodTally {
  uint64_t due = 0;
  uint64_t sent = 0;
  uint64_t request_bytes = 0;
  uint64_t responses = 0;
  uint64_t response_bytes = 0;
};

struct Tally {
  Trial trial;
  std::array<FlowTally, 2> flows;
  std::vector<SecondTally> seconds;  // by due time, from the window's beginning
  Histogram lateness;                // of the generator: sent after due
  uint64_t scheduled = 0;
  uint64_t corrupt = 0;  // of this run and of a wrong size
  uint64_t strange = 0;  // not of this run
  uint64_t errors = 0;
  std::vector<std::pair<std::string, uint64_t>> error_kinds;
  uint64_t send_refused = 0;
  uint64_t receive_drops = 0;
  uint64_t tx_ns = 0;  // spent in sending and in receiving, to know the generator's own cost
  uint64_t rx_ns = 0;
  uint64_t tx_datagrams = 0;
  uint64_t rx_datagrams = 0;
  uint64_t idle_ns = 0;
  uint64_t request_bytes = 0;  // hostile mode, IP and UDP headers included
  uint64_t response_bytes = 0;
  uint64_t responses = 0;
  FloodTally flood;
  // What the driver's port counted since it was opened, by name; empty with sockets.
  std::vector<std::pair<std::string, uint64_t>> port;

  // Each ignores what was due outside the window.
  void count_sent(size_t direction, uint64_t due, uint64_t count = 1);
  void count_arrival(size_t direction, uint64_t due, uint64_t now);
  void count_error(const std::string& kind);
  void merge(const Tally& other);

 private:
  SecondTally& second_of(uint64_t due);
};

}  // namespace culvert::load
