// culvert-load: entry point. Parses, runs the mode's workers, reports. Exit status: 0 measured,
// 1 could not, 2 wrong usage.
#include <sys/resource.h>

#include <cstdio>

#include "tools/culvert-load/run.h"

namespace culvert::load {
namespace {

// Every client is a socket; take as many as the hard limit allows.
void raise_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

std::unique_ptr<Worker> make_worker(const Options& options, Network& network, uint32_t thread) {
  switch (options.mode) {
    case Mode::kChurn:
      return make_churn_worker(options, network, thread);
    case Mode::kIdle:
      return make_idle_worker(options, network, thread);
    case Mode::kBinding:
      return make_binding_worker(options, network, thread);
    case Mode::kHostile:
      return make_hostile_worker(options, network, thread);
    case Mode::kRelay:
    case Mode::kSearch:
    case Mode::kCalibrate:
      break;
  }
  return make_relay_worker(options, network, thread);
}

int run(const Options& options) {
  if (options.mode == Mode::kCalibrate) return calibrate(options);
  std::string error;
  const auto network = make_network(options, error);
  if (!network) {
    std::fprintf(stderr, "culvert-load: %s\n", error.c_str());
    return 1;
  }
  const auto make = [&](uint32_t thread) { return make_worker(options, *network, thread); };
  if (options.mode == Mode::kSearch) return search(options, make);
  Result result;
  if (!run_once(options, make, result)) return 1;
  if (!options.quiet && options.json != "-") print_summary(result);
  return write_json(result) ? 0 : 1;
}

}  // namespace
}  // namespace culvert::load

int main(int argc, char** argv) {
  int exit_code = 0;
  const auto options = culvert::load::parse_options(argc, argv, exit_code);
  if (!options) return exit_code;
  culvert::load::raise_file_limit();
  culvert::load::catch_signals();
  return culvert::load::run(*options);
}
