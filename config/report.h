// What check-config prints: whether the configuration is good, what follows from it, which limit
// binds, and what each realm offers. For people, and as one JSON object for scripts. No secrets in
// either.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "config/derive.h"
#include "config/diagnostic.h"

namespace culvert {

// `config`: after expand_wildcards().
[[nodiscard]] std::string check_report_text(const Config& config, const DerivedLimits& limits,
                                            const std::vector<Diagnostic>& warnings);
[[nodiscard]] std::string check_report_json(const Config& config, const DerivedLimits& limits,
                                            const std::vector<Diagnostic>& warnings);
// {"ok": false, "errors": [...]}.
[[nodiscard]] std::string check_errors_json(const std::vector<Diagnostic>& errors);

// Why the realm does or does not set the username-anonymity bit.
[[nodiscard]] std::string userhash_reason(const RealmConfig& realm);

// A warning when everyone on the machine can read a file that holds passwords or secrets.
[[nodiscard]] std::optional<Diagnostic> file_mode_warning(const std::string& path,
                                                          const Config& config);

}  // namespace culvert
