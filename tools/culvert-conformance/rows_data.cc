// T65 to T88: permissions, Send and Data, ICMP, channels (RFC 8656 sections 9 to 12).
#include <algorithm>
#include <array>

#include "dataplane/base/endian.h"
#include "tools/culvert-conformance/rows.h"

namespace culvert::conformance {
namespace {

using std::chrono::seconds;

constexpr uint16_t kChannel = 0x4001;

// One client with an allocation and one peer.
struct Pair {
  explicit Pair(Context& context)
      : c(context), s(context.target, context.seen), peer(context.target.peer()) {
    s.must_allocate();
    relayed = s.relayed_here();
  }
  void permit() { s.must(s.permit({peer.address()}), "CreatePermission"); }
  void bind() { s.must(s.bind(kChannel, peer.address()), "ChannelBind"); }
  // What the peer receives next from the relay, "" and false if nothing.
  [[nodiscard]] std::optional<std::string> at_peer(milliseconds wait = kArrival) {
    const auto got = peer.receive(relayed, wait);
    return got ? std::optional(text_of(got->payload)) : std::nullopt;
  }
  void from_peer(std::string_view data) { peer.socket.send(relayed, bytes_of(data)); }

  Context& c;
  Session s;
  Peer peer;
  TransportAddress relayed;
};

enum class Form { kNone, kChannelData, kData, kIcmp, kOther };
struct AtClient {
  Form form = Form::kNone;
  std::string payload;
  TransportAddress peer;
  uint16_t channel = 0;
  std::vector<uint8_t> icmp;
};

AtClient next_at_client(Session& s, milliseconds wait = kArrival) {
  AtClient out;
  const auto got = s.next(wait);
  if (!got) return out;
  out.form = Form::kOther;
  out.payload = hex(*got);
  if (const auto data = stun_client::parse_channel_data(*got)) {
    out.form = Form::kChannelData;
    out.channel = data->channel;
    out.payload.assign(data->payload.begin(), data->payload.end());
    return out;
  }
  const auto message = MessageView::parse(*got);
  if (!message || message->method() != Method::kData || message->cls() != Class::kIndication)
    return out;
  const auto peer = message->xor_address(Attr::kXorPeerAddress);
  if (!peer) return out;
  out.peer = *peer;
  if (const auto* icmp = message->find(Attr::kIcmp)) {
    out.form = Form::kIcmp;
    out.icmp.assign(icmp->value.begin(), icmp->value.end());
  } else if (const auto text = message->text(Attr::kData)) {
    out.form = Form::kData;
    out.payload = *text;
  }
  return out;
}

void t65(Context& c) {
  Pair p(c);
  p.permit();
  const auto begun = c.now();
  // Traffic both ways must not keep the permission alive.
  while (c.now() < begun + seconds(295)) {
    p.s.send_indication(p.peer.address(), bytes_of("on"));
    if (!p.at_peer()) throw Failed{"the permission ended before 295 s"};
    p.from_peer("back");
    c.wait_until(std::min(c.now() + seconds(14), begun + seconds(295)));
  }
  p.s.send_indication(p.peer.address(), bytes_of("on"));
  c.require(p.at_peer().has_value(), "Send passes until 295 s");
  c.wait_until(begun + seconds(303));
  p.s.send_indication(p.peer.address(), bytes_of("late"));
  c.require(!p.at_peer(kAbsence), "none passes at 303 s, in spite of traffic");
  p.s.forget_pending();
  p.from_peer("late");
  while (true) {
    const auto got = next_at_client(p.s, kAbsence);
    if (got.form == Form::kNone) break;
    if (got.payload == "late") throw Failed{"peer data passes at 303 s"};
  }
  c.note("and nothing comes back");
}

void t66(Context& c) {
  Pair p(c);
  Peer other_port(c.target.peer());
  p.permit();
  p.s.send_indication(other_port.address(), bytes_of("other"));
  c.require(other_port.receive(p.relayed, kArrival).has_value(),
            "Send to another port of a permitted address");
  other_port.socket.send(p.relayed, bytes_of("back"));
  const auto got = next_at_client(p.s);
  c.require(got.form == Form::kData && got.peer == other_port.address(), "and data from there");
}

void t67(Context& c) {
  Pair p(c);
  c.expect(p.s.permit({}), 400, "CreatePermission without a peer");
  const auto mixed = p.s.call(Method::kCreatePermission, [&](auto& m) {
    m.add_xor_address(Attr::kXorPeerAddress, p.peer.address());
    m.add(Attr::kXorPeerAddress, std::string_view("\0\1xyz", 5));
  });
  c.expect(mixed, 400, "one good and one malformed peer");
  p.s.send_indication(p.peer.address(), bytes_of("x"));
  c.require(!p.at_peer(kAbsence), "the good one was not installed");
  TransportAddress second{c.target.peer(), 9};
  c.expect(p.s.permit({p.peer.address(), second}), 0, "two good ones");
  c.expect(p.s.call(Method::kChannelBind, [](auto& m) { m.add_channel(kChannel); }), 400,
           "ChannelBind without a peer");
  c.expect(p.s.call(Method::kChannelBind,
                    [&](auto& m) { m.add_xor_address(Attr::kXorPeerAddress, p.peer.address()); }),
           400, "without a channel");
}

void t68(Context& c) {
  Pair p(c);
  const bool v4 = c.target.relay == Family::kIpv4;
  const auto foreign = *TransportAddress::parse(v4 ? "[2a00:1450:4001::5]:9" : "198.51.100.5:9");
  c.expect(p.s.permit({foreign}), 443, "CreatePermission for the family the allocation is not of");
  c.expect(p.s.bind(kChannel, foreign), 443, "ChannelBind");
}

void t69(Context& c) {
  Pair p(c);
  const bool v4 = c.target.relay == Family::kIpv4;
  const std::vector<const char*> forbidden =
      v4 ? std::vector{"0.0.0.0:9", "224.0.0.1:9", "255.255.255.255:9"}
         : std::vector{"[::]:9", "[ff02::1]:9", "[ff0e::1:2]:9"};
  for (const char* const text : forbidden) {
    const auto peer = *TransportAddress::parse(text);
    c.expect(p.s.permit({peer}), 403, std::string("CreatePermission ") + text);
    c.expect(p.s.bind(kChannel, peer), 403, "ChannelBind");
  }
  c.expect(p.s.permit({p.peer.address(), *TransportAddress::parse(forbidden[0])}), 403,
           "a good and a forbidden peer");
  p.s.send_indication(p.peer.address(), bytes_of("x"));
  c.require(!p.at_peer(kAbsence), "the good one was not installed");
  auto m = p.s.begin(Method::kSend, Class::kIndication);
  m.add_xor_address(Attr::kXorPeerAddress, *TransportAddress::parse(forbidden[1]));
  m.add(Attr::kData, "x");
  c.silent(p.s, m.bytes(), "Send to one");
}

void t71(Context& c) {
  Pair p(c);
  p.permit();
  auto m = p.s.begin(Method::kSend, Class::kIndication);
  m.add_xor_address(Attr::kXorPeerAddress, p.peer.address());
  p.s.send(m.bytes());
  m = p.s.begin(Method::kSend, Class::kIndication);
  m.add(Attr::kData, "no peer");
  p.s.send(m.bytes());
  p.s.send_indication(p.peer.address(), {});
  p.s.send_indication(p.peer.address(), bytes_of("after"));
  auto got = p.at_peer();
  c.require(got == "", "Send without DATA or without peer is dropped; empty DATA arrives empty");
  c.require(p.at_peer() == "after", "and the next after it");
  p.from_peer("");
  const auto back = next_at_client(p.s);
  c.require(back.form == Form::kData && back.payload.empty(),
            "an empty datagram comes back as empty DATA");
}

void t72(Context& c) {
  Pair p(c);
  auto m = p.s.begin(Method::kSend, Class::kIndication);
  m.add_xor_address(Attr::kXorPeerAddress, p.peer.address()).add(Attr::kData, "x");
  c.silent(p.s, m.bytes(), "Send without permission");
  c.require(!p.at_peer(kAbsence), "nothing reaches the peer");
}

void t73(Context& c) {
  Session asking(c.target, c.seen);
  const int code = asking.allocate([](auto& m) { m.add_flag(Attr::kDontFragment); }).code();
  Pair p(c);
  p.permit();
  p.s.send_indication(p.peer.address(), bytes_of("whole"),
                      [](auto& m) { m.add_flag(Attr::kDontFragment); });
  if (code == 420)
    c.require(!p.at_peer(kAbsence), "unsupported: such a Send is dropped");
  else
    c.require(p.at_peer() == "whole", "supported: it arrives (DF itself: --capture)");
}

void t74(Context& c) {
  Pair p(c);
  p.from_peer("uninvited");
  c.require(next_at_client(p.s, kAbsence).form == Form::kNone,
            "a datagram without permission is dropped");
  p.permit();
  p.from_peer("invited");
  c.require(next_at_client(p.s).payload == "invited", "with permission it comes");
}

void t75(Context& c) {
  Pair p(c);
  p.permit();
  p.from_peer("one");
  auto got = next_at_client(p.s);
  c.require(got.form == Form::kData && got.payload == "one" && got.peer == p.peer.address(),
            "without channel: a Data indication with the peer's address");
  p.bind();
  p.from_peer("two");
  got = next_at_client(p.s);
  c.require(got.form == Form::kChannelData && got.payload == "two" && got.channel == kChannel,
            "with a channel: ChannelData");
}

// Sends to a port where nobody listens and returns what the client is told.
AtClient provoke_icmp(Pair& p, bool with_channel, TransportAddress& closed) {
  {
    UdpSocket gone(p.c.target.peer());
    closed = gone.address();
  }
  p.s.must(p.s.permit({closed}), "CreatePermission");
  if (with_channel) {
    p.s.must(p.s.bind(kChannel, closed), "ChannelBind");
    p.s.send_channel(kChannel, bytes_of("anyone?"));
  } else {
    p.s.send_indication(closed, bytes_of("anyone?"));
  }
  return next_at_client(p.s);
}

void t76(Context& c) {
  for (const bool with_channel : {false, true}) {
    Pair p(c);
    TransportAddress closed;
    const auto got = provoke_icmp(p, with_channel, closed);
    const std::string what = with_channel ? "ChannelData" : "Send";
    if (got.form == Form::kNone)
      throw Failed{what + " to a closed port: no Data indication with ICMP"};
    c.require(got.form == Form::kIcmp, what + " to a closed port: Data indication with ICMP");
    c.require(got.peer == closed, "for the peer and port that were tried");
  }
}

void t77(Context& c) {
  Pair p(c);
  TransportAddress closed;
  const auto got = provoke_icmp(p, false, closed);
  if (got.form != Form::kIcmp) throw Failed{"no Data indication with an ICMP attribute"};
  c.require(got.icmp.size() == 8, "ICMP attribute of 8 bytes: " + hex(got.icmp));
  const uint16_t kind = load_be16(&got.icmp[2]);
  c.require(load_be16(got.icmp.data()) == 0, "reserved bits zero");
  if (c.target.relay == Family::kIpv4)
    c.require(kind >> 9 == 3 && (kind & 0x1ff) == 3, "type 3, code 3");
  else
    c.require(kind >> 9 == 1 && (kind & 0x1ff) == 4, "type 1, code 4");
  c.require(load_be32(&got.icmp[4]) == 0, "error data zero");
}

void t79(Context& c) {
  Pair p(c);
  for (const uint16_t channel : std::array<uint16_t, 5>{0, 0x3fff, 0x5000, 0x7fff, 0xffff}) {
    const auto head = stun_client::channel_data_header(channel, 0);
    c.expect(p.s.bind(channel, p.peer.address()), 400, "ChannelBind " + hex(Bytes(head).first(2)));
  }
  Peer other(c.target.peer());
  c.expect(p.s.bind(0x4000, p.peer.address()), 0, "0x4000");
  c.expect(p.s.bind(0x4fff, other.address()), 0, "0x4fff");
  for (const uint16_t channel : std::array<uint16_t, 3>{0x5000, 0x7fff, 0xffff}) {
    const auto head = stun_client::channel_data_header(channel, 4);
    std::vector<uint8_t> datagram(8, 'x');
    std::copy(head.begin(), head.end(), datagram.begin());
    c.silent(p.s, datagram, "data on " + hex(Bytes(head).first(2)));
  }
  const auto reserved = p.s.call(Method::kChannelBind, [&](auto& m) {
    m.add_u32(Attr::kChannelNumber, 0x4000abcd);  // RFFU bits are ignored on receipt
    m.add_xor_address(Attr::kXorPeerAddress, p.peer.address());
  });
  c.expect(reserved, 0, "reserved bits of CHANNEL-NUMBER set");
}

void t80(Context& c) {
  Pair p(c);
  Peer other(c.target.peer());
  p.bind();
  c.expect(p.s.bind(kChannel, other.address()), 400, "the channel to another peer");
  c.expect(p.s.bind(kChannel + 1, p.peer.address()), 400, "the peer to another channel");
  c.expect(p.s.bind(kChannel, p.peer.address()), 0, "the same pair again");
  p.s.send_channel(kChannel, bytes_of("x"));
  c.require(p.at_peer() == "x", "which still works");
}

void t81(Context& c) {
  Pair p(c);
  p.bind();
  const auto begun = c.now();
  p.s.send_indication(p.peer.address(), bytes_of("a"));
  c.require(p.at_peer() == "a", "ChannelBind installs the permission");
  c.wait_until(begun + seconds(280));
  p.s.send_channel(kChannel, bytes_of("b"));
  c.require(p.at_peer() == "b", "ChannelData at 280 s");
  c.wait_until(begun + seconds(304));
  p.s.send_channel(kChannel, bytes_of("c"));
  c.require(!p.at_peer(kAbsence), "none at 304 s: the permission has ended");
  p.permit();
  p.s.send_channel(kChannel, bytes_of("d"));
  c.require(p.at_peer() == "d", "with the permission renewed it passes again");
  c.wait_until(begun + seconds(590));
  p.permit();
  static_cast<void>(p.s.refresh());
  p.s.send_channel(kChannel, bytes_of("e"));
  c.require(p.at_peer() == "e", "and at 590 s");
  c.wait_until(begun + seconds(604));
  p.s.send_channel(kChannel, bytes_of("f"));
  c.require(!p.at_peer(kAbsence), "none at 604 s: the channel has ended");
}

void t82(Context& c) {
  Pair p(c);
  Peer other(c.target.peer());
  p.bind();
  const auto begun = c.now();
  // The client waits five minutes more after the end of a channel before it binds it elsewhere, and
  // keeps its allocation by the lifetime that every server grants.
  for (const int at : {300, 600, 910}) {
    c.wait_until(begun + seconds(at));
    p.s.must(p.s.refresh([](auto& m) { m.add_u32(Attr::kLifetime, 600); }), "Refresh");
  }
  c.expect(p.s.bind(kChannel, other.address()), 0, "the channel to another peer, 910 s later");
}

void t83(Context& c) {
  Pair p(c);
  Peer other_port(c.target.peer());
  p.bind();
  other_port.socket.send(p.relayed, bytes_of("port"));
  auto got = next_at_client(p.s);
  c.require(got.form == Form::kData && got.peer == other_port.address(),
            "from another port of a bound peer: a Data indication");
  p.from_peer("bound");
  c.require(next_at_client(p.s).form == Form::kChannelData, "from the bound port: ChannelData");
}

std::vector<uint8_t> channel_datagram(uint16_t length, std::string_view data) {
  const auto head = stun_client::channel_data_header(kChannel, length);
  std::vector<uint8_t> out(head.size() + data.size());
  std::copy(head.begin(), head.end(), out.begin());
  std::copy(data.begin(), data.end(), out.begin() + head.size());
  return out;
}

void t84(Context& c) {
  Pair p(c);
  p.bind();
  p.s.send(channel_datagram(5, std::string_view("12345\0\0\0", 8)));
  c.require(p.at_peer() == "12345", "padding over UDP is accepted and not passed on");
  p.s.send(channel_datagram(5, "54321"));
  c.require(p.at_peer() == "54321", "and not needed");
}

void t85(Context& c) {
  Pair p(c);
  p.bind();
  p.s.send(channel_datagram(8, "short"));
  p.s.send(std::vector<uint8_t>{0x40, 0x01, 0x00});
  p.s.send(channel_datagram(3, "long and longer"));
  c.require(p.at_peer() == "lon", "a datagram too short is dropped, bytes beyond are ignored");
}

void t86(Context& c) {
  Pair p(c);
  p.bind();
  p.s.send_channel(kChannel, {});
  c.require(p.at_peer() == "", "ChannelData of length 0 sends an empty datagram");
  p.from_peer("");
  const auto got = next_at_client(p.s);
  c.require(got.form == Form::kChannelData && got.payload.empty(), "and the other way");
}

void t87(Context& c) {
  Pair p(c);
  p.bind();
  const auto begun = c.now();
  while (c.now() < begun + seconds(290)) {
    p.s.send_channel(kChannel, bytes_of("on"));
    if (!p.at_peer()) throw Failed{"ChannelData stopped before 290 s"};
    c.wait_until(std::min(c.now() + seconds(10), begun + seconds(290)));
  }
  c.wait_until(begun + seconds(304));
  p.s.send_channel(kChannel, bytes_of("late"));
  c.require(!p.at_peer(kAbsence), "290 s of ChannelData did not renew the permission");
}

void t88(Context& c) {
  Pair p(c);
  auto m = p.s.begin(Method::kChannelBind);
  m.add_channel(kChannel).add_xor_address(Attr::kXorPeerAddress, p.peer.address());
  p.s.sign(m);
  c.expect(p.s.must_answer(m.bytes()), 0, "ChannelBind");
  c.expect(p.s.must_answer(m.bytes()), 0, "the same datagram again");
}

constexpr Row kRows[] = {
    {65, "8656 9", "a permission lives 300 s, whatever the traffic", Kind::kSlow, "", t65},
    {66, "8656 9", "permissions are for an address, any port", Kind::kTest, "", t66},
    {67, "8656 10.2", "invalid or missing peers: 400, all or nothing", Kind::kTest, "", t67},
    {68, "8656 10.2, 12.2", "a peer of another family: 443", Kind::kTest, "", t68},
    {69, "8656 10.2, 12.2", "a forbidden peer: 403, or silence for Send", Kind::kTest, "", t69},
    {70, "8656 10.2, 12.2", "table full: 508", Kind::kNotObservable,
     "the size of a server's tables is not known to a client", nullptr},
    {71, "8656 11.2", "Send needs peer and DATA; DATA may be empty", Kind::kTest, "", t71},
    {72, "8656 11.2", "Send without permission: silence", Kind::kTest, "", t72},
    {73, "8656 11.2, 14", "Send with DONT-FRAGMENT", Kind::kTest, "", t73},
    {74, "8656 9, 11.3", "peer data without permission: silence", Kind::kTest, "", t74},
    {75, "8656 11.3, 12.5", "Data indication, or ChannelData where bound", Kind::kTest, "", t75},
    {76, "8656 11.5", "ICMP errors become Data indications", Kind::kTest, "", t76},
    {77, "8656 18.13", "the ICMP attribute", Kind::kTest, "", t77},
    {79, "8656 12, 12.2", "channels 0x4000 to 0x4fff only", Kind::kTest, "", t79},
    {80, "8656 12.2", "one channel, one peer: else 400", Kind::kTest, "", t80},
    {81, "8656 12, 12.2", "a channel lives 600 s, its permission 300 s", Kind::kSlow, "", t81},
    {82, "8656 12", "after its end a channel may be bound anew", Kind::kSlow, "", t82},
    {83, "8656 11.3, 12", "a channel is for one port of the peer", Kind::kTest, "", t83},
    {84, "8656 12.5", "padding of ChannelData over UDP is optional", Kind::kTest, "", t84},
    {85, "8656 12.6", "ChannelData shorter or longer than its length", Kind::kTest, "", t85},
    {86, "8656 12.4, 12.6", "ChannelData of length 0", Kind::kTest, "", t86},
    {87, "8656 12.6", "ChannelData renews nothing", Kind::kSlow, "", t87},
    {88, "8656 12.2", "a retransmitted ChannelBind has the same result", Kind::kTest, "", t88},
};

}  // namespace

std::span<const Row> data_rows() {
  return kRows;
}

}  // namespace culvert::conformance
