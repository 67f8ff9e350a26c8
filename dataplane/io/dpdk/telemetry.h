// Our numbers on DPDK's telemetry socket, for the lab's tools that speak it (dpdk-telemetry.py):
//
//   /culvert/cores               ids of the fast cores
//   /culvert/core,ID             a core's counters
//   /culvert/outcomes[,ID]       datagrams by how they ended, of all cores or of one
//   /culvert/frames[,ID]         the same for frames
//   /culvert/ports               names of our ports
//   /culvert/port,N              a port's counters
//
// EAL's telemetry thread calls back with no context of ours, so what it may read is kept in one
// place behind a lock for as long as this object lives. Everything is read only.
#pragma once

#include <span>

#include "dataplane/api/stats_segment.h"

namespace culvert {

class Telemetry {
 public:
  // After Eal; at most one at a time. `--no-telemetry` leaves no socket, and this does nothing.
  Telemetry(const StatsHeader& header, std::span<const CoreStats> cores,
            std::span<const PortStats> ports);
  ~Telemetry();
  Telemetry(const Telemetry&) = delete;
  Telemetry& operator=(const Telemetry&) = delete;
};

}  // namespace culvert
