// `culvertctl top`: a live table of cores, ports and drops from the stats segment. Asks the daemon
// nothing.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "tools/culvertctl/stats_reader.h"

namespace culvert {

inline constexpr double kMinTopSeconds = 0.1;
inline constexpr double kMaxTopSeconds = 3600;
// Control stamps the segment each 100 ms; silent for longer, it is stuck or its CPU is taken.
inline constexpr uint64_t kControlSilentMs = 2000;

struct TopOptions {
  std::string stats_path;
  double interval_seconds = 1;
  bool once = false;
  bool json_output = false;
};

// Rates between two looks. Numbers that this relay does not count are left out.
[[nodiscard]] nlohmann::json top_view(const StatsReader& reader, const StatsSample& before,
                                      const StatsSample& now);
// For a screen of `columns` by `rows`; 0: as wide or as long as it gets.
[[nodiscard]] std::string render_top(const nlohmann::json& view, size_t columns, size_t rows);

// The exit status.
int run_top(const TopOptions& options);

}  // namespace culvert
