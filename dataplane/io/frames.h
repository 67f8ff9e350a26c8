// What the drivers that see frames share: under which name a frame's fate is counted.
#pragma once

#include <cstddef>

#include "dataplane/api/frame_counter.h"
#include "dataplane/wire/frame.h"
#include "dataplane/wire/reassembly.h"

namespace culvert {

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
