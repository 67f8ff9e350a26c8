// What the server and this machine spent, read from outside the server: its CPU clock (all threads,
// ended ones too, in nanoseconds), user and system time, memory, and beside them the machine's
// softirq time and that of the ksoftirqd threads, because network work may be charged there.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace culvert::load {

struct CpuSample {
  uint64_t at_ns = 0;       // CLOCK_MONOTONIC
  uint64_t process_ns = 0;  // CPU time of the whole process
  uint64_t user_ns = 0;     // of it, by /proc/PID/stat (10 ms steps)
  uint64_t system_ns = 0;
  uint64_t softirq_ns = 0;    // of the machine, by /proc/stat (10 ms steps)
  uint64_t ksoftirqd_ns = 0;  // of the machine's ksoftirqd threads
  uint64_t rss_bytes = 0;
};

class ServerCpu {
 public:
  // pid 0: no server to watch; samples then hold the machine's share alone.
  [[nodiscard]] static std::optional<ServerCpu> watch(pid_t pid, std::string& error);
  [[nodiscard]] CpuSample sample() const;
  [[nodiscard]] bool watching() const { return pid_ != 0; }

 private:
  pid_t pid_ = 0;
  clockid_t clock_{};
  std::vector<pid_t> ksoftirqd_;
};

[[nodiscard]] uint64_t monotonic_ns();
[[nodiscard]] uint64_t own_cpu_ns();
[[nodiscard]] uint64_t thread_cpu_ns();

// Kernel, processor, memory: enough to tell whether two results may be compared.
struct Machine {
  std::string kernel;
  std::string processor;
  std::string host;
  unsigned cpus = 0;
  uint64_t memory_bytes = 0;
};
[[nodiscard]] Machine machine();

}  // namespace culvert::load
