// Cycles per packet of the packet path: each stage, process() alone, and frame + process + frame,
// for IPv4 ChannelData to UDP with random flows, policers and counters on. Beside it the flow
// table's own look-up and touch in the same run, so that figures from different machines can be
// compared as ratios.
//
// Method: every burst picks random flows and writes its frames outside the timed part (a NIC would
// have put them into the cache); TSC around the timed part; several passes, the best and the median
// are printed.
#include <x86intrin.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/micro/path_fixture.h"

namespace culvert {
namespace {

struct Options {
  uint32_t payload = 200;
  uint32_t passes = 20;
  uint32_t packets = 1u << 17;  // per pass
  uint32_t burst = 64;
  bool json = false;
  uint64_t seed = 1;
};

struct Samples {
  std::vector<double> cycles;  // per packet, one a pass
  [[nodiscard]] double best() const { return *std::min_element(cycles.begin(), cycles.end()); }
  [[nodiscard]] double median() const {
    std::vector<double> sorted = cycles;
    std::nth_element(sorted.begin(), sorted.begin() + static_cast<long>(sorted.size() / 2),
                     sorted.end());
    return sorted[sorted.size() / 2];
  }
};

[[nodiscard]] uint64_t stamp() {
  unsigned aux = 0;
  _mm_lfence();
  const uint64_t t = __rdtscp(&aux);
  _mm_lfence();
  return t;
}

// Times `timed` once per burst; `prepare` fills the burst before.
struct Timer {
  const Options& options;

  template <class Prepare, class Timed>
  Samples operator()(Prepare&& prepare, Timed&& timed) const {
    Samples samples;
    for (uint32_t pass = 0; pass < options.passes; ++pass) {
      uint64_t total = 0;
      uint32_t done = 0;
      while (done < options.packets) {
        prepare();
        const uint64_t begin = stamp();
        timed();
        total += stamp() - begin;
        done += options.burst;
      }
      samples.cycles.push_back(static_cast<double>(total) / done);
    }
    return samples;
  }
};

void print(const Options& options, uint32_t flows, const char* what, const Samples& s,
           double table) {
  if (options.json) {
    std::printf("{\"flows\":%u,\"what\":\"%s\",\"best_cycles\":%.1f,\"median_cycles\":%.1f}\n",
                flows, what, s.best(), s.median());
  } else {
    std::printf("%9u  %-28s %8.1f %8.1f %8.2f\n", flows, what, s.best(), s.median(),
                s.best() / table);
  }
}

[[nodiscard]] bool measure(uint32_t flows, const Options& options) {
  PathFixture bench(flows, {options.payload, options.burst, options.seed});
  const Timer timer{options};
  const Samples table = bench.table_only(timer);
  const double base = table.best();
  print(options, flows, "table look-up + touch", table, base);
  print(options, flows, "classify", bench.classify_only(timer), base);
  print(options, flows, "hash, prefetch, resolve", bench.lookup_only(timer), base);
  print(options, flows, "forward (flow in cache)", bench.forward_only(timer), base);
  print(options, flows, "process, client to peer", bench.process_only(timer, true), base);
  print(options, flows, "process, peer to client", bench.process_only(timer, false), base);
  print(options, flows, "frame + process + frame", bench.frames(timer), base);
  print(options, flows, "stateless 401", bench.challenges(timer), base);
  if (!options.json)
    std::printf("%9u  table bytes per allocation %10.0f\n", flows, bench.bytes_per_allocation());
  if (!bench.all_relayed()) std::fprintf(stderr, "path_bench: some packets were dropped\n");
  return bench.all_relayed();
}

int usage(int code) {
  std::fputs(
      "usage: path_bench [--payload BYTES] [--passes N] [--packets N] [--burst N] [--seed N]\n"
      "                  [--json] [FLOWS ...]\n"
      "TSC cycles per packet of the packet path; FLOWS defaults to 65536 1048576.\n"
      "The last column is the ratio to the flow table's own look-up in the same run.\n",
      code == 0 ? stdout : stderr);
  return code;
}

int bench_main(int argc, char** argv) {
  Options options;
  std::vector<uint32_t> flows;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const auto number = [&](uint32_t low, uint32_t high) {
      const unsigned long v = i + 1 < argc ? std::strtoul(argv[++i], nullptr, 10) : 0;
      if (v < low || v > high) std::exit(usage(2));
      return static_cast<uint32_t>(v);
    };
    if (arg == "--help") return usage(0);
    if (arg == "--json")
      options.json = true;
    else if (arg == "--payload")
      options.payload = number(1, 1400);
    else if (arg == "--passes")
      options.passes = number(1, 1000);
    else if (arg == "--packets")
      options.packets = number(64, 1u << 26);
    else if (arg == "--burst")
      options.burst = number(1, kMaxBurst);
    else if (arg == "--seed")
      options.seed = number(0, 0xffffffff);
    else if (const unsigned long v = std::strtoul(arg.c_str(), nullptr, 10);
             v >= 64 && v <= 1u << 22)
      flows.push_back(static_cast<uint32_t>(v));
    else
      return usage(2);
  }
  if (flows.empty()) flows = {65536, 1u << 20};
  if (!options.json)
    std::printf("%9s  %-28s %8s %8s %8s\n", "flows", "TSC cycles per packet", "best", "median",
                "x table");
  bool ok = true;
  for (const uint32_t n : flows)
    ok = measure(n, options) && ok;
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace culvert

int main(int argc, char** argv) {
  return culvert::bench_main(argc, argv);
}
