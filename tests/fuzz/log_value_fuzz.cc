// Any bytes as a value in a log line, which may be a name that a client chose: the line stays one
// line of valid UTF-8 of bounded length without anything that drives a terminal, and as JSON it
// parses.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>

#include <spdlog/sinks/ostream_sink.h>
#include <nlohmann/json.hpp>

#include "config/units.h"
#include "control/logging.h"
#include "dataplane/base/assert.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace culvert;
  const std::string_view value(reinterpret_cast<const char*>(data), size);
  std::string text;
  append_log_value(text, value);
  // Each byte is at most four (\xNN), and quotes and the mark of a cut value come around it.
  ENSURE(!text.empty() && text.size() <= 4 * kMaxLogValueBytes + 64);
  ENSURE(is_utf8(text) && !has_control_characters(text));
  if (text.front() != '"' && size <= kMaxLogValueBytes)
    ENSURE(text == value && text.find(' ') == std::string::npos);

  static std::ostringstream lines;
  static Logger log(LogFormat::kJson, LogLevel::kDebug,
                    std::make_shared<spdlog::sinks::ostream_sink_st>(lines));
  lines.str("");
  log.info("said", {{"name", value}, {"size", size}});
  log.flush();
  const std::string line = lines.str();
  ENSURE(line.size() > 1 && line.find('\n') == line.size() - 1);
  const auto parsed = nlohmann::json::parse(line, nullptr, false);
  ENSURE(parsed.is_object() && parsed.at("size") == size && parsed.at("name").is_string());
  return 0;
}
