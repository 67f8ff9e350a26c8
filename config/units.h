// The small languages of values, the same in the file and in flags: durations, rates, networks,
// ranges.
//
// A duration is a whole number of seconds, or a number with a unit: "500s", "10m", "1h".
// A rate is a whole number of bytes per second, or a number with a unit and, if you like, "/s":
// B kB MB GB (powers of 1000), KiB MiB GiB (powers of 1024), bit kbit Mbit Gbit (eighths of a
// byte). Each parse function gives nullopt for what it does not understand in full.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "config/config.h"

namespace culvert {

inline constexpr std::string_view kDurationHelp =
    "give seconds, or a number with a unit: \"30s\", \"10m\", \"1h\"";
inline constexpr std::string_view kRateHelp =
    "give bytes per second, or a number with a unit: \"500kB/s\", \"10MB/s\", \"80Mbit/s\"";

[[nodiscard]] std::optional<uint64_t> parse_whole_number(std::string_view text);
[[nodiscard]] std::optional<uint64_t> parse_duration(std::string_view text);  // seconds
[[nodiscard]] std::optional<uint64_t> parse_rate(std::string_view text);      // bytes per second

// "10.0.0.0/8", "fd00::/8"; an address alone is a network of one.
struct CidrParse {
  std::optional<Cidr> cidr;
  std::string problem;  // when there is none
  std::string fix;
};
[[nodiscard]] CidrParse parse_cidr(std::string_view text);
[[nodiscard]] std::string format_cidr(const Cidr& cidr);

// "49152-65535"; low <= high, neither is 0.
[[nodiscard]] std::optional<std::pair<uint16_t, uint16_t>> parse_port_range(std::string_view text);

// "203.0.113.5", or "10.0.0.5=203.0.113.5": bound, and what clients are told.
[[nodiscard]] std::optional<RelayAddressConfig> parse_relay_address(std::string_view text);
[[nodiscard]] std::string format_relay_address(const RelayAddressConfig& relay);

// "10m", "90s".
[[nodiscard]] std::string format_duration(uint64_t seconds);
// "16MB/s", "1500B/s"; exact.
[[nodiscard]] std::string format_rate(uint64_t bytes_per_second);
// "1.2 MiB"; for people.
[[nodiscard]] std::string format_bytes(uint64_t bytes);

[[nodiscard]] bool is_utf8(std::string_view text);
[[nodiscard]] bool has_control_characters(std::string_view text);
// A TOML basic string, quotes included. What cannot stand in one is escaped.
[[nodiscard]] std::string toml_quote(std::string_view text);

}  // namespace culvert
