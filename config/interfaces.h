// What the machine's addresses make of a configuration: wildcard listeners become one listener for
// each address, and without relay addresses the relay takes those its listeners stand on. Run once
// at start (and by check-config); the result is what control and the drivers get. Reload compares
// configurations from before this (reload.h).
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "config/config.h"
#include "config/diagnostic.h"

namespace culvert {

// The machine, as far as it matters here; read_machine_addresses() asks the kernel, tests make one
// up.
struct MachineAddresses {
  std::vector<IpAddress> addresses;     // of interfaces that are up, each once
  std::optional<IpAddress> default_v4;  // the source address towards the default route
  std::optional<IpAddress> default_v6;
};

// Sends nothing. Throws std::system_error when the kernel refuses the list.
[[nodiscard]] MachineAddresses read_machine_addresses();
// The same, or with driver = "dpdk" the ports' addresses: the kernel's are not the relay's there.
[[nodiscard]] MachineAddresses read_machine_addresses(const Config& config);

// Whether a wildcard stands for this address: not loopback, not link-local, not unspecified or
// multicast.
[[nodiscard]] bool wildcard_covers(const IpAddress& ip);

struct Expanded {
  std::optional<Config> config;
  std::vector<Diagnostic> errors;
};

// No listeners: 0.0.0.0 and [::] at kDefaultListenPort. A wildcard without addresses of its family
// is left out; an error only when nothing is left to listen on. Explicit listeners win over a
// wildcard of the same port. Relay addresses, where none are given, per family: those of explicit
// listeners, else the one the default route leaves from, else the first.
[[nodiscard]] Expanded expand_wildcards(const Config& config, const MachineAddresses& machine);

}  // namespace culvert
