// The load tool's instruments: the histogram against sorted samples, the sequence tracker against
// an obvious slow one, and the rule that tells when the generator was the limit.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "tools/culvert-load/histogram.h"
#include "tools/culvert-load/run.h"
#include "tools/culvert-load/sequence.h"

namespace culvert::load {
namespace {

constexpr double kQuantiles[] = {0.0, 0.001, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0};

void expect_quantiles_hold(std::vector<uint64_t> values) {
  Histogram histogram;
  for (const auto value : values)
    histogram.record(value);
  std::sort(values.begin(), values.end());
  for (const double q : kQuantiles) {
    const auto wanted = std::ceil(q * static_cast<double>(values.size()));
    const size_t rank = std::max<size_t>(1, static_cast<size_t>(wanted));
    const uint64_t exact = values[rank - 1];
    const uint64_t got = histogram.quantile(q);
    EXPECT_GE(got, exact) << "q " << q;
    // One bucket: none below 1024 ns, 1/1024 of the value above.
    EXPECT_LE(got - exact, exact / 1024) << "q " << q << " exact " << exact;
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
  result.options.rate = 10'000;
  result.tally.scheduled = 100'000;
  judge_limits(result);
  ASSERT_EQ(result.limits.size(), 1u);
  result.limits.clear();
  result.tally.scheduled = 90'000;
  judge_limits(result);
  EXPECT_TRUE(result.limits.empty());
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

}  // namespace
}  // namespace culvert::load
