// The metrics page by a strict reader of the text format, and the HTTP listener over real
// connections.
#include "control/metrics.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include <spdlog/sinks/null_sink.h>
#include <boost/asio/io_context.hpp>

#include "control/health.h"
#include "control/logging.h"
#include "tests/support/needs.h"
#include "tests/unit/turn_fixture.h"

namespace culvert {
namespace {

using Samples = std::map<std::string, double>;  // "name{labels}" to value

// Refuses what Prometheus' own linter refuses: samples without HELP and TYPE or away from them,
// counters without _total, doubled series, malformed labels.
void read_page(const std::string& page, Samples& out) {
  static const std::regex kSample(R"re(([a-z_:][a-z0-9_:]*)(\{[a-z_]+="([^"\\\n]|\\["\\n])*")re"
                                  R"re((,[a-z_]+="([^"\\\n]|\\["\\n])*")*\})? ([-+0-9.e]+))re");
  std::istringstream lines(page);
  std::string line, family, type, helped;
  std::set<std::string> families;
  ASSERT_TRUE(page.ends_with("\n"));
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    std::string hash, kind, name;
    if (line.starts_with("#")) {
      words >> hash >> kind >> name;
      if (kind == "HELP") {
        ASSERT_TRUE(families.insert(name).second) << "twice: " << name;
        ASSERT_TRUE(line.ends_with(".")) << line;
        helped = name;
      } else {
        ASSERT_EQ(kind, "TYPE") << line;
        ASSERT_EQ(name, helped) << line;
        words >> type;
        ASSERT_TRUE(type == "counter" || type == "gauge") << line;
        ASSERT_EQ(type == "counter", name.ends_with("_total")) << line;
        family = name;
      }
      continue;
    }
    std::smatch parts;
    ASSERT_TRUE(std::regex_match(line, parts, kSample)) << line;
    ASSERT_EQ(parts[1].str(), family) << line;
    ASSERT_TRUE(family.starts_with("culvert_") || family.starts_with("process_")) << line;
    ASSERT_TRUE(out.emplace(parts[1].str() + parts[2].str(), std::stod(parts[6].str())).second)
        << line;
  }
}

class MetricsTest : public TurnTest {
 protected:
  void SetUp() override { start(test_config(), 2); }
  [[nodiscard]] MetricsContext context() {
    return {.turn = *server_,
            .engine = *engine_,
            .watchdog = watchdog_,
            .config = [this]() -> const Config& { return config_; },
            .state = [this] { return state_; },
            .log_lines_dropped = [] { return uint64_t{3}; },
            .control_clients = [] { return size_t{2}; },
            .cycle_clock = &cycle_clock_,
            .ports = [this] { return std::span<const PortStats>(ports_); }};
  }
  Samples scrape() {
    Samples out;
    read_page(render_metrics(context()), out);
    return out;
  }
  CoreWatchdog watchdog_;
  CycleClock cycle_clock_;
  std::array<PortStats, 1> ports_{};
  ServiceState state_ = ServiceState::kReady;
};

TEST_F(MetricsTest, ThePageIsWellFormedAndHasEveryOutcomeOnEveryCore) {
  const Samples s = scrape();
  for (const OutcomeInfo& o : kOutcomeInfo) {
    constexpr const char* kSeverity[] = {"ok", "normal", "notice", "hostile"};
    for (const char* core : {"0", "1"}) {
      const std::string key = std::string("culvert_outcomes_total{core=\"") + core +
                              "\",outcome=\"" + std::string(o.name) + "\",severity=\"" +
                              kSeverity[static_cast<size_t>(o.severity)] + "\"}";
      EXPECT_TRUE(s.contains(key)) << key;
    }
  }
}

TEST_F(MetricsTest, CountersAreLive) {
  engine_->mutable_stats(1).received_packets.add(41);
  EXPECT_EQ(scrape()["culvert_received_packets_total{core=\"1\"}"], 41);
  engine_->mutable_stats(1).received_packets.add(1);
  EXPECT_EQ(scrape()["culvert_received_packets_total{core=\"1\"}"], 42);
  allocate(client());
  Samples s = scrape();
  EXPECT_EQ(s["culvert_allocations"], 1);
  EXPECT_EQ(s["culvert_realm_allocations{realm=\"example.org\"}"], 1);
  EXPECT_EQ(s["culvert_allocations_created_total"], 1);
  EXPECT_EQ(s["culvert_log_lines_dropped_total"], 3);
}

TEST_F(MetricsTest, PortsAreLabelledAndCyclesAreSeconds) {
  constexpr std::string_view kName = "net_null0";
  std::copy(kName.begin(), kName.end(), ports_[0].name.begin());
  ports_[0].missed.set(7);
  engine_->mutable_stats(0).sleep_cycles.add(static_cast<uint64_t>(3 * cycle_clock_.hertz()));
  Samples s = scrape();
  EXPECT_EQ(s["culvert_port_missed_packets_total{port=\"net_null0\",driver=\"\"}"], 7);
  // The rate is measured anew at each question.
  EXPECT_NEAR(s["culvert_core_sleep_seconds_total{core=\"0\"}"], 3, 1);
  EXPECT_EQ(s["culvert_core_sleep_seconds_total{core=\"1\"}"], 0);
}

TEST_F(MetricsTest, TheProcessIsDescribedTruthfully) {
  Samples s = scrape();
  EXPECT_GT(s["process_resident_memory_bytes"], 1e6);
  EXPECT_GE(s["process_open_fds"], 3);
  EXPECT_GE(s["process_max_fds"], s["process_open_fds"]);
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  EXPECT_LT(s["process_start_time_seconds"], static_cast<double>(now.tv_sec) + 1);
  EXPECT_GT(s["process_start_time_seconds"], static_cast<double>(now.tv_sec) - 3600);
}

TEST_F(MetricsTest, RealmNamesAreEscapedAndUsersNeverAppear) {
  Config config = test_config();
  config.realms[0].name = "a\\b\"c";
  start(config);
  const std::string page = render_metrics(context());
  Samples s;
  read_page(page, s);
  EXPECT_TRUE(s.contains("culvert_realm_allocations{realm=\"a\\\\b\\\"c\"}"));
  EXPECT_EQ(page.find("alice"), std::string::npos);
}

TEST_F(MetricsTest, TheOperationsGuideExplainsEveryOutcomeMetricAndMethod) {
  std::ifstream file(CULVERT_SOURCE_ROOT "/docs/operations.md");
  const std::string guide((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  ASSERT_FALSE(guide.empty());
  for (const OutcomeInfo& o : kOutcomeInfo) {
    EXPECT_NE(guide.find("| `" + std::string(o.name) + "` ("), std::string::npos) << o.name;
  }
  std::istringstream lines(render_metrics(context()));
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("# TYPE ")) continue;
    const std::string name = line.substr(7, line.find(' ', 7) - 7);
    EXPECT_NE(guide.find("| `" + name + "` ("), std::string::npos) << name;
  }
  for (const char* command : {"status", "health", "top", "trace", "capture", "allocations", "drops",
                              "cores", "explain", "drain", "reload", "close", "mint", "user add",
                              "user list", "user remove", "config", "limits", "schema"}) {
    EXPECT_NE(guide.find("`" + std::string(command) + "`"), std::string::npos) << command;
  }
}

TEST_F(MetricsTest, PrometheusOwnLinterAgreesWhereItIsInstalled) {
  CULVERT_TEST_NEEDS(std::system("command -v promtool >/dev/null 2>&1") == 0, "no promtool");
  FILE* lint = popen("promtool check metrics", "w");
  ASSERT_NE(lint, nullptr);
  const std::string page = render_metrics(context());
  ASSERT_EQ(std::fwrite(page.data(), 1, page.size(), lint), page.size());
  EXPECT_EQ(pclose(lint), 0);
}

TEST(Watchdog, ACoreThatDoesNotLoopIsNoticedAndForgiven) {
  RecordingEngine engine(2);
  CoreWatchdog watchdog;
  CoreWatchdog::Clock::time_point now{std::chrono::hours(1)};
  for (CoreId core = 0; core < 2; ++core)
    engine.mutable_stats(core).loops.add(1);
  EXPECT_EQ(watchdog.look(engine, now).stalled, 0u);
  now += kCoreStall;
  engine.mutable_stats(0).loops.add(1);
  EXPECT_EQ(watchdog.look(engine, now).stalled, 2u);
  EXPECT_TRUE(watchdog.stalled(1));
  EXPECT_FALSE(watchdog.all_well());
  EXPECT_EQ(watchdog.look(engine, now).stalled, 0u) << "told once";
  engine.mutable_stats(1).loops.add(1);
  EXPECT_EQ(watchdog.look(engine, now).recovered, 2u);
  EXPECT_TRUE(watchdog.all_well());
}

class HealthTest : public ::testing::Test {
 protected:
  void SetUp() override {
    HealthHooks hooks;
    hooks.metrics = [] { return std::string("culvert_up 1\n"); };
    hooks.healthy = [this] { return healthy_; };
    hooks.ready = [this] { return ready_; };
    listener_ = std::make_unique<HealthListener>(io_, at("127.0.0.1:0"), std::move(hooks), log_);
  }
  // Everything the server says to `request` until it closes or `enough` is in it.
  std::string talk(const std::string& request, const std::string& enough = "") {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(listener_->address().port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    EXPECT_EQ(send(fd, request.data(), request.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(request.size()));
    std::string out;
    for (;;) {
      io_.poll();
      char chunk[4096];
      const ssize_t n = recv(fd, chunk, sizeof chunk, MSG_DONTWAIT);
      if (n > 0)
        out.append(chunk, static_cast<size_t>(n));
      else if (n == 0 || errno != EAGAIN)
        break;
      else if (!enough.empty() && out.find(enough) != std::string::npos)
        break;
      else if (io_.run_one_for(std::chrono::seconds(5)) == 0) {
        ADD_FAILURE() << "no answer to " << request.substr(0, 40);
        break;
      }
    }
    close(fd);
    return out;
  }
  static std::string get(const std::string& target, const char* verb = "GET") {
    return std::string(verb) + " " + target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  }
  boost::asio::io_context io_;
  Logger log_{LogFormat::kText, LogLevel::kInfo, std::make_shared<spdlog::sinks::null_sink_st>()};
  bool healthy_ = true;
  bool ready_ = true;
  std::unique_ptr<HealthListener> listener_;
};

TEST_F(HealthTest, TheThreePagesAnswer) {
  EXPECT_NE(talk(get("/metrics")).find("culvert_up 1"), std::string::npos);
  EXPECT_NE(talk(get("/metrics")).find("version=0.0.4"), std::string::npos);
  EXPECT_TRUE(talk(get("/healthz")).starts_with("HTTP/1.1 200"));
  EXPECT_TRUE(talk(get("/readyz")).starts_with("HTTP/1.1 200"));
  EXPECT_TRUE(talk(get("/")).starts_with("HTTP/1.1 404"));
  EXPECT_TRUE(talk(get("/metrics", "POST")).starts_with("HTTP/1.1 405"));
}

TEST_F(HealthTest, AStalledCoreAndADrainAreVisible) {
  healthy_ = false;
  ready_ = false;
  EXPECT_TRUE(talk(get("/healthz")).starts_with("HTTP/1.1 503"));
  EXPECT_TRUE(talk(get("/readyz")).starts_with("HTTP/1.1 503"));
}

TEST_F(HealthTest, HeadHasTheHeadersAndNoBody) {
  const std::string answer = talk(get("/metrics", "HEAD"));
  EXPECT_NE(answer.find("Content-Length: 13"), std::string::npos) << answer;
  EXPECT_TRUE(answer.ends_with("\r\n\r\n"));
}

TEST_F(HealthTest, ConnectionsAreKeptForMoreRequests) {
  const std::string one = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
  const std::string out = talk(one + get("/readyz"));
  EXPECT_NE(out.find("ok\n"), std::string::npos);
  EXPECT_NE(out.find("ready\n"), std::string::npos);
}

TEST_F(HealthTest, OversizedAndMalformedRequestsAreRefused) {
  EXPECT_TRUE(talk("GET / HTTP/1.1\r\nX: " + std::string(kMaxHttpHeader + 100, 'x') + "\r\n\r\n")
                  .starts_with("HTTP/1.1 431"));
  EXPECT_TRUE(talk("rubbish\r\n\r\n").starts_with("HTTP/1.1 400"));
}

TEST_F(HealthTest, AnAddressInUseIsNamed) {
  HealthHooks hooks;
  EXPECT_THROW(HealthListener(io_, listener_->address(), hooks, log_), std::runtime_error);
}

}  // namespace
}  // namespace culvert
