// Stage 4b: client, allocation and permission of the burst's datagrams that found no channel, so
// that Send and Data indications are relayed as fast as memory allows. Each place to look is known
// only from the one before: Send goes from the client's 5-tuple to its allocation to the peer's
// permission, a peer's datagram from the port to the allocation to the permission. A burst takes
// the chain a step at a time and waits once a step instead of once a step and datagram.
//
// Nothing is decided here and nothing but scratch is written. Send indications of any but the usual
// shape stay with the slow path, as do ports that are nobody's here.
#include "dataplane/path/stages.h"
#include "dataplane/wire/stun.h"

namespace culvert {

namespace {

void prefetch_allocation(const FlowState& flows, uint32_t index) {
  const auto* at = reinterpret_cast<const uint8_t*>(&flows.allocations[index]);
  __builtin_prefetch(at, 1);
  __builtin_prefetch(at + sizeof(Allocation) - 1, 1);
}

void seek_permission(const FlowState& flows, WithoutFlow& item) {
  item.hash = flows.permission_hash(item.allocation, item.peer.ip.bytes);
  flows.permission_table.prefetch_group(item.hash);
}

// Step 1: who they are.
uint32_t list(const FlowState& flows, std::span<const RxDatagram> in, BurstWork& work) {
  uint32_t count = 0;
  for (size_t i = 0; i < in.size(); ++i) {
    const RxDatagram& rx = in[i];
    WithoutFlow& item = work.without_flow[count];
    if (work.step[i] == Step::kPeerDatagram) {
      if (work.slot[i] != kNoSlot) continue;
      item.port = flows.port(rx.relay);
      if (item.port == nullptr) continue;
      __builtin_prefetch(item.port);
      item.peer = rx.source;
    } else {
      if (work.step[i] != Step::kStun ||
          !stun::parse_plain_send({rx.payload, rx.length}, item.peer, item.data))
        continue;
      item.port = nullptr;
      item.hash = flows.client_hash({rx.source, rx.listener, 0});
      flows.clients.prefetch_group(item.hash);
    }
    item.index = static_cast<uint8_t>(i);
    ++count;
  }
  return count;
}

// Steps 2 and 3: the allocation, guessed by the tag of its hash alone.
void find_allocations(const FlowState& flows, std::span<WithoutFlow> items) {
  for (WithoutFlow& item : items) {
    if (item.port == nullptr) {
      item.allocation = flows.clients.probe(item.hash);  // a slot until the next loop
      continue;
    }
    item.allocation = item.port->allocation;
    if (item.allocation >= flows.allocations.size()) {
      item.allocation = kNoSlot;
      continue;
    }
    prefetch_allocation(flows, item.allocation);
    seek_permission(flows, item);
  }
  for (WithoutFlow& item : items) {
    if (item.port != nullptr || item.allocation == kNoSlot) continue;
    item.allocation = flows.clients[item.allocation];
    prefetch_allocation(flows, item.allocation);
    seek_permission(flows, item);
  }
}

// Step 5: the guesses compared with what stands there; a wrong one is looked up in full.
void confirm(const FlowState& flows, const RxDatagram& rx, WithoutFlow& item) {
  if (item.port == nullptr) {
    const ClientTuple client{rx.source, rx.listener, 0};
    if (item.allocation == kNoSlot || !(flows.allocations[item.allocation].client == client))
        [[unlikely]] {
      item.allocation = flows.find_client(client);
      item.permission = kNoSlot;
    }
    if (item.allocation == kNoSlot) return;
  }
  __builtin_prefetch(&flows.policers[flows.allocations[item.allocation].policer], 1);
  if (item.permission == kNoSlot ||
      !FlowState::is_permission(flows.permission_table[item.permission], item.allocation,
                                item.peer.ip)) [[unlikely]]
    item.permission = flows.find_permission(item.allocation, item.peer.ip);
}

}  // namespace

void resolve_without_flow(const FlowState& flows, std::span<const RxDatagram> in, BurstWork& work) {
  if (work.loose == 0) return;
  const uint32_t count = list(flows, in, work);
  const std::span<WithoutFlow> items{work.without_flow.data(), count};
  find_allocations(flows, items);
  for (WithoutFlow& item : items)
    item.permission =
        item.allocation == kNoSlot ? kNoSlot : flows.permission_table.probe(item.hash);
  for (uint32_t n = 0; n < count; ++n) {
    WithoutFlow& item = items[n];
    if (item.port != nullptr && item.allocation == kNoSlot) continue;  // not ours: any core's
    confirm(flows, in[item.index], item);
    work.step[item.index] = item.port == nullptr ? Step::kPlainSend : Step::kUnboundPeer;
    work.slot[item.index] = n;
  }
}

}  // namespace culvert
