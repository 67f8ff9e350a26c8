// What follows from a configuration: listeners from wildcards, limits and the one that binds, what
// a reload may change; and that the documentation names every key and every limit.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "config/derive.h"
#include "config/interfaces.h"
#include "config/parse.h"
#include "config/print.h"
#include "config/reload.h"
#include "config/report.h"
#include "config/schema.h"

namespace culvert {
namespace {

[[nodiscard]] Config good(const std::string& text) {
  const ParseResult result = parse_toml(text, "test.toml");
  for (const Diagnostic& d : result.errors)
    ADD_FAILURE() << d.to_string();
  return result.config.value_or(Config{});
}
[[nodiscard]] IpAddress ip(const char* text) {
  return *IpAddress::parse(text);
}

[[nodiscard]] MachineAddresses machine() {
  MachineAddresses m;
  for (const char* text : {"127.0.0.1", "::1", "172.17.0.1", "192.0.2.7", "169.254.3.4", "fe80::1",
                           "2001:db8::7", "fd00::7"})
    m.addresses.push_back(ip(text));
  m.default_v4 = ip("192.0.2.7");
  m.default_v6 = ip("2001:db8::7");
  return m;
}

[[nodiscard]] std::string listeners_of(const Config& config) {
  std::string out;
  for (const ListenConfig& l : config.listeners)
    out += l.address.to_string() + " ";
  return out;
}
[[nodiscard]] std::string relays_of(const Config& config) {
  std::string out;
  for (const RelayAddressConfig& r : config.relay_addresses)
    out += r.bound.to_string() + "=" + r.advertised.to_string() + " ";
  return out;
}

TEST(ConfigWildcards, NoListenersMeanAllAddressesOfTheMachineButLoopbackAndLinkLocal) {
  const Expanded e = expand_wildcards(good(""), machine());
  ASSERT_TRUE(e.config);
  EXPECT_EQ(listeners_of(*e.config),
            "172.17.0.1:3478 192.0.2.7:3478 [2001:db8::7]:3478 [fd00::7]:3478 ");
  EXPECT_EQ(relays_of(*e.config), "192.0.2.7=192.0.2.7 2001:db8::7=2001:db8::7 ");
}

TEST(ConfigWildcards, AnAddressThatIsNamedIsTakenEvenIfAWildcardWouldLeaveItOut) {
  const Expanded e = expand_wildcards(
      good("[[listen]]\naddress = \"127.0.0.1:5000\"\n[[listen]]\naddress = \"[fe80::1]:5000\"\n"),
      machine());
  ASSERT_TRUE(e.config);
  EXPECT_EQ(listeners_of(*e.config), "127.0.0.1:5000 [fe80::1]:5000 ");
  EXPECT_EQ(relays_of(*e.config), "127.0.0.1=127.0.0.1 fe80::1=fe80::1 ");
}

TEST(ConfigWildcards, AnExplicitListenerWinsOverTheWildcardOfItsPort) {
  const Expanded e =
      expand_wildcards(good("[[listen]]\naddress = \"0.0.0.0:3478\"\n[[listen]]\naddress = "
                            "\"192.0.2.7:3478\"\nrealm = "
                            "\"b\"\n[[realm]]\nname = \"a\"\n[[realm]]\nname = \"b\"\n"),
                       machine());
  ASSERT_TRUE(e.config);
  EXPECT_EQ(listeners_of(*e.config), "192.0.2.7:3478 172.17.0.1:3478 ");
  EXPECT_EQ(e.config->listeners[0].realm, 1);
  EXPECT_EQ(e.config->listeners[1].realm, 0);
  EXPECT_EQ(relays_of(*e.config), "192.0.2.7=192.0.2.7 ");
}

TEST(ConfigWildcards, RelayAddressesThatAreGivenStay) {
  const Expanded e =
      expand_wildcards(good("[relay]\naddresses = [\"10.0.0.5=203.0.113.5\"]\n"), machine());
  ASSERT_TRUE(e.config);
  EXPECT_EQ(relays_of(*e.config), "10.0.0.5=203.0.113.5 ");
}

TEST(ConfigWildcards, WithoutARouteTheFirstAddressOfEachFamilyRelays) {
  MachineAddresses m = machine();
  m.default_v4.reset();
  m.default_v6 = ip("2001:db8::99");  // not one we listen on
  const Expanded e = expand_wildcards(good(""), m);
  ASSERT_TRUE(e.config);
  EXPECT_EQ(relays_of(*e.config), "172.17.0.1=172.17.0.1 2001:db8::7=2001:db8::7 ");
}

TEST(ConfigWildcards, AMachineWithLoopbackAloneIsToldWhatToName) {
  MachineAddresses m;
  m.addresses = {ip("127.0.0.1"), ip("::1"), ip("fe80::2")};
  const Expanded e = expand_wildcards(good(""), m);
  ASSERT_EQ(e.errors.size(), 1u);
  EXPECT_FALSE(e.config);
  EXPECT_NE(e.errors[0].to_string().find("--listen 127.0.0.1:3478"), std::string::npos);
}

TEST(ConfigWildcards, MoreAddressesThanListenersAreRefused) {
  MachineAddresses m;
  for (uint32_t i = 1; i <= kMaxListeners + 1; ++i)
    m.addresses.push_back(IpAddress::v4(0xc0000200u + i));
  EXPECT_FALSE(expand_wildcards(good(""), m).config);
  m.addresses.pop_back();
  EXPECT_TRUE(expand_wildcards(good(""), m).config);
}

TEST(ConfigWildcards, TheKernelsListHoldsEachAddressOnce) {
  const MachineAddresses m = read_machine_addresses();
  for (size_t i = 0; i < m.addresses.size(); ++i)
    for (size_t j = i + 1; j < m.addresses.size(); ++j)
      EXPECT_NE(m.addresses[i], m.addresses[j]);
}

[[nodiscard]] Config two_families(uint32_t max_allocations, uint32_t cores = 1) {
  Config config = good(
      "[relay]\naddresses = [\"192.0.2.1\", \"2001:db8::1\"]\n[[listen]]\naddress = "
      "\"192.0.2.1:3478\"\n");
  config.limits.max_allocations = max_allocations;
  config.cores = cores;
  return config;
}

TEST(ConfigDerive, OneFamilyNeedsOnePortAndDescriptorForEachAllocation) {
  Config config = two_families(1000);
  config.relay_addresses.pop_back();
  const DerivedLimits d = derive(config, {}, {});
  EXPECT_EQ(d.file_descriptors, kOtherFileDescriptors + 1 + 1000);
  EXPECT_EQ(d.relay_ports_ipv4, 16384u);
  EXPECT_EQ(d.relay_ports_ipv6, 0u);
  EXPECT_EQ(d.per_core_allocations, 1000u);
  EXPECT_EQ(d.memory_bytes, 1000u * 1024 + 64u * (kCommandRingSlots + kEventRingSlots));
  EXPECT_EQ(d.binding_limit().name, "limits.max_allocations");
}

TEST(ConfigDerive, TwoFamiliesMayNeedTwoDescriptorsForAnAllocation) {
  const DerivedLimits d = derive(two_families(1000), {}, {});
  EXPECT_EQ(d.file_descriptors, kOtherFileDescriptors + 1 + 2000);
}

TEST(ConfigDerive, TheLimitThatPermitsFewestAllocationsBinds) {
  MachineResources machine_has;
  EXPECT_EQ(derive(two_families(16384), {}, machine_has).binding_limit().name,
            "limits.max_allocations");
  EXPECT_EQ(derive(two_families(20000), {}, machine_has).binding_limit().name, "relayed ports");
  EXPECT_EQ(derive(two_families(20000), {}, machine_has).binding_limit().allocations, 16384u);
  machine_has.file_descriptors = 1024;
  const DerivedLimits files = derive(two_families(16384), {}, machine_has);
  EXPECT_EQ(files.binding_limit().name, "file descriptors");
  EXPECT_EQ(files.binding_limit().allocations, (1024 - kOtherFileDescriptors - 1) / 2);
  machine_has.file_descriptors = UINT64_MAX;
  machine_has.memory_bytes = 8u << 20;
  const DerivedLimits memory = derive(two_families(16384), {}, machine_has);
  EXPECT_EQ(memory.binding_limit().name, "memory");
  EXPECT_LT(memory.binding_limit().allocations, 8192u);
  machine_has.memory_bytes = 1;
  EXPECT_EQ(derive(two_families(16384), {}, machine_has).binding_limit().allocations, 0u);
}

TEST(ConfigDerive, CostsOfDriverAndCoresCount) {
  ResourceCosts costs;
  costs.bytes_per_allocation = 500;
  costs.bytes_per_core = 7000;
  costs.bytes_fixed = 90000;
  costs.fds_per_relayed_port = 0;  // a driver whose ports are table rows
  const DerivedLimits d = derive(two_families(1000, 4), costs, {});
  EXPECT_EQ(d.memory_bytes, 90000 + 4 * 7000 + 4 * d.per_core_allocations * 500ull);
  EXPECT_EQ(d.file_descriptors, kOtherFileDescriptors + 4);
  EXPECT_EQ(d.binding_limit().name, "limits.max_allocations");
}

TEST(ConfigDerive, ZeroCoresMeanTheMachinesCpusUpToTheMost) {
  Config config = two_families(1000, 0);
  MachineResources m;
  m.cpus = 6;
  EXPECT_EQ(effective_cores(config, m), 6u);
  m.cpus = 1000;
  EXPECT_EQ(effective_cores(config, m), kMaxCores);
  config.cores = 3;
  EXPECT_EQ(effective_cores(config, m), 3u);
}

// Clients land on cores by a hash. The room above the even share must hold all of them nearly
// always.
TEST(ConfigDerive, ClientsSpreadByChanceFitIntoTheCoresTables) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (const uint32_t cores : {2u, 4u, 16u}) {
    for (const uint32_t allocations : {16u, 1000u, 16384u}) {
      const uint32_t room = allocations_per_core(allocations, cores);
      EXPECT_LE(room, allocations);
      EXPECT_GE(uint64_t{room} * cores, allocations);
      for (int round = 0; round < 20; ++round) {
        std::vector<uint32_t> on_core(cores);
        for (uint32_t i = 0; i < allocations; ++i)
          ++on_core[random() % cores];
        EXPECT_LE(*std::max_element(on_core.begin(), on_core.end()), room)
            << cores << " cores, " << allocations << " allocations";
      }
    }
  }
}

TEST(ConfigDerive, TheMachinesResourcesAreReadFromTheKernel) {
  const MachineResources m = read_machine_resources();
  EXPECT_GE(m.cpus, 1u);
  EXPECT_GT(m.file_descriptors, 10u);
  EXPECT_GT(m.memory_bytes, 1u << 20);
  EXPECT_LT(m.memory_bytes, UINT64_MAX);
}

TEST(ConfigReport, NamesTheBindingLimitAndWhyARealmOffersUserhashOrNot) {
  const Config config = good(
      "[relay]\naddresses = [\"192.0.2.1\"]\n[[listen]]\naddress = \"192.0.2.1:3478\"\n"
      "[[realm]]\nname = \"a\"\nusers = { alice = \"sesame\" }\n[[realm]]\nname = \"b\"\n"
      "secrets = [\"opensesame\"]\n");
  MachineResources m;
  m.file_descriptors = 1000;
  const DerivedLimits limits = derive(config, {}, m);
  const std::string text = check_report_text(config, limits, {});
  EXPECT_NE(text.find("binding limit: file descriptors, 743 allocations"), std::string::npos)
      << text;
  EXPECT_NE(text.find("username anonymity  on: every user"), std::string::npos);
  EXPECT_NE(text.find("username anonymity  off: users of a shared secret"), std::string::npos);
  EXPECT_EQ(text.find("sesame"), std::string::npos);
  const auto json = nlohmann::json::parse(check_report_json(config, limits, {}));
  EXPECT_TRUE(json["ok"]);
  EXPECT_EQ(json["binding_limit"], "file descriptors");
  EXPECT_EQ(json["derived"]["file_descriptors"], limits.file_descriptors);
  EXPECT_TRUE(json["realms"][0]["username_anonymity"]);
  EXPECT_FALSE(json["realms"][1]["username_anonymity"]);
  EXPECT_EQ(json.dump().find("sesame"), std::string::npos);
}

TEST(ConfigReport, ErrorsAsJsonCarryLineKeyAndFix) {
  const ParseResult bad = parse_toml("\ncores = 99\n", "f\xff.toml");
  const auto json = nlohmann::json::parse(check_errors_json(bad.errors));
  EXPECT_FALSE(json["ok"]);
  ASSERT_EQ(json["errors"].size(), 1u);
  EXPECT_EQ(json["errors"][0]["line"], 2);
  EXPECT_EQ(json["errors"][0]["key"], "cores");
  EXPECT_EQ(json["errors"][0]["fix"], "give 0 (one for each CPU) or 1 to 64");
}

// Another value for each key, in a file with one listener and one realm.
struct Other {
  const char* path;
  const char* line;
};
constexpr Other kOthers[] = {
    {"cores", "cores = 2"},
    {"stop_grace", "stop_grace = 1"},
    {"software", "software = \"x\""},
    {"listen.address", "[[listen]]\naddress = \"192.0.2.2:1\""},
    {"relay.addresses", "[relay]\naddresses = [\"192.0.2.9\"]"},
    {"relay.ports", "[relay]\nports = \"50000-60000\""},
    {"realm.name", "[[realm]]\nname = \"other\""},
    {"realm.users", "[[realm]]\nusers = { a = \"b\" }"},
    {"realm.secrets", "[[realm]]\nsecrets = [\"s\"]"},
    {"realm.database", "[[realm]]\ndatabase = \"d\""},
    {"realm.user_quota", "[[realm]]\nuser_quota = 1"},
    {"realm.user_bandwidth", "[[realm]]\nuser_bandwidth = 1000"},
    {"realm.algorithms", "[[realm]]\nalgorithms = [\"md5\"]"},
    {"limits.max_allocations", "[limits]\nmax_allocations = 1"},
    {"limits.total_bandwidth", "[limits]\ntotal_bandwidth = 1000"},
    {"limits.default_lifetime", "[limits]\ndefault_lifetime = 700"},
    {"limits.max_lifetime", "[limits]\nmax_lifetime = 700"},
    {"limits.nonce_lifetime", "[limits]\nnonce_lifetime = 700"},
    {"reply_budget.total", "[reply_budget]\ntotal = \"1MB\""},
    {"reply_budget.per_prefix", "[reply_budget]\nper_prefix = 1000"},
    {"reply_budget.bad_nonces", "[reply_budget]\nbad_nonces = 1"},
    {"peers.default_deny", "[peers]\ndefault_deny = false"},
    {"peers.deny", "[peers]\ndeny = [\"10.0.0.1\"]"},
    {"peers.allow", "[peers]\nallow = [\"10.0.0.1\"]"},
    {"control_socket.path", "[control_socket]\npath = \"p\""},
    {"control_socket.mode", "[control_socket]\nmode = \"0600\""},
    {"control_socket.group", "[control_socket]\ngroup = \"g\""},
    {"metrics.listen", "[metrics]\nlisten = \"127.0.0.1:1\""},
    {"log.level", "[log]\nlevel = \"error\""},
    {"log.format", "[log]\nformat = \"json\""},
    {"log.target", "[log]\ntarget = \"stdout\""},
    {"run_as.user", "[run_as]\nuser = \"u\""},
    {"run_as.group", "[run_as]\ngroup = \"g\""},
    {"dpdk.eal", "[dpdk]\neal = \"-m 64\""},
    {"dpdk.port_addresses", "[dpdk]\nport_addresses = [\"192.0.2.1/24\"]"},
    {"dpdk.neighbours", "[dpdk]\nneighbours = [\"192.0.2.7=02:00:00:00:00:07\"]"},
    {"dpdk.gateways", "[dpdk]\ngateways = [\"192.0.2.254\"]"},
    {"dpdk.kernel", "[dpdk]\nkernel = \"tap\""},
    {"dpdk.idle", "[dpdk]\nidle = \"busy\""},
};

TEST(ConfigReload, EachChangedKeyIsNamedAndARestartKeyRefusesTheWhole) {
  const std::string listen = "[[listen]]\naddress = \"192.0.2.1:1\"\n";
  size_t covered = 0;
  for (const Other& other : kOthers) {
    const bool is_listen = std::string_view(other.path) == "listen.address";
    const Config before = good(listen);
    const bool top = std::string_view(other.path).find('.') == std::string_view::npos;
    const Config after = good(is_listen ? std::string(other.line)
                              : top     ? std::string(other.line) + "\n" + listen
                                        : listen + other.line);
    const std::string path(other.path);
    const size_t dot = path.find('.');
    const KeyInfo* key = dot == std::string::npos
                             ? find_key("", path)
                             : find_key(path.substr(0, dot), path.substr(dot + 1));
    ASSERT_NE(key, nullptr) << path;
    std::vector<Change> expected{{element_path(*key, 0), key->reload}};
    // A renamed realm shows in the listener that serves it.
    if (path == "realm.name")
      expected.insert(expected.begin(), {"listen[0].realm", Reload::kRestart});
    EXPECT_EQ(diff_for_reload(before, after), expected) << path;
    const auto refusal = refuse_reload(expected);
    EXPECT_EQ(refusal.has_value(), key->reload == Reload::kRestart) << path;
    EXPECT_NE(refusal.value_or(expected.back().key).find(expected.back().key), std::string::npos);
    ++covered;
  }
  // All but driver (one is built) and listen.realm (covered by its own test).
  EXPECT_EQ(covered, config_keys().size() - 2);
}

TEST(ConfigReload, EqualConfigurationsHaveNoChanges) {
  EXPECT_TRUE(diff_for_reload(good(""), good("cores = 1\n")).empty());
  EXPECT_EQ(refuse_reload({}), std::nullopt);
}

TEST(ConfigReload, AddedListenersAndRealmsNeedARestart) {
  const Config one = good("[[listen]]\naddress = \"192.0.2.1:1\"\n[[realm]]\nname = \"a\"\n");
  const Config more = good(
      "[[listen]]\naddress = \"192.0.2.1:1\"\n[[listen]]\naddress = "
      "\"192.0.2.1:2\"\n[[realm]]\nname = \"a\"\n[[realm]]\nname = \"b\"\n");
  const std::vector<Change> expected{{"listen.address", Reload::kRestart},
                                     {"realm.name", Reload::kRestart}};
  EXPECT_EQ(diff_for_reload(one, more), expected);
  EXPECT_EQ(diff_for_reload(more, one), expected);
  EXPECT_EQ(
      refuse_reload(expected),
      "listen.address, realm.name need a restart; nothing was changed. Restart culvertd, or undo "
      "these changes and reload again");
}

TEST(ConfigReload, AListenerMovedToAnotherRealmNeedsARestart) {
  const std::string realms = "[[realm]]\nname = \"a\"\n[[realm]]\nname = \"b\"\n";
  EXPECT_EQ(
      diff_for_reload(good("[[listen]]\naddress = \"192.0.2.1:1\"\nrealm = \"a\"\n" + realms),
                      good("[[listen]]\naddress = \"192.0.2.1:1\"\nrealm = \"b\"\n" + realms)),
      (std::vector<Change>{{"listen[0].realm", Reload::kRestart}}));
}

TEST(ConfigReload, SecretsAreComparedInClearAndNeverNamed) {
  const auto changes = diff_for_reload(good("[[realm]]\nsecrets = [\"one\"]\n"),
                                       good("[[realm]]\nsecrets = [\"two\"]\n"));
  EXPECT_EQ(changes, (std::vector<Change>{{"realm[0].secrets", Reload::kLive}}));
}

[[nodiscard]] std::string read_source(const std::string& path) {
  std::ifstream file(std::string(CULVERT_SOURCE_ROOT "/") + path);
  EXPECT_TRUE(file) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(ConfigDocs, TheReferenceInTheDocumentationIsWhatTheKeyTableSays) {
  EXPECT_NE(read_source("docs/configuration.md").find(key_reference_markdown()), std::string::npos)
      << "put the output of `culvertd default-config --markdown` under \"Keys\"";
}

TEST(ConfigDocs, EveryNamedLimitIsInTheLimitsPage) {
  const std::string page = read_source("docs/limits.md");
  size_t found = 0;
  for (const char* header :
       {"dataplane/api/limits.h", "dataplane/wire/reassembly.h", "dataplane/wire/icmp.h",
        "dataplane/io/frames.h", "config/config.h", "config/derive.h", "config/parse.h"}) {
    const std::string text = read_source(header);
    const std::regex constant(R"(inline constexpr \w+(?:::\w+)? (k\w+)\s*=)");
    for (auto it = std::sregex_iterator(text.begin(), text.end(), constant);
         it != std::sregex_iterator(); ++it) {
      ++found;
      EXPECT_NE(page.find("`" + (*it)[1].str() + "`"), std::string::npos)
          << (*it)[1].str() << " of " << header;
    }
  }
  EXPECT_GE(found, 30u);
}

}  // namespace
}  // namespace culvert
