// What the drivers that see frames share: under which name a frame's fate is counted, and what
// becomes of a datagram that is longer than the link it would leave by (RFC 8656 sections 13, 14).
//
// It is cut where its sender permits that: DF clear, or it came in fragments itself. Otherwise it
// is dropped, and its sender told what would fit.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "dataplane/api/frame_counter.h"
#include "dataplane/base/siphash.h"
#include "dataplane/base/ticks.h"
#include "dataplane/wire/frame.h"
#include "dataplane/wire/reassembly.h"

namespace culvert {

// ICMP errors that one core sends in a second, and at once (RFC 4443 section 2.4 (f)): 128 kB/s of
// the longest.
inline constexpr uint32_t kMaxIcmpErrorsPerSecond = 100;
// RFC 8656 section 13.2: room for a Data indication around what a peer sends.
inline constexpr uint32_t kIndicationRoom = 48;
// RFC 8656 section 13.2, RFC 7915 section 4: an IPv6 packet that is cut is cut to what every link
// carries.
inline constexpr size_t kIpv6MinimumMtu = 1280;

class IcmpErrorBudget {
 public:
  [[nodiscard]] bool take(Ticks now) {
    constexpr uint64_t kWhole = uint64_t{kMaxIcmpErrorsPerSecond} * kTicksPerSecond;
    left_ = std::min(kWhole, left_ + uint64_t{now - last_} * kMaxIcmpErrorsPerSecond);
    last_ = now;
    if (left_ < kTicksPerSecond) return false;
    left_ -= kTicksPerSecond;
    return true;
  }

 private:
  Ticks last_ = 0;
  uint64_t left_ = uint64_t{kMaxIcmpErrorsPerSecond} * kTicksPerSecond;  // thousandths
};

// What the sender of a datagram is told would have fitted a link of `link_mtu` bytes.
[[nodiscard]] constexpr uint32_t told_mtu(uint32_t link_mtu, bool came_by_ipv6, bool leaves_by_ipv6,
                                          bool sender_is_peer) {
  // RFC 7915 section 4: the longer header. What RFC 7915 section 5 adds the other way is not added:
  // RFC 8656 section 13.3 reports the link's own.
  constexpr uint32_t kLongerHeader = frame::kIpv6Header - frame::kIpv4Header;
  return link_mtu - (!came_by_ipv6 && leaves_by_ipv6 ? kLongerHeader : 0) -
         (sender_is_peer ? kIndicationRoom : 0);
}

// Bytes of UDP header and body in each frame but the last when a datagram is cut.
[[nodiscard]] constexpr size_t piece_bytes(size_t link_mtu, bool ipv6) {
  const size_t room =
      ipv6 ? std::min(link_mtu, kIpv6MinimumMtu) - frame::kIpv6Header - frame::kIpv6FragmentHeader
           : link_mtu - frame::kIpv4Header;
  return room / 8 * 8;
}

// Nobody can tell the next one (RFC 7739 section 5.3).
[[nodiscard]] inline uint32_t ipv6_identification(const SipKey& key, uint64_t count) {
  std::array<uint8_t, 8> bytes;
  for (size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<uint8_t>(count >> (8 * i));
  return static_cast<uint32_t>(siphash24(key, bytes.data(), bytes.size()));
}

// Of a kind that is not for the path.
[[nodiscard]] constexpr FrameCounter frame_counter(frame::Kind kind) {
  // Both lists have these names in this order; the kinds for the path come first.
  constexpr auto kFirst = static_cast<size_t>(frame::Kind::k_not_ip);
  static_assert(static_cast<size_t>(FrameCounter::k_not_ip) == 0);
  static_assert(static_cast<size_t>(FrameCounter::k_bad_icmp) + kFirst ==
                static_cast<size_t>(frame::Kind::k_bad_icmp));
  static_assert(static_cast<size_t>(FrameCounter::k_bad_udp_length) + kFirst ==
                static_cast<size_t>(frame::Kind::k_bad_udp_length));
  return static_cast<FrameCounter>(static_cast<size_t>(kind) - kFirst);
}

// Of a fragment.
[[nodiscard]] constexpr FrameCounter frame_counter(Reassembler::Result result) {
  using Result = Reassembler::Result;
  switch (result) {
    case Result::kHeld:
      return FrameCounter::k_fragment_held;
    case Result::kComplete:
      return FrameCounter::k_reassembled;
    case Result::kNotUdp:
      return FrameCounter::k_fragment;
    case Result::kDuplicate:
      return FrameCounter::k_fragment_duplicate;
    case Result::kMalformed:
      return FrameCounter::k_fragment_malformed;
    case Result::kTiny:
      return FrameCounter::k_fragment_tiny;
    case Result::kOverlap:
      return FrameCounter::k_fragment_overlap;
    case Result::kTooMany:
      return FrameCounter::k_fragment_too_many;
    case Result::kEcn:
      return FrameCounter::k_fragment_ecn;
    case Result::kFull:
      return FrameCounter::k_fragment_table_full;
  }
  return FrameCounter::k_fragment;
}

}  // namespace culvert
