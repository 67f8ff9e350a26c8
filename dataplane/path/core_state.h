// What process() works on: one fast core's tables, counters and mailboxes. Built by dataplane/core,
// used by that core's thread alone.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "dataplane/api/messages.h"
#include "dataplane/api/outcome.h"
#include "dataplane/api/stats.h"
#include "dataplane/flow/key.h"
#include "dataplane/flow/state.h"
#include "dataplane/path/datagram.h"

namespace culvert {

// Room for one answer made on a core: a 401 with the longest REALM (763 bytes) fits.
inline constexpr size_t kReplyBytes = 1024;

// A datagram on its way to the core that owns its relayed port; its payload follows.
struct Handoff {
  static constexpr uint16_t kType = 1;
  MessageHeader header;
  RxDatagram datagram;
};
static_assert(RingMessage<Handoff>);

enum class Step : uint8_t {
  kDone,          // outcome already counted
  kChannelData,   // ChannelData from a client, key built
  kPeerDatagram,  // from a peer to a relayed port, key built
  kStun,
  kPlainSend,    // a Send indication of the usual shape; slot: of BurstWork::without_flow
  kUnboundPeer,  // a kPeerDatagram without a channel, port and allocation found; slot: likewise
  kIcmpError,
};

// Scratch of one burst. Datagrams with a key are listed by the table they look in, densely, so that
// each look-up loop is uniform: no branch on kind or family inside it.
template <class Key>
struct KeyList {
  uint32_t count = 0;
  std::array<uint8_t, kMaxBurst> index;  // of the datagram in the burst
  std::array<Key, kMaxBurst> key;
  std::array<uint64_t, kMaxBurst> hash;

  void add(size_t i, const Key& k) {
    index[count] = static_cast<uint8_t>(i);
    key[count] = k;
    ++count;
  }
};
// A datagram that found no channel: what resolve_without_flow() found instead.
struct WithoutFlow {
  const PortEntry* port = nullptr;  // nullptr: a Send indication
  uint64_t hash = 0;                // of the client, then of the permission
  uint32_t allocation = kNoSlot;
  uint32_t permission = kNoSlot;
  TransportAddress peer;
  std::span<const uint8_t> data;  // of a Send indication
  uint8_t index = 0;              // of the datagram in the burst
};
struct BurstWork {
  std::array<Step, kMaxBurst> step;
  std::array<bool, kMaxBurst> wide;      // slot is of the wide table
  std::array<uint32_t, kMaxBurst> slot;  // of the flow, or kNoSlot
  uint32_t loose = 0;  // datagrams that may be resolve_without_flow()'s: none, no work
  KeyList<NarrowKey> narrow;
  KeyList<WideKey> wide_keys;
  std::array<WithoutFlow, kMaxBurst> without_flow;
};

struct CoreState {
  CoreState(Arena& arena, const CoreLimits& limits, const CoreSeeds& seeds, CoreId core,
            CoreStats& counters, Ticks now)
      : id(core), stats(counters), flows(arena, limits, seeds, now) {
    replies = arena.make<std::array<uint8_t, kReplyBytes>>(kMaxBurst).data();
    work = arena.make<BurstWork>(1).data();
    second = arena.make<RxDatagram>(kMaxBurst).data();
  }
  [[nodiscard]] static size_t arena_bytes(const CoreLimits& limits) {
    return FlowState::arena_bytes(limits) + kMaxBurst * (kReplyBytes + sizeof(RxDatagram)) +
           sizeof(BurstWork) + 4096;
  }

  CoreId id;
  CoreStats& stats;
  FlowState flows;
  SpscRing* events = nullptr;                  // to control
  std::array<SpscRing*, kMaxCores> handoff{};  // to each other core
  std::array<Egress, kMaxListeners> listener_egress{};
  std::array<uint8_t, kReplyBytes>* replies = nullptr;  // one per place in the outgoing burst
  BurstWork* work = nullptr;
  RxDatagram* second = nullptr;  // hairpins between the two passes
  bool wake_control = false;     // an event was written since the loop looked
  uint64_t wake_cores = 0;       // bit per core a handoff was written to

  void count(Outcome outcome) { stats.outcomes[static_cast<size_t>(outcome)].add(1); }
};

}  // namespace culvert
