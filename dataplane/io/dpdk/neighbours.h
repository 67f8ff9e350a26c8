// Which link address belongs to an IP address on a port: ARP's and neighbour discovery's cache of a
// relay whose ports no kernel serves, and the copy of the kernel's where one does. One table for
// all fast cores, since an answer arrives on whichever queue the port chose.
//
// Readers never wait: a slot is a sequence lock over four words. Writers are rare (a new or a
// changed neighbour); a writer that finds another one at work gives up, and learns from the next
// frame. Fixed capacity, taken at start; buckets of eight, where a full one gives up its oldest
// entry that was not configured. An address that was asked for and has not answered takes a slot
// too, so that it is asked once a second and not once a datagram.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "dataplane/base/address.h"
#include "dataplane/wire/frame.h"

namespace culvert {

// Slots of 32 bytes; 2 MiB. A link with more hosts than this is a router's business.
inline constexpr uint32_t kMaxNeighbours = 65536;
// Seconds after which an entry in use is asked again, and after which it is no longer believed
// (RFC 4861 section 10: 30 s reachable, then probes).
inline constexpr uint16_t kNeighbourReachableSeconds = 30;
inline constexpr uint16_t kNeighbourGoneSeconds = 90;

class NeighbourTable {
 public:
  // `seed` keeps a host on the link from choosing addresses that share a bucket.
  explicit NeighbourTable(uint64_t seed, uint32_t capacity = kMaxNeighbours);

  struct Hop {
    frame::MacAddress mac{};
    uint8_t port = 0;
  };
  enum class State : uint8_t {
    kKnown,
    kStale,    // known, and due to be asked again: the caller sends a request
    kUnknown,  // not known, and due to be asked
    kWaiting,  // not known, asked within the last second
  };
  // `ages`: entries grow old and are asked again; false for what was learned from datagrams, whose
  // hosts cannot be asked. Callable by any core.
  [[nodiscard]] State find(const IpAddress& ip, uint16_t now_seconds, bool ages, Hop& hop);
  void prefetch(const IpAddress& ip) const { __builtin_prefetch(&bucket(ip)); }
  // Grows whenever a link address was learned, has changed or is believed again: who waits for one
  // need not look before.
  [[nodiscard]] uint32_t changes() const { return changes_.load(std::memory_order_acquire); }

  enum class Origin : uint8_t {
    kConfigured,  // stays, whatever is heard
    kAnswer,      // made or changed
    kUpdate,      // changed where it exists (gratuitous ARP, unsolicited advertisement)
    kKernel,      // the kernel's: believed until it says otherwise, and asked again while in use
  };
  // False: not taken (the bucket is full of configured entries, or another core is writing).
  bool learn(const IpAddress& ip, const Hop& hop, uint16_t now_seconds, Origin origin);

  // The mirror of the kernel's table: these wait for a core that writes.
  void mirror(const IpAddress& ip, const Hop& hop, uint16_t now_seconds);
  // Unknown from now on, unless it was configured.
  void forget(const IpAddress& ip, uint16_t now_seconds);
  // Whether it is the kernel's and just so.
  [[nodiscard]] bool mirrors(const IpAddress& ip, const Hop& hop) const;

 private:
  struct alignas(32) Slot {
    std::atomic<uint32_t> sequence{0};  // odd while it is written
    std::atomic<uint16_t> confirmed_seconds{0};
    std::atomic<uint16_t> asked_seconds{0};
    std::array<std::atomic<uint64_t>, 2> ip{};
    std::atomic<uint64_t> link{0};  // flags, port, six bytes of link address
  };
  static_assert(sizeof(Slot) == 32);
  static constexpr size_t kWays = 8;
  using Bucket = std::array<Slot, kWays>;

  [[nodiscard]] Bucket& bucket(const IpAddress& ip) const;
  [[nodiscard]] static Slot* match(Bucket& bucket, const IpAddress& ip, uint64_t& link);
  void write(Slot& slot, const IpAddress& ip, uint64_t link, uint16_t now_seconds);
  [[nodiscard]] static Slot* victim(Bucket& bucket, uint16_t now_seconds);

  std::unique_ptr<Bucket[]> buckets_;
  uint64_t seed_;
  uint64_t mask_;
  std::atomic_flag writing_;
  std::atomic<uint32_t> changes_{0};
};

}  // namespace culvert
