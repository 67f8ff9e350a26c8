// culvertd. What the command line asks for; serving is Daemon's.
#include <cstdio>
#include <exception>

#include "config/cli.h"
#include "config/report.h"
#include "tools/culvertd/daemon.h"

namespace culvert {
namespace {

void print(const std::vector<Diagnostic>& diagnostics) {
  for (const Diagnostic& d : diagnostics)
    std::fprintf(stderr, "%s\n", d.to_string().c_str());
}

int check_config(const CommandLine& command_line) {
  const Expanded expanded =
      expand_wildcards(command_line.config, read_machine_addresses(command_line.config));
  if (!expanded.config) {
    if (command_line.json)
      std::printf("%s\n", check_errors_json(expanded.errors).c_str());
    else
      print(expanded.errors);
    return kExitUsage;
  }
  const Config& config = *expanded.config;
  const DerivedLimits limits = derive(config, resource_costs(config), read_machine_resources());
  const std::string report = command_line.json
                                 ? check_report_json(config, limits, command_line.warnings)
                                 : check_report_text(config, limits, command_line.warnings);
  std::printf("%s\n", report.c_str());
  return kExitOk;
}

int serve(CommandLine command_line) {
  Expanded expanded =
      expand_wildcards(command_line.config, read_machine_addresses(command_line.config));
  if (!expanded.config) {
    print(expanded.errors);
    return kExitUsage;
  }
  Daemon daemon(std::move(command_line), std::move(*expanded.config));
  return daemon.run();
}

int run(int argc, char** argv) {
  CommandLine command_line = parse_command_line(argc, argv);
  std::fputs(command_line.text.c_str(), stdout);
  const bool json_report = command_line.mode == Mode::kCheckConfig && command_line.json;
  if (!command_line.errors.empty() && json_report)
    std::printf("%s\n", check_errors_json(command_line.errors).c_str());
  else
    print(command_line.errors);
  if (command_line.exit_code != kExitOk) return command_line.exit_code;
  if (command_line.mode == Mode::kCheckConfig) return check_config(command_line);
  if (command_line.mode != Mode::kServe) return kExitOk;
  return serve(std::move(command_line));
}

}  // namespace
}  // namespace culvert

int main(int argc, char** argv) {
  try {
    return culvert::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "culvertd: %s\n", error.what());
    return culvert::kExitFailure;
  }
}
