// One client of the server under test, as the rows of the suite need it: it can be well behaved or
// break any rule on purpose, because each request is built by hand and signed as the row asks.
// Blocking; one thread. What every answer must fulfil whatever the row (zero padding, the form of
// ERROR-CODE, the source address) is collected in Observations, on which rows of their own look.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tools/culvert-conformance/socket.h"
#include "tools/stun_client/credentials.h"
#include "tools/stun_client/message.h"

namespace culvert::conformance {

using stun_client::Attr;
using stun_client::Class;
using stun_client::MessageBuilder;
using stun_client::MessageView;
using stun_client::Method;
using stun_client::PasswordAlgorithm;
using stun_client::TransactionId;

// How a row ends early. A row that returns has passed.
struct Failed {
  std::string why;
};
struct NotOffered {
  std::string why;
};

struct Account {
  std::string user, password;
};

struct Target {
  TransportAddress server;
  std::optional<TransportAddress> server6;  // the same server over IPv6, where `server` is not
  Account account;
  std::optional<Account> other;  // a second account of the same realm
  std::string realm;             // empty: the one the server names
  IpAddress client_ip;
  std::optional<IpAddress> peer_ip, peer_ip6;  // peers of each family are played here
  // Of the relayed address that an Allocate asks for unless the row says otherwise: IPv6 only where
  // the server has no IPv4 ones.
  Family relay = Family::kIpv4;
  milliseconds retransmit{500};  // RFC 8489 section 6.2.1's first RTO
  unsigned tries = 4;
  // Silence is judged this long after a later request has been answered.
  milliseconds quiet{200};
  std::string capture;  // the interface that shows headers and ICMP errors; empty: none
  // For tests: waits of minutes are skipped by adding to it, and their server's clock adds it too.
  std::atomic<int64_t>* skipped_ns = nullptr;

  // Where a peer of that family is played; ends the row as not offered where there is no place.
  [[nodiscard]] IpAddress peer(Family family) const;
  [[nodiscard]] IpAddress peer() const { return peer(relay); }
  // The same server asked over the family given; not offered where its address is not known.
  [[nodiscard]] Target over(Family family) const;
  // IPv4's and IPv6's values of REQUESTED-ADDRESS-FAMILY, and the family that `relay` is not.
  [[nodiscard]] uint8_t relay_code() const { return stun_client::family_code(relay); }
  [[nodiscard]] Family other_family() const {
    return relay == Family::kIpv4 ? Family::kIpv6 : Family::kIpv4;
  }
};

// What answers had in common, for the rows that concern all of them.
struct Observations {
  size_t answers = 0;
  std::vector<std::string> padding, error_codes, sources;
};

class Answer {
 public:
  Answer(std::vector<uint8_t> bytes, const MessageView& view)
      : bytes_(std::move(bytes)), view_(view) {}
  Answer(Answer&&) = default;  // the vector's memory, which the view looks into, stays where it is
  Answer& operator=(Answer&&) = default;
  Answer(const Answer&) = delete;
  Answer& operator=(const Answer&) = delete;
  ~Answer() = default;

  const MessageView* operator->() const { return &view_; }
  const MessageView& operator*() const { return view_; }
  // 0 for a success.
  [[nodiscard]] int code() const;
  [[nodiscard]] std::string describe() const;  // "success", "401", "420 (...)"

 private:
  std::vector<uint8_t> bytes_;
  MessageView view_;
};

// How a request is signed. What is left as it is makes a correct RFC 5389 request (MD5 key,
// MESSAGE-INTEGRITY), which every server must accept.
struct Signing {
  std::optional<std::string> user, password, realm, nonce;
  bool leave_out_username = false, leave_out_realm = false, leave_out_nonce = false;
  bool userhash = false;
  bool list = false;  // PASSWORD-ALGORITHMS as it was offered
  std::optional<std::vector<uint8_t>> other_list;
  std::optional<uint16_t> algorithm;  // PASSWORD-ALGORITHM
  PasswordAlgorithm key = PasswordAlgorithm::kMd5;
  bool sha1_integrity = true, sha256_integrity = false;
  bool spoil_sha1 = false, spoil_sha256 = false;
  size_t sha256_length = 32;

  // As a client of RFC 8489 signs.
  [[nodiscard]] static Signing rfc8489();
};

using Fill = std::function<void(MessageBuilder&)>;

class Session {
 public:
  Session(const Target& target, Observations& seen);
  ~Session();  // gives the allocation back, if there is one
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  [[nodiscard]] UdpSocket& socket() { return socket_; }
  [[nodiscard]] TransactionId new_id();
  [[nodiscard]] MessageBuilder begin(Method method, Class cls = Class::kRequest);
  void send(Bytes datagram) { socket_.send(target_.server, datagram); }

  // Sends, with retransmissions, until an answer with the request's id comes. nullopt: none.
  [[nodiscard]] std::optional<Answer> ask(Bytes request);
  // The same, where no answer is a failure of the row.
  [[nodiscard]] Answer must_answer(Bytes request);
  // True when nothing with the id of `request` comes back, judged by a Binding sent after it.
  [[nodiscard]] bool stays_silent(Bytes request);
  // What else has come from the server; kept for the caller while answers were awaited.
  [[nodiscard]] std::optional<std::vector<uint8_t>> next(milliseconds patience);
  void forget_pending() { pending_.clear(); }

  // An Allocate without integrity; keeps realm, nonce and offers of the 401.
  Answer challenge();
  [[nodiscard]] const std::string& nonce() const { return nonce_; }
  [[nodiscard]] const std::string& realm() const { return realm_; }
  [[nodiscard]] const std::vector<uint8_t>& offered() const { return offered_; }
  [[nodiscard]] stun_client::NonceFeatures features() const {
    return stun_client::nonce_features(nonce_);
  }
  [[nodiscard]] bool offers(PasswordAlgorithm algorithm) const;
  void take_nonce(const Answer& answer);

  void sign(MessageBuilder& message, const Signing& how = {});
  // Signed request; renews the nonce once on 438.
  [[nodiscard]] Answer call(Method method, const Fill& fill, const Signing& how = {});
  [[nodiscard]] Answer allocate(const Fill& options = {}, const Signing& how = {});
  // REQUESTED-TRANSPORT and, where the server has no IPv4 and no option names a family, IPv6.
  void fill_allocate(MessageBuilder& message, const Fill& options = {}) const;
  // Allocates or fails the row; a family that the server has no addresses of is not offered.
  void must_allocate(const Fill& options = {});
  [[nodiscard]] Answer refresh(const Fill& options = {});
  [[nodiscard]] Answer permit(const std::vector<TransportAddress>& peers);
  [[nodiscard]] Answer bind(uint16_t channel, const TransportAddress& peer);
  void must(const Answer& answer, const char* what);

  void send_indication(const TransportAddress& peer, Bytes data, const Fill& more = {});
  void send_channel(uint16_t channel, Bytes data);

  [[nodiscard]] const std::vector<TransportAddress>& relayed() const { return relayed_; }
  // Not offered where the server gave none of that family.
  [[nodiscard]] TransportAddress relayed(Family family) const;
  [[nodiscard]] TransportAddress relayed_here() const { return relayed(target_.relay); }
  void set_allocated(bool yes) { allocated_ = yes; }
  [[nodiscard]] const Target& target() const { return target_; }
  [[nodiscard]] stun_client::Key key(PasswordAlgorithm algorithm, const Signing& how = {}) const;

 private:
  [[nodiscard]] std::optional<Answer> await(const TransactionId& id, Clock::time_point deadline);
  void observe(const MessageView& answer);
  // A second answer to a request that was retransmitted.
  [[nodiscard]] bool late(const MessageView& message) const;

  const Target& target_;
  Observations& seen_;
  UdpSocket socket_;
  std::string realm_, nonce_;
  std::vector<uint8_t> offered_;
  std::vector<TransportAddress> relayed_;
  bool allocated_ = false;
  std::vector<std::vector<uint8_t>> pending_;
  std::set<TransactionId> asked_;  // requests that have been sent by ask()
};

// What the server gives to an Allocate without a family; where that is refused with 440, IPv6.
[[nodiscard]] Family find_relay_family(const Target& target, Observations& seen);

[[nodiscard]] std::string hex(Bytes bytes, size_t limit = 24);
[[nodiscard]] Bytes bytes_of(std::string_view text);

}  // namespace culvert::conformance
