// IPv4 and IPv6 fragments put together again (RFC 791, RFC 8200 section 4.5, RFC 5722): pure, no
// DPDK, no clock; all memory is taken by the constructor. A fixed table of datagrams under way; a
// new one takes the place of the oldest when the table, or the share of its source's prefix (/24,
// /56), is full: honest fragments come back to back and are done before a flood reaches them, and
// no flood can lock the table.
//
// Strict: fragments that overlap in any byte end their datagram, with all that still comes of it,
// in both families; an exact copy of a fragment is ignored. Everything here is the slow path: a
// fragment costs a walk over kMaxReassemblies words and a copy of its bytes (bounded further by
// FragmentBudget). What is complete stays in place until release(). Not thread-safe: where cores
// share a table, they lock it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "dataplane/base/siphash.h"
#include "dataplane/base/ticks.h"
#include "dataplane/wire/frame.h"

namespace culvert {

// Datagrams under way at once, all sources together, and of one /24 or /56.
inline constexpr uint32_t kMaxReassemblies = 256;
inline constexpr uint32_t kMaxReassembliesPerPrefix = 32;
// A datagram begins in a small buffer, which holds two frames of 1500 bytes, and moves to a large
// one, which holds any: 0.9 MiB and 2 MiB.
inline constexpr uint32_t kSmallReassemblyBytes = 4096;
inline constexpr uint32_t kLargeReassemblyBytes = 65536;
inline constexpr uint32_t kMaxLargeReassemblies = 32;
inline constexpr uint32_t kMaxLargePerPrefix = 8;
// Of one datagram: 65,535 bytes in frames of 1280 are 54.
inline constexpr uint32_t kMaxFragments = 64;
// Every fragment but the last carries at least this much; the smallest link in use (IPv4, 576)
// leaves 552.
inline constexpr uint32_t kMinFragmentBytes = 256;
// RFC 8200 gives up after 60 s. A relay's datagrams are stale long before, and IPv4's 16 bits of
// identification come round within seconds (RFC 4963).
inline constexpr Ticks kReassemblyLifetimeMs = 2000;
// Fragments that one core looks at in a second, and at once: at half a microsecond each they take
// 2.5 % of it.
inline constexpr uint32_t kMaxFragmentsPerSecond = 50000;
inline constexpr uint32_t kMaxFragmentBurst = 1000;

// A core's share of time for fragments.
class FragmentBudget {
 public:
  [[nodiscard]] bool take(Ticks now) {
    const uint32_t elapsed = now - last_;
    last_ = now;
    constexpr uint32_t kPerMs = kMaxFragmentsPerSecond / kTicksPerSecond;
    const uint64_t saved = left_ + uint64_t{elapsed} * kPerMs;
    left_ = saved > kMaxFragmentBurst ? kMaxFragmentBurst : static_cast<uint32_t>(saved);
    if (left_ == 0) return false;
    --left_;
    return true;
  }

 private:
  Ticks last_ = 0;
  uint32_t left_ = kMaxFragmentBurst;
};

class Reassembler {
 public:
  enum class Result : uint8_t {
    kHeld,       // more is awaited
    kComplete,   // this was the last one missing
    kNotUdp,     // of another protocol: not put together here
    kDuplicate,  // the same bytes at the same place, again
    kMalformed,  // empty, no multiple of 8 bytes, or beyond what a datagram can be
    kTiny,       // not the last, and fewer than kMinFragmentBytes
    kOverlap,    // other bytes than those there, beyond the end, or of a datagram that had such
    kTooMany,    // more than kMaxFragments
    kEcn,        // CE beside Not-ECT (RFC 3168 section 5.3)
    kFull,       // all places hold datagrams that are complete and not yet released
  };
  // Datagrams that ended incomplete, since they were last asked for.
  struct GivenUp {
    uint32_t timeout = 0;      // kReassemblyLifetimeMs
    uint32_t table_full = 0;   // for a newer one
    uint32_t prefix_full = 0;  // for a newer one of the same prefix
  };
  using Handle = uint32_t;

  // `key`: random, so that nobody can aim at a place of the table.
  explicit Reassembler(const SipKey& key);

  // `handle`: of what is complete; to be released.
  [[nodiscard]] Result take(const frame::Fragment& fragment, Ticks now, Handle& handle);
  // The datagram that is complete, as parse() would have it from one frame that was never cut, with
  // DF clear: what came in fragments may leave in fragments.
  [[nodiscard]] frame::Kind parse(Handle handle, frame::Verify verify, frame::Parsed& out) const;
  void release(Handle handle);
  // Whether a payload lies in here.
  [[nodiscard]] bool holds(const uint8_t* at) const;

  // Whether expire() has anything to do.
  [[nodiscard]] bool idle() const { return under_way_ == 0; }
  void expire(Ticks now);
  [[nodiscard]] GivenUp given_up();
  [[nodiscard]] uint32_t under_way() const { return under_way_; }

 private:
  enum class State : uint8_t { kFree, kGathering, kRefused, kComplete };
  struct Extent {
    uint16_t offset = 0;
    uint16_t length = 0;
  };
  struct Place {
    IpAddress source;
    IpAddress destination;
    uint32_t identification = 0;
    uint32_t bytes = 0;  // received
    uint32_t end = 0;    // of what has been received
    uint32_t total = 0;  // 0: the last has not come yet
    uint16_t headers = 0;
    uint8_t ttl = 0;
    uint8_t tos = 0;
    uint8_t ecn_seen = 0;  // bit per codepoint
    uint8_t count = 0;
    uint8_t* buffer = nullptr;
    std::array<Extent, kMaxFragments> extents;
  };
  static constexpr uint32_t kNone = 0xffffffff;

  [[nodiscard]] uint64_t hash_of(const frame::Fragment& fragment) const;
  [[nodiscard]] uint32_t find(const frame::Fragment& fragment, uint64_t hash) const;
  [[nodiscard]] uint32_t begin(const frame::Fragment& fragment, uint64_t hash, Ticks now);
  [[nodiscard]] Result add(uint32_t index, const frame::Fragment& fragment);
  [[nodiscard]] Result place_bytes(uint32_t index, const frame::Fragment& fragment);
  [[nodiscard]] bool make_room(uint32_t index, uint32_t end);
  [[nodiscard]] bool is_large(uint32_t index) const;
  // The oldest under way but `except`; of `prefix` where that is not 0, with a large buffer where
  // asked for. `count`: how many there are.
  [[nodiscard]] uint32_t oldest(uint64_t prefix, bool large, uint32_t except,
                                uint32_t& count) const;
  void refuse(uint32_t index);
  void drop(uint32_t index);
  void give_back(uint32_t index);

  SipKey key_;
  // What is walked, apart from the rest.
  std::array<uint64_t, kMaxReassemblies> hash_{};
  std::array<uint64_t, kMaxReassemblies> prefix_{};
  std::array<Ticks, kMaxReassemblies> begun_{};
  std::array<State, kMaxReassemblies> state_{};
  std::vector<Place> places_;
  uint32_t under_way_ = 0;
  Ticks expired_at_ = 0;
  GivenUp given_up_;
  std::vector<uint8_t> small_memory_;
  std::vector<uint8_t> large_memory_;
  std::vector<uint8_t*> small_free_;
  std::vector<uint8_t*> large_free_;
};

}  // namespace culvert
