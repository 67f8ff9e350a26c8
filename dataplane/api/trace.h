// The packet trace: what control asks a fast core to show of its next datagrams, and what the core
// then writes, one record for each, into a ring of its own that loses rather than waits. While no
// trace is on, it costs one predictable branch a burst.
#pragma once

#include "dataplane/api/messages.h"

namespace culvert {

// Datagrams of one trace over all cores, and how long it may take.
inline constexpr uint32_t kMaxTraceDatagrams = 100'000;
inline constexpr uint32_t kMaxTraceSeconds = 600;
// Bytes of one UDP payload that a trace takes along: an Ethernet frame's, with room.
inline constexpr uint16_t kMaxTraceBytes = 2048;
// 64 bytes each: 256 KiB for each core, about two thousand records without payload.
inline constexpr uint32_t kTraceRingSlots = 4096;

enum class TraceBytes : uint8_t {
  kNone = 0,
  kHeaders,  // the STUN header or the channel's, nothing that users wrote
  kPayload,  // up to kMaxTraceBytes
};

// Shows the next `count` datagrams that match all that is given; count 0 ends the trace.
struct Trace : CommandHead {
  static constexpr auto kType = CommandType::kTrace;
  static constexpr uint8_t kAnyOutcome = 0xff;
  uint32_t count = 0;
  uint32_t duration_ms = 0;
  TransportAddress client;  // it comes from there or is sent there; no family: any; port 0: any
  TransportAddress peer;    // the same, for the other side
  uint16_t relay_port = 0;  // 0: any
  uint8_t outcome = kAnyOutcome;
  TraceBytes bytes = TraceBytes::kNone;
};

enum class TraceKind : uint8_t { kFromClient = 0, kFromPeer, kIcmpError, kSent };

// Then `captured` bytes of the UDP payload.
struct TraceRecord {
  static constexpr uint16_t kType = 1;
  static constexpr uint8_t kNoOutcome = 0xff;
  MessageHeader header;
  uint64_t unix_ns = 0;
  // Counts the datagrams of a core's trace from 1; what was sent has the number of what it was sent
  // for, 0: control's answer.
  uint32_t number = 0;
  uint16_t length = 0;  // of the UDP payload
  uint16_t captured = 0;
  TransportAddress from;
  TransportAddress to;
  TraceKind kind = TraceKind::kFromClient;
  uint8_t outcome = kNoOutcome;
  uint8_t second_outcome = kNoOutcome;  // of a hairpin's second pass
  uint8_t ttl = 0;
  uint8_t tos = 0;
  uint8_t handed_in = 0;  // it came from another core
};
static_assert(RingMessage<Trace> && RingMessage<TraceRecord>);

}  // namespace culvert
