// The relay's numbers in Prometheus text format 0.0.4, read live from the cores' counters at each
// scrape. Names follow the Prometheus conventions: culvert_ before, base units, _total behind
// counters. Labels are bounded by configuration (core, outcome, realm, code); never a user or an
// address. Control thread; one scrape costs about 100 us and 30 KiB for 8 cores.
#pragma once

#include <cstdint>
#include <string>

#include "control/cycle_clock.h"
#include "control/operations.h"

namespace culvert {

struct MetricsContext {
  const TurnServer& turn;
  const Engine& engine;
  const CoreWatchdog& watchdog;
  std::function<const Config&()> config;
  std::function<ServiceState()> state;
  std::function<uint64_t()> log_lines_dropped;
  std::function<size_t()> control_clients;
  const CycleClock* cycle_clock = nullptr;
  std::function<std::span<const PortStats>()> ports;  // empty where the kernel has the ports
};

[[nodiscard]] std::string render_metrics(const MetricsContext& context);

// /metrics costs a walk over all allocations when they are counted by realm; above this many the
// family is left out rather than stop control for longer than 3 ms.
inline constexpr uint32_t kMaxCountedByRealm = 65536;

}  // namespace culvert
