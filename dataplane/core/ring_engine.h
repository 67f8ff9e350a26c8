// The Engine that control talks to when cores are real: command and event rings, snapshot
// publication with QSBR reclamation, wake-ups. The same object serves threads (culvertd) and
// single-threaded virtual time (simulator, benchmarks); it starts no thread itself.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "dataplane/api/engine.h"
#include "dataplane/base/arena.h"
#include "dataplane/core/mailbox.h"
#include "dataplane/core/stats_memory.h"

namespace culvert {

class RingEngine final : public Engine {
 public:
  struct Options {
    CoreId cores = 1;
    uint32_t command_slots = 16384;  // 64 bytes each, power of two
    uint32_t event_slots = 16384;
    uint32_t handoff_slots = 8192;  // per pair of cores; a quarter holds the longest datagram
  };
  RingEngine(const Options& options, std::unique_ptr<const Snapshot> first);
  ~RingEngine() override;

  // ---- Engine
  [[nodiscard]] CoreId cores() const override { return board_.count; }
  [[nodiscard]] bool send_raw(CoreId core, std::span<const uint8_t> fixed,
                              std::span<const uint8_t> payload_first,
                              std::span<const uint8_t> payload_second) override;
  [[nodiscard]] const RingSlot* front_event(CoreId core) override;
  void pop_event(CoreId core) override;
  [[nodiscard]] const RingSlot* front_trace(CoreId core) override;
  void pop_trace(CoreId core) override;
  void publish(std::unique_ptr<const Snapshot> snapshot) override;
  [[nodiscard]] const Snapshot& snapshot() const override { return *live_; }
  [[nodiscard]] const CoreStats& stats(CoreId core) const override { return stats_.cores()[core]; }

  [[nodiscard]] const Counter* policer_bytes(CoreId core) const override {
    return policer_bytes_[core];
  }

  // ---- for the threads
  void set_policer_bytes(CoreId core, const Counter* bytes) { policer_bytes_[core] = bytes; }
  [[nodiscard]] Switchboard& board() { return board_; }
  [[nodiscard]] CoreStats& mutable_stats(CoreId core) { return stats_.cores()[core]; }
  [[nodiscard]] StatsMemory& stats_memory() { return stats_; }

  // ---- for control's loop
  // Readable after a core pushed an event while control slept.
  [[nodiscard]] int wake_fd() const { return board_.control_fd; }
  // Before sleeping: false when an event is already there (then do not sleep).
  [[nodiscard]] bool prepare_sleep();
  // After sleeping: clears wake_fd.
  void awake();
  [[nodiscard]] size_t ring_bytes() const { return arena_.used(); }

 private:
  void reclaim();

  Switchboard board_;
  Arena arena_;
  std::vector<CoreMailbox> mailboxes_;
  std::vector<SpscRing> handoff_;
  StatsMemory stats_;
  std::unique_ptr<const Snapshot> live_;
  std::deque<std::unique_ptr<const Snapshot>> retired_;  // each until every core has moved on
  std::array<const Counter*, kMaxCores> policer_bytes_{};
  uint32_t sequence_ = 0;
};

}  // namespace culvert
