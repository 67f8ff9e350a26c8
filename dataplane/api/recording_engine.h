// An Engine without a data plane: it remembers the commands that control sends and hands control
// the events that a test injects, in order, per core. Used by control's unit tests and benchmarks,
// by one thread. Memory grows with what is recorded until take() or clear().
#pragma once

#include <cstring>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "dataplane/api/engine.h"
#include "dataplane/base/assert.h"

namespace culvert {

class RecordingEngine final : public Engine {
 public:
  struct Command {
    CoreId core = 0;
    std::vector<uint8_t> fixed;
    std::vector<uint8_t> payload;

    [[nodiscard]] CommandType type() const {
      uint16_t type = 0;
      std::memcpy(&type, fixed.data(), sizeof type);  // MessageHeader::type comes first
      return static_cast<CommandType>(type);
    }
    [[nodiscard]] CommandHead head() const {
      CommandHead out;
      std::memcpy(static_cast<void*>(&out), fixed.data(), sizeof out);
      return out;
    }
    // The caller has looked at type().
    template <RingMessage T>
    [[nodiscard]] T as() const {
      ENSURE(type() == T::kType && fixed.size() == sizeof(T));
      T out;
      std::memcpy(static_cast<void*>(&out), fixed.data(), sizeof out);
      return out;
    }
  };

  // Each core's event ring holds `event_slots` slots (a power of two, at least
  // SpscRing::kMinSlots).
  explicit RecordingEngine(CoreId cores = 1, size_t event_slots = 4096);

  [[nodiscard]] CoreId cores() const override { return static_cast<CoreId>(cores_.size()); }
  [[nodiscard]] bool send_raw(CoreId core, std::span<const uint8_t> fixed,
                              std::span<const uint8_t> payload_first,
                              std::span<const uint8_t> payload_second) override;
  [[nodiscard]] const RingSlot* front_event(CoreId core) override;
  void pop_event(CoreId core) override;
  void publish(std::unique_ptr<const Snapshot> snapshot) override;
  [[nodiscard]] const Snapshot& snapshot() const override { return *snapshot_; }
  [[nodiscard]] const CoreStats& stats(CoreId core) const override { return cores_[core]->stats; }
  [[nodiscard]] const Counter* policer_bytes(CoreId core) const override;

  // ---- the test's side
  // The oldest command not yet taken; the caller has checked waiting().
  [[nodiscard]] Command take();
  [[nodiscard]] size_t waiting() const { return commands_.size(); }
  [[nodiscard]] const std::deque<Command>& commands() const { return commands_; }
  void clear() { commands_.clear(); }
  // While full, that core refuses every command.
  void set_ring_full(CoreId core, bool full) { cores_[core]->full = full; }
  // While set, every core refuses commands of this type.
  void refuse_type(CommandType type, bool refuse);
  // False: the event ring is full.
  template <RingMessage T>
  [[nodiscard]] bool inject(CoreId core, const T& event, std::span<const uint8_t> payload = {}) {
    return ring_write(cores_[core]->events, event, payload);
  }
  [[nodiscard]] CoreStats& mutable_stats(CoreId core) { return cores_[core]->stats; }
  // Makes policer_bytes() available: `count` counters per core.
  void enable_policer_bytes(uint32_t count);
  [[nodiscard]] Counter& policer_counter(CoreId core, uint32_t policer);
  [[nodiscard]] uint64_t published() const { return published_; }

 private:
  struct Core {
    std::vector<RingSlot> slots;
    SpscRing events;
    CoreStats stats;
    std::unique_ptr<Counter[]> policed;
    uint32_t sequence = 0;
    bool full = false;
  };

  std::vector<std::unique_ptr<Core>> cores_;
  std::deque<Command> commands_;
  std::unique_ptr<const Snapshot> snapshot_;
  uint64_t refused_types_ = 0;  // bit per CommandType
  uint64_t published_ = 0;
};

}  // namespace culvert
