// Datagrams as the packet path sees them: addresses, header fields and payload, never a driver's
// types. A driver fills RxDatagram and sends TxDatagram; the path itself never touches the payload.
//
// A TxDatagram leaves as head + payload + pad. The head (a channel header, or the attributes around
// a Data indication) is at most kMaxHead bytes. A kernel-socket driver sends the pieces as an
// iovec, so segments of a GRO run are never copied apart; a DPDK driver writes the head into mbuf
// headroom.
#pragma once

#include <array>
#include <cstdint>

#include "dataplane/api/limits.h"
#include "dataplane/api/messages.h"
#include "dataplane/base/address.h"

namespace culvert {

enum class RxKind : uint8_t {
  kClient,     // to a listener
  kPeer,       // to a relayed port
  kIcmpError,  // an ICMP error about a datagram sent from a relayed port
};

// What the driver knows of received DF; kernel sockets cannot tell (turn.md row 97).
enum class DontFragment : uint8_t { kUnknown, kClear, kSet };

// What a driver that sees frames knows of the sender's UDP checksum. It travels with a datagram
// that another core will send, so that the new checksum still reveals damage to the payload.
enum class PayloadSum : uint8_t {
  kUnknown,  // the driver cannot tell: the sender of the new datagram computes a fresh one
  kAbsent,   // an IPv4 sender used none
  kKnown,    // payload_sum holds
};

// Hash of the key when the driver handed a packet over from another core, etc. is not carried: it
// is recomputed by the owner.
struct RxDatagram {
  const uint8_t* payload = nullptr;  // UDP payload; for kIcmpError the inner UDP payload or nothing
  uint16_t length = 0;
  RxKind kind = RxKind::kClient;
  uint8_t ttl = 64;
  uint8_t tos = 0;  // DSCP and ECN
  DontFragment df = DontFragment::kUnknown;
  uint16_t listener = 0;    // kClient: Snapshot::listeners
  RelayLeg relay;           // kPeer, kIcmpError: the relayed port concerned
  TransportAddress source;  // kIcmpError: the peer the lost datagram was sent to
  uint8_t icmp_type = 0;    // kIcmpError: of the family of `source`
  uint8_t icmp_code = 0;
  uint8_t hops_done = 0;     // path's own: 1 on the second pass of a hairpin
  uint8_t handed_over = 0;   // cores that passed it on over a ring before this one
  uint32_t icmp_mtu = 0;     // next-hop MTU where the type carries one, else 0
  uint16_t payload_sum = 0;  // ones' complement sum of the payload, as the sender stated it
  PayloadSum sum_state = PayloadSum::kUnknown;
};
static_assert(sizeof(RxDatagram) <= 64);

// Driver's name for the socket or port a datagram leaves by.
using Egress = uint32_t;
inline constexpr Egress kNoEgress = 0xffffffff;

inline constexpr size_t kMaxHead = 64;
// Longest UDP payload over IPv4: 65535 - 20 - 8. IPv6 allows 20 more; one limit serves both.
inline constexpr size_t kMaxUdpPayload = 65507;

struct TxDatagram {
  const uint8_t* payload = nullptr;
  uint16_t length = 0;      // of payload
  uint8_t head_length = 0;  // bytes of `head` before the payload
  uint8_t pad_length = 0;   // zero bytes after it (0..3)
  Egress egress = kNoEgress;
  TransportAddress to;
  uint16_t from_address = 0;  // Snapshot::addresses
  uint16_t from_port = 0;
  uint8_t ttl = 64;
  uint8_t tos = 0;
  bool dont_fragment = false;
  std::array<uint8_t, kMaxHead> head;  // not initialised beyond head_length

  [[nodiscard]] size_t size() const { return size_t{head_length} + length + pad_length; }
};

struct TxBurst {
  uint32_t count = 0;
  // Payloads of received datagrams whose TTL ended here: a driver that can tells their senders, as
  // a router would (RFC 8656 section 13).
  uint32_t expired_count = 0;
  std::array<TxDatagram, kMaxBurst> items;
  std::array<const uint8_t*, kMaxBurst> expired;
};

}  // namespace culvert
