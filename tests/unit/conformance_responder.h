// A small TURN server over UDP for judging the conformance suite: right by default, and wrong in
// one named way on request. It stands on the suite's own codec and sockets and shares nothing with
// Culvert, so a suite that passes both has not been fitted to one. Simple before fast: one thread,
// linear searches, blocking calls. Its clock is the suite's: waits of minutes are skipped on both
// sides at once.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tools/culvert-conformance/session.h"

namespace culvert::conformance {

enum class Fault : uint8_t {
  kNone,
  // STUN
  kAnswersWithoutCookie,
  kAnswersUnknownMethods,
  kUnknownBeforeAuthentication,
  kUnknownNamedTwice,
  kUnknownIgnoredInIndications,
  kOptionalIsRequired,
  kLastDuplicateCounts,
  kPaddingNotZero,
  kReadsAfterIntegrity,
  kAnswersFromTwoPorts,
  kRetransmissionRefused,
  kMappedAddressChanges,
  kBindingCarriesNonce,
  kBindingNeedsCredentials,
  kFingerprintUnchecked,
  kIntegrityCoversFingerprint,
  kTruncatedSha256Accepted,
  kReasonPadded,
  kNonceTooLong,
  kLongUserRefused,
  kNoSoftware,
  // Credentials
  kChallengeNamesUser,
  kNonceForEveryone,
  kMissingUserIs401,
  kNonceFirst,
  kOtherRealmIs400,
  kWrongIntegrityIs400,
  kStaleWithoutNonce,
  kNoCookieInNonce,
  kBidDownAccepted,
  kSha1Preferred,
  kErrorsUnsigned,
  kMd5WithSha256Refused,
  kUserhashUnknown,
  // Allocate and Refresh
  kNoAllocations,
  kOccupiedBeforeAuthentication,
  kSecondAllocateAccepted,
  kRetransmittedAllocateIs437,
  kOtherTransportIs400,
  kDontFragmentIs400,
  kTokenWithFamilyIs508,
  kUnknownTokenIs404,
  kBothFamiliesAccepted,
  kUnknownFamilyIsIpv4,
  kEvenPortWithBothAccepted,
  kTokenGivesAnyPort,
  kAdditionalIpv4Accepted,
  kPortsInSequence,
  kSeventhPortReused,
  kLifetimeAsAsked,
  kNoLifetime,
  kNoMappedAddress,
  kRefreshZeroAlways,
  kRefreshOfAnyFamily,
  kPermissionExtendsAllocation,
  kNoAllocationIs400,
  kOtherUserAccepted,
  kNonceNeverChanges,
  kTupleHeldAfterRelease,
  // Permissions, Send and Data
  kSendRenewsPermission,
  kPermissionOfPort,
  kPermissionsNotAtomic,
  kOtherFamilyIs403,
  kMulticastAllowed,
  kEmptyDataDropped,
  kSendNeedsNoPermission,
  kSendWithoutPermissionAnswered,
  kSendWithDontFragmentDropped,
  kPeerNeedsNoPermission,
  kDataInsteadOfChannelData,
  kNoIcmpWithChannel,
  kIcmpReservedSet,
  // Channels
  kChannelsTo7fff,
  kSecondChannelOfPeer,
  kChannelLivesLonger,
  kChannelNeverFree,
  kChannelOfAnyPort,
  kPaddingPassedOn,
  kShortChannelDataSent,
  kEmptyChannelDataDropped,
  kChannelDataRenews,
  kRetransmittedBindIs400,
  // Headers, loops, tunnels
  kTosCleared,
  kTtlFixed,
  kDontFragmentAcrossFamilies,
  kOptionsCopied,
  kAnyFirstByte,
  kOwnAddressAllowed,
  kTunnelsAllowed,
  // Seen by a capture
  kIcmpSourceChecked,
  kDontFragmentAlways,
  kFlowLabelCopied,
  kTooBigSwallowed,
  kFragmentsSwallowed,
  kTtlCopiedToIpv4,
  kTosInvented,
  kCount,
};

inline constexpr const char* kResponderUser = "demo";
inline constexpr const char* kResponderPassword = "secret";
inline constexpr const char* kResponderOther = "other";

class Responder {
 public:
  struct Families {
    bool ipv4 = true, ipv6 = true;  // relayed addresses to be had
  };
  // Listens on `ip` and on ::1, and relays from there; each `ip` has all ports to itself.
  Responder(Fault fault, const IpAddress& ip, Families families);
  ~Responder();
  Responder(const Responder&) = delete;
  Responder& operator=(const Responder&) = delete;

  // For a suite whose client asks over IPv4 and has IPv6 at hand.
  [[nodiscard]] Target target();

 private:
  // A request as this server reads it: without what stands behind the integrity.
  struct Request {
    const MessageView* view;
    std::vector<stun_client::AttributeView> read;
    UdpSocket* listener;
    TransportAddress client;
    bool last_counts;
    [[nodiscard]] const stun_client::AttributeView* find(Attr type) const;
    [[nodiscard]] bool has(Attr type) const { return find(type) != nullptr; }
    [[nodiscard]] std::string text(Attr type) const;
    [[nodiscard]] std::optional<uint32_t> u32(Attr type) const;
  };
  struct Caller {  // who asks, and how the answer is signed
    std::string user;
    stun_client::Key key;
    bool sha256 = false;
  };
  struct Channel {
    uint16_t number;
    TransportAddress peer;
    Clock::time_point end;
  };
  struct Allocation {
    UdpSocket* listener;
    TransportAddress client;
    std::string user;
    TransactionId id;
    std::vector<uint8_t> answer;
    std::vector<std::unique_ptr<UdpSocket>> relays;
    std::map<std::string, Clock::time_point> permissions;
    std::vector<Channel> channels;
    std::set<uint16_t> bound_before;
    Clock::time_point end;
  };
  struct Plan {  // what an Allocate asks for
    bool ipv4 = true, ipv6 = false;
    bool even = false, reserve = false;
    int refused_family = 0;  // ADDRESS-ERROR-CODE is due for it
    std::string token;
  };

  [[nodiscard]] bool broken(Fault fault) const { return fault_ == fault; }
  [[nodiscard]] Clock::time_point now() const;
  void serve();
  void expire();

  // STUN
  void on_datagram(UdpSocket& listener, const Datagram& got);
  void on_message(UdpSocket& listener, const TransportAddress& from, Bytes bytes,
                  const Datagram& got);
  [[nodiscard]] Request read(const MessageView& view, UdpSocket& listener,
                             const TransportAddress& from) const;
  [[nodiscard]] std::vector<uint16_t> unknown(const Request& r) const;
  [[nodiscard]] bool fingerprint_good(const Request& r) const;
  void on_request(const Request& r);
  void on_binding(const Request& r);
  [[nodiscard]] MessageBuilder begin(const Request& r, Class cls) const;
  [[nodiscard]] MessageBuilder error(const Request& r, int code) const;
  void refuse(const Request& r, int code, const Caller* caller = nullptr);
  void refuse_unknown(const Request& r, const std::vector<uint16_t>& types, const Caller* caller);
  void finish(const Request& r, MessageBuilder& answer, const Caller* caller);
  void send_answer(UdpSocket& listener, const TransportAddress& to, Bytes bytes);

  // Credentials (RFC 8489 section 9.2.4)
  void challenge(const Request& r, int code);
  [[nodiscard]] std::string new_nonce(const TransportAddress& client);
  [[nodiscard]] bool nonce_good(const Request& r) const;
  [[nodiscard]] std::optional<std::string> user_of(const Request& r) const;
  [[nodiscard]] bool algorithms_good(const Request& r) const;
  [[nodiscard]] bool integrity_good(const Request& r, Caller& caller) const;
  [[nodiscard]] bool realm_and_user_good(const Request& r, Caller& caller);
  [[nodiscard]] std::optional<Caller> authenticate(const Request& r);

  // TURN requests
  [[nodiscard]] Allocation* find(const TransportAddress& client);
  void on_allocate(const Request& r, const Caller& caller);
  [[nodiscard]] int plan(const Request& r, Plan& out) const;
  [[nodiscard]] int plan_families(const Request& r, Plan& out) const;
  [[nodiscard]] std::vector<std::unique_ptr<UdpSocket>> open(const Plan& plan, std::string& token);
  [[nodiscard]] std::unique_ptr<UdpSocket> open_port(const IpAddress& ip, bool even);
  void answer_allocate(const Request& r, const Caller& caller, const Plan& plan, Allocation& a,
                       const std::string& token);
  [[nodiscard]] uint32_t lifetime(const Request& r) const;
  void on_refresh(const Request& r, const Caller& caller);
  void on_permission(const Request& r, const Caller& caller);
  void on_channel(const Request& r, const Caller& caller);
  [[nodiscard]] Allocation* allocation_for(const Request& r, const Caller& caller);
  [[nodiscard]] int judge_peers(const Request& r, const Allocation& a) const;
  [[nodiscard]] bool forbidden(const TransportAddress& peer) const;
  void permit(Allocation& a, const TransportAddress& peer);
  [[nodiscard]] std::string permission_name(const TransportAddress& peer) const;
  [[nodiscard]] bool permitted(Allocation& a, const TransportAddress& peer) const;
  [[nodiscard]] int channel_code(const Allocation& a, uint16_t number,
                                 const TransportAddress& peer) const;

  // Data
  void on_send(const Request& r, const Datagram& got);
  void on_channel_data(const TransportAddress& from, const Datagram& got);
  void to_peer(Allocation& a, const TransportAddress& peer, Bytes data, const Datagram& carried,
               bool dont_fragment);
  void from_peer(Allocation& a, const UdpSocket& relay, const Datagram& got);
  void from_error_queue(Allocation& a, UdpSocket& relay);
  void tell_icmp(Allocation& a, const TransportAddress& peer, uint8_t type, uint8_t code,
                 uint32_t info);
  void to_client(Allocation& a, Bytes datagram, const Datagram& carried);
  void set_header(UdpSocket& socket, const Datagram& carried) const;

  const Fault fault_;
  const IpAddress ip_;
  const Families families_;
  UdpSocket listener4_, listener6_, other_port_;
  std::map<std::string, std::string> nonces_;   // nonce: the client it was given to
  std::map<std::string, unsigned> challenges_;  // client: how many it has had
  std::set<TransactionId> transactions_;
  std::vector<std::unique_ptr<Allocation>> allocations_;
  std::map<std::string, std::unique_ptr<UdpSocket>> reserved_;
  std::map<std::string, Clock::time_point> released_;
  uint16_t next_port_ = 50'000;
  uint16_t changing_ = 1000;
  std::atomic<int64_t> skipped_ns_ = 0;
  std::atomic<bool> ended_ = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace culvert::conformance
