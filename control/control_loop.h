// The control thread's loop: events of the cores, sockets, signals and time, by one io_context. It
// knows cores only as callables (LoopEngine, LoopHooks), so it is tested without any.
//
//   run: poll until there is nothing to do, tell the cores we sleep, wait for what comes first.
//
// No wake-up is lost: prepare_sleep() looks at the event rings after it announced the sleep. Cost
// of one wake-up: epoll_wait, one read of the wake descriptor, no heap allocation (Asio recycles
// the memory of the one pending wait). A flood of events cannot starve sockets and signals: they
// get their turn after kRoundsPerTurn polls.
//
// Stopping: SIGTERM or SIGINT drains (new allocations get 508) until none is left or stop_grace has
// passed, then closes what is left, waits for the last word on each, and run() returns. A second
// signal returns at once. SIGHUP reloads.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/signal_set.hpp>

#include "control/operations.h"
#include "control/sd_notify.h"
#include "control/turn_server.h"

namespace culvert {

class Logger;

inline constexpr std::chrono::milliseconds kControlTick{100};
// Polls in a row, each at most kMaxEventsPerPoll events a core, before sockets and signals get a
// turn.
inline constexpr uint32_t kRoundsPerTurn = 8;
// How long the end waits for AllocationEnded after everything was told to close.
inline constexpr std::chrono::milliseconds kCloseTimeout{2000};
// How often STATUS= is told to the service manager.
inline constexpr std::chrono::seconds kStatusInterval{5};

// The engine's side of sleeping (RingEngine has these).
struct LoopEngine {
  int wake_fd = -1;                     // stays the engine's
  std::function<bool()> prepare_sleep;  // false: an event is there already
  std::function<void()> awake;          // clears wake_fd
};

struct LoopHooks {
  std::function<bool(ControlTime)> poll;  // true: call again
  std::function<uint64_t()> next_due_ms;
  std::function<void(ControlTime)> tick;  // each kControlTick
  std::function<bool()> healthy;          // false: systemd's watchdog is not fed
  std::function<void(bool)> set_draining;
  std::function<ReloadOutcome()> reload;
  std::function<uint32_t()> allocations;
  std::function<void()> close_all;
  std::function<std::string()> status;  // one line for the service manager
};

// Both clocks now.
[[nodiscard]] ControlTime read_control_time();

class ControlLoop {
 public:
  ControlLoop(boost::asio::io_context& io, LoopEngine engine, LoopHooks hooks, Logger& log,
              std::chrono::milliseconds stop_grace);
  ~ControlLoop();
  ControlLoop(const ControlLoop&) = delete;
  ControlLoop& operator=(const ControlLoop&) = delete;

  // Says ready (service manager, and one line of the log), serves until stopped; the exit status.
  [[nodiscard]] int run();

  // As SIGTERM does (first call drains, second ends at once).
  void stop();
  // As SIGHUP does; also for the control socket.
  ReloadOutcome reload();
  // By an operator, without stopping.
  void set_draining(bool on);

  [[nodiscard]] ServiceState state() const { return state_; }
  void set_stop_grace(std::chrono::milliseconds grace) { stop_grace_ = grace; }

 private:
  using Clock = std::chrono::steady_clock;

  void wait_for_wake();
  void wait_for_signal();
  void turn();
  void tick(ControlTime now);
  void advance_stop(Clock::time_point now);
  [[nodiscard]] Clock::time_point next_deadline() const;

  boost::asio::io_context& io_;
  boost::asio::posix::stream_descriptor wake_;
  boost::asio::signal_set signals_;
  LoopEngine engine_;
  LoopHooks hooks_;
  Logger& log_;
  ServiceManager service_;
  std::chrono::milliseconds stop_grace_;
  ServiceState state_ = ServiceState::kStarting;
  Clock::time_point next_tick_{};
  Clock::time_point next_heartbeat_{};
  Clock::time_point next_status_{};
  Clock::time_point stop_deadline_{};   // of draining
  Clock::time_point close_deadline_{};  // of waiting for the ends; zero: not closing yet
  bool finished_ = false;
};

}  // namespace culvert
