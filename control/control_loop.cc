#include "control/control_loop.h"

#include <algorithm>
#include <csignal>
#include <ctime>
#include <utility>

#include "config/cli.h"
#include "control/logging.h"

namespace culvert {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

// A due time that never comes, in ms: 139 years. steady_clock counts ns in 63 bits, which hold 292.
constexpr uint64_t kNever = uint64_t{1} << 42;

}  // namespace

ControlTime read_control_time() {
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return {
      static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(since).count()),
      static_cast<uint64_t>(std::time(nullptr))};
}

ControlLoop::ControlLoop(asio::io_context& io, LoopEngine engine, LoopHooks hooks, Logger& log,
                         std::chrono::milliseconds stop_grace)
    : io_(io),
      wake_(io, engine.wake_fd),
      signals_(io, SIGTERM, SIGINT, SIGHUP),
      engine_(std::move(engine)),
      hooks_(std::move(hooks)),
      log_(log),
      stop_grace_(stop_grace) {
  // A log or control client that goes away is an error of write(), not the end of the relay.
  std::signal(SIGPIPE, SIG_IGN);
  wait_for_wake();
  wait_for_signal();
}

ControlLoop::~ControlLoop() {
  wake_.release();
}

void ControlLoop::wait_for_wake() {
  wake_.async_wait(asio::posix::stream_descriptor::wait_read, [this](error_code e) {
    if (e) return;
    engine_.awake();  // before the next wait: registration is edge triggered
    wait_for_wake();
  });
}

void ControlLoop::wait_for_signal() {
  signals_.async_wait([this](error_code e, int signal) {
    if (e) return;
    log_.info("signal", {{"name", signal == SIGHUP   ? "SIGHUP"
                                  : signal == SIGINT ? "SIGINT"
                                                     : "SIGTERM"}});
    if (signal == SIGHUP)
      reload();
    else
      stop();
    wait_for_signal();
  });
}

ReloadOutcome ControlLoop::reload() {
  if (state_ == ServiceState::kStopping) {
    // READY after STOPPING would tell the service manager that the stop was called off.
    ReloadOutcome refused{false, {"the relay is stopping; start it again to use the new file"}};
    log_.error("reload refused", {{"reason", refused.messages.front()}});
    return refused;
  }
  service_.reloading();
  ReloadOutcome outcome = hooks_.reload();
  for (const std::string& m : outcome.messages) {
    if (outcome.applied)
      log_.info("reload", {{"change", m}});
    else
      log_.error("reload refused", {{"reason", m}});
  }
  if (outcome.applied) log_.info("reload applied");
  service_.ready(hooks_.status());
  return outcome;
}

void ControlLoop::set_draining(bool on) {
  if (state_ == ServiceState::kStopping) return;
  state_ = on ? ServiceState::kDraining : ServiceState::kReady;
  hooks_.set_draining(on);
  log_.info(on ? "draining" : "accepting again", {{"allocations", hooks_.allocations()}});
  service_.status(hooks_.status());
}

void ControlLoop::stop() {
  if (state_ == ServiceState::kStopping) {
    log_.warning("stopped at once", {{"allocations", hooks_.allocations()}});
    finished_ = true;
    return;
  }
  state_ = ServiceState::kStopping;
  hooks_.set_draining(true);
  stop_deadline_ = Clock::now() + stop_grace_;
  log_.info("stopping", {{"allocations", hooks_.allocations()}, {"grace_ms", stop_grace_.count()}});
  service_.stopping(hooks_.status());
}

void ControlLoop::advance_stop(Clock::time_point now) {
  if (state_ != ServiceState::kStopping) return;
  const uint32_t left = hooks_.allocations();
  if (close_deadline_ == Clock::time_point{}) {
    if (left == 0) finished_ = true;
    if (left == 0 || now < stop_deadline_) return;
    hooks_.close_all();
    close_deadline_ = now + kCloseTimeout;
    return;
  }
  if (left == 0) finished_ = true;
  if (left != 0 && now >= close_deadline_) {
    log_.warning("cores did not confirm the end of all allocations", {{"left", left}});
    finished_ = true;
  }
}

void ControlLoop::tick(ControlTime now) {
  const Clock::time_point at = Clock::now();
  if (at < next_tick_) return;
  next_tick_ = at + kControlTick;
  hooks_.tick(now);
  if (const auto interval = service_.watchdog_interval(); interval && at >= next_heartbeat_) {
    next_heartbeat_ = at + *interval / 3;
    if (hooks_.healthy()) service_.heartbeat();
  }
  if (at >= next_status_) {
    next_status_ = at + kStatusInterval;
    service_.status(hooks_.status());
  }
}

ControlLoop::Clock::time_point ControlLoop::next_deadline() const {
  // steady_clock is what ControlTime::ms counts, so a due time is a time_point.
  const auto due = Clock::time_point(std::chrono::milliseconds(
      static_cast<int64_t>(std::min<uint64_t>(hooks_.next_due_ms(), kNever))));
  Clock::time_point deadline = std::min(due, next_tick_);
  if (state_ == ServiceState::kStopping)
    deadline = std::min(deadline,
                        close_deadline_ == Clock::time_point{} ? stop_deadline_ : close_deadline_);
  return deadline;
}

void ControlLoop::turn() {
  uint32_t rounds = 0;
  bool more = true;
  while (more && ++rounds <= kRoundsPerTurn) {
    const ControlTime now = read_control_time();
    more = hooks_.poll(now);
    tick(now);
  }
  advance_stop(Clock::now());
  if (finished_) return;
  if (more || !engine_.prepare_sleep()) {
    io_.poll();
    return;
  }
  const Clock::time_point deadline = next_deadline();
  if (deadline > Clock::now())
    io_.run_one_until(deadline);
  else
    io_.poll_one();
  engine_.awake();
}

int ControlLoop::run() {
  const auto keep = asio::make_work_guard(io_);
  state_ = ServiceState::kReady;
  next_tick_ = Clock::now();
  log_.info("ready", {{"version", CULVERT_VERSION}});
  service_.ready(hooks_.status());
  while (!finished_)
    turn();
  log_.info("stopped");
  log_.flush();
  return kExitOk;
}

}  // namespace culvert
