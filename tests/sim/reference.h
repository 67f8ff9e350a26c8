// A slow, obvious relay to judge the fast one by: written from RFC 8489 and RFC 8656 with std::map
// and the tools' codec, and nothing of dataplane/wire, flow or path. It runs beside the relay under
// test: it is told each datagram that a core receives, in order, says what must become of it
// (Fate), and is told each answer that leaves, which it checks against the request and then takes
// as done. What only the relay can choose (ports, nonces, tokens) it reads from the answers, after
// checking that the choice was allowed.
//
// Where the design leaves a moment open (an expired allocation that the wheel has not swept, an
// operator's close under way, a redirect on its way to a core) a Fate names the other outcomes that
// are right too; nothing is ever forwarded in such a moment that the RFC forbids.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "config/config.h"
#include "control/turn_server.h"
#include "dataplane/api/outcome.h"
#include "dataplane/io/sim/network.h"
#include "dataplane/path/datagram.h"
#include "tests/sim/coverage.h"
#include "tools/stun_client/credentials.h"
#include "tools/stun_client/message.h"

namespace culvert::sim_test {

namespace codec = culvert::stun_client;

// What a checker found; ends the run of a seed.
struct Violation : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A mistake made on purpose in the reference, to see that it is found and made small.
enum class Plant : uint8_t { kNone, kPermissionShort, kHopsKept, kQuotaOff };

// A datagram as a core received it.
struct Arrival {
  RxKind kind = RxKind::kClient;
  TransportAddress from;
  TransportAddress to;  // a listener, or a relayed transport address
  uint8_t ttl = 64;
  uint8_t tos = 0;
  bool df = false;
  uint8_t icmp_type = 0;
  uint8_t icmp_code = 0;
  uint32_t icmp_mtu = 0;
  bool handed = false;  // by another core
  bool second = false;  // from another allocation of this relay
  codec::Bytes data;
};

// From which 5-tuple: the client's transport address and the listener's.
struct Tuple {
  TransportAddress client;
  TransportAddress server;
  friend bool operator<(const Tuple& a, const Tuple& b) {
    const sim::AddressLess less;
    if (less(a.client, b.client)) return true;
    if (less(b.client, a.client)) return false;
    return less(a.server, b.server);
  }
  friend bool operator==(const Tuple&, const Tuple&) = default;
};

using OutcomeBits = uint64_t;
static_assert(kOutcomes <= 64);
[[nodiscard]] constexpr OutcomeBits bit(Outcome o) {
  return OutcomeBits{1} << static_cast<unsigned>(o);
}

// What must become of one datagram.
struct Fate {
  enum class Way : uint8_t {
    kDropped,
    kRaw,      // `data` as it is
    kChannel,  // ChannelData
    kData,     // Data indication
    kIcmp,     // Data indication with ICMP
    kBinding,  // success response
    kError,    // error response without authentication
    kHandOff,  // to another core, as `next`
    kSecond,   // taken again here, as `next`
    kControl,  // to control, which answers
  };
  Outcome outcome = Outcome::kCount;
  Way way = Way::kDropped;
  OutcomeBits may = 0;  // other ends that are right too, with nothing leaving
  TransportAddress from;
  TransportAddress to;
  uint8_t ttl = 64;
  uint8_t tos = 0;
  bool df = false;
  bool df_if_long = false;  // RFC 7915 section 5.1: above 1260 bytes
  codec::Bytes data;
  uint16_t channel = 0;
  TransportAddress peer;
  uint16_t icmp_type_code = 0;
  uint32_t icmp_data = 0;
  int code = 0;
  int other_code = 0;  // also right, then with `other_outcome`
  Outcome other_outcome = Outcome::kCount;
  CoreId core = 0;  // handed to
  Arrival next;
  // Whose counters and bandwidth it goes to.
  const Tuple* charged = nullptr;
  bool to_peer = false;
  bool ambiguous = false;  // forwarding or not: both are right
};

class Reference {
 public:
  struct User {
    std::string password;
    std::string account;
    uint64_t expires_unix = 0;  // 0: never
  };
  // What the relay's surroundings may excuse: set by the scenario, never by the relay.
  struct Leniency {
    bool rings_may_fill = false;     // control_busy, handoff_full, commands dropped
    bool budget_may_end = false;     // reply_budget, bad_nonce_budget
    bool tables_may_fill = false;    // 508 for permissions and channels
    bool ports_may_fail = false;     // 508 because of ports
    uint64_t clock_slack_ms = 2000;  // how late control may be with the time
  };

  Reference(const Config& config, CoreId cores, Coverage& coverage, Plant plant);

  void add_user(const std::string& name, const User& user) { users_[name] = user; }
  void set_config(const Config& config) { config_ = config; }
  void set_draining(bool on) { draining_ = on; }
  // The relay was restarted: it knows nothing any more.
  void reset();
  Leniency& leniency() { return leniency_; }
  void set_unix_seconds(uint64_t unix_seconds) { unix_seconds_ = unix_seconds; }

  [[nodiscard]] Fate received(CoreId core, const Arrival& arrival, uint64_t now_ms);
  // The datagram met `outcome`, which the fate allows.
  void confirm(CoreId core, const Arrival& arrival, const Fate& fate, Outcome outcome,
               uint64_t now_ms);
  // A request that control may or may not have: it may be answered.
  void unsure(CoreId core, const Arrival& arrival, Outcome supposed, uint64_t now_ms);
  // Does a datagram that leaves match? Sets `outcome` (which differs with `other_code`).
  [[nodiscard]] bool matches(const Fate& fate, const sim::Datagram& left, const Arrival& arrival,
                             uint64_t now_ms, Outcome& outcome);
  // An answer of control leaves.
  void answered(CoreId core, const sim::Datagram& left, uint64_t now_ms);
  // Control has heard of an end.
  void ended(const EndedAllocation& end, uint64_t now_ms);
  // An operator closes it: from now on it may end at any time.
  void closing(const TransportAddress& client);
  // Nothing is under way inside the relay: every request has been answered, but for `excuses` that
  // the relay's counters name. `hungry`: control or a core stands still.
  void quiet(uint64_t excuses, uint64_t now_ms);

  struct Counts {
    size_t allocations = 0;  // that certainly live
    size_t at_most = 0;      // with those that may
    size_t permissions = 0;
  };
  [[nodiscard]] Counts counts(uint64_t now_ms) const;
  // When the last thing granted will have ended.
  [[nodiscard]] uint64_t latest_end_ms() const;
  [[nodiscard]] bool knows(const TransportAddress& client) const;
  [[nodiscard]] size_t requests_waiting() const { return pending_.size(); }

 private:
  struct Leg {
    bool present = false;
    TransportAddress relayed;
    uint64_t until_lo = 0;  // alive before
    uint64_t until_hi = 0;  // dead from here on
  };
  struct Channel {
    TransportAddress peer;
    uint64_t until = 0;
  };
  struct Allocation {
    std::string user;
    std::string account;
    codec::TransactionId transaction{};
    CoreId core = 0;
    Leg legs[2];
    std::map<IpAddress, uint64_t, sim::AddressLess> permissions;
    std::map<uint16_t, Channel> channels;
    uint32_t lifetime = 0;
    bool closing = false;  // an operator's close is under way
    bool over = false;     // removed, and control has not heard of it yet
    bool settled = false;  // a quiet moment has passed since it was made
    AllocationCounters counters;
    uint64_t unsure = 0;  // datagrams that a policer or full ring may have refused unseen
  };
  struct Reservation {
    std::string account;
    TransportAddress relayed;
    uint64_t made_ms = 0;
  };
  struct PendingKey {
    Tuple tuple;
    codec::TransactionId id{};
    friend bool operator<(const PendingKey& a, const PendingKey& b) {
      if (a.tuple < b.tuple) return true;
      if (b.tuple < a.tuple) return false;
      return a.id < b.id;
    }
  };
  struct Pending {
    std::vector<uint8_t> message;
    CoreId core = 0;
    uint64_t first_ms = 0;
    uint32_t copies = 0;
    uint32_t answers = 0;
    std::set<int> codes;  // right when it came
    bool silence_allowed = false;
    int auth_error = 0;  // 0, 400 or 401
    std::string user;
    codec::Key key;
    bool sha256 = false;
    bool expired = false;   // right, but for the time of its name
    uint32_t allocate = 0;  // 1: an Allocate
    bool removes = false;
  };
  struct Nonce {
    TransportAddress client;
    uint64_t made_ms = 0;
  };
  enum class NonceAge : uint8_t { kGood, kEither, kBad };
  enum class Life : uint8_t { kLive, kEither, kDead };

  // ---- datagrams
  Fate from_peer(CoreId core, const Arrival& a, uint64_t now);
  Fate from_client(CoreId core, const Arrival& a, uint64_t now);
  Fate channel_data(CoreId core, const Arrival& a, uint64_t now);
  Fate stun(CoreId core, const Arrival& a, uint64_t now);
  Fate binding(const Arrival& a, const codec::MessageView& m);
  Fate without_integrity(CoreId core, const Arrival& a, const codec::MessageView& m, uint64_t now);
  Fate send_indication(CoreId core, const Arrival& a, const codec::MessageView& m, uint64_t now);
  Fate icmp_error(CoreId core, const Arrival& a, uint64_t now);
  // The part that ChannelData and Send have in common.
  Fate to_peer(CoreId core, const Arrival& a, const Tuple& tuple, Allocation& allocation,
               const TransportAddress& peer, codec::Bytes data, bool df, uint64_t now);
  std::optional<Fate> elsewhere(CoreId core, const Arrival& a, const Tuple& tuple);
  [[nodiscard]] bool own_address(const IpAddress& ip) const;
  [[nodiscard]] Life life(const Allocation& allocation, const Leg& leg, uint64_t now) const;
  [[nodiscard]] Life life(const Allocation& allocation, uint64_t now) const;
  [[nodiscard]] bool permitted(const Allocation& a, const IpAddress& peer, uint64_t now);
  void maybe_policed(Fate& fate) const;

  // ---- requests
  [[nodiscard]] NonceAge age_of(const codec::MessageView& m, const TransportAddress& client,
                                uint64_t now) const;
  void note_request(CoreId core, const Arrival& a, uint64_t now);
  void authenticate(Pending& p, const codec::MessageView& m, const Tuple& tuple);
  [[nodiscard]] bool expired(const Pending& p, const Tuple& tuple) const;
  void judge(Pending& p, const Tuple& tuple, uint64_t now, std::set<int>& codes);
  void judge_allocate(Pending& p, const codec::MessageView& m, const Tuple& tuple, uint64_t now,
                      std::set<int>& codes);
  int allocate_syntax(const codec::MessageView& m) const;
  void judge_refresh(const codec::MessageView& m, const Allocation& a, std::set<int>& codes) const;
  void judge_permission(const codec::MessageView& m, const Allocation& a, std::set<int>& codes,
                        uint64_t now) const;
  void judge_channel(const codec::MessageView& m, const Allocation& a, std::set<int>& codes,
                     uint64_t now) const;
  [[nodiscard]] int judge_peer(const Allocation& a, const IpAddress& peer) const;
  [[nodiscard]] size_t held(const std::string& account, uint64_t now, bool at_most) const;
  void check_integrity(const Pending& p, const codec::MessageView& answer, int code) const;
  void granted(const Pending& p, const Tuple& tuple, const codec::MessageView& answer, CoreId core,
               uint64_t now);
  void allocated(const Pending& p, const codec::MessageView& m, const Tuple& tuple,
                 const codec::MessageView& answer, CoreId core, uint64_t now);
  void check_relayed(const codec::MessageView& m, const TransportAddress& relayed,
                     uint64_t now) const;
  void refreshed(const codec::MessageView& m, const codec::MessageView& answer, Allocation& a,
                 uint64_t now);
  void learn_nonce(const codec::MessageView& m, const TransportAddress& client, uint64_t now);
  [[nodiscard]] uint32_t granted_lifetime(const codec::MessageView& m) const;
  void spend(const std::string& account, uint64_t bytes, uint64_t now);

  Config config_;
  CoreId cores_;
  Coverage& coverage_;
  Plant plant_;
  Leniency leniency_;
  bool draining_ = false;
  uint64_t unix_seconds_ = 0;
  std::map<std::string, User> users_;
  std::map<Tuple, Allocation> allocations_;
  std::map<TransportAddress, Tuple, sim::AddressLess> by_relayed_;
  std::map<uint64_t, Reservation> reservations_;
  std::map<Tuple, CoreId> redirects_left_;  // of allocations that are gone
  std::map<std::string, Nonce, std::less<>> nonces_;
  std::map<PendingKey, Pending> pending_;
  std::map<std::pair<std::string, codec::PasswordAlgorithm>, codec::Key> keys_;
  struct Spent {
    double level = 0;
    uint64_t at_ms = 0;
  };
  std::map<std::string, Spent> spent_;
  uint32_t pending_allocates_ = 0;
};

}  // namespace culvert::sim_test
