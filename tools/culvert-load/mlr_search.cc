#include "tools/culvert-load/mlr_search.h"

#include <algorithm>
#include <cmath>

namespace culvert::load {
namespace {

constexpr double kGrowth = 4;  // of the trials from one phase to the next, at most
constexpr double kSmall = 1e-9;

std::vector<SearchGoal> phases_of(const SearchGoal& goal, double initial_s) {
  const double ratio = std::max(1.0, goal.trial_s / initial_s);
  const auto before = static_cast<size_t>(std::ceil(std::log(ratio) / std::log(kGrowth) - kSmall));
  // Also when the trials do not grow: one short round before the sum of them is spent.
  const size_t shorter = std::max<size_t>(before, goal.duration_sum_s > goal.trial_s ? 1 : 0);
  std::vector<SearchGoal> out;
  for (size_t i = 0; i < shorter; ++i) {
    SearchGoal phase = goal;
    phase.trial_s =
        goal.trial_s / std::pow(ratio, 1 - static_cast<double>(i) / static_cast<double>(shorter));
    phase.duration_sum_s = phase.trial_s;
    phase.width = std::min(0.5, goal.width * static_cast<double>(uint64_t{1} << (shorter - i)));
    out.push_back(phase);
  }
  out.push_back(goal);
  return out;
}

struct Sums {
  double full_good = 0;
  double full_bad = 0;
  double short_good = 0;
  double short_bad = 0;
};

}  // namespace

Bound MlrSearch::classify(const SearchGoal& goal, const std::vector<SearchTrial>& trials) {
  Sums s;
  for (const auto& trial : trials) {
    const bool full = trial.duration_s >= goal.trial_s - kSmall;
    const bool good = trial.loss_ratio <= goal.loss_ratio;
    (full ? (good ? s.full_good : s.full_bad) : (good ? s.short_good : s.short_bad)) +=
        trial.duration_s;
  }
  // Short trials only count against a rate, and only what exceeds their own share of good ones.
  const double balance = s.short_good * goal.exceed_ratio / (1 - goal.exceed_ratio);
  const double bad = s.full_bad + std::max(0.0, s.short_bad - balance);
  const double whole = std::max(s.full_good + bad, goal.duration_sum_s);
  const double allowed = whole * goal.exceed_ratio + kSmall;
  const bool lower_at_worst = whole - s.full_good <= allowed;
  const bool lower_at_best = bad <= allowed;
  if (lower_at_worst != lower_at_best) return Bound::kUndecided;
  return lower_at_worst ? Bound::kLower : Bound::kUpper;
}

double MlrSearch::quantile_loss(const SearchGoal& goal, const std::vector<SearchTrial>& trials) {
  std::vector<SearchTrial> full;
  double sum = 0;
  for (const auto& trial : trials) {
    if (trial.duration_s < goal.trial_s - kSmall) continue;
    full.push_back(trial);
    sum += trial.duration_s;
  }
  std::sort(full.begin(), full.end(),
            [](const auto& a, const auto& b) { return a.loss_ratio < b.loss_ratio; });
  double remaining = std::max(sum, goal.duration_sum_s) * (1 - goal.exceed_ratio) - kSmall;
  double loss = 1;
  for (size_t i = 0; i < full.size() && (i == 0 || remaining > 0); ++i) {
    loss = full[i].loss_ratio;
    remaining -= full[i].duration_s;
  }
  return remaining > 0 ? 1 : loss;
}

MlrSearch::MlrSearch(const Limits& limits, const std::vector<SearchGoal>& goals)
    : limits_(limits), goals_(goals) {
  for (const auto& goal : goals_)
    phases_.push_back(phases_of(goal, limits.initial_trial_s));
}

MlrSearch::Bounds MlrSearch::bounds_for(const SearchGoal& goal) const {
  Bounds out;
  for (const auto& [rate, trials] : trials_) {
    const Bound bound = classify(goal, trials);
    if (bound == Bound::kLower) out.lower = rate;
    // The smallest upper bound counts; a lower one beyond it is not relevant.
    if (bound != Bound::kUpper) continue;
    out.upper = rate;
    break;
  }
  return out;
}

double MlrSearch::clamp(double rate) const {
  return std::clamp(std::round(rate), limits_.min_rate, limits_.max_rate);
}

bool MlrSearch::close_enough(const SearchGoal& goal, const Bounds& now) const {
  if (now.lower && *now.lower >= limits_.max_rate) return true;
  if (now.upper && *now.upper <= limits_.min_rate) return true;
  if (!now.lower || !now.upper) return false;
  // Rates are whole: neighbours cannot be brought closer.
  return *now.upper - *now.lower <= std::max(1.0, goal.width * *now.upper);
}

// Inside known bounds the middle, in logarithms; else outwards from what the phase before found,
// in steps that double.
double MlrSearch::next_rate(const SearchGoal& goal, const Bounds& now, const Bounds& hint) const {
  if (now.lower && now.upper) {
    const double middle = std::round(std::sqrt(*now.lower * *now.upper));
    return std::clamp(middle, *now.lower + 1, *now.upper - 1);
  }
  if (!now.lower && !now.upper) return clamp(hint.lower ? *hint.lower : limits_.max_rate);
  if (now.lower) {
    if (hint.upper && *hint.upper > *now.lower) return clamp(*hint.upper);
    // How far the last steps went: twice as far now.
    const double from = hint.lower.value_or(*now.lower);
    const double step = std::max(*now.lower - from, *now.lower * goal.width);
    return clamp(*now.lower + 2 * step);
  }
  if (hint.lower && *hint.lower < *now.upper) return clamp(*hint.lower);
  const double from = std::max(hint.lower.value_or(*now.upper), *now.upper);
  const double step = std::max(from - *now.upper, *now.upper * goal.width);
  return clamp(std::max(*now.upper - 2 * step, *now.upper / 4));
}

std::optional<MlrSearch::Request> MlrSearch::next() {
  Bounds hint{estimate_, std::nullopt};
  for (size_t g = 0; g < goals_.size(); ++g) {
    for (size_t p = 0; p < phases_[g].size(); ++p) {
      const SearchGoal& phase = phases_[g][p];
      const Bounds now = bounds_for(phase);
      if (close_enough(phase, now)) {
        hint = now;
        continue;
      }
      return Request{next_rate(phase, now, hint), phase.trial_s, g, p};
    }
  }
  return std::nullopt;
}

void MlrSearch::add(const SearchTrial& trial) {
  // What came of the very first trial, at the highest rate, tells about where to look.
  if (trials_.empty()) estimate_ = clamp(trial.rate * (1 - trial.loss_ratio));
  trials_[trial.rate].push_back(trial);
}

std::vector<GoalOutcome> MlrSearch::outcomes() const {
  std::vector<GoalOutcome> out;
  for (const auto& goal : goals_) {
    const Bounds bounds = bounds_for(goal);
    GoalOutcome outcome{goal, bounds.lower, bounds.upper, 0, close_enough(goal, bounds), false};
    if (bounds.lower)
      outcome.conditional_throughput =
          *bounds.lower * (1 - quantile_loss(goal, trials_.at(*bounds.lower)));
    if (bounds.upper)
      for (const auto& trial : trials_.at(*bounds.upper))
        outcome.generator_limited |= trial.underloaded && trial.loss_ratio > goal.loss_ratio;
    out.push_back(outcome);
  }
  return out;
}

}  // namespace culvert::load
