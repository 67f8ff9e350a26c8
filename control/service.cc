#include "control/service.h"

#include <utility>
#include <vector>

#include <boost/asio/post.hpp>

#include "control/account_worker.h"
#include "control/control_socket.h"
#include "control/health.h"
#include "control/logging.h"
#include "control/metrics.h"
#include "control/user_store_sqlite.h"

namespace culvert {

namespace {

// A port's counters may cost a system call for each queue.
constexpr uint64_t kPortsIntervalMs = 1000;

}  // namespace

TurnHooks logging_hooks(Logger& log) {
  TurnHooks hooks;
  hooks.notice = [&log](std::string_view text) {
    log.limited(LogLevel::kWarning, "notice", {{"text", text}});
  };
  hooks.allocation_ended = [&log](const EndedAllocation& e) {
    if (!log.enabled(LogLevel::kInfo)) return;
    const AllocationInfo& a = e.info;
    const std::string id = format_allocation_id(a.id);
    log.info(e.whole ? "allocation ended" : "allocation lost one family",
             {{"id", id},
              {"user", a.user},
              {"realm", a.realm},
              {"client", a.client.to_string()},
              {"relayed_ipv4", a.relayed_ipv4 ? a.relayed_ipv4->to_string() : "-"},
              {"relayed_ipv6", a.relayed_ipv6 ? a.relayed_ipv6->to_string() : "-"},
              {"reason", to_string(e.reason)},
              {"seconds", static_cast<double>(e.ended_ms - a.created_ms) / 1000},
              {"packets_to_peer", e.counters.packets_to_peer},
              {"bytes_to_peer", e.counters.bytes_to_peer},
              {"packets_to_client", e.counters.packets_to_client},
              {"bytes_to_client", e.counters.bytes_to_client}});
  };
  return hooks;
}

class Service::Impl {
 public:
  explicit Impl(ServiceParts parts)
      : parts_(std::move(parts)),
        loop_(io_, parts_.sleep, hooks(), parts_.log,
              std::chrono::seconds(parts_.config().stop_grace_seconds)),
        rpc_(operator_methods(context())) {}

  void open(const Account& account);
  void start_threads();
  [[nodiscard]] int run() { return loop_.run(); }
  [[nodiscard]] ControlLoop& loop() { return loop_; }

 private:
  [[nodiscard]] LoopHooks hooks();
  [[nodiscard]] OperationsContext context();
  [[nodiscard]] ReloadOutcome reload();
  void publish_stats(const ControlSocketOptions& socket);
  void stamp_stats();
  [[nodiscard]] std::span<const PortStats> ports() const;
  void on_tick();
  void take_accounts();
  void change_account(AccountRequest request, std::function<void(AccountReply)> done);
  [[nodiscard]] std::vector<AccountWatcher::Source> sources() const;

  ServiceParts parts_;
  boost::asio::io_context io_;
  CoreWatchdog watchdog_;
  CycleClock cycle_clock_;
  uint64_t ports_due_ms_ = 0;
  const uint64_t started_ms_ = read_control_time().ms;
  ControlLoop loop_;
  Rpc rpc_;
  std::unique_ptr<ControlSocket> socket_;
  std::unique_ptr<HealthListener> health_;
  std::unique_ptr<AccountWorker> worker_;
  std::unique_ptr<AccountWatcher> watcher_;
};

LoopHooks Service::Impl::hooks() {
  LoopHooks h;
  h.poll = [this](ControlTime now) { return parts_.turn.poll(now); };
  h.next_due_ms = [this] { return parts_.turn.next_due_ms(); };
  h.tick = [this](ControlTime) { on_tick(); };
  h.healthy = [this] { return watchdog_.all_well(); };
  h.set_draining = [this](bool on) { parts_.turn.set_draining(on); };
  h.reload = [this] { return reload(); };
  h.allocations = [this] { return parts_.turn.stats().allocations; };
  h.close_all = [this] {
    parts_.turn.close_if([](const AllocationInfo&) { return true; }, EndReason::kShutdown);
  };
  h.status = [this] {
    const TurnStats s = parts_.turn.stats();
    return std::string(to_string(loop_.state())) + ", " + std::to_string(s.allocations) + " of " +
           std::to_string(parts_.config().limits.max_allocations) + " allocations";
  };
  return h;
}

OperationsContext Service::Impl::context() {
  return {.turn = parts_.turn,
          .engine = parts_.engine,
          .watchdog = watchdog_,
          .now = read_control_time,
          .started_ms = started_ms_,
          .config = parts_.config,
          .effective_toml = parts_.effective_toml,
          .limits = parts_.limits,
          .state = [this] { return loop_.state(); },
          .drain = [this](bool on) { loop_.set_draining(on); },
          .reload = [this] { return loop_.reload(); },
          .ports = [this] { return ports(); },
          .accounts =
              [this](AccountRequest request, std::function<void(AccountReply)> done) {
                change_account(std::move(request), std::move(done));
              }};
}

void Service::Impl::open(const Account& account) {
  const Config& config = parts_.config();
  if (!config.control_socket.path.empty()) {
    ControlSocketOptions options;
    options.path = config.control_socket.path;
    options.mode = config.control_socket.mode;
    if (std::string e = make_runtime_folder(options.path, account); !e.empty())
      throw std::runtime_error("control_socket.path: " + e);
    if (geteuid() == 0) options.owner = account.uid;
    options.group = account.gid;
    if (!config.control_socket.group.empty()) {
      const GroupResult group = resolve_group(config.control_socket.group);
      if (!group.error.empty()) throw std::runtime_error("control_socket.group: " + group.error);
      options.group = group.gid;
    }
    socket_ = std::make_unique<ControlSocket>(io_, options, rpc_, parts_.log);
    parts_.log.info("control socket", {{"path", options.path}});
    publish_stats(options);
  }
  if (config.metrics.listen) {
    const MetricsContext metrics{
        .turn = parts_.turn,
        .engine = parts_.engine,
        .watchdog = watchdog_,
        .config = parts_.config,
        .state = [this] { return loop_.state(); },
        .log_lines_dropped = [this] { return parts_.log.dropped(); },
        .control_clients = [this] { return socket_ == nullptr ? 0 : socket_->clients(); },
        .cycle_clock = &cycle_clock_,
        .ports = [this] { return ports(); }};
    HealthHooks hooks;
    hooks.metrics = [metrics] { return render_metrics(metrics); };
    hooks.healthy = [this] { return watchdog_.all_well(); };
    hooks.ready = [this] { return loop_.state() == ServiceState::kReady; };
    health_ =
        std::make_unique<HealthListener>(io_, *config.metrics.listen, std::move(hooks), parts_.log);
    parts_.log.info("metrics", {{"listen", health_->address().to_string()}});
  }
}

// Whoever may connect to the control socket may read.
void Service::Impl::publish_stats(const ControlSocketOptions& socket) {
  if (!parts_.stats.publish) return;
  StatsFile file;
  file.path = stats_path(socket.path);
  file.mode = (socket.mode & 0444u) | 0600u;
  file.owner = socket.owner;
  file.group = socket.group;
  parts_.stats.publish(file);
  parts_.log.info("stats segment", {{"path", file.path}});
}

// A reader sees by these whether control is alive; ports are asked once a second.
void Service::Impl::stamp_stats() {
  if (parts_.stats.header == nullptr) return;
  StatsHeader& header = *parts_.stats.header;
  const uint64_t now_ms = read_control_time().ms;
  header.state.store(static_cast<uint32_t>(loop_.state()), std::memory_order_relaxed);
  header.control_seen_ms.store(now_ms, std::memory_order_relaxed);
  if (!parts_.stats.read_ports || now_ms < ports_due_ms_) return;
  ports_due_ms_ = now_ms + kPortsIntervalMs;
  const uint32_t count = parts_.stats.read_ports(parts_.stats.ports);
  header.ports.store(count, std::memory_order_release);
  header.ports_seen_ms.store(now_ms, std::memory_order_relaxed);
}

std::span<const PortStats> Service::Impl::ports() const {
  if (parts_.stats.header == nullptr) return {};
  return parts_.stats.ports.first(parts_.stats.header->ports.load(std::memory_order_relaxed));
}

std::vector<AccountWatcher::Source> Service::Impl::sources() const {
  std::vector<AccountWatcher::Source> out;
  const std::vector<RealmConfig>& realms = parts_.config().realms;
  for (uint16_t i = 0; i < realms.size(); ++i) {
    if (!realms[i].database.empty()) out.push_back({i, realms[i].name, realms[i].database});
  }
  return out;
}

void Service::Impl::start_threads() {
  worker_ = std::make_unique<AccountWorker>(io_);
  watcher_ = std::make_unique<AccountWatcher>(
      sources(), [this] { boost::asio::post(io_, [this] { take_accounts(); }); });
  watcher_->wait_loaded();
  take_accounts();
}

void Service::Impl::take_accounts() {
  for (AccountWatcher::Change& change : watcher_->take_changes()) {
    if (!change.error.empty()) {
      parts_.log.limited(LogLevel::kError, "accounts not read", {{"reason", change.error}});
      continue;
    }
    if (change.realm >= parts_.config().realms.size() || change.accounts == nullptr) continue;
    parts_.log.info("accounts read", {{"realm", parts_.config().realms[change.realm].name},
                                      {"users", change.accounts->all().size()}});
    parts_.turn.set_accounts(change.realm, std::move(change.accounts));
  }
}

void Service::Impl::change_account(AccountRequest request, std::function<void(AccountReply)> done) {
  if (worker_ == nullptr) {
    AccountReply early;
    early.error = "the relay is still starting: try again";
    return done(std::move(early));
  }
  const RealmConfig& realm = parts_.config().realms[request.realm];
  worker_->submit(std::move(request), realm.name, realm.database, std::move(done));
}

ReloadOutcome Service::Impl::reload() {
  ReloadOutcome outcome = parts_.reload();
  if (outcome.applied) {
    const Config& config = parts_.config();
    parts_.log.set_level(config.log.level);
    loop_.set_stop_grace(std::chrono::seconds(config.stop_grace_seconds));
    if (watcher_ != nullptr) watcher_->reload(sources());
  }
  return outcome;
}

void Service::Impl::on_tick() {
  parts_.log.push();
  stamp_stats();
  const CoreWatchdog::Change change =
      watchdog_.look(parts_.engine, std::chrono::steady_clock::now());
  if ((change.stalled | change.recovered) == 0) return;
  for (CoreId core = 0; core < parts_.engine.cores(); ++core) {
    const CoreStats& s = parts_.engine.stats(core);
    if ((change.stalled >> core & 1) != 0) {
      const ThreadReport thread = report_thread("culvert-core" + std::to_string(core));
      parts_.log.error("core stands still", {{"core", core},
                                             {"thread", thread.state},
                                             {"ran_ms", thread.ran_ms},
                                             {"waited_for_cpu_ms", thread.waited_for_cpu_ms},
                                             {"loops", s.loops.get()},
                                             {"sleeps", s.sleeps.get()},
                                             {"commands_applied", s.commands_applied.get()},
                                             {"received_packets", s.received_packets.get()}});
    }
    if ((change.recovered >> core & 1) != 0)
      parts_.log.warning("core moves again", {{"core", core}});
  }
}

Service::Service(ServiceParts parts) : impl_(std::make_unique<Impl>(std::move(parts))) {}
Service::~Service() = default;
void Service::open(const Account& account) {
  impl_->open(account);
}
void Service::start_threads() {
  impl_->start_threads();
}
int Service::run() {
  return impl_->run();
}
ControlLoop& Service::loop() {
  return impl_->loop();
}

}  // namespace culvert
