#include "dataplane/path/process.h"

#include "dataplane/path/stages.h"

namespace culvert {

namespace {

void dispatch(PathContext& path, const RxDatagram& rx, Step step, bool wide, uint32_t slot) {
  switch (step) {
    case Step::kDone:
      return;
    case Step::kChannelData:
      if (slot == kNoSlot) return channel_without_flow(path, rx);
      if (wide) return forward_channel_data<WideFlow>(path, rx, slot);
      return forward_channel_data<NarrowFlow>(path, rx, slot);
    case Step::kPeerDatagram:
      if (slot == kNoSlot) return peer_without_flow(path, rx);
      if (wide) return forward_peer_datagram<WideFlow>(path, rx, slot);
      return forward_peer_datagram<NarrowFlow>(path, rx, slot);
    case Step::kPlainSend:
      return plain_send(path, rx, path.core.work->without_flow[slot]);
    case Step::kUnboundPeer:
      return unbound_peer(path, rx, path.core.work->without_flow[slot]);
    case Step::kStun:
      return handle_stun(path, rx);
    case Step::kIcmpError:
      return handle_icmp_error(path, rx);
  }
}

void run(PathContext& path, std::span<const RxDatagram> in) {
  BurstWork& work = *path.core.work;
  classify(path.core, in, work);
  lookup(path.core.flows, work);
  resolve_without_flow(path.core.flows, in, work);
  for (size_t i = 0; i < in.size(); ++i)
    dispatch(path, in[i], work.step[i], work.wide[i], work.slot[i]);
}

}  // namespace

void process(CoreState& core, const Snapshot& snapshot, Ticks now, std::span<const RxDatagram> in,
             TxBurst& out) {
  ENSURE(in.size() <= kMaxBurst - out.count);
  PathContext path(core, snapshot, now, out);
  run(path, in);
  if (path.second_count != 0) {
    core.stats.hairpin_passes.add(path.second_count);
    const uint32_t count = path.second_count;
    path.second_count = 0;
    run(path, {core.second, count});
  }

  uint64_t bytes = 0;
  uint32_t handed_in = 0;
  for (const RxDatagram& rx : in) {
    if (rx.handed_over == 0) bytes += rx.length;  // else its first core has counted them
    handed_in += rx.handed_over != 0 ? 1u : 0u;
  }
  core.stats.received_packets.add(in.size() - handed_in);
  core.stats.handed_in.add(handed_in);
  core.stats.received_bytes.add(bytes);
  core.stats.sent_bytes.add(path.sent_bytes);
}

}  // namespace culvert
