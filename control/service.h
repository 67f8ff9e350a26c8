// Everything an operator touches, put together: the control loop, the control socket, the metrics
// listener, the accounts' databases. main makes one after the engine and the TurnServer, in this
// order:
//
//   Logger; raise_file_limit; engine, listeners, TurnServer; Service; open(); drop_privileges;
//   Logger::start_writer; start_threads(); the cores' threads; run().
//
// Owned and used by the control thread.
#pragma once

#include <memory>
#include <string>

#include "config/config.h"
#include "control/control_loop.h"
#include "control/operations.h"
#include "control/privileges.h"
#include "dataplane/api/stats_segment.h"

namespace culvert {

class Logger;

// What control does with the stats segment: names it, stamps it, brings the ports' numbers.
struct SharedStats {
  StatsHeader* header = nullptr;
  std::span<PortStats> ports;
  std::function<void(const StatsFile&)> publish;
  // Fills the first ports; returns how many there are. Null: the kernel has them.
  std::function<uint32_t(std::span<PortStats>)> read_ports;
};

struct ServiceParts {
  TurnServer& turn;
  Engine& engine;
  LoopEngine sleep;
  Logger& log;
  // The configuration as it runs. The reference may change with reload().
  std::function<const Config&()> config;
  std::function<std::string()> effective_toml;
  std::function<nlohmann::json()> limits;
  // Reads file and flags again, refuses or applies to TurnServer as a whole.
  std::function<ReloadOutcome()> reload;
  SharedStats stats;
};

// TurnHooks for TurnServer's constructor: one line for each ended allocation, and notices.
[[nodiscard]] TurnHooks logging_hooks(Logger& log);

class Service {
 public:
  explicit Service(ServiceParts parts);
  ~Service();
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  // Opens the control socket, names the stats segment beside it, opens the metrics listener. Throws
  // std::runtime_error with a sentence. `account`: whom the socket file is given to.
  void open(const Account& account);
  // Threads of the account databases; blocks until every realm's accounts were read once.
  void start_threads();
  // Until a signal stops us; the exit status.
  [[nodiscard]] int run();

  [[nodiscard]] ControlLoop& loop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace culvert
