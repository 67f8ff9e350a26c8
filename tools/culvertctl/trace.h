// `culvertctl trace` and `culvertctl capture`: the next datagrams that match, as lines or as a
// capture file. The relay gathers, this program asks and writes: no file is ever written by the
// daemon.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace culvert {

struct TraceOptions {
  std::string socket;
  std::string client, peer, outcome;
  uint32_t relay_port = 0;
  uint32_t count = 0;    // 0: as the command's default
  uint32_t seconds = 0;  // the same
  bool json_output = false;
  // capture
  std::string file;
  bool payload = false;
};

// A record of trace.read as a line.
[[nodiscard]] std::string render_trace(const nlohmann::json& record);

// The exit status.
int run_trace(const TraceOptions& options);
int run_capture(const TraceOptions& options);

}  // namespace culvert
