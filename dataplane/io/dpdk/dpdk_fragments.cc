// The slow path of frames that are not whole: fragments received.
#include "dataplane/io/dpdk/dpdk_state.h"
#include "dataplane/io/frames.h"

namespace culvert {

// Counts the fragment; where it completes a datagram for us, `rx` and the next place of held_ are
// filled and held_.count has grown. The frame's bytes are copied: the buffer stays the caller's.
void DpdkDriver::take_fragment(const rte_mbuf* mbuf, PortOfCore& port, RxDatagram& rx) {
  if (!fragment_budget_.take(ticks_)) return count(FrameCounter::k_fragment_budget);
  const auto* bytes = rte_pktmbuf_mtod(mbuf, const uint8_t*);
  frame::Fragment fragment;
  if (!frame::parse_fragment({bytes, mbuf->data_len}, fragment))
    return count(FrameCounter::k_fragment);
  if (address_index(fragment.destination) == kNoAddressIndex)
    return count(FrameCounter::k_not_ours);

  const auto verify = options_.verify_all ? frame::Verify::kAll : frame::Verify::kHeaders;
  Reassembler::Handle handle = 0;
  Reassembler::Result result;
  Reassembler::GivenUp given_up;
  {
    const QueueGuard guard(&fragments_.lock);
    result = fragments_.table.take(fragment, ticks_, handle);
    given_up = fragments_.table.given_up();
  }
  count(frame_counter(result));
  count_given_up(given_up);
  if (result == Reassembler::Result::kHeld && !fragments_wait_) {
    fragments_wait_ = true;
    fragments_due_ = ticks_ + kReassemblyLifetimeMs;
  }
  if (result != Reassembler::Result::kComplete) return;

  // Ours alone from here on, until it is released.
  reassembled_[reassembled_count_++] = handle;
  frame::Parsed parsed;
  const frame::Kind kind = fragments_.table.parse(handle, verify, parsed);
  if (kind != frame::Kind::k_udp) return count(frame_counter(kind));
  if (!for_path(kind, parsed, false, rx)) return;
  Held& held = held_.items[held_.count++];
  held.mbuf = nullptr;
  held.begin = held.payload = parsed.payload;
  held.end = parsed.payload + parsed.length;
  held.length = parsed.length;
  held.sum = parsed.payload_sum;
  held.sum_state = rx.sum_state;
  if (routes_.learns_from(parsed.source.ip)) learn(port, bytes, parsed.source.ip);
}

void DpdkDriver::release_reassembled() {
  const QueueGuard guard(&fragments_.lock);
  for (uint32_t i = 0; i < reassembled_count_; ++i)
    fragments_.table.release(reassembled_[i]);
  reassembled_count_ = 0;
}

// Due once for each core after it held a fragment, so that no time passes here while there are
// none.
void DpdkDriver::expire_fragments() {
  const QueueGuard guard(&fragments_.lock);
  fragments_.table.expire(ticks_);
  fragments_wait_ = !fragments_.table.idle();
  fragments_due_ = ticks_ + kReassemblyLifetimeMs;
  count_given_up(fragments_.table.given_up());
}

void DpdkDriver::count_given_up(const Reassembler::GivenUp& given_up) {
  const auto add = [this](FrameCounter counter, uint32_t n) {
    if (n != 0) stats_.frames[static_cast<size_t>(counter)].add(n);
  };
  add(FrameCounter::k_fragment_timeout, given_up.timeout);
  add(FrameCounter::k_fragment_table_full, given_up.table_full);
  add(FrameCounter::k_fragment_prefix_full, given_up.prefix_full);
}

}  // namespace culvert
