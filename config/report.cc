// See report.h.
#include "config/report.h"

#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "config/units.h"
#include "config/validate.h"

namespace culvert {

namespace {

using Json = nlohmann::ordered_json;

[[nodiscard]] std::string algorithms_text(const RealmConfig& realm) {
  std::string out;
  for (const PasswordAlgorithm a : realm.algorithms) {
    out += out.empty() ? "" : ", ";
    out += a == PasswordAlgorithm::kMd5 ? "md5" : "sha256";
  }
  return out.empty() ? "none" : out;
}

[[nodiscard]] std::string accounts_text(const RealmConfig& realm) {
  std::string out;
  const auto add = [&](const std::string& text) { out += (out.empty() ? "" : ", ") + text; };
  const auto count = [](size_t n, const std::string& what) {
    return std::to_string(n) + " " + what + (n == 1 ? "" : "s");
  };
  if (!realm.users.empty()) add(count(realm.users.size(), "static user"));
  if (!realm.secrets.empty()) add(count(realm.secrets.size(), "shared secret"));
  if (!realm.database.empty()) add("database " + realm.database);
  return out.empty() ? "no accounts" : out;
}

[[nodiscard]] std::string limit_text(uint64_t value, const std::string& shown) {
  return value == 0 ? "unlimited" : shown;
}

[[nodiscard]] Json diagnostics_json(const std::vector<Diagnostic>& diagnostics) {
  Json list = Json::array();
  for (const Diagnostic& d : diagnostics)
    list.push_back({{"file", d.file},
                    {"line", d.line},
                    {"column", d.column},
                    {"key", d.key},
                    {"problem", d.problem},
                    {"fix", d.fix}});
  return list;
}

// File names and keys come from outside and may hold anything; a report is printed all the same.
[[nodiscard]] std::string dump(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string userhash_reason(const RealmConfig& realm) {
  if (offers_userhash(realm)) return "on: every user of the realm can be looked up by its hash";
  if (!realm.secrets.empty())
    return "off: users of a shared secret exist only in their own requests, so they cannot be "
           "looked up by hash";
  return "off: the realm has no users";
}

std::string check_report_text(const Config& config, const DerivedLimits& limits,
                              const std::vector<Diagnostic>& warnings) {
  std::string out;
  for (const Diagnostic& warning : warnings)
    out += "warning: " + warning.to_string() + "\n";
  out += "configuration: ok\n\nlisteners:\n";
  for (const ListenConfig& l : config.listeners)
    out += "  udp " + l.address.to_string() + "  realm " + config.realms[l.realm].name + "\n";
  out += "relay addresses:\n";
  for (const RelayAddressConfig& relay : config.relay_addresses)
    out += "  " + format_relay_address(relay) + " ports " + std::to_string(config.relay_port_low) +
           "-" + std::to_string(config.relay_port_high) + "\n";
  out += "realms:\n";
  for (const RealmConfig& realm : config.realms) {
    out += "  " + realm.name + "\n";
    out += "    accounts            " + accounts_text(realm) + "\n";
    out += "    password algorithms " + algorithms_text(realm) + "\n";
    out += "    username anonymity  " + userhash_reason(realm) + "\n";
    out += "    quota of a user     " +
           limit_text(realm.user_quota, std::to_string(realm.user_quota) + " allocations") + ", " +
           limit_text(realm.user_bandwidth, format_rate(realm.user_bandwidth)) + " bandwidth\n";
    out += "    shortest challenge  " + std::to_string(challenge_bytes(realm)) + " of " +
           std::to_string(kMaxChallengeBytes) + " bytes\n";
  }
  out += "derived limits:\n";
  out += "  cores                 " + std::to_string(limits.cores) + "\n";
  out += "  allocations per core  " + std::to_string(limits.per_core_allocations) + "\n";
  out += "  relayed ports         " + std::to_string(limits.relay_ports_ipv4) + " IPv4, " +
         std::to_string(limits.relay_ports_ipv6) + " IPv6\n";
  out += "  file descriptors      " + std::to_string(limits.file_descriptors) + "\n";
  out += "  memory at start       " + format_bytes(limits.memory_bytes) + " (" +
         std::to_string(limits.memory_bytes) + " bytes)\n";
  out += "  command, event rings  " + std::to_string(limits.command_ring_slots) + ", " +
         std::to_string(limits.event_ring_slots) + " slots of 64 bytes a core\n";
  out += "allocations permitted by:\n";
  for (const Bound& bound : limits.bounds)
    out += "  " + bound.name + ": " + std::to_string(bound.allocations) + " (" + bound.how + ")\n";
  const Bound& binding = limits.binding_limit();
  out += "binding limit: " + binding.name + ", " + std::to_string(binding.allocations) +
         " allocations; to get more, " + binding.raise + "\n";
  return out;
}

std::string check_report_json(const Config& config, const DerivedLimits& limits,
                              const std::vector<Diagnostic>& warnings) {
  Json json;
  json["ok"] = true;
  json["warnings"] = diagnostics_json(warnings);
  json["listeners"] = Json::array();
  for (const ListenConfig& l : config.listeners)
    json["listeners"].push_back(
        {{"address", l.address.to_string()}, {"realm", config.realms[l.realm].name}});
  json["relay_addresses"] = Json::array();
  for (const RelayAddressConfig& relay : config.relay_addresses)
    json["relay_addresses"].push_back(
        {{"bound", relay.bound.to_string()}, {"advertised", relay.advertised.to_string()}});
  json["realms"] = Json::array();
  for (const RealmConfig& realm : config.realms)
    json["realms"].push_back({{"name", realm.name},
                              {"users", realm.users.size()},
                              {"secrets", realm.secrets.size()},
                              {"database", realm.database},
                              {"username_anonymity", offers_userhash(realm)},
                              {"username_anonymity_reason", userhash_reason(realm)},
                              {"user_quota", realm.user_quota},
                              {"user_bandwidth", realm.user_bandwidth},
                              {"challenge_bytes", challenge_bytes(realm)}});
  json["derived"] = {{"cores", limits.cores},
                     {"allocations_per_core", limits.per_core_allocations},
                     {"relay_ports_ipv4", limits.relay_ports_ipv4},
                     {"relay_ports_ipv6", limits.relay_ports_ipv6},
                     {"file_descriptors", limits.file_descriptors},
                     {"memory_bytes", limits.memory_bytes},
                     {"command_ring_slots", limits.command_ring_slots},
                     {"event_ring_slots", limits.event_ring_slots}};
  json["bounds"] = Json::array();
  for (const Bound& bound : limits.bounds)
    json["bounds"].push_back({{"name", bound.name},
                              {"allocations", bound.allocations},
                              {"how", bound.how},
                              {"raise", bound.raise}});
  json["binding_limit"] = limits.binding_limit().name;
  json["allocations"] = limits.binding_limit().allocations;
  return dump(json);
}

std::string check_errors_json(const std::vector<Diagnostic>& errors) {
  return dump({{"ok", false}, {"errors", diagnostics_json(errors)}});
}

std::optional<Diagnostic> file_mode_warning(const std::string& path, const Config& config) {
  const bool holds_secrets =
      std::any_of(config.realms.begin(), config.realms.end(),
                  [](const RealmConfig& r) { return !r.users.empty() || !r.secrets.empty(); });
  struct stat info {};
  if (!holds_secrets || ::stat(path.c_str(), &info) != 0 || (info.st_mode & S_IROTH) == 0)
    return std::nullopt;
  return Diagnostic{
      path, 0, 0, {}, "everyone on this machine can read the passwords in it", "chmod o-r " + path};
}

}  // namespace culvert
