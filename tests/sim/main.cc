// culvert-sim: runs seeds of the simulator (world.h), one or a campaign of them.
//   culvert-sim --seeds 5000 --packets 1e8 --jobs 2     a campaign; fails below its floors
//   culvert-sim --seed 17 [--faults loss,rebind ...]    one seed, as it is or changed
//   culvert-sim --seed 17 --minimise                    the smallest world that still fails
//   culvert-sim --prove-minimiser                       with mistakes planted in the reference
// Exit status: 0 nothing found; 1 a violation; 2 a floor not met; 3 wrong use.
#include <bit>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/sim/minimise.h"
#include "tests/sim/scenario.h"

namespace culvert::sim_test {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  uint64_t first_seed = 1;
  uint64_t seeds = 0;
  uint64_t packets = 0;
  uint64_t seconds = 0;  // no new seed is begun after so many; 0: no limit
  uint32_t jobs = 1;
  bool one = false;
  bool minimise = false;
  bool prove = false;
  Scenario scenario;
};

[[noreturn]] void usage(const std::string& what) {
  std::fprintf(stderr,
               "culvert-sim: %s\n"
               "usage: culvert-sim --seeds N [--packets P] [--jobs J] [--first-seed S] "
               "[--seconds T]\n"
               "       culvert-sim --seed N [--minimise] [--cores N] [--clients N] [--peers N]\n"
               "                   [--steps N] [--volume N] [--burst N] [--step-ms N]\n"
               "                   [--faults LIST|none|all] [--plant MISTAKE]\n"
               "       culvert-sim --prove-minimiser\n",
               what.c_str());
  std::exit(3);
}

uint64_t number(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (end == text.c_str() || *end != 0 || value < 0) usage("'" + text + "' is not a number");
  return static_cast<uint64_t>(value);
}

FaultBits faults_of(const std::string& list) {
  if (list == "none") return 0;
  if (list == "all") return (FaultBits{1} << kFaults) - 1;
  FaultBits out = 0;
  size_t from = 0;
  while (from <= list.size()) {
    const size_t comma = std::min(list.find(',', from), list.size());
    const std::string name = list.substr(from, comma - from);
    size_t f = 0;
    while (f < kFaults && name != kFaultNames[f])
      ++f;
    if (f == kFaults) usage("no fault is called '" + name + "'");
    out |= FaultBits{1} << f;
    from = comma + 1;
  }
  return out;
}

Plant plant_of(const std::string& name) {
  if (name == "permission-short") return Plant::kPermissionShort;
  if (name == "hops-kept") return Plant::kHopsKept;
  if (name == "quota-off") return Plant::kQuotaOff;
  usage("no mistake is called '" + name + "'");
}

Options parse(int argc, char** argv) {
  Options o;
  const std::vector<std::string> args(argv + 1, argv + argc);
  for (size_t i = 0; i + 1 < args.size(); ++i) {
    if (args[i] != "--seed") continue;
    o.one = true;
    o.scenario = draw_scenario(number(args[i + 1]));
  }
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& a = args[i];
    if (a == "--minimise") {
      o.minimise = true;
      continue;
    }
    if (a == "--prove-minimiser") {
      o.prove = true;
      continue;
    }
    if (i + 1 == args.size()) usage("'" + a + "' is no option, or wants a value");
    const std::string& v = args[++i];
    Scenario& s = o.scenario;
    const std::pair<const char*, uint32_t*> sizes[] = {
        {"--cores", &s.cores},         {"--clients", &s.clients}, {"--peers", &s.peers},
        {"--steps", &s.steps},         {"--volume", &s.volume},   {"--burst", &s.burst},
        {"--step-ms", &s.max_step_ms}, {"--jobs", &o.jobs}};
    const std::pair<const char*, uint64_t*> counts[] = {{"--first-seed", &o.first_seed},
                                                        {"--seeds", &o.seeds},
                                                        {"--packets", &o.packets},
                                                        {"--seconds", &o.seconds}};
    bool known = a == "--seed";
    for (const auto& [name, to] : sizes) {
      if (a == name) *to = static_cast<uint32_t>(number(v)), known = true;
    }
    for (const auto& [name, to] : counts) {
      if (a == name) *to = number(v), known = true;
    }
    if (a == "--faults") s.faults = faults_of(v), known = true;
    if (a == "--plant") s.plant = plant_of(v), known = true;
    if (!known) usage("'" + a + "' is no option");
  }
  if (!o.one && o.seeds == 0 && !o.prove) usage("--seeds, --seed or --prove-minimiser is missing");
  return o;
}

// ------------------------------------------------------------------ one seed

void report(const Scenario& scenario, const Result& result) {
  std::printf("seed %llu, step %u: %s\n  %s\n", static_cast<unsigned long long>(scenario.seed),
              result.step, result.violation.c_str(), command_of(scenario).c_str());
  std::fflush(stdout);
}

Minimised minimise_loudly(const Scenario& scenario) {
  const Minimised m = minimise(scenario, [](const Scenario&, const Result&) {});
  std::printf("the smallest after %u runs:\n", m.runs);
  report(m.scenario, m.result);
  return m;
}

int run_one(const Options& o) {
  Coverage coverage;
  const Result result = run_scenario(o.scenario, coverage);
  if (result.ok) {
    std::printf("seed %llu: no violation, %llu packets in %.0f virtual seconds\n  %s\n",
                static_cast<unsigned long long>(o.scenario.seed),
                static_cast<unsigned long long>(coverage.packets),
                static_cast<double>(coverage.virtual_us) / 1e6, command_of(o.scenario).c_str());
    return 0;
  }
  report(o.scenario, result);
  if (o.minimise) (void)minimise_loudly(o.scenario);
  return 1;
}

// A mistake planted in the reference must be found and become small: at most this much of it left.
int prove_minimiser() {
  constexpr uint32_t kFewSteps = 30;
  for (const Plant plant : {Plant::kPermissionShort, Plant::kHopsKept, Plant::kQuotaOff}) {
    bool proven = false;
    for (uint64_t seed = 1; seed <= 200 && !proven; ++seed) {
      Scenario scenario = draw_scenario(seed);
      scenario.plant = plant;
      if (plant == Plant::kPermissionShort) scenario.max_step_ms = 20'000;
      if (plant == Plant::kQuotaOff) scenario.faults |= bit(Fault::k_quota);
      Coverage coverage;
      const Result result = run_scenario(scenario, coverage);
      if (result.ok) continue;
      report(scenario, result);
      const Minimised m = minimise_loudly(scenario);
      // It replays exactly, and the mistake is what was found.
      const Result again = run_scenario(m.scenario, coverage);
      Scenario sound = m.scenario;
      sound.plant = Plant::kNone;
      proven = again.violation == m.result.violation && again.step == m.result.step &&
               m.scenario.steps <= kFewSteps && m.scenario.steps < scenario.steps &&
               std::popcount(m.scenario.faults) <= 1 && run_scenario(sound, coverage).ok;
    }
    if (!proven) {
      std::printf("a planted mistake was not found and made small\n");
      return 1;
    }
  }
  return 0;
}

// ------------------------------------------------------------------ campaign

class Campaign {
 public:
  explicit Campaign(const Options& o) : options_(o), next_(o.first_seed), start_(Clock::now()) {}

  int run() {
    std::vector<std::thread> threads;
    for (uint32_t j = 0; j < std::max<uint32_t>(1, options_.jobs); ++j)
      threads.emplace_back([this] { work(); });
    for (std::thread& t : threads)
      t.join();
    progress(true);
    const auto table = floors(sum_);
    std::printf("%s", print_floors(table, true).c_str());
    if (failed_ != 0) {
      std::printf("%llu of %llu seeds with a violation\n", static_cast<unsigned long long>(failed_),
                  static_cast<unsigned long long>(sum_.seeds + failed_));
      return 1;
    }
    const std::string below = print_floors(table, false);
    if (below.empty()) return 0;
    std::printf("below their floors:\n%s", below.c_str());
    return 2;
  }

 private:
  [[nodiscard]] double elapsed() const {
    return std::chrono::duration<double>(Clock::now() - start_).count();
  }
  [[nodiscard]] bool more() {
    constexpr uint64_t kEnoughFailures = 20;
    if (failed_ >= kEnoughFailures) return false;
    if (options_.seconds != 0 && elapsed() >= static_cast<double>(options_.seconds)) return false;
    return next_ - options_.first_seed < options_.seeds || sum_.packets < options_.packets;
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (more()) {
      const uint64_t seed = next_++;
      lock.unlock();
      Coverage coverage;
      const Scenario scenario = draw_scenario(seed);
      const Result result = run_scenario(scenario, coverage);
      lock.lock();
      sum_.add(coverage);
      if (!result.ok) {
        ++failed_;
        report(scenario, result);
      }
      progress(false);
    }
  }

  void progress(bool last) {
    const double seconds = elapsed();
    if (!last && seconds < next_report_) return;
    next_report_ = seconds + 10;
    const double minutes = seconds / 60;
    const double hours = static_cast<double>(sum_.virtual_us) / 3.6e9;
    std::printf(
        "%.0f s: %llu seeds, %.3g packets (%.3g a minute), %.1f simulated hours (%.1f a "
        "minute), %llu violations\n",
        seconds, static_cast<unsigned long long>(sum_.seeds), static_cast<double>(sum_.packets),
        static_cast<double>(sum_.packets) / minutes, hours, hours / minutes,
        static_cast<unsigned long long>(failed_));
    std::fflush(stdout);
  }

  const Options& options_;
  std::mutex mutex_;
  uint64_t next_;
  Clock::time_point start_;
  double next_report_ = 10;
  Coverage sum_;
  uint64_t failed_ = 0;
};

int run(int argc, char** argv) {
  const Options o = parse(argc, argv);
  if (o.prove) return prove_minimiser();
  if (o.one) return run_one(o);
  return Campaign(o).run();
}

}  // namespace
}  // namespace culvert::sim_test

int main(int argc, char** argv) {
  return culvert::sim_test::run(argc, argv);
}
