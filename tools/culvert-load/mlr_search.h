// Multiple Loss Ratio search (RFC 9971) for the highest rate that a server relays within a loss
// ratio: the decision which rate to try next and for how long, and what the trials say. It sends
// nothing; the caller runs what next() asks for and hands the outcome to add(). One owner,
// deterministic.
//
// Trials grow: phases with ever longer trials and ever narrower bounds, each of which begins where
// the one before ended, so that the long trials are spent near the answer. A rate is a lower bound
// when even the trials not run could not push the share of lossy time over the exceed ratio, an
// upper bound when even lossless ones could not pull it under (RFC 9971, load classification).
// Several goals share all trials. Against RFC 2544: loss may be allowed, one unlucky trial does not
// decide, and the result is conditional on the stated durations.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace culvert::load {

struct SearchGoal {
  double loss_ratio = 0;      // a trial with more is a lossy one
  double exceed_ratio = 0.5;  // share of the time that may be lossy, below 1
  double trial_s = 1;         // full-length trials
  double duration_sum_s = 1;  // of full-length trials that decide on one rate
  double width = 0.01;        // (upper - lower) / upper at most
};

struct SearchTrial {
  double rate = 0;  // intended
  double duration_s = 0;
  double loss_ratio = 0;     // of what was intended, what the generator did not send included
  bool underloaded = false;  // the generator, not the server, failed
};

enum class Bound : uint8_t { kUndecided, kLower, kUpper };

struct GoalOutcome {
  SearchGoal goal;
  std::optional<double> lower;        // relevant bounds; no lower: even the least rate was too much
  std::optional<double> upper;        // none: even the highest rate was relayed
  double conditional_throughput = 0;  // what of `lower` arrived, 0 without it
  bool reached = false;               // the bounds are as close as asked
  bool generator_limited = false;     // `upper` is where the generator gave out
};

class MlrSearch {
 public:
  struct Limits {
    double min_rate = 0;
    double max_rate = 0;
    double initial_trial_s = 0;
  };
  struct Request {
    double rate = 0;
    double duration_s = 0;
    size_t goal = 0;   // for which it is run
    size_t phase = 0;  // of that goal, from 0
  };

  // Goals in ascending order of their loss ratio.
  MlrSearch(const Limits& limits, const std::vector<SearchGoal>& goals);

  // nullopt: every goal is reached.
  [[nodiscard]] std::optional<Request> next();
  void add(const SearchTrial& trial);
  [[nodiscard]] std::vector<GoalOutcome> outcomes() const;
  [[nodiscard]] size_t phases(size_t goal) const { return phases_[goal].size(); }

  // RFC 9971: what the trials at one rate say for a goal, and the loss ratio that its conditional
  // throughput is to be reduced by.
  [[nodiscard]] static Bound classify(const SearchGoal& goal,
                                      const std::vector<SearchTrial>& trials);
  [[nodiscard]] static double quantile_loss(const SearchGoal& goal,
                                            const std::vector<SearchTrial>& trials);

 private:
  struct Bounds {
    std::optional<double> lower;
    std::optional<double> upper;
  };
  [[nodiscard]] Bounds bounds_for(const SearchGoal& goal) const;
  [[nodiscard]] double next_rate(const SearchGoal& goal, const Bounds& now,
                                 const Bounds& hint) const;
  [[nodiscard]] bool close_enough(const SearchGoal& goal, const Bounds& now) const;
  [[nodiscard]] double clamp(double rate) const;

  Limits limits_;
  std::vector<SearchGoal> goals_;
  std::vector<std::vector<SearchGoal>> phases_;        // each goal's, the last of which is the goal
  std::map<double, std::vector<SearchTrial>> trials_;  // by rate
  std::optional<double> estimate_;
};

}  // namespace culvert::load
