// See derive.h.
#include "config/derive.h"

#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "config/units.h"

namespace culvert {

namespace {

// Least r with r * r >= n.
[[nodiscard]] uint32_t root_up(uint32_t n) {
  uint32_t r = 0;
  while (uint64_t{r} * r < n)
    ++r;
  return r;
}

[[nodiscard]] uint64_t available_memory() {
  uint64_t bytes = UINT64_MAX;
  std::ifstream meminfo("/proc/meminfo");
  std::string name;
  uint64_t kib = 0;
  std::string unit;
  while (meminfo >> name >> kib) {
    if (name == "MemAvailable:") bytes = kib * 1024;
    std::getline(meminfo, unit);
  }
  // "max" where there is no limit, which is no number.
  std::ifstream cgroup("/sys/fs/cgroup/memory.max");
  if (uint64_t limit = 0; cgroup >> limit) bytes = std::min(bytes, limit);
  return bytes;
}

[[nodiscard]] uint64_t divide_after(uint64_t have, uint64_t fixed, uint64_t each) {
  return have <= fixed ? 0 : (have - fixed) / std::max<uint64_t>(each, 1);
}

}  // namespace

MachineResources read_machine_resources() {
  MachineResources machine;
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (::sched_getaffinity(0, sizeof cpus, &cpus) == 0)
    machine.cpus = static_cast<uint32_t>(std::max(1, CPU_COUNT(&cpus)));
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_max != RLIM_INFINITY)
    machine.file_descriptors = files.rlim_max;
  machine.memory_bytes = available_memory();
  return machine;
}

uint32_t effective_cores(const Config& config, const MachineResources& machine) {
  const uint32_t cores = config.cores == 0 ? machine.cpus : config.cores;
  return std::clamp<uint32_t>(cores, 1, kMaxCores);
}

uint32_t allocations_per_core(uint32_t max_allocations, uint32_t cores) {
  if (cores <= 1) return max_allocations;
  const uint32_t share = (max_allocations + cores - 1) / cores;
  return std::min(max_allocations, share + kCoreSlackSigmas * (root_up(share) + 1));
}

DerivedLimits derive(const Config& config, const ResourceCosts& costs,
                     const MachineResources& machine) {
  DerivedLimits out;
  const uint64_t wanted = config.limits.max_allocations;
  out.cores = effective_cores(config, machine);
  out.per_core_allocations = allocations_per_core(config.limits.max_allocations, out.cores);
  const uint64_t range = uint64_t{config.relay_port_high} - config.relay_port_low + 1;
  for (const RelayAddressConfig& relay : config.relay_addresses)
    (relay.bound.is_v4() ? out.relay_ports_ipv4 : out.relay_ports_ipv6) += range;

  const bool both = out.relay_ports_ipv4 != 0 && out.relay_ports_ipv6 != 0;
  const uint64_t ports_each = both ? 2 : 1;  // an allocation may ask for both families
  const uint64_t fds_fixed =
      kOtherFileDescriptors + config.listeners.size() * out.cores * costs.fds_per_listener_and_core;
  const uint64_t fds_each = ports_each * costs.fds_per_relayed_port;
  const uint64_t all_ports = out.relay_ports_ipv4 + out.relay_ports_ipv6;
  out.file_descriptors =
      fds_fixed + std::min(wanted * ports_each, all_ports) * costs.fds_per_relayed_port;

  const uint64_t memory_fixed = costs.bytes_fixed + out.cores * costs.bytes_per_core;
  const uint64_t entries = uint64_t{out.per_core_allocations} * out.cores;
  out.memory_bytes = memory_fixed + entries * costs.bytes_per_allocation;

  out.bounds.push_back({"limits.max_allocations", wanted, "as configured",
                        "raise limits.max_allocations (a restart)"});
  const uint64_t ports = both ? std::min(out.relay_ports_ipv4, out.relay_ports_ipv6) : all_ports;
  out.bounds.push_back({"relayed ports", ports,
                        std::to_string(range) + " ports on each of " +
                            std::to_string(config.relay_addresses.size()) + " relay addresses, " +
                            std::to_string(out.relay_ports_ipv4) + " IPv4 and " +
                            std::to_string(out.relay_ports_ipv6) + " IPv6",
                        "widen relay.ports or add a relay address"});
  // Where every port has its descriptor, descriptors do not bind; ports do.
  const bool fds_for_all_ports =
      machine.file_descriptors >= fds_fixed + all_ports * costs.fds_per_relayed_port;
  out.bounds.push_back(
      {"file descriptors",
       fds_for_all_ports ? std::max(ports, wanted)
                         : divide_after(machine.file_descriptors, fds_fixed, fds_each),
       std::to_string(out.file_descriptors) + " needed of " +
           (machine.file_descriptors == UINT64_MAX ? std::string("unlimited")
                                                   : std::to_string(machine.file_descriptors)) +
           ", " + std::to_string(fds_each) + " for an allocation",
       "raise the hard limit (LimitNOFILE= in the unit, ulimit -Hn in a shell)"});
  // What an allocation costs with the room that cores keep for an uneven spread.
  const uint64_t bytes_each = (entries * costs.bytes_per_allocation + wanted - 1) / wanted;
  out.bounds.push_back(
      {"memory", divide_after(machine.memory_bytes, memory_fixed, bytes_each),
       format_bytes(out.memory_bytes) + " taken at start of " +
           (machine.memory_bytes == UINT64_MAX ? std::string("an unknown amount")
                                               : format_bytes(machine.memory_bytes)) +
           " available, " + std::to_string(bytes_each) + " bytes an allocation",
       "add memory, or lower limits.max_allocations"});
  for (size_t i = 1; i < out.bounds.size(); ++i)
    if (out.bounds[i].allocations < out.bounds[out.binding].allocations) out.binding = i;
  return out;
}

}  // namespace culvert
