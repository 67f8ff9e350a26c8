// Structured logs: one line per event, as text for people (logfmt-like) or as JSON lines. Owned by
// main and handed down by reference; there is no global logger. Only the control thread logs: fast
// cores count, they never format.
//
// Whatever came from the network (user names above all) is escaped so that one event stays one line
// and a terminal is never driven by a client. Warnings that a client can provoke are rate limited,
// and what was held back is told. After `start_writer` a thread of its own does the writing, so
// that a stuck reader of our stderr never stalls control; lines beyond its queue are dropped,
// oldest first, and counted.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>

#include <spdlog/async.h>
#include <spdlog/logger.h>

#include "config/config.h"

namespace culvert {

// Longest value written; the rest is cut and marked. USERNAME may be 508 bytes (RFC 8489
// section 14.3).
inline constexpr size_t kMaxLogValueBytes = 600;
// Lines waiting for the writer: at 200 bytes each 1.6 MiB, and half a second of the most
// allocations that one control thread ends.
inline constexpr size_t kLogQueueLines = 8192;
// Text gathered before it is written whatever the time: 300 lines.
inline constexpr size_t kLogWriteBytes = 64 * 1024;
// A rate limited event writes this many lines per window, then only counts.
inline constexpr uint32_t kLogBurst = 5;
inline constexpr std::chrono::seconds kLogWindow{10};
// Different rate limited events; more of them share the last place.
inline constexpr size_t kLogLimiters = 64;

// One key and value of a line. The key is ours ([a-z_]); the value may be anybody's.
struct LogField {
  using Value = std::variant<std::string_view, int64_t, uint64_t, double, bool>;

  LogField(std::string_view k, std::string_view v) : key(k), value(v) {}
  LogField(std::string_view k, const char* v) : key(k), value(std::string_view(v)) {}
  LogField(std::string_view k, const std::string& v) : key(k), value(std::string_view(v)) {}
  LogField(std::string_view k, bool v) : key(k), value(v) {}
  LogField(std::string_view k, double v) : key(k), value(v) {}
  template <class T>
  requires(std::is_integral_v<T> && !std::is_same_v<T, bool>) LogField(std::string_view k, T v)
      : key(k) {
    if constexpr (std::is_signed_v<T>)
      value = static_cast<int64_t>(v);
    else
      value = static_cast<uint64_t>(v);
  }

  std::string_view key;
  Value value;
};
using LogFields = std::initializer_list<LogField>;

// Appends `value` so that it can stand in a text line: bare when it is plain, else quoted, with
// control characters, invalid UTF-8, line separators and bidirectional overrides as \xNN.
void append_log_value(std::string& out, std::string_view value);

class Logger {
 public:
  // Writes to config.target. Throws std::runtime_error naming the file that cannot be opened; open
  // it before privileges are dropped. Files are appended to (rotate them with copytruncate).
  explicit Logger(const LogConfig& config);
  // Writes to `sink` (tests).
  Logger(LogFormat format, LogLevel level, spdlog::sink_ptr sink);
  ~Logger();
  Logger(const Logger&) = delete;
  Logger& operator=(const Logger&) = delete;

  // Hands writing to a thread. Call once, after privileges were dropped (a thread keeps those it
  // was born with).
  void start_writer();

  void set_level(LogLevel level) { level_ = level; }
  [[nodiscard]] bool enabled(LogLevel level) const { return level >= level_; }

  void log(LogLevel level, std::string_view message, LogFields fields = {});
  void debug(std::string_view message, LogFields fields = {}) {
    log(LogLevel::kDebug, message, fields);
  }
  void info(std::string_view message, LogFields fields = {}) {
    log(LogLevel::kInfo, message, fields);
  }
  void warning(std::string_view message, LogFields fields = {}) {
    log(LogLevel::kWarning, message, fields);
  }
  void error(std::string_view message, LogFields fields = {}) {
    log(LogLevel::kError, message, fields);
  }

  // As log(), at most kLogBurst lines per kLogWindow for each `message` (a literal: its text is the
  // key). The first line of the next window carries suppressed=N.
  void limited(LogLevel level, std::string_view message, LogFields fields = {});

  // Asks the writer to hand what was logged since the last call to the system. The control loop's
  // tick calls it, so a line is at most kControlTick late and a busy relay makes one write for many
  // lines.
  void push();
  // Everything logged so far has reached the sink when this returns (at exit; tests).
  void flush();
  // Lines lost because the sink was too slow.
  [[nodiscard]] uint64_t dropped() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Limiter {
    std::string_view message;
    Clock::time_point window_start;
    uint32_t written = 0;
    uint64_t suppressed = 0;
  };

  void write(LogLevel level, std::string_view message, LogFields fields, uint64_t suppressed);
  [[nodiscard]] Limiter& limiter(std::string_view message);

  LogFormat format_;
  LogLevel level_;
  spdlog::sink_ptr sink_;
  std::shared_ptr<spdlog::details::thread_pool> pool_;  // null: written by the caller
  std::shared_ptr<spdlog::logger> logger_;
  std::array<Limiter, kLogLimiters> limiters_{};
  size_t limiters_used_ = 0;
  std::string line_;  // reused
  bool to_stderr_ = false;
  bool unpushed_ = false;
};

}  // namespace culvert
