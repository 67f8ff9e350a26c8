// What control and a fast core say to each other. Every message is a fixed part of 128 bytes (two
// ring slots) that starts with a MessageHeader, then `payload_len` bytes. Plain data, no pointers.
//
// The rule that makes answers safe: the success response of a request travels *inside* the command
// that makes it true. The core applies the command and only then sends those bytes to the client
// (DESIGN 5). When it cannot apply it, nothing changes and a CommandFailed event brings the bytes
// back so that control can answer with an error.
//
// Who knows what: control owns users, quotas, ports, nonces' keys and the map from 5-tuple to
// allocation. The core owns permissions, channels, expiry and counters.
#pragma once

#include <cstdint>
#include <type_traits>

#include "dataplane/api/limits.h"
#include "dataplane/base/address.h"
#include "dataplane/base/spsc_ring.h"
#include "dataplane/base/ticks.h"

namespace culvert {

inline constexpr uint32_t kFixedSlots = 2;
inline constexpr uint32_t kFixedBytes = kFixedSlots * sizeof(RingSlot);

// Names an allocation on its core. Control draws the index from the core's pool and bumps the
// generation at each use, so a late command never reaches a successor.
struct AllocationHandle {
  uint32_t index = 0;
  uint32_t generation = 0;
  friend bool operator==(const AllocationHandle&, const AllocationHandle&) = default;
};

// A client's side of the 5-tuple: its transport address and our listener (Snapshot::listeners).
struct ClientTuple {
  TransportAddress client;
  uint16_t listener = 0;
  uint16_t reserved = 0;
  friend bool operator==(const ClientTuple&, const ClientTuple&) = default;
};
static_assert(sizeof(ClientTuple) == 24);

// One relayed transport address of an allocation. address == kNoAddress: this family is absent.
struct RelayLeg {
  static constexpr uint16_t kNoAddress = 0xffff;
  uint16_t address = kNoAddress;  // Snapshot::addresses
  uint16_t port = 0;
  [[nodiscard]] bool present() const { return address != kNoAddress; }
};

// Bits for "which family of the allocation": both at once on an ordinary one.
inline constexpr uint8_t kLegIpv4 = 1;
inline constexpr uint8_t kLegIpv6 = 2;

// ---------------------------------------------------------------- control -> core

enum class CommandType : uint16_t {
  kInstallAllocation = 1,
  kRefreshAllocation,
  kRemoveAllocation,
  kCreatePermission,
  kBindChannel,
  kSendReply,
  kClosePort,
  kInstallRedirect,
  kRemoveRedirect,
  kSetPolicer,
  kJoinPolicer,
  kQueryAllocation,
  kExplain,
  kTrace,  // api/trace.h
};

struct CommandHead {
  MessageHeader header;
  uint32_t sequence = 0;  // filled in by the engine; the core publishes the last one applied
  uint32_t cookie = 0;    // returned in events; control's own meaning
};

// Payload: the Allocate success response.
struct InstallAllocation : CommandHead {
  static constexpr auto kType = CommandType::kInstallAllocation;
  AllocationHandle handle;
  ClientTuple client;
  RelayLeg ipv4;
  RelayLeg ipv6;
  uint32_t lifetime_ms = 0;
  uint32_t policer = 0;           // 0: unlimited
  uint16_t ingress_core = 0;      // where the client's packets arrive; differs from the owner only
                                  // for a used reservation
  uint8_t reserve_next = 0;       // EVEN-PORT R=1: hold port + 1 as well
  uint8_t port_already_open = 0;  // the leg is a held reservation
};

// Payload: the Refresh success response.
struct RefreshAllocation : CommandHead {
  static constexpr auto kType = CommandType::kRefreshAllocation;
  AllocationHandle handle;
  uint32_t lifetime_ms = 0;
  uint8_t legs = kLegIpv4 | kLegIpv6;
};

enum class EndReason : uint8_t { kExpired = 0, kDeleted, kClosedByOperator, kShutdown, kCount };

// Payload: the Refresh success response (lifetime 0), or none when the operator closes.
struct RemoveAllocation : CommandHead {
  static constexpr auto kType = CommandType::kRemoveAllocation;
  AllocationHandle handle;
  uint8_t legs = kLegIpv4 | kLegIpv6;
  EndReason reason = EndReason::kDeleted;
};

struct PermissionPeer {
  IpAddress ip;
  uint8_t own_address = 0;  // a relayed address of ours: reached only by hairpin
  uint16_t reserved = 0;
};
static_assert(sizeof(PermissionPeer) == 20);

// Payload: peer_count PermissionPeers, then the success response. All or nothing.
struct CreatePermission : CommandHead {
  static constexpr auto kType = CommandType::kCreatePermission;
  AllocationHandle handle;
  uint32_t peer_count = 0;
  uint32_t lifetime_ms = kPermissionLifetimeSeconds * 1000;
};

// Payload: the success response. Installs or refreshes the peer's permission too.
struct BindChannel : CommandHead {
  static constexpr auto kType = CommandType::kBindChannel;
  AllocationHandle handle;
  TransportAddress peer;
  uint16_t channel = 0;
  uint8_t own_address = 0;
  uint8_t reserved = 0;
  uint32_t lifetime_ms = kChannelLifetimeSeconds * 1000;
  uint32_t permission_lifetime_ms = kPermissionLifetimeSeconds * 1000;
};

// Payload: bytes for the client (error responses).
struct SendReply : CommandHead {
  static constexpr auto kType = CommandType::kSendReply;
  ClientTuple client;
};

// Gives up a held reservation.
struct ClosePort : CommandHead {
  static constexpr auto kType = CommandType::kClosePort;
  RelayLeg leg;
};

// This client's packets arrive here but its allocation lives on `owner` (used reservation).
struct InstallRedirect : CommandHead {
  static constexpr auto kType = CommandType::kInstallRedirect;
  ClientTuple client;
  uint16_t owner = 0;
};
struct RemoveRedirect : CommandHead {
  static constexpr auto kType = CommandType::kRemoveRedirect;
  ClientTuple client;
};

// Policer 0: everything on this core together. rate 0: unlimited. Both directions of all of a
// user's allocations on this core share one bucket.
struct SetPolicer : CommandHead {
  static constexpr auto kType = CommandType::kSetPolicer;
  uint32_t policer = 0;
  uint32_t reserved = 0;
  uint64_t rate_bytes_per_second = 0;
  uint64_t burst_bytes = 0;
};

// An allocation that is there counts in this policer from now on, with all of its channels.
struct JoinPolicer : CommandHead {
  static constexpr auto kType = CommandType::kJoinPolicer;
  AllocationHandle handle;
  uint32_t policer = 0;
};

struct QueryAllocation : CommandHead {
  static constexpr auto kType = CommandType::kQueryAllocation;
  AllocationHandle handle;
};

// What would happen to a datagram from `from` to `listener` (or, if to_relay, to that relayed
// port)?
struct Explain : CommandHead {
  static constexpr auto kType = CommandType::kExplain;
  TransportAddress from;
  uint16_t listener = 0;
  RelayLeg relay;        // used when present()
  uint16_t channel = 0;  // ChannelData on this number; 0: a Send indication to `peer`
  TransportAddress peer;
};

// ---------------------------------------------------------------- core -> control

enum class EventType : uint16_t {
  kRequest = 1,
  kCommandFailed,
  kAllocationEnded,
  kAllocationReport,
  kExplainReport,
};

struct EventHead {
  MessageHeader header;
  uint32_t cookie = 0;  // of the command this answers, or of the allocation (its InstallAllocation)
  Ticks at = 0;
};

// A request with integrity. Payload: the STUN message as received.
struct Request : EventHead {
  static constexpr auto kType = EventType::kRequest;
  ClientTuple client;
  uint8_t nonce_valid = 0;  // nonce is ours, for this client address, and young enough
  uint8_t reserved[3] = {};
};

enum class ApplyError : uint8_t {
  kNone = 0,
  kNoSuchAllocation,  // ended before the command came: 437
  kPortInUse,         // the operating system refused the port: draw another
  kTableFull,         // 508
  kChannelConflict,   // channel bound to another peer, or peer to another channel: 400
  kFamilyMismatch,    // no relayed address of the peer's family: 443
  kCount,
};

// Nothing was applied. Payload: the response that was not sent (may be empty).
struct CommandFailed : EventHead {
  static constexpr auto kType = EventType::kCommandFailed;
  CommandType command = CommandType::kSendReply;
  ApplyError error = ApplyError::kNone;
  uint8_t failed_legs = 0;  // kPortInUse: which family's port
  AllocationHandle handle;
  ClientTuple client;
};

// Both directions as the relay saw them, payload bytes (application data, without TURN framing).
struct AllocationCounters {
  uint64_t packets_to_peer = 0;
  uint64_t bytes_to_peer = 0;
  uint64_t packets_to_client = 0;
  uint64_t bytes_to_client = 0;
};

// The last word on a handle: its index may be reused after this event. Its relayed ports are
// closed; a port held by reserve_next stays open until ClosePort or its use.
struct AllocationEnded : EventHead {
  static constexpr auto kType = EventType::kAllocationEnded;
  AllocationHandle handle;
  AllocationCounters counters;
  EndReason reason = EndReason::kExpired;
  uint8_t legs = 0;       // which families ended now
  uint8_t legs_left = 0;  // 0: the allocation is gone; else only one family of it
};

struct AllocationReport : EventHead {
  static constexpr auto kType = EventType::kAllocationReport;
  AllocationHandle handle;  // as asked; live == 0 when it was gone
  AllocationCounters counters;
  uint32_t live = 0;
  uint32_t permissions = 0;
  uint32_t channels = 0;
  uint32_t remaining_ms = 0;
};

struct ExplainReport : EventHead {
  static constexpr auto kType = EventType::kExplainReport;
  uint8_t outcome = 0;  // Outcome the datagram would end in
  uint8_t has_allocation = 0;
  uint16_t channel = 0;
  AllocationHandle handle;
  TransportAddress to;  // where it would be sent
  RelayLeg from_relay;  // relayed address it would leave from, when to a peer
  uint32_t permission_remaining_ms = 0;
  uint32_t channel_remaining_ms = 0;
};

template <class T>
concept RingMessage = std::is_trivially_copyable_v<T> && sizeof(T) <= kFixedBytes;

static_assert(RingMessage<InstallAllocation> && RingMessage<RefreshAllocation> &&
              RingMessage<RemoveAllocation> && RingMessage<CreatePermission> &&
              RingMessage<BindChannel> && RingMessage<SendReply> && RingMessage<ClosePort> &&
              RingMessage<InstallRedirect> && RingMessage<SetPolicer> && RingMessage<JoinPolicer> &&
              RingMessage<QueryAllocation> && RingMessage<Explain>);
static_assert(RingMessage<Request> && RingMessage<CommandFailed> && RingMessage<AllocationEnded> &&
              RingMessage<AllocationReport> && RingMessage<ExplainReport>);
static_assert(kMaxStunMessage <= (SpscRing::kMinSlots / 4 - kFixedSlots) * sizeof(RingSlot));

// Writes one message. False: the ring is full, nothing was written. `payload` is two pieces so that
// a list and a response need no copy before.
template <RingMessage T>
[[nodiscard]] bool ring_write(SpscRing& ring, T message, std::span<const uint8_t> first = {},
                              std::span<const uint8_t> second = {}) {
  const size_t payload = first.size() + second.size();
  const auto slots =
      static_cast<uint32_t>(kFixedSlots + (payload + sizeof(RingSlot) - 1) / sizeof(RingSlot));
  if (slots > ring.longest_message()) return false;
  RingSlot* to = ring.reserve(slots);
  if (to == nullptr) return false;
  message.header.type = static_cast<uint16_t>(T::kType);
  message.header.slots = static_cast<uint16_t>(slots);
  message.header.payload_len = static_cast<uint32_t>(payload);
  std::memcpy(static_cast<void*>(to), &message, sizeof message);
  uint8_t* bytes = to[kFixedSlots].bytes;
  if (!first.empty()) std::memcpy(bytes, first.data(), first.size());
  if (!second.empty()) std::memcpy(bytes + first.size(), second.data(), second.size());
  ring.commit();
  return true;
}

// A message as it lies in a ring.
class MessageView {
 public:
  explicit MessageView(const RingSlot* at) : at_(at) {
    std::memcpy(static_cast<void*>(&header_), at, sizeof header_);
  }
  [[nodiscard]] uint16_t type() const { return header_.type; }
  [[nodiscard]] uint16_t slots() const { return header_.slots; }
  template <RingMessage T>
  [[nodiscard]] T as() const {
    T out;
    std::memcpy(static_cast<void*>(&out), at_, sizeof out);
    return out;
  }
  [[nodiscard]] std::span<const uint8_t> payload() const {
    return {at_[kFixedSlots].bytes, header_.payload_len};
  }

 private:
  const RingSlot* at_;
  MessageHeader header_;
};

}  // namespace culvert
