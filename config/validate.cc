// See validate.h.
#include "config/validate.h"

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "config/schema.h"
#include "config/units.h"

namespace culvert {

namespace {

// A guessed secret mints any user. 16 characters of base64 are 96 bits.
constexpr size_t kMinSecretBytes = 16;

[[nodiscard]] bool is_unspecified(const IpAddress& ip) {
  return ip.is_v4()
             ? ip.v4_host() == 0
             : std::all_of(ip.bytes.begin(), ip.bytes.end(), [](uint8_t b) { return b == 0; });
}
[[nodiscard]] bool is_multicast(const IpAddress& ip) {
  return ip.is_v4() ? ip.wire()[0] >= 224 : ip.bytes[0] == 0xff;
}
[[nodiscard]] bool is_loopback(const IpAddress& ip) {
  return ip.is_v4() ? ip.wire()[0] == 127 : ip.to_string() == "::1";
}
[[nodiscard]] bool contains(const Cidr& network, const IpAddress& ip) {
  if (network.address.family != ip.family) return false;
  const unsigned bits = network.prefix_bits + (ip.is_v4() ? 96u : 0u);
  for (unsigned bit = 0; bit < bits; ++bit) {
    const auto mask = static_cast<uint8_t>(0x80u >> (bit % 8));
    if (((network.address.bytes[bit / 8] ^ ip.bytes[bit / 8]) & mask) != 0) return false;
  }
  return true;
}

[[nodiscard]] bool same_network(const PortAddressConfig& a, const IpAddress& ip) {
  if (a.ip.family != ip.family) return false;
  const unsigned bits = a.prefix_bits + (ip.is_v4() ? 96u : 0u);
  for (unsigned bit = 0; bit < bits; ++bit) {
    const auto mask = static_cast<uint8_t>(0x80u >> (bit % 8));
    if (((a.ip.bytes[bit / 8] ^ ip.bytes[bit / 8]) & mask) != 0) return false;
  }
  return true;
}

class Checker {
 public:
  Checker(const Config& config, const Origins& origins) : config_(config), origins_(origins) {}

  void complain(std::string_view section, std::string_view name, size_t element,
                std::string problem, std::string fix) {
    const KeyInfo* key = find_key(section, name);
    Origin origin;
    std::string path = std::string(section) + "." + std::string(name);
    if (key != nullptr) {
      path = key->path();
      if (const auto found = origins_.find(element_path(*key, element)); found != origins_.end())
        origin = found->second;
    }
    out_.push_back(make_diagnostic(origin, path, std::move(problem), std::move(fix)));
  }
  void complain_key(std::string_view section, std::string_view name, std::string problem,
                    std::string fix) {
    complain(section, name, 0, std::move(problem), std::move(fix));
  }

  [[nodiscard]] std::vector<Diagnostic> take() {
    sort_diagnostics(out_);
    return std::move(out_);
  }

  void listeners() {
    if (config_.listeners.size() > kMaxListeners)
      complain("listen", "address", kMaxListeners,
               std::to_string(config_.listeners.size()) + " listeners are given",
               "at most " + std::to_string(kMaxListeners));
    std::set<std::string> seen;
    for (size_t i = 0; i < config_.listeners.size(); ++i) {
      const TransportAddress& address = config_.listeners[i].address;
      if (!seen.insert(address.to_string()).second)
        complain("listen", "address", i, address.to_string() + " is given twice",
                 "give each address and port once");
      if (is_multicast(address.ip))
        complain("listen", "address", i,
                 address.ip.to_string() + " is no address a client can reach",
                 "give an address of this machine");
    }
  }

  void relays() {
    const auto& relays = config_.relay_addresses;
    if (relays.size() > kMaxRelayAddresses)
      complain_key("relay", "addresses", std::to_string(relays.size()) + " addresses are given",
                   "at most " + std::to_string(kMaxRelayAddresses));
    std::set<std::string> seen;
    for (const RelayAddressConfig& relay : relays) {
      for (const IpAddress& ip : {relay.bound, relay.advertised}) {
        if (is_unspecified(ip) || is_multicast(ip))
          complain_key("relay", "addresses", ip.to_string() + " is no address peers can reach",
                       "name an address of this machine, or leave the list empty");
      }
      if (relay.bound.family != relay.advertised.family)
        complain_key("relay", "addresses", format_relay_address(relay) + " mixes IPv4 and IPv6",
                     "bound and advertised must be of one family");
      if (!seen.insert(relay.bound.to_string()).second)
        complain_key("relay", "addresses", relay.bound.to_string() + " is given twice",
                     "give each bound address once");
    }
    const uint32_t ports = uint32_t{config_.relay_port_high} - config_.relay_port_low + 1;
    // 2 * cores ports hold a pair of each core wherever they start (dataplane/steer/owner.h).
    if (ports < 2 * config_.cores)
      complain_key("relay", "ports",
                   std::to_string(ports) + " ports are too few for " +
                       std::to_string(config_.cores) + " cores",
                   "give at least " + std::to_string(2 * config_.cores) + ", or fewer cores");
  }

  void dpdk() {
    const DpdkConfig& dpdk = config_.dpdk;
    if (config_.driver != "dpdk") return;
    if (dpdk.port_addresses.empty())
      return complain_key("dpdk", "port_addresses", "the ports have no address",
                          "give --port-address ADDR/LEN: the kernel's addresses are not theirs");
    if (dpdk.port_addresses.size() > kMaxPortAddresses)
      complain_key("dpdk", "port_addresses",
                   std::to_string(dpdk.port_addresses.size()) + " addresses are given",
                   "at most " + std::to_string(kMaxPortAddresses));
    if (dpdk.neighbours.size() > kMaxConfiguredNeighbours)
      complain_key("dpdk", "neighbours",
                   std::to_string(dpdk.neighbours.size()) + " neighbours are given",
                   "at most " + std::to_string(kMaxConfiguredNeighbours));
    for (const ListenConfig& listener : config_.listeners)
      if (!is_unspecified(listener.address.ip)) on_port("listen", "address", listener.address.ip);
    for (const RelayAddressConfig& relay : config_.relay_addresses)
      on_port("relay", "addresses", relay.bound);
    gateways();
  }

  void realms() {
    if (config_.realms.size() > kMaxRealms)
      complain("realm", "name", kMaxRealms,
               std::to_string(config_.realms.size()) + " realms are given",
               "at most " + std::to_string(kMaxRealms));
    std::set<std::string_view> seen;
    for (size_t i = 0; i < config_.realms.size(); ++i)
      if (!seen.insert(config_.realms[i].name).second)
        complain("realm", "name", i, "two realms are called " + toml_quote(config_.realms[i].name),
                 "give each [[realm]] a name of its own");
  }

  void numbers() {
    const LimitsConfig& limits = config_.limits;
    if (limits.default_lifetime_seconds > limits.max_lifetime_seconds)
      complain_key("limits", "default_lifetime",
                   format_duration(limits.default_lifetime_seconds) +
                       " is more than limits.max_lifetime, " +
                       format_duration(limits.max_lifetime_seconds),
                   "lower it, or raise limits.max_lifetime");
    const ReplyBudgetConfig& budget = config_.reply_budget;
    if (budget.per_prefix > budget.total)
      complain_key("reply_budget", "per_prefix",
                   format_rate(budget.per_prefix) + " is more than reply_budget.total, " +
                       format_rate(budget.total),
                   "lower it, or raise reply_budget.total");
    const size_t rules = config_.peers.deny.size() + config_.peers.allow.size();
    if (rules > kMaxPeerRules)
      complain_key("peers",
                   config_.peers.deny.size() > config_.peers.allow.size() ? "deny" : "allow",
                   std::to_string(rules) + " networks are given",
                   "at most " + std::to_string(kMaxPeerRules) +
                       " in deny and allow together; join neighbouring ones");
  }

  void accounts() {
    for (size_t i = 0; i < config_.realms.size(); ++i) {
      const RealmConfig& realm = config_.realms[i];
      if (has_accounts(realm) || !in_use(i)) continue;
      complain("realm", "users", i,
               "the realm " + toml_quote(realm.name) + " has no accounts, so nobody could use it",
               "add --user NAME:PASSWORD or --secret SECRET, or users, secrets or a database "
               "under its [[realm]]");
    }
  }

  void realm_warnings() {
    for (size_t i = 0; i < config_.realms.size(); ++i) {
      const RealmConfig& realm = config_.realms[i];
      if (!in_use(i))
        complain("realm", "name", i, "no listener serves the realm " + toml_quote(realm.name),
                 "add a [[listen]] with realm = " + toml_quote(realm.name));
      if (const size_t bytes = challenge_bytes(realm); bytes > kMaxChallengeBytes)
        complain("realm", "name", i,
                 "a challenge of this realm is " + std::to_string(bytes) +
                     " bytes, more than 2.5 times the shortest Allocate (" +
                     std::to_string(kMaxChallengeBytes) + "), so that gets none",
                 "shorten the name by at least " + std::to_string(bytes - kMaxChallengeBytes) +
                     " bytes");
      for (const std::string& secret : realm.secrets)
        if (secret.size() < kMinSecretBytes)
          complain("realm", "secrets", i,
                   "a shared secret of " + std::to_string(secret.size()) + " bytes can be guessed",
                   "use at least " + std::to_string(kMinSecretBytes) + " random characters");
    }
  }

  void other_warnings() {
    if (config_.driver != "dpdk" && config_.dpdk != DpdkConfig{})
      complain_key("dpdk", "eal",
                   "the [dpdk] section has no effect with driver = " + toml_quote(config_.driver),
                   "set driver = \"dpdk\", or leave the section out");
    if (config_.limits.default_lifetime_seconds < kDefaultAllocationLifetimeSeconds)
      complain_key("limits", "default_lifetime", "is below RFC 8656's 10 minutes",
                   "clients that refresh late lose their allocations");
    if (!config_.peers.default_deny)
      complain_key("peers", "default_deny",
                   "the built-in deny list is off: clients reach this machine and its networks",
                   "open single networks with peers.allow instead");
    if (config_.metrics.listen && !is_loopback(config_.metrics.listen->ip))
      complain_key("metrics", "listen",
                   config_.metrics.listen->to_string() +
                       " is not a loopback address, and metrics "
                       "are served without authentication",
                   "use 127.0.0.1, or let a firewall guard it");
    for (const Cidr& network : config_.peers.allow)
      for (const char* text : {"127.0.0.1", "::1", "169.254.169.254"})
        if (const auto ip = IpAddress::parse(text); ip && contains(network, *ip))
          complain_key("peers", "allow", format_cidr(network) + " lets clients reach " + text,
                       "leave it out unless clients shall reach services of this machine");
    for (size_t i = 0; i < config_.listeners.size(); ++i) {
      const uint16_t port = config_.listeners[i].address.port;
      if (port >= config_.relay_port_low && port <= config_.relay_port_high)
        complain("listen", "address", i,
                 "port " + std::to_string(port) + " lies within relay.ports",
                 "it is lost to allocations; move the listener or the range");
    }
  }

 private:
  void on_port(std::string_view section, std::string_view name, const IpAddress& ip) {
    const auto& addresses = config_.dpdk.port_addresses;
    const auto same = [&](const PortAddressConfig& a) { return a.ip == ip; };
    if (std::none_of(addresses.begin(), addresses.end(), same))
      complain_key(section, name, ip.to_string() + " is on none of the ports",
                   "add --port-address " + ip.to_string() + "/LENGTH");
  }

  void gateways() {
    bool seen[2] = {false, false};
    for (const IpAddress& gateway : config_.dpdk.gateways) {
      const auto reaches = [&](const PortAddressConfig& a) {
        return same_network(a, gateway) && a.ip != gateway;
      };
      const auto& addresses = config_.dpdk.port_addresses;
      if (std::none_of(addresses.begin(), addresses.end(), reaches))
        complain_key("dpdk", "gateways", gateway.to_string() + " is on no port's network",
                     "a gateway is a neighbour: check its address and the networks' lengths");
      bool& family = seen[gateway.is_v6() ? 1 : 0];
      if (family)
        complain_key("dpdk", "gateways", "two gateways of one family are given", "give one");
      family = true;
    }
  }

  [[nodiscard]] bool in_use(size_t realm) const {
    if (config_.listeners.empty()) return realm == 0;
    return std::any_of(config_.listeners.begin(), config_.listeners.end(),
                       [&](const ListenConfig& l) { return l.realm == realm; });
  }

  const Config& config_;
  const Origins& origins_;
  std::vector<Diagnostic> out_;
};

}  // namespace

std::vector<Diagnostic> validate(const Config& config, const Origins& origins) {
  Checker checker(config, origins);
  checker.listeners();
  checker.relays();
  checker.realms();
  checker.numbers();
  checker.dpdk();
  return checker.take();
}

std::vector<Diagnostic> check_complete(const Config& config, const Origins& origins) {
  Checker checker(config, origins);
  checker.accounts();
  return checker.take();
}

std::vector<Diagnostic> config_warnings(const Config& config, const Origins& origins) {
  Checker checker(config, origins);
  checker.realm_warnings();
  checker.other_warnings();
  return checker.take();
}

bool has_accounts(const RealmConfig& realm) {
  return !realm.users.empty() || !realm.secrets.empty() || !realm.database.empty();
}

bool offers_userhash(const RealmConfig& realm) {
  return realm.secrets.empty() && (!realm.users.empty() || !realm.database.empty());
}

size_t challenge_bytes(const RealmConfig& realm) {
  constexpr size_t kHeaders = 20 + 8 + 20;  // IP, UDP, STUN
  constexpr size_t kErrorCode = 4 + 4;      // without a reason phrase
  constexpr size_t kNonce = 4 + 32;         // 29 characters, padded (dataplane/api/nonce.h)
  const size_t name = 4 + (realm.name.size() + 3) / 4 * 4;
  const size_t algorithms = realm.algorithms.empty() ? 0 : 4 + 4 * realm.algorithms.size();
  return kHeaders + kErrorCode + name + kNonce + algorithms;
}

}  // namespace culvert
