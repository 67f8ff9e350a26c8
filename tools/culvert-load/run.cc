#include "tools/culvert-load/run.h"

#include <unistd.h>

#include <barrier>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <mutex>
#include <thread>

namespace culvert::load {
namespace {

volatile std::sig_atomic_t g_interrupted = 0;  // a signal handler has no other place to write to

void on_signal(int) {
  g_interrupted = 1;
}

void sleep_until(uint64_t at_ns) {
  const timespec at{static_cast<time_t>(at_ns / kSecond), static_cast<long>(at_ns % kSecond)};
  while (!interrupted() && monotonic_ns() < at_ns)
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr);
}

struct Totals {
  uint64_t sent = 0;
  uint64_t received = 0;
};

Totals read_live(const std::vector<std::unique_ptr<Worker>>& workers) {
  Totals out;
  for (const auto& worker : workers) {
    out.sent += worker->live.sent.load(std::memory_order_relaxed);
    out.received += worker->live.received.load(std::memory_order_relaxed);
  }
  return out;
}

void show_progress(const Options& o, const Second& second, bool warming) {
  if (o.quiet || isatty(STDERR_FILENO) == 0) return;
  std::fprintf(stderr, "\r%6.1f s  %s sent %9llu/s  received %9llu/s  server %4.0f %% CPU  \033[K",
               second.at_s, warming ? "warming up " : "",
               static_cast<unsigned long long>(second.sent),
               static_cast<unsigned long long>(second.received), second.server_cpu_s * 100);
}

// Reads the counters each second and exactly at both ends of the measured window.
void watch(const std::vector<std::unique_ptr<Worker>>& workers, const ServerCpu& cpu,
           const RunClock& clock, Result& result) {
  Totals last = read_live(workers);
  CpuSample last_cpu = cpu.sample();
  Totals from;
  uint64_t own_from = 0;
  uint64_t next = clock.start;
  bool started = false;
  while (true) {
    next += kSecond;
    const uint64_t edge = started ? clock.measure_to : clock.measure_from;
    sleep_until(std::min(next, edge));
    const Totals now = read_live(workers);
    const CpuSample sample = cpu.sample();
    result.rss_peak = std::max(result.rss_peak, sample.rss_bytes);
    const double seconds = static_cast<double>(sample.at_ns - last_cpu.at_ns) / 1e9;
    if (seconds > 0.2) {
      const Second second{
          static_cast<double>(sample.at_ns - clock.start) / 1e9,
          static_cast<uint64_t>(static_cast<double>(now.sent - last.sent) / seconds),
          static_cast<uint64_t>(static_cast<double>(now.received - last.received) / seconds),
          static_cast<double>(sample.process_ns - last_cpu.process_ns) / 1e9 / seconds,
          sample.rss_bytes};
      result.series.push_back(second);
      show_progress(result.options, second, !started);
      last = now;
      last_cpu = sample;
    }
    if (!started && (sample.at_ns >= clock.measure_from || interrupted())) {
      started = true;
      result.from = sample;
      from = now;
      own_from = own_cpu_ns();
    } else if (started && (sample.at_ns >= clock.measure_to || interrupted())) {
      result.to = sample;
      result.sent = now.sent - from.sent;
      result.received = now.received - from.received;
      result.own_cpu_ns = own_cpu_ns() - own_from;
      break;
    }
  }
  if (!result.options.quiet && isatty(STDERR_FILENO) != 0) std::fprintf(stderr, "\r\033[K");
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

void Tally::count_error(const std::string& kind) {
  ++errors;
  for (auto& [name, count] : error_kinds) {
    if (name != kind) continue;
    ++count;
    return;
  }
  if (error_kinds.size() < 16) error_kinds.emplace_back(kind, 1);
}

void Tally::merge(const Tally& other) {
  for (size_t i = 0; i < flows.size(); ++i) {
    flows[i].sent += other.flows[i].sent;
    flows[i].unique += other.flows[i].unique;
    flows[i].duplicates += other.flows[i].duplicates;
    flows[i].reordered += other.flows[i].reordered;
    flows[i].latency.merge(other.flows[i].latency);
  }
  lateness.merge(other.lateness);
  operation.merge(other.operation);
  for (const auto& [name, count] : other.error_kinds) {
    count_error(name);
    for (auto& kind : error_kinds)
      if (kind.first == name) kind.second += count - 1;
  }
  errors += other.errors - other.error_kinds.size();
  for (auto field : {&Tally::scheduled, &Tally::corrupt, &Tally::strange, &Tally::send_refused,
                     &Tally::receive_drops, &Tally::tx_ns, &Tally::rx_ns, &Tally::tx_datagrams,
                     &Tally::rx_datagrams, &Tally::idle_ns, &Tally::request_bytes,
                     &Tally::response_bytes, &Tally::responses})
    this->*field += other.*field;
}

bool run_workers(const Options& options, const MakeWorker& make, Result& result) {
  result.options = options;
  std::string error;
  const auto cpu = ServerCpu::watch(options.server_pid, error);
  if (!cpu) {
    std::fprintf(stderr, "culvert-load: %s\n", error.c_str());
    return false;
  }
  result.server_watched = cpu->watching();
  result.before = cpu->sample();
  std::vector<std::unique_ptr<Worker>> workers;
  for (uint32_t i = 0; i < options.threads; ++i)
    workers.push_back(make(i));

  RunClock clock;
  std::mutex failure_lock;
  std::string failure;
  std::barrier prepared(static_cast<std::ptrdiff_t>(options.threads) + 1);
  std::barrier go(static_cast<std::ptrdiff_t>(options.threads) + 1);
  std::vector<std::thread> threads;
  for (auto& worker : workers) {
    threads.emplace_back([&, w = worker.get()] {
      const std::string problem = w->prepare();
      if (!problem.empty()) {
        const std::lock_guard hold(failure_lock);
        failure = problem;
      }
      prepared.arrive_and_wait();
      go.arrive_and_wait();
      if (clock.start != 0) w->traffic(clock);
      w->finish();
    });
  }
  prepared.arrive_and_wait();
  result.ready = cpu->sample();
  result.setup_s = static_cast<double>(result.ready.at_ns - result.before.at_ns) / 1e9;
  const bool usable = failure.empty() && !interrupted();
  if (usable) {
    clock.start = monotonic_ns() + 10'000'000;  // a moment for all threads to be there
    clock.measure_from = clock.start + static_cast<uint64_t>(options.warm_up_s * 1e9);
    clock.measure_to = clock.measure_from + static_cast<uint64_t>(options.duration_s * 1e9);
  }
  go.arrive_and_wait();
  if (usable) watch(workers, *cpu, clock, result);
  for (auto& thread : threads)
    thread.join();
  if (!failure.empty()) std::fprintf(stderr, "culvert-load: %s\n", failure.c_str());
  for (const auto& worker : workers)
    result.tally.merge(worker->tally);
  judge_limits(result);
  return usable;
}

}  // namespace culvert::load
