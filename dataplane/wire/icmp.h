// ICMP errors about datagrams that the relay could not send on, to whoever sent them, as a router
// answers (RFC 792, RFC 1812 section 4.3, RFC 4443; what they are for in a relay: RFC 8656
// section 13). Pure: bytes in, bytes out. How many leave is the caller's business.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "dataplane/base/address.h"
#include "dataplane/wire/frame.h"

namespace culvert::frame {

// Longest error, with its IP header: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c).
inline constexpr size_t kMaxIcmpErrorIpv4 = 576;
inline constexpr size_t kMaxIcmpErrorIpv6 = 1280;
inline constexpr size_t kMaxIcmpErrorFrame = kEthernetHeader + kVlanTag + kMaxIcmpErrorIpv6;

enum class IcmpError : uint8_t {
  kTooBig,        // fragmentation needed (3/4), packet too big (2/0)
  kTimeExceeded,  // 11/0, 3/0
};

// The packet in error came from `to` and was addressed to `from`; `packet`: its bytes from the IP
// header on, of which as many are quoted as fit. `mtu`: 0 for kTimeExceeded. `room` holds at least
// kMaxIcmpErrorFrame bytes. Returns the bytes of the frame.
[[nodiscard]] size_t write_icmp_error(std::span<uint8_t> room, const Link& link,
                                      const IpAddress& from, const IpAddress& to, IcmpError error,
                                      uint32_t mtu, std::span<const uint8_t> packet);

}  // namespace culvert::frame
