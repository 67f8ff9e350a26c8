// Control's side of the packet trace (dataplane/api/trace.h): one at a time, asked of every core,
// gathered from their rings when somebody reads. Nobody who vanishes leaves it on: cores end it by
// time and count themselves. Control thread.
#pragma once

#include <array>
#include <deque>
#include <string>
#include <vector>

#include "control/rpc.h"
#include "control/turn_server.h"
#include "dataplane/api/engine.h"
#include "dataplane/api/trace.h"

namespace culvert {

// Records in one answer: with full payloads in hex 0.9 MiB, below kMaxResponseLine.
inline constexpr uint32_t kMaxTracePage = 200;
// Records that wait for their reader; more are lost, counted.
inline constexpr size_t kMaxTraceHeld = 4096;
// A trace that nobody has read for so long may be replaced by another.
inline constexpr uint64_t kTraceIdleMs = 5000;

class TraceSession {
 public:
  explicit TraceSession(Engine& engine) : engine_(engine) {}

  // Parameters as in trace.start's schema.
  void start(const nlohmann::json& params, uint64_t now_ms, const RpcAnswer& answer);
  void read(const nlohmann::json& params, uint64_t now_ms, const RpcAnswer& answer);
  void stop(const nlohmann::json& params, const RpcAnswer& answer);

 private:
  struct Held {
    CoreId core = 0;
    TraceRecord record;
    std::vector<uint8_t> bytes;
  };
  [[nodiscard]] bool known(const nlohmann::json& params, const RpcAnswer& answer) const;
  [[nodiscard]] bool ask_cores(Trace question);
  void gather(uint64_t now_ms);
  void finish();

  Engine& engine_;
  std::deque<Held> held_;
  uint32_t session_ = 0;
  bool on_ = false;  // cores may still write
  uint32_t left_ = 0;
  std::array<uint32_t, kMaxCores> shown_{};  // TraceRecord::number of each core's last one
  uint64_t lost_ = 0;
  uint64_t lost_before_ = 0;  // CoreStats::trace_lost of all cores when it began
  uint64_t end_ms_ = 0;
  uint64_t read_ms_ = 0;
};

}  // namespace culvert
