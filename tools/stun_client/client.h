// A STUN and TURN client without I/O: datagrams and the time go in, datagrams and events come out.
// It does the transactions over UDP (RFC 8489 section 6.2.1: retransmission at RTO, 2 RTO, ...),
// long-term credentials (section 9.2, nonce cookie, bid-down check, USERHASH), and the requests of
// RFC 8656. One thread may hold tens of thousands: an idle client with an allocation holds under
// 1 KiB. Time is nanoseconds of any one monotonic clock. The owner polls `poll_transmit` and
// `poll_event` after each call, and calls `tick` no later than `next_deadline`.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dataplane/base/address.h"
#include "tools/stun_client/credentials.h"
#include "tools/stun_client/message.h"

namespace culvert::stun_client {

inline constexpr uint64_t kNever = UINT64_MAX;
inline constexpr uint64_t kSecondNs = 1'000'000'000;

struct ClientConfig {
  // kOffered uses the strongest that the server offers; kRfc5389 behaves as a client that knows
  // neither PASSWORD-ALGORITHMS nor USERHASH, as most deployed ones do.
  enum class Auth : uint8_t { kOffered, kRfc5389 };
  Auth auth = Auth::kOffered;
  std::string expected_realm;  // empty: any; else another realm is a failure
  std::string software;        // empty: no SOFTWARE attribute
  bool fingerprint = false;
  bool verify_integrity = true;  // of responses
  bool keep_alive = true;        // refresh allocation, permissions and channels in time
  uint64_t rto_ns = kSecondNs / 2;
  unsigned rc = 7;   // requests sent at most
  unsigned rm = 16;  // RTOs waited after the last
};

struct AllocateOptions {
  std::optional<Family> family;             // REQUESTED-ADDRESS-FAMILY; nullopt leaves it out
  std::optional<Family> additional_family;  // ADDITIONAL-ADDRESS-FAMILY
  std::optional<bool> even_port;            // EVEN-PORT, true: reserve the next as well
  std::optional<uint64_t> reservation_token;
  std::optional<uint32_t> lifetime_s;
  bool dont_fragment = false;
  uint8_t transport = 17;  // UDP
};

struct Event {
  enum class Kind : uint8_t { kSuccess, kError, kTimeout };
  Kind kind = Kind::kSuccess;
  uint32_t request = 0;  // what the call that began it returned; 0 for the client's own refreshes
  Method method{};
  int code = 0;  // of the error response; 0 when the client itself refused the answer
  std::string reason;
  uint64_t round_trip_ns = 0;  // from the first send of the last transaction of this request
  std::optional<TransportAddress> alternate_server;  // with 300
};

enum class Received : uint8_t { kIgnored, kResponse, kIndication, kChannelData };

class TurnClient {
 public:
  // `credentials` outlives the client and belongs to the same thread; nullptr: none.
  TurnClient(const ClientConfig& config, Credentials* credentials, uint64_t seed);

  // Each begins one request and returns its number, which the event repeats.
  uint32_t binding(uint64_t now);
  uint32_t allocate(const AllocateOptions& options, uint64_t now);
  uint32_t refresh(uint32_t lifetime_s, uint64_t now);  // 0 releases the allocation
  uint32_t create_permission(std::span<const TransportAddress> peers, uint64_t now);
  uint32_t channel_bind(uint16_t channel, const TransportAddress& peer, uint64_t now);

  Received receive(Bytes datagram, uint64_t now);
  void tick(uint64_t now);
  [[nodiscard]] uint64_t next_deadline() const;

  // The next datagram to send to the server; valid until the next call of anything.
  [[nodiscard]] std::optional<Bytes> poll_transmit();
  [[nodiscard]] std::optional<Event> poll_event();

  [[nodiscard]] bool allocated() const { return !relayed_.empty(); }
  [[nodiscard]] const std::vector<TransportAddress>& relayed() const { return relayed_; }
  [[nodiscard]] const std::optional<TransportAddress>& mapped() const { return mapped_; }
  [[nodiscard]] const std::optional<uint64_t>& reservation_token() const { return token_; }
  [[nodiscard]] std::optional<ErrorCode> address_error() const { return address_error_; }
  [[nodiscard]] uint32_t lifetime_s() const { return lifetime_s_; }
  [[nodiscard]] PasswordAlgorithm algorithm() const { return algorithm_; }
  [[nodiscard]] size_t in_flight() const { return transactions_.size(); }
  [[nodiscard]] uint64_t retransmissions() const { return retransmissions_; }

 private:
  struct Body {  // what a request says apart from its authentication, to be able to ask again
    uint32_t request = 0;
    Method method{};
    AllocateOptions allocate;
    uint32_t lifetime_s = 0;
    uint16_t channel = 0;
    std::vector<TransportAddress> peers;
  };
  struct Transaction {
    TransactionId id{};
    Body body;
    std::vector<uint8_t> datagram;
    uint64_t first_sent_ns = 0;
    uint64_t deadline_ns = 0;
    uint64_t interval_ns = 0;
    unsigned sent = 0;
    unsigned attempts = 0;  // authentication rounds, against a server that never is content
    bool authenticated = false;
    bool due = true;  // to be transmitted
  };
  struct Bound {
    uint16_t channel = 0;  // 0: a permission alone
    TransportAddress peer;
    uint64_t refresh_at_ns = 0;
  };

  uint32_t start(Body body, uint64_t now);
  void launch(Body body, unsigned attempts, uint64_t now);
  [[nodiscard]] std::vector<uint8_t> encode(const Body& body, const TransactionId& id,
                                            bool authenticated);
  void encode_allocate(MessageBuilder& message, const AllocateOptions& options) const;
  void authenticate(MessageBuilder& message);
  void on_success(Transaction done, const MessageView& message, uint64_t now);
  void on_allocated(const MessageView& message, uint64_t now);
  void on_error(Transaction done, const MessageView& message, uint64_t now);
  // Takes realm, nonce and algorithms of a 401 or 438; false with the reason when it must not.
  [[nodiscard]] bool take_challenge(const MessageView& message, std::string& reason);
  [[nodiscard]] bool response_authentic(const Transaction& transaction,
                                        const MessageView& message) const;
  void remember(const Body& body, uint64_t now);
  void keep_alive(uint64_t now);
  void finish(const Transaction& done, Event::Kind kind, int code, std::string reason,
              uint64_t now);
  TransactionId new_id();

  const ClientConfig* config_;
  Credentials* credentials_;
  uint64_t random_;
  uint32_t next_request_ = 1;
  std::string realm_;
  std::string nonce_;
  std::vector<uint8_t> offered_;  // PASSWORD-ALGORITHMS as it came, to be sent back unchanged
  PasswordAlgorithm algorithm_ = PasswordAlgorithm::kMd5;
  bool use_userhash_ = false;
  std::vector<TransportAddress> relayed_;
  std::optional<TransportAddress> mapped_;
  std::optional<uint64_t> token_;
  std::optional<ErrorCode> address_error_;
  uint32_t lifetime_s_ = 0;
  uint64_t refresh_at_ns_ = kNever;
  std::vector<Bound> bound_;
  std::vector<Transaction> transactions_;
  std::vector<Event> events_;  // a vector: an empty deque costs half a KiB
  std::vector<uint8_t> sending_;
  uint64_t retransmissions_ = 0;
};

}  // namespace culvert::stun_client
