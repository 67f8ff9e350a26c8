// What operators may ask and order: the methods of the control socket over TurnServer, the engine's
// counters and the configuration. Control thread; each call does bounded work (see the limits),
// because it stands between requests of clients.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"
#include "control/rpc.h"
#include "control/turn_server.h"
#include "control/watchdog.h"
#include "dataplane/api/engine.h"

namespace culvert {

// One page of `allocations`: with counters each is a question to a core (kMaxPendingQuestions
// bounds them).
inline constexpr uint32_t kMaxAllocationPage = 500;
static_assert(kMaxAllocationPage < kMaxPendingQuestions);
// Allocations looked at for one page when filters skip most of them: about 50 ns each, so 1 ms.
inline constexpr uint32_t kMaxAllocationScan = 16384;
// Longest life of a minted credential: a month. Longer ones belong into the user database.
inline constexpr uint32_t kMaxMintSeconds = 31 * 86400;

enum class ServiceState : uint8_t { kStarting, kReady, kDraining, kStopping };
[[nodiscard]] std::string_view to_string(ServiceState state);
[[nodiscard]] std::string_view to_string(EndReason reason);

// "0.17.3": core, index and generation of an allocation's handle.
[[nodiscard]] std::string format_allocation_id(AllocationId id);
[[nodiscard]] std::optional<AllocationId> parse_allocation_id(std::string_view text);

// "[udp] FROM -> TO [channel N | peer ADDRESS:PORT]", N decimal or 0x4000 to 0x4FFF. Empty `error`:
// good.
struct ExplainText {
  ExplainQuery query;
  std::string error;
};
[[nodiscard]] ExplainText parse_explain(std::string_view text);

struct ReloadOutcome {
  bool applied = false;
  std::vector<std::string> messages;  // what changed, or every reason why nothing did
};

// Changes to the accounts in a realm's SQLite file. `done` runs on the control thread, later.
struct AccountRequest {
  enum class Verb : uint8_t { kAdd, kList, kRemove };
  Verb verb = Verb::kList;
  uint16_t realm = 0;  // index into Config::realms
  std::string name;
  std::string password;
};
struct AccountReply {
  std::string error;  // empty: done
  bool not_found = false;
  std::vector<std::string> names;
};
using AccountsHook = std::function<void(AccountRequest, std::function<void(AccountReply)> done)>;

// What the methods work on. Everything referred to outlives them.
struct OperationsContext {
  TurnServer& turn;
  Engine& engine;
  const CoreWatchdog& watchdog;
  std::function<ControlTime()> now;
  uint64_t started_ms = 0;                      // ControlTime::ms
  std::function<const Config&()> config;        // as it runs
  std::function<std::string()> effective_toml;  // secrets masked
  std::function<nlohmann::json()> limits;       // derived limits, as an object
  std::function<ServiceState()> state;
  std::function<void(bool on)> drain;
  std::function<ReloadOutcome()> reload;
  std::function<std::span<const PortStats>()> ports;  // null or empty: the kernel has them
  AccountsHook accounts;                              // null: no realm has a database
};

[[nodiscard]] std::vector<RpcMethod> operator_methods(OperationsContext context);

}  // namespace culvert
