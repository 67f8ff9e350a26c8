// One fast core without a driver: tables, snapshot, rings, and short ways to say "this client has
// an allocation with that permission" and "this datagram arrives". For unit and property tests of
// the path.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/api/nonce.h"
#include "dataplane/path/process.h"
#include "dataplane/wire/channel_data.h"
#include "dataplane/wire/stun.h"

namespace culvert::test {

inline TransportAddress at(const std::string& text) {
  return TransportAddress::parse(text).value();
}
inline IpAddress ip(const std::string& text) {
  return IpAddress::parse(text).value();
}

using Bytes = std::vector<uint8_t>;

inline Bytes bytes_of(std::string_view text) {
  return {text.begin(), text.end()};
}

// A datagram that left, with its pieces joined.
struct Sent {
  Egress egress = kNoEgress;
  TransportAddress to;
  uint16_t from_address = 0;
  uint16_t from_port = 0;
  uint8_t ttl = 0;
  uint8_t tos = 0;
  bool dont_fragment = false;
  Bytes payload;
};

inline Sent join(const TxDatagram& tx) {
  Sent sent{tx.egress, tx.to, tx.from_address, tx.from_port, tx.ttl, tx.tos, tx.dont_fragment, {}};
  sent.payload.assign(tx.head.begin(), tx.head.begin() + tx.head_length);
  sent.payload.insert(sent.payload.end(), tx.payload, tx.payload + tx.length);
  sent.payload.insert(sent.payload.end(), tx.pad_length, 0);
  return sent;
}

inline Bytes channel_data(uint16_t channel, const Bytes& data) {
  Bytes out(kChannelHeaderSize + data.size());
  store_be16(out.data(), channel);
  store_be16(out.data() + 2, static_cast<uint16_t>(data.size()));
  std::copy(data.begin(), data.end(), out.begin() + kChannelHeaderSize);
  return out;
}

inline constexpr uint8_t kTransaction[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

inline Bytes finish(const stun::Builder& builder) {
  return {builder.bytes().begin(), builder.bytes().end()};
}

inline Bytes send_indication(const TransportAddress& peer, const Bytes& data,
                             bool dont_fragment = false) {
  std::array<uint8_t, 4096> buffer;
  stun::Builder builder(buffer, stun::Class::kIndication, stun::kSend, kTransaction);
  builder.add_xor_address(stun::Attribute::kXorPeerAddress, peer);
  builder.add(stun::Attribute::kData, data);
  if (dont_fragment) builder.add_empty(stun::Attribute::kDontFragment);
  return finish(builder);
}

inline Bytes request(uint16_t method) {
  std::array<uint8_t, 256> buffer;
  stun::Builder builder(buffer, stun::Class::kRequest, method, kTransaction);
  if (method == stun::kAllocate) builder.add_u32(stun::Attribute::kRequestedTransport, 17u << 24);
  return finish(builder);
}

class TestCore {
 public:
  // Addresses: 0 = 198.51.100.1 (advertised 203.0.113.9), 1 = 2001:db8::1. Listeners 0 and 1 on
  // them.
  explicit TestCore(CoreLimits wanted = small_limits(), CoreId core = 0, uint16_t cores = 1)
      : limits(wanted), arena(CoreState::arena_bytes(wanted)), events_memory(1024) {
    snapshot.version = 1;
    snapshot.cores = cores;
    snapshot.addresses = {{ip("198.51.100.1"), ip("203.0.113.9"), true},
                          {ip("2001:db8::1"), ip("2001:db8::1"), true}};
    snapshot.listeners.resize(2);
    for (uint16_t i = 0; i < 2; ++i) {
      snapshot.listeners[i].address = i;
      snapshot.listeners[i].port = 3478;
      snapshot.listeners[i].nonce_features = kFeaturePasswordAlgorithms;
      snapshot.listeners[i].realm_attribute = {0, 0x14, 0, 4, 't', 'e', 's', 't'};
      snapshot.listeners[i].algorithms_attribute = {0x80, 2, 0, 8, 0, 2, 0, 0, 0, 1, 0, 0};
    }
    snapshot.relay_port_low = limits.relay_port_low;
    snapshot.relay_port_high = limits.relay_port_high;
    snapshot.nonce_keys = {{{1, 2}, {3, 4}}, 1, 100};
    snapshot.reply_budget = {1'000'000, 10'000'000, 1000};
    state = std::make_unique<CoreState>(arena, limits, CoreSeeds{}, core, stats, Ticks{0});
    events.reset(events_memory);
    state->events = &events;
    state->listener_egress[0] = 0;
    state->listener_egress[1] = 1;
  }

  static CoreLimits small_limits() {
    CoreLimits l;
    l.allocations = 64;
    l.permissions = 256;
    l.narrow_channels = 256;
    l.wide_channels = 256;
    l.policers = 8;
    l.addresses = 2;
    return l;
  }

  // An allocation of `client` with one relayed port per family (0: none).
  uint32_t allocate(uint32_t index, const TransportAddress& client, uint16_t port4,
                    uint16_t port6 = 0, uint32_t lifetime_ms = 600'000, Ticks now = 0) {
    InstallAllocation command;
    command.handle = {index, 1};
    command.client.client = client;
    command.client.listener = client.ip.is_v6() ? 1 : 0;
    if (port4 != 0) command.ipv4 = {0, port4};
    if (port6 != 0) command.ipv6 = {1, port6};
    command.lifetime_ms = lifetime_ms;
    const Egress egress[2] = {100 + index, 200 + index};
    const bool ok = state->flows.install(command, egress, command.client.listener, now);
    return ok ? index : kNoSlot;
  }
  ApplyError permit(uint32_t index, const std::string& peer, Ticks now = 0, bool own = false) {
    const PermissionPeer p{ip(peer), static_cast<uint8_t>(own ? 1 : 0), 0};
    return state->flows.permit(index, {&p, 1}, now + kPermissionLifetimeSeconds * 1000);
  }
  ApplyError bind(uint32_t index, uint16_t channel, const std::string& peer, Ticks now = 0,
                  bool own = false) {
    BindChannel command;
    command.handle = {index, 1};
    command.peer = at(peer);
    command.channel = channel;
    command.own_address = own ? 1 : 0;
    return state->flows.bind_channel(index, command, now);
  }

  static RxDatagram from_client(const TransportAddress& client, const Bytes& payload) {
    RxDatagram rx;
    rx.payload = payload.data();
    rx.length = static_cast<uint16_t>(payload.size());
    rx.kind = RxKind::kClient;
    rx.listener = client.ip.is_v6() ? 1 : 0;
    rx.source = client;
    return rx;
  }
  static RxDatagram from_peer(const TransportAddress& peer, uint16_t port, const Bytes& payload) {
    RxDatagram rx;
    rx.payload = payload.data();
    rx.length = static_cast<uint16_t>(payload.size());
    rx.kind = RxKind::kPeer;
    rx.relay = {static_cast<uint16_t>(peer.ip.is_v6() ? 1 : 0), port};
    rx.source = peer;
    return rx;
  }

  std::vector<Sent> run(const std::vector<RxDatagram>& in, Ticks now = 0) {
    auto out = std::make_unique<TxBurst>();
    process(*state, snapshot, now, in, *out);
    std::vector<Sent> sent;
    for (uint32_t i = 0; i < out->count; ++i)
      sent.push_back(join(out->items[i]));
    return sent;
  }
  std::vector<Sent> run(const RxDatagram& rx, Ticks now = 0) {
    return run(std::vector<RxDatagram>{rx}, now);
  }

  [[nodiscard]] uint64_t outcome(Outcome o) const {
    return stats.outcomes[static_cast<size_t>(o)].get();
  }
  // received + hairpin passes + handed in == sum of outcomes.
  [[nodiscard]] bool conserved() const {
    uint64_t sum = 0;
    for (const Counter& c : stats.outcomes)
      sum += c.get();
    return stats.received_packets.get() + stats.hairpin_passes.get() + stats.handed_in.get() == sum;
  }

  CoreLimits limits;
  Arena arena;
  std::vector<RingSlot> events_memory;
  SpscRing events;
  CoreStats stats;
  Snapshot snapshot;
  std::unique_ptr<CoreState> state;
};

}  // namespace culvert::test
