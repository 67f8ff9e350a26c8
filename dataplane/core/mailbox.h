// A core's connections: rings to and from control and the other cores, and the doorbells beside
// them. Owned by RingEngine; a worker holds pointers.
#pragma once

#include <array>
#include <atomic>

#include "dataplane/api/limits.h"
#include "dataplane/api/snapshot.h"
#include "dataplane/base/spsc_ring.h"
#include "dataplane/core/doorbell.h"

namespace culvert {

// Ends a worker's wait; callable from any thread.
struct Waker {
  void (*call)(void* context) = nullptr;
  void* context = nullptr;
  void operator()() const {
    if (call != nullptr) call(context);
  }
};

struct CoreMailbox {
  SpscRing commands;  // control -> core
  SpscRing events;    // core -> control
  SpscRing trace;     // core -> control: TraceRecords
  Doorbell bell;      // this core's
  Waker waker;        // set before threads start
};

// What all workers of an engine share.
struct Switchboard {
  std::atomic<const Snapshot*> snapshot{nullptr};
  std::array<CoreMailbox*, kMaxCores> cores{};
  // handoff[from][to]
  std::array<std::array<SpscRing*, kMaxCores>, kMaxCores> handoff{};
  Doorbell control_bell;
  int control_fd = -1;  // eventfd, written when control sleeps
  CoreId count = 0;
  std::atomic<bool> stop{false};

  void ring_control();
  void ring_core(CoreId core) const {
    if (cores[core]->bell.must_ring()) cores[core]->waker();
  }
};

}  // namespace culvert
