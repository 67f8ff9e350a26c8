// The control socket end to end over a real Unix socket: protocol errors, bounds, permissions of
// the file, stale files, and every method against a TurnServer; the loop's stopping and waking.
#include "control/control_socket.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "control/account_worker.h"
#include "control/control_loop.h"
#include "control/logging.h"
#include "control/rpc.h"
#include "tests/unit/turn_fixture.h"

#include <spdlog/sinks/null_sink.h>
#include <boost/asio/post.hpp>
#include "tests/support/needs.h"

namespace culvert {
namespace {

using nlohmann::json;
using std::chrono::seconds;

class ControlSocketTest : public TurnTest {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/culvert_socket_XXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    path_ = folder_ + "/control.sock";
    Config config = test_config();
    config.realms[0].secrets = {"north", "old"};
    RealmConfig stored;
    stored.name = "stored.example.org";
    stored.database = folder_ + "/accounts.db";
    config.realms.push_back(stored);
    start(config, 2);
    rpc_ = std::make_unique<Rpc>(operator_methods(context()));
    worker_ = std::make_unique<AccountWorker>(io_);
    open();
  }
  void TearDown() override {
    for (const int fd : fds_)
      close(fd);
    socket_.reset();
    worker_.reset();
    std::filesystem::remove_all(folder_);
  }
  OperationsContext context() {
    return {
        .turn = *server_,
        .engine = *engine_,
        .watchdog = watchdog_,
        .now = [this] { return now_; },
        .started_ms = 0,
        .config = [this]() -> const Config& { return config_; },
        .effective_toml = [] { return std::string("[limits]\n"); },
        .limits =
            [] {
              return json{{"cores", 2}};
            },
        .state =
            [this] { return server_->draining() ? ServiceState::kDraining : ServiceState::kReady; },
        .drain = [this](bool on) { server_->set_draining(on); },
        .reload = [this] { return reload_; },
        .accounts =
            [this](AccountRequest r, std::function<void(AccountReply)> done) {
              const RealmConfig& realm = config_.realms[r.realm];
              worker_->submit(std::move(r), realm.name, realm.database, std::move(done));
            }};
  }
  void open() {
    ControlSocketOptions options;
    options.path = path_;
    socket_ = std::make_unique<ControlSocket>(io_, options, *rpc_, log_);
  }
  int connect_client() {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    fds_.push_back(fd);
    return fd;
  }
  void say(int fd, std::string_view text) {
    while (!text.empty()) {
      const ssize_t n = send(fd, text.data(), text.size(), MSG_NOSIGNAL);
      if (n > 0)
        text.remove_prefix(static_cast<size_t>(n));
      else if (errno != EAGAIN)
        return;
      else
        io_.run_one_for(seconds(5));
    }
  }
  // The next line, or "" when the server closed. Fails after 5 s without either.
  std::string hear(int fd) {
    std::string& buffer = heard_[fd];
    for (;;) {
      const size_t end = buffer.find('\n');
      if (end != std::string::npos) {
        std::string line = buffer.substr(0, end);
        buffer.erase(0, end + 1);
        return line;
      }
      io_.poll();
      server_->poll(now_);
      char chunk[65536];
      const ssize_t n = recv(fd, chunk, sizeof chunk, 0);
      if (n > 0)
        buffer.append(chunk, static_cast<size_t>(n));
      else if (n == 0 || errno != EAGAIN)
        return "";
      else if (io_.run_one_for(seconds(5)) == 0) {
        ADD_FAILURE() << "no answer";
        return "";
      }
    }
  }
  json ask_line(const std::string& line) {
    const int fd = connect_client();
    say(fd, line + "\n");
    return json::parse(hear(fd));
  }
  json call(const std::string& method, const json& params = json::object()) {
    return ask_line(
        json{{"jsonrpc", "2.0"}, {"id", 7}, {"method", method}, {"params", params}}.dump());
  }
  int error_code(const json& answer) { return answer.at("error").at("code").get<int>(); }

  boost::asio::io_context io_;
  Logger log_{LogFormat::kText, LogLevel::kInfo, std::make_shared<spdlog::sinks::null_sink_st>()};
  CoreWatchdog watchdog_;
  std::string folder_, path_;
  ReloadOutcome reload_;
  std::unique_ptr<Rpc> rpc_;
  std::unique_ptr<AccountWorker> worker_;
  std::unique_ptr<ControlSocket> socket_;
  std::vector<int> fds_;
  std::map<int, std::string> heard_;
};

// ---------------------------------------------------------------- protocol

TEST_F(ControlSocketTest, AnswersCarryTheIdOfTheirRequest) {
  const json answer = call("status");
  EXPECT_EQ(answer["jsonrpc"], "2.0");
  EXPECT_EQ(answer["id"], 7);
  EXPECT_EQ(answer["result"]["state"], "ready");
  EXPECT_EQ(answer["result"]["cores"], 2);
}

TEST_F(ControlSocketTest, MalformedRequestsGetTheStandardErrors) {
  EXPECT_EQ(error_code(ask_line("{")), -32700);
  EXPECT_EQ(error_code(ask_line("")), -32700);
  EXPECT_EQ(error_code(ask_line("17")), -32600);
  EXPECT_EQ(error_code(ask_line(R"([{"jsonrpc":"2.0","id":1,"method":"status"}])")), -32600);
  EXPECT_EQ(error_code(ask_line(R"({"id":1,"method":"status"})")), -32600);
  EXPECT_EQ(error_code(ask_line(R"({"jsonrpc":"2.0","id":1,"method":7})")), -32600);
  EXPECT_EQ(error_code(ask_line(R"({"jsonrpc":"2.0","id":{},"method":"status"})")), -32600);
  EXPECT_EQ(error_code(ask_line(R"({"jsonrpc":"2.0","id":1,"method":"nothing"})")), -32601);
  EXPECT_EQ(error_code(ask_line(R"({"jsonrpc":"2.0","id":1,"method":"status","params":[]})")),
            -32602);
  EXPECT_EQ(error_code(call("status", {{"more", 1}})), -32602);
  EXPECT_EQ(error_code(call("explain")), -32602);
  EXPECT_EQ(error_code(call("allocations", {{"limit", 0}})), -32602);
  EXPECT_EQ(error_code(call("allocations", {{"limit", 18446744073709551615ull}})), -32602);
  EXPECT_EQ(error_code(call("mint", {{"algorithm", "md5"}})), -32602);
}

TEST_F(ControlSocketTest, PartialLinesAndPipelinesAreAnsweredInOrder) {
  const int fd = connect_client();
  std::string all;
  for (int i = 0; i < 200; ++i)
    all += json{{"jsonrpc", "2.0"}, {"id", i}, {"method", i % 2 == 0 ? "cores" : "limits"}}.dump() +
           "\n";
  say(fd, all.substr(0, 30));
  io_.poll();
  say(fd, all.substr(30));
  for (int i = 0; i < 200; ++i)
    EXPECT_EQ(json::parse(hear(fd))["id"], i);
}

TEST_F(ControlSocketTest, NotificationsGetNoAnswer) {
  const int fd = connect_client();
  say(fd, R"({"jsonrpc":"2.0","method":"drain"})"
          "\n"
          R"({"jsonrpc":"2.0","id":1,"method":"status"})"
          "\n");
  const json answer = json::parse(hear(fd));
  EXPECT_EQ(answer["id"], 1);
  EXPECT_EQ(answer["result"]["state"], "draining");
}

TEST_F(ControlSocketTest, ALineThatIsTooLongEndsTheConnectionWithAReason) {
  const int fd = connect_client();
  say(fd, std::string(kMaxRequestLine + 5000, 'x'));
  EXPECT_EQ(error_code(json::parse(hear(fd))), -32600);
  EXPECT_EQ(hear(fd), "");
  EXPECT_EQ(socket_->clients(), 0u);
}

TEST_F(ControlSocketTest, AClientThatDoesNotReadIsNotReadFromEither) {
  const int fd = connect_client();
  const std::string request = R"({"jsonrpc":"2.0","id":1,"method":"schema"})"
                              "\n";
  // Far more answers than socket buffers hold: sending must block while nothing is read.
  size_t sent = 0;
  for (int idle = 0; idle < 3 && sent < 100'000;) {
    const ssize_t n = send(fd, request.data(), request.size(), MSG_NOSIGNAL);
    if (n == static_cast<ssize_t>(request.size())) {
      ++sent;
      idle = 0;
    } else if (n > 0) {
      break;  // cut in the middle: full
    } else {
      idle = io_.poll() == 0 ? idle + 1 : 0;
    }
  }
  EXPECT_LT(sent, 100'000u);
  EXPECT_EQ(json::parse(hear(fd))["id"], 1) << "and once it reads it is served";
}

TEST_F(ControlSocketTest, ClientsBeyondTheLimitAreTurnedAway) {
  for (size_t i = 0; i < kMaxControlClients; ++i) {
    connect_client();
    while (socket_->clients() <= i)
      ASSERT_NE(io_.run_one_for(seconds(5)), 0u);
  }
  const int fd = connect_client();
  EXPECT_EQ(hear(fd), "");
  EXPECT_EQ(socket_->clients(), kMaxControlClients);
}

TEST_F(ControlSocketTest, EveryMethodOfTheSchemaExistsAndRefusesUnknownParameters) {
  const json methods = call("schema")["result"]["methods"];
  EXPECT_EQ(methods.size(), 19u);
  for (const auto& [name, about] : methods.items()) {
    EXPECT_FALSE(about["summary"].get<std::string>().empty()) << name;
    EXPECT_EQ(error_code(call(name, {{"no_such_parameter", true}})), -32602) << name;
  }
}

// ---------------------------------------------------------------- the file

TEST_F(ControlSocketTest, TheFileHasItsModeAndGoesAway) {
  struct stat info {};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0660u);
  socket_.reset();
  EXPECT_NE(stat(path_.c_str(), &info), 0);
}

TEST_F(ControlSocketTest, ASecondDaemonIsRefusedAndTheFirstGoesOn) {
  ControlSocketOptions options;
  options.path = path_;
  EXPECT_THROW(ControlSocket(io_, options, *rpc_, log_), std::runtime_error);
  EXPECT_EQ(call("status")["result"]["state"], "ready");
}

TEST_F(ControlSocketTest, AStaleFileIsReplacedButAnythingElseIsKept) {
  socket_.reset();
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path_.data(), path_.size());
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  close(fd);  // the file stays, nobody listens
  open();
  EXPECT_EQ(call("status")["result"]["state"], "ready");
  socket_.reset();
  std::ofstream(path_) << "precious";
  EXPECT_THROW(open(), std::runtime_error);
  EXPECT_EQ(std::filesystem::file_size(path_), 8u);
}

TEST_F(ControlSocketTest, StrangersAreToldWhoMayCome) {
  CULVERT_TEST_NEEDS(geteuid() == 0, "needs root to become somebody else");
  ASSERT_EQ(chmod(path_.c_str(), 0666), 0);
  ASSERT_EQ(chmod(folder_.c_str(), 0755), 0);
  std::string line;
  std::atomic<bool> done{false};
  // SO_PEERCRED is the connecting thread's account: the raw call changes this thread alone.
  std::thread stranger([&] {
    syscall(SYS_setresuid, 65534, 65534, 65534);
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) {
      char chunk[4096];
      const ssize_t n = recv(fd, chunk, sizeof chunk, 0);
      if (n > 0) line.assign(chunk, static_cast<size_t>(n));
    }
    close(fd);
    done = true;
    boost::asio::post(io_, [] {});
  });
  while (!done)
    io_.run_one_for(seconds(5));
  stranger.join();
  EXPECT_EQ(error_code(json::parse(line)), -32003) << line;
}

// ---------------------------------------------------------------- methods

TEST_F(ControlSocketTest, AllocationsShowTheCountersThatCoresReport) {
  allocate(client("93.184.216.34:4000"));
  allocate(client("93.184.216.35:4000"), {.name = "bob", .password = "builder"}, 2);
  last_.clear();
  engine_->clear();
  const int fd = connect_client();
  say(fd, R"({"jsonrpc":"2.0","id":1,"method":"allocations","params":{"user":"bob"}})"
          "\n");
  while (engine_->waiting() == 0)
    ASSERT_NE(io_.run_one_for(seconds(5)), 0u);
  const RecordingEngine::Command question = engine_->take();
  ASSERT_EQ(question.type(), CommandType::kQueryAllocation);
  EXPECT_EQ(engine_->waiting(), 0u) << "only those of bob are asked about";
  AllocationReport report;
  report.handle = question.as<QueryAllocation>().handle;
  report.cookie = question.head().cookie;
  report.counters = {3, 300, 4, 400};
  report.live = 1;
  report.permissions = 2;
  ASSERT_TRUE(engine_->inject(question.core, report));
  const json answer = json::parse(hear(fd))["result"];
  ASSERT_EQ(answer["allocations"].size(), 1u);
  const json& a = answer["allocations"][0];
  EXPECT_EQ(a["user"], "bob");
  EXPECT_EQ(a["client"], "93.184.216.35:4000");
  EXPECT_EQ(a["bytes_to_peer"], 300);
  EXPECT_EQ(a["bytes_to_client"], 400);
  EXPECT_EQ(a["permissions"], 2);
  EXPECT_TRUE(answer["next"].is_null());
}

TEST_F(ControlSocketTest, AllocationsComeInPagesThatTogetherAreAll) {
  for (int i = 0; i < 25; ++i)
    allocate(client(("93.184.216.34:" + std::to_string(4000 + i)).c_str()), {},
             static_cast<uint8_t>(i));
  std::set<std::string> clients;
  json from = 0;
  int pages = 0;
  while (!from.is_null()) {
    const json page =
        call("allocations", {{"limit", 10}, {"from", from}, {"counters", false}})["result"];
    for (const json& a : page["allocations"])
      clients.insert(a["client"]);
    from = page["next"];
    ASSERT_LT(++pages, 10);
  }
  EXPECT_EQ(clients.size(), 25u);
  EXPECT_EQ(pages, 3);
}

TEST_F(ControlSocketTest, FiltersTakeAddressesWithAndWithoutPort) {
  allocate(client("93.184.216.34:4000"));
  allocate(client("93.184.216.34:4001"), {}, 2);
  const auto count = [&](const json& params) {
    json p = params;
    p["counters"] = false;
    return call("allocations", p)["result"]["allocations"].size();
  };
  EXPECT_EQ(count({{"client", "93.184.216.34"}}), 2u);
  EXPECT_EQ(count({{"client", "93.184.216.34:4001"}}), 1u);
  EXPECT_EQ(count({{"client", "93.184.216.35"}}), 0u);
  EXPECT_EQ(count({{"relay", "198.51.100.1"}}), 2u);
  EXPECT_EQ(count({{"realm", "elsewhere"}}), 0u);
  EXPECT_EQ(error_code(call("allocations", {{"client", "example.org"}})), -32602);
}

TEST_F(ControlSocketTest, CloseEndsWhatIsNamedAndNothingElse) {
  allocate(client("93.184.216.34:4000"));
  allocate(client("93.184.216.35:4000"), {.name = "bob", .password = "builder"}, 2);
  EXPECT_EQ(error_code(call("close")), -32602) << "no selection must not mean all";
  EXPECT_EQ(error_code(call("close", {{"id", "x"}})), -32602);
  EXPECT_EQ(error_code(call("close", {{"id", "0.60.9"}})), -32001);
  EXPECT_EQ(call("close", {{"user", "bob"}})["result"]["closed"], 1);
  collect();
  server_->poll(now_);
  ASSERT_EQ(ended_.size(), 1u);
  EXPECT_EQ(ended_[0].user, "bob");
  EXPECT_EQ(ended_[0].what.reason, EndReason::kClosedByOperator);
  EXPECT_EQ(call("close", {{"all", true}})["result"]["closed"], 1);
}

TEST_F(ControlSocketTest, DropsNameEveryOutcomeWithItsCountPerCore) {
  engine_->mutable_stats(0).outcomes[static_cast<size_t>(Outcome::k_policed)].add(3);
  engine_->mutable_stats(1).outcomes[static_cast<size_t>(Outcome::k_policed)].add(4);
  const json outcomes = call("drops", {{"per_core", true}})["result"]["outcomes"];
  ASSERT_EQ(outcomes.size(), kOutcomes);
  for (const json& o : outcomes) {
    const bool policed = o["outcome"] == "policed";
    EXPECT_EQ(o["total"], policed ? 7 : 0);
    if (policed) {
      EXPECT_EQ(o["cores"], json({3, 4}));
    }
    EXPECT_FALSE(o["text"].get<std::string>().empty());
  }
}

TEST_F(ControlSocketTest, ExplainAsksTheCoreAndTellsItsVerdict) {
  const int fd = connect_client();
  say(fd,
      json{{"jsonrpc", "2.0"},
           {"id", 1},
           {"method", "explain"},
           {"params", {{"datagram", "udp 93.184.216.34:4000 -> 198.51.100.1:3478 channel 0x4001"}}}}
              .dump() +
          "\n");
  while (engine_->waiting() == 0)
    ASSERT_NE(io_.run_one_for(seconds(5)), 0u);
  bool answered = false;
  while (engine_->waiting() != 0) {
    const RecordingEngine::Command question = engine_->take();
    if (question.type() != CommandType::kExplain) continue;
    EXPECT_EQ(question.as<Explain>().channel, 0x4001);
    ExplainReport report;
    report.cookie = question.head().cookie;
    report.outcome = static_cast<uint8_t>(Outcome::k_no_allocation);
    ASSERT_TRUE(engine_->inject(question.core, report));
    answered = true;
  }
  ASSERT_TRUE(answered);
  EXPECT_EQ(json::parse(hear(fd))["result"]["outcome"], "no_allocation");
  EXPECT_EQ(error_code(call("explain", {{"datagram", "udp 1.2.3.4:5 -> 203.0.113.77:9"}})), -32001);
}

TEST(Explain, TextIsReadStrictly) {
  const ExplainText peer = parse_explain("192.0.2.1:5000 -> [2001:db8::1]:3478 peer 203.0.113.5:9");
  EXPECT_EQ(peer.error, "");
  EXPECT_EQ(peer.query.peer, at("203.0.113.5:9"));
  EXPECT_EQ(parse_explain("udp 192.0.2.1:5 -> 192.0.2.2:6").error, "");
  EXPECT_EQ(parse_explain("udp 192.0.2.1:5 -> 192.0.2.2:6 channel 16384").query.channel, 0x4000);
  for (const char* bad :
       {"", "udp", "udp 192.0.2.1:5", "udp 192.0.2.1:5 192.0.2.2:6",
        "tcp 192.0.2.1:5 -> 192.0.2.2:6", "udp 192.0.2.1:5 -> 192.0.2.2:6 channel",
        "udp 192.0.2.1:5 -> 192.0.2.2:6 channel 0x3fff",
        "udp 192.0.2.1:5 -> 192.0.2.2:6 channel 0x5000",
        "udp 192.0.2.1:5 -> 192.0.2.2:6 peer 1.2.3.4",
        "udp 192.0.2.1:5 -> 192.0.2.2:6 channel 0x4000 more"})
    EXPECT_NE(parse_explain(bad).error, "") << bad;
}

TEST(AllocationIdText, RoundTripsAndRefusesRubbish) {
  const AllocationId id{3, {17, 4294967295u}};
  EXPECT_EQ(parse_allocation_id(format_allocation_id(id)), id);
  for (const char* bad :
       {"", "1", "1.2", "1.2.", ".2.3", "1.2.3.4", "1.2.3x", "-1.2.3", "70000.1.1"})
    EXPECT_FALSE(parse_allocation_id(bad)) << bad;
}

TEST_F(ControlSocketTest, AMintedCredentialMakesAnAllocation) {
  for (const char* algorithm : {"sha1", "sha256"}) {
    const json minted = call("mint", {{"user", std::string("carol-") + algorithm},
                                      {"ttl_seconds", 60},
                                      {"algorithm", algorithm}})["result"];
    EXPECT_EQ(minted["username"], std::to_string(kTestUnixSeconds + 60) + ":carol-" + algorithm);
    const Credential who{.name = minted["username"], .password = minted["password"]};
    const ClientTuple from =
        client(algorithm[3] == '1' ? "93.184.216.34:4000" : "93.184.216.34:4001");
    const auto answer = allocate(from, who);
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->error, 0) << algorithm;
  }
  EXPECT_EQ(error_code(call("mint", {{"realm", "stored.example.org"}})), -32000);
  EXPECT_EQ(error_code(call("mint", {{"realm", "no"}})), -32001);
}

TEST_F(ControlSocketTest, UsersAreAddedListedAndRemoved) {
  const std::string realm = "stored.example.org";
  EXPECT_EQ(
      call("user.add", {{"user", "dave"}, {"password", "pw"}, {"realm", realm}})["result"]["done"],
      true);
  EXPECT_EQ(call("user.list", {{"realm", realm}})["result"]["users"], json({"dave"}));
  EXPECT_EQ(call("user.remove", {{"user", "dave"}, {"realm", realm}})["result"]["done"], true);
  EXPECT_EQ(error_code(call("user.remove", {{"user", "dave"}, {"realm", realm}})), -32001);
  EXPECT_EQ(error_code(call("user.add", {{"user", "a"}, {"password", ""}, {"realm", realm}})),
            -32000);
  EXPECT_EQ(error_code(call("user.add", {{"user", "a"}, {"password", "b"}})), -32000)
      << "no database";
}

TEST_F(ControlSocketTest, AReloadThatIsRefusedSaysEveryReason) {
  reload_.messages = {"relay.ports needs a restart", "cores needs a restart"};
  const json answer = call("reload");
  EXPECT_EQ(error_code(answer), -32000);
  EXPECT_EQ(answer["error"]["message"], "relay.ports needs a restart\ncores needs a restart");
  reload_.applied = true;
  EXPECT_EQ(call("reload")["result"]["applied"], true);
}

TEST_F(ControlSocketTest, DrainRefusesNewAllocationsUntilItIsTakenBack) {
  EXPECT_EQ(call("drain")["result"]["state"], "draining");
  EXPECT_EQ(allocate(client())->error, 508);
  EXPECT_EQ(call("drain", {{"off", true}})["result"]["state"], "ready");
  EXPECT_EQ(allocate(client(), {}, 2)->error, 0);
}

// ---------------------------------------------------------------- the loop

struct FakeCores {
  int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  std::atomic<int> events{0};
  uint32_t allocations = 0;
  uint64_t polls = 0;
  int taken = 0;
  int closes = 0;
  bool draining = false;
  std::function<void()> on_take;

  FakeCores() = default;
  FakeCores(const FakeCores&) = delete;
  FakeCores& operator=(const FakeCores&) = delete;
  ~FakeCores() { close(fd); }
  void push() {
    ++events;
    const uint64_t one = 1;
    EXPECT_EQ(write(fd, &one, sizeof one), static_cast<ssize_t>(sizeof one));
  }
  LoopEngine engine() {
    return {fd, [this] { return events == 0; },
            [this] {
              uint64_t ignored = 0;
              EXPECT_TRUE(read(fd, &ignored, sizeof ignored) >= 0 || errno == EAGAIN);
            }};
  }
  LoopHooks hooks() {
    LoopHooks h;
    h.poll = [this](ControlTime) {
      ++polls;
      while (events > 0) {
        --events;
        ++taken;
        if (on_take) on_take();
      }
      return false;
    };
    h.next_due_ms = [] { return UINT64_MAX; };
    h.tick = [](ControlTime) {};
    h.healthy = [] { return true; };
    h.set_draining = [this](bool on) { draining = on; };
    h.reload = [] { return ReloadOutcome{}; };
    h.allocations = [this] { return allocations; };
    h.close_all = [this] {
      ++closes;
      allocations = 0;
    };
    h.status = [] { return std::string("test"); };
    return h;
  }
};

class ControlLoopTest : public ::testing::Test {
 protected:
  boost::asio::io_context io_;
  Logger log_{LogFormat::kText, LogLevel::kInfo, std::make_shared<spdlog::sinks::null_sink_mt>()};
  FakeCores cores_;
};

TEST_F(ControlLoopTest, AnEventPushedWhileItSleepsIsTaken) {
  ControlLoop loop(io_, cores_.engine(), cores_.hooks(), log_, seconds(0));
  constexpr int kEvents = 1000;
  std::atomic<int> seen{0};
  cores_.on_take = [&] {
    if (++seen == kEvents) loop.stop();
  };
  std::thread core([&] {
    for (int i = 0; i < kEvents; ++i) {
      cores_.push();
      while (seen <= i)
        std::this_thread::yield();
    }
  });
  EXPECT_EQ(loop.run(), 0);
  core.join();
  EXPECT_EQ(cores_.taken, kEvents);
}

TEST_F(ControlLoopTest, StopWithoutAllocationsEndsAtOnce) {
  ControlLoop loop(io_, cores_.engine(), cores_.hooks(), log_, std::chrono::hours(1));
  boost::asio::post(io_, [&] { std::raise(SIGTERM); });
  EXPECT_EQ(loop.run(), 0);
  EXPECT_TRUE(cores_.draining);
  EXPECT_EQ(cores_.closes, 0);
}

TEST_F(ControlLoopTest, StopWaitsForLiveAllocationsToEnd) {
  cores_.allocations = 1;
  ControlLoop loop(io_, cores_.engine(), cores_.hooks(), log_, std::chrono::hours(1));
  cores_.on_take = [&] { cores_.allocations = 0; };  // the last one ends by itself
  boost::asio::post(io_, [&] {
    loop.stop();
    cores_.push();
  });
  EXPECT_EQ(loop.run(), 0);
  EXPECT_EQ(cores_.closes, 0);
}

TEST_F(ControlLoopTest, AfterTheGraceWhatIsLeftIsClosed) {
  cores_.allocations = 5;
  ControlLoop loop(io_, cores_.engine(), cores_.hooks(), log_, std::chrono::milliseconds(20));
  boost::asio::post(io_, [&] { loop.stop(); });
  EXPECT_EQ(loop.run(), 0);
  EXPECT_EQ(cores_.closes, 1);
}

TEST_F(ControlLoopTest, ASecondSignalEndsAtOnce) {
  cores_.allocations = 5;
  ControlLoop loop(io_, cores_.engine(), cores_.hooks(), log_, std::chrono::hours(1));
  boost::asio::post(io_, [&] { loop.stop(); });
  boost::asio::post(io_, [&] { std::raise(SIGINT); });
  EXPECT_EQ(loop.run(), 0);
  EXPECT_EQ(cores_.closes, 0);
}

TEST_F(ControlLoopTest, AReloadDoesNotEndAnything) {
  int reloads = 0;
  LoopHooks hooks = cores_.hooks();
  hooks.reload = [&] {
    ++reloads;
    boost::asio::post(io_, [] { std::raise(SIGTERM); });
    return ReloadOutcome{true, {"limits.max_lifetime"}};
  };
  ControlLoop loop(io_, cores_.engine(), std::move(hooks), log_, seconds(0));
  boost::asio::post(io_, [] { std::raise(SIGHUP); });
  EXPECT_EQ(loop.run(), 0);
  EXPECT_EQ(reloads, 1);
}

TEST_F(ControlLoopTest, AReloadWhileStoppingIsRefused) {
  cores_.allocations = 1;
  int reloads = 0;
  LoopHooks hooks = cores_.hooks();
  hooks.reload = [&] {
    ++reloads;
    return ReloadOutcome{true, {}};
  };
  ControlLoop loop(io_, cores_.engine(), std::move(hooks), log_, std::chrono::milliseconds(20));
  ReloadOutcome outcome{true, {}};
  boost::asio::post(io_, [&] {
    loop.stop();
    outcome = loop.reload();
  });
  EXPECT_EQ(loop.run(), 0);
  EXPECT_EQ(reloads, 0);
  EXPECT_FALSE(outcome.applied);
  ASSERT_EQ(outcome.messages.size(), 1U);
  EXPECT_NE(outcome.messages[0].find("stopping"), std::string::npos);
}

}  // namespace
}  // namespace culvert
