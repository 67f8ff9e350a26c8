// culvertd: builds and wires everything, explicitly and in order. Configuration, limits, engine, sockets,
// privileges dropped, control, cores, serving.
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <algorithm>
#include <exception>

#include "config/cli.h"
#include "config/derive.h"
#include "config/interfaces.h"
#include "control/privileges.h"
#include "control/snapshot_builder.h"
#include "control/turn_server.h"
#include "crypto/random.h"
#include "tools/culvertd/cores.h"

namespace culvert {
namespace {

ControlTime control_time() {
  using namespace std::chrono;
  return {static_cast<uint64_t>(
              duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count()),
          static_cast<uint64_t>(
              duration_cast<seconds>(system_clock::now().time_since_epoch()).count())};
}

void print(const std::vector<Diagnostic>& diagnostics) {
  for (const Diagnostic& d : diagnostics) std::fprintf(stderr, "%s\n", d.to_string().c_str());
}

int serve(const CommandLine& command_line) {
  const Expanded expanded = expand_wildcards(command_line.config, read_machine_addresses());
  if (!expanded.config) {
    print(expanded.errors);
    return kExitUsage;
  }
  const Config& config = *expanded.config;
  const MachineResources machine = read_machine_resources();
  const DerivedLimits derived = derive(config, resource_costs(config), machine);
  if (const std::string error = raise_file_limit(derived.file_descriptors); !error.empty())
    throw std::runtime_error(error);

  crypto::Random random;
  RingEngine::Options rings;
  rings.cores = static_cast<CoreId>(derived.cores);
  rings.command_slots = derived.command_ring_slots;
  rings.event_slots = derived.event_ring_slots;
  RingEngine engine(rings, build_snapshot(config, rings.cores, NonceKeys{}));
  SocketCores cores(engine, config, derived);
  TurnHooks hooks;
  TurnServer turn(config, engine, random, hooks, control_time());
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  const int signals = signalfd(-1, &set, SFD_CLOEXEC);
  cores.start(random);
  std::printf("ready\n");
  std::fflush(stdout);
  for (;;) {
    while (turn.poll(control_time())) {
    }
    pollfd fds[] = {{engine.wake_fd(), POLLIN, 0}, {signals, POLLIN, 0}};
    if (engine.prepare_sleep()) {
      const uint64_t now = control_time().ms;
      const uint64_t due = turn.next_due_ms();
      poll(fds, 2, due > now ? static_cast<int>(std::min<uint64_t>(due - now, 1000)) : 0);
    }
    engine.awake();
    if ((fds[1].revents & POLLIN) != 0) break;
  }
  cores.stop();
  return kExitOk;
}

int run(int argc, char** argv) {
  const CommandLine command_line = parse_command_line(argc, argv);
  print(command_line.errors);
  print(command_line.warnings);
  std::fputs(command_line.text.c_str(), stdout);
  if (command_line.mode != Mode::kServe || command_line.exit_code != kExitOk)
    return command_line.exit_code;
  return serve(command_line);
}

}  // namespace
}  // namespace culvert

int main(int argc, char** argv) {
  try {
    return culvert::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "culvertd: %s\n", error.what());
    return culvert::kExitFailure;
  }
}
