#include "tools/culvertctl/top.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <memory>
#include <utility>

#include "control/operations.h"
#include "tools/culvertctl/client.h"
#include "tools/culvertctl/render.h"

namespace culvert {

using nlohmann::json;

namespace {

volatile std::sig_atomic_t stop_asked = 0;

// ---------------------------------------------------------------- rates

// Differences and gauges of one core or port between two looks.
class Block {
 public:
  Block(const StatsReader& reader, StatsScope scope, const std::vector<uint64_t>& before,
        const std::vector<uint64_t>& now, double seconds)
      : reader_(reader), scope_(scope), before_(before), now_(now), seconds_(seconds) {}

  [[nodiscard]] bool has(std::string_view name) const {
    return reader_.find(scope_, name) != now_.size();
  }
  [[nodiscard]] uint64_t value(std::string_view name) const {
    const size_t i = reader_.find(scope_, name);
    return i == now_.size() ? 0 : now_[i];
  }
  [[nodiscard]] uint64_t moved(std::string_view name) const {
    const size_t i = reader_.find(scope_, name);
    return i == now_.size() ? 0 : moved(i);
  }
  [[nodiscard]] uint64_t moved(size_t i) const {
    return now_[i] >= before_[i] ? now_[i] - before_[i] : 0;
  }
  [[nodiscard]] double rate(std::string_view name) const { return rate_of(moved(name)); }
  [[nodiscard]] double rate_of(uint64_t count) const {
    return seconds_ > 0 ? static_cast<double>(count) / seconds_ : 0;
  }

 private:
  const StatsReader& reader_;
  StatsScope scope_;
  const std::vector<uint64_t>& before_;
  const std::vector<uint64_t>& now_;
  double seconds_;
};

[[nodiscard]] double share(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : std::min(1.0, static_cast<double>(part) / static_cast<double>(whole));
}

[[nodiscard]] uint64_t drops_of(const StatsReader& reader, const Block& core) {
  uint64_t count = 0;
  for (size_t i = 0; i < reader.names().size(); ++i)
    if (reader.names()[i].scope == StatsScope::kCore && reader.names()[i].severity != 0)
      count += core.moved(i);
  return count;
}

[[nodiscard]] json core_view(const StatsReader& reader, const Block& core, size_t id,
                             uint64_t cycles) {
  json out = {{"core", id},
              {"moves", core.moved("loops") != 0},
              {"in_per_second", core.rate("received_packets")},
              {"in_bytes_per_second", core.rate("received_bytes")},
              {"out_per_second", core.rate("sent_packets")},
              {"out_bytes_per_second", core.rate("sent_bytes")},
              {"drops_per_second", core.rate_of(drops_of(reader, core))},
              {"handed_over_per_second", core.rate("outcome/handoff")},
              {"handed_in_per_second", core.rate("handed_in")},
              {"allocations", core.value("allocations")},
              {"cycles_per_packet", nullptr}};
  if (core.has("busy_cycles")) {
    const uint64_t packets = core.moved("received_packets") + core.moved("handed_in");
    out["busy_share"] = share(core.moved("busy_cycles"), cycles);
    out["sleep_share"] = share(core.moved("sleep_cycles"), cycles);
    if (packets != 0) out["cycles_per_packet"] = core.moved("busy_cycles") / packets;
  }
  if (core.has("heap_bytes")) out["heap_bytes"] = core.value("heap_bytes");
  return out;
}

// Everything that is no traffic, the fastest first.
[[nodiscard]] json drops_view(const StatsReader& reader, const StatsSample& before,
                              const StatsSample& now, double seconds) {
  std::vector<json> drops;
  for (size_t i = 0; i < reader.names().size(); ++i) {
    const StatsNameView& about = reader.names()[i];
    if (about.scope != StatsScope::kCore || about.severity == 0) continue;
    uint64_t total = 0, moved = 0;
    for (size_t core = 0; core < now.cores.size(); ++core) {
      total += now.cores[core][i];
      moved += now.cores[core][i] - std::min(before.cores[core][i], now.cores[core][i]);
    }
    if (total == 0) continue;
    const size_t slash = about.name.find('/');
    constexpr const char* kSeverity[] = {"ok", "normal", "notice", "hostile"};
    drops.push_back({{"name", about.name.substr(slash + 1)},
                     {"kind", about.name.substr(0, slash)},
                     {"severity", kSeverity[std::min<size_t>(about.severity, 3)]},
                     {"total", total},
                     {"per_second", seconds > 0 ? static_cast<double>(moved) / seconds : 0}});
  }
  std::stable_sort(drops.begin(), drops.end(), [](const json& a, const json& b) {
    return std::pair(a["per_second"].get<double>(), a["total"].get<uint64_t>()) >
           std::pair(b["per_second"].get<double>(), b["total"].get<uint64_t>());
  });
  return drops;
}

[[nodiscard]] json port_view(const StatsSample::Port& port, const Block& block) {
  return {{"name", port.name},
          {"driver", port.driver},
          {"link_up", block.value("link_up") != 0},
          {"in_per_second", block.rate("received_packets")},
          {"out_per_second", block.rate("sent_packets")},
          {"missed", block.value("missed")},
          {"missed_per_second", block.rate("missed")},
          {"no_buffer", block.value("no_buffer")},
          {"no_buffer_per_second", block.rate("no_buffer")},
          {"receive_errors", block.value("receive_errors")},
          {"send_errors", block.value("send_errors")}};
}

[[nodiscard]] std::string state_name(uint32_t state) {
  if (state == kStatsEnded) return "ended";
  return state <= static_cast<uint32_t>(ServiceState::kStopping)
             ? std::string(to_string(static_cast<ServiceState>(state)))
             : "?";
}

// ---------------------------------------------------------------- text

[[nodiscard]] std::string whole(const json& from, const char* key) {
  return with_commas(static_cast<uint64_t>(from.value(key, 0.0) + 0.5));
}

[[nodiscard]] std::string bytes(const json& from, const char* key) {
  return with_bytes(static_cast<uint64_t>(from.value(key, 0.0) + 0.5));
}

[[nodiscard]] std::string percent(const json& from, const char* key) {
  if (!from.contains(key)) return "-";
  char text[16];
  std::snprintf(text, sizeof text, "%.0f%%", from.value(key, 0.0) * 100);
  return text;
}

[[nodiscard]] std::string head_lines(const json& view) {
  const json& total = view.at("total");
  std::string out = "culvertd " + printable(view.value("build", "")) + " " +
                    view.value("state", "") + ", driver " + printable(view.value("driver", "")) +
                    ", process " + std::to_string(view.value("pid", 0u)) + ", up " +
                    with_time(view.value("uptime_seconds", 0.0)) + "\n";
  const auto silent = view.value("control_silent_ms", uint64_t{0});
  if (view.value("state", "") != "ended" && silent > kControlSilentMs)
    out += "CONTROL IS SILENT for " + with_time(static_cast<double>(silent) / 1000) +
           ": no new allocations; numbers of ports are old\n";
  out += "in " + whole(total, "in_per_second") + "/s, " + bytes(total, "in_bytes_per_second") +
         "/s; out " + whole(total, "out_per_second") + "/s, " +
         bytes(total, "out_bytes_per_second") + "/s; dropped " + whole(total, "drops_per_second") +
         "/s; allocations " + with_commas(total.value("allocations", uint64_t{0})) + "\n\n";
  return out;
}

[[nodiscard]] std::string core_table(const json& view) {
  Table table({"CORE", "IN/S", "OUT/S", "DROPS/S", "CYC/PKT", "BUSY", "SLEEP", "ALLOCS", "HANDED/S",
               "IN B/S", "OUT B/S", "STATE"},
              {true, true, true, true, true, true, true, true, true, true, true, false});
  for (const json& c : view.at("cores")) {
    const json& cycles = c.at("cycles_per_packet");
    std::string state = c.value("moves", false) ? "ok" : "STANDS STILL";
    if (c.value("heap_bytes", uint64_t{0}) != 0)
      state += ", heap " + with_bytes(c.value("heap_bytes", uint64_t{0}));
    table.add({std::to_string(c.value("core", 0u)), whole(c, "in_per_second"),
               whole(c, "out_per_second"), whole(c, "drops_per_second"),
               cycles.is_null() ? "-" : with_commas(cycles.get<uint64_t>()),
               percent(c, "busy_share"), percent(c, "sleep_share"),
               with_commas(c.value("allocations", uint64_t{0})), whole(c, "handed_in_per_second"),
               bytes(c, "in_bytes_per_second"), bytes(c, "out_bytes_per_second"), state});
  }
  return table.text();
}

[[nodiscard]] std::string port_table(const json& view) {
  if (view.at("ports").empty()) return {};
  Table table({"PORT", "IN/S", "OUT/S", "MISSED/S", "MISSED", "NO BUFFER", "ERRORS", "LINK"},
              {false, true, true, true, true, true, true, false});
  for (const json& p : view.at("ports"))
    table.add(
        {printable(p.value("name", "")), whole(p, "in_per_second"), whole(p, "out_per_second"),
         whole(p, "missed_per_second"), with_commas(p.value("missed", uint64_t{0})),
         with_commas(p.value("no_buffer", uint64_t{0})),
         with_commas(p.value("receive_errors", uint64_t{0}) + p.value("send_errors", uint64_t{0})),
         p.value("link_up", false) ? "up" : "DOWN"});
  return "\n" + table.text();
}

[[nodiscard]] std::string drop_table(const json& view) {
  if (view.at("drops").empty()) return "\nnothing was dropped\n";
  Table table({"DROPS/S", "TOTAL", "SEVERITY", "REASON"}, {true, true, false, false});
  for (const json& d : view.at("drops"))
    table.add({whole(d, "per_second"), with_commas(d.value("total", uint64_t{0})),
               d.value("severity", ""), printable(d.value("name", ""))});
  return "\n" + table.text();
}

// ---------------------------------------------------------------- the screen

struct Size {
  size_t columns = 0;
  size_t rows = 0;
};

[[nodiscard]] Size screen_size() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0)
    return {80, 24};
  return {size.ws_col, size.ws_row};
}

// The alternate screen, without a cursor and without waiting for Enter; given back at the end.
class Screen {
 public:
  Screen() : keys_(isatty(STDIN_FILENO) != 0) {
    std::fputs("\x1b[?1049h\x1b[?25l", stdout);
    std::fflush(stdout);
    if (!keys_) return;
    tcgetattr(STDIN_FILENO, &before_);
    termios raw = before_;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
  }
  ~Screen() {
    if (keys_) tcsetattr(STDIN_FILENO, TCSANOW, &before_);
    std::fputs("\x1b[?25h\x1b[?1049l", stdout);
    std::fflush(stdout);
  }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  void show(const std::string& text) const {
    std::fputs("\x1b[H", stdout);
    std::string line;
    for (const char c : text)
      line += c == '\n' ? "\x1b[K\n" : std::string(1, c);
    std::fputs(line.c_str(), stdout);
    std::fputs("\x1b[J", stdout);
    std::fflush(stdout);
  }
  // False: q, or end of input.
  [[nodiscard]] bool keep(int key_fd) const {
    char key = 0;
    const ssize_t got = read(key_fd, &key, 1);
    return !(got == 0 || (got == 1 && (key == 'q' || key == 'Q')));
  }
  [[nodiscard]] bool keys() const { return keys_; }

 private:
  bool keys_;
  termios before_{};
};

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = [](int signal) {
    if (signal != SIGWINCH) stop_asked = 1;
  };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGWINCH})
    sigaction(signal, &action, nullptr);
}

using Clock = std::chrono::steady_clock;

class Top {
 public:
  explicit Top(const TopOptions& options)
      : options_(options),
        interval_(std::chrono::duration_cast<Clock::duration>(
            std::chrono::duration<double>(options.interval_seconds))) {}

  int run() {
    catch_signals();
    open();
    if (!options_.once && !options_.json_output && isatty(STDOUT_FILENO) != 0)
      screen_ = std::make_unique<Screen>();
    while (wait() && stop_asked == 0) {
      show();
      if (options_.once) break;
    }
    return 0;
  }

 private:
  void open() {
    reader_ = std::make_unique<StatsReader>(options_.stats_path);
    before_ = reader_->sample();
  }

  // Until the next refresh. False: the end was asked for.
  [[nodiscard]] bool wait() {
    const Clock::time_point due = Clock::now() + interval_;
    while (stop_asked == 0) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(due - Clock::now());
      if (left.count() <= 0) return true;
      pollfd key{screen_ != nullptr && screen_->keys() ? STDIN_FILENO : -1, POLLIN, 0};
      const int ready = poll(&key, 1, static_cast<int>(left.count()));
      if (ready < 0 && errno == EINTR && screen_ != nullptr && stop_asked == 0) draw();
      if (ready > 0 && !screen_->keep(key.fd)) return false;
    }
    return false;
  }

  // After a restart of the relay its successor is looked at.
  void show() {
    if (reader_->replaced()) {
      try {
        open();
        return;
      } catch (const Unreachable&) {
        if (options_.once || options_.json_output || screen_ == nullptr) throw;
      }
    }
    const StatsSample now = reader_->sample();
    view_ = top_view(*reader_, before_, now);
    before_ = now;
    if (options_.json_output)
      std::printf("%s\n", view_.dump(options_.once ? 2 : -1).c_str());
    else if (screen_ != nullptr)
      draw();
    else
      std::printf("%s%s", render_top(view_, 0, 0).c_str(), options_.once ? "" : "\n");
    std::fflush(stdout);
  }

  void draw() const {
    const Size size = screen_size();
    if (!view_.is_null()) screen_->show(render_top(view_, size.columns, size.rows));
  }

  const TopOptions& options_;
  Clock::duration interval_;
  std::unique_ptr<StatsReader> reader_;
  StatsSample before_;
  json view_;
  std::unique_ptr<Screen> screen_;
};

}  // namespace

json top_view(const StatsReader& reader, const StatsSample& before, const StatsSample& now) {
  const double seconds = static_cast<double>(now.at_ms - before.at_ms) / 1000;
  const uint64_t cycles = now.at_cycles - before.at_cycles;
  const auto unix_ms =
      static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                std::chrono::system_clock::now().time_since_epoch())
                                .count());
  json cores = json::array();
  json total = {{"in_per_second", 0.0},    {"in_bytes_per_second", 0.0},
                {"out_per_second", 0.0},   {"out_bytes_per_second", 0.0},
                {"drops_per_second", 0.0}, {"allocations", uint64_t{0}}};
  for (size_t i = 0; i < now.cores.size(); ++i) {
    const Block block(reader, StatsScope::kCore, before.cores[i], now.cores[i], seconds);
    json core = core_view(reader, block, i, cycles);
    for (auto& [key, sum] : total.items()) {
      if (sum.is_number_float())
        sum = sum.get<double>() + core.at(key).get<double>();
      else
        sum = sum.get<uint64_t>() + core.at(key).get<uint64_t>();
    }
    cores.push_back(std::move(core));
  }
  json ports = json::array();
  for (size_t i = 0; i < now.ports.size(); ++i) {
    // A port that was not there yet has no rate.
    const bool known = i < before.ports.size();
    const Block block(reader, StatsScope::kPort,
                      known ? before.ports[i].values : now.ports[i].values, now.ports[i].values,
                      seconds);
    ports.push_back(port_view(now.ports[i], block));
  }
  const uint64_t since = reader.started_unix_ms();
  return {{"build", reader.build()},
          {"driver", reader.driver()},
          {"state", state_name(now.state)},
          {"pid", reader.pid()},
          {"uptime_seconds", static_cast<double>(unix_ms - std::min(since, unix_ms)) / 1000},
          {"control_silent_ms", now.at_ms - std::min(now.control_seen_ms, now.at_ms)},
          {"interval_seconds", seconds},
          {"total", std::move(total)},
          {"cores", std::move(cores)},
          {"ports", std::move(ports)},
          {"drops", drops_view(reader, before, now, seconds)}};
}

std::string render_top(const json& view, size_t columns, size_t rows) {
  const std::string text =
      head_lines(view) + core_table(view) + port_table(view) + drop_table(view);
  if (columns == 0) return text;
  std::string out;
  size_t line = 0, begin = 0;
  while (begin < text.size() && line < rows) {
    const size_t end = text.find('\n', begin);
    out += (line == 0 ? "" : "\n") + text.substr(begin, std::min(end - begin, columns));
    begin = end + 1;
    ++line;
  }
  return out;
}

int run_top(const TopOptions& options) {
  return Top(options).run();
}

}  // namespace culvert
