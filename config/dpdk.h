// The small languages of the [dpdk] section, and what culvertd makes of it: EAL's argument list.
// Pure; nothing here knows DPDK.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"

namespace culvert {

// "192.0.2.1/24", "2001:db8::1/64@1": an address of ours, the network it stands in, and the port it
// is on, counted in EAL's order from 0 (the default).
[[nodiscard]] std::optional<PortAddressConfig> parse_port_address(std::string_view text);
[[nodiscard]] std::string format_port_address(const PortAddressConfig& address);

// "192.0.2.7=02:00:00:00:00:07", "2001:db8::7=02:00:00:00:00:07@1".
[[nodiscard]] std::optional<NeighbourConfig> parse_neighbour(std::string_view text);
[[nodiscard]] std::string format_mac(const std::array<uint8_t, 6>& mac);
[[nodiscard]] std::string format_neighbour(const NeighbourConfig& neighbour);

// Words of dpdk.eal: separated by blanks; "..." and '...' keep blanks. nullopt: a quote is open.
[[nodiscard]] std::optional<std::vector<std::string>> split_words(std::string_view text);

// Why dpdk.eal may not hold this word; empty: it may.
[[nodiscard]] std::string refuse_eal_word(std::string_view word);

// What rte_eal_init() gets. `cpus`: those the process may use, at least one. The main lcore may run
// on all of them: it is the control thread. Fast cores are threads of ours that register with EAL
// once privileges are gone, so they are not in --lcores; cpu_of_core() says where they run.
[[nodiscard]] std::vector<std::string> eal_arguments(const DpdkConfig& config,
                                                     std::span<const uint32_t> cpus);
// From the last CPU down, so that the first is left to control for as long as there are enough.
[[nodiscard]] uint32_t cpu_of_core(uint32_t core, std::span<const uint32_t> cpus);

}  // namespace culvert
