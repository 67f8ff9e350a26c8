// A serving culvertd: builds and wires everything, explicitly and in order. Nothing is global; what
// is declared first outlives what is declared after it.
//
//   log, file limit -> engine (rings, first snapshot) -> listeners or ports -> TurnServer ->
//   control socket and metrics -> privileges dropped -> account readers -> cores' tables and
//   threads -> control loop
#pragma once

#include <memory>

#include "config/cli.h"
#include "config/interfaces.h"
#include "control/logging.h"
#include "control/service.h"
#include "control/turn_server.h"
#include "crypto/random.h"
#include "tools/culvertd/cores.h"

namespace culvert {

class Daemon {
 public:
  // `config`: of `command_line`, wildcards expanded. Opens sockets; throws with one sentence.
  Daemon(CommandLine command_line, Config config);

  // Drops privileges, serves until a signal, and returns the exit status.
  [[nodiscard]] int run();

 private:
  [[nodiscard]] ReloadOutcome reload();
  [[nodiscard]] ServiceParts service_parts();
  [[nodiscard]] SharedStats shared_stats();
  [[nodiscard]] nlohmann::json limits_json() const;
  void drop_privileges_or_throw();
  void log_start();

  CommandLine command_line_;
  Config config_;
  DerivedLimits derived_;
  Logger log_;
  crypto::Random random_;
  RingEngine engine_;
  std::unique_ptr<FastCores> cores_;
  TurnServer turn_;
  Service service_;
  Account account_;
};

}  // namespace culvert
