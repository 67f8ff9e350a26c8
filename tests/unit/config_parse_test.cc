// The configuration file: every mistake is told with line, key and fix; what is printed reads back
// equal.
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>

#include "config/config.h"
#include "config/parse.h"
#include "config/print.h"
#include "config/schema.h"
#include "config/units.h"
#include "config/validate.h"

namespace culvert {
namespace {

[[nodiscard]] std::string errors_of(std::string_view text) {
  const ParseResult result = parse_toml(text, "culvert.toml");
  EXPECT_EQ(result.config.has_value(), result.errors.empty());
  std::string out;
  for (const Diagnostic& d : result.errors)
    out += d.to_string() + "\n";
  return out;
}

[[nodiscard]] Config good(std::string_view text) {
  const ParseResult result = parse_toml(text, "culvert.toml");
  for (const Diagnostic& d : result.errors)
    ADD_FAILURE() << d.to_string();
  return result.config.value_or(Config{});
}

TEST(ConfigParse, AnEmptyFileGivesTheDefaultsAndTheDefaultRealm) {
  Config expected;
  expected.realms.resize(1);
  expected.realms[0].name = "culvert";
  EXPECT_EQ(good(""), expected);
  EXPECT_EQ(expected.limits.max_allocations, 16384u);
  EXPECT_EQ(expected.limits.default_lifetime_seconds, 600u);
  EXPECT_EQ(expected.limits.max_lifetime_seconds, 3600u);
  EXPECT_EQ(expected.limits.nonce_lifetime_seconds, 3600u);
  EXPECT_EQ(expected.relay_port_low, 49152);
  EXPECT_EQ(expected.relay_port_high, 65535);
  EXPECT_EQ(expected.cores, 1u);
  EXPECT_EQ(expected.stop_grace_seconds, 10u);
}

constexpr std::string_view kFull = R"(
driver = "sockets"
cores = 4
stop_grace = "30s"
software = ""

[[listen]]
address = "192.0.2.1:3478"
realm = "b.example"
[[listen]]
address = "[2001:db8::1]:5349"

[relay]
addresses = ["10.0.0.5=203.0.113.5", "2001:db8::5"]
ports = "50000-60000"

[[realm]]
name = "a.example"
users = { zoe = "pw \"quoted\" \\ back", "alice@example.org" = "wonderland" }
user_quota = 12
user_bandwidth = "80Mbit/s"
algorithms = ["md5"]
[[realm]]
name = "b.example"
secrets = ["a-secret-of-some-length", "another-secret-of-length"]
database = "/var/lib/culvert/accounts.db"

[limits]
max_allocations = 1000
total_bandwidth = "1GB/s"
default_lifetime = 700
max_lifetime = "30m"
nonce_lifetime = "10m"

[reply_budget]
total = "2MiB/s"
per_prefix = 10000
bad_nonces = 50

[peers]
default_deny = false
deny = ["198.51.100.0/24"]
allow = ["10.0.0.0/8", "fd00::1"]

[control_socket]
path = "off"
mode = "0600"
group = "adm"

[metrics]
listen = "127.0.0.1:9641"

[log]
level = "debug"
format = "json"
target = "/var/log/culvert.log"

[run_as]
user = "relay"
group = "relay"

[dpdk]
eal = "--vdev='net_null0' -m 64"
port_addresses = ["192.0.2.1/24", "2001:db8::1/64@1"]
neighbours = ["192.0.2.7=02:00:00:00:00:07@1"]
gateways = ["192.0.2.254"]
kernel = "beside"
idle = "busy"
)";

TEST(ConfigParse, EveryKeyIsRead) {
  const Config c = good(kFull);
  EXPECT_EQ(c.cores, 4u);
  EXPECT_EQ(c.stop_grace_seconds, 30u);
  EXPECT_EQ(c.software, "");
  ASSERT_EQ(c.listeners.size(), 2u);
  EXPECT_EQ(c.listeners[0].address.to_string(), "192.0.2.1:3478");
  EXPECT_EQ(c.listeners[0].realm, 1);
  EXPECT_EQ(c.listeners[1].address.to_string(), "[2001:db8::1]:5349");
  EXPECT_EQ(c.listeners[1].realm, 0);
  ASSERT_EQ(c.relay_addresses.size(), 2u);
  EXPECT_EQ(c.relay_addresses[0].bound.to_string(), "10.0.0.5");
  EXPECT_EQ(c.relay_addresses[0].advertised.to_string(), "203.0.113.5");
  EXPECT_EQ(c.relay_addresses[1].advertised, c.relay_addresses[1].bound);
  EXPECT_EQ(c.relay_port_low, 50000);
  EXPECT_EQ(c.relay_port_high, 60000);
  ASSERT_EQ(c.realms.size(), 2u);
  ASSERT_EQ(c.realms[0].users.size(), 2u);
  EXPECT_EQ(c.realms[0].users[0].name, "alice@example.org");
  EXPECT_EQ(c.realms[0].users[1].password, "pw \"quoted\" \\ back");
  EXPECT_EQ(c.realms[0].user_quota, 12u);
  EXPECT_EQ(c.realms[0].user_bandwidth, 10'000'000u);
  EXPECT_EQ(c.realms[0].algorithms, std::vector{PasswordAlgorithm::kMd5});
  EXPECT_EQ(c.realms[1].secrets.size(), 2u);
  EXPECT_EQ(c.realms[1].database, "/var/lib/culvert/accounts.db");
  EXPECT_EQ(c.limits.max_allocations, 1000u);
  EXPECT_EQ(c.limits.total_bandwidth, 1'000'000'000u);
  EXPECT_EQ(c.limits.default_lifetime_seconds, 700u);
  EXPECT_EQ(c.limits.max_lifetime_seconds, 1800u);
  EXPECT_EQ(c.limits.nonce_lifetime_seconds, 600u);
  EXPECT_EQ(c.reply_budget.total, 2u * 1024 * 1024);
  EXPECT_EQ(c.reply_budget.per_prefix, 10000u);
  EXPECT_EQ(c.reply_budget.bad_nonce_per_second, 50u);
  EXPECT_FALSE(c.peers.default_deny);
  ASSERT_EQ(c.peers.allow.size(), 2u);
  EXPECT_EQ(format_cidr(c.peers.allow[1]), "fd00::1/128");
  EXPECT_EQ(c.control_socket.path, "");
  EXPECT_EQ(c.control_socket.mode, 0600u);
  EXPECT_EQ(c.control_socket.group, "adm");
  EXPECT_EQ(c.metrics.listen->to_string(), "127.0.0.1:9641");
  EXPECT_EQ(c.log.level, LogLevel::kDebug);
  EXPECT_EQ(c.log.format, LogFormat::kJson);
  EXPECT_EQ(c.log.target, "/var/log/culvert.log");
  EXPECT_EQ(c.run_as.user, "relay");
  EXPECT_EQ(c.run_as.group, "relay");
  EXPECT_EQ(c.dpdk.eal, "--vdev='net_null0' -m 64");
  ASSERT_EQ(c.dpdk.port_addresses.size(), 2u);
  EXPECT_EQ(c.dpdk.port_addresses[1].ip.to_string(), "2001:db8::1");
  EXPECT_EQ(c.dpdk.port_addresses[1].prefix_bits, 64);
  EXPECT_EQ(c.dpdk.port_addresses[1].port, 1);
  ASSERT_EQ(c.dpdk.neighbours.size(), 1u);
  EXPECT_EQ(c.dpdk.neighbours[0].mac[5], 7);
  ASSERT_EQ(c.dpdk.gateways.size(), 1u);
  EXPECT_EQ(c.dpdk.kernel, KernelMode::kBeside);
  EXPECT_EQ(c.dpdk.idle, IdlePolicy::kBusy);
}

// kFull differs from the default in every key that has a second value, so a key that is not
// printed, not read, or read into another's place shows here.
TEST(ConfigParse, WhatIsPrintedReadsBackEqualKeyByKey) {
  const Config full = good(kFull);
  const std::string printed = to_toml(full, true);
  EXPECT_EQ(good(printed), full);
  const Config defaults = good("");
  for (const KeyInfo& key : config_keys()) {
    EXPECT_NE(printed.find(std::string(key.name) + " = "), std::string::npos) << key.path();
    if (key.section == "listen" || key.name == "driver") continue;
    const size_t element = key.name == "secrets" || key.name == "database" ? 1 : 0;
    Config widened = defaults;
    widened.realms.resize(2);
    EXPECT_NE(key.write(full, element, true), key.write(widened, element, true)) << key.path();
  }
}

TEST(ConfigParse, PrintedSecretsAreMaskedUnlessAskedFor) {
  const Config full = good(kFull);
  const std::string masked = to_toml(full, false);
  for (const char* secret : {"wonderland", "quoted", "a-secret-of", "another-secret"})
    EXPECT_EQ(masked.find(secret), std::string::npos) << secret;
  EXPECT_NE(masked.find("\"zoe\" = \"***\""), std::string::npos);
  EXPECT_NE(to_toml(full, true).find("wonderland"), std::string::npos);
}

TEST(ConfigParse, TheDefaultFileIsTheDefaults) {
  EXPECT_EQ(good(default_config_text()), good(""));
}

TEST(ConfigParse, TheDefaultFileWithItsExamplesUncommentedParsesAndHasEveryKey) {
  // A key with an example stands twice in a plain section: the example replaces the default.
  std::string text;
  std::string skip;
  const std::string source = default_config_text();
  for (size_t at = 0; at < source.size();) {
    const size_t end = source.find('\n', at);
    std::string line = source.substr(at, end - at);
    at = end + 1;
    if (line.size() > 1 && line[0] == '#' && line[1] != ' ') {
      line.erase(0, 1);
      skip = line.substr(0, line.find(" = "));
    } else if (!skip.empty() && line.starts_with(skip + " = ")) {
      continue;
    }
    text += line + "\n";
  }
  const ParseResult result = parse_toml(text, "example.toml");
  for (const Diagnostic& d : result.errors)
    ADD_FAILURE() << d.to_string();
  ASSERT_TRUE(result.config);
  for (const KeyInfo& key : config_keys())
    EXPECT_EQ(result.origins.count(element_path(key, 0)), 1u) << key.path();
  EXPECT_TRUE(check_complete(*result.config, result.origins).empty());
}

struct Mistake {
  const char* text;
  const char* message;
};
constexpr Mistake kMistakes[] = {
    {"\n[limits]\nmax_allocation = 5\n",
     "culvert.toml:3: limits.max_allocation: unknown key; did you mean \"max_allocations\"?\n"},
    {"listeners = 3", "culvert.toml:1: listeners: unknown key; did you mean \"listen\"?\n"},
    {"max_allocations = 5",
     "culvert.toml:1: max_allocations: unknown key; it belongs under [limits]\n"},
    {"[limits]\ncores = 5",
     "culvert.toml:2: limits.cores: unknown key; it belongs before the first [section]\n"},
    {"[limits]\nxyzzy = 5",
     "culvert.toml:2: limits.xyzzy: unknown key; culvertd default-config lists all keys\n"},
    {"cores = \"two\"",
     "culvert.toml:1: cores: must be a number, is a string; give a whole number\n"},
    {"cores = 2.5",
     "culvert.toml:1: cores: must be a number, is a number with a fraction; give a whole number\n"},
    {"cores = -1",
     "culvert.toml:1: cores: -1 is out of range; give 0 (one for each CPU) or 1 to 64\n"},
    {"cores = 65",
     "culvert.toml:1: cores: 65 is out of range; give 0 (one for each CPU) or 1 to 64\n"},
    {"[limits]\nmax_allocations = 0",
     "culvert.toml:2: limits.max_allocations: 0 is out of range; give 1 to 1048576\n"},
    {"stop_grace = \"10 parsecs\"",
     "culvert.toml:1: stop_grace: \"10 parsecs\" is not a duration; give seconds, or a number with "
     "a "
     "unit: \"30s\", \"10m\", \"1h\"\n"},
    {"stop_grace = \"2h\"", "culvert.toml:1: stop_grace: \"2h\" is out of range; give 0s to 1h\n"},
    {"stop_grace = 1979-05-27",
     "culvert.toml:1: stop_grace: must be a duration, is a date or time; give seconds, or a number "
     "with a unit: \"30s\", \"10m\", \"1h\"\n"},
    {"[limits]\ntotal_bandwidth = \"10Mb\"",
     "culvert.toml:2: limits.total_bandwidth: \"10Mb\" is not a rate; give bytes per second, or a "
     "number with a unit: \"500kB/s\", \"10MB/s\", \"80Mbit/s\"\n"},
    {"[limits]\ntotal_bandwidth = 5",
     "culvert.toml:2: limits.total_bandwidth: 5 is out of range; give 0 (unlimited) or 1kB/s to "
     "125GB/s\n"},
    {"software = 5",
     "culvert.toml:1: software: must be a string, is a number; put it in double quotes\n"},
    {"[[listen]]\naddress = \"192.0.2.1\"",
     "culvert.toml:2: listen.address: \"192.0.2.1\" has no port; write \"192.0.2.1:3478\", "
     "\"[2001:db8::1]:3478\", \"0.0.0.0:3478\" or \"[::]:3478\"\n"},
    {"[[listen]]\naddress = \"192.0.2.1:0\"",
     "culvert.toml:2: listen.address: port 0 is no port to listen on; give a port from 1 to 65535; "
     "TURN's own is 3478\n"},
    {"\n[[listen]]\n",
     "culvert.toml:2: listen.address: is missing from this [[listen]]; add address = "
     "\"0.0.0.0:3478\"\n"},
    {"[listen]\naddress = \"192.0.2.1:3478\"",
     "culvert.toml:1: listen: may be given several times and is a list of tables; write [[listen]] "
     "with two brackets\n"},
    {"[[limits]]\nmax_allocations = 5",
     "culvert.toml:1: limits: must be a section, is a list; write [limits] and its keys under "
     "it\n"},
    {"[[listen]]\naddress = \"192.0.2.1:1\"\nrealm = \"exampel\"\n[[realm]]\nname = \"example\"",
     "culvert.toml:3: listen.realm: there is no realm \"exampel\"; did you mean \"example\"?\n"},
    {"[[listen]]\naddress = \"192.0.2.1:1\"\n[[listen]]\naddress = \"192.0.2.1:1\"",
     "culvert.toml:4: listen.address: 192.0.2.1:1 is given twice; give each address and port "
     "once\n"},
    {"[[listen]]\naddress = \"224.0.0.1:1\"",
     "culvert.toml:2: listen.address: 224.0.0.1 is no address a client can reach; give an address "
     "of "
     "this machine\n"},
    {"[relay]\nports = \"60000-50000\"",
     "culvert.toml:2: relay.ports: \"60000-50000\" is not a range of ports; write \"49152-65535\": "
     "the "
     "lowest, a dash, the highest, from 1 to 65535\n"},
    {"cores = 4\n[relay]\nports = \"50000-50006\"",
     "culvert.toml:3: relay.ports: 7 ports are too few for 4 cores; give at least 8, or fewer "
     "cores\n"},
    {"[relay]\naddresses = [\"0.0.0.0\"]",
     "culvert.toml:2: relay.addresses: 0.0.0.0 is no address peers can reach; name an address of "
     "this "
     "machine, or leave the list empty\n"},
    {"[relay]\naddresses = [\"10.0.0.1=2001:db8::1\"]",
     "culvert.toml:2: relay.addresses: 10.0.0.1=2001:db8::1 mixes IPv4 and IPv6; bound and "
     "advertised "
     "must be of one family\n"},
    {"[relay]\naddresses = [\n \"10.0.0.1\",\n \"nonsense\"]",
     "culvert.toml:4: relay.addresses: \"nonsense\" is not a relay address; write \"203.0.113.5\", "
     "or "
     "\"10.0.0.5=203.0.113.5\" for BOUND=ADVERTISED\n"},
    {"[relay]\naddresses = \"10.0.0.1\"",
     "culvert.toml:2: relay.addresses: must be a list, is a string; write [ and ] around it, with "
     "commas between its parts\n"},
    {"[[realm]]\nname = \"a\"\n[[realm]]\nname = \"a\"",
     "culvert.toml:4: realm.name: two realms are called \"a\"; give each [[realm]] a name of its "
     "own\n"},
    {"[[realm]]\nname = \"\"",
     "culvert.toml:2: realm.name: the realm's name is empty; give at least one character\n"},
    {"[[realm]]\nname = \"a:b\"",
     "culvert.toml:2: realm.name: a realm's name must not hold \", \\ or :; use the form of a "
     "domain "
     "name, such as \"example.org\"\n"},
    {"[[realm]]\nusers = { \"a:b\" = \"x\" }",
     "culvert.toml:2: realm.users: the user's name \"a:b\" holds a colon; choose one without: the "
     "key "
     "of a user is made from name:realm:password\n"},
    {"[[realm]]\n[realm.users]\nalice = 5",
     "culvert.toml:3: realm.users: the password of \"alice\" must be a string, is a number; put it "
     "in "
     "double quotes\n"},
    {"[[realm]]\nusers = [\"alice\"]",
     "culvert.toml:2: realm.users: must be a table, is a list; write [realm.users] and under it "
     "lines "
     "such as alice = \"password\"\n"},
    {"[[realm]]\nsecrets = [\"a\", \"b\", \"c\"]",
     "culvert.toml:2: realm.secrets: 3 shared secrets are given; at most 2: the one in use and the "
     "one "
     "being rotated\n"},
    {"[[realm]]\nsecrets = [\"a\", \"a\"]",
     "culvert.toml:2: realm.secrets: the same shared secret is given twice; remove one\n"},
    {"[[realm]]\nalgorithms = [\"sha265\"]",
     "culvert.toml:2: realm.algorithms: \"sha265\" is not known; did you mean \"sha256\"? (one of "
     "\"sha256\", \"md5\")\n"},
    {"[limits]\ndefault_lifetime = \"30m\"\nmax_lifetime = \"20m\"",
     "culvert.toml:2: limits.default_lifetime: 30m is more than limits.max_lifetime, 20m; lower "
     "it, or "
     "raise limits.max_lifetime\n"},
    {"[reply_budget]\nper_prefix = \"2MB/s\"\ntotal = \"1MB/s\"",
     "culvert.toml:2: reply_budget.per_prefix: 2MB/s is more than reply_budget.total, 1MB/s; lower "
     "it, "
     "or raise reply_budget.total\n"},
    {"[peers]\ndeny = [\"10.0.0.1/8\"]",
     "culvert.toml:2: peers.deny: \"10.0.0.1/8\" has bits set past its prefix length; write "
     "\"10.0.0.0/8\" for the network, or give the address alone\n"},
    {"[peers]\nallow = [\"10.0.0.0/33\"]",
     "culvert.toml:2: peers.allow: \"10.0.0.0/33\" has no prefix length of an IPv4 network; a "
     "number "
     "from 0 to 32 stands after the slash\n"},
    {"[peers]\ndefault_deny = \"no\"",
     "culvert.toml:2: peers.default_deny: must be true or false, is a string; write true or false "
     "without quotes\n"},
    {"[control_socket]\nmode = \"0666\"",
     "culvert.toml:2: control_socket.mode: this mode lets everyone on the machine operate the "
     "relay; "
     "leave out the last digit's write bit: \"0660\", and use control_socket.group\n"},
    {"[control_socket]\nmode = \"rw\"",
     "culvert.toml:2: control_socket.mode: \"rw\" is not a file mode; write three octal digits in "
     "quotes, such as \"0660\"\n"},
    {"[log]\nlevel = \"wraning\"",
     "culvert.toml:2: log.level: \"wraning\" is not known; did you mean \"warning\"? (one of "
     "\"trace\", "
     "\"debug\", \"info\", \"warning\", \"error\")\n"},
};

TEST(ConfigParse, EachMistakeIsToldWithItsLineItsKeyAndWhatToDo) {
  for (const Mistake& mistake : kMistakes)
    EXPECT_EQ(errors_of(mistake.text), mistake.message);
}

TEST(ConfigParse, ADriverThatIsNotThereIsToldWithThoseThatAre) {
  std::string built;
  for (const std::string_view name : built_drivers())
    built += (built.empty() ? "\"" : ", \"") + std::string(name) + "\"";
  EXPECT_EQ(
      errors_of("driver = \"xyz\""),
      "culvert.toml:1: driver: the driver \"xyz\" is not known; this build has: " + built + "\n");
  const bool refused =
      errors_of("driver = \"dpdk\"").find("is not in this build") != std::string::npos;
  EXPECT_EQ(refused, built_drivers().size() == 1);
}

TEST(ConfigParse, AllMistakesAreToldAtOnceInTheOrderOfTheFile) {
  const std::string errors =
      errors_of("cores = 99\nfoo = 1\n[log]\nlevel = 3\n[limits]\nbar = 1\n");
  size_t last = 0;
  for (const char* line : {":1: ", ":2: ", ":4: ", ":6: "}) {
    const size_t at = errors.find(line);
    ASSERT_NE(at, std::string::npos) << errors;
    EXPECT_GE(at, last);
    last = at;
  }
}

TEST(ConfigParse, TextThatIsNotTomlIsToldWithItsLine) {
  const std::string errors = errors_of("cores = 1\nsoftware = \"unclosed\n");
  EXPECT_TRUE(errors.starts_with("culvert.toml:2: not TOML: ")) << errors;
  EXPECT_TRUE(errors_of("cores = 1\ncores = 2\n").starts_with("culvert.toml:2: not TOML: "));
  EXPECT_TRUE(errors_of("software = \"\xff\"\n").starts_with("culvert.toml:1: not TOML: "));
}

TEST(ConfigParse, NoPasswordOrSecretIsEverRepeatedInAMessage) {
  for (const char* text :
       {"[[realm]]\nsecrets = [\"hunter2\", \"hunter2\"]", "[[realm]]\nsecrets = \"hunter2\"",
        "[[realm]]\nusers = \"alice:hunter2\"", "[[realm]]\nusers = { \"a:b\" = \"hunter2\" }",
        "[[realm]]\nusers = { alice = \"hunter2\\u0007\" }"}) {
    const std::string errors = errors_of(text);
    EXPECT_FALSE(errors.empty()) << text;
    EXPECT_EQ(errors.find("hunter2"), std::string::npos) << errors;
  }
}

TEST(ConfigParse, AFileThatCannotBeReadIsAnErrorNamingIt) {
  const ParseResult missing = parse_toml_file("/nonexistent/culvert.toml");
  ASSERT_EQ(missing.errors.size(), 1u);
  EXPECT_TRUE(missing.errors[0].to_string().starts_with(
      "/nonexistent/culvert.toml: cannot be opened: No such file"));
  EXPECT_EQ(parse_toml_file("/").errors.size(), 1u);
}

TEST(ConfigParse, DurationsAndRatesKnowTheirUnitsAndRefuseTheRest) {
  EXPECT_EQ(parse_duration("90"), 90u);
  EXPECT_EQ(parse_duration("10 m"), 600u);
  EXPECT_EQ(parse_duration("1d"), 86400u);
  EXPECT_EQ(parse_rate("1kbit/s"), 125u);
  EXPECT_EQ(parse_rate("8Gbit"), 1'000'000'000u);
  EXPECT_EQ(parse_rate("1MiB/s"), 1024u * 1024);
  for (const char* bad :
       {"", "s", "-1s", "1.5h", "1h30m", "1 h ", "99999999999999999999", "18446744073709551615h"})
    EXPECT_EQ(parse_duration(bad), std::nullopt) << bad;
  for (const char* bad : {"", "/s", "1mb", "1Kb", "1kB/m", "18446744073709551615GB"})
    EXPECT_EQ(parse_rate(bad), std::nullopt) << bad;
  for (const uint64_t rate : {0u, 1u, 999u, 1000u, 1500u, 128000u, 16000000u, 4000000000u})
    EXPECT_EQ(parse_rate(format_rate(rate)), rate);
  for (const uint64_t seconds : {0u, 1u, 60u, 61u, 3600u, 5400u})
    EXPECT_EQ(parse_duration(format_duration(seconds)), seconds);
}

TEST(ConfigParse, TheUsernameAnonymityBitNeedsUsersThatCanBeEnumerated) {
  RealmConfig realm;
  EXPECT_FALSE(offers_userhash(realm));
  realm.users.push_back({"alice", "x"});
  EXPECT_TRUE(offers_userhash(realm));
  realm.secrets.emplace_back("s");
  EXPECT_FALSE(offers_userhash(realm));
  realm.users.clear();
  realm.secrets.clear();
  realm.database = "accounts.db";
  EXPECT_TRUE(offers_userhash(realm));
}

TEST(ConfigParse, ARealmNameOf32BytesIsTheLongestWithAChallengeOf2Point5Times) {
  RealmConfig realm;
  realm.name = std::string(32, 'r');
  EXPECT_EQ(challenge_bytes(realm), 140u);
  EXPECT_EQ(kMaxChallengeBytes, 140u);
  Config config = good("");
  config.realms[0].name = realm.name;
  EXPECT_TRUE(config_warnings(config, {}).empty());
  config.realms[0].name += 'r';
  const auto warnings = config_warnings(config, {});
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_EQ(warnings[0].to_string(),
            "realm.name: a challenge of this realm is 144 bytes, more than 2.5 times the shortest "
            "Allocate (140), so that gets none; shorten the name by at least 4 bytes");
}

TEST(ConfigParse, WarningsNameWhatWorksButDeservesAWord) {
  const Config config = good(
      "[[listen]]\naddress = \"192.0.2.1:50000\"\n[[realm]]\nname = \"a\"\nsecrets = [\"short\"]\n"
      "[[realm]]\nname = \"b\"\n[limits]\ndefault_lifetime = 60\n[peers]\ndefault_deny = false\n"
      "allow = [\"0.0.0.0/0\"]\n[metrics]\nlisten = \"192.0.2.1:9641\"\n");
  std::set<std::string> keys;
  for (const Diagnostic& d : config_warnings(config, {}))
    keys.insert(d.key);
  EXPECT_EQ(keys, (std::set<std::string>{"listen.address", "realm.name", "realm.secrets",
                                         "limits.default_lifetime", "peers.default_deny",
                                         "peers.allow", "metrics.listen"}));
}

TEST(ConfigParse, ListsLongerThanTheirLimitsAreRefused) {
  std::string networks;
  for (size_t i = 0; i <= kMaxPeerRules; ++i)
    networks += "\"10." + std::to_string(i >> 8) + "." + std::to_string(i & 255) + ".0/24\",";
  EXPECT_NE(errors_of("[peers]\ndeny = [" + networks + "]").find("4097 networks are given"),
            std::string::npos);
  std::string relays;
  for (size_t i = 0; i <= kMaxRelayAddresses; ++i)
    relays += "\"10.0.0." + std::to_string(i + 1) + "\",";
  EXPECT_NE(errors_of("[relay]\naddresses = [" + relays + "]").find("65 addresses are given"),
            std::string::npos);
  std::string listeners;
  std::string realms;
  for (size_t i = 0; i <= kMaxListeners; ++i) {
    listeners += "[[listen]]\naddress = \"192.0.2.1:" + std::to_string(i + 1) + "\"\n";
    realms += "[[realm]]\nname = \"r" + std::to_string(i) + "\"\n";
  }
  EXPECT_NE(errors_of(listeners).find("65 listeners are given"), std::string::npos);
  EXPECT_NE(errors_of(realms).find("65 realms are given"), std::string::npos);
}

// Bytes changed, cut out, doubled and swapped in a good file: either a valid Config comes out,
// which then prints and reads back equal, or at least one error with a position inside the file.
TEST(ConfigParse, AnyMutationOfAGoodFileEitherParsesOrIsExplained) {
  const uint64_t seed = std::random_device{}();
  RecordProperty("seed", std::to_string(seed));
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  size_t parsed = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string text(kFull);
    for (size_t change = 1 + below(4); change > 0; --change) {
      const size_t at = below(text.size());
      const size_t length = 1 + below(std::min<size_t>(20, text.size() - at));
      switch (below(4)) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, length);
          break;
        case 2:
          text.insert(below(text.size()), text.substr(at, length));
          break;
        default:
          text[at] = "\"[]{}=#\n.0-/:"[below(13)];
          break;
      }
      if (text.empty()) text = "\n";
    }
    const ParseResult result = parse_toml(text, "f");
    ASSERT_EQ(result.config.has_value(), result.errors.empty()) << text;
    for (const Diagnostic& d : result.errors) {
      ASSERT_FALSE(d.problem.empty()) << text;
      ASSERT_FALSE(d.fix.empty()) << text;
      ASSERT_GT(d.line, 0u) << d.to_string() << "\n" << text;
    }
    if (!result.config) continue;
    ++parsed;
    const ParseResult again = parse_toml(to_toml(*result.config, true), "again");
    for (const Diagnostic& d : again.errors)
      ADD_FAILURE() << d.to_string() << "\n" << text;
    ASSERT_TRUE(again.config == result.config) << text;
  }
  EXPECT_GT(parsed, 0u);
}

}  // namespace
}  // namespace culvert
