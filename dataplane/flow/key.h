// How the two keys of a channel binding are made: from a received datagram on the path, and from an
// allocation when a command installs it. One place, so that both sides always agree.
#pragma once

#include "dataplane/flow/entry.h"

namespace culvert {

template <class Key>
inline void set_source(Key& key, const TransportAddress& source) {
  if constexpr (sizeof(Key) == sizeof(NarrowKey)) {
    key.source_ip = source.ip.v4_host();
  } else {
    key.source_ip = source.ip.bytes;
    key.family = source.ip.family;
  }
  key.source_port = source.port;
}

// What a ChannelData message from `client` on `channel` looks up.
template <class Key>
[[nodiscard]] inline Key client_key(const TransportAddress& client, uint16_t listener,
                                    uint16_t channel) {
  Key key;
  set_source(key, client);
  key.local_address = listener;
  key.channel = channel;
  key.kind = FlowKind::kFromClient;
  return key;
}

// What a datagram from `peer` to a relayed port looks up.
template <class Key>
[[nodiscard]] inline Key peer_key(const TransportAddress& peer, RelayLeg relay) {
  Key key;
  set_source(key, peer);
  key.local_address = relay.address;
  key.local_port = relay.port;
  key.kind = FlowKind::kFromPeer;
  return key;
}

template <class Flow>
struct FlowTraits;
template <>
struct FlowTraits<NarrowFlow> {
  using Key = NarrowKey;
};
template <>
struct FlowTraits<WideFlow> {
  using Key = WideKey;
};

}  // namespace culvert
