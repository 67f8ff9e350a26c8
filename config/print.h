// Configurations as text: the effective one, the commented default, and the reference for the docs.
// All three walk the key table. What to_toml() writes, parse_toml() reads back to an equal Config
// when secrets are shown.
#pragma once

#include <string>

#include "config/config.h"

namespace culvert {

// Passwords and secrets as "***" unless `show_secrets`.
[[nodiscard]] std::string to_toml(const Config& config, bool show_secrets);

// A complete file: every key with its default, range, unit, whether a reload may change it, and why
// it is as it is. Lines beginning with "#" and no space are examples to be uncommented. Parses to
// the defaults.
[[nodiscard]] std::string default_config_text();

// The tables of docs/configuration.md.
[[nodiscard]] std::string key_reference_markdown();

}  // namespace culvert
