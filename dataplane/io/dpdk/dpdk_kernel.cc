// What passes between a core's ports and the kernel beside them. All of it copies: buffers stay
// with the core.
#include <algorithm>

#include "dataplane/io/dpdk/dpdk_state.h"

namespace culvert {

namespace {

[[nodiscard]] FrameCounter counter_of(FrameCounter first, PuntKind kind) {
  // Both groups have PuntKind's order.
  static_assert(static_cast<size_t>(FrameCounter::k_punted_other) -
                    static_cast<size_t>(FrameCounter::k_punted_neighbour) ==
                kPuntKinds - 1);
  static_assert(static_cast<size_t>(FrameCounter::k_limited_other) -
                    static_cast<size_t>(FrameCounter::k_limited_neighbour) ==
                kPuntKinds - 1);
  return static_cast<FrameCounter>(static_cast<size_t>(first) + static_cast<size_t>(kind));
}

}  // namespace

// A sound frame that is not for the relay.
void DpdkDriver::leave(PortOfCore& port, const rte_mbuf* mbuf, FrameCounter when_bare) {
  switch (port.shared.kernel) {
    case PortKernel::kNobody:
      return count(when_bare);
    case PortKernel::kInterface:
      return count(FrameCounter::k_left_to_kernel);
    case PortKernel::kTap:
      return punt(port, mbuf);
  }
}

void DpdkDriver::punt(PortOfCore& port, const rte_mbuf* mbuf) {
  const std::span<const uint8_t> frame{rte_pktmbuf_mtod(mbuf, const uint8_t*), mbuf->data_len};
  const PuntKind kind = punt_kind(frame);
  if (!punt_budget_.take(kind, ticks_))
    return count(counter_of(FrameCounter::k_limited_neighbour, kind));
  const bool taken = options_.exception->punt(core_, port.position, frame);
  count(taken ? counter_of(FrameCounter::k_punted_neighbour, kind) : FrameCounter::k_punt_full);
}

// A burst for each port at most, so that the kernel's frames do not hold up the relay's.
void DpdkDriver::send_from_kernel() {
  for (const auto& port : ports_) {
    if (port->shared.kernel != PortKernel::kTap) continue;
    for (size_t i = 0; i < kMaxBurst; ++i) {
      const std::span<const uint8_t> frame = options_.exception->front(port->position);
      if (frame.empty()) break;
      rte_mbuf* mbuf = rte_pktmbuf_alloc(port->pool);
      char* to =
          mbuf == nullptr ? nullptr : rte_pktmbuf_append(mbuf, static_cast<uint16_t>(frame.size()));
      if (to != nullptr) std::copy(frame.begin(), frame.end(), to);
      options_.exception->sent_on(port->position);
      if (to == nullptr) {
        count(FrameCounter::k_no_buffer);
        rte_pktmbuf_free(mbuf);  // of nullptr: nothing
      } else if (queue(*port, mbuf)) {
        count(FrameCounter::k_from_kernel);
      } else {
        rte_pktmbuf_free(mbuf);
      }
    }
    if (port->queued != 0) (void)flush(*port);
  }
}

}  // namespace culvert
