#include "control/metrics.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <vector>

#include "dataplane/api/stats_names.h"

namespace culvert {

namespace {

class Page {
 public:
  void family(std::string_view name, std::string_view type, std::string_view help) {
    name_ = name;
    out_.append("# HELP ").append(name).append(" ").append(help).append("\n");
    out_.append("# TYPE ").append(name).append(" ").append(type).append("\n");
  }
  // `labels`: complete, without braces; empty: none.
  void sample(std::string_view labels, uint64_t value) { line(labels, std::to_string(value)); }
  void sample(std::string_view labels, double value) {
    char text[40];
    std::snprintf(text, sizeof text, "%.3f", value);
    line(labels, text);
  }
  void one(std::string_view name, std::string_view type, std::string_view help, uint64_t value) {
    family(name, type, help);
    sample("", value);
  }
  [[nodiscard]] std::string take() { return std::move(out_); }

 private:
  void line(std::string_view labels, std::string_view value) {
    out_.append(name_);
    if (!labels.empty()) out_.append("{").append(labels).append("}");
    out_.append(" ").append(value).append("\n");
  }
  std::string out_;
  std::string name_;
};

// Text format: backslash, quote and newline are escaped in label values.
[[nodiscard]] std::string label(std::string_view name, std::string_view value) {
  std::string out(name);
  out += "=\"";
  for (const char c : value) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n')
      out += "\\n";
    else
      out += c;
  }
  return out + "\"";
}

[[nodiscard]] std::string core_label(CoreId core) {
  return label("core", std::to_string(core));
}

void add_cores(Page& page, const MetricsContext& c) {
  for (const CoreCounterInfo& m : kCoreCounters) {
    page.family(m.metric, m.kind == CounterKind::kGauge ? "gauge" : "counter", m.help);
    for (CoreId core = 0; core < c.engine.cores(); ++core) {
      const uint64_t value = (c.engine.stats(core).*m.counter).get();
      if (m.kind == CounterKind::kCycles)
        page.sample(core_label(core),
                    c.cycle_clock == nullptr ? 0.0 : c.cycle_clock->seconds(value));
      else
        page.sample(core_label(core), value);
    }
  }
  page.family("culvert_core_stalled", "gauge", "1 while the core's loop does not move.");
  for (CoreId core = 0; core < c.engine.cores(); ++core)
    page.sample(core_label(core), uint64_t{c.watchdog.stalled(core)});

  static constexpr std::string_view kSeverity[] = {"ok", "normal", "notice", "hostile"};
  page.family("culvert_outcomes_total", "counter",
              "Datagrams by how they ended; see `culvertctl drops` for what each outcome means.");
  for (size_t i = 0; i < kOutcomes; ++i) {
    const OutcomeInfo& about = kOutcomeInfo[i];
    const std::string tail = "," + label("outcome", about.name) + "," +
                             label("severity", kSeverity[static_cast<size_t>(about.severity)]);
    for (CoreId core = 0; core < c.engine.cores(); ++core)
      page.sample(core_label(core) + tail, c.engine.stats(core).outcomes[i].get());
  }
  // Only a driver that sees frames has any.
  if (c.config().driver != "dpdk") return;
  page.family("culvert_frames_total", "counter",
              "Frames that were no datagrams, or could not be sent, or were answered by the port.");
  for (size_t i = 0; i < kFrameCounters; ++i) {
    const FrameCounterInfo& about = kFrameCounterInfo[i];
    const std::string tail = "," + label("frame", about.name) + "," +
                             label("severity", kSeverity[static_cast<size_t>(about.severity)]);
    for (CoreId core = 0; core < c.engine.cores(); ++core)
      page.sample(core_label(core) + tail, c.engine.stats(core).frames[i].get());
  }
}

// Of ports that are ours; where the kernel has them, its own tools count.
void add_ports(Page& page, const MetricsContext& c) {
  if (!c.ports || c.ports().empty()) return;
  for (const PortCounterInfo& m : kPortCounters) {
    page.family(m.metric, m.kind == CounterKind::kGauge ? "gauge" : "counter", m.help);
    for (const PortStats& port : c.ports())
      page.sample(label("port", port.name.data()) + "," + label("driver", port.driver.data()),
                  (port.*m.counter).get());
  }
}

void add_turn(Page& page, const MetricsContext& c) {
  const TurnStats s = c.turn.stats();
  page.one("culvert_allocations", "gauge", "Live allocations.", s.allocations);
  page.one("culvert_allocations_limit", "gauge", "Allocations the relay may hold.",
           c.config().limits.max_allocations);
  page.one("culvert_relay_ports", "gauge", "Relayed ports over all relay addresses.",
           s.ports_total);
  page.one("culvert_relay_ports_free", "gauge", "Relayed ports not in use.", s.ports_free);
  page.one("culvert_reservations", "gauge", "Ports held by reservation tokens.", s.reservations);
  page.one("culvert_known_users", "gauge", "Users with allocations or cached keys.", s.known_users);
  page.one("culvert_turn_requests_total", "counter", "Requests with integrity taken by control.",
           s.requests);
  page.one("culvert_turn_requests_malformed_total", "counter",
           "Requests from a core that control could not parse.", s.malformed);
  page.one("culvert_allocations_created_total", "counter", "Allocations made.", s.allocations_made);
  page.one("culvert_allocate_retransmissions_total", "counter",
           "Allocate requests answered again for an allocation that exists.",
           s.retransmitted_allocates);
  page.one("culvert_refreshes_total", "counter", "Refresh requests granted.", s.refreshes);
  page.one("culvert_permission_requests_total", "counter", "CreatePermission requests granted.",
           s.permission_requests);
  page.one("culvert_channel_binds_total", "counter", "ChannelBind requests granted.",
           s.channel_binds);
  page.one("culvert_reservations_created_total", "counter", "Reservation tokens given out.",
           s.reservations_made);
  page.one("culvert_reservations_used_total", "counter", "Reservation tokens redeemed.",
           s.reservations_used);
  page.one("culvert_port_retries_total", "counter",
           "Relayed ports drawn that another process had taken.", s.port_retries);
  page.one("culvert_command_ring_full_total", "counter",
           "Requests dropped because a core's command ring was full.", s.command_ring_full);
  page.one("culvert_turn_requests_silenced_total", "counter",
           "Requests dropped because their source had failed to authenticate too often.",
           s.requests_silenced);
  page.family("culvert_turn_errors_total", "counter", "Error responses by STUN error code.");
  for (size_t i = 0; i < kTurnErrorCodes.size(); ++i)
    page.sample(label("code", std::to_string(kTurnErrorCodes[i])), s.errors[i]);
  page.family("culvert_allocations_ended_total", "counter", "Allocations ended, by reason.");
  for (size_t i = 0; i < s.ended.size(); ++i)
    page.sample(label("reason", to_string(static_cast<EndReason>(i))), s.ended[i]);

  const std::vector<RealmConfig>& realms = c.config().realms;
  if (s.allocations > kMaxCountedByRealm) return;
  std::vector<uint64_t> counts(realms.size());
  c.turn.each_allocation(0, [&](const AllocationInfo& a) {
    for (size_t i = 0; i < realms.size(); ++i) {
      if (realms[i].name == a.realm) ++counts[i];
    }
    return true;
  });
  page.family("culvert_realm_allocations", "gauge", "Live allocations by realm.");
  for (size_t i = 0; i < realms.size(); ++i)
    page.sample(label("realm", realms[i].name), counts[i]);
}

// Virtual and resident size from /proc/self/statm, in pages; false: not readable.
[[nodiscard]] bool read_memory(uint64_t& virtual_pages, uint64_t& resident_pages) {
  FILE* file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return false;
  const int n = std::fscanf(file, "%" SCNu64 " %" SCNu64, &virtual_pages, &resident_pages);
  std::fclose(file);
  return n == 2;
}

// Field 22 of /proc/self/stat: when the process started, in clock ticks since boot.
[[nodiscard]] bool read_start_ticks(uint64_t& ticks) {
  FILE* file = std::fopen("/proc/self/stat", "re");
  if (file == nullptr) return false;
  char text[1024] = {};
  const size_t n = std::fread(text, 1, sizeof text - 1, file);
  std::fclose(file);
  text[n] = 0;
  const char* at = std::strrchr(text, ')');  // the name may hold anything, a parenthesis included
  for (int field = 2; at != nullptr && field < 22; ++field)
    at = std::strchr(at + 1, ' ');
  return at != nullptr && std::sscanf(at, "%" SCNu64, &ticks) == 1;
}

[[nodiscard]] double boot_time() {
  timespec wall{}, boot{};
  clock_gettime(CLOCK_REALTIME, &wall);
  clock_gettime(CLOCK_BOOTTIME, &boot);
  return static_cast<double>(wall.tv_sec - boot.tv_sec) +
         static_cast<double>(wall.tv_nsec - boot.tv_nsec) / 1e9;
}

[[nodiscard]] uint64_t count_open_fds() {
  DIR* dir = opendir("/proc/self/fd");
  if (dir == nullptr) return 0;
  uint64_t n = 0;
  while (const dirent* entry = readdir(dir))
    n += entry->d_name[0] != '.';
  closedir(dir);
  return n == 0 ? 0 : n - 1;  // not the folder we are reading
}

// The names that every Prometheus client library uses for its process.
void add_process(Page& page) {
  rusage use{};
  getrusage(RUSAGE_SELF, &use);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  page.family("process_cpu_seconds_total", "counter", "User and system CPU time spent.");
  page.sample("", seconds(use.ru_utime) + seconds(use.ru_stime));
  uint64_t virtual_pages = 0, resident_pages = 0, start_ticks = 0;
  if (read_memory(virtual_pages, resident_pages)) {
    const auto page_size = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    page.one("process_virtual_memory_bytes", "gauge", "Virtual memory size.",
             virtual_pages * page_size);
    page.one("process_resident_memory_bytes", "gauge", "Resident memory size.",
             resident_pages * page_size);
  }
  page.one("process_open_fds", "gauge", "Open file descriptors.", count_open_fds());
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  page.one("process_max_fds", "gauge", "File descriptors the process may open.", limit.rlim_cur);
  if (read_start_ticks(start_ticks)) {
    page.family("process_start_time_seconds", "gauge", "Start of the process, unix time.");
    page.sample("", boot_time() + static_cast<double>(start_ticks) /
                                      static_cast<double>(sysconf(_SC_CLK_TCK)));
  }
}

}  // namespace

std::string render_metrics(const MetricsContext& c) {
  Page page;
  page.family("culvert_build_info", "gauge", "Always 1; the labels say what is running.");
  page.sample(label("version", CULVERT_VERSION) + "," + label("driver", c.config().driver),
              uint64_t{1});
  page.family("culvert_state", "gauge", "1 for the state the relay is in.");
  for (const ServiceState s : {ServiceState::kStarting, ServiceState::kReady,
                               ServiceState::kDraining, ServiceState::kStopping})
    page.sample(label("state", to_string(s)), uint64_t{c.state() == s});
  page.one("culvert_log_lines_dropped_total", "counter",
           "Log lines lost because their reader was too slow.", c.log_lines_dropped());
  page.one("culvert_control_clients", "gauge", "Connections to the control socket.",
           c.control_clients());
  add_turn(page, c);
  add_cores(page, c);
  add_ports(page, c);
  add_process(page);
  return page.take();
}

}  // namespace culvert
