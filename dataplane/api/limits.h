// Limits that both sides of the api must agree on, each with its arithmetic or source. The rest of
// a running relay's limits derive from configuration (config/derive). docs/limits.md lists them
// all.
#pragma once

#include <cstddef>
#include <cstdint>

namespace culvert {

using CoreId = uint16_t;
inline constexpr CoreId kMaxCores = 64;

// Datagrams in one burst: 32 to 64 is where burst processing stops gaining (architecture.md 5.5).
inline constexpr size_t kMaxBurst = 64;

// Longest STUN message taken: an Allocate with the longest USERNAME (763), REALM (763), NONCE (128)
// and both integrities is below 1.9 KiB.
inline constexpr size_t kMaxStunMessage = 2048;
// Longest indication: Send and Data carry application data, up to a whole UDP payload.
inline constexpr size_t kMaxStunIndication = 65535;

// RFC 8656 sections 9, 12, 7.2, 18.7.
inline constexpr uint32_t kPermissionLifetimeSeconds = 300;
inline constexpr uint32_t kChannelLifetimeSeconds = 600;
inline constexpr uint32_t kDefaultAllocationLifetimeSeconds = 600;
inline constexpr uint32_t kMaxAllocationLifetimeSeconds = 3600;
inline constexpr uint32_t kReservationLifetimeSeconds = 30;
inline constexpr uint16_t kFirstChannel = 0x4000;
inline constexpr uint16_t kLastChannel = 0x4FFF;

// Peers in one CreatePermission: 32 * 20 bytes of command payload leave room for the reply.
inline constexpr size_t kMaxPermissionPeers = 32;

// Permissions and channels of one allocation. RFC 8656 names no limit; a call needs fewer than ten.
// Each bounds a walk a fast core makes when one request refreshes them: 256 entries at one cache
// miss (about 100 ns) are 26 us.
inline constexpr uint32_t kMaxPermissionsPerAllocation = 256;
inline constexpr uint32_t kMaxChannelsPerAllocation = 256;

// Clients whose packets arrive on another core than their allocation's (used reservations), per
// core.
inline constexpr uint32_t kMaxRedirects = 1024;

// Commands one core applies per loop, so that a flood of commands cannot starve packets.
inline constexpr uint32_t kMaxCommandsPerLoop = 32;

// Listeners (address and port) and addresses of one relay.
inline constexpr size_t kMaxListeners = 64;
inline constexpr size_t kMaxLocalAddresses = 256;

// An answer to an unauthenticated request is at most 2.5 times it, IP and UDP headers included.
inline constexpr uint32_t kMaxReplyRatioTenths = 25;
// Bytes of IP and UDP header on both, which that ratio counts.
inline constexpr uint32_t kIpv4UdpHeaders = 20 + 8;
inline constexpr uint32_t kIpv6UdpHeaders = 40 + 8;

}  // namespace culvert
