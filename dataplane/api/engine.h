// The verbs control has toward the data plane, so that control is tested without one
// (RecordingEngine) and the data plane without control. All calls come from the one control thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "dataplane/api/messages.h"
#include "dataplane/api/snapshot.h"
#include "dataplane/api/stats.h"

namespace culvert {

class Engine {
 public:
  virtual ~Engine() = default;

  [[nodiscard]] virtual CoreId cores() const = 0;

  // Sends one command (its fixed part is `kFixedBytes` long at most and starts with a CommandHead
  // whose header.type is set). False: that core's command ring is full and nothing was sent; the
  // caller drops the request (the client retransmits) or tries again.
  [[nodiscard]] virtual bool send_raw(CoreId core, std::span<const uint8_t> fixed,
                                      std::span<const uint8_t> payload_first,
                                      std::span<const uint8_t> payload_second) = 0;

  template <RingMessage T>
  [[nodiscard]] bool send(CoreId core, T command, std::span<const uint8_t> first = {},
                          std::span<const uint8_t> second = {}) {
    command.header.type = static_cast<uint16_t>(T::kType);
    return send_raw(core, {reinterpret_cast<const uint8_t*>(&command), sizeof command}, first,
                    second);
  }

  // The oldest event of that core, or nullptr; valid until pop_event().
  [[nodiscard]] virtual const RingSlot* front_event(CoreId core) = 0;
  virtual void pop_event(CoreId core) = 0;

  // The oldest TraceRecord (api/trace.h) of that core, or nullptr; valid until pop_trace().
  [[nodiscard]] virtual const RingSlot* front_trace(CoreId core) {
    static_cast<void>(core);
    return nullptr;
  }
  virtual void pop_trace(CoreId core) { static_cast<void>(core); }

  // Swaps the snapshot. The engine keeps the old one alive until every core has moved on.
  virtual void publish(std::unique_ptr<const Snapshot> snapshot) = 0;
  [[nodiscard]] virtual const Snapshot& snapshot() const = 0;

  [[nodiscard]] virtual const CoreStats& stats(CoreId core) const = 0;

  // Bytes each of that core's policers was asked to let through (passed or not) since start, by
  // policer number: what control shares a user's bandwidth by. nullptr: not counted; then shares
  // are equal.
  [[nodiscard]] virtual const Counter* policer_bytes(CoreId core) const {
    static_cast<void>(core);
    return nullptr;
  }
};

}  // namespace culvert
