// What passes between fast cores and the kernel beside them: frames that are not the relay's, the
// frames that the kernel answers with, and questions for link addresses. Rings of copies: a core
// makes no system call for a frame (but rings a bell where the kernel's thread sleeps), waits for
// nobody, and keeps its buffers. No DPDK in here.
//
// Each kind of frame has a budget of its own on each core, so that a flood of one kind neither
// takes the core nor keeps the others from the kernel (architecture.md 4.8).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "dataplane/api/limits.h"
#include "dataplane/base/address.h"
#include "dataplane/base/spsc_ring.h"
#include "dataplane/base/ticks.h"
#include "dataplane/core/doorbell.h"

namespace culvert {

enum class PuntKind : uint8_t {
  kNeighbour,  // ARP, neighbour discovery, router advertisements
  kIcmp,       // ICMP and ICMPv6 otherwise: echo, errors
  kTcp,
  kOther,  // UDP to no port of ours, other protocols, VLAN tags
  kCount
};
inline constexpr size_t kPuntKinds = static_cast<size_t>(PuntKind::kCount);

// Frames a second and core; as many may come at once. ARP and ICMP as many as Linux answers by
// default (net.ipv4.icmp_msgs_per_sec); TCP for a management session and a download at 100 Mbit/s;
// copying all of them takes a core about 1 % of its time.
inline constexpr std::array<uint32_t, kPuntKinds> kMaxPuntsPerSecond = {1000, 1000, 10000, 1000};

// From Ethernet's header on; any bytes.
[[nodiscard]] PuntKind punt_kind(std::span<const uint8_t> frame);

// A token bucket for each kind, each of one second's rate. One core's.
class PuntBudget {
 public:
  [[nodiscard]] bool take(PuntKind kind, Ticks now);

 private:
  struct Bucket {
    uint64_t thousandths = 0;  // of a frame
    Ticks filled = 0;
    bool used = false;  // the first frame finds it full
  };
  std::array<Bucket, kPuntKinds> buckets_{};
};

// Rings of 64-byte slots. A core's way to the kernel holds what the budgets let through in 20 ms;
// a port's way from it a burst of TCP's largest window.
inline constexpr uint32_t kToKernelSlots = 8192;
inline constexpr uint32_t kFromKernelSlots = 8192;

class ExceptionPath {
 public:
  ExceptionPath(CoreId cores, size_t ports);
  ~ExceptionPath();
  ExceptionPath(const ExceptionPath&) = delete;
  ExceptionPath& operator=(const ExceptionPath&) = delete;

  // ---- Core `core`. False: the ring is full (or the frame longer than a quarter of it).
  [[nodiscard]] bool punt(CoreId core, uint8_t port, std::span<const uint8_t> frame);
  // Who has `target` (Routes::on_port's spelling)? Asked once; answered by the neighbour table.
  [[nodiscard]] bool ask(CoreId core, uint8_t port, const IpAddress& target);
  // After a burst with punts or questions.
  void ring(CoreId core);
  // ---- The one core that sends what the kernel sends by `port`.
  // The next frame, valid until sent_on(); empty: none.
  [[nodiscard]] std::span<const uint8_t> front(uint8_t port);
  void sent_on(uint8_t port);

  // ---- The kernel's thread.
  struct Item {
    bool question = false;
    uint8_t port = 0;
    std::span<const uint8_t> frame;  // until done()
    IpAddress target;
  };
  // False: nothing waits on that core's ring.
  [[nodiscard]] bool next(CoreId core, Item& item);
  void done(CoreId core);
  // False: the ring is full.
  [[nodiscard]] bool send(uint8_t port, std::span<const uint8_t> frame);
  // Sleep only between arm() and disarm(), and not when arm() says that something waits.
  [[nodiscard]] bool arm();
  void disarm() { bell_.disarm(); }
  [[nodiscard]] int wake_fd() const { return wake_fd_; }
  void wake() const;

  [[nodiscard]] CoreId cores() const { return static_cast<CoreId>(to_kernel_.size()); }
  [[nodiscard]] size_t memory() const;

 private:
  struct Way {
    explicit Way(uint32_t slots) : memory(slots), ring(memory) {}
    std::vector<RingSlot> memory;
    SpscRing ring;
  };
  struct Core {
    explicit Core(uint32_t slots) : way(slots) {}
    Way way;
    bool unheard = false;  // the core's: written since its last ring()
  };
  std::vector<std::unique_ptr<Core>> to_kernel_;
  std::vector<std::unique_ptr<Way>> from_kernel_;
  Doorbell bell_;
  int wake_fd_ = -1;  // eventfd
};

}  // namespace culvert
