// The limits that follow from a configuration on a machine: sizes of tables and rings, ports, file
// descriptors, memory, and which of them binds first. What one allocation costs is a parameter,
// because the data plane and control know it and config/ includes neither. Pure, but for
// read_machine_resources().
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "config/config.h"

namespace culvert {

// Slots of 64 bytes. A command is about 4 slots (two of fixed part, a response of 100 bytes): 1024
// commands wait in 256 KiB, 32 loops of a core. A request event is about 6: 2700 wait in 1 MiB,
// which at 10 us each is 27 ms of control's work and far below a client's first retransmission at
// 500 ms.
inline constexpr uint32_t kCommandRingSlots = 4096;
inline constexpr uint32_t kEventRingSlots = 16384;
// Standard deviations of room a core's table has above its even share (docs/limits.md).
inline constexpr uint32_t kCoreSlackSigmas = 6;
// Descriptors beside listeners and relayed ports: log, epoll, timers, eventfds, metrics and control
// sockets with their clients, databases.
inline constexpr uint64_t kOtherFileDescriptors = 256;

struct ResourceCosts {
  uint64_t bytes_per_allocation = 1024;  // the bound the project holds itself to
  // Tables that do not grow with allocations, and the two rings.
  uint64_t bytes_per_core = uint64_t{64} * (kCommandRingSlots + kEventRingSlots);
  uint64_t bytes_fixed = 0;
  uint64_t fds_per_relayed_port = 1;
  uint64_t fds_per_listener_and_core = 1;
};

struct MachineResources {
  uint32_t cpus = 1;                       // that this process may run on
  uint64_t file_descriptors = UINT64_MAX;  // the hard RLIMIT_NOFILE: the daemon raises the soft one
  uint64_t memory_bytes = UINT64_MAX;      // available, within the cgroup's limit
};
[[nodiscard]] MachineResources read_machine_resources();

// config.cores, or the machine's CPUs where that is 0; at most kMaxCores.
[[nodiscard]] uint32_t effective_cores(const Config& config, const MachineResources& machine);
// Table entries of one core so that max_allocations fit although clients spread over cores by
// chance.
[[nodiscard]] uint32_t allocations_per_core(uint32_t max_allocations, uint32_t cores);

struct Bound {
  std::string name;          // "limits.max_allocations", "relayed ports", ...
  uint64_t allocations = 0;  // that this one permits
  std::string how;           // the arithmetic, in words
  std::string raise;         // how to get more
};

struct DerivedLimits {
  uint32_t cores = 1;
  uint32_t per_core_allocations = 0;
  uint32_t command_ring_slots = kCommandRingSlots;
  uint32_t event_ring_slots = kEventRingSlots;
  uint64_t relay_ports_ipv4 = 0;  // port range times addresses
  uint64_t relay_ports_ipv6 = 0;
  uint64_t file_descriptors = 0;  // needed when max_allocations are live
  uint64_t memory_bytes = 0;      // taken at start
  std::vector<Bound> bounds;
  size_t binding = 0;  // index of the least; max_allocations when it is among the least

  [[nodiscard]] const Bound& binding_limit() const { return bounds[binding]; }
};

// `config`: after expand_wildcards().
[[nodiscard]] DerivedLimits derive(const Config& config, const ResourceCosts& costs,
                                   const MachineResources& machine);

}  // namespace culvert
