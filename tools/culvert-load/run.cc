#include "tools/culvert-load/run.h"

#include <unistd.h>

#include <barrier>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <mutex>

namespace culvert::load {
namespace {

constexpr uint64_t kStartDelayNs = 10'000'000;  // a moment for all threads to be there

volatile std::sig_atomic_t g_interrupted = 0;  // a signal handler has no other place to write to

void on_signal(int) {
  g_interrupted = 1;
}

void sleep_until(uint64_t at_ns) {
  const timespec at{static_cast<time_t>(at_ns / kSecond), static_cast<long>(at_ns % kSecond)};
  while (!interrupted() && monotonic_ns() < at_ns)
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr);
}

struct Sample {
  uint64_t sent = 0;
  uint64_t received = 0;
  CpuSample cpu;
};

Sample take(const std::vector<std::unique_ptr<Worker>>& workers, const ServerCpu& cpu) {
  Sample out;
  for (const auto& worker : workers) {
    out.sent += worker->live.sent.load(std::memory_order_relaxed);
    out.received += worker->live.received.load(std::memory_order_relaxed);
  }
  out.cpu = cpu.sample();
  return out;
}

bool on_terminal(const Options& o) {
  return !o.quiet && isatty(STDERR_FILENO) != 0;
}

void show_progress(const std::string& title, const Sample& last, const Sample& now,
                   const Trial& trial, bool warming, bool watched) {
  const double seconds = static_cast<double>(now.cpu.at_ns - last.cpu.at_ns) / 1e9;
  if (seconds <= 0) return;
  const double of = static_cast<double>(trial.measure_to - trial.measure_from) / 1e9;
  const double gone =
      (static_cast<double>(now.cpu.at_ns) - static_cast<double>(trial.measure_from)) / 1e9;
  std::fprintf(stderr, "\r%s%s%5.0f of %.0f s   sent %9.0f/s   received %9.0f/s", title.c_str(),
               warming ? "warming up " : "", std::max(gone, 0.0), of,
               static_cast<double>(now.sent - last.sent) / seconds,
               static_cast<double>(now.received - last.received) / seconds);
  if (watched)
    std::fprintf(stderr, "   server %4.0f %% CPU",
                 static_cast<double>(now.cpu.process_ns - last.cpu.process_ns) / 1e7 / seconds);
  std::fprintf(stderr, "\033[K");
}

}  // namespace

bool interrupted() {
  return g_interrupted != 0;
}

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

Offer Offer::of(const Options& options) {
  return {options.rate, options.rate_to, options.warm_up_s, options.duration_s};
}

struct Crew::Shared {
  explicit Shared(uint32_t threads) : step(static_cast<std::ptrdiff_t>(threads) + 1) {}
  std::barrier<> step;  // of the workers and the main thread
  std::mutex lock;
  std::string failure;
  Trial trial;
  bool ended = false;
};

Crew::Crew(const Options& options, const MakeWorker& make)
    : options_(options), shared_(std::make_unique<Shared>(options.threads)) {
  for (uint32_t i = 0; i < options.threads; ++i)
    workers_.push_back(make(i));
}

std::string Crew::prepare() {
  std::string error;
  cpu_ = ServerCpu::watch(options_.server_pid, error);
  if (!cpu_) return error;
  before_ = cpu_->sample();
  for (auto& worker : workers_)
    threads_.emplace_back([this, w = worker.get()] { work(*w); });
  shared_->step.arrive_and_wait();
  ready_ = cpu_->sample();
  if (shared_->failure.empty() && interrupted()) return "interrupted";
  return shared_->failure;
}

void Crew::work(Worker& worker) {
  const std::string problem = worker.prepare();
  if (!problem.empty()) {
    const std::lock_guard hold(shared_->lock);
    shared_->failure = problem;
  }
  shared_->step.arrive_and_wait();  // prepared
  while (true) {
    shared_->step.arrive_and_wait();  // a trial begins, or all is over
    if (shared_->ended) break;
    worker.traffic(shared_->trial);
    shared_->step.arrive_and_wait();  // the trial is over
  }
  worker.finish();
}

Crew::~Crew() {
  if (threads_.empty()) return;
  shared_->ended = true;
  shared_->step.arrive_and_wait();
  for (auto& thread : threads_)
    thread.join();
}

Result Crew::run(const Offer& offer, const std::string& title) {
  Result result;
  result.options = options_;
  result.before = before_;
  result.ready = ready_;
  result.setup_s = static_cast<double>(ready_.at_ns - before_.at_ns) / 1e9;
  result.server_watched = cpu_->watching();
  Trial& trial = shared_->trial;
  trial.rate = offer.rate;
  trial.rate_to = offer.rate_to;
  trial.start = monotonic_ns() + kStartDelayNs;
  trial.measure_from = trial.start + static_cast<uint64_t>(offer.warm_up_s * 1e9);
  trial.measure_to = trial.measure_from + static_cast<uint64_t>(offer.duration_s * 1e9);
  shared_->step.arrive_and_wait();
  watch(trial, title, result);
  shared_->step.arrive_and_wait();
  for (const auto& worker : workers_)
    result.tally.merge(worker->tally);
  result.tally.trial = trial;
  judge_limits(result);
  return result;
}

// Reads the counters exactly at both ends of the measured window and each second of it.
void Crew::watch(const Trial& trial, const std::string& title, Result& result) {
  const bool shown = on_terminal(options_);
  Sample last = take(workers_, *cpu_);
  for (uint64_t next = trial.start + kSecond; next < trial.measure_from; next += kSecond) {
    sleep_until(next);
    const Sample now = take(workers_, *cpu_);
    if (shown) show_progress(title, last, now, trial, true, cpu_->watching());
    last = now;
  }
  sleep_until(trial.measure_from);
  const Sample from = last = take(workers_, *cpu_);
  const uint64_t own_from = own_cpu_ns();
  for (uint64_t next = trial.measure_from; next < trial.measure_to && !interrupted();) {
    next = std::min(next + kSecond, trial.measure_to);
    sleep_until(next);
    const Sample now = take(workers_, *cpu_);
    result.rss_peak = std::max(result.rss_peak, now.cpu.rss_bytes);
    result.series.push_back({static_cast<double>(now.cpu.at_ns - last.cpu.at_ns) / 1e9,
                             now.received - last.received, now.cpu.process_ns - last.cpu.process_ns,
                             now.cpu.rss_bytes});
    if (shown) show_progress(title, last, now, trial, false, cpu_->watching());
    last = now;
  }
  result.own_cpu_ns = own_cpu_ns() - own_from;
  result.from = from.cpu;
  result.to = last.cpu;
  result.sent = last.sent - from.sent;
  result.received = last.received - from.received;
  if (shown) std::fprintf(stderr, "\r\033[K");
}

bool run_once(const Options& options, const MakeWorker& make, Result& result) {
  Crew crew(options, make);
  if (const auto problem = crew.prepare(); !problem.empty()) {
    std::fprintf(stderr, "culvert-load: %s\n", problem.c_str());
    return false;
  }
  result = crew.run(Offer::of(options));
  return true;
}

}  // namespace culvert::load
