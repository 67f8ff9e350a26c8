#include "control/logging.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <stdexcept>
#include <utility>

#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <nlohmann/json.hpp>

namespace culvert {

namespace {

// It names users and addresses, so it is for its owner and the group that reads logs.
constexpr mode_t kLogFileMode = 0640;

struct CodePoint {
  uint32_t value = 0;
  size_t bytes = 0;  // 0: not valid UTF-8 here
};

// RFC 3629: shortest form only, no surrogates, at most U+10FFFF.
[[nodiscard]] CodePoint decode_utf8(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < length) return {};
  uint32_t value = lead & (0x7fu >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {};
    value = value << 6 | (byte(i) & 0x3f);
  }
  static constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = value >= 0xd800 && value <= 0xdfff;
  if (value < kSmallest[length] || surrogate || value > 0x10ffff) return {};
  return {value, length};
}

// Characters that would end a line, move a cursor or turn the reading direction of what follows.
[[nodiscard]] bool unsafe(uint32_t c) {
  return c < 0x20 || (c >= 0x7f && c <= 0x9f) || c == 0x200e || c == 0x200f ||
         (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || c == 0xfeff;
}

[[nodiscard]] bool plain(std::string_view value) {
  if (value.empty()) return false;
  return std::all_of(value.begin(), value.end(), [](char c) {
    return c > ' ' && c < 0x7f && c != '"' && c != '=' && c != '\\';
  });
}

void append_hex(std::string& out, uint8_t byte) {
  static constexpr char kDigits[] = "0123456789abcdef";
  out += "\\x";
  out += kDigits[byte >> 4];
  out += kDigits[byte & 15];
}

void append_escaped(std::string& out, std::string_view value) {
  while (!value.empty()) {
    const CodePoint c = decode_utf8(value);
    const size_t take = std::max<size_t>(c.bytes, 1);
    if (c.bytes == 0 || unsafe(c.value)) {
      if (c.value == '\n')
        out += "\\n";
      else
        for (size_t i = 0; i < take; ++i)
          append_hex(out, static_cast<uint8_t>(value[i]));
    } else if (c.value == '"' || c.value == '\\') {
      out += '\\';
      out += value[0];
    } else {
      out.append(value.substr(0, take));
    }
    value.remove_prefix(take);
  }
}

[[nodiscard]] std::string_view level_name(LogLevel level) {
  switch (level) {
    case LogLevel::kTrace:
      return "trace";
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "error";
}

[[nodiscard]] spdlog::level::level_enum spdlog_level(LogLevel level) {
  switch (level) {
    case LogLevel::kTrace:
      return spdlog::level::trace;
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

// "2026-11-21T04:03:29.123Z" (RFC 3339, UTC).
void append_time(std::string& out) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  std::tm parts{};
  gmtime_r(&now.tv_sec, &parts);
  char text[40];
  const size_t n = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  out.append(text, n);
  std::snprintf(text, sizeof text, ".%03ldZ", now.tv_nsec / 1000000);
  out += text;
}

void append_number(std::string& out, const LogField::Value& value) {
  if (const auto* i = std::get_if<int64_t>(&value)) out += std::to_string(*i);
  if (const auto* u = std::get_if<uint64_t>(&value)) out += std::to_string(*u);
  if (const auto* b = std::get_if<bool>(&value)) out += *b ? "true" : "false";
  if (const auto* d = std::get_if<double>(&value)) {
    char text[32];
    std::snprintf(text, sizeof text, "%.6g", *d);
    out += text;
  }
}

// Text that cannot be UTF-8 becomes U+FFFD, what is not ASCII \uNNNN: a JSON reader gets the
// characters back, a terminal that shows the raw line is not driven by them.
void append_json_string(std::string& out, std::string_view text) {
  out += nlohmann::json(std::string(text.substr(0, kMaxLogValueBytes)))
             .dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

void append_text_line(std::string& out, LogLevel level, std::string_view message,
                      LogFields fields) {
  append_time(out);
  out += ' ';
  out += level_name(level);
  out += ' ';
  append_escaped(out, message);
  for (const LogField& f : fields) {
    out += ' ';
    out += f.key;
    out += '=';
    if (const auto* s = std::get_if<std::string_view>(&f.value))
      append_log_value(out, *s);
    else
      append_number(out, f.value);
  }
}

void append_json_line(std::string& out, LogLevel level, std::string_view message,
                      LogFields fields) {
  out += R"({"time":")";
  append_time(out);
  out += R"(","level":")";
  out += level_name(level);
  out += R"(","message":)";
  append_json_string(out, message);
  for (const LogField& f : fields) {
    out += ',';
    append_json_string(out, f.key);
    out += ':';
    if (const auto* s = std::get_if<std::string_view>(&f.value))
      append_json_string(out, *s);
    else
      append_number(out, f.value);
  }
  out += '}';
}

// spdlog's own sinks for the standard streams flush every line: a system call for each allocation
// that ends, a tenth of a busy relay's time.
class StreamSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit StreamSink(std::FILE* stream) : stream_(stream) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    line_.clear();
    formatter_->format(message, line_);
    // A reader that is gone loses its lines; there is nobody to tell.
    (void)std::fwrite(line_.data(), 1, line_.size(), stream_);
  }
  void flush_() override { (void)std::fflush(stream_); }

  std::FILE* stream_;
  spdlog::memory_buf_t line_;
};

[[nodiscard]] spdlog::sink_ptr make_sink(const std::string& target) {
  if (target == "stderr") return std::make_shared<StreamSink>(stderr);
  if (target == "stdout") return std::make_shared<StreamSink>(stdout);
  // Opened once by ourselves: spdlog would make missing folders, and a file that everyone may read.
  const int fd = open(target.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, kLogFileMode);
  if (fd < 0)
    throw std::runtime_error("log.target: " + target +
                             " cannot be opened: " + std::strerror(errno));
  close(fd);
  try {
    return std::make_shared<spdlog::sinks::basic_file_sink_mt>(target);
  } catch (const spdlog::spdlog_ex& e) {
    throw std::runtime_error("log.target: " + std::string(e.what()));
  }
}

}  // namespace

void append_log_value(std::string& out, std::string_view value) {
  const bool cut = value.size() > kMaxLogValueBytes;
  value = value.substr(0, kMaxLogValueBytes);
  if (!cut && plain(value)) {
    out.append(value);
    return;
  }
  out += '"';
  append_escaped(out, value);
  if (cut) out += "...";
  out += '"';
}

Logger::Logger(const LogConfig& config)
    : Logger(config.format, config.level, make_sink(config.target)) {
  to_stderr_ = config.target == "stderr";
}

Logger::Logger(LogFormat format, LogLevel level, spdlog::sink_ptr sink)
    : format_(format),
      level_(level),
      sink_(std::move(sink)),
      logger_(std::make_shared<spdlog::logger>("culvert", sink_)) {
  logger_->set_pattern("%v");
  logger_->set_level(spdlog::level::trace);
  logger_->flush_on(spdlog::level::trace);
}

Logger::~Logger() {
  flush();
}

void Logger::start_writer() {
  pool_ = std::make_shared<spdlog::details::thread_pool>(kLogQueueLines, 1);
  logger_ = std::make_shared<spdlog::async_logger>("culvert", sink_, pool_,
                                                   spdlog::async_overflow_policy::overrun_oldest);
  logger_->set_pattern("%v");
  logger_->set_level(spdlog::level::trace);
  // An error may be our last words; everything else waits for push(), many lines in one write.
  logger_->flush_on(spdlog::level::err);
  if (to_stderr_) (void)setvbuf(stderr, nullptr, _IOFBF, kLogWriteBytes);
}

void Logger::push() {
  if (pool_ == nullptr || !unpushed_) return;
  unpushed_ = false;
  logger_->flush();  // queued behind the lines
}

void Logger::flush() {
  if (pool_ != nullptr) {
    // Ending the pool writes what is queued and joins its thread; from here on the caller writes.
    logger_.reset();
    pool_.reset();
    logger_ = std::make_shared<spdlog::logger>("culvert", sink_);
    logger_->set_pattern("%v");
    logger_->set_level(spdlog::level::trace);
    logger_->flush_on(spdlog::level::trace);
  }
  sink_->flush();
}

uint64_t Logger::dropped() const {
  return pool_ == nullptr ? 0 : pool_->overrun_counter();
}

void Logger::log(LogLevel level, std::string_view message, LogFields fields) {
  if (enabled(level)) write(level, message, fields, 0);
}

Logger::Limiter& Logger::limiter(std::string_view message) {
  for (size_t i = 0; i < limiters_used_; ++i) {
    if (limiters_[i].message == message) return limiters_[i];
  }
  if (limiters_used_ < limiters_.size()) {
    limiters_[limiters_used_].message = message;
    return limiters_[limiters_used_++];
  }
  return limiters_.back();
}

void Logger::limited(LogLevel level, std::string_view message, LogFields fields) {
  if (!enabled(level)) return;
  Limiter& l = limiter(message);
  const Clock::time_point now = Clock::now();
  uint64_t suppressed = 0;
  if (now - l.window_start >= kLogWindow) {
    suppressed = std::exchange(l.suppressed, 0);
    l.window_start = now;
    l.written = 0;
  }
  if (l.written >= kLogBurst) {
    ++l.suppressed;
    return;
  }
  ++l.written;
  write(level, message, fields, suppressed);
}

void Logger::write(LogLevel level, std::string_view message, LogFields fields,
                   uint64_t suppressed) {
  line_.clear();
  if (format_ == LogFormat::kText) {
    append_text_line(line_, level, message, fields);
    if (suppressed != 0) line_ += " suppressed=" + std::to_string(suppressed);
  } else {
    append_json_line(line_, level, message, fields);
    if (suppressed != 0) {
      line_.pop_back();
      line_ += ",\"suppressed\":" + std::to_string(suppressed) + "}";
    }
  }
  unpushed_ = true;
  logger_->log(spdlog_level(level), spdlog::string_view_t(line_.data(), line_.size()));
}

}  // namespace culvert
