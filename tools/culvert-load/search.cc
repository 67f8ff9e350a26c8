// The search mode: relay traffic at the rates that MlrSearch asks for, all trials on the same
// allocations. Every trial is a line for people; bounds and trials are the JSON.
#include <cstdio>

#include "tools/culvert-load/mlr_search.h"
#include "tools/culvert-load/report.h"
#include "tools/culvert-load/run.h"

namespace culvert::load {
namespace {

constexpr double kUs = 1e3;
constexpr double kPerCent = 100;

std::vector<SearchGoal> goals_of(const SearchOptions& o) {
  std::vector<SearchGoal> out;
  for (const double loss : o.loss_ratios)
    out.push_back({loss, o.exceed_ratio, o.final_trial_s, o.duration_sum_s, o.width});
  return out;
}

// Loss of what was intended: what the generator did not send is missing as well (RFC 9971).
SearchTrial outcome_of(const Result& r, double rate, double duration_s) {
  const auto& t = r.tally;
  const uint64_t arrived = t.flows[0].unique + t.flows[1].unique;
  const uint64_t missing = t.scheduled > arrived ? t.scheduled - arrived : 0;
  const double loss =
      t.scheduled == 0 ? 1 : static_cast<double>(missing) / static_cast<double>(t.scheduled);
  return {rate, duration_s, loss, r.underloaded};
}

Json trial_json(const SearchTrial& trial, const MlrSearch::Request& request, const Result& r) {
  Json out{{"rate", trial.rate},
           {"duration_s", trial.duration_s},
           {"goal", request.goal},
           {"phase", request.phase},
           {"loss_ratio", trial.loss_ratio},
           {"underloaded", trial.underloaded}};
  const Json all = result_json(r);
  for (const char* key : {"sent", "received", "flows", "server", "generator"})
    out[key] = all[key];
  return out;
}

Json or_null(const std::optional<double>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json goal_json(const GoalOutcome& o) {
  return {{"loss_ratio", o.goal.loss_ratio},
          {"exceed_ratio", o.goal.exceed_ratio},
          {"final_trial_s", o.goal.trial_s},
          {"duration_sum_s", o.goal.duration_sum_s},
          {"width", o.goal.width},
          {"lower", or_null(o.lower)},
          {"upper", or_null(o.upper)},
          {"conditional_throughput", o.conditional_throughput},
          {"reached", o.reached},
          {"generator_limited", o.generator_limited}};
}

void print_trial(size_t number, const SearchTrial& trial, const Result& r) {
  const auto median =
      std::max(r.tally.flows[0].latency.quantile(0.5), r.tally.flows[1].latency.quantile(0.5));
  const auto high =
      std::max(r.tally.flows[0].latency.quantile(0.99), r.tally.flows[1].latency.quantile(0.99));
  std::printf("%3zu  %10.0f/s  %6.2f s   lost %9.5f %%   p50 %.0f us  p99 %.0f us%s\n", number,
              trial.rate, trial.duration_s, kPerCent * trial.loss_ratio,
              static_cast<double>(median) / kUs, static_cast<double>(high) / kUs,
              trial.underloaded ? "   (the generator fell behind)" : "");
  std::fflush(stdout);
}

void print_outcome(const GoalOutcome& o, double max_rate) {
  std::printf("loss <= %g %%: ", kPerCent * o.goal.loss_ratio);
  if (!o.lower) {
    std::printf("none; even %.0f/s lost more\n", o.upper.value_or(0));
  } else if (!o.upper) {
    std::printf("%.0f/s and maybe more: %.0f/s is the highest rate tried\n",
                o.conditional_throughput, max_rate);
  } else {
    std::printf("%.0f/s (conditional throughput; bounds %.0f and %.0f/s)\n",
                o.conditional_throughput, *o.lower, *o.upper);
  }
  if (!o.reached) std::printf("  NOT FINISHED: the bounds are wider than asked for\n");
  if (o.generator_limited)
    std::printf(
        "  GENERATOR-LIMITED: above the lower bound the generator fell behind, not the "
        "server.\n");
}

}  // namespace

int search(const Options& options, const MakeWorker& make) {
  const SearchOptions& wanted = options.search;
  MlrSearch search({wanted.min_rate, wanted.max_rate, wanted.initial_trial_s}, goals_of(wanted));
  const bool people = !options.quiet && options.json != "-";
  Json trials = Json::array();
  Crew crew(options, make);
  if (const auto problem = crew.prepare(); !problem.empty()) {
    std::fprintf(stderr, "culvert-load: %s\n", problem.c_str());
    return 1;
  }
  const uint64_t give_up = monotonic_ns() + static_cast<uint64_t>(wanted.max_time_s * 1e9);
  while (const auto request = search.next()) {
    if (interrupted() || monotonic_ns() >= give_up) break;
    const std::string title = "trial " + std::to_string(trials.size() + 1) + ": ";
    const Result r = crew.run({request->rate, 0, options.warm_up_s, request->duration_s}, title);
    if (interrupted()) break;
    const auto trial = outcome_of(r, request->rate, request->duration_s);
    search.add(trial);
    trials.push_back(trial_json(trial, *request, r));
    if (people) print_trial(trials.size(), trial, r);
  }
  Json out = head_json(options);
  out["goals"] = Json::array();
  for (const auto& outcome : search.outcomes()) {
    if (people) print_outcome(outcome, wanted.max_rate);
    out["goals"].push_back(goal_json(outcome));
  }
  out["trials"] = trials;
  return write_json(options.json, out) ? 0 : 1;
}

}  // namespace culvert::load
