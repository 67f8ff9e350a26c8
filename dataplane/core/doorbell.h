// Wakes a thread that sleeps on a file descriptor without a system call for one that is awake.
//
// The sleeper: arm(), look at its rings once more, sleep, disarm(). The other side: publish to the
// ring, then must_ring(). Both are sequentially consistent read-modify-writes, so either the
// sleeper sees the message or the ringer sees the sleeper: no wake-up is lost.
#pragma once

#include <atomic>
#include <cstdint>

namespace culvert {

class alignas(128) Doorbell {
 public:
  void arm() { sleeping_.exchange(1, std::memory_order_seq_cst); }
  void disarm() { sleeping_.store(0, std::memory_order_relaxed); }
  // True at most once per arm(): the caller then wakes the sleeper.
  [[nodiscard]] bool must_ring() {
    uint32_t armed = 1;
    return sleeping_.compare_exchange_strong(armed, 0, std::memory_order_seq_cst);
  }

 private:
  std::atomic<uint32_t> sleeping_{0};
};

}  // namespace culvert
