// Runs the hot stages a fixed number of times so that callgrind can count their instructions: the
// same stages, bursts and seeds each time, on tables that are quickly filled. Only the stage itself
// is counted, not what fills its bursts. Run by bench/regression/regression; without valgrind it
// does the work and counts nothing. Prints what was built and how many times each stage ran, as
// JSON.
#include <valgrind/callgrind.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "bench/micro/path_fixture.h"
#include "bench/micro/relay_fixture.h"

namespace culvert {
namespace {

constexpr uint32_t kFlows = 4096;
constexpr uint32_t kBurst = 32;
constexpr uint32_t kBursts = 200;    // counted, of each stage
constexpr uint32_t kWarmBursts = 8;  // before: tables, token buckets and branches settle
constexpr uint32_t kAllocations = 300;

struct Counted {
  std::string stage;
  uint32_t units;  // packets, or allocations
};

// A deliberate regression, to show that the guard sees one: idle turns per unit in one stage.
struct Spoil {
  std::string stage;
  uint32_t turns = 0;

  void apply(const std::string& running, uint32_t units) const {
    if (running != stage) return;
    for (uint32_t i = 0; i < turns * units; ++i)
      __asm__ volatile("nop");
  }
};

class Counter {
 public:
  explicit Counter(Spoil spoil) : spoil_(std::move(spoil)) {}

  // Counts what follows under this name, in units of `units` for each call.
  Counter& stage(const char* name, uint32_t calls, uint32_t units) {
    name_ = name;
    calls_ = calls;
    units_ = units;
    return *this;
  }

  template <class Prepare, class Timed>
  bool operator()(Prepare&& prepare, Timed&& timed) {
    for (uint32_t i = 0; i < kWarmBursts; ++i) {
      prepare();
      timed();
    }
    CALLGRIND_ZERO_STATS;
    for (uint32_t i = 0; i < calls_; ++i) {
      prepare();
      CALLGRIND_TOGGLE_COLLECT;
      timed();
      spoil_.apply(name_, units_);
      CALLGRIND_TOGGLE_COLLECT;
    }
    CALLGRIND_DUMP_STATS_AT(name_.c_str());
    counted_.push_back({name_, calls_ * units_});
    return true;
  }

  [[nodiscard]] const std::vector<Counted>& counted() const { return counted_; }

 private:
  Spoil spoil_;
  std::string name_;
  uint32_t calls_ = 0;
  uint32_t units_ = 0;
  std::vector<Counted> counted_;
};

[[nodiscard]] bool count_path(Counter& counter) {
  PathFixture path(kFlows, {200, kBurst, 1});
  const auto stage = [&](const char* name) -> Counter& {
    return counter.stage(name, kBursts, kBurst);
  };
  path.table_only(stage("table"));
  path.classify_only(stage("classify"));
  path.lookup_only(stage("resolve"));
  path.forward_only(stage("forward"));
  path.process_only(stage("process_to_peer"), true);
  path.process_only(stage("process_to_client"), false);
  path.parse_only(stage("frame_parse"));
  path.write_only(stage("frame_write"));
  path.frames(stage("frame_process_frame"));
  path.challenges(stage("challenge_401"));
  return path.all_relayed();
}

// Apart, so that the compiler's choices for the stages above are not changed by it.
[[gnu::noinline]] [[nodiscard]] bool count_flood(Counter& counter) {
  PathFixture path(kBurst, {200, kBurst, 1});
  path.unpaid_challenges(counter.stage("challenge_unpaid", kBursts, kBurst));
  return !path.all_relayed();
}

[[nodiscard]] bool count_allocations(Counter& counter) {
  bool answered = true;
  for (const bool sha256 : {false, true}) {
    WholeRelay relay(sha256);
    counter.stage(sha256 ? "allocation_sha256" : "allocation_sha1", kAllocations, 1)(
        [] {}, [&] { answered = relay.cycle() && answered; });
    answered = answered && relay.empty();
  }
  return answered;
}

int run(int argc, char** argv) {
  Spoil spoil;
  if (argc == 4 && std::string_view(argv[1]) == "--spoil") {
    spoil = {argv[2], static_cast<uint32_t>(std::strtoul(argv[3], nullptr, 10))};
  } else if (argc != 1) {
    std::fputs("usage: hot_stages [--spoil STAGE TURNS]\n", stderr);
    return 2;
  }
  Counter counter(spoil);
  if (!count_path(counter) || !count_flood(counter) || !count_allocations(counter)) {
    std::fputs("hot_stages: packets were dropped or requests not answered\n", stderr);
    return 1;
  }
#if defined(__clang__)
  const char* compiler = "clang " __clang_version__;
#else
  const char* compiler = "gcc " __VERSION__;
#endif
#if defined(NDEBUG) && defined(__OPTIMIZE__)
  const bool optimized = true;
#else
  const bool optimized = false;
#endif
  std::printf("{\"compiler\": \"%s\", \"cpu\": \"%s\", \"optimized\": %s, \"units\": {", compiler,
              CULVERT_CPU, optimized ? "true" : "false");
  const char* between = "";
  for (const auto& one : counter.counted()) {
    std::printf("%s\"%s\": %u", between, one.stage.c_str(), one.units);
    between = ", ";
  }
  std::printf("}}\n");
  return 0;
}

}  // namespace
}  // namespace culvert

int main(int argc, char** argv) {
  return culvert::run(argc, argv);
}
