// Inside of TurnServer: its tables and the steps of its work, shared by turn_server.cc (events,
// timers, operators), turn_requests.cc (the TURN methods) and turn_allocate.cc (Allocate and its
// installation). Nobody else includes this.
#pragma once

#include <deque>
#include <unordered_map>

#include "control/auth.h"
#include "control/auth_failures.h"
#include "control/index_map.h"
#include "control/peer_policy.h"
#include "control/ports.h"
#include "control/turn_server.h"
#include "control/users.h"
#include "dataplane/base/siphash.h"
#include "dataplane/wire/stun.h"

namespace culvert {

inline constexpr uint32_t kNoRecord = IndexMap::kNone;

// One allocation on the control side. Its place in the table is its core and the index of its
// handle.
struct AllocationRecord {
  ClientTuple client;
  std::array<uint8_t, 12> transaction{};  // of the Allocate: tells a retransmission
  RelayLeg ipv4;
  RelayLeg ipv6;
  UserId user = kNoUser;
  uint64_t created_ms = 0;
  uint64_t expires_ms = 0;
  uint64_t token = 0;  // RESERVATION-TOKEN it was answered with, when has_token
  uint32_t generation = 0;
  uint32_t next_free = kNoRecord;
  uint32_t lifetime_seconds = 0;  // as granted by Allocate
  CoreId ingress_core = 0;
  uint16_t missing_error = 0;  // dual request: ADDRESS-ERROR-CODE of the family not given; 0: none
  Family missing_family = Family::kNone;
  PortKind port_kind = PortKind::kAny;
  EndReason close_reason = EndReason::kClosedByOperator;
  uint8_t ending_legs = 0;  // removal sent, AllocationEnded not yet here
  uint8_t port_tries = 1;
  bool in_use : 1 = false;
  bool has_token : 1 = false;
  bool from_reservation : 1 = false;
  bool close_wanted : 1 = false;  // by an operator, the command ring was full
  bool policed : 1 = false;       // counted in its account's bandwidth shares
  bool join_wanted : 1 = false;   // its account got a bandwidth limit while it lived

  [[nodiscard]] uint8_t legs() const {
    return static_cast<uint8_t>((ipv4.present() ? kLegIpv4 : 0) | (ipv6.present() ? kLegIpv6 : 0));
  }
  [[nodiscard]] uint8_t live_legs() const { return static_cast<uint8_t>(legs() & ~ending_legs); }
  [[nodiscard]] RelayLeg& leg(Family family) { return family == Family::kIpv4 ? ipv4 : ipv6; }
};
// IndexMap: at most 4 slots of 8 bytes per allocation (a load between one quarter and one half).
static_assert(sizeof(AllocationRecord) + 32 <= kControlBytesPerAllocation);

[[nodiscard]] constexpr uint8_t leg_bit(Family family) {
  return family == Family::kIpv4 ? kLegIpv4 : kLegIpv6;
}

// A port held for whoever brings its token.
struct Reservation {
  RelayLeg leg;
  CoreId core = 0;
  UserId user = kNoUser;  // whose quota it counts in
  uint64_t expires_ms = 0;
};

// What an answer must know of the request it answers.
struct Reply {
  CoreId core = 0;
  ClientTuple client;
  uint16_t method = 0;
  const uint8_t* transaction = nullptr;
  bool fingerprint = false;
  bool authenticated = false;
  // Length of a request whose source address no nonce of ours has proven; 0: proven.
  size_t unproven_bytes = 0;
  ResponseIntegrity integrity;
};

// An authenticated request.
struct Call {
  const stun::Message& message;
  Reply reply;
  uint16_t realm = 0;
  std::string_view username;
  std::string_view account;
  uint32_t record = kNoRecord;  // of this 5-tuple
};

// A clean-up command that did not fit into a ring.
struct Deferred {
  CoreId core = 0;
  CommandType type = CommandType::kClosePort;  // or kRemoveRedirect
  RelayLeg leg;
  ClientTuple client;
};

// Longest answer: an error with the longest REALM (131), NONCE (36), PASSWORD-ALGORITHMS (12),
// SOFTWARE (132), 64 unknown attributes (132), reason (68), MESSAGE-INTEGRITY-SHA256 (36),
// FINGERPRINT (8), header.
inline constexpr size_t kReplyBufferBytes = 768;

class TurnServer::Impl {
 public:
  Impl(const Config& config, Engine& engine, crypto::Random& random, TurnHooks hooks,
       ControlTime now);

  // turn_server.cc: the public interface, one to one
  bool poll(ControlTime now);
  [[nodiscard]] uint64_t next_due_ms() const;
  [[nodiscard]] std::optional<std::string> reload(const Config& config, ControlTime now);
  void set_accounts(uint16_t realm, std::shared_ptr<const StoredAccounts> accounts);
  bool close(AllocationId id, EndReason reason);
  size_t close_if(const std::function<bool(const AllocationInfo&)>& which, EndReason reason);
  void each_allocation(size_t skip, const std::function<bool(const AllocationInfo&)>& visit) const;
  [[nodiscard]] std::optional<AllocationInfo> find(AllocationId id) const;
  bool query(AllocationId id, ReportAnswer answer);
  bool explain(const ExplainQuery& query, ExplainAnswer answer);
  [[nodiscard]] CoreId steered_core(const ExplainQuery& query) const;
  [[nodiscard]] std::optional<Minted> mint(std::string_view realm, std::string_view user,
                                           uint32_t lifetime_seconds, ControlTime now) const;
  [[nodiscard]] TurnStats stats() const;

  bool draining_ = false;

 private:
  // ---- turn_server.cc
  void load_realms(const Config& config);
  void dispatch(CoreId core, const MessageView& event);
  void on_command_failed(CoreId core, const CommandFailed& event, std::span<const uint8_t> unsent);
  void on_refused_request(CoreId core, const CommandFailed& event, std::span<const uint8_t> unsent);
  void on_allocation_ended(CoreId core, const AllocationEnded& event);
  void answer_report(const AllocationReport& event);
  void answer_explain(const ExplainReport& event);
  void run_due();
  void expire_reservations();
  void expire_questions();
  void send_deferred();
  void retry_closes();
  void publish();
  void rotate_nonce_keys(bool both);
  [[nodiscard]] NonceKeys fresh_keys();
  // ---- records
  [[nodiscard]] uint32_t find_client(const ClientTuple& client) const;
  [[nodiscard]] uint64_t client_hash(const ClientTuple& client) const;
  [[nodiscard]] uint32_t find_record(CoreId core, AllocationHandle handle) const;
  [[nodiscard]] CoreId core_of(uint32_t record) const {
    return static_cast<CoreId>(record / per_core_);
  }
  [[nodiscard]] AllocationHandle handle_of(uint32_t record) const {
    return {record % per_core_, records_[record].generation};
  }
  [[nodiscard]] uint32_t new_record(CoreId core, const ClientTuple& client);
  void free_record(uint32_t index);
  void give_back_leg(RelayLeg& leg);
  void drop_reservation(uint64_t token, bool port_open);
  bool remove(uint32_t record, uint8_t legs, EndReason reason, std::span<const uint8_t> response);
  [[nodiscard]] AllocationInfo info_of(uint32_t record) const;
  [[nodiscard]] std::optional<TransportAddress> advertised(const RelayLeg& leg) const;
  void defer(const Deferred& command);
  [[nodiscard]] uint32_t next_cookie();

  // ---- turn_bandwidth.cc: users' policers
  bool join_bandwidth(uint32_t record);
  void want_joins();
  void retry_joins();
  void leave_bandwidth(uint32_t record);
  void rebalance();
  // What one policer's rate is shared by: an account's, or (policer 0) the whole relay's.
  struct Shared {
    uint32_t policer;
    std::span<BandwidthShare> shares;  // by core
  };
  void share_bandwidth(Shared shared, uint64_t rate);
  bool send_policer(CoreId core, Shared shared, uint64_t rate);
  [[nodiscard]] bool shares_whole() const;

  // ---- turn_requests.cc
  void on_request(CoreId core, const Request& event, std::span<const uint8_t> payload);
  void send_auth_error(const Reply& reply, uint16_t realm, uint16_t code);
  [[nodiscard]] bool refuse_unknown_attributes(const Call& call);
  void refresh(const Call& call);
  void create_permission(const Call& call);
  void channel_bind(const Call& call);
  // 437 or 441 is sent and false returned when the call has no allocation of its own.
  [[nodiscard]] bool has_own_allocation(const Call& call);
  void heal_steering(const Call& call);
  // 0, 403 or 443; sets own_address.
  [[nodiscard]] uint16_t judge_peer(const AllocationRecord& record, const IpAddress& peer,
                                    uint8_t& own_address) const;
  [[nodiscard]] bool live_own_port(const TransportAddress& peer) const;
  [[nodiscard]] uint32_t granted_lifetime(const stun::Message& message) const;
  [[nodiscard]] stun::Builder begin(const Reply& reply, stun::Class message_class);
  void finish(stun::Builder& builder, const Reply& reply);
  void send_error(const Reply& reply, uint16_t code,
                  std::span<const uint16_t> unknown_attributes = {});
  void count_error(uint16_t code);
  void ring_full() { ++stats_.command_ring_full; }

  // ---- turn_allocate.cc
  struct AllocateOptions;
  void allocate(const Call& call);
  [[nodiscard]] uint16_t parse_allocate(const stun::Message& message, AllocateOptions& out) const;
  void answer_again(const Call& call);
  void install_new(const Call& call, const AllocateOptions& options);
  [[nodiscard]] uint16_t draw_legs(uint32_t record, const AllocateOptions& options);
  [[nodiscard]] std::optional<RelayLeg> draw_leg(Family family, CoreId core, PortKind kind,
                                                 uint16_t listener);
  [[nodiscard]] bool make_reservation(uint32_t record);
  [[nodiscard]] Reservation take_reservation(uint32_t record, uint64_t token);
  void put_back_reservation(uint32_t record, uint64_t token, const Reservation& used);
  bool send_install(uint32_t record, const Reply& reply);
  void add_allocate_answer(stun::Builder& builder, const AllocationRecord& record) const;
  void on_install_failed(uint32_t record, const CommandFailed& event, const Reply& reply);
  [[nodiscard]] bool redraw(uint32_t record, uint8_t failed_legs);
  void abandon(uint32_t record);
  [[nodiscard]] std::optional<Reply> reopen(CoreId core, const ClientTuple& client, UserId user,
                                            const stun::Message& unsent) const;

  struct Question {
    ReportAnswer report;
    ExplainAnswer explain;
  };
  struct Due {
    uint64_t at_ms;
    uint64_t what;  // a token, or a cookie
  };

  Config config_;
  Engine& engine_;
  crypto::Random& random_;
  TurnHooks hooks_;
  ControlTime now_;
  CoreId cores_;
  uint32_t per_core_;
  uint32_t max_allocations_;

  std::vector<LocalAddress> addresses_;
  std::vector<PortTable> ports_;       // by index of the relay address
  std::vector<uint16_t> relays_ipv4_;  // indices into addresses_
  std::vector<uint16_t> relays_ipv6_;
  PeerPolicy policy_;
  std::vector<RealmState> realms_;
  std::vector<uint8_t> software_;

  UserTable users_;
  Authenticator auth_;
  std::vector<AllocationRecord> records_;
  std::vector<uint32_t> free_records_;  // by core: first of its free list
  SipKey hash_key_;
  AuthFailures failures_;
  IndexMap by_client_;
  uint32_t live_ = 0;  // records in use
  std::unordered_map<uint64_t, Reservation> reservations_;
  std::deque<Due> reservation_expiry_;
  std::deque<Deferred> deferred_;
  uint32_t closes_wanted_ = 0;
  uint32_t joins_wanted_ = 0;

  std::unordered_map<uint32_t, Question> questions_;
  std::deque<Due> question_expiry_;
  uint32_t cookie_ = 0;

  std::vector<UserId> limited_;  // accounts with a policer
  std::vector<uint32_t> free_policers_;
  uint32_t policers_made_ = 0;
  std::vector<BandwidthShare> whole_shares_;  // limits.total_bandwidth; every core has a part

  NonceKeys nonce_keys_;
  uint64_t keys_rotate_ms_ = 0;
  uint64_t next_publish_ms_ = 0;
  uint64_t next_rebalance_ms_ = 0;
  uint64_t version_ = 0;
  TurnStats stats_;
  std::array<uint8_t, kReplyBufferBytes> buffer_{};
};

}  // namespace culvert
