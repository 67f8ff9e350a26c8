// The load tool's instruments: the histograms against sorted samples, the sequence tracker against
// an obvious slow one, the schedule against sums done step by step, the zero-loss search against
// servers whose limit is known, and the rule that tells when the generator was the limit.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "tools/culvert-load/address_set.h"
#include "tools/culvert-load/histogram.h"
#include "tools/culvert-load/mlr_search.h"
#include "tools/culvert-load/port_table.h"
#include "tools/culvert-load/run.h"
#include "tools/culvert-load/schedule.h"
#include "tools/culvert-load/sequence.h"

namespace culvert::load {
namespace {

constexpr double kQuantiles[] = {0.0, 0.001, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0};

template <class Kind = Histogram>
void expect_quantiles_hold(std::vector<uint64_t> values) {
  Kind histogram;
  for (const auto value : values)
    histogram.record(value);
  std::sort(values.begin(), values.end());
  for (const double q : kQuantiles) {
    const auto wanted = std::ceil(q * static_cast<double>(values.size()));
    const size_t rank = std::max<size_t>(1, static_cast<size_t>(wanted));
    const uint64_t exact = values[rank - 1];
    const uint64_t got = histogram.quantile(q);
    EXPECT_GE(got, exact) << "q " << q;
    // One bucket: none below 2^SubBits ns, one part in 2^SubBits of the value above.
    EXPECT_LE(got - exact, exact >> Kind::kSubBits) << "q " << q << " exact " << exact;
  }
  EXPECT_EQ(histogram.max(), values.back());
  EXPECT_EQ(histogram.min(), values.front());
  EXPECT_EQ(histogram.total(), values.size());
}

TEST(LoadHistogram, every_quantile_is_within_one_bucket_of_the_exact_one) {
  const auto seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 200; ++round) {
    std::vector<uint64_t> values(1 + random() % 5000);
    const unsigned bits = 1 + static_cast<unsigned>(random() % Histogram::kMaxBits);
    // Spread over the powers of two, as latencies are: a few large ones above many small.
    for (auto& value : values)
      value = random() >> (64 - 1 - random() % bits);
    expect_quantiles_hold(values);
    expect_quantiles_hold<CoarseHistogram>(values);
  }
}

TEST(LoadHistogram, the_edges_of_every_power_of_two_are_told_apart) {
  for (unsigned bits = 1; bits < Histogram::kMaxBits; ++bits) {
    const uint64_t edge = uint64_t{1} << bits;
    expect_quantiles_hold({edge - 1});
    expect_quantiles_hold({edge});
    expect_quantiles_hold({edge - 1, edge, edge + 1});
  }
}

TEST(LoadHistogram, at_one_millisecond_the_resolution_is_one_microsecond) {
  Histogram histogram;
  histogram.record(1'000'000);
  histogram.record(1'002'000);
  EXPECT_LT(histogram.quantile(0.5), 1'001'000u);
  EXPECT_EQ(histogram.quantile(1.0), 1'002'000u);
}

TEST(LoadHistogram, values_beyond_its_range_count_in_the_last_bucket) {
  Histogram histogram;
  histogram.record(UINT64_MAX);
  EXPECT_EQ(histogram.total(), 1u);
  EXPECT_EQ(histogram.quantile(1.0), Histogram::kMaxValue);
}

TEST(LoadHistogram, merging_is_the_same_as_recording_all_in_one) {
  std::mt19937_64 random(7);
  Histogram parts[2];
  Histogram whole;
  for (int i = 0; i < 10000; ++i) {
    const uint64_t value = random() >> (24 + random() % 30);
    parts[i % 2].record(value);
    whole.record(value);
  }
  parts[0].merge(parts[1]);
  for (const double q : kQuantiles)
    EXPECT_EQ(parts[0].quantile(q), whole.quantile(q));
  EXPECT_EQ(parts[0].total(), whole.total());
  EXPECT_DOUBLE_EQ(parts[0].mean(), whole.mean());
}

TEST(LoadSequence, random_schedules_are_counted_as_an_obvious_tracker_counts_them) {
  const auto seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 200; ++round) {
    SequenceTracker tracker;
    std::set<uint64_t> seen;
    uint64_t highest = 0;
    bool any = false;
    uint64_t next = random() % 5;
    for (int i = 0; i < 3000; ++i) {
      uint64_t sequence = next;
      const auto dice = random() % 10;
      if (dice < 2 && any) {
        // Late or again, by less than the window.
        sequence = highest - std::min<uint64_t>(highest, random() % SequenceTracker::kWindow);
      } else if (dice == 2) {
        sequence = next += random() % (dice == 2 && random() % 50 == 0 ? 3000 : 6);
      } else {
        ++next;
      }
      const Arrival got = tracker.arrive(sequence);
      Arrival expected = Arrival::kInOrder;
      if (any && sequence <= highest)
        expected = seen.count(sequence) != 0 ? Arrival::kDuplicate : Arrival::kReordered;
      ASSERT_EQ(static_cast<int>(got), static_cast<int>(expected)) << "sequence " << sequence;
      seen.insert(sequence);
      highest = any ? std::max(highest, sequence) : sequence;
      any = true;
      next = std::max(next, highest + 1);
    }
  }
}

TEST(LoadSequence, one_older_than_the_window_is_late_and_not_a_duplicate) {
  SequenceTracker tracker;
  tracker.arrive(0);
  tracker.arrive(5000);
  EXPECT_EQ(tracker.arrive(0), Arrival::kReordered);
}

Result unpaced_result(uint64_t sent, uint64_t unique) {
  Result result;
  result.options.mode = Mode::kRelay;
  result.tally.flows[0].sent = sent;
  result.tally.flows[0].unique = unique;
  result.tally.flows[0].latency.record(50'000);
  return result;
}

TEST(LoadLimits, unpaced_without_loss_or_queue_means_that_the_generator_was_the_limit) {
  auto all_arrived = unpaced_result(100'000, 100'000);
  judge_limits(all_arrived);
  EXPECT_EQ(all_arrived.limits.size(), 1u);
  auto overrun = unpaced_result(100'000, 60'000);
  judge_limits(overrun);
  EXPECT_TRUE(overrun.limits.empty());
}

TEST(LoadLimits, a_paced_run_that_fell_behind_its_schedule_is_marked) {
  auto result = unpaced_result(90'000, 90'000);
  result.tally.trial.rate = 10'000;
  result.tally.scheduled = 100'000;
  judge_limits(result);
  ASSERT_EQ(result.limits.size(), 1u);
  EXPECT_TRUE(result.underloaded);
  result.limits.clear();
  result.underloaded = false;
  result.tally.scheduled = 90'000;
  judge_limits(result);
  EXPECT_TRUE(result.limits.empty());
  EXPECT_FALSE(result.underloaded);
}

TEST(LoadLimits, datagrams_lost_in_its_own_sockets_are_its_own_fault) {
  auto result = unpaced_result(100'000, 60'000);
  result.tally.rx_datagrams = 60'000;
  result.tally.receive_drops = 1000;
  judge_limits(result);
  EXPECT_EQ(result.limits.size(), 1u);
}

TEST(LoadTally, merging_keeps_every_count_and_every_kind_of_error) {
  Tally a;
  Tally b;
  a.count_error("508");
  b.count_error("508");
  b.count_error("508");
  b.count_error("timeout");
  b.flows[1].unique = 5;
  b.strange = 2;
  a.merge(b);
  EXPECT_EQ(a.errors, 4u);
  EXPECT_EQ(a.error_kinds[0], (std::pair<std::string, uint64_t>{"508", 3}));
  EXPECT_EQ(a.error_kinds[1], (std::pair<std::string, uint64_t>{"timeout", 1}));
  EXPECT_EQ(a.flows[1].unique, 5u);
  EXPECT_EQ(a.strange, 2u);
}

TEST(LoadTally, datagrams_count_in_the_second_in_which_they_were_due) {
  Tally tally;
  tally.trial = {1000, 1000, 1000 + 3 * kSecond, 0, 0};
  tally.count_sent(kToPeerIndex, 1000, 8);
  tally.count_sent(kToClientIndex, 999 + kSecond);
  tally.count_sent(kToPeerIndex, 1000 + 2 * kSecond, 5);
  tally.count_sent(kToPeerIndex, 999);                   // before the window
  tally.count_sent(kToPeerIndex, 1000 + 3 * kSecond);    // after it
  tally.count_arrival(kToPeerIndex, 1000, 5 * kSecond);  // late, but it was due in the first
  ASSERT_EQ(tally.seconds.size(), 3u);
  EXPECT_EQ(tally.seconds[0].sent, 9u);
  EXPECT_EQ(tally.seconds[0].unique, 1u);
  EXPECT_EQ(tally.seconds[1].sent, 0u);
  EXPECT_EQ(tally.seconds[2].sent, 5u);
  EXPECT_EQ(tally.flows[kToPeerIndex].sent, 13u);
  EXPECT_EQ(tally.flows[kToClientIndex].sent, 1u);
  EXPECT_EQ(tally.flows[kToPeerIndex].latency.max(), 5 * kSecond - 1000);
}

constexpr Trial kTrial{1'000, 1'000 + kSecond, 1'000 + 5 * kSecond, 10'000, 0};

TEST(LoadSchedule, a_steady_rate_is_exact_to_the_event) {
  const Schedule schedule(kTrial, 1, 1, 0);
  EXPECT_EQ(schedule.due(0), kTrial.start);
  EXPECT_EQ(schedule.due(10'000), kTrial.measure_from);
  EXPECT_EQ(schedule.in_window(), 40'000u);
  const Schedule shared(kTrial, 4, 8, 0);
  EXPECT_EQ(shared.in_window(), 10'000u);
}

TEST(LoadSchedule, a_ramp_goes_evenly_from_one_rate_to_the_other) {
  for (const double to : {50'000.0, 1'000.0}) {
    SCOPED_TRACE(to);
    Trial trial = kTrial;
    trial.rate_to = to;
    const Schedule schedule(trial, 1, 1, 0);
    // The area under the line, in the whole window and in its second quarter.
    EXPECT_NEAR(static_cast<double>(schedule.in_window()), (10'000 + to) / 2 * 4, 2);
    uint64_t second_quarter = 0;
    uint64_t last = 0;
    for (uint64_t n = 0; schedule.due(n) < trial.measure_to; ++n) {
      const uint64_t due = schedule.due(n);
      ASSERT_GE(due, last) << n;
      last = due;
      second_quarter +=
          due >= trial.measure_from + kSecond && due < trial.measure_from + 2 * kSecond;
    }
    EXPECT_NEAR(static_cast<double>(second_quarter), 10'000 + (to - 10'000) * 1.5 / 4, 2);
    // Before the window the rate is its first.
    EXPECT_NEAR(static_cast<double>(schedule.due(10'000)), static_cast<double>(trial.measure_from),
                2);
  }
}

TEST(LoadSchedule, with_a_tick_nothing_is_due_between_ticks_and_nothing_early) {
  const Schedule exact(kTrial, 1, 1, 0);
  const Schedule ticking(kTrial, 1, 1, 1'000'000);
  for (uint64_t n = 0; n < 30'000; n += 7) {
    const uint64_t due = ticking.due(n);
    EXPECT_EQ((due - kTrial.start) % 1'000'000, 0u);
    EXPECT_GE(due, exact.due(n));
    EXPECT_LT(due, exact.due(n) + 1'000'000);
  }
}

const SearchGoal kZeroLoss{0, 0.5, 2, 10, 0.02};
const SearchGoal kHalfPercent{0.005, 0.5, 2, 10, 0.02};

// Runs a search to its end against a server that loses what is above its limit.
struct Searched {
  std::vector<GoalOutcome> outcomes;
  std::vector<SearchTrial> trials;
};
template <class LossAt>
Searched run_search(const MlrSearch::Limits& limits, const std::vector<SearchGoal>& goals,
                    LossAt&& loss_at) {
  MlrSearch search(limits, goals);
  Searched out;
  while (const auto request = search.next()) {
    EXPECT_GE(request->rate, limits.min_rate);
    EXPECT_LE(request->rate, limits.max_rate);
    SearchTrial trial{request->rate, request->duration_s, loss_at(request->rate), false};
    search.add(trial);
    out.trials.push_back(trial);
    if (out.trials.size() > 400) {
      ADD_FAILURE() << "the search does not end";
      break;
    }
  }
  out.outcomes = search.outcomes();
  return out;
}

double over(double rate, double limit) {
  return rate > limit ? 1 - limit / rate : 0;
}

TEST(LoadSearch, a_known_limit_is_found_within_the_width_for_any_limit) {
  const auto seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 300; ++round) {
    const double limit =
        std::exp(std::uniform_real_distribution(std::log(1'100.0), std::log(900'000.0))(random));
    SCOPED_TRACE(limit);
    const auto found = run_search({1'000, 1'000'000, 0.5}, {kZeroLoss, kHalfPercent},
                                  [&](double rate) { return over(rate, limit); });
    const auto& zero = found.outcomes[0];
    ASSERT_TRUE(zero.reached && zero.lower && zero.upper);
    EXPECT_LE(*zero.lower, limit);
    EXPECT_GE(*zero.upper, limit);
    EXPECT_LE(*zero.upper - *zero.lower, std::max(1.0, 0.02 * *zero.upper));
    EXPECT_EQ(zero.conditional_throughput, *zero.lower);
    // With 0.5 % allowed the bound is limit / 0.995, and what of it arrives is the limit.
    const auto& partial = found.outcomes[1];
    ASSERT_TRUE(partial.reached && partial.lower && partial.upper);
    EXPECT_LE(*partial.lower, limit / 0.995 + 1);
    EXPECT_GE(*partial.upper, limit / 0.995 - 1);
    EXPECT_LE(partial.conditional_throughput, limit + 1);
    EXPECT_LT(found.trials.size(), 60u);
    EXPECT_LE(found.trials.front().duration_s, 0.5 + 1e-9);
  }
}

TEST(LoadSearch, one_trial_in_four_spoiled_by_chance_does_not_move_the_answer_far) {
  const auto seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  double sum = 0;
  for (int round = 0; round < 100; ++round) {
    const auto found = run_search({1'000, 200'000, 0.5}, {kZeroLoss}, [&](double rate) {
      return std::max(over(rate, 50'000), random() % 4 == 0 ? 1e-4 : 0.0);
    });
    ASSERT_TRUE(found.outcomes[0].lower);
    EXPECT_LE(*found.outcomes[0].lower, 50'000);
    sum += *found.outcomes[0].lower;
  }
  // A search in which one trial decides would end far below in most rounds.
  EXPECT_GT(sum / 100, 40'000);
}

TEST(LoadSearch, a_server_better_than_the_highest_rate_has_no_upper_bound) {
  const auto found = run_search({1'000, 20'000, 0.5}, {kZeroLoss}, [](double) { return 0.0; });
  EXPECT_TRUE(found.outcomes[0].reached);
  EXPECT_EQ(found.outcomes[0].lower, 20'000);
  EXPECT_FALSE(found.outcomes[0].upper);
}

TEST(LoadSearch, a_server_that_always_loses_has_no_lower_bound) {
  const auto found = run_search({1'000, 20'000, 0.5}, {kZeroLoss}, [](double) { return 0.3; });
  EXPECT_TRUE(found.outcomes[0].reached);
  EXPECT_FALSE(found.outcomes[0].lower);
  EXPECT_EQ(found.outcomes[0].upper, 1'000);
  EXPECT_EQ(found.outcomes[0].conditional_throughput, 0);
}

TEST(LoadSearch, loads_are_classified_as_rfc_9971_does) {
  const SearchGoal goal{0, 0.5, 1, 4, 0.01};
  const auto says = [&](std::vector<double> losses, double seconds) {
    std::vector<SearchTrial> trials;
    for (const double loss : losses)
      trials.push_back({100, seconds, loss, false});
    return MlrSearch::classify(goal, trials);
  };
  EXPECT_EQ(says({}, 1), Bound::kUndecided);
  EXPECT_EQ(says({0}, 1), Bound::kUndecided);         // three seconds may still turn out lossy
  EXPECT_EQ(says({0, 0}, 1), Bound::kLower);          // even two lossy ones are half
  EXPECT_EQ(says({0.1, 0.1}, 1), Bound::kUndecided);  // two good ones would make it half
  EXPECT_EQ(says({0.1, 0.1, 0.1}, 1), Bound::kUpper);
  EXPECT_EQ(says({0.1, 0, 0.1, 0}, 1), Bound::kLower);
  // Short trials never prove a lower bound, but enough lossy ones an upper one.
  EXPECT_EQ(says({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0.5), Bound::kUndecided);
  EXPECT_EQ(says({0.1, 0.1, 0.1, 0.1, 0.1}, 0.5), Bound::kUpper);
}

TEST(LoadSearch, the_conditional_throughput_is_reduced_by_the_loss_at_the_exceed_ratio) {
  const SearchGoal goal{0.01, 0.5, 1, 4, 0.01};
  std::vector<SearchTrial> trials;
  for (const double loss : {0.02, 0.001, 0.0, 0.004})
    trials.push_back({100, 1, loss, false});
  // Half of the time, two of four seconds, is the worse half: the other ends at 0.001.
  EXPECT_DOUBLE_EQ(MlrSearch::quantile_loss(goal, trials), 0.001);
  trials.resize(1);
  EXPECT_DOUBLE_EQ(MlrSearch::quantile_loss(goal, trials), 1);  // too little time to tell
}

TEST(LoadSearch, an_upper_bound_made_by_the_generator_is_marked) {
  MlrSearch search({1'000, 100'000, 0.5}, {kZeroLoss});
  while (const auto request = search.next()) {
    const double loss = over(request->rate, 30'000);
    search.add({request->rate, request->duration_s, loss, loss > 0});
  }
  EXPECT_TRUE(search.outcomes()[0].generator_limited);
}

std::string name_of_range(const char* text) {
  const auto range = AddressRange::parse(text);
  if (!range) return "none";
  return range->at(0).to_string() + " " + range->at(range->count - 1).to_string() + " " +
         std::to_string(range->count);
}

TEST(LoadAddresses, ranges_and_networks_hold_their_hosts) {
  EXPECT_EQ(name_of_range("192.0.2.7"), "192.0.2.7 192.0.2.7 1");
  EXPECT_EQ(name_of_range("192.0.2.250-192.0.3.5"), "192.0.2.250 192.0.3.5 12");
  EXPECT_EQ(name_of_range("192.0.2.77/24"), "192.0.2.1 192.0.2.254 254");
  EXPECT_EQ(name_of_range("192.0.2.4/31"), "192.0.2.4 192.0.2.5 2");
  EXPECT_EQ(name_of_range("192.0.2.4/32"), "192.0.2.4 192.0.2.4 1");
  EXPECT_EQ(name_of_range("10.0.0.0/8"), "10.0.0.1 10.255.255.254 16777214");
  EXPECT_EQ(name_of_range("2001:db8::/112"), "2001:db8::1 2001:db8::ffff 65535");
  EXPECT_EQ(name_of_range("2001:db8::ffff:ffff:ffff:fffe-2001:db8:0:1::1"),
            "2001:db8::ffff:ffff:ffff:fffe 2001:db8:0:1::1 4");
  for (const char* text : {"", "192.0.2.9-192.0.2.8", "192.0.2.1-2001:db8::1", "0.0.0.0/7",
                           "2001:db8::/64", "192.0.2.0/33", "192.0.2.0/x", "192.0.2.0/"})
    EXPECT_EQ(name_of_range(text), "none") << text;
}

TEST(LoadAddresses, a_set_takes_turns_and_knows_its_own) {
  AddressSet set;
  set.add(*AddressRange::parse("192.0.2.0/30"));
  set.add(*AddressRange::parse("198.51.100.9"));
  EXPECT_EQ(set.size(), 3u);
  const char* const turns[] = {"192.0.2.1", "192.0.2.2", "198.51.100.9", "192.0.2.1"};
  for (size_t i = 0; i < std::size(turns); ++i)
    EXPECT_EQ(set.at(i).to_string(), turns[i]);
  EXPECT_TRUE(set.contains(*IpAddress::parse("198.51.100.9")));
  for (const char* text : {"192.0.2.0", "192.0.2.3", "198.51.100.8", "::ffff:192.0.2.1"})
    EXPECT_FALSE(set.contains(*IpAddress::parse(text))) << text;
}

TEST(LoadPortTable, finds_what_a_plain_map_finds_while_endpoints_come_and_go) {
  const auto seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  std::vector<TransportAddress> keys(4096);
  for (size_t i = 0; i < keys.size(); ++i)
    keys[i] = {IpAddress::v4(0x0a000000u + static_cast<uint32_t>(i % 64)),
               static_cast<uint16_t>(10'000 + i / 64)};
  const auto key_of = [&](uint32_t value) -> const TransportAddress& { return keys[value]; };
  PortTable table;
  std::set<uint32_t> inside;
  for (int step = 0; step < 200'000; ++step) {
    const auto value = static_cast<uint32_t>(random() % keys.size());
    if (inside.insert(value).second) {
      table.put(value, key_of);
    } else if (random() % 2 == 0) {
      table.remove(keys[value], key_of);
      inside.erase(value);
    }
    const auto other = static_cast<uint32_t>(random() % keys.size());
    ASSERT_EQ(table.find(keys[other], key_of), inside.contains(other) ? other : PortTable::kNone);
  }
  for (uint32_t value = 0; value < keys.size(); ++value)
    ASSERT_EQ(table.find(keys[value], key_of), inside.contains(value) ? value : PortTable::kNone);
}

}  // namespace
}  // namespace culvert::load
