// Any burst of datagrams into the packet path of a core with a few allocations: no datagram is lost
// count of, nothing is sent but pieces of what came in or answers the core made, and only to where
// it may go.
//
// Input: datagrams one after the other. Byte 0 says from whom and by which way (bits 0-2 which
// host, 3-4 client, peer or ICMP error, 5 IPv6, 6 TTL 1, 7 ends the burst); byte 1 the relayed
// port, or type and code of an ICMP error; bytes 2-3 the length, then the payload.
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "tests/support/core_fixture.h"

namespace {

using namespace culvert;

constexpr uint16_t kFirstPort = 49152;

// v4 and v6 clients, single and dual allocations, permissions, channels, hairpins.
struct Relay {
  Relay() {
    for (uint32_t i = 0; i < 4; ++i) {
      const auto port = static_cast<uint16_t>(kFirstPort + 2 * i);
      const TransportAddress client = host(i, i % 2 != 0, true);
      (void)core.allocate(i, client, i == 3 ? uint16_t{0} : port, i == 0 ? uint16_t{0} : port);
      if (i != 3) {
        (void)core.permit(i, host(0, false, false).ip.to_string());
        (void)core.bind(i, static_cast<uint16_t>(0x4000 + i), host(1, false, false).to_string());
        (void)core.bind(i, 0x4100, "198.51.100.1:" + std::to_string(kFirstPort + 2), 0, true);
      }
      if (i != 0) {
        (void)core.permit(i, host(0, true, false).ip.to_string());
        (void)core.bind(i, static_cast<uint16_t>(0x4200 + i), host(1, true, false).to_string());
      }
    }
  }
  static TransportAddress host(uint32_t n, bool v6, bool client) {
    const std::string digit = std::to_string(n + 1);
    if (v6)
      return test::at(std::string(client ? "[2001:db8:c::" : "[2001:db8:5::") + digit + "]:4000");
    return test::at(std::string(client ? "203.0.113." : "192.0.2.") + digit + ":4000");
  }
  test::TestCore core;
};

RxDatagram datagram(const uint8_t* head, const uint8_t* payload, uint16_t length) {
  const bool v6 = (head[0] & 0x20) != 0;
  const uint32_t which = head[0] & 7;
  RxDatagram rx;
  rx.payload = payload;
  rx.length = length;
  rx.ttl = (head[0] & 0x40) != 0 ? 1 : 64;
  const uint32_t way = head[0] >> 3 & 3;
  rx.source = Relay::host(which, v6, way < 2);
  if (way < 2) {
    rx.kind = RxKind::kClient;
    rx.listener = v6 ? 1 : 0;
    return rx;
  }
  rx.kind = way == 2 ? RxKind::kPeer : RxKind::kIcmpError;
  rx.relay = {static_cast<uint16_t>(v6 ? 1 : 0), static_cast<uint16_t>(kFirstPort + head[1] % 16)};
  rx.icmp_type = head[1] & 0x0f;
  rx.icmp_code = head[1] >> 4;
  rx.icmp_mtu = 1280;
  return rx;
}

bool within(const TxDatagram& tx, const uint8_t* first, size_t size) {
  return tx.payload >= first && tx.payload + tx.length <= first + size;
}

void check(const test::TestCore& core, const TxBurst& out, const uint8_t* data, size_t size) {
  const auto* replies = core.state->replies[0].data();
  for (uint32_t i = 0; i < out.count; ++i) {
    const TxDatagram& tx = out.items[i];
    ENSURE(tx.length == 0 || within(tx, data, size) ||
           within(tx, replies, kMaxBurst * kReplyBytes));
    ENSURE(tx.head_length <= kMaxHead && tx.pad_length <= 3);
    ENSURE(tx.egress != kNoEgress && tx.to.port != 0 && tx.ttl != 0);
    ENSURE(tx.from_address < core.snapshot.addresses.size());
    ENSURE(core.snapshot.addresses[tx.from_address].bound.family == tx.to.ip.family);
    if (tx.from_port == 3478) {
      ENSURE(tx.egress < 2);
    } else {
      // To a peer: from a live relayed port by its own egress, and only with a permission.
      const PortEntry* entry = core.state->flows.port({tx.from_address, tx.from_port});
      ENSURE(entry != nullptr && entry->egress == tx.egress && entry->allocation < 4);
      ENSURE(core.state->flows.find_permission(entry->allocation, tx.to.ip) != kNoSlot);
      ENSURE(within(tx, data, size) && tx.head_length == 0 && tx.pad_length == 0);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // One relay for all inputs: the path makes no state but counters and reply buckets.
  static Relay relay;
  static auto out = std::make_unique<TxBurst>();
  test::TestCore& core = relay.core;
  std::vector<RxDatagram> burst;
  const auto flush = [&] {
    out->count = 0;
    process(*core.state, core.snapshot, 1000, burst, *out);
    check(core, *out, data, size);
    ENSURE(core.conserved());
    burst.clear();
    while (core.events.front() != nullptr)
      core.events.pop();
  };
  size_t at = 0;
  while (at + 4 <= size) {
    const uint8_t* head = data + at;
    at += 4;
    const auto length = static_cast<uint16_t>(std::min<size_t>(load_be16(head + 2), size - at));
    burst.push_back(datagram(head, data + at, length));
    at += length;
    if (burst.size() == kMaxBurst || (head[0] & 0x80) != 0) flush();
  }
  flush();
  const FlowState& flows = core.state->flows;
  ENSURE(flows.live_allocations == 4 && flows.open_ports == 0);
  return 0;
}
