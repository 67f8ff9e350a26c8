// T39 to T64: Allocate and Refresh (RFC 8656 sections 5 to 8).
#include <algorithm>
#include <array>
#include <memory>
#include <set>
#include <thread>

#include "dataplane/base/endian.h"
#include "tools/culvert-conformance/rows.h"

namespace culvert::conformance {
namespace {

constexpr uint32_t kDefaultLifetime = 600;
constexpr uint32_t kUsualMaximum = 3600;

const Fill kUdpTransport = [](MessageBuilder& m) { m.add_u8(Attr::kRequestedTransport, 17); };
const Fill kDelete = [](MessageBuilder& m) { m.add_u32(Attr::kLifetime, 0); };
Fill family(uint8_t code) {
  return [code](MessageBuilder& m) { m.add_u8(Attr::kRequestedAddressFamily, code); };
}
Fill both_families() {
  return [](MessageBuilder& m) { m.add_u8(Attr::kAdditionalAddressFamily, 2); };
}

// An Allocate made by hand, without the REQUESTED-TRANSPORT that allocate() adds.
void expect_allocate(Context& c, Session& s, const Fill& fill, int code, const std::string& what) {
  const auto answer = s.call(Method::kAllocate, fill);
  if (answer.code() == 0) s.set_allocated(true);
  c.expect(answer, code, what);
}

std::array<uint8_t, 8> token_of(const Answer& answer) {
  const auto* token = answer->find(Attr::kReservationToken);
  if (token == nullptr || token->value.size() != 8) throw Failed{"no RESERVATION-TOKEN of 8 bytes"};
  std::array<uint8_t, 8> out{};
  std::copy(token->value.begin(), token->value.end(), out.begin());
  return out;
}

void t39(Context& c) {
  Session s(c.target, c.seen);
  c.expect(s.allocate(), 0, "Allocate over UDP");
}

void t40(Context& c) {
  Session s(c.target, c.seen);
  s.must_allocate();
  auto m = s.begin(Method::kAllocate);
  kUdpTransport(m);
  c.expect(s.must_answer(m.bytes()), 401, "second Allocate without integrity");
  Signing wrong;
  wrong.spoil_sha1 = true;
  c.expect(s.call(Method::kAllocate, kUdpTransport, wrong), 401, "with wrong integrity");
}

void t41(Context& c) {
  Session s(c.target, c.seen);
  s.must_allocate();
  c.expect(s.call(Method::kAllocate, kUdpTransport), 437, "second Allocate, new transaction");
}

void t42(Context& c) {
  Session s(c.target, c.seen);
  s.challenge();
  auto m = s.begin(Method::kAllocate);
  s.fill_allocate(m, [](auto& b) { b.add_even_port(true); });
  s.sign(m);
  auto first = s.must_answer(m.bytes());
  if (first.code() == 508) {  // no pairs here: without
    m = s.begin(Method::kAllocate);
    s.fill_allocate(m);
    s.sign(m);
    first = s.must_answer(m.bytes());
  }
  c.expect(first, 0, "Allocate");
  s.set_allocated(true);
  const auto second = s.must_answer(m.bytes());
  c.expect(second, 0, "the same datagram again");
  const auto addresses = first->xor_addresses(Attr::kXorRelayedAddress);
  c.require(!addresses.empty() && addresses == second->xor_addresses(Attr::kXorRelayedAddress),
            "the same relayed address");
  if (first->has(Attr::kReservationToken))
    c.require(token_of(first) == token_of(second), "the same RESERVATION-TOKEN");
}

void t43(Context& c) {
  Session s(c.target, c.seen);
  s.challenge();
  expect_allocate(c, s, {}, 400, "no REQUESTED-TRANSPORT");
  expect_allocate(
      c, s, [](auto& m) { m.add(Attr::kRequestedTransport, "\x11"); }, 400, "one of 1 byte");
  expect_allocate(
      c, s, [](auto& m) { m.add_u8(Attr::kRequestedTransport, 132); }, 442, "transport 132");
}

void t44(Context& c) {
  Session s(c.target, c.seen);
  const auto answer = s.allocate([](auto& m) { m.add_flag(Attr::kDontFragment); });
  if (answer.code() == 420) {
    const auto* list = answer->find(Attr::kUnknownAttributes);
    c.require(list != nullptr && list->value.size() == 2 && load_be16(list->value.data()) == 0x1a,
              "DONT-FRAGMENT is answered as an unknown attribute");
  } else {
    c.expect(answer, 0, "DONT-FRAGMENT");
  }
}

void t45(Context& c) {
  Session s(c.target, c.seen);
  s.challenge();
  const auto with = [](const Fill& more) -> Fill {
    return [more](MessageBuilder& m) {
      kUdpTransport(m);
      m.add(Attr::kReservationToken, std::string_view("abcdefgh"));
      more(m);
    };
  };
  expect_allocate(c, s, with([](auto& m) { m.add_even_port(false); }), 400,
                  "RESERVATION-TOKEN with EVEN-PORT");
  expect_allocate(c, s, with(family(1)), 400, "with REQUESTED-ADDRESS-FAMILY");
  expect_allocate(c, s, with(both_families()), 400, "with ADDITIONAL-ADDRESS-FAMILY");
}

void t46(Context& c) {
  Session s(c.target, c.seen);
  c.expect(
      s.allocate([](auto& m) { m.add(Attr::kReservationToken, std::string_view("abcdefgh")); }),
      508, "a token nobody gave");
  const auto pair = s.allocate([](auto& m) { m.add_even_port(true); });
  if (pair.code() == 508 || pair.code() == 420)
    throw NotOffered{"EVEN-PORT with the R bit: " + pair.describe()};
  const auto token = token_of(pair);
  const Fill use = [&](MessageBuilder& m) { m.add(Attr::kReservationToken, token); };
  Session second(c.target, c.seen), third(c.target, c.seen);
  c.expect(second.allocate(use), 0, "a good token");
  c.expect(third.allocate(use), 508, "the same token again");
}

void t47(Context& c) {
  Session s(c.target, c.seen);
  c.expect(s.allocate([](auto& m) {
    family(1)(m);
    both_families()(m);
  }),
           400, "REQUESTED- and ADDITIONAL-ADDRESS-FAMILY");
}

void t48(Context& c) {
  Session s(c.target, c.seen);
  c.expect(s.allocate(family(3)), 440, "REQUESTED-ADDRESS-FAMILY 3");
  const auto answer = s.call(Method::kAllocate, kUdpTransport);
  s.set_allocated(answer.code() == 0);
  if (c.target.relay == Family::kIpv6) {
    c.expect(answer, 440, "none, on a server without IPv4");
  } else {
    c.expect(answer, 0, "none");
    const auto relayed = answer->xor_addresses(Attr::kXorRelayedAddress);
    c.require(relayed.size() == 1 && relayed[0].ip.is_v4(), "gives IPv4");
  }
  Session v6(c.target, c.seen);
  const auto six = v6.allocate(family(2));
  if (six.code() == 0)
    c.require(v6.relayed().size() == 1 && v6.relayed()[0].ip.is_v6(), "0x02 gives IPv6");
  else
    c.expect(six, 440, "0x02");
}

void t49(Context& c) {
  Session s(c.target, c.seen);
  c.expect(s.allocate([](auto& m) {
    m.add_even_port(true);
    both_families()(m);
  }),
           400, "EVEN-PORT R=1 with ADDITIONAL-ADDRESS-FAMILY");
}

void t50(Context& c) {
  Session plain(c.target, c.seen), pair(c.target, c.seen), taker(c.target, c.seen);
  const auto even = plain.allocate([](auto& m) { m.add_even_port(false); });
  if (even.code() == 508 || even.code() == 420) throw NotOffered{"EVEN-PORT: " + even.describe()};
  c.expect(even, 0, "EVEN-PORT R=0");
  c.require(plain.relayed().at(0).port % 2 == 0, "the port is even");
  c.require(!even->has(Attr::kReservationToken), "no token");
  const auto reserving = pair.allocate([](auto& m) { m.add_even_port(true); });
  c.expect(reserving, 0, "EVEN-PORT R=1");
  c.require(pair.relayed().at(0).port % 2 == 0, "the port is even");
  const auto token = token_of(reserving);
  c.expect(taker.allocate([&](auto& m) { m.add(Attr::kReservationToken, token); }), 0,
           "the token from another 5-tuple");
  c.require(taker.relayed().at(0).ip == pair.relayed()[0].ip &&
                taker.relayed()[0].port == pair.relayed()[0].port + 1,
            "gives the next port");
}

void t51(Context& c) {
  Session s(c.target, c.seen);
  c.expect(s.allocate([](auto& m) { m.add_u8(Attr::kAdditionalAddressFamily, 1); }), 400,
           "ADDITIONAL-ADDRESS-FAMILY 0x01");
  const auto answer = s.allocate(both_families());
  c.expect(answer, 0, "0x02");
  if (s.relayed().size() == 2) {
    c.require(s.relayed()[0].ip.family != s.relayed()[1].ip.family,
              s.relayed()[0].to_string() + " and " + s.relayed()[1].to_string());
    return;
  }
  const auto* error = answer->find(Attr::kAddressErrorCode);
  if (error == nullptr || error->value.size() < 4)
    throw Failed{"one address only and no ADDRESS-ERROR-CODE"};
  const int code = (error->value[2] & 7) * 100 + error->value[3];
  c.require(error->value[0] == 1 || error->value[0] == 2, "ADDRESS-ERROR-CODE names the family");
  c.require(code == 440 || code == 508, "with " + std::to_string(code));
}

void t53(Context& c) {
  std::vector<std::unique_ptr<Session>> sessions;
  std::vector<int> ports;
  std::string list;
  for (int i = 0; i < 6; ++i) {
    sessions.push_back(std::make_unique<Session>(c.target, c.seen));
    sessions.back()->must_allocate();
    ports.push_back(sessions.back()->relayed().at(0).port);
    list += " " + std::to_string(ports.back());
  }
  c.note("ports" + list);
  bool regular = true;
  for (size_t i = 0; i < ports.size(); ++i) {
    if (ports[i] < 1024) throw Failed{"a port below 1024"};
    if (i > 1) regular &= ports[i] - ports[i - 1] == ports[1] - ports[0];
  }
  c.require(!regular, "none below 1024, not at even distances");
}

void t54(Context& c) {
  std::vector<std::unique_ptr<Session>> sessions;
  std::set<std::string> addresses;
  for (int i = 0; i < 8; ++i) {
    sessions.push_back(std::make_unique<Session>(c.target, c.seen));
    sessions.back()->must_allocate();
    addresses.insert(sessions.back()->relayed().at(0).to_string());
  }
  c.require(addresses.size() == 8, "eight allocations, eight relayed addresses");
}

void t55(Context& c) {
  for (const uint32_t wanted : {0u, 1u, 700u, 0xffffffffu}) {
    Session s(c.target, c.seen);
    const auto answer = s.allocate([&](auto& m) { m.add_u32(Attr::kLifetime, wanted); });
    c.expect(answer, 0, "LIFETIME " + std::to_string(wanted));
    const uint32_t got = answer->u32(Attr::kLifetime).value_or(0);
    c.require(got >= kDefaultLifetime && got <= kUsualMaximum, "gives " + std::to_string(got));
    if (wanted == 700) c.require(got == 700, "as wanted");
  }
  Session s(c.target, c.seen);
  const auto answer = s.allocate();
  c.require(answer->u32(Attr::kLifetime) == kDefaultLifetime, "without LIFETIME: 600");
}

void t56(Context& c) {
  Session s(c.target, c.seen);
  const auto usual = s.allocate();
  c.expect(usual, 0, "Allocate");
  c.require(usual->xor_addresses(Attr::kXorRelayedAddress).size() == 1, "one XOR-RELAYED-ADDRESS");
  c.require(usual->u32(Attr::kLifetime).has_value(), "LIFETIME");
  c.require(usual->xor_address(Attr::kXorMappedAddress).has_value(), "XOR-MAPPED-ADDRESS");
  c.require(!usual->has(Attr::kReservationToken), "no token unasked");
  Session reserving(c.target, c.seen);
  const auto pair = reserving.allocate([](auto& m) { m.add_even_port(true); });
  if (pair.code() == 0)
    c.require(pair->has(Attr::kReservationToken), "a token when a port was reserved");
}

void t57(Context& c) {
  Session s(c.target, c.seen);
  s.must_allocate();
  const auto answer = s.refresh(kDelete);
  c.expect(answer, 0, "Refresh 0");
  c.require(answer->u32(Attr::kLifetime).value_or(0) == 0, "LIFETIME 0 in the answer");
  s.set_allocated(false);
  c.expect(s.refresh(kDelete), 437, "again");
}

void t58(Context& c) {
  Session one(c.target, c.seen);
  one.must_allocate();
  c.expect(one.refresh(family(stun_client::family_code(c.target.other_family()))), 443,
           "Refresh of the other family than the allocation's");
  c.expect(one.refresh(family(c.target.relay_code())), 0, "of its own");
  Session s(c.target, c.seen);
  s.must(s.allocate(both_families()), "Allocate with ADDITIONAL-ADDRESS-FAMILY");
  if (s.relayed().size() != 2) return c.note("no dual allocation here");
  Peer peer(c.target.peer());
  s.must(s.permit({peer.address()}), "CreatePermission");
  c.expect(s.refresh([](auto& m) {
    kDelete(m);
    family(2)(m);
  }),
           0, "Refresh 0 of the IPv6 half");
  c.expect(s.refresh(family(2)), 443, "Refresh of IPv6 afterwards");
  s.send_indication(peer.address(), bytes_of("still"));
  c.require(peer.receive(s.relayed_here(), kArrival).has_value(),
            "the IPv4 half and its permission live on");
  c.expect(s.refresh(kDelete), 0, "Refresh 0 without a family");
  s.set_allocated(false);
  c.expect(s.refresh(), 437, "then nothing is left");
}

void t59(Context& c) {
  Session s(c.target, c.seen);
  Peer peer(c.target.peer());
  const auto answer = s.allocate();
  s.must(answer, "Allocate");
  const uint32_t lifetime = answer->u32(Attr::kLifetime).value_or(kDefaultLifetime);
  const auto end = c.now() + std::chrono::seconds(lifetime);
  // Everything but a Refresh, until shortly before the end.
  while (c.now() < end - std::chrono::seconds(5)) {
    s.must(s.permit({peer.address()}), "CreatePermission");
    s.send_indication(peer.address(), bytes_of("busy"));
    c.wait_until(c.now() + std::chrono::seconds(20));
  }
  c.wait_until(end + std::chrono::seconds(3));
  const std::string what = "Refresh " + std::to_string(lifetime + 3) + " s after the Allocate";
  s.challenge();  // the nonce may have grown old, and the server must be there to be silent
  auto m = s.begin(Method::kRefresh);
  s.sign(m);
  const auto late = s.ask(m.bytes());
  if (late)
    c.expect(*late, 437, what);
  else
    c.note(what + ": silence, so it is gone (the 437 is row T60's)");
  s.set_allocated(false);
}

void t60(Context& c) {
  Session s(c.target, c.seen);
  Peer peer(c.target.peer());
  s.challenge();
  c.expect(s.refresh(), 437, "Refresh without allocation");
  c.expect(s.permit({peer.address()}), 437, "CreatePermission");
  c.expect(s.bind(0x4000, peer.address()), 437, "ChannelBind");
  auto m = s.begin(Method::kSend, Class::kIndication);
  m.add_xor_address(Attr::kXorPeerAddress, peer.address()).add(Attr::kData, "x");
  c.silent(s, m.bytes(), "Send");
  c.silent(s, bytes_of(std::string_view("\x40\x00\x00\x04zzzz", 8)), "ChannelData");
}

void t61(Context& c) {
  if (!c.target.other) throw NotOffered{"no second account was given (--other-user)"};
  Session s(c.target, c.seen);
  Peer peer(c.target.peer());
  s.must_allocate();
  Signing how;
  how.user = c.target.other->user;
  how.password = c.target.other->password;
  c.expect(s.call(Method::kRefresh, kDelete, how), 441, "another user's Refresh 0");
  c.expect(s.call(
               Method::kCreatePermission,
               [&](auto& m) { m.add_xor_address(Attr::kXorPeerAddress, peer.address()); }, how),
           441, "another user's CreatePermission");
  c.expect(s.refresh(), 0, "the owner's Refresh");
}

void t62(Context& c) {
  Session s(c.target, c.seen);
  s.challenge();
  const std::string first = s.nonce();
  // Nonces may hold a time in seconds: ask across the change of one.
  const auto until = Clock::now() + milliseconds(1500);
  while (s.nonce() == first && Clock::now() < until) {
    std::this_thread::sleep_for(milliseconds(250));
    s.challenge();
  }
  c.require(s.nonce() != first, "a later Allocate of the same client gets another nonce");
}

void t64(Context& c) {
  Session s(c.target, c.seen);
  for (int i = 0; i < 5; ++i) {
    s.must_allocate();
    c.expect(s.refresh(kDelete), 0, "Refresh 0");
    s.set_allocated(false);
  }
  const auto answer = s.allocate();
  c.expect(answer, 0, "Allocate at once, the sixth on one 5-tuple");
}

constexpr Row kRows[] = {
    {39, "8656 5", "UDP between client and server", Kind::kTest, "", t39},
    {40, "8656 7.2", "Allocate: authentication before 437", Kind::kTest, "", t40},
    {41, "8656 7.2", "Allocate on an occupied 5-tuple: 437", Kind::kTest, "", t41},
    {42, "8656 7.2", "a retransmitted Allocate gets the same answer", Kind::kTest, "", t42},
    {43, "8656 7.2", "REQUESTED-TRANSPORT: 400 and 442", Kind::kTest, "", t43},
    {44, "8656 7.2", "DONT-FRAGMENT is supported or unknown", Kind::kTest, "", t44},
    {45, "8656 7.2", "RESERVATION-TOKEN excludes three attributes: 400", Kind::kTest, "", t45},
    {46, "8656 7.2", "a bad or used token: 508", Kind::kTest, "", t46},
    {47, "8656 7.2", "REQUESTED- and ADDITIONAL-ADDRESS-FAMILY: 400", Kind::kTest, "", t47},
    {48, "8656 7.2", "unsupported family: 440; none means IPv4", Kind::kTest, "", t48},
    {49, "8656 7.2", "EVEN-PORT R=1 with ADDITIONAL-ADDRESS-FAMILY: 400", Kind::kTest, "", t49},
    {50, "8656 7.2, 18.7", "EVEN-PORT and its reservation", Kind::kTest, "", t50},
    {51, "8656 7.2, 18.12", "ADDITIONAL-ADDRESS-FAMILY", Kind::kTest, "", t51},
    {52, "8656 7.2", "quota of a user: 486", Kind::kNotObservable,
     "the quota that was configured is not known to a client", nullptr},
    {53, "8656 7.2", "relayed ports above 1023, chosen at random", Kind::kTest, "", t53},
    {54, "8656 6", "relayed addresses are unique", Kind::kTest, "", t54},
    {55, "8656 7.2", "lifetime between 600 s and an hour", Kind::kTest, "", t55},
    {56, "8656 7.2", "what an Allocate success holds", Kind::kTest, "", t56},
    {57, "8656 8.2", "Refresh 0 deletes at once", Kind::kTest, "", t57},
    {58, "8656 8.1, 8.2", "Refresh of one family", Kind::kTest, "", t58},
    {59, "8656 6", "only Refresh extends an allocation", Kind::kSlow, "", t59},
    {60, "8656 5", "requests without allocation: 437; others: silence", Kind::kTest, "", t60},
    {61, "8656 5", "another user's request: 441", Kind::kTest, "", t61},
    {62, "8656 5", "nonces change from Allocate to Allocate (SHOULD)", Kind::kTest, "", t62},
    {63, "8656 5", "over bandwidth, data is dropped and the allocation stays", Kind::kNotObservable,
     "the limit that was configured is not known to a client", nullptr},
    {64, "8656 (practice)", "after Refresh 0 the 5-tuple may allocate at once", Kind::kTest, "",
     t64},
};

}  // namespace

std::span<const Row> allocation_rows() {
  return kRows;
}

}  // namespace culvert::conformance
