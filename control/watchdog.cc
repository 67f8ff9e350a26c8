#include "control/watchdog.h"

#include <filesystem>
#include <fstream>

namespace culvert {

ThreadReport report_thread(const std::string& name) {
  ThreadReport report;
  std::error_code none;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task", none)) {
    std::string comm;
    std::getline(std::ifstream(task.path() / "comm"), comm);
    if (comm != name) continue;
    std::ifstream status(task.path() / "status");
    for (std::string line; std::getline(status, line);)
      if (line.starts_with("State:\t")) report.state = line.substr(7);
    uint64_t ran_ns = 0, waited_ns = 0;
    if (std::ifstream(task.path() / "schedstat") >> ran_ns >> waited_ns) {
      report.ran_ms = ran_ns / 1'000'000;
      report.waited_for_cpu_ms = waited_ns / 1'000'000;
    }
    break;
  }
  return report;
}

CoreWatchdog::Change CoreWatchdog::look(const Engine& engine, Clock::time_point now) {
  Change change;
  for (CoreId core = 0; core < engine.cores(); ++core) {
    Seen& seen = seen_[core];
    const uint64_t bit = uint64_t{1} << core;
    const uint64_t loops = engine.stats(core).loops.get();
    if (loops != seen.loops || seen.at == Clock::time_point{}) {
      seen = {loops, now};
      if ((stalled_ & bit) != 0) change.recovered |= bit;
      stalled_ &= ~bit;
    } else if (now - seen.at >= kCoreStall && (stalled_ & bit) == 0) {
      stalled_ |= bit;
      change.stalled |= bit;
    }
  }
  return change;
}

}  // namespace culvert
