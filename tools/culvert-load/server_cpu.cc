#include "tools/culvert-load/server_cpu.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace culvert::load {
namespace {

uint64_t clock_ns(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

uint64_t tick_ns() {
  return 1'000'000'000 / static_cast<uint64_t>(sysconf(_SC_CLK_TCK));
}

struct ProcessTimes {
  uint64_t user_ns = 0;
  uint64_t system_ns = 0;
};

// Fields 14 and 15 of /proc/PID/stat; the name in field 2 may hold spaces, so count from its end.
ProcessTimes process_times(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(file, line);
  const auto name_end = line.rfind(')');
  if (name_end == std::string::npos) return {};
  std::istringstream fields(line.substr(name_end + 1));
  std::string skipped;
  for (int i = 0; i < 11; ++i)
    fields >> skipped;
  ProcessTimes out;
  fields >> out.user_ns >> out.system_ns;
  out.user_ns *= tick_ns();
  out.system_ns *= tick_ns();
  return out;
}

uint64_t machine_softirq_ns() {
  std::ifstream file("/proc/stat");
  std::string name;
  uint64_t value = 0;
  file >> name;
  for (int i = 0; i < 7; ++i)
    file >> value;  // user nice system idle iowait irq softirq
  return value * tick_ns();
}

uint64_t rss_bytes(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/statm");
  uint64_t total = 0;
  uint64_t resident = 0;
  file >> total >> resident;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

std::vector<pid_t> find_ksoftirqd() {
  std::vector<pid_t> out;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    const std::string folder = entry.path().filename();
    pid_t pid = 0;
    const auto end = folder.data() + folder.size();
    if (std::from_chars(folder.data(), end, pid).ptr != end) continue;
    std::ifstream file(entry.path() / "comm");
    std::string name;
    std::getline(file, name);
    if (name.starts_with("ksoftirqd/")) out.push_back(pid);
  }
  return out;
}

std::string field_of(const char* path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const auto colon = line.find(':');
    const auto start = line.find_first_not_of(" \t", colon + 1);
    return start == std::string::npos ? "" : line.substr(start);
  }
  return "";
}

}  // namespace

uint64_t monotonic_ns() {
  return clock_ns(CLOCK_MONOTONIC);
}
uint64_t thread_cpu_ns() {
  return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}
uint64_t own_cpu_ns() {
  return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

std::optional<ServerCpu> ServerCpu::watch(pid_t pid, std::string& error) {
  ServerCpu out;
  out.pid_ = pid;
  out.ksoftirqd_ = find_ksoftirqd();
  if (pid != 0 && clock_getcpuclockid(pid, &out.clock_) != 0) {
    error = "--server-pid " + std::to_string(pid) + ": there is no such process on this machine";
    return std::nullopt;
  }
  return out;
}

CpuSample ServerCpu::sample() const {
  CpuSample out;
  out.at_ns = monotonic_ns();
  out.softirq_ns = machine_softirq_ns();
  for (const pid_t pid : ksoftirqd_) {
    const auto times = process_times(pid);
    out.ksoftirqd_ns += times.user_ns + times.system_ns;
  }
  if (pid_ == 0) return out;
  out.process_ns = clock_ns(clock_);
  const auto times = process_times(pid_);
  out.user_ns = times.user_ns;
  out.system_ns = times.system_ns;
  out.rss_bytes = rss_bytes(pid_);
  return out;
}

Machine machine() {
  Machine out;
  utsname names{};
  uname(&names);
  out.kernel = std::string(names.sysname) + " " + names.release + " " + names.machine;
  out.host = names.nodename;
  out.processor = field_of("/proc/cpuinfo", "model name");
  out.cpus = static_cast<unsigned>(sysconf(_SC_NPROCESSORS_ONLN));
  out.memory_bytes =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return out;
}

}  // namespace culvert::load
