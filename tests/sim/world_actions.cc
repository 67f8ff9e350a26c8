// What clients, peers, operators, attackers and bad luck do in one step of a World.
#include <algorithm>

#include "dataplane/base/endian.h"
#include "tests/sim/world.h"

namespace culvert::sim_test {

namespace {

using codec::Attr;
using codec::Class;
using codec::MessageBuilder;
using codec::Method;

TransportAddress at(const std::string& text) {
  return TransportAddress::parse(text).value();
}

codec::TransactionId some_id(Rng& rng) {
  codec::TransactionId id{};
  store_be64(id.data(), rng.next());
  store_be32(&id[8], static_cast<uint32_t>(rng.next()));
  return id;
}

}  // namespace

std::vector<uint8_t> World::payload(Rng& rng, uint32_t flow, size_t size) {
  std::vector<uint8_t> out(std::max(size, kFlowHeader));
  store_be32(out.data(), kFlowMark);
  store_be32(&out[4], flow);
  store_be32(&out[8], ++sequence_[flow]);
  for (size_t i = kFlowHeader; i < out.size(); i += 37)
    out[i] = static_cast<uint8_t>(rng.next());
  return out;
}

TransportAddress World::spoofed(Rng& rng) const {
  const uint32_t low = rng.below(4) << 8 | rng.below(256);
  return {IpAddress::v4(0x64400000u | low), static_cast<uint16_t>(rng.between(1024, 65535))};
}

// ------------------------------------------------------------------ clients

TransportAddress World::some_peer(const Client& client, Rng& rng) {
  TransportAddress peer;
  // Mostly one that the allocation has an address for.
  for (int tries = 0; tries < 6; ++tries) {
    peer = any_peer(client, rng);
    for (const TransportAddress& r : client.turn->relayed())
      if (r.ip.family == peer.ip.family) return peer;
    if (rng.one_in(12)) break;
  }
  return peer;
}

TransportAddress World::any_peer(const Client& client, Rng& rng) {
  const uint32_t what = rng.below(40);
  if (what < 20) {
    const Peer& peer = *peers_[rng.below(peers_.size())];
    if (peer.host.nat == nullptr) return peer.host.inside;
    return peer.outside.value_or(TransportAddress{peer.host.nat->address(), 20001});
  }
  if (what < 27 && !client.met.empty()) return client.met[rng.below(client.met.size())];
  if (what < 34) {  // another client's relayed address
    const Client& other = some_client(rng);
    if (!other.turn->relayed().empty()) return other.turn->relayed()[0];
  }
  if (what < 36)  // a port of the relay that may be nobody's
    return at(rng.one_in(2) ? "192.0.2.1:" + std::to_string(rng.between(49990, 50520))
                            : "[2001:db8::1]:" + std::to_string(rng.between(50000, 50511)));
  if (what == 36) return at(rng.one_in(2) ? "10.1.2.3:9" : "[2001:dba::1]:9");  // denied
  // A host that answers with ICMP.
  return at(rng.one_in(2) ? "198.51.100.1:9" : "[2001:db8:5::1]:9");
}

void World::allocate(Client& client, Rng& rng) {
  codec::AllocateOptions options;
  const uint32_t what = rng.below(10);
  if (what < 4) options.family = rng.one_in(2) ? Family::kIpv6 : Family::kIpv4;
  if (what == 4) options.additional_family = Family::kIpv6;
  if (what == 5) options.even_port = false;
  if (what == 6 || what == 7) options.even_port = true;
  if (what == 8 && token_) {
    options.reservation_token = token_;
    if (!rng.one_in(4)) token_.reset();
  }
  if (rng.one_in(40)) options.transport = 6;
  if (rng.one_in(3)) options.lifetime_s = rng.below(1200);
  options.dont_fragment = rng.one_in(8);
  (void)client.turn->allocate(options, now_ns());
}

void World::send_data(Client& client, Rng& rng, uint32_t count) {
  const bool channel = !client.channels.empty() && rng.below(4) != 0;
  const auto index = static_cast<uint32_t>(client.host.inside.ip.bytes[15]);
  uint16_t number = 0;
  TransportAddress peer;
  if (channel) {
    std::tie(number, peer) = client.channels[rng.below(client.channels.size())];
  } else if (!client.peers.empty() && !rng.one_in(6)) {
    peer = client.peers[rng.below(client.peers.size())];
  } else {
    peer = some_peer(client, rng);
  }
  // One flow per way it takes: a channel's peer is the relay's to know.
  const uint32_t flow =
      index << 24 | (channel ? number : uint32_t{peer.ip.bytes[15]} << 16 | peer.port);
  std::vector<uint8_t> message;
  for (uint32_t i = 0; i < count; ++i) {
    const size_t size = rng.one_in(50) ? rng.between(500, 1400) : rng.between(12, 200);
    const auto data = payload(rng, flow, size);
    if (channel) {
      const auto head = codec::channel_data_header(number, static_cast<uint16_t>(data.size()));
      message.assign(head.begin(), head.end());
      message.insert(message.end(), data.begin(), data.end());
      if (rng.one_in(20)) message.resize((message.size() + 3) & ~size_t{3});
    } else {
      MessageBuilder builder(Method::kSend, Class::kIndication, some_id(rng));
      builder.add_xor_address(Attr::kXorPeerAddress, peer).add(Attr::kData, data);
      if (rng.one_in(10)) builder.add_flag(Attr::kDontFragment);
      message = builder.take();
    }
    send(client.host, client.server, message, rng);
  }
}

// Requests with good credentials and something wrong (or odd) in them.
void World::crafted(Client& client, Rng& rng) {
  if (client.nonce.empty()) return;
  const std::string& realm = rig_.config().realms[0].name;
  constexpr Method kMethods[] = {Method::kAllocate,    Method::kRefresh, Method::kCreatePermission,
                                 Method::kChannelBind, Method::kConnect, Method::kConnectionBind};
  for (uint32_t i = 0; i < 6; ++i) {
    MessageBuilder m(kMethods[rng.below(6)], Class::kRequest, some_id(rng));
    const std::vector<uint8_t> bytes(rng.below(9), 1);
    for (uint32_t k = rng.below(4); k > 0; --k) {
      constexpr Attr kAttributes[] = {
          Attr::kRequestedTransport, Attr::kLifetime,          Attr::kRequestedAddressFamily,
          Attr::kEvenPort,           Attr::kChannelNumber,     Attr::kXorPeerAddress,
          Attr::kReservationToken,   Attr::kDontFragment,      Attr::kAdditionalAddressFamily,
          Attr::kAccessToken,        Attr::kPriority,          Attr::kConnectionId,
          static_cast<Attr>(0x7f01), static_cast<Attr>(0x9f01)};
      m.add(kAttributes[rng.below(std::size(kAttributes))], bytes);
    }
    if (rng.one_in(2)) m.add_u8(Attr::kRequestedTransport, rng.one_in(4) ? 6 : 17);
    if (rng.one_in(3)) m.add_u8(Attr::kRequestedAddressFamily, static_cast<uint8_t>(rng.below(4)));
    if (rng.one_in(2)) m.add_channel(static_cast<uint16_t>(rng.between(0x3ffe, 0x4005)));
    if (rng.one_in(2)) m.add_xor_address(Attr::kXorPeerAddress, any_peer(client, rng));
    if (rng.one_in(8)) {
      TransportAddress mapped = at("[::ffff:198.51.100.1]:7000");
      m.add_xor_address(Attr::kXorPeerAddress, mapped);
    }
    m.add(Attr::kUsername, client.credentials->user()).add(Attr::kRealm, realm);
    m.add(Attr::kNonce, client.nonce);
    m.add_integrity(client.credentials->key(codec::PasswordAlgorithm::kMd5, realm));
    if (rng.one_in(8)) m.add(static_cast<Attr>(0x7f02), bytes);  // behind the integrity: not there
    if (rng.one_in(3)) m.add_fingerprint();
    send(client.host, client.server, m.bytes(), rng);
  }
}

void World::client_step(Rng& rng) {
  Client& client = some_client(rng);
  if (client.broken) begin_anew(client);
  codec::TurnClient& turn = *client.turn;
  if (!turn.allocated()) {
    if (turn.in_flight() == 0) allocate(client, rng);
    return;
  }
  const uint32_t what = rng.below(100);
  if (what < 12) {
    std::vector<TransportAddress> peers(1 + rng.below(3));
    for (auto& peer : peers)
      peer = some_peer(client, rng);
    (void)turn.create_permission(peers, now_ns());
    if (client.peers.size() < 12)
      client.peers.insert(client.peers.end(), peers.begin(), peers.end());
  } else if (what < 24) {
    const auto number = static_cast<uint16_t>(0x4000 + rng.below(6));
    const TransportAddress peer = some_peer(client, rng);
    (void)turn.channel_bind(number, peer, now_ns());
    std::erase_if(client.channels, [&](const auto& c) { return c.first == number; });
    client.channels.emplace_back(number, peer);
  } else if (what < 27) {
    (void)turn.refresh(rng.below(1200), now_ns());
  } else if (what < 29) {
    (void)turn.refresh(0, now_ns());
    client.peers.clear();
    client.channels.clear();
  } else if (what < 30) {
    client.broken = true;  // silently gone
    client.new_port = rng.one_in(2);
  } else if (what < 35) {
    crafted(client, rng);
  } else if (what < 36) {
    // Another user on the same 5-tuple.
    client.credentials = credentials_[rng.below(credentials_.size())].get();
    begin_anew(client);
    (void)client.turn->refresh(600, now_ns());
  } else if (what < 39) {
    // Straight to another host behind the same NAT, as ICE tries.
    const Client& other = some_client(rng);
    if (client.host.nat != nullptr && other.host.nat == client.host.nat && other.turn->mapped())
      send(client.host, *other.turn->mapped(), payload(rng, 0xffffffff, 20), rng);
  } else {
    send_data(client, rng, 1 + rng.below(scenario_.volume * 2));
  }
}

// ------------------------------------------------------------------ peers

void World::peer_step(Rng& rng) {
  Peer& peer = *peers_[rng.below(peers_.size())];
  if (peer.host.nat != nullptr && (!peer.outside || rng.one_in(20))) {
    MessageBuilder binding(Method::kBinding, Class::kRequest, some_id(rng));
    if (rng.one_in(2)) binding.add_fingerprint();
    send(peer.host, rig_.config().listeners[peer.host.inside.ip.is_v6() ? 1 : 0].address,
         binding.bytes(), rng);
    return;
  }
  if (peer.targets.empty()) return;
  TransportAddress to = peer.targets[rng.below(peer.targets.size())];
  if (to.ip.family != peer.host.inside.ip.family) return;
  if (rng.one_in(20)) to.port = static_cast<uint16_t>(to.port ^ 1);  // a reserved port, or nobody's
  const uint32_t flow = uint32_t{0x80u | peer.host.inside.ip.bytes[15]} << 24 |
                        uint32_t{to.ip.bytes[15]} << 16 | to.port;
  const uint32_t count = 1 + rng.below(scenario_.volume * 2);
  for (uint32_t i = 0; i < count; ++i) {
    const size_t size = rng.one_in(50) ? rng.between(500, 1400) : rng.between(12, 200);
    send(peer.host, to, payload(rng, flow, size), rng);
  }
}

// ------------------------------------------------------------------ odd, but no attack

// Messages that a relay meets every day and that ask nothing of it.
void World::odd_step(Rng& rng) {
  Client& client = some_client(rng);
  const bool own = rng.one_in(2);
  Host& host = own ? client.host : attacker_;
  const TransportAddress to = own ? client.server : rig_.config().listeners[0].address;
  const auto emit = [&](Method method, Class cls, auto&& fill) {
    MessageBuilder message(method, cls, some_id(rng));
    fill(message);
    send(host, to, message.bytes(), rng);
  };
  const auto nothing = [](MessageBuilder&) {};
  const std::vector<uint8_t> data(5, 1);
  switch (rng.below(14)) {
    case 0:
      return emit(Method::kBinding, Class::kIndication, nothing);
    case 1:
      return emit(Method::kBinding, Class::kRequest,
                  [&](MessageBuilder& m) { m.add(static_cast<Attr>(0x7f01), data); });
    case 2:
      return emit(Method::kBinding, Class::kRequest,
                  [&](MessageBuilder& m) { m.add_u32(Attr::kChangeRequest, 6); });
    case 3:
      return emit(Method::kBinding, Class::kRequest, nothing);
    case 4:
      return emit(Method::kData, Class::kIndication, nothing);
    case 5:
      return emit(static_cast<Method>(0x123), Class::kRequest, nothing);
    case 6:
      return emit(Method::kBinding, Class::kSuccess, nothing);
    case 7:
      return emit(Method::kRefresh, Class::kRequest, nothing);
    case 8:
      return emit(Method::kCreatePermission, Class::kRequest, nothing);
    case 9:
      return emit(Method::kSend, Class::kIndication,
                  [&](MessageBuilder& m) { m.add(Attr::kData, data); });
    case 10:
      return emit(Method::kSend, Class::kIndication, [&](MessageBuilder& m) {
        m.add_xor_address(Attr::kXorPeerAddress,
                          at(rng.one_in(2) ? "198.51.100.1:7000" : "[2001:db8:5::1]:7000"));
        m.add(Attr::kData, data);
      });
    case 11:
      return emit(Method::kAllocate, Class::kRequest, nothing);
    case 12: {
      const std::vector<uint8_t> channel = {0x40, static_cast<uint8_t>(rng.below(8)), 0, 1, 7};
      return send(host, to, channel, rng);
    }
    default:
      return emit(Method::kAllocate, Class::kRequest, [&](MessageBuilder& m) {
        m.add_u8(Attr::kRequestedTransport, 17).add_fingerprint();
      });
  }
}

// ------------------------------------------------------------------ faults

void World::fault_step(Rng& rng) {
  std::vector<Fault> mine;
  for (size_t f = 0; f < kFaults; ++f)
    if ((scenario_.faults >> f & 1) != 0) mine.push_back(static_cast<Fault>(f));
  const Fault fault = mine[rng.below(mine.size())];
  if (fault <= Fault::k_bursts) return packet_faults(fault, rng);
  if (fault <= Fault::k_wall_clock_back) return time_faults(fault, rng);
  if (fault <= Fault::k_timed_credentials) return operator_faults(fault, rng);
  if (fault == Fault::k_spoofed_flood || fault == Fault::k_challenge_flood ||
      fault == Fault::k_permission_flood)
    return flood_faults(fault, rng);
  hostile_faults(fault, rng);
}

void World::packet_faults(Fault fault, Rng& rng) {
  if (fault == Fault::k_bursts) {
    Client& client = some_client(rng);
    if (client.turn->allocated()) send_data(client, rng, scenario_.volume * 6);
    return coverage_.hit(fault);
  }
  // The weather changes; whatever of it this scenario has.
  sim::Conditions c;
  if (scenario_.has(Fault::k_loss)) c.loss_ppm = rng.below(200'000);
  if (scenario_.has(Fault::k_duplication)) c.duplicate_ppm = rng.below(200'000);
  if (scenario_.has(Fault::k_reordering)) c.reorder_ppm = rng.below(200'000);
  if (scenario_.has(Fault::k_delay)) {
    c.delay_min_us = rng.below(20'000);
    c.delay_max_us = c.delay_min_us + rng.below(100'000);
    coverage_.hit(Fault::k_delay);
  }
  if (scenario_.has(Fault::k_reordering)) {
    c.reorder_by_us = 1 + rng.below(50'000);
    coverage_.hit(Fault::k_reordering);
  }
  network_.set_conditions(c);
}

// Commands of operators pile up before a core that does not run, and requests behind them.
void World::fill_command_ring(Rng& rng) {
  const auto core = static_cast<CoreId>(rng.below(scenario_.cores));
  rig_.stall_control(network_.now_us() + 10 * kMilli);
  for (int i = 0; i < 4; ++i) {
    Client& client = some_client(rng);
    if (client.turn->allocated()) (void)client.turn->refresh(600, now_ns());
  }
  turn_clients();
  network_.advance_to(network_.now_us() + 5 * kMilli);
  rig_.settle();
  rig_.freeze_core(core, network_.now_us() + rng.between(100, 1500) * kMilli);
  std::vector<AllocationId> ids;
  rig_.server().each_allocation(0, [&](const AllocationInfo& a) {
    ids.push_back(a.id);
    return true;
  });
  bool full = false;
  for (int i = 0; i < 400 && !ids.empty() && !full; ++i)
    full = !rig_.server().query(ids[rng.below(ids.size())], [](const auto&) {});
  coverage_.hit(Fault::k_full_command_ring, full ? 1 : 0);
}

void World::time_faults(Fault fault, Rng& rng) {
  const auto core = static_cast<CoreId>(rng.below(scenario_.cores));
  const uint64_t now = network_.now_us();
  switch (fault) {
    case Fault::k_core_stall:
      rig_.card().stall(core, now + rng.between(20, 2000) * kMilli);
      break;
    case Fault::k_core_freeze:
      rig_.freeze_core(core, now + rng.between(20, 2000) * kMilli);
      break;
    case Fault::k_control_stall:
      rig_.stall_control(now + rng.between(20, 3000) * kMilli);
      break;
    case Fault::k_control_restart:
      if (!rng.one_in(4)) return;
      rig_.restart();
      draining_ = false;
      break;
    case Fault::k_full_command_ring:
      return fill_command_ring(rng);
    case Fault::k_full_event_ring:
    case Fault::k_full_handoff_ring:
    case Fault::k_full_tables: {
      // Small ones from the start; what fills them is one client's eagerness.
      Client& client = some_client(rng);
      if (!client.turn->allocated()) return;
      if (fault == Fault::k_full_handoff_ring) {
        rig_.freeze_core(core, now + 100 * kMilli);
        send_data(client, rng, scenario_.volume * 4);
      } else {
        for (uint32_t i = 0; i < 60; ++i) {
          TransportAddress peer = at("198.51.100.1:7000");
          peer.ip = IpAddress::v4(0xc6336400u + rng.below(200));
          (void)client.turn->create_permission({&peer, 1}, now_ns());
        }
      }
      break;
    }
    case Fault::k_clock_forward:
      // The machine slept: datagrams wait, and nothing ran.
      if (!rng.one_in(3)) return;
      network_.advance_to(now + rng.between(1, 700) * kSec);
      break;
    default:
      rig_.shift_wall_clock(-static_cast<int64_t>(rng.below(400)));
      break;
  }
  coverage_.hit(fault);
}

void World::operator_faults(Fault fault, Rng& rng) {
  switch (fault) {
    case Fault::k_reload: {
      if (rig_.reference().requests_waiting() != 0) return;
      Config config = rig_.config();
      if (scenario_.has(Fault::k_quota)) config.realms[0].user_quota = rng.between(1, 5);
      config.limits.max_lifetime_seconds = rng.between(600, 3600);
      if (rig_.reload(config)) throw Violation("a reload was refused");
      break;
    }
    case Fault::k_drain:
      if (rig_.reference().requests_waiting() != 0) return;
      draining_ = !draining_;
      rig_.set_draining(draining_);
      break;
    case Fault::k_operator_close: {
      std::vector<TransportAddress> live;
      rig_.server().each_allocation(0, [&](const AllocationInfo& a) {
        live.push_back(a.client);
        return true;
      });
      if (live.empty()) return;
      rig_.close_allocation(live[rng.below(live.size())]);
      break;
    }
    case Fault::k_rebind: {
      Client& client = some_client(rng);
      if (client.host.nat == nullptr) return;
      client.host.nat->forget_all();
      break;
    }
    case Fault::k_ports_taken: {
      const RelayLeg leg{static_cast<uint16_t>(rng.below(2)),
                         static_cast<uint16_t>(rng.between(50000, 50063))};
      if (rng.one_in(3))
        rig_.card().vacate(leg);
      else
        rig_.card().occupy(leg);
      break;
    }
    default:
      break;  // those that stand in the configuration: in force from the start
  }
  coverage_.hit(fault);
}

void World::flood_faults(Fault fault, Rng& rng) {
  Client& client = some_client(rng);
  if (fault == Fault::k_permission_flood) {
    if (!client.turn->allocated()) return;
    const uint32_t base = rng.below(600);
    for (uint32_t i = 0; i < 8; ++i) {
      std::vector<TransportAddress> peers;
      for (uint32_t k = 0; k < 32 + rng.below(2); ++k)
        peers.push_back({IpAddress::v4(0xc6336000u + base + i * 32 + k), 7000});
      (void)client.turn->create_permission(peers, now_ns());
    }
    return coverage_.hit(fault);
  }
  const bool spoof = fault == Fault::k_spoofed_flood;
  const uint32_t count = rng.between(20, 400);
  for (uint32_t i = 0; i < count; ++i) {
    MessageBuilder request(rng.one_in(4) ? Method::kRefresh : Method::kAllocate, Class::kRequest,
                           some_id(rng));
    if (!rng.one_in(4)) request.add_u8(Attr::kRequestedTransport, 17);
    if (rng.one_in(3)) request.add(Attr::kSoftware, "a client that never listens to a challenge");
    raw(spoof ? spoofed(rng) : attacker_.inside, rig_.config().listeners[0].address,
        request.bytes());
  }
  coverage_.hit(fault);
}

void World::hostile_faults(Fault fault, Rng& rng) {
  const TransportAddress to = rig_.config().listeners[0].address;
  const auto& captured = rig_.captures();
  switch (fault) {
    case Fault::k_garbage: {
      for (uint32_t i = 0; i < 20; ++i) {
        std::vector<uint8_t> bytes(rng.below(80));
        for (auto& b : bytes)
          b = static_cast<uint8_t>(rng.next());
        const uint32_t kind = rng.below(8);
        if (!bytes.empty() && kind < 3) bytes[0] = static_cast<uint8_t>(rng.below(4));
        if (!bytes.empty() && kind == 3) bytes[0] = static_cast<uint8_t>(0x40 + rng.below(0x40));
        if (kind == 4) bytes.assign(2100, 0);
        if (kind == 4) {  // a well-formed message that is too long
          MessageBuilder m(Method::kAllocate, Class::kRequest, some_id(rng));
          bytes = m.add(Attr::kSoftware, std::string(2100, 'x')).take();
        }
        if (kind == 5) {
          MessageBuilder m(Method::kBinding, Class::kRequest, some_id(rng));
          bytes = m.add_u32(Attr::kFingerprint, 1).take();
        }
        TransportAddress from = rng.one_in(2) ? attacker_.inside : spoofed(rng);
        if (rng.one_in(12)) from.port = 0;
        raw(from, to, bytes);
      }
      break;
    }
    case Fault::k_truncated:
    case Fault::k_replayed: {
      if (captured.empty()) return;
      for (uint32_t i = 0; i < 10; ++i) {
        const Datagram& old = captured[rng.below(captured.size())];
        auto bytes = old.payload;
        if (fault == Fault::k_truncated) bytes.resize(rng.below(bytes.size() + 1));
        raw(rng.one_in(2) ? old.from : attacker_.inside, old.to, bytes);
      }
      break;
    }
    case Fault::k_forged_integrity: {
      for (uint32_t i = 0; i < 10 && !captured.empty(); ++i) {
        const Datagram& old = captured[rng.below(captured.size())];
        auto bytes = old.payload;
        if (bytes.size() < 40 || bytes[0] > 1) continue;
        bytes[8 + rng.below(12)] ^= 0x55;  // another transaction, under the same integrity
        raw(old.from, old.to, bytes);
      }
      break;
    }
    default:
      return hostile_messages(fault, rng);
  }
  coverage_.hit(fault);
}

void World::hostile_messages(Fault fault, Rng& rng) {
  Client& client = some_client(rng);
  const TransportAddress to = rig_.config().listeners[0].address;
  switch (fault) {
    case Fault::k_wrong_nonce: {
      codec::Credentials& who = *client.credentials;
      const std::string& realm = rig_.config().realms[0].name;
      MessageBuilder m(rng.one_in(2) ? Method::kRefresh : Method::kAllocate, Class::kRequest,
                       some_id(rng));
      m.add_u8(Attr::kRequestedTransport, 17).add(Attr::kUsername, who.user());
      m.add(Attr::kRealm, realm)
          .add(Attr::kNonce, rng.one_in(2) ? "obMatJos2AAAAnot-a-nonce" : "x");
      m.add_integrity(rng.one_in(4) ? codec::Key(16, 7)
                                    : who.key(codec::PasswordAlgorithm::kMd5, realm));
      for (uint32_t i = 0; i < 1 + rng.below(30); ++i)
        send(client.host, client.server, m.bytes(), rng);
      break;
    }
    case Fault::k_foreign_channels: {
      for (uint32_t i = 0; i < 20; ++i) {
        const auto data = payload(rng, 0xfffffffe, 20);
        const auto head = codec::channel_data_header(
            static_cast<uint16_t>(0x4000 + rng.below(0x1000)), static_cast<uint16_t>(data.size()));
        std::vector<uint8_t> bytes(head.begin(), head.end());
        bytes.insert(bytes.end(), data.begin(), data.end());
        send(rng.one_in(2) ? client.host : attacker_, rng.one_in(2) ? client.server : to, bytes,
             rng);
      }
      break;
    }
    case Fault::k_icmp: {
      Datagram d;
      d.is_error = true;
      const Peer& peer = *peers_[rng.below(peers_.size())];
      if (peer.targets.empty()) return;
      d.to = peer.targets[rng.below(peer.targets.size())];
      d.from = peer.outside.value_or(peer.host.inside);
      if (d.from.ip.family != d.to.ip.family) return;
      constexpr uint8_t kTypes[] = {1, 2, 3, 3, 3, 4, 5, 11, 12, 129};
      d.icmp_type = kTypes[rng.below(10)];
      d.icmp_code = static_cast<uint8_t>(rng.below(6));
      d.icmp_mtu = 1280;
      network_.send(d);
      break;
    }
    case Fault::k_oversized: {
      for (uint32_t i = 0; i < 6; ++i) {
        const Peer& peer = *peers_[rng.below(peers_.size())];
        if (peer.targets.empty()) continue;
        const TransportAddress target = peer.targets[rng.below(peer.targets.size())];
        const TransportAddress from = peer.outside.value_or(peer.host.inside);
        if (from.ip.family != target.ip.family) continue;
        const uint32_t flow = 0xf0000000u | (from.ip.is_v6() ? 1u << 24 : 0u) |
                              uint32_t{from.ip.bytes[15]} << 16 |
                              ((from.port * 31u + target.port) & 0xffffu);
        raw(from, target, payload(rng, flow, rng.between(65'400, 65'507)));
      }
      break;
    }
    default:
      return;  // the hop limit is in every datagram sent (World::send)
  }
  coverage_.hit(fault);
}

}  // namespace culvert::sim_test
