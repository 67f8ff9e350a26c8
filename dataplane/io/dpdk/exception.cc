#include "dataplane/io/dpdk/exception.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "dataplane/wire/frame.h"

namespace culvert {

namespace {

constexpr uint16_t kEtherArp = 0x0806;
constexpr uint8_t kProtocolTcp = 6;
// RFC 4861: router solicitation to redirect.
constexpr uint8_t kFirstDiscovery = 133;
constexpr uint8_t kLastDiscovery = 137;

enum Type : uint16_t { kFrame = 1, kQuestion = 2 };

// The fixed part of a message, one slot: what follows is the frame.
struct Head {
  MessageHeader header;
  uint32_t bytes = 0;
  uint8_t port = 0;
  IpAddress target;
};
static_assert(sizeof(Head) <= sizeof(RingSlot));

[[nodiscard]] uint32_t slots_for(size_t bytes) {
  return 1 + static_cast<uint32_t>((bytes + sizeof(RingSlot) - 1) / sizeof(RingSlot));
}

[[nodiscard]] bool put(SpscRing& ring, Head head, std::span<const uint8_t> frame) {
  const uint32_t slots = slots_for(frame.size());
  if (slots > ring.longest_message()) return false;
  RingSlot* at = ring.reserve(slots);
  if (at == nullptr) return false;
  head.header.slots = static_cast<uint16_t>(slots);
  head.header.payload_len = head.bytes = static_cast<uint32_t>(frame.size());
  std::memcpy(at, &head, sizeof head);
  if (!frame.empty()) std::memcpy(at + 1, frame.data(), frame.size());
  ring.commit();
  return true;
}

[[nodiscard]] Head head_of(const RingSlot* at) {
  Head head;
  std::memcpy(static_cast<void*>(&head), at, sizeof head);
  return head;
}

}  // namespace

PuntKind punt_kind(std::span<const uint8_t> frame) {
  if (frame.size() < frame::kEthernetHeader) return PuntKind::kOther;
  const std::span<const uint8_t> ip = frame.subspan(frame::kEthernetHeader);
  switch (load_be16(&frame[12])) {
    case kEtherArp:
      return PuntKind::kNeighbour;
    case frame::kEtherIpv4:
      if (ip.size() < frame::kIpv4Header) return PuntKind::kOther;
      if (ip[9] == kProtocolTcp) return PuntKind::kTcp;
      return ip[9] == frame::kProtocolIcmp ? PuntKind::kIcmp : PuntKind::kOther;
    case frame::kEtherIpv6: {
      if (ip.size() <= frame::kIpv6Header) return PuntKind::kOther;
      if (ip[6] == kProtocolTcp) return PuntKind::kTcp;
      if (ip[6] != frame::kProtocolIcmpv6) return PuntKind::kOther;
      const uint8_t type = ip[frame::kIpv6Header];
      return type >= kFirstDiscovery && type <= kLastDiscovery ? PuntKind::kNeighbour
                                                               : PuntKind::kIcmp;
    }
    default:
      return PuntKind::kOther;
  }
}

bool PuntBudget::take(PuntKind kind, Ticks now) {
  const auto i = static_cast<size_t>(kind);
  Bucket& bucket = buckets_[i];
  const uint64_t rate = kMaxPuntsPerSecond[i];
  const uint64_t full = rate * kTicksPerSecond;
  const uint64_t since = bucket.used ? now - bucket.filled : kTicksPerSecond;
  bucket.thousandths = std::min(full, bucket.thousandths + since * rate);
  bucket.filled = now;
  bucket.used = true;
  if (bucket.thousandths < kTicksPerSecond) return false;
  bucket.thousandths -= kTicksPerSecond;
  return true;
}

ExceptionPath::ExceptionPath(CoreId cores, size_t ports) {
  for (CoreId core = 0; core < cores; ++core)
    to_kernel_.push_back(std::make_unique<Core>(kToKernelSlots));
  for (size_t port = 0; port < ports; ++port)
    from_kernel_.push_back(std::make_unique<Way>(kFromKernelSlots));
  wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (wake_fd_ < 0) throw std::runtime_error("eventfd: " + std::string(std::strerror(errno)));
}

ExceptionPath::~ExceptionPath() {
  (void)close(wake_fd_);
}

bool ExceptionPath::punt(CoreId core, uint8_t port, std::span<const uint8_t> frame) {
  Head head;
  head.header.type = kFrame;
  head.port = port;
  Core& mine = *to_kernel_[core];
  const bool taken = put(mine.way.ring, head, frame);
  mine.unheard |= taken;
  return taken;
}

bool ExceptionPath::ask(CoreId core, uint8_t port, const IpAddress& target) {
  Head head;
  head.header.type = kQuestion;
  head.port = port;
  head.target = target;
  Core& mine = *to_kernel_[core];
  const bool taken = put(mine.way.ring, head, {});
  mine.unheard |= taken;
  return taken;
}

void ExceptionPath::ring(CoreId core) {
  Core& mine = *to_kernel_[core];
  if (!mine.unheard) return;
  mine.unheard = false;
  if (bell_.must_ring()) wake();
}

void ExceptionPath::wake() const {
  const uint64_t one = 1;
  (void)!write(wake_fd_, &one, sizeof one);  // full: it is awake
}

std::span<const uint8_t> ExceptionPath::front(uint8_t port) {
  const RingSlot* at = from_kernel_[port]->ring.front();
  if (at == nullptr) return {};
  return {(at + 1)->bytes, head_of(at).bytes};
}

void ExceptionPath::sent_on(uint8_t port) {
  from_kernel_[port]->ring.pop();
}

bool ExceptionPath::next(CoreId core, Item& item) {
  const RingSlot* at = to_kernel_[core]->way.ring.front();
  if (at == nullptr) return false;
  const Head head = head_of(at);
  item.question = head.header.type == kQuestion;
  item.port = head.port;
  item.target = head.target;
  item.frame = {(at + 1)->bytes, head.bytes};
  return true;
}

void ExceptionPath::done(CoreId core) {
  to_kernel_[core]->way.ring.pop();
}

bool ExceptionPath::send(uint8_t port, std::span<const uint8_t> frame) {
  Head head;
  head.header.type = kFrame;
  head.port = port;
  return put(from_kernel_[port]->ring, head, frame);
}

bool ExceptionPath::arm() {
  uint64_t rung = 0;
  (void)!read(wake_fd_, &rung, sizeof rung);  // before arming: a later one must wake us
  bell_.arm();
  return std::any_of(to_kernel_.begin(), to_kernel_.end(),
                     [](const auto& core) { return !core->way.ring.empty(); });
}

size_t ExceptionPath::memory() const {
  return (to_kernel_.size() * kToKernelSlots + from_kernel_.size() * kFromKernelSlots) *
         sizeof(RingSlot);
}

}  // namespace culvert
