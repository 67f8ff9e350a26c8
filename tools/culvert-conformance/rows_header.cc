// T89 to T100: IP header fields of relayed packets (RFC 8656 sections 13 to 16), as far as sockets
// on both sides see them (rows_capture.cc has the others); T118 to T120: first bytes, loops,
// tunnels.
#include "dataplane/base/endian.h"
#include "tools/culvert-conformance/rows.h"

namespace culvert::conformance {
namespace {

constexpr uint16_t kChannel = 0x4001;

struct Bound {
  explicit Bound(Context& c) : s(c.target, c.seen), peer(c.target.peer(Family::kIpv4)) {
    if (c.target.server.ip.is_v6()) throw NotOffered{"the row needs a client over IPv4"};
    s.must_allocate([&](auto& m) {
      if (c.target.relay == Family::kIpv6) m.add_u8(Attr::kRequestedAddressFamily, 1);
    });
    relayed = s.relayed(Family::kIpv4);
    s.must(s.bind(kChannel, peer.address()), "ChannelBind");
  }
  Datagram to_peer() {
    s.send_channel(kChannel, bytes_of("x"));
    auto got = peer.receive(relayed, kArrival);
    if (!got) throw Failed{"ChannelData did not arrive"};
    return std::move(*got);
  }
  Datagram to_client() {
    s.forget_pending();
    peer.socket.send(relayed, bytes_of("x"));
    auto got = s.socket().receive(Clock::now() + kArrival);
    if (!got) throw Failed{"peer data did not arrive"};
    return std::move(*got);
  }
  Session s;
  Peer peer;
  TransportAddress relayed;
};

void t89(Context& c) {
  Bound b(c);
  // EF with ECT(0), AF11 with CE. CE (3) is what congestion marks.
  for (const int tos : {0xb8 | 2, 0x28 | 3, 0}) {
    b.s.socket().set_tos(tos);
    b.peer.socket.set_tos(tos);
    const int out = b.to_peer().tos;
    const int back = b.to_client().tos;
    const std::string what = "DSCP and ECN " + std::to_string(tos);
    const auto held = [&](int got) { return got == tos; };
    if (!held(out) || !held(back))
      throw Failed{what + " arrive as " + std::to_string(out) + " at the peer and " +
                   std::to_string(back) + " at the client"};
    c.note(what + " both ways");
  }
}

void t91(Context& c) {
  Bound b(c);
  const auto follows = [&](UdpSocket& sender, const auto& arrive, const std::string& way) {
    sender.set_ttl(60);
    const int high = arrive().ttl;
    sender.set_ttl(40);
    const int low = arrive().ttl;
    sender.set_ttl(64);
    const std::string seen = way + ": sent with 60 and 40, arrives with " + std::to_string(high) +
                             " and " + std::to_string(low);
    c.require(high - low == 20 && high < 60, seen);
  };
  follows(
      b.s.socket(), [&] { return b.to_peer(); }, "client to peer");
  follows(
      b.peer.socket, [&] { return b.to_client(); }, "peer to client");
}

void t96(Context& c) {
  if (c.target.server.ip.is_v6()) throw NotOffered{"the row needs a client over IPv4"};
  Peer peer(c.target.peer(Family::kIpv6));
  Session s(c.target, c.seen);
  s.must_allocate([](auto& m) { m.add_u8(Attr::kRequestedAddressFamily, 2); });
  s.must(s.permit({peer.address()}), "CreatePermission");
  s.send_indication(peer.address(), bytes_of("x"),
                    [](auto& m) { m.add_flag(Attr::kDontFragment); });
  c.require(peer.receive(s.relayed(Family::kIpv6), kArrival).has_value(),
            "Send with DONT-FRAGMENT from IPv4 to IPv6 arrives");
}

void t100(Context& c) {
  Bound b(c);
  b.s.socket().set_no_operation_options();
  const auto got = b.to_peer();
  c.require(!got.options, "a packet with IPv4 options arrives without them");
}

void t118(Context& c) {
  Session s(c.target, c.seen);
  for (const int first : {4, 19, 20, 22, 63, 80, 127, 128, 191, 255}) {
    auto m = s.begin(Method::kBinding).take();
    m[0] = static_cast<uint8_t>(first);
    c.silent(s, m, "first byte " + std::to_string(first));
  }
}

void t119(Context& c) {
  Session s(c.target, c.seen);
  const Family family = c.target.server.ip.family;
  s.must_allocate([&](auto& m) {
    if (family != Family::kIpv4 || c.target.relay != Family::kIpv4)
      m.add_u8(Attr::kRequestedAddressFamily, stun_client::family_code(family));
  });
  static_cast<void>(s.relayed(family));
  c.expect(s.bind(kChannel, c.target.server), 403,
           "ChannelBind to the server's own " + c.target.server.to_string());
  // Its address may be permitted (other relayed ports are there), its listening port may not be
  // reached: a Binding sent through the relay must stay without answer.
  static_cast<void>(s.permit({c.target.server}));
  const auto inner = s.begin(Method::kBinding);
  s.forget_pending();
  s.send_indication(c.target.server, inner.bytes());
  const auto deadline = Clock::now() + kAbsence;
  while (Clock::now() < deadline)
    if (const auto got = s.next(kAbsence))
      throw Failed{"the server answered itself through the relay: " + hex(*got)};
  c.note("a Binding sent to it through the relay stays unanswered");
}

void t120(Context& c) {
  Session s(c.target, c.seen);
  s.must_allocate([](auto& m) { m.add_u8(Attr::kRequestedAddressFamily, 2); });
  static_cast<void>(s.relayed(Family::kIpv6));
  for (const char* const text :
       {"[2002:7f00:1::1]:9", "[2002:c0a8:101::1]:9", "[2001:0:4136:e378:8000:63bf:3fff:fdd2]:9",
        "[::ffff:127.0.0.1]:9", "[::ffff:10.0.0.1]:9", "[::127.0.0.1]:9", "[64:ff9b::7f00:1]:9",
        "[::]:9", "[ff02::1]:9"})
    c.expect(s.permit({*TransportAddress::parse(text)}), 403, text);
}

constexpr Row kRows[] = {
    {89, "8656 14", "IPv4: DSCP and ECN are copied (SHOULD)", Kind::kTest, "", t89},
    {91, "8656 13, 21.1.7", "TTL is decremented as by a router (SHOULD)", Kind::kTest, "", t91},
    {96, "8656 13", "across families DONT-FRAGMENT is ignored", Kind::kTest, "", t96},
    {98, "8656 15", "TCP to UDP: header fields", Kind::kLater, "a row of the TCP transport",
     nullptr},
    {99, "8656 16", "UDP to TCP: header fields", Kind::kLater, "a row of the TCP transport",
     nullptr},
    {100, "8656 14", "IPv4 options are never copied", Kind::kTest, "", t100},
    {118, "8656 12", "first bytes 4 to 63 and 80 to 255 are dropped", Kind::kTest, "", t118},
    {119, "8656 21.1.7", "no loop through the server's own addresses", Kind::kTest, "", t119},
    {120, "8656 21.4", "tunnel, embedded and multicast IPv6 peers are refused", Kind::kTest, "",
     t120},
};

}  // namespace

std::span<const Row> header_rows() {
  return kRows;
}

}  // namespace culvert::conformance
