// culvertd's command line: what to do, and the configuration that the file and the flags make
// together. A flag overrides the file's value of its key, lists included; --realm, --user and
// --secret are about the default realm. main prints `text` or the diagnostics, and returns
// `exit_code` where there is nothing to run. load_config() runs again for a reload.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "config/diagnostic.h"
#include "config/value.h"

namespace culvert {

// Exit codes of culvertd.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;  // could not start, or broke while running
inline constexpr int kExitUsage = 2;    // command line or configuration is wrong

enum class Mode : uint8_t {
  kServe,
  kCheckConfig,
  kDefaultConfig,
  kPrintConfig,
  kVersion,
  kHelp,
  kError,  // `errors` says why
};

// One key given by flag: what was written, in the form that the key's reader takes.
struct FlagOverride {
  std::string section;
  std::string name;
  Value value;  // of a repeatable flag: a list
};

struct CommandLine {
  Mode mode = Mode::kServe;
  std::string config_file;  // empty: none, the built-in defaults
  std::vector<FlagOverride> overrides;
  bool json = false;          // check-config
  bool show_secrets = false;  // --print-config

  Config config;  // kServe, kCheckConfig, kPrintConfig: as loaded, wildcards not expanded
  Origins origins;
  std::vector<Diagnostic> warnings;
  std::vector<Diagnostic> errors;
  std::string text;  // what help, version, default-config and --print-config print on stdout
  int exit_code = kExitOk;
};

// Never throws for what the user wrote; never prints.
[[nodiscard]] CommandLine parse_command_line(int argc, const char* const* argv);

struct LoadedConfig {
  std::optional<Config> config;
  std::vector<Diagnostic> errors;
  std::vector<Diagnostic> warnings;
  Origins origins;
};

// The file (if any), then the flags over it, then the checks; with `must_serve`, also that there
// are accounts. Also what a reload calls with the command line the daemon was started with.
[[nodiscard]] LoadedConfig load_config(const CommandLine& command_line, bool must_serve);

// Applies flags to a configuration that has at least one realm. Errors are appended.
void apply_flags(const std::vector<FlagOverride>& overrides, Config& config, Origins& origins,
                 std::vector<Diagnostic>& errors);

}  // namespace culvert
