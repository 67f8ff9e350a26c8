#include "dataplane/api/recording_engine.h"

namespace culvert {

RecordingEngine::RecordingEngine(CoreId cores, size_t event_slots)
    : snapshot_(std::make_unique<Snapshot>()) {
  for (CoreId i = 0; i < cores; ++i) {
    auto core = std::make_unique<Core>();
    core->slots.resize(event_slots);
    core->events.reset(core->slots);
    cores_.push_back(std::move(core));
  }
}

bool RecordingEngine::send_raw(CoreId core, std::span<const uint8_t> fixed,
                               std::span<const uint8_t> payload_first,
                               std::span<const uint8_t> payload_second) {
  ENSURE(core < cores_.size() && fixed.size() >= sizeof(CommandHead));
  Command command{core, {fixed.begin(), fixed.end()}, {}};
  const auto type_bit = uint64_t{1} << static_cast<uint16_t>(command.type());
  if (cores_[core]->full || (refused_types_ & type_bit) != 0) return false;
  const uint32_t sequence = ++cores_[core]->sequence;
  // CommandHead::sequence follows the MessageHeader.
  std::memcpy(command.fixed.data() + sizeof(MessageHeader), &sequence, sizeof sequence);
  command.payload.reserve(payload_first.size() + payload_second.size());
  command.payload.insert(command.payload.end(), payload_first.begin(), payload_first.end());
  command.payload.insert(command.payload.end(), payload_second.begin(), payload_second.end());
  commands_.push_back(std::move(command));
  return true;
}

const RingSlot* RecordingEngine::front_event(CoreId core) {
  return cores_[core]->events.front();
}

void RecordingEngine::pop_event(CoreId core) {
  cores_[core]->events.pop();
}

void RecordingEngine::publish(std::unique_ptr<const Snapshot> snapshot) {
  snapshot_ = std::move(snapshot);
  ++published_;
}

const Counter* RecordingEngine::policer_bytes(CoreId core) const {
  return cores_[core]->policed.get();
}

RecordingEngine::Command RecordingEngine::take() {
  ENSURE(!commands_.empty());
  Command out = std::move(commands_.front());
  commands_.pop_front();
  return out;
}

void RecordingEngine::refuse_type(CommandType type, bool refuse) {
  const auto bit = uint64_t{1} << static_cast<uint16_t>(type);
  refused_types_ = refuse ? refused_types_ | bit : refused_types_ & ~bit;
}

void RecordingEngine::enable_policer_bytes(uint32_t count) {
  for (auto& core : cores_)
    core->policed = std::make_unique<Counter[]>(count);
}

Counter& RecordingEngine::policer_counter(CoreId core, uint32_t policer) {
  return cores_[core]->policed[policer];
}

}  // namespace culvert
