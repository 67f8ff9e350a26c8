// The TURN logic of control: authentication, the map from 5-tuple to allocation, relayed ports,
// quotas, reservations, peer policy, and the snapshot that every fast core reads. One object, used
// by the control thread alone. It reads no clock, does no I/O and has no global state: time is an
// argument, randomness comes from the Random it was given, and the data plane is the Engine. The
// same calls with the same arguments therefore give the same commands, which is what the simulator
// relies on.
//
// Invariants: a success response leaves only inside the command that makes it true; a command that
// could not be sent changes nothing here (the client retransmits); an allocation's record, its
// ports and its place in the quota are freed exactly once, by AllocationEnded or by the failure of
// its installation.
//
// Cost: all tables are taken at construction from max_allocations; see kControlBytesPerAllocation.
// An authenticated allocation costs two HMACs for Allocate and two for Refresh 0, and little else
// (bench/micro/turn_server_bench.cc).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"
#include "control/accounts.h"
#include "dataplane/api/engine.h"

namespace culvert::crypto {
class Random;
}

namespace culvert {

// Both clocks, read once per round by the control loop (or made up by a test).
struct ControlTime {
  uint64_t ms = 0;            // monotonic
  uint64_t unix_seconds = 0;  // only for the expiry of time-limited credentials
};

// Events taken from one core's ring in one poll(): a flood at one core delays the others by at most
// 256 * 10 us = 2.6 ms.
inline constexpr uint32_t kMaxEventsPerPoll = 256;
// Ports drawn for one Allocate before it is answered with 508: with a fraction f of ports taken by
// other processes, all fail with probability f^8 (f = 0.1: 1e-8).
inline constexpr uint8_t kMaxPortTries = 8;
// Reservations held at once (a port each, 30 s): 4096 / 30 s = 136 EVEN-PORT allocations a second.
inline constexpr uint32_t kMaxReservations = 4096;
// Questions (reports, explains) of operators under way at once, and how long one may take.
inline constexpr uint32_t kMaxPendingQuestions = 1024;
inline constexpr uint64_t kQuestionTimeoutMs = 1000;
// A user's bandwidth is shared anew among cores this often.
inline constexpr uint64_t kRebalanceMs = 100;
// How often the cores learn the time (nonce ages are in seconds).
inline constexpr uint64_t kPublishMs = 1000;
// Bytes of control's tables per configured allocation (checked at compile time; users not counted).
inline constexpr size_t kControlBytesPerAllocation = 160;

// Names an allocation for operators: its core and its handle there.
struct AllocationId {
  CoreId core = 0;
  AllocationHandle handle;
  friend bool operator==(const AllocationId&, const AllocationId&) = default;
};

// An allocation as operators see it. The views live until the next call on the TurnServer.
struct AllocationInfo {
  AllocationId id;
  std::string_view user;
  std::string_view realm;
  TransportAddress client;
  TransportAddress listener;
  std::optional<TransportAddress> relayed_ipv4;  // as advertised
  std::optional<TransportAddress> relayed_ipv6;
  uint64_t created_ms = 0;  // ControlTime::ms
  uint64_t expires_ms = 0;
  CoreId ingress_core = 0;  // differs from id.core when the client's packets are handed over
};

// One structured record for the log and for accounting.
struct EndedAllocation {
  AllocationInfo info;
  uint64_t ended_ms = 0;
  AllocationCounters counters;
  EndReason reason = EndReason::kExpired;
  bool whole = true;  // false: one family of a dual allocation ended, the other goes on
};

// The 13 error codes control answers with, densely, for counting.
inline constexpr std::array<uint16_t, 13> kTurnErrorCodes = {400, 401, 403, 420, 437, 438, 440,
                                                             441, 442, 443, 486, 500, 508};

// Totals since start, except the gauges.
struct TurnStats {
  uint64_t requests = 0;
  uint64_t malformed = 0;  // Request events that do not parse (a bug in a core)
  uint64_t allocations_made = 0;
  uint64_t retransmitted_allocates = 0;
  uint64_t refreshes = 0;
  uint64_t deletions = 0;            // Refresh with lifetime 0
  uint64_t permission_requests = 0;  // CreatePermission granted
  uint64_t channel_binds = 0;
  uint64_t reservations_made = 0;
  uint64_t reservations_used = 0;
  uint64_t redirects = 0;
  uint64_t port_retries = 0;       // a drawn port was taken by another process
  uint64_t command_ring_full = 0;  // requests dropped for that reason
  // Dropped: their source had failed too often (auth_failures.h), or the error would have been more
  // than kMaxReplyRatioTenths of what an address that nothing proves had sent.
  uint64_t requests_silenced = 0;
  uint64_t snapshots_published = 0;
  std::array<uint64_t, kTurnErrorCodes.size()> errors{};  // by index in kTurnErrorCodes
  std::array<uint64_t, static_cast<size_t>(EndReason::kCount)> ended{};

  uint32_t allocations = 0;  // gauges
  uint32_t reservations = 0;
  uint32_t known_users = 0;  // with allocations, or with cached keys
  uint64_t ports_free = 0;   // over all relay addresses
  uint64_t ports_total = 0;
  bool draining = false;
};

struct TurnHooks {
  // Called once per ended allocation (and once per ended family of a dual one).
  std::function<void(const EndedAllocation&)> allocation_ended;
  // One line for the log: rare things an operator should see.
  std::function<void(std::string_view)> notice;
};

struct ExplainQuery {
  TransportAddress from;  // where the datagram comes from
  TransportAddress to;    // a listener or a relayed transport address (bound or advertised)
  uint16_t channel = 0;   // to a listener: ChannelData on this channel; 0: a Send indication
  TransportAddress peer;  // of that Send indication
};

class TurnServer {
 public:
  // `config`: validated, wildcards expanded. `engine` and `random` must outlive the server.
  // Publishes the first snapshot. Throws std::runtime_error with a sentence when the configuration
  // cannot be served (no relay address, a port range without ports for some core).
  TurnServer(const Config& config, Engine& engine, crypto::Random& random, TurnHooks hooks,
             ControlTime now);
  ~TurnServer();
  TurnServer(const TurnServer&) = delete;
  TurnServer& operator=(const TurnServer&) = delete;

  // Takes waiting events (at most kMaxEventsPerPoll per core), then runs what is due. True: there
  // may be more events waiting, call again without sleeping.
  bool poll(ControlTime now);
  // When poll() has timed work next (ControlTime::ms), if no event comes before.
  [[nodiscard]] uint64_t next_due_ms() const;

  // Applies the keys that may change while running: users, secrets, algorithms, quotas, bandwidth,
  // peer rules, budgets, lifetimes. Live allocations go on, even those of users that are gone
  // (their next Refresh gets 401). Returns a sentence when `config` changes something that needs a
  // restart (cores, listeners, relay addresses, ports, realm names, max_allocations); then nothing
  // was applied.
  [[nodiscard]] std::optional<std::string> reload(const Config& config, ControlTime now);
  // Replaces the accounts that a realm has from its database (RealmConfig::database).
  void set_accounts(uint16_t realm, std::shared_ptr<const StoredAccounts> accounts);

  // While draining every new Allocate is answered with 508; everything else goes on.
  void set_draining(bool draining);
  [[nodiscard]] bool draining() const;

  // Ends allocations by the operator's will. close() is false when there is no such allocation. The
  // end itself comes as allocation_ended. A full command ring only delays it.
  bool close(AllocationId id, EndReason reason = EndReason::kClosedByOperator);
  size_t close_if(const std::function<bool(const AllocationInfo&)>& which,
                  EndReason reason = EndReason::kClosedByOperator);

  // Calls visit for live allocations, beginning with the `skip`th, until it returns false.
  void each_allocation(size_t skip, const std::function<bool(const AllocationInfo&)>& visit) const;
  [[nodiscard]] std::optional<AllocationInfo> find(AllocationId id) const;

  // Questions to a core. The answer comes during a later poll(); nullopt: no answer within
  // kQuestionTimeoutMs. False: not asked (ring full, too many questions, or nothing to ask about)
  // and `answer` will never be called.
  using ReportAnswer = std::function<void(const std::optional<AllocationReport>&)>;
  using ExplainAnswer = std::function<void(const std::optional<ExplainReport>&)>;
  bool query(AllocationId id, ReportAnswer answer);
  bool explain(const ExplainQuery& query, ExplainAnswer answer);

  // Username and password by the realm's first shared secret, valid until unix time now + lifetime.
  // nullopt: no such realm, or a realm without a shared secret. `realm` empty: the default realm.
  struct Minted {
    std::string username;
    std::string password;
    std::string realm;
    uint64_t expires_unix_seconds = 0;
  };
  [[nodiscard]] std::optional<Minted> mint(std::string_view realm, std::string_view user,
                                           uint32_t lifetime_seconds, ControlTime now) const;

  [[nodiscard]] TurnStats stats() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace culvert
