// The command line: every flag overrides its key, lists are replaced, and mistakes are told like
// those of the file.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <initializer_list>
#include <string>
#include <vector>

#include "config/cli.h"
#include "config/parse.h"
#include "config/schema.h"
#include "config/units.h"

namespace culvert {
namespace {

[[nodiscard]] CommandLine run(std::vector<std::string> words) {
  std::vector<const char*> argv{"culvertd"};
  for (const std::string& word : words)
    argv.push_back(word.c_str());
  return parse_command_line(static_cast<int>(argv.size()), argv.data());
}

[[nodiscard]] std::string errors_of(std::vector<std::string> words) {
  const CommandLine line = run(std::move(words));
  EXPECT_NE(line.exit_code == kExitOk, !line.errors.empty());
  std::string out;
  for (const Diagnostic& d : line.errors)
    out += d.to_string() + "\n";
  return out;
}

// A file of its own, removed at the end.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& text) {
    char path[] = "/tmp/culvert-config-XXXXXX";
    const int fd = ::mkstemp(path);
    EXPECT_GE(fd, 0);
    ::close(fd);
    path_ = path;
    write(text);
  }
  ~TemporaryFile() { ::unlink(path_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  void write(const std::string& text) const { std::ofstream(path_) << text; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

constexpr const char* kFile = R"(cores = 2
[[listen]]
address = "192.0.2.1:3478"
[[listen]]
address = "192.0.2.2:3478"
realm = "second"
[relay]
addresses = ["192.0.2.3"]
ports = "50000-51000"
[[realm]]
name = "first"
users = { alice = "fromfile" }
secrets = ["secret-of-the-file"]
user_quota = 3
[[realm]]
name = "second"
users = { bob = "b" }
[limits]
max_allocations = 100
[reply_budget]
total = "1MB/s"
per_prefix = "500kB/s"
[peers]
deny = ["198.51.100.0/24"]
allow = ["10.0.0.0/8"]
[control_socket]
path = "/tmp/a.sock"
[metrics]
listen = "127.0.0.1:1"
[log]
level = "error"
)";

struct FlagCase {
  const char* flag;
  const char* value;
  const char* section;
  const char* key;
  const char* written;  // the key afterwards, as TOML
};
constexpr FlagCase kFlagCases[] = {
    {"--driver", "sockets", "", "driver", "\"sockets\""},
    {"--listen", "192.0.2.9:4000", "listen", "address", "\"192.0.2.9:4000\""},
    {"--relay-address", "10.0.0.5=203.0.113.5", "relay", "addresses", "[\"10.0.0.5=203.0.113.5\"]"},
    {"--relay-ports", "40000-40100", "relay", "ports", "\"40000-40100\""},
    {"--realm", "renamed", "realm", "name", "\"renamed\""},
    {"--user", "carol:pass:word", "realm", "users", "{ \"carol\" = \"pass:word\" }"},
    {"--secret", "a-secret-by-flag", "realm", "secrets", "[\"a-secret-by-flag\"]"},
    {"--user-quota", "7", "realm", "user_quota", "7"},
    {"--allow-peer", "172.16.0.0/12", "peers", "allow", "[\"172.16.0.0/12\"]"},
    {"--deny-peer", "2001:db8::/32", "peers", "deny", "[\"2001:db8::/32\"]"},
    {"--cores", "5", "", "cores", "5"},
    {"--max-allocations", "50", "limits", "max_allocations", "50"},
    {"--reply-budget", "2MB/s", "reply_budget", "total", "\"2MB/s\""},
    {"--eal", "--vdev=net_null0 -m 64", "dpdk", "eal", "\"--vdev=net_null0 -m 64\""},
    {"--port-address", "2001:db8::1/64@1", "dpdk", "port_addresses", "[\"2001:db8::1/64@1\"]"},
    {"--neighbour", "192.0.2.7=02:00:00:00:0A:07", "dpdk", "neighbours",
     "[\"192.0.2.7=02:00:00:00:0a:07\"]"},
    {"--gateway", "192.0.2.254", "dpdk", "gateways", "[\"192.0.2.254\"]"},
    {"--kernel", "tap", "dpdk", "kernel", "\"tap\""},
    {"--control-socket", "/tmp/b.sock", "control_socket", "path", "\"/tmp/b.sock\""},
    {"--metrics", "[::1]:9641", "metrics", "listen", "\"[::1]:9641\""},
    {"--log-level", "debug", "log", "level", "\"debug\""},
};

TEST(ConfigCli, EachFlagOverridesItsKeyOfTheFileAndNoOther) {
  const TemporaryFile file(kFile);
  const Config from_file = run({"--config", file.path()}).config;
  for (const FlagCase& c : kFlagCases) {
    const CommandLine line = run({"--config", file.path(), c.flag, c.value});
    for (const Diagnostic& d : line.errors)
      ADD_FAILURE() << d.to_string();
    const KeyInfo* key = find_key(c.section, c.key);
    ASSERT_NE(key, nullptr);
    EXPECT_EQ(key->flag, c.flag);
    EXPECT_EQ(key->write(line.config, 0, true), c.written) << c.flag;
    for (const KeyInfo& other : config_keys()) {
      // --listen replaces the listeners, so their realms with them.
      if (&other == key || other.section == "listen") continue;
      EXPECT_EQ(other.write(line.config, 0, true), other.write(from_file, 0, true))
          << c.flag << " changed " << other.path();
    }
    // The same with an equals sign.
    const CommandLine joined = run({"--config", file.path(), std::string(c.flag) + "=" + c.value});
    EXPECT_EQ(joined.config, line.config) << c.flag;
  }
}

TEST(ConfigCli, EveryKeyWithAFlagIsInTheHelpAndTested) {
  const CommandLine help = run({"--help"});
  EXPECT_EQ(help.mode, Mode::kHelp);
  EXPECT_EQ(help.exit_code, kExitOk);
  for (const KeyInfo& key : config_keys()) {
    if (key.flag.empty()) continue;
    EXPECT_NE(help.text.find("  " + std::string(key.flag) + " "), std::string::npos) << key.flag;
    bool tested = false;
    for (const FlagCase& c : kFlagCases)
      tested = tested || key.flag == c.flag;
    EXPECT_TRUE(tested) << key.flag;
  }
  for (const char* part : {"Examples:", "Exit codes:", "check-config", "default-config",
                           "--print-config", "--config FILE"})
    EXPECT_NE(help.text.find(part), std::string::npos) << part;
}

TEST(ConfigCli, TheHelpFitsIntoAHundredColumns) {
  for (const auto& words : {std::vector<std::string>{"--help"}, {"check-config", "--help"}}) {
    const std::string text = run(words).text;
    EXPECT_TRUE(text.ends_with("\n"));
    for (size_t at = 0; at < text.size();) {
      const size_t end = text.find('\n', at);
      EXPECT_LE(end - at, 100u) << text.substr(at, end - at);
      at = end + 1;
    }
  }
}

TEST(ConfigCli, RepeatedFlagsMakeListsThatReplaceThoseOfTheFile) {
  const TemporaryFile file(kFile);
  const CommandLine line = run({"--config",        file.path(),
                                "--listen",        "0.0.0.0:1",
                                "--listen",        "[::]:2",
                                "--user",          "z:1",
                                "--user",          "a:2",
                                "--secret",        "first-secret-given",
                                "--secret",        "second-secret-given",
                                "--allow-peer",    "10.0.0.0/8",
                                "--allow-peer",    "127.0.0.1",
                                "--relay-address", "10.0.0.1",
                                "--relay-address", "2001:db8::1"});
  for (const Diagnostic& d : line.errors)
    ADD_FAILURE() << d.to_string();
  const Config& c = line.config;
  ASSERT_EQ(c.listeners.size(), 2u);
  EXPECT_EQ(c.listeners[1].address.to_string(), "[::]:2");
  EXPECT_EQ(c.listeners[1].realm, 0);
  ASSERT_EQ(c.realms[0].users.size(), 2u);
  EXPECT_EQ(c.realms[0].users[0].name, "a");
  EXPECT_EQ(c.realms[0].secrets,
            (std::vector<std::string>{"first-secret-given", "second-secret-given"}));
  EXPECT_EQ(c.realms[1].users[0].name, "bob");
  EXPECT_EQ(c.peers.allow.size(), 2u);
  EXPECT_EQ(c.relay_addresses.size(), 2u);
}

TEST(ConfigCli, AReplyBudgetBelowThePrefixBudgetLowersThatToo) {
  const CommandLine line = run({"--user", "a:b", "--reply-budget", "50000"});
  EXPECT_EQ(line.config.reply_budget.total, 50000u);
  EXPECT_EQ(line.config.reply_budget.per_prefix, 50000u);
}

TEST(ConfigCli, MetricsAndControlSocketCanBeTurnedOff) {
  const TemporaryFile file(kFile);
  const CommandLine line =
      run({"--config", file.path(), "--metrics", "off", "--control-socket", "off"});
  EXPECT_FALSE(line.config.metrics.listen);
  EXPECT_EQ(line.config.control_socket.path, "");
}

TEST(ConfigCli, NothingGivenIsRefusedWithTheFlagToAdd) {
  EXPECT_EQ(
      errors_of({}),
      "realm.users: the realm \"culvert\" has no accounts, so nobody could use it; add --user "
      "NAME:PASSWORD or --secret SECRET, or users, secrets or a database under its [[realm]]\n");
  EXPECT_EQ(run({}).mode, Mode::kError);
  EXPECT_EQ(run({}).exit_code, kExitUsage);
  EXPECT_EQ(run({"--user", "a:b"}).mode, Mode::kServe);
  EXPECT_EQ(run({"--secret", "a-secret-of-some-length"}).mode, Mode::kServe);
  const TemporaryFile file("[[realm]]\ndatabase = \"x.db\"\n");
  EXPECT_EQ(run({"--config", file.path()}).mode, Mode::kServe);
}

TEST(ConfigCli, ARealmThatOnlyAnotherListenerServesNeedsAccountsToo) {
  const TemporaryFile file(
      "[[listen]]\naddress = \"192.0.2.1:1\"\nrealm = \"b\"\n[[realm]]\nname = \"a\"\nusers = { x "
      "= "
      "\"y\" }\n[[realm]]\nname = \"b\"\n");
  EXPECT_NE(errors_of({"--config", file.path()}).find("the realm \"b\" has no accounts"),
            std::string::npos);
}

TEST(ConfigCli, MistakesInFlagsAreToldByTheFlag) {
  const auto with_user = [](std::initializer_list<std::string> words) {
    std::vector<std::string> all{"--user", "a:b"};
    all.insert(all.end(), words);
    return errors_of(all);
  };
  EXPECT_EQ(with_user({"--cores", "x"}), "--cores: \"x\" is not a number; give a whole number\n");
  EXPECT_EQ(with_user({"--cores", "65"}),
            "--cores: \"65\" is out of range; give 0 (one for each CPU) or 1 to 64\n");
  EXPECT_EQ(with_user({"--cores", "1", "--cores", "2"}), "--cores: given 2 times; give it once\n");
  EXPECT_EQ(with_user({"--cores", "4", "--relay-ports", "50000-50003"}),
            "--relay-ports: 4 ports are too few for 4 cores; give at least 8, or fewer cores\n");
  EXPECT_EQ(with_user({"--user", "nocolon"}),
            "--user: there is no colon in what was given; write NAME:PASSWORD\n");
  EXPECT_EQ(with_user({"--user", "a:c"}),
            "--user: the user \"a\" is given twice; give each user once\n");
  EXPECT_EQ(with_user({"--max-allocation", "5"}),
            "--max-allocation: unknown flag; did you mean --max-allocations?\n");
  EXPECT_EQ(with_user({"--max-allocation=5"}),
            "--max-allocation: unknown flag; did you mean --max-allocations?\n");
  EXPECT_EQ(with_user({"chek-config"}),
            "chek-config: unexpected word; did you mean check-config?\n");
  if (built_drivers().size() == 1) {
    EXPECT_EQ(with_user({"--driver", "dpdk"}),
              "--driver: the driver \"dpdk\" is not in this build; this build has: \"sockets\"\n");
  } else {
    const auto with_ports = [&](const char* eal, const char* listen, const char* gateway) {
      return with_user({"--driver", "dpdk", "--port-address", "192.0.2.1/24", "--eal", eal,
                        "--listen", listen, "--gateway", gateway});
    };
    EXPECT_EQ(with_user({"--driver", "dpdk"}),
              "dpdk.port_addresses: the ports have no address; give --port-address ADDR/LEN: the "
              "kernel's addresses are not theirs\n");
    EXPECT_EQ(with_ports("", "192.0.2.2:3478", "192.0.2.254"),
              "--listen: 192.0.2.2 is on none of the ports; add --port-address "
              "192.0.2.2/LENGTH\n");
    EXPECT_EQ(with_ports("", "192.0.2.1:3478", "192.0.3.254"),
              "--gateway: 192.0.3.254 is on no port's network; a gateway is a "
              "neighbour: check its address and the networks' lengths\n");
    EXPECT_EQ(with_ports("--vdev=net_null0", "192.0.2.1:3478", "192.0.2.254"), "");
  }
  for (const char* word : {"-l", "-l0-3", "-c", "-cff", "--lcores=0@0", "--lcores", "--main-lcore"})
    EXPECT_NE(with_user({"--eal", word}).find("culvertd writes EAL's lcores itself"),
              std::string::npos)
        << word;
  EXPECT_EQ(with_user({"--eal", "--log-level=8 --legacy-mem -m 64"}), "");
  EXPECT_NE(with_user({"--eal", "--vdev='net_null0"}).find("a quote is not closed"),
            std::string::npos);
  for (const char* wrong : {"192.0.2.1", "192.0.2.1/33", "2001:db8::1/0", "192.0.2.1/24@x"})
    EXPECT_NE(with_user({"--port-address", wrong}).find("is not a port's address"),
              std::string::npos)
        << wrong;
  for (const char* wrong : {"192.0.2.1", "192.0.2.1=02:00:00:00:00", "1=02:00:00:00:00:07",
                            "192.0.2.1=02-00-00-00-00-07", "192.0.2.1=02:00:00:00:00:0g"})
    EXPECT_NE(with_user({"--neighbour", wrong}).find("is not a neighbour"), std::string::npos)
        << wrong;
  EXPECT_NE(
      with_user({"--listen", "127.0.0.1:1", "127.0.0.1:2"}).find("127.0.0.1:2: unexpected word"),
      std::string::npos);
  EXPECT_NE(with_user({"--secret"}).find("--secret"), std::string::npos);
}

TEST(ConfigCli, MistakesOfFileAndFlagsAreToldTogether) {
  const TemporaryFile file("cores = 99\n");
  const std::string errors = errors_of({"--config", file.path(), "--metrics", "nowhere"});
  EXPECT_NE(errors.find(file.path() + ":1: cores: 99 is out of range"), std::string::npos)
      << errors;
  EXPECT_NE(errors.find("--metrics: \"nowhere\" is not an address and port"), std::string::npos);
}

TEST(ConfigCli, ModesAreRecognisedWithFlagsBeforeAndAfterTheSubcommand) {
  EXPECT_EQ(run({"check-config", "--user", "a:b", "--json"}).mode, Mode::kCheckConfig);
  EXPECT_TRUE(run({"check-config", "--user", "a:b", "--json"}).json);
  EXPECT_EQ(run({"--user", "a:b", "check-config"}).config.realms[0].users.size(), 1u);
  const CommandLine wrong = run({"check-config", "--cores", "x"});
  EXPECT_EQ(wrong.mode, Mode::kCheckConfig);
  EXPECT_EQ(wrong.exit_code, kExitUsage);
  const CommandLine defaults = run({"default-config"});
  EXPECT_EQ(defaults.mode, Mode::kDefaultConfig);
  EXPECT_TRUE(parse_toml(defaults.text, "default").config);
  const CommandLine version = run({"--version"});
  EXPECT_EQ(version.mode, Mode::kVersion);
  EXPECT_TRUE(version.text.starts_with("culvertd "));
}

TEST(ConfigCli, PrintConfigIsTheEffectiveConfigurationWithSecretsMasked) {
  const TemporaryFile file(kFile);
  const CommandLine masked =
      run({"--config", file.path(), "--user", "eve:topsecret", "--print-config"});
  EXPECT_EQ(masked.mode, Mode::kPrintConfig);
  EXPECT_EQ(masked.text.find("topsecret"), std::string::npos);
  EXPECT_EQ(masked.text.find("secret-of-the-file"), std::string::npos);
  const CommandLine clear =
      run({"--config", file.path(), "--user", "eve:topsecret", "--print-config", "--show-secrets"});
  EXPECT_EQ(parse_toml(clear.text, "printed").config, masked.config);
  // Printable without accounts, too.
  EXPECT_EQ(run({"--print-config"}).exit_code, kExitOk);
}

TEST(ConfigCli, AReloadReadsTheFileAgainUnderTheSameFlags) {
  const TemporaryFile file(kFile);
  const CommandLine line = run({"--config", file.path(), "--max-allocations", "77"});
  file.write(
      "[[realm]]\nname = \"first\"\nusers = { carol = \"c\" }\n[limits]\nmax_allocations = 5\n");
  const LoadedConfig again = load_config(line, true);
  ASSERT_TRUE(again.config);
  EXPECT_EQ(again.config->limits.max_allocations, 77u);
  EXPECT_EQ(again.config->realms[0].users[0].name, "carol");
  file.write("nonsense = 1\n");
  const LoadedConfig broken = load_config(line, true);
  EXPECT_FALSE(broken.config);
  ASSERT_EQ(broken.errors.size(), 1u);
  EXPECT_EQ(broken.errors[0].key, "nonsense");
}

TEST(ConfigCli, AFileWithPasswordsThatEveryoneCanReadIsWarnedAbout) {
  const TemporaryFile file(kFile);
  ASSERT_EQ(::chmod(file.path().c_str(), 0644), 0);
  const auto warned = [&] {
    for (const Diagnostic& d : run({"--config", file.path()}).warnings)
      if (d.fix == "chmod o-r " + file.path()) return true;
    return false;
  };
  EXPECT_TRUE(warned());
  ASSERT_EQ(::chmod(file.path().c_str(), 0640), 0);
  EXPECT_FALSE(warned());
}

}  // namespace
}  // namespace culvert
