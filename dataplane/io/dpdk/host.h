// What a host does besides UDP, for a port that no kernel serves (DESIGN 8, "bare lab port"): ARP,
// neighbour discovery and echo, answered; link addresses, learned. Pure functions over frames: no
// table, no clock, no I/O. Rates are the caller's business.
//
// Sources: RFC 826 (ARP), RFC 4861 sections 4.3, 4.4, 7.1, 7.2 (neighbour discovery), RFC 792 and
// RFC 4443 section 4 (echo). Frames are untagged Ethernet without FCS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "dataplane/api/frame_counter.h"
#include "dataplane/base/address.h"
#include "dataplane/wire/frame.h"

namespace culvert::host {

struct Port {
  frame::MacAddress mac{};
  std::span<const IpAddress> addresses;  // ours, on this port
};

// ARP's 42 bytes are padded to Ethernet's shortest frame (without FCS).
inline constexpr size_t kArpFrame = 60;
inline constexpr size_t kSolicitationFrame = 86;

struct Reaction {
  enum class Kind : uint8_t { kNone, kReply, kTold };
  Kind kind = Kind::kNone;
  FrameCounter count = FrameCounter::k_other_protocol;  // what it was, when kind is not kNone
  size_t reply_bytes = 0;                               // of `reply`, to go out by the same port
  // The sender's (or, of an advertisement, the target's) link address is worth keeping.
  bool learned = false;
  bool only_update = false;  // where an entry exists: nobody had asked
  IpAddress learned_ip;
  frame::MacAddress learned_mac{};
};

// `frame`: one that frame::parse() called not_ip or other_protocol, so its IPv4 header, if it has
// one, is sound. `reply` must hold frame.size() bytes and kSolicitationFrame.
[[nodiscard]] Reaction react(std::span<const uint8_t> frame, const Port& port,
                             std::span<uint8_t> reply);

// "Who has `target`?" from `own`, of the same family. Returns the bytes written to `to`, which must
// hold kSolicitationFrame.
[[nodiscard]] size_t ask(std::span<uint8_t> to, const Port& port, const IpAddress& own,
                         const IpAddress& target);

}  // namespace culvert::host
