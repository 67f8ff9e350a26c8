// The driver concept: how datagrams reach the path and leave it. The loop (dataplane/core/worker.h)
// is a template on it, instantiated once per driver: no virtual call per packet.
//
// One driver object serves one fast core and is used by that core's thread alone.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>

#include "dataplane/api/snapshot.h"
#include "dataplane/base/ticks.h"
#include "dataplane/path/datagram.h"

namespace culvert {

template <class D>
concept Driver = requires(D d, std::span<RxDatagram> rx, TxBurst& tx, uint16_t listener,
                          RelayLeg leg, uint32_t wait_us) {
  // Fills up to rx.size() datagrams; their payloads stay valid until the next rx_burst().
  { d.rx_burst(rx) } -> std::same_as<uint32_t>;
  // Sends tx.items[0..count); their payloads are not touched after the return. Returns how many
  // could not be sent (counted, never retried forever).
  { d.tx_burst(tx) } -> std::same_as<uint32_t>;
  // The egress by which datagrams to clients of that listener leave.
  { d.listener_egress(listener) } -> std::same_as<Egress>;
  // Opens a relayed port; kNoEgress when it is taken (EADDRINUSE) or resources are short.
  { d.open_relay_port(leg) } -> std::same_as<Egress>;
  {d.close_relay_port(leg)};
  // Milliseconds, monotonic; read once per loop.
  { d.now() } -> std::same_as<Ticks>;
  // Nothing to do: returns when a datagram arrived, wake() was called, or after wait_us.
  {d.wait(wait_us)};
  // The one call that any thread may make: ends a wait() in progress, or the next one.
  {d.wake()};
};

}  // namespace culvert
