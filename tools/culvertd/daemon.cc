#include "tools/culvertd/daemon.h"

#include <stdexcept>

#include "config/print.h"
#include "config/reload.h"
#include "config/report.h"
#include "control/snapshot_builder.h"
#include "crypto/credentials.h"

namespace culvert {

namespace {

constexpr uint16_t kFirstUnprivilegedPort = 1024;

void must_be_empty(const std::string& error) {
  if (!error.empty()) throw std::runtime_error(error);
}

// A relay that could not hold max_allocations (descriptors of this host, ports of its addresses)
// serves with what fits: tables are sized by it, and one warning names the bound. As root the
// descriptor limit is raised first.
[[nodiscard]] DerivedLimits fit_limits(Config& config, std::vector<Diagnostic>& warnings) {
  DerivedLimits derived = derive(config, resource_costs(config), read_machine_resources());
  (void)raise_file_limit(derived.file_descriptors);
  derived = derive(config, resource_costs(config), read_machine_resources());
  const Bound& bound = derived.binding_limit();
  if (bound.allocations == 0)
    throw std::runtime_error(bound.name + " leave no room for a single allocation: " + bound.raise);
  if (bound.allocations < config.limits.max_allocations) {
    warnings.push_back(
        make_diagnostic({}, "limits.max_allocations",
                        std::to_string(config.limits.max_allocations) + " do not fit: serving " +
                            std::to_string(bound.allocations) + " (" + bound.name + ")",
                        bound.raise));
    config.limits.max_allocations = static_cast<uint32_t>(bound.allocations);
    derived = derive(config, resource_costs(config), read_machine_resources());
  }
  must_be_empty(raise_file_limit(derived.file_descriptors));
  return derived;
}

[[nodiscard]] RingEngine::Options ring_options(const DerivedLimits& derived) {
  RingEngine::Options options;
  options.cores = static_cast<CoreId>(derived.cores);
  options.command_slots = derived.command_ring_slots;
  options.event_slots = derived.event_ring_slots;
  return options;
}

[[nodiscard]] std::unique_ptr<Snapshot> first_snapshot(const Config& config, CoreId cores,
                                                       crypto::Random& random) {
  auto snapshot = build_snapshot(config, cores, NonceKeys{});
  // The kernel's sockets choose a client's core themselves; ports that we poll are told.
  snapshot->steering.by_hash = config.driver == "dpdk" && cores > 1;
  random.fill(snapshot->steering.key);
  return snapshot;
}

}  // namespace

Daemon::Daemon(CommandLine command_line, Config config)
    : command_line_(std::move(command_line)),
      config_(std::move(config)),
      derived_(fit_limits(config_, command_line_.warnings)),
      log_(config_.log),
      engine_(ring_options(derived_),
              first_snapshot(config_, static_cast<CoreId>(derived_.cores), random_)),
      cores_(make_cores(engine_, config_, derived_, random_)),
      turn_(config_, engine_, random_, logging_hooks(log_), read_control_time()),
      service_(service_parts()) {
  crypto::require_digests();
  AccountResult account = resolve_account(config_.run_as);
  must_be_empty(account.error);
  account_ = account.account;
  service_.open(account_);
}

ServiceParts Daemon::service_parts() {
  return ServiceParts{
      turn_,
      engine_,
      LoopEngine{engine_.wake_fd(), [this] { return engine_.prepare_sleep(); },
                 [this] { engine_.awake(); }},
      log_,
      [this]() -> const Config& { return config_; },
      [this] { return to_toml(config_, false); },
      [this] { return limits_json(); },
      [this] { return reload(); },
      shared_stats(),
  };
}

SharedStats Daemon::shared_stats() {
  StatsMemory& memory = engine_.stats_memory();
  return {&memory.header(), memory.ports(),
          [this, &memory](const StatsFile& file) {
            memory.publish(file, CULVERT_VERSION, config_.driver);
          },
          [this](std::span<PortStats> ports) { return cores_->read_ports(ports); }};
}

int Daemon::run() {
  for (const Diagnostic& warning : command_line_.warnings)
    log_.warning(warning.to_string());
  drop_privileges_or_throw();
  log_.start_writer();
  service_.start_threads();
  cores_->start(random_);
  log_start();
  const int status = service_.run();
  cores_->stop();
  cores_->report(log_);
  return status;
}

void Daemon::drop_privileges_or_throw() {
  PrivilegePlan plan;
  plan.account = account_;
  plan.keep_low_ports = config_.relay_port_low < kFirstUnprivilegedPort;
  must_be_empty(drop_privileges(plan));
}

void Daemon::log_start() {
  for (const ListenConfig& listener : config_.listeners)
    log_.info("listening", {{"transport", "udp"},
                            {"address", listener.address.to_string()},
                            {"realm", config_.realms[listener.realm].name}});
  for (const RelayAddressConfig& address : config_.relay_addresses)
    log_.info("relaying", {{"address", address.bound.to_string()},
                           {"advertised", address.advertised.to_string()}});
  cores_->describe(log_);
  log_.info("started", {{"cores", derived_.cores},
                        {"max_allocations", config_.limits.max_allocations},
                        {"binding_limit", derived_.binding_limit().name},
                        {"table_bytes", cores_->table_bytes()},
                        {"privileges", describe_privileges()}});
}

nlohmann::json Daemon::limits_json() const {
  nlohmann::json report =
      nlohmann::json::parse(check_report_json(config_, derived_, command_line_.warnings));
  return report;
}

// Compared as loaded, then expanded with today's interfaces; refused or applied as a whole.
ReloadOutcome Daemon::reload() {
  ReloadOutcome outcome;
  const LoadedConfig loaded = load_config(command_line_, true);
  for (const Diagnostic& error : loaded.errors)
    outcome.messages.push_back(error.to_string());
  if (!loaded.config) return outcome;

  const std::vector<Change> changes = diff_for_reload(command_line_.config, *loaded.config);
  if (const auto refusal = refuse_reload(changes)) {
    outcome.messages.push_back(*refusal);
    return outcome;
  }
  // Listeners and relay addresses need a restart, so they stay as they were expanded at start.
  Config wanted = *loaded.config;
  wanted.listeners = config_.listeners;
  wanted.relay_addresses = config_.relay_addresses;
  wanted.limits.max_allocations = config_.limits.max_allocations;  // as it was made to fit
  if (const auto refusal = turn_.reload(wanted, read_control_time())) {
    outcome.messages.push_back(*refusal);
    return outcome;
  }
  command_line_.config = *loaded.config;
  command_line_.warnings = loaded.warnings;
  config_ = std::move(wanted);
  log_.set_level(config_.log.level);
  service_.loop().set_stop_grace(std::chrono::seconds(config_.stop_grace_seconds));
  outcome.applied = true;
  for (const Change& change : changes)
    outcome.messages.push_back("changed: " + change.key);
  if (changes.empty()) outcome.messages.push_back("nothing changed");
  return outcome;
}

}  // namespace culvert
