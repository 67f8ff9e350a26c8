// The packet path: a pure function over bursts (DESIGN 3). No I/O, no clock, no allocation, no
// logging.
//
//   classify   what each datagram is, and its look-up key        classify.cc
//   lookup     hash, prefetch, probe, resolve to a flow          lookup.cc
//   forward    expiry, police, transform, emit                   forward.cc
//   no_flow    Send indications, peers without a channel         no_flow.cc
//   slow       STUN requests answered here or passed to control  slow.cc
//   icmp       ICMP errors to Data indications                   icmp_error.cc
//
// Outgoing datagrams keep the order of arrival. Every datagram ends in exactly one Outcome:
// received + hairpin_passes == sum(outcomes) over the call.
#pragma once

#include <span>

#include "dataplane/api/snapshot.h"
#include "dataplane/base/ticks.h"
#include "dataplane/path/core_state.h"
#include "dataplane/path/datagram.h"

namespace culvert {

// Handles up to kMaxBurst datagrams. Appends to `out`, whose count must leave in.size() free
// places. What `out` points to (payloads of `in`, replies of `core`) stays valid until the next
// call.
void process(CoreState& core, const Snapshot& snapshot, Ticks now, std::span<const RxDatagram> in,
             TxBurst& out);

}  // namespace culvert
