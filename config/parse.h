// From TOML text to a Config. Every mistake in the text is reported at once, each with its line,
// its key and what to do; a Config comes out only when there is none. Nothing is read from the
// machine but the file itself. Cost: milliseconds for thousands of users; control-plane only.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"
#include "config/diagnostic.h"

namespace culvert {

// 16 MiB: 100,000 static users of 100 bytes, with room. More belongs into a database.
inline constexpr size_t kMaxConfigBytes = 16u << 20;
// The realm when none is named.
inline constexpr std::string_view kDefaultRealm = "culvert";

struct ParseResult {
  std::optional<Config>
      config;  // with at least one realm; consistent (validate.h), maybe incomplete
  std::vector<Diagnostic> errors;
  Origins origins;  // of the keys that were given
};

// `filename` is only for messages.
[[nodiscard]] ParseResult parse_toml(std::string_view text, std::string_view filename);
// Reads the file, then as above. A file that cannot be read is an error like any other.
[[nodiscard]] ParseResult parse_toml_file(const std::string& path);

}  // namespace culvert
