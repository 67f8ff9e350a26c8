// What all modes share above the workers: the crew of generator threads that goes through trials,
// the samples taken beside it, and the result that is printed and written as JSON. The main thread
// owns all of it; a worker's tally is read only between trials.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tools/culvert-load/options.h"
#include "tools/culvert-load/server_cpu.h"
#include "tools/culvert-load/tally.h"
#include "tools/culvert-load/worker.h"

namespace culvert::load {

// One second of the measured window, as it passed. What was offered in it and became of it stands
// in the tally's second of the same number; the last one may be shorter.
struct Second {
  double seconds = 0;
  uint64_t received = 0;
  uint64_t server_cpu_ns = 0;
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
  bool underloaded = false;         // less was offered than asked for, or lost on this side
};

// What one trial offers; rates as in Trial.
struct Offer {
  double rate = 0;
  double rate_to = 0;
  double warm_up_s = 0;
  double duration_s = 0;

  [[nodiscard]] static Offer of(const Options& options);
};

using MakeWorker = std::function<std::unique_ptr<Worker>(uint32_t thread)>;

// The generator threads: prepared once, then any number of trials, then finished.
class Crew {
 public:
  Crew(const Options& options, const MakeWorker& make);
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;
  ~Crew();

  // All workers' set-up; a sentence when one could not.
  [[nodiscard]] std::string prepare();
  // One trial. `title` begins the progress line on a terminal.
  [[nodiscard]] Result run(const Offer& offer, const std::string& title = {});

 private:
  struct Shared;
  void work(Worker& worker);
  void watch(const Trial& trial, const std::string& title, Result& result);

  const Options& options_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::unique_ptr<Shared> shared_;
  std::optional<ServerCpu> cpu_;
  CpuSample before_;
  CpuSample ready_;
  std::vector<std::thread> threads_;
};

// One trial of the options' own rate and times; false after printing why not.
[[nodiscard]] bool run_once(const Options& options, const MakeWorker& make, Result& result);

// Set by SIGINT or SIGTERM: workers stop early, what was measured is still reported.
[[nodiscard]] bool interrupted();
void catch_signals();

void judge_limits(Result& result);
void print_summary(const Result& result);
// Both write where --json says; false after printing why not.
[[nodiscard]] bool write_json(const Result& result);

// Measures against a reflector of this process; its own main loop because of that thread.
[[nodiscard]] int calibrate(Options options);
// The zero-loss search: many trials on one crew.
[[nodiscard]] int search(const Options& options, const MakeWorker& make);

}  // namespace culvert::load
