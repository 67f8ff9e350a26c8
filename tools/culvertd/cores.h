// The fast cores of a running relay: their drivers, workers and threads. Built in two steps,
// because sockets are opened while the process may still do so and threads are started only after
// privileges are gone.
#pragma once

#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "config/derive.h"
#include "crypto/random.h"
#include "dataplane/core/ring_engine.h"
#include "dataplane/core/worker.h"
#include "dataplane/io/sockets/sockets_driver.h"

namespace culvert {

// What one core's tables are sized for (docs/limits.md: four permissions and four channels each).
inline constexpr uint32_t kPermissionsPerAllocation = 4;
inline constexpr uint32_t kChannelsPerAllocation = 4;

[[nodiscard]] CoreLimits core_limits(const Config& config, const DerivedLimits& derived);
// For derive(): what the data plane and control take from memory.
[[nodiscard]] ResourceCosts resource_costs(const Config& config);

class SocketCores {
 public:
  // Opens all listeners. Throws with one sentence that names the address and the fix.
  SocketCores(RingEngine& engine, const Config& config, const DerivedLimits& derived);
  ~SocketCores();
  SocketCores(const SocketCores&) = delete;
  SocketCores& operator=(const SocketCores&) = delete;

  // Builds tables and starts one thread a core.
  void start(crypto::Random& random);
  void stop();

  [[nodiscard]] size_t table_bytes() const { return table_bytes_; }

 private:
  struct Core {
    std::unique_ptr<SocketsDriver> driver;
    std::unique_ptr<Worker<SocketsDriver>> worker;
    std::thread thread;
  };
  RingEngine& engine_;
  CoreLimits limits_;
  ListenerSockets listeners_;
  std::vector<Core> cores_;
  size_t table_bytes_ = 0;
};

}  // namespace culvert
