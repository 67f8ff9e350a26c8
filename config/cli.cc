// See cli.h. Which key a flag sets comes from the key table; what its help says stands here.
#include "config/cli.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <array>
#include <map>
#include <sstream>
#include <string_view>
#include <utility>

#include "config/parse.h"
#include "config/print.h"
#include "config/report.h"
#include "config/schema.h"
#include "config/units.h"
#include "config/validate.h"

namespace culvert {

namespace {

struct FlagHelp {
  std::string_view flag;
  std::string_view value;
  std::string_view group;
  std::string_view help;
};

constexpr std::string_view kAddresses = "Addresses";
constexpr std::string_view kWho = "Who may use the relay (the default realm)";
constexpr std::string_view kPeers = "Which peers may be reached";
constexpr std::string_view kLimits = "Limits";
constexpr std::string_view kOperation = "Operation";
constexpr std::string_view kPorts = "Ports without the kernel (--driver dpdk)";

constexpr std::array kFlags = {
    FlagHelp{"--listen", "ADDR:PORT", kAddresses,
             "Take clients here; 0.0.0.0, [::]: all addresses"},
    FlagHelp{"--relay-address", "BOUND[=ADVERTISED]", kAddresses,
             "Relay from here; ADVERTISED: public side of a 1:1 NAT"},
    FlagHelp{"--relay-ports", "LO-HI", kAddresses, "Relayed ports, both included"},
    FlagHelp{"--realm", "R", kWho, "Name of the default realm"},
    FlagHelp{"--user", "NAME:PASSWORD", kWho, "A user (others on this machine can see it)"},
    FlagHelp{"--secret", "S", kWho, "Secret of time-limited credentials; at most two"},
    FlagHelp{"--user-quota", "N", kWho, "Allocations one user may hold at once; 0: unlimited"},
    FlagHelp{"--allow-peer", "CIDR", kPeers, "Let clients reach this network all the same"},
    FlagHelp{"--deny-peer", "CIDR", kPeers, "Refuse this network too"},
    FlagHelp{"--max-allocations", "N", kLimits, "Allocations at once"},
    FlagHelp{"--reply-budget", "B", kLimits, "Rate for unauthenticated replies, such as 16MB/s"},
    FlagHelp{"--driver", "NAME", kOperation, "How datagrams get in and out: sockets or dpdk"},
    FlagHelp{"--cores", "N", kOperation, "Forwarding threads; 0: one for each CPU"},
    FlagHelp{"--eal", "ARGS", kPorts, "EAL's arguments in one word, but for its lcores"},
    FlagHelp{"--port-address", "ADDR/LEN[@PORT]", kPorts, "An address of a port, and its network"},
    FlagHelp{"--neighbour", "IP=MAC[@PORT]", kPorts, "A link address known beforehand"},
    FlagHelp{"--gateway", "ADDR", kPorts, "Where datagrams to other networks go"},
    FlagHelp{"--kernel", "MODE", kPorts, "ARP, ping, TCP: none (ours), beside, tap or auto"},
    FlagHelp{"--control-socket", "PATH", kOperation, "Socket for culvertctl, or off"},
    FlagHelp{"--metrics", "ADDR:PORT", kOperation, "Prometheus metrics and /healthz, or off"},
    FlagHelp{"--log-level", "LEVEL", kOperation, "trace, debug, info, warning or error"},
};

constexpr std::string_view kFooter =
    R"(A flag overrides the same key of the file; flags with ... may be repeated, and replace the
file's whole list.
Rates are bytes per second or carry a unit: 500kB/s, 10MB/s, 80Mbit/s.
Every key: culvertd default-config. The flags repeat its most used ones.

Examples:
  Try it on one machine (loopback peers are refused unless allowed):
    culvertd --listen 127.0.0.1:3478 --user alice:wonderland --allow-peer 127.0.0.0/8
  Serve all addresses of this machine on port 3478:
    culvertd --user alice:wonderland
  In a cloud whose public address 203.0.113.5 is translated to 10.0.0.5:
    culvertd --listen 10.0.0.5:3478 --relay-address 10.0.0.5=203.0.113.5 --secret "$SECRET"
  From a file:
    culvertd default-config > culvert.toml
    culvertd check-config --config culvert.toml
    culvertd --config culvert.toml

Signals: SIGTERM and SIGINT drain for stop_grace, then close; a second one ends at once.
Exit codes: 0 ended as asked, 1 could not start or failed while running, 2 the command line or the
configuration is wrong.
)";

const std::string kSubcommandFooter =
    "All flags of culvertd may be given too: culvertd --help lists them.\n"
    "Exit codes: 0 the configuration is good, 2 it is not.\n";

using Given = std::map<std::string_view, std::vector<std::string>>;

[[nodiscard]] const KeyInfo* key_of_flag(std::string_view flag) {
  for (const KeyInfo& key : config_keys())
    if (key.flag == flag) return &key;
  return nullptr;
}

[[nodiscard]] bool repeatable(const KeyInfo& key) {
  return key.type == "list" || key.type == "table" || key.section == "listen";
}

// The program's options, bound to the members of Invocation.
struct Invocation {
  Given given;
  std::vector<std::string> config_files;
  bool print_config = false;
  bool show_secrets = false;
  bool json = false;
  bool markdown = false;
};

// All values are kept, so that a flag given twice is told by us and not by the last one winning.
void once(CLI::Option* option) {
  option->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

void define(CLI::App& app, Invocation& to) {
  app.option_defaults()->always_capture_default(false);
  app.set_help_flag("-h,--help", "Print this and exit");
  app.set_version_flag("--version", "culvertd " CULVERT_VERSION, "Print the version and exit");
  app.allow_extras();
  app.footer(std::string(kFooter));
  app.get_formatter()->column_width(38);

  const std::string configuration = "Configuration";
  once(app.add_option("--config", to.config_files, "Read this TOML file first")
           ->type_name("FILE")
           ->allow_extra_args(false)
           ->group(configuration));
  app.add_flag("--print-config", to.print_config,
               "Print what file and flags make together as TOML, and exit")
      ->group(configuration);
  app.add_flag("--show-secrets", to.show_secrets, "With --print-config: passwords in clear")
      ->group(configuration);
  for (const FlagHelp& flag : kFlags) {
    CLI::Option* option =
        app.add_option(std::string(flag.flag), to.given[flag.flag], std::string(flag.help))
            ->type_name(std::string(flag.value))
            ->allow_extra_args(false)
            ->group(std::string(flag.group));
    const KeyInfo* key = key_of_flag(flag.flag);
    if (key == nullptr || !repeatable(*key)) once(option);
  }

  app.add_subcommand("check-config", "Check file and flags; print derived limits and what binds")
      ->fallthrough()
      ->allow_extras()
      ->footer(kSubcommandFooter)
      ->add_flag("--json", to.json, "Print one JSON object");
  CLI::App* defaults =
      app.add_subcommand("default-config", "Print a complete, commented configuration file")
          ->fallthrough()
          ->allow_extras()
          ->footer(kSubcommandFooter);
  defaults->add_flag("--markdown", to.markdown, "Print the key reference of the documentation");
  app.require_subcommand(0, 1);
}

[[nodiscard]] Diagnostic usage_error(std::string_view flag, std::string problem, std::string fix) {
  return {std::string(flag), 0, 0, {}, std::move(problem), std::move(fix)};
}

// What no option took. A word after an unknown flag is taken for its value.
void complain_about_extras(const std::vector<std::string>& extras,
                           std::vector<Diagnostic>& errors) {
  std::vector<std::string_view> known = {"--config",   "--print-config", "--show-secrets", "--json",
                                         "--markdown", "--help",         "--version"};
  for (const FlagHelp& flag : kFlags)
    known.push_back(flag.flag);
  constexpr std::array<std::string_view, 2> kCommands = {"check-config", "default-config"};
  bool after_flag = false;
  for (const std::string& extra : extras) {
    const bool flag = extra.starts_with('-');
    if (!flag && after_flag) {
      after_flag = false;
      continue;
    }
    const std::string name = extra.substr(0, extra.find('='));
    const std::string_view near = flag ? closest(name, known) : closest(name, std::span(kCommands));
    errors.push_back(usage_error(name, flag ? "unknown flag" : "unexpected word",
                                 near.empty() ? "culvertd --help lists what there is"
                                              : "did you mean " + std::string(near) + "?"));
    after_flag = flag && extra.find('=') == std::string::npos;
  }
}

void collect_overrides(const Given& given, CommandLine& out) {
  for (const FlagHelp& flag : kFlags) {
    const std::vector<std::string>& values = given.at(flag.flag);
    const KeyInfo* key = key_of_flag(flag.flag);
    if (values.empty() || key == nullptr) continue;
    Value value = Value::flag(flag.flag, values.front());
    if (repeatable(*key)) {
      value.kind = Value::Kind::kList;
      for (const std::string& text : values)
        value.items.push_back(Value::flag(flag.flag, text));
    } else if (values.size() > 1) {
      out.errors.push_back(usage_error(
          flag.flag, "given " + std::to_string(values.size()) + " times", "give it once"));
    }
    out.overrides.push_back({std::string(key->section), std::string(key->name), std::move(value)});
  }
}

// Runs CLI11; false: out is finished (help, version or an error).
[[nodiscard]] bool run_parser(CLI::App& app, int argc, const char* const* argv, CommandLine& out) {
  try {
    app.parse(argc, argv);
    return true;
  } catch (const CLI::Success& wanted) {  // help or version
    std::ostringstream text;
    app.exit(wanted, text, text);
    out.text = text.str();
    out.mode = wanted.get_name() == "CallForVersion" ? Mode::kVersion : Mode::kHelp;
  } catch (const CLI::ParseError& error) {
    out.errors.push_back(usage_error({}, error.what(), "culvertd --help shows how it is written"));
    out.mode = Mode::kError;
    out.exit_code = kExitUsage;
  }
  return false;
}

void read_listeners(const KeyInfo& key, const FlagOverride& flag, Config& config, Origins& origins,
                    std::vector<Diagnostic>& errors) {
  config.listeners.assign(flag.value.items.size(), ListenConfig{});
  for (size_t i = 0; i < flag.value.items.size(); ++i) {
    origins[element_path(key, i)] = flag.value.items[i].origin;
    key.read(key, flag.value.items[i], config, i, errors);
  }
}

}  // namespace

void apply_flags(const std::vector<FlagOverride>& overrides, Config& config, Origins& origins,
                 std::vector<Diagnostic>& errors) {
  for (const FlagOverride& flag : overrides) {
    const KeyInfo* key = find_key(flag.section, flag.name);
    if (key == nullptr) continue;
    if (flag.section == "listen") {
      read_listeners(*key, flag, config, origins, errors);
      continue;
    }
    origins[element_path(*key, 0)] = flag.value.origin;
    key->read(*key, flag.value, config, 0, errors);
    if (key->flag == "--reply-budget")
      config.reply_budget.per_prefix =
          std::min(config.reply_budget.per_prefix, config.reply_budget.total);
  }
}

LoadedConfig load_config(const CommandLine& command_line, bool must_serve) {
  ParseResult parsed = command_line.config_file.empty() ? parse_toml("", "")
                                                        : parse_toml_file(command_line.config_file);
  LoadedConfig out;
  out.errors = std::move(parsed.errors);
  out.origins = std::move(parsed.origins);
  // A broken file does not hide what is wrong with the flags.
  Config config = parsed.config ? *parsed.config : *parse_toml("", "").config;
  apply_flags(command_line.overrides, config, out.origins, out.errors);
  if (out.errors.empty()) out.errors = validate(config, out.origins);
  if (out.errors.empty() && must_serve) out.errors = check_complete(config, out.origins);
  sort_diagnostics(out.errors);
  if (!out.errors.empty()) return out;
  out.warnings = config_warnings(config, out.origins);
  if (!command_line.config_file.empty())
    if (auto warning = file_mode_warning(command_line.config_file, config))
      out.warnings.push_back(std::move(*warning));
  out.config = std::move(config);
  return out;
}

CommandLine parse_command_line(int argc, const char* const* argv) {
  CommandLine out;
  Invocation invocation;
  CLI::App app(
      "culvertd: a STUN and TURN relay. Runs in the foreground and logs \"ready\" when it "
      "serves.",
      "culvertd");
  define(app, invocation);
  if (!run_parser(app, argc, argv, out)) return out;

  complain_about_extras(app.remaining(true), out.errors);
  collect_overrides(invocation.given, out);
  if (invocation.config_files.size() > 1)
    out.errors.push_back(usage_error("--config", "given more than once", "give one file"));
  if (!invocation.config_files.empty()) out.config_file = invocation.config_files.front();
  out.json = invocation.json;
  out.show_secrets = invocation.show_secrets;
  if (app.got_subcommand("check-config"))
    out.mode = Mode::kCheckConfig;
  else if (app.got_subcommand("default-config"))
    out.mode = Mode::kDefaultConfig;
  else if (invocation.print_config)
    out.mode = Mode::kPrintConfig;

  if (out.errors.empty() && out.mode == Mode::kDefaultConfig) {
    out.text = invocation.markdown ? key_reference_markdown() : default_config_text();
    return out;
  }
  if (out.errors.empty()) {
    LoadedConfig loaded = load_config(out, out.mode != Mode::kPrintConfig);
    out.errors = std::move(loaded.errors);
    out.warnings = std::move(loaded.warnings);
    out.origins = std::move(loaded.origins);
    if (loaded.config) out.config = std::move(*loaded.config);
  }
  if (!out.errors.empty()) {
    // check-config stays what it is: it prints the errors in its own form.
    if (out.mode != Mode::kCheckConfig) out.mode = Mode::kError;
    out.exit_code = kExitUsage;
  } else if (out.mode == Mode::kPrintConfig) {
    out.text = to_toml(out.config, out.show_secrets);
  }
  return out;
}

}  // namespace culvert
