// What all modes share: the clock of one run, the live counters that the main thread reads each
// second, and the result that is printed and written as JSON. A worker thread owns its Tally; the
// main thread merges them after the workers have ended. Live counters are written by one thread
// each and read by the main one.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tools/culvert-load/histogram.h"
#include "tools/culvert-load/options.h"
#include "tools/culvert-load/server_cpu.h"

namespace culvert::load {

inline constexpr uint64_t kSecond = 1'000'000'000;

// Index of a direction in the arrays below.
inline constexpr size_t kToPeerIndex = 0;
inline constexpr size_t kToClientIndex = 1;

struct alignas(64) Live {
  std::atomic<uint64_t> sent{0};
  std::atomic<uint64_t> received{0};  // unique datagrams, or completed operations
};

struct FlowTally {
  uint64_t sent = 0;  // within the measured window, by the time they were due
  uint64_t unique = 0;
  uint64_t duplicates = 0;
  uint64_t reordered = 0;
  Histogram latency;
};

struct Tally {
  std::array<FlowTally, 2> flows;
  Histogram lateness;  // of the generator: sent after due
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
  Histogram operation;  // churn and binding: one whole operation

  void count_error(const std::string& kind);
  void merge(const Tally& other);
};

// The times of one run on CLOCK_MONOTONIC. Written once before `go` is released.
struct RunClock {
  uint64_t start = 0;
  uint64_t measure_from = 0;
  uint64_t measure_to = 0;
};

struct Second {
  double at_s = 0;
  uint64_t sent = 0;
  uint64_t received = 0;
  double server_cpu_s = 0;
  uint64_t rss_bytes = 0;
};

struct Result {
  Options options;
  double setup_s = 0;
  CpuSample before;  // before anything was set up
  CpuSample ready;   // set up, before traffic
  CpuSample from;
  CpuSample to;
  uint64_t sent = 0;  // between the samples `from` and `to`
  uint64_t received = 0;
  uint64_t own_cpu_ns = 0;
  uint64_t rss_peak = 0;
  bool server_watched = false;
  Tally tally;
  std::vector<Second> series;
  std::vector<std::string> limits;  // why the generator was the limit; empty: it was not
};

// One generator thread. `prepare` sets up what the traffic needs and returns a sentence when it
// could not; `traffic` runs to clock.measure_to and drains; `finish` gives back what was taken.
class Worker {
 public:
  virtual ~Worker() = default;
  [[nodiscard]] virtual std::string prepare() = 0;
  virtual void traffic(const RunClock& clock) = 0;
  virtual void finish() = 0;

  Live live;
  Tally tally;
};

using MakeWorker = std::function<std::unique_ptr<Worker>(uint32_t thread)>;

// Runs the workers through their stages and samples beside them; false after printing why not.
[[nodiscard]] bool run_workers(const Options& options, const MakeWorker& make, Result& result);

// Set by SIGINT or SIGTERM: workers stop early, what was measured is still reported.
[[nodiscard]] bool interrupted();
void catch_signals();

void judge_limits(Result& result);
void print_summary(const Result& result);
[[nodiscard]] bool write_json(const Result& result);

[[nodiscard]] std::unique_ptr<Worker> make_relay_worker(const Options& options, uint32_t thread);
[[nodiscard]] std::unique_ptr<Worker> make_churn_worker(const Options& options, uint32_t thread);
[[nodiscard]] std::unique_ptr<Worker> make_idle_worker(const Options& options, uint32_t thread);
[[nodiscard]] std::unique_ptr<Worker> make_binding_worker(const Options& options, uint32_t thread);
[[nodiscard]] std::unique_ptr<Worker> make_hostile_worker(const Options& options, uint32_t thread);
// Measures against a reflector of this process; its own main loop because of that thread.
[[nodiscard]] int calibrate(Options options);

}  // namespace culvert::load
