// The one table of all configuration keys. The parser, default-config, print-config,
// docs/configuration.md and the reload check all walk it, so none of them can know a key that the
// others do not.
//
// Sections are TOML tables; `listen` and `realm` are arrays of tables ([[listen]], [[realm]]),
// whose keys are read and written for one element. Constant data; no state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"
#include "config/diagnostic.h"
#include "config/value.h"

namespace culvert {

// Whether `culvertctl reload` may change it, or only a new start.
enum class Reload : uint8_t { kLive, kRestart };
[[nodiscard]] std::string_view reload_name(Reload reload);  // "live", "restart"

enum class Repeats : uint8_t { kOnce, kListen, kRealm };

struct SectionInfo {
  std::string_view name;  // empty: keys that stand before the first section
  Repeats repeats = Repeats::kOnce;
  std::string_view doc;
};

struct KeyInfo;
using ReadKey = void (*)(const KeyInfo& key, const Value& value, Config& config, size_t element,
                         std::vector<Diagnostic>& errors);
using WriteKey = std::string (*)(const Config& config, size_t element, bool show_secrets);

struct KeyInfo {
  std::string_view section;
  std::string_view name;
  std::string_view type;   // "number", "duration", "rate", "string", "boolean", "list", "table"
  std::string_view range;  // in words; empty: computed from low and high
  uint64_t low = 0;        // of numbers, durations (seconds) and rates (bytes per second)
  uint64_t high = 0;
  std::string_view zero;  // what 0 means, when it is allowed besides low..high; empty: not allowed
  std::string_view flag;  // the flag that overrides it; empty: none
  Reload reload = Reload::kRestart;
  std::string_view doc;      // sentences: what it does and why it is as it is
  std::string_view example;  // a TOML value, for the keys of repeated sections and empty lists
  ReadKey read = nullptr;
  WriteKey write = nullptr;  // the value as TOML

  [[nodiscard]] std::string path() const {  // "limits.max_allocations"
    return section.empty() ? std::string(name) : std::string(section) + "." + std::string(name);
  }
  // "16 to 1048576", "0 (unlimited) or 1kB/s to 125GB/s".
  [[nodiscard]] std::string range_text() const;
};

[[nodiscard]] std::span<const SectionInfo> config_sections();
[[nodiscard]] std::span<const KeyInfo> config_keys();
// nullptr: there is none.
[[nodiscard]] const KeyInfo* find_key(std::string_view section, std::string_view name);
// The key as it is found in Origins: "realm[1].name".
[[nodiscard]] std::string element_path(const KeyInfo& key, size_t element);

// The drivers this build has.
[[nodiscard]] std::span<const std::string_view> built_drivers();

}  // namespace culvert
