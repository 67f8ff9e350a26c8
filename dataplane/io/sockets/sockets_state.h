// The driver's private tables, shared by its three source files and by nobody else.
#pragma once

#include <time.h>

// errqueue.h uses timespec and does not declare it.
#include <linux/errqueue.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <span>

#include "dataplane/io/sockets/sockets_driver.h"
#include "dataplane/io/sockets/udp_socket.h"

namespace culvert {

// epoll's data for the eventfd; slots are smaller.
inline constexpr uint32_t kWakeSlot = 0xffffffff;

// Messages read before they are handed out: one burst of single datagrams.
inline constexpr uint32_t kRxMessages = kMaxBurst;
// One UDP_GRO read is at most 65535 bytes.
inline constexpr size_t kRxBufferBytes = 65536;
// Datagrams start at the same offset of their buffers: buffers 64 KiB apart would all share one set
// of the L1 cache. 33 lines more spread them over every set (33 is odd).
inline constexpr size_t kRxStride = kRxBufferBytes + 33 * kCacheLine;
// TTL, TOS and the GRO size: 24 bytes each (CMSG_SPACE(sizeof(int))).
inline constexpr size_t kRxControlBytes = 3 * 24;
// The extended error with the offender's address, TTL, TOS, and room for what a kernel may add.
inline constexpr size_t kErrorControlBytes = 256;
// TTL, TOS, IPV6_DONTFRAG and the segment size.
inline constexpr size_t kTxControlBytes = 4 * 24;
static_assert(CMSG_SPACE(sizeof(int)) == 24);

// Datagrams read from one relayed port before the next has its turn.
inline constexpr uint32_t kRelayQuota = 16;
// ICMP errors read from one socket before the next has its turn.
inline constexpr uint32_t kErrorQuota = 8;
// Attempts for one message when the socket reports errors of earlier ones (each report clears it).
inline constexpr uint32_t kErrorAttempts = 4;
// Attempts when the kernel has no room: a device queue may drain between two, no longer wait is
// due.
inline constexpr uint32_t kRoomAttempts = 3;
// Equal departures from a socket's TTL or TOS in a row after which the socket is changed instead: a
// setsockopt costs about as much as four control messages.
inline constexpr uint32_t kSettleAfter = 4;
inline constexpr int kUnknown = -1;

struct SocketsDriver::Socket {
  int fd = -1;
  Family family = Family::kNone;
  RxKind kind = RxKind::kPeer;
  bool queued = false;  // in a ready queue
  bool errors = false;  // its error queue may hold something
  bool segment = true;  // UDP_SEGMENT works here
  bool dont_fragment = false;
  uint16_t listener = 0;
  RelayLeg leg;
  // What the socket sends by itself; kUnknown: the system's default, not asked for.
  int16_t ttl = kUnknown;
  int16_t tos = 0;
  // The last departure from it and how often in a row.
  int16_t other_ttl = kUnknown;
  int16_t other_tos = kUnknown;
  uint16_t ttl_misses = 0;
  uint16_t tos_misses = 0;
  uint16_t run_length = 1;  // datagrams in the last message read
  uint32_t next_free = 0;
};

// A message: the template of its datagrams and where in it we are.
struct SocketsDriver::Pending {
  RxDatagram next;       // payload: of the next segment; length: set when handed out
  uint32_t left = 0;     // bytes not handed out
  uint32_t segment = 0;  // bytes of each datagram but the last
  uint32_t slot = 0;
  bool done = false;  // its socket was closed: nothing more is reported
};

struct SocketsDriver::RxSlots {
  uint8_t* buffers = nullptr;
  std::array<mmsghdr, kRxMessages> headers;
  std::array<iovec, kRxMessages> pieces;
  std::array<SocketName, kRxMessages> names;
  alignas(cmsghdr) std::array<std::array<uint8_t, kRxControlBytes>, kRxMessages> control;
  alignas(cmsghdr) std::array<uint8_t, kErrorControlBytes> error_control;
};

struct SocketsDriver::TxSlots {
  uint32_t messages = 0;
  uint32_t pieces_used = 0;
  std::array<mmsghdr, kMaxBurst> headers;
  std::array<SocketName, kMaxBurst> names;
  std::array<TxGroups::Group, kMaxBurst> groups;
  std::array<iovec, kMaxBurst * 3> pieces;  // head, payload, pad
  alignas(cmsghdr) std::array<std::array<uint8_t, kTxControlBytes>, kMaxBurst> control;
};

// Each slot is in it at most once, so it never overflows.
class SocketsDriver::SlotQueue {
 public:
  void use(std::span<uint32_t> memory) { memory_ = memory; }
  [[nodiscard]] bool empty() const { return count_ == 0; }
  [[nodiscard]] uint32_t size() const { return count_; }
  void push(uint32_t slot) {
    uint32_t at = head_ + count_;
    if (at >= memory_.size()) at -= static_cast<uint32_t>(memory_.size());
    memory_[at] = slot;
    ++count_;
  }
  uint32_t pop() {
    const uint32_t slot = memory_[head_];
    if (++head_ == memory_.size()) head_ = 0;
    --count_;
    return slot;
  }

 private:
  std::span<uint32_t> memory_;
  uint32_t head_ = 0;
  uint32_t count_ = 0;
};

}  // namespace culvert
