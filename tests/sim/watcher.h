// Reads what passes on the wire, on both sides of a relay, with the tools' codec, and knows nothing
// of the relay's tables nor of the reference's: it learns permissions and channels from requests
// and the success responses that leave, and says when something left that no live permission
// covers.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "config/config.h"
#include "dataplane/base/endian.h"
#include "dataplane/io/sim/network.h"
#include "tools/stun_client/message.h"

namespace culvert::sim_test {

using sim::AddressLess;
using sim::Datagram;
namespace client_codec = culvert::stun_client;

class Watcher {
 public:
  explicit Watcher(const Config& config) {
    for (const ListenConfig& l : config.listeners)
      listeners_.push_back(l.address);
  }

  // A client's datagram on its way to the relay.
  void client_sent(const Datagram& d) {
    if (client_codec::looks_like_channel_data(d.payload)) return;
    const auto message = client_codec::MessageView::parse(d.payload);
    if (!message || message->cls() != client_codec::Class::kRequest) return;
    Asked& asked = asked_[{id_of(*message), d.from.to_string()}];
    asked.method = message->method();
    asked.ends = asked.method == client_codec::Method::kRefresh &&
                 message->u32(client_codec::Attr::kLifetime) == 0u &&
                 !message->has(client_codec::Attr::kRequestedAddressFamily);
    asked.peers = message->xor_addresses(client_codec::Attr::kXorPeerAddress);
    if (const auto* c = message->find(client_codec::Attr::kChannelNumber)) {
      asked.channel = load_be16(c->value.data());
    }
  }

  // What left the relay at that millisecond.
  void relay_sent(const Datagram& d, uint64_t now_ms) {
    const bool from_listener =
        std::find(listeners_.begin(), listeners_.end(), d.from) != listeners_.end();
    if (!from_listener) return to_peer(d, now_ms);
    if (client_codec::looks_like_channel_data(d.payload)) return channel_to_client(d, now_ms);
    const auto message = client_codec::MessageView::parse(d.payload);
    if (!message) {
      note("unreadable datagram to " + d.to.to_string());
      return;
    }
    if (message->cls() == client_codec::Class::kIndication) {
      const auto peer = message->xor_address(client_codec::Attr::kXorPeerAddress);
      if (!peer || !permitted(d.to, peer->ip, now_ms)) note("Data without a permission");
      return;
    }
    if (message->cls() == client_codec::Class::kSuccess) granted(d.to, *message, now_ms);
  }

  [[nodiscard]] const std::vector<std::string>& violations() const { return violations_; }
  [[nodiscard]] uint64_t to_peers() const { return to_peers_; }
  [[nodiscard]] uint64_t to_clients() const { return to_clients_; }

 private:
  struct Asked {
    client_codec::Method method{};
    std::vector<TransportAddress> peers;
    uint16_t channel = 0;
    bool ends = false;  // Refresh with lifetime 0
  };
  struct Channel {
    TransportAddress peer;
    uint64_t deadline_ms = 0;
  };
  struct Known {
    std::map<IpAddress, uint64_t, AddressLess> permissions;
    std::map<uint16_t, Channel> channels;
  };

  static std::string id_of(const client_codec::MessageView& message) {
    const auto id = message.transaction_id();
    return {reinterpret_cast<const char*>(id.data()), id.size()};
  }

  void granted(const TransportAddress& client, const client_codec::MessageView& message,
               uint64_t now_ms) {
    const auto asked = asked_.find({id_of(message), client.to_string()});
    if (asked == asked_.end()) return note("an answer to nobody's question");
    Known& known = clients_[client];
    const Asked& a = asked->second;
    if (a.method == client_codec::Method::kAllocate) {
      const auto relayed = message.xor_addresses(client_codec::Attr::kXorRelayedAddress);
      for (const TransportAddress& r : relayed) {
        TransportAddress& owner = owners_[r];
        if (!(owner == client)) known = {};  // a new allocation begins with nothing
        owner = client;
      }
      return;
    }
    if (a.ends) known = {};
    if (a.method == client_codec::Method::kRefresh) return;
    for (const TransportAddress& peer : a.peers) {
      known.permissions[peer.ip] = now_ms + 300'000;
    }
    const bool binds = a.method == client_codec::Method::kChannelBind;
    if (binds && a.channel != 0 && !a.peers.empty()) {
      known.channels[a.channel] = {a.peers[0], now_ms + 600'000};
    }
  }
  bool permitted(const TransportAddress& client, const IpAddress& peer, uint64_t now_ms) {
    const auto& permissions = clients_[client].permissions;
    const auto found = permissions.find(peer);
    return found != permissions.end() && now_ms < found->second;
  }
  void to_peer(const Datagram& d, uint64_t now_ms) {
    ++to_peers_;
    const auto owner = owners_.find(d.from);
    if (owner == owners_.end()) return note("left from a port nobody was told of");
    if (!permitted(owner->second, d.to.ip, now_ms)) {
      note("to peer " + d.to.to_string() + " without a permission");
    }
  }
  void channel_to_client(const Datagram& d, uint64_t now_ms) {
    ++to_clients_;
    const auto data = client_codec::parse_channel_data(d.payload);
    const Known& known = clients_[d.to];
    const auto channel = data ? known.channels.find(data->channel) : known.channels.end();
    if (channel == known.channels.end() || now_ms >= channel->second.deadline_ms) {
      return note("ChannelData on a channel that is not bound");
    }
    if (!permitted(d.to, channel->second.peer.ip, now_ms)) note("ChannelData without a permission");
  }
  void note(std::string what) {
    if (violations_.size() < 20) violations_.push_back(std::move(what));
  }

  std::vector<TransportAddress> listeners_;
  std::map<std::pair<std::string, std::string>, Asked> asked_;  // by transaction id and client
  std::map<TransportAddress, Known, AddressLess> clients_;
  std::map<TransportAddress, TransportAddress, AddressLess> owners_;  // relayed -> client
  std::vector<std::string> violations_;
  uint64_t to_peers_ = 0;
  uint64_t to_clients_ = 0;
};

}  // namespace culvert::sim_test
