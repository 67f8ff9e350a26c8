// Leaves shared by no_flow.cc, slow.cc and icmp_error.cc.
#pragma once

#include "dataplane/path/stages.h"
#include "dataplane/wire/stun.h"

namespace culvert {

// Writes the header and XOR-PEER-ADDRESS of a Data indication into tx.head and addresses tx to the
// client; returns the bytes of head used (32 or 44). finish_data_indication sets lengths and
// padding.
[[nodiscard]] uint32_t begin_data_indication(PathContext& path, TxDatagram& tx,
                                             const Allocation& allocation,
                                             const TransportAddress& peer);
void finish_data_indication(TxDatagram& tx, uint32_t head_length);

// A Send indication (RFC 8656 section 11.2).
void handle_send(PathContext& path, const RxDatagram& rx, const stun::Message& message);

}  // namespace culvert
