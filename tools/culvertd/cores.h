// The fast cores of a running relay: their drivers, workers and threads. Built in two steps,
// because sockets and ports are opened while the process may still do so and threads are started
// only after privileges are gone.
#pragma once

#include <cstdint>
#include <memory>

#include "config/derive.h"
#include "crypto/random.h"
#include "dataplane/core/ring_engine.h"
#include "dataplane/flow/state.h"

namespace culvert {

class Logger;

// What one core's tables are sized for (docs/limits.md: four permissions and four channels each).
inline constexpr uint32_t kPermissionsPerAllocation = 4;
inline constexpr uint32_t kChannelsPerAllocation = 4;

[[nodiscard]] CoreLimits core_limits(const Config& config, const DerivedLimits& derived);
// For derive(): what the data plane and control take from memory.
[[nodiscard]] ResourceCosts resource_costs(const Config& config);
[[nodiscard]] CoreSeeds draw_seeds(crypto::Random& random);

// Where the allocator counts what the calling thread takes from the heap; nullptr: it does not (a
// sanitizer's allocator).
[[nodiscard]] const uint64_t* heap_bytes_of_this_thread();

class FastCores {
 public:
  virtual ~FastCores() = default;

  // Builds tables and starts one thread a core.
  virtual void start(crypto::Random& random) = 0;
  virtual void stop() = 0;
  [[nodiscard]] virtual size_t table_bytes() const = 0;
  // The numbers of the ports that are ours, for the stats segment; how many there are. Control
  // thread, once a second.
  [[nodiscard]] virtual uint32_t read_ports(std::span<PortStats> ports) const {
    static_cast<void>(ports);
    return 0;
  }
  // What an operator should know of what was opened.
  virtual void describe(Logger& log) const { static_cast<void>(log); }
  // What was counted beside the cores' own counters; once they have stopped.
  virtual void report(Logger& log) const { static_cast<void>(log); }
};

// Opens what config.driver needs. Throws with one sentence that names the trouble and the fix.
[[nodiscard]] std::unique_ptr<FastCores> make_cores(RingEngine& engine, const Config& config,
                                                    const DerivedLimits& derived,
                                                    crypto::Random& random);

#ifdef CULVERT_HAVE_DPDK
[[nodiscard]] std::unique_ptr<FastCores> make_dpdk_cores(RingEngine& engine, const Config& config,
                                                         const DerivedLimits& derived,
                                                         crypto::Random& random);
#endif

}  // namespace culvert
