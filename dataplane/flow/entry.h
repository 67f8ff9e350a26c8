// The records of a core's tables, laid out by cache line, key first (a prefetch of the key brings
// the rest of the line). Sizes are the memory budget of the relay: see docs/limits.md.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dataplane/api/messages.h"
#include "dataplane/base/address.h"
#include "dataplane/flow/swiss_table.h"
#include "dataplane/path/datagram.h"

namespace culvert {

enum class FlowKind : uint8_t {
  kFromClient = 1,  // key: client's transport address, listener, channel number
  kFromPeer = 2,    // key: peer's transport address, relayed address and port
};

// Both sides IPv4. 16 bytes; every byte is part of the key, so it is hashed and compared as two
// words.
struct NarrowKey {
  uint32_t source_ip = 0;
  uint16_t source_port = 0;
  uint16_t local_address = 0;  // kFromClient: listener; kFromPeer: Snapshot::addresses
  uint16_t local_port = 0;     // kFromPeer only
  uint16_t channel = 0;        // kFromClient only
  FlowKind kind = FlowKind::kFromClient;
  uint8_t zero[3] = {};
};
static_assert(sizeof(NarrowKey) == 16);

// Any IPv6 side. IPv4 sources stand in v4-mapped form with their family beside them.
struct WideKey {
  std::array<uint8_t, 16> source_ip{};
  uint16_t source_port = 0;
  uint16_t local_address = 0;
  uint16_t local_port = 0;
  uint16_t channel = 0;
  FlowKind kind = FlowKind::kFromClient;
  Family family = Family::kNone;
  uint8_t zero[6] = {};
};
static_assert(sizeof(WideKey) == 32);

template <class Key>
[[nodiscard]] inline bool same_key(const Key& a, const Key& b) {
  return std::memcmp(&a, &b, sizeof a) == 0;  // no padding: fixed-size compare of 2 or 4 words
}

// The egress of a flow whose far end is a relayed port of this relay.
inline constexpr Egress kHairpinEgress = 0xfffffffe;

// One direction of a channel binding: everything the transform needs. `deadline` is the earliest of
// channel, permission and allocation, so a packet makes one comparison.
struct alignas(64) NarrowFlow {
  NarrowKey key;
  Ticks deadline = 0;
  uint32_t allocation = 0;
  Egress egress = kNoEgress;
  uint32_t to_ip = 0;
  uint16_t to_port = 0;
  uint16_t from_port = 0;
  uint16_t from_address = 0;
  uint16_t channel = 0;
  uint32_t policer = 0;
  uint32_t twin = kNoSlot;  // slot of the other direction
  // kFromClient: next channel of the same permission. kFromPeer: the channel's own deadline.
  uint32_t link = kNoSlot;
  uint32_t packets = 0;  // folded into the allocation at each refresh (at most every 600 s)
  uint64_t bytes = 0;
};
static_assert(sizeof(NarrowFlow) == 64);

struct alignas(64) WideFlow {
  WideKey key;
  Ticks deadline = 0;
  uint32_t allocation = 0;
  Egress egress = kNoEgress;
  TransportAddress to;
  // second line
  uint16_t from_port = 0;
  uint16_t from_address = 0;
  uint16_t channel = 0;
  uint16_t reserved = 0;
  uint32_t policer = 0;
  uint32_t twin = kNoSlot;
  uint32_t link = kNoSlot;
  uint32_t packets = 0;
  uint64_t bytes = 0;
};
static_assert(sizeof(WideFlow) == 128);

[[nodiscard]] inline TransportAddress destination(const NarrowFlow& flow) {
  return {IpAddress::v4(flow.to_ip), flow.to_port};
}
[[nodiscard]] inline const TransportAddress& destination(const WideFlow& flow) {
  return flow.to;
}
inline void set_destination(NarrowFlow& flow, const TransportAddress& to) {
  flow.to_ip = to.ip.v4_host();
  flow.to_port = to.port;
}
inline void set_destination(WideFlow& flow, const TransportAddress& to) {
  flow.to = to;
}

// A permission (RFC 8656 section 9): an allocation and a peer IP address, any port. 32 bytes. The
// heads of its channels in both tables hang off it, so a refresh reaches them without a search.
struct Permission {
  std::array<uint8_t, 16> peer{};  // v4-mapped for IPv4: peers of both families share one table
  uint32_t allocation = 0;
  Ticks deadline = 0;
  uint32_t next = kNoSlot;      // next permission of the allocation; bit 31 is kOwnAddress
  uint32_t channels = kNoSlot;  // first kFromClient flow (narrow or wide by family of both ends)
};
static_assert(sizeof(Permission) == 32);

struct AllocationLeg {
  RelayLeg relay;
  Egress egress = kNoEgress;
  Ticks deadline = 0;
};

// Read by Send, Data and commands; a channel's packets never touch it. 104 bytes: three fit two
// lines and a half, and a line more per allocation would cost the memory budget more than it gains.
struct Allocation {
  ClientTuple client;
  uint32_t generation = 0;
  uint32_t cookie = 0;
  AllocationLeg leg[2];  // IPv4, IPv6
  Egress client_egress = kNoEgress;
  uint32_t policer = 0;
  uint32_t permissions = kNoSlot;  // first of the list
  // kMaxPermissionsPerAllocation and kMaxChannelsPerAllocation fit 11 bits.
  uint32_t permission_count : 11 = 0;
  uint32_t channel_count : 11 = 0;
  uint32_t live : 1 = 0;
  uint32_t end_reason : 8 = 0;  // EndReason, for an end whose report had to wait
  AllocationCounters counters;  // without what still stands in its flows
};
static_assert(sizeof(Allocation) == 104);
static_assert(kMaxPermissionsPerAllocation < 1u << 11 && kMaxChannelsPerAllocation < 1u << 11);

[[nodiscard]] constexpr size_t leg_index(Family family) {
  return family == Family::kIpv6 ? 1 : 0;
}

// A client whose allocation another core owns (a used reservation).
struct Redirect {
  ClientTuple client;
  CoreId owner = 0;
  uint16_t reserved = 0;
};

// What a relayed port of this core is: free, held by a reservation, or an allocation's.
struct PortEntry {
  static constexpr uint32_t kFree = 0xffffffff;
  static constexpr uint32_t kHeld = 0xfffffffe;
  uint32_t allocation = kFree;
  Egress egress = kNoEgress;
};

// Token bucket of one user on one core, both directions of all of its allocations together. 32
// bytes: two to a line, and a burst prefetches them while its flows are being resolved.
struct alignas(32) Policer {
  uint64_t rate_bytes_per_second = 0;  // 0: unlimited
  int64_t burst_bytes = 0;
  int64_t tokens_bytes = 0;
  Ticks last = 0;
  uint32_t remainder =
      0;  // of a byte, in thousandths: without it 1999 B/s asked each ms would be 1000

  // Refill after longer silence than this is this much: it fills any burst, and the product below
  // stays within 64 bits up to 5 TB/s.
  static constexpr uint32_t kMaxRefillMs = 3'600'000;

  [[nodiscard]] bool admit(uint32_t bytes, Ticks now) {
    if (rate_bytes_per_second == 0) return true;
    if (now != last) {
      const uint32_t elapsed = now - last < kMaxRefillMs ? now - last : kMaxRefillMs;
      const uint64_t refill = rate_bytes_per_second * elapsed + remainder;
      tokens_bytes += static_cast<int64_t>(refill / 1000);
      remainder = static_cast<uint32_t>(refill % 1000);
      if (tokens_bytes > burst_bytes) tokens_bytes = burst_bytes;
      last = now;
    }
    if (tokens_bytes < static_cast<int64_t>(bytes)) return false;
    tokens_bytes -= static_cast<int64_t>(bytes);
    return true;
  }
};
static_assert(sizeof(Policer) == 32);

}  // namespace culvert
