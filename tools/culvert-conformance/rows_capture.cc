// T78 and T90 to T97 as far as sockets do not show them: header fields, fragments and ICMP errors
// of what the server sends, seen by --capture where it arrives. For each field RFC 8656 sections 13
// and 14 give a preferred and an alternate behaviour and forbid any third; either passes, and the
// evidence says which was seen.
#include <array>
#include <memory>

#include "tools/culvert-conformance/capture.h"
#include "tools/culvert-conformance/rows.h"

namespace culvert::conformance {
namespace {

constexpr uint16_t kChannel = 0x4001;
constexpr uint32_t kFlowLabel = 0x5a5a5;
constexpr int kIpv6MinimumMtu = 1280;
constexpr size_t kIpv4AndUdp = 28, kIpv6AndUdp = 48;
constexpr uint32_t kDataOverhead = 48;  // what section 13 takes off an MTU told to a peer
constexpr const char* kNeedsCapture = "not in what sockets show: --capture";

// A client of one family, a peer of the same or the other, a channel, and the capture.
struct Path {
  Path(Context& context, Family client, Family peer_family)
      : c(context),
        target(context.target.over(client)),
        s(target, context.seen),
        peer(target.peer(peer_family)),
        wire(target.capture) {
    s.must_allocate([&](auto& m) {
      if (peer_family == Family::kIpv6 || target.relay == Family::kIpv6)
        m.add_u8(Attr::kRequestedAddressFamily, stun_client::family_code(peer_family));
    });
    relayed = s.relayed(peer_family);
    s.must(s.bind(kChannel, peer.address()), "ChannelBind");
  }

  [[nodiscard]] std::optional<Packet> seen_from(const TransportAddress& from,
                                                const TransportAddress& to) {
    return wire.next(Clock::now() + kArrival, [&](const Packet& p) {
      return p.protocol == 17 && p.from.ip == from.ip && p.to.ip == to.ip &&
             (p.fragment || (p.from.port == from.port && p.to.port == to.port));
    });
  }
  Packet to_peer(Bytes data) {
    wire.forget();
    s.send_channel(kChannel, data);
    return must(seen_from(relayed, peer.address()), "no packet for the peer was captured");
  }
  Packet to_client(Bytes data) {
    wire.forget();
    peer.socket.send(relayed, data);
    return must(seen_from(target.server, s.socket().address()),
                "no packet for the client was captured");
  }
  static Packet must(std::optional<Packet> packet, const char* why) {
    if (!packet) throw Failed{why};
    return *packet;
  }

  Context& c;
  Target target;
  Session s;
  Peer peer;
  Capture wire;
  TransportAddress relayed;
};

// Either what went in comes out (or what `preferred` makes of it), or always the same.
struct Field {
  const char* name;
  std::array<int, 2> in, preferred, out;
};
void require_either(Context& c, const std::string& way, const Field& f) {
  const std::string seen = way + ": " + f.name + " " + std::to_string(f.in[0]) + ", " +
                           std::to_string(f.in[1]) + " leaves as " + std::to_string(f.out[0]) +
                           ", " + std::to_string(f.out[1]);
  if (f.out == f.preferred) return c.note(seen + " (preferred)");
  c.require(f.out[0] == f.out[1], seen + " (alternate: one value)");
}
// The same where the alternate is one value that the RFC names.
void require_either(Context& c, const std::string& way, const Field& f, int alternate) {
  require_either(c, way, f);
  if (f.out != f.preferred && f.out[0] != alternate)
    throw Failed{way + ": " + f.name + " is always " + std::to_string(f.out[0]) + ", not " +
                 std::to_string(alternate)};
}

template <typename Send>
void judge_dont_fragment(Context& c, const std::string& way, UdpSocket& sender, const Send& send) {
  std::array<int, 2> out{};
  for (const int df : {0, 1}) {
    sender.set_dont_fragment(df == 1);
    out[static_cast<size_t>(df)] = send(bytes_of("x")).dont_fragment ? 1 : 0;
  }
  require_either(c, way, {"DF", {0, 1}, {0, 1}, out}, 0);
}

void t90(Context& c) {
  Path p(c, Family::kIpv4, Family::kIpv4);
  judge_dont_fragment(c, "client to peer", p.s.socket(), [&](Bytes b) { return p.to_peer(b); });
  judge_dont_fragment(c, "peer to client", p.peer.socket, [&](Bytes b) { return p.to_client(b); });
  p.wire.forget();
  p.s.send_indication(p.peer.address(), bytes_of("x"),
                      [](auto& m) { m.add_flag(Attr::kDontFragment); });
  const auto forced = p.seen_from(p.relayed, p.peer.address());
  if (forced)
    c.require(forced->dont_fragment, "Send with DONT-FRAGMENT leaves with DF 1");
  else
    c.note("Send with DONT-FRAGMENT is dropped");
}

void t92(Context& c) {
  Path p(c, Family::kIpv6, Family::kIpv6);
  const auto judge = [&](const std::string& way, UdpSocket& sender, const auto& send) {
    sender.set_flow_label(kFlowLabel);
    const uint32_t first = send().flow_label, second = send().flow_label;
    c.require(first != kFlowLabel, way + ": flow label " + std::to_string(kFlowLabel) +
                                       " leaves as " + std::to_string(first));
    c.require(first == second, "the same for the next packet of the flow");
  };
  judge("client to peer", p.s.socket(), [&] { return p.to_peer(bytes_of("x")); });
  judge("peer to client", p.peer.socket, [&] { return p.to_client(bytes_of("x")); });
}

// A peer's datagram as large as its link takes: four bytes too many for the way to the client.
void judge_too_big(Path& p, size_t payload, uint8_t icmp, uint8_t type) {
  p.peer.socket.set_dont_fragment(true);
  p.wire.forget();
  p.s.forget_pending();
  const std::vector<uint8_t> data(payload, 'm');
  p.peer.socket.send(p.relayed, data);
  const auto got = p.wire.next(Clock::now() + kArrival, [&](const Packet& packet) {
    const bool to_client = packet.from.ip == p.target.server.ip &&
                           packet.to.ip == p.s.socket().address().ip && packet.protocol == 17 &&
                           packet.fragment;
    const bool error = packet.protocol == icmp && packet.icmp_type == type &&
                       packet.icmp_mtu != 0 && packet.to.ip == p.peer.address().ip;
    return to_client || error;
  });
  const std::string what = "a peer's packet of " + std::to_string(p.wire.mtu()) + " bytes, DF: ";
  if (got && got->protocol == icmp) {
    p.c.require(got->icmp_mtu <= p.wire.mtu() - kDataOverhead,
                what + "an ICMP error with MTU " + std::to_string(got->icmp_mtu));
    return;
  }
  const auto whole = p.s.next(kArrival);
  if (!whole) throw Failed{what + "neither an ICMP error nor data"};
  const auto data_out = stun_client::parse_channel_data(*whole);
  p.c.require(
      data_out && data_out->payload.size() == payload,
      what + "it arrives whole, " + (got ? "in fragments" : "in one packet (a path with room)"));
}

void t93(Context& c) {
  Path p(c, Family::kIpv6, Family::kIpv6);
  judge_too_big(p, p.wire.mtu() - kIpv6AndUdp, 58, 2);
}

void t94(Context& c) {
  Path p(c, Family::kIpv6, Family::kIpv6);
  p.peer.socket.set_dont_fragment(false);
  p.peer.socket.set_fragment_size(kIpv6MinimumMtu);
  const std::vector<uint8_t> data(p.wire.mtu(), 'f');
  p.wire.forget();
  p.peer.socket.send(p.relayed, data);
  const auto whole = p.s.next(kArrival);
  if (!whole) throw Failed{"a datagram that came in fragments does not arrive"};
  const auto got = stun_client::parse_channel_data(*whole);
  c.require(got && got->payload.size() == data.size(),
            "a datagram of " + std::to_string(data.size()) + " bytes in fragments arrives whole");
  size_t fragments = 0, largest = 0;
  while (const auto packet = p.wire.next(Clock::now(), [&](const Packet& each) {
    return each.fragment && each.from.ip == p.target.server.ip &&
           each.to.ip == p.s.socket().address().ip && each.to.ip != p.relayed.ip;
  })) {
    ++fragments;
    largest = std::max(largest, packet->size);
  }
  c.note(std::to_string(fragments) + " fragments of at most " + std::to_string(largest) +
         " bytes leave for the client");
}

// TTL, and the field that holds DSCP and ECN, in one direction.
template <typename Send>
void judge_ttl_and_tos(Context& c, const std::string& way, UdpSocket& sender, const Send& send) {
  Field ttl{"TTL", {60, 40}, {59, 39}, {}};
  Field dscp{"DSCP", {46, 10}, {46, 10}, {}};
  Field ecn{"ECN", {2, 3}, {2, 3}, {}};
  for (size_t i = 0; i < 2; ++i) {
    sender.set_ttl(ttl.in[i]);
    sender.set_tos(dscp.in[i] << 2 | ecn.in[i]);
    const Packet out = send(bytes_of("x"));
    ttl.out[i] = out.ttl;
    dscp.out[i] = out.tos >> 2;
    ecn.out[i] = out.tos & 3;
    if (out.fragment) throw Failed{way + ": a packet of one byte leaves as fragments"};
  }
  // Routers on the way take their share of both alike.
  ttl.preferred = {ttl.out[0], ttl.out[0] - 20};
  if (ttl.out[0] >= ttl.in[0]) ttl.preferred = {-1, -1};
  require_either(c, way, ttl);
  require_either(c, way, dscp, 0);
  require_either(c, way, ecn, 0);
  sender.set_ttl(64);
  sender.set_tos(0);
}

void t95(Context& c) {
  Path p(c, Family::kIpv6, Family::kIpv4);
  const auto send = [&](Bytes b) { return p.to_peer(b); };
  judge_ttl_and_tos(c, "IPv6 client to IPv4 peer", p.s.socket(), send);
  // RFC 7915 section 5.1: DF 0 up to 1260 bytes, else 1.
  const std::vector<uint8_t> large(1300, 'l');
  const Field df{
      "DF of 29 and 1328 bytes",
      {0, 1},
      {0, 1},
      {p.to_peer(bytes_of("x")).dont_fragment ? 1 : 0, p.to_peer(large).dont_fragment ? 1 : 0}};
  require_either(c, "IPv6 client to IPv4 peer", df);
  judge_too_big(p, p.wire.mtu() - kIpv4AndUdp, 1, 3);
}

void t97(Context& c) {
  Path p(c, Family::kIpv4, Family::kIpv4);
  judge_ttl_and_tos(c, "client to peer", p.s.socket(), [&](Bytes b) { return p.to_peer(b); });
  judge_ttl_and_tos(c, "peer to client", p.peer.socket, [&](Bytes b) { return p.to_client(b); });
  try {
    Path six(c, Family::kIpv6, Family::kIpv6);
    judge_ttl_and_tos(c, "IPv6 client to peer", six.s.socket(),
                      [&](Bytes b) { return six.to_peer(b); });
    judge_ttl_and_tos(c, "IPv6 peer to client", six.peer.socket,
                      [&](Bytes b) { return six.to_client(b); });
  } catch (const NotOffered& missing) {
    c.note("not over IPv6: " + missing.why);
  }
}

// An address near the peer's that is nobody's in this test: a router's that sends the error.
IpAddress router_beside(const Target& target) {
  const uint32_t peer = target.peer(Family::kIpv4).v4_host();
  for (uint32_t flip = 1; flip < 8; ++flip) {
    const IpAddress ip = IpAddress::v4(peer ^ flip);
    if (ip != target.server.ip && ip != target.client_ip) return ip;
  }
  return IpAddress::v4(peer ^ 8);
}

void t78(Context& c) {
  Path p(c, Family::kIpv4, Family::kIpv4);
  const IpAddress router = router_beside(p.target);
  forge_port_unreachable(router, p.relayed, p.peer.address());
  const auto got = p.s.next(kArrival);
  if (!got) throw Failed{"an ICMP error from " + router.to_string() + " reaches no client"};
  const auto message = MessageView::parse(*got);
  c.require(message && message->method() == Method::kData && message->has(Attr::kIcmp) &&
                message->xor_address(Attr::kXorPeerAddress) == p.peer.address(),
            "an ICMP error from " + router.to_string() + ", which has no permission, about " +
                p.peer.address().to_string() + " becomes a Data indication");
}

constexpr Row kRows[] = {
    {78, "8656 11.5", "the source of an ICMP error needs no permission", Kind::kCapture,
     "needs a router between relay and peer that sends the error, which --capture forges", t78},
    {90, "8656 14", "IPv4: DF is copied, or 0", Kind::kCapture, kNeedsCapture, t90},
    {92, "8656 13.2", "IPv6: the flow label is not copied", Kind::kCapture, kNeedsCapture, t92},
    {93, "8656 13.2", "IPv6 too big: Packet Too Big to the sender, or fragments", Kind::kCapture,
     kNeedsCapture, t93},
    {94, "8656 13.2", "IPv6 fragments are relayed", Kind::kCapture, kNeedsCapture, t94},
    {95, "8656 13.3", "IPv6 to IPv4: RFC 7915 section 5, or defaults", Kind::kCapture,
     kNeedsCapture, t95},
    {97, "8656 13", "a field that cannot be preferred takes the alternate", Kind::kCapture,
     kNeedsCapture, t97},
};

}  // namespace

std::span<const Row> capture_rows() {
  return kRows;
}

}  // namespace culvert::conformance
