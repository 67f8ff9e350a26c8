#include "dataplane/core/ring_engine.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <system_error>

#include "dataplane/api/trace.h"

namespace culvert {

namespace {

[[nodiscard]] size_t ring_arena_bytes(const RingEngine::Options& o) {
  const size_t pairs = size_t{o.cores} * (o.cores - 1u);
  const size_t slots =
      size_t{o.cores} * (o.command_slots + size_t{o.event_slots} + kTraceRingSlots) +
      pairs * o.handoff_slots;
  return slots * sizeof(RingSlot) + (3u * o.cores + pairs + 1) * kCacheLine;
}

}  // namespace

void Switchboard::ring_control() {
  if (control_fd < 0 || !control_bell.must_ring()) return;
  const uint64_t one = 1;
  // An eventfd write fails only when the counter is full: control is awake then anyway.
  [[maybe_unused]] const ssize_t written = write(control_fd, &one, sizeof one);
}

RingEngine::RingEngine(const Options& options, std::unique_ptr<const Snapshot> first)
    : arena_(ring_arena_bytes(options)),
      mailboxes_(options.cores),
      handoff_(size_t{options.cores} * options.cores),
      stats_(options.cores),
      live_(std::move(first)) {
  board_.count = options.cores;
  board_.control_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (board_.control_fd < 0)
    throw std::system_error(errno, std::generic_category(), "cannot create an eventfd");
  board_.snapshot.store(live_.get(), std::memory_order_release);
  for (CoreId c = 0; c < options.cores; ++c) {
    mailboxes_[c].commands.reset(arena_.make<RingSlot>(options.command_slots));
    mailboxes_[c].events.reset(arena_.make<RingSlot>(options.event_slots));
    mailboxes_[c].trace.reset(arena_.make<RingSlot>(kTraceRingSlots));
    board_.cores[c] = &mailboxes_[c];
    for (CoreId to = 0; to < options.cores; ++to) {
      if (to == c) continue;
      SpscRing& ring = handoff_[size_t{c} * options.cores + to];
      ring.reset(arena_.make<RingSlot>(options.handoff_slots));
      board_.handoff[c][to] = &ring;
    }
  }
  arena_.seal();
}

RingEngine::~RingEngine() {
  if (board_.control_fd >= 0) close(board_.control_fd);
}

bool RingEngine::send_raw(CoreId core, std::span<const uint8_t> fixed,
                          std::span<const uint8_t> payload_first,
                          std::span<const uint8_t> payload_second) {
  SpscRing& ring = mailboxes_[core].commands;
  const size_t payload = payload_first.size() + payload_second.size();
  const auto slots =
      static_cast<uint32_t>(kFixedSlots + (payload + sizeof(RingSlot) - 1) / sizeof(RingSlot));
  if (slots > ring.longest_message()) return false;
  RingSlot* to = ring.reserve(slots);
  if (to == nullptr) return false;

  CommandHead head;
  std::memcpy(static_cast<void*>(&head), fixed.data(), sizeof head);
  head.header.slots = static_cast<uint16_t>(slots);
  head.header.payload_len = static_cast<uint32_t>(payload);
  head.sequence = ++sequence_;
  std::memcpy(static_cast<void*>(to), fixed.data(), fixed.size());
  std::memcpy(static_cast<void*>(to), &head, sizeof head);
  uint8_t* bytes = to[kFixedSlots].bytes;
  if (!payload_first.empty()) std::memcpy(bytes, payload_first.data(), payload_first.size());
  if (!payload_second.empty())
    std::memcpy(bytes + payload_first.size(), payload_second.data(), payload_second.size());
  ring.commit();
  board_.ring_core(core);
  return true;
}

const RingSlot* RingEngine::front_event(CoreId core) {
  return mailboxes_[core].events.front();
}
void RingEngine::pop_event(CoreId core) {
  mailboxes_[core].events.pop();
}

const RingSlot* RingEngine::front_trace(CoreId core) {
  return mailboxes_[core].trace.front();
}
void RingEngine::pop_trace(CoreId core) {
  mailboxes_[core].trace.pop();
}

void RingEngine::publish(std::unique_ptr<const Snapshot> snapshot) {
  ENSURE(snapshot->version > live_->version);
  board_.snapshot.store(snapshot.get(), std::memory_order_release);
  retired_.push_back(std::move(live_));
  live_ = std::move(snapshot);
  reclaim();
}

// A retired snapshot is free once every core works with a later one.
void RingEngine::reclaim() {
  uint64_t oldest = live_->version;
  for (const CoreStats& s : stats_.cores())
    oldest = std::min(oldest, s.seen_version.load(std::memory_order_acquire));
  while (!retired_.empty() && retired_.front()->version < oldest)
    retired_.pop_front();
}

bool RingEngine::prepare_sleep() {
  reclaim();
  board_.control_bell.arm();
  for (const CoreMailbox& mailbox : mailboxes_) {
    if (mailbox.events.empty()) continue;
    board_.control_bell.disarm();
    return false;
  }
  return true;
}

void RingEngine::awake() {
  board_.control_bell.disarm();
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = read(board_.control_fd, &count, sizeof count);
}

}  // namespace culvert
