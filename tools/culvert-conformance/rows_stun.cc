// T1 to T21: STUN itself (RFC 8489 sections 5, 6, 7, 9, 12 and 14).
#include <algorithm>
#include <set>

#include "dataplane/base/endian.h"
#include "tools/culvert-conformance/rows.h"

namespace culvert::conformance {
namespace {

constexpr auto kUnknownRequired = static_cast<Attr>(0x7f01);
constexpr auto kUnknownOptional = static_cast<Attr>(0xc0de);
constexpr auto kUnknownMethod = static_cast<Method>(0x0fe);

std::vector<uint8_t> binding(Session& s) {
  return s.begin(Method::kBinding).take();
}

void t1(Context& c) {
  Session s(c.target, c.seen);
  auto m = binding(s);
  m[0] |= 0x80;
  c.silent(s, m, "first bits 10");
  m = binding(s);
  m[0] |= 0xc0;
  c.silent(s, m, "first bits 11");
  m = binding(s);
  m[4] ^= 0xff;
  c.silent(s, m, "wrong magic cookie");
  m = binding(s);
  m[3] = 2;
  m.resize(m.size() + 2);
  c.silent(s, m, "length 2");
  m = binding(s);
  m.resize(m.size() + 4);
  c.silent(s, m, "four bytes more than the length says");
  m = binding(s);
  m[3] = 8;
  c.silent(s, m, "length beyond the datagram");
  m = binding(s);
  m.resize(19);
  c.silent(s, m, "19 bytes");
}

void t2(Context& c) {
  Session s(c.target, c.seen);
  c.silent(s, s.begin(Method::kBinding, Class::kSuccess).bytes(), "a Binding success response");
  c.silent(s, s.begin(Method::kBinding, Class::kError).bytes(), "a Binding error response");
  c.silent(s, s.begin(kUnknownMethod).bytes(), "a request of an unknown method");
  auto m = s.begin(Method::kBinding);
  m.add(Attr::kSoftware, "abcd");
  auto bytes = m.take();
  bytes[23] = 200;
  c.silent(s, bytes, "an attribute longer than the message");
}

void t3(Context& c) {
  Session s(c.target, c.seen);
  auto m = s.begin(Method::kAllocate);
  m.add_u8(Attr::kRequestedTransport, 17).add_u32(kUnknownRequired, 0);
  c.expect(s.must_answer(m.bytes()), 401, "unknown attribute, no integrity");
  s.challenge();
  Signing wrong;
  wrong.spoil_sha1 = true;
  c.expect(s.call(
               Method::kAllocate, [](auto& b) { b.add_u32(kUnknownRequired, 0); }, wrong),
           401, "unknown attribute, wrong integrity");
}

std::set<uint16_t> unknown_list(const Answer& answer) {
  const auto* list = answer->find(Attr::kUnknownAttributes);
  if (list == nullptr) throw Failed{"420 without UNKNOWN-ATTRIBUTES"};
  if (list->value.size() % 2 != 0) throw Failed{"UNKNOWN-ATTRIBUTES of odd length"};
  std::set<uint16_t> out;
  for (size_t i = 0; i + 2 <= list->value.size(); i += 2)
    if (!out.insert(load_be16(&list->value[i])).second)
      throw Failed{"UNKNOWN-ATTRIBUTES names a type twice: " + hex(list->value)};
  return out;
}

void t4(Context& c) {
  Session s(c.target, c.seen);
  auto m = s.begin(Method::kBinding);
  m.add_u32(kUnknownRequired, 0);
  auto answer = s.must_answer(m.bytes());
  c.expect(answer, 420, "Binding with an unknown attribute");
  c.require(unknown_list(answer) == std::set<uint16_t>{0x7f01}, "it is named");
  const auto three = [](MessageBuilder& b) {
    b.add_u32(kUnknownRequired, 0).add_u32(static_cast<Attr>(0x7f02), 0);
    b.add_u32(kUnknownRequired, 0).add_u32(static_cast<Attr>(0x0abc), 0);
  };
  answer = s.allocate(three);
  c.expect(answer, 420, "Allocate with three unknown types, one of them twice");
  c.require(unknown_list(answer) == std::set<uint16_t>{0x7f01, 0x7f02, 0x0abc},
            "all three are named, each once");
  std::set<uint16_t> many;
  answer = s.allocate([&](MessageBuilder& b) {
    for (uint16_t type = 0x7e00; type < 0x7e18; ++type) {
      b.add(static_cast<Attr>(type), Bytes{});
      many.insert(type);
    }
  });
  c.expect(answer, 420, "Allocate with 24 unknown types");
  c.require(unknown_list(answer) == many, "all 24 are named");
}

void t5(Context& c) {
  Session s(c.target, c.seen);
  Peer peer(c.target.peer());
  s.must_allocate();
  s.must(s.permit({peer.address()}), "CreatePermission");
  s.send_indication(peer.address(), bytes_of("discard me"),
                    [](auto& m) { m.add_u32(kUnknownRequired, 0); });
  s.send_indication(peer.address(), bytes_of("keep me"));
  const auto first = peer.receive(s.relayed_here(), kArrival);
  if (!first) throw Failed{"a plain Send indication did not arrive"};
  c.require(text_of(first->payload) == "keep me",
            "Send with an unknown attribute is dropped, the one after it arrives");
  c.require(!s.next(c.target.quiet), "no answer");
}

void t6(Context& c) {
  Session s(c.target, c.seen);
  auto m = s.begin(Method::kBinding);
  m.add_u32(kUnknownOptional, 0x01020304).add(static_cast<Attr>(0xffff), "odd");
  c.expect(s.must_answer(m.bytes()), 0, "Binding with unknown optional attributes");
  c.expect(s.allocate([](auto& b) { b.add_u32(kUnknownOptional, 1); }), 0, "Allocate with one");
}

void t7(Context& c) {
  Session s(c.target, c.seen);
  Peer first(c.target.peer()), second(c.target.peer());
  s.must_allocate();
  s.must(s.permit({first.address()}), "CreatePermission");
  s.send_indication(first.address(), bytes_of("to the first"),
                    [&](auto& m) { m.add_xor_address(Attr::kXorPeerAddress, second.address()); });
  c.require(first.receive(s.relayed_here(), kArrival).has_value(),
            "Send with two XOR-PEER-ADDRESS goes to the first");
  c.require(!second.receive(s.relayed_here(), kAbsence), "and not to the second");
  const auto answer =
      s.refresh([](auto& m) { m.add_u32(Attr::kLifetime, 700).add_u32(Attr::kLifetime, 0); });
  c.expect(answer, 0, "Refresh with LIFETIME 700 and 0");
  c.require(answer->u32(Attr::kLifetime).value_or(0) != 0, "the first counts");
}

void t8(Context& c) {
  Session s(c.target, c.seen);
  auto m = s.begin(Method::kBinding);
  m.add(Attr::kSoftware, "abcde", 0xff);
  c.expect(s.must_answer(m.bytes()), 0, "padding of 0xff in a request");
  s.challenge();
  auto request = s.begin(Method::kAllocate);
  s.fill_allocate(request, [](auto& b) { b.add(Attr::kSoftware, "x", 0xa5); });
  s.sign(request);
  const auto answer = s.must_answer(request.bytes());
  if (answer.code() == 0) s.set_allocated(true);
  c.expect(answer, 0, "Allocate with padding of 0xa5");
  if (!c.seen.padding.empty())
    throw Failed{"an answer's padding is not zero: " + c.seen.padding.front()};
  c.note("zero padding in all " + std::to_string(c.seen.answers) + " answers so far");
}

void t9(Context& c) {
  Session s(c.target, c.seen);
  s.must_allocate();
  auto m = s.begin(Method::kRefresh);
  s.sign(m);
  m.add_u32(Attr::kLifetime, 0).add_u32(kUnknownRequired, 0);
  auto answer = s.must_answer(m.bytes());
  c.expect(answer, 0, "Refresh, LIFETIME 0 and an unknown attribute after MESSAGE-INTEGRITY");
  c.require(answer->u32(Attr::kLifetime).value_or(0) >= 600, "both are ignored");
  if (!s.offers(PasswordAlgorithm::kSha256)) return;
  m = s.begin(Method::kRefresh);
  s.sign(m, Signing::rfc8489());
  m.add_u32(Attr::kLifetime, 0);
  answer = s.must_answer(m.bytes());
  c.expect(answer, 0, "the same after MESSAGE-INTEGRITY-SHA256");
  c.require(answer->u32(Attr::kLifetime).value_or(0) >= 600, "LIFETIME is ignored there too");
}

void t10(Context& c) {
  Session s(c.target, c.seen);
  c.expect(s.must_answer(binding(s)), 0, "Binding");
  s.must_allocate();
  if (!c.seen.sources.empty())
    throw Failed{"answers came from " + c.seen.sources.front() + " instead of " +
                 c.target.server.to_string()};
  c.note("all " + std::to_string(c.seen.answers) + " answers so far came from " +
         c.target.server.to_string());
}

void t11(Context& c) {
  Session s(c.target, c.seen);
  Peer peer(c.target.peer());
  s.must_allocate();
  const auto twice = [&](Method method, const Fill& fill, const std::string& what) {
    auto m = s.begin(method);
    fill(m);
    s.sign(m);
    c.expect(s.must_answer(m.bytes()), 0, what);
    c.expect(s.must_answer(m.bytes()), 0, "the same datagram again");
  };
  twice(
      Method::kRefresh, [](auto& m) { m.add_u32(Attr::kLifetime, 900); }, "Refresh");
  twice(
      Method::kCreatePermission,
      [&](auto& m) { m.add_xor_address(Attr::kXorPeerAddress, peer.address()); },
      "CreatePermission");
}

void t13(Context& c) {
  Session s(c.target, c.seen);
  const auto answer = s.must_answer(binding(s));
  c.expect(answer, 0, "Binding");
  const auto mapped = answer->xor_address(Attr::kXorMappedAddress);
  if (!mapped) throw Failed{"no XOR-MAPPED-ADDRESS that can be read"};
  c.require(mapped->ip.family == c.target.server.ip.family, "its family is the transport's");
  const auto again = s.must_answer(binding(s));
  c.require(again->xor_address(Attr::kXorMappedAddress) == mapped,
            "another transaction gives the same address, " + mapped->to_string());
  if (*mapped == s.socket().address())
    c.note("which is this socket's");
  else
    c.note("behind a NAT: this socket is " + s.socket().address().to_string());
}

void t14(Context& c) {
  Session s(c.target, c.seen);
  const auto answer = s.must_answer(binding(s));
  c.expect(answer, 0, "Binding without credentials");
  c.require(!answer->has(Attr::kNonce), "no challenge in it");
}

void t15(Context& c) {
  Session s(c.target, c.seen);
  c.expect(s.must_answer(binding(s)), 0, "without FINGERPRINT");
  auto m = s.begin(Method::kBinding);
  m.add_fingerprint();
  const auto answer = s.must_answer(m.bytes());
  c.expect(answer, 0, "with FINGERPRINT");
  if (answer->has(Attr::kFingerprint))
    c.require(answer->fingerprint_valid(), "the answer's FINGERPRINT is right");
  m = s.begin(Method::kBinding);
  m.add_fingerprint();
  auto bytes = m.take();
  bytes.back() ^= 1;
  c.silent(s, bytes, "wrong CRC");
  m = s.begin(Method::kBinding);
  m.add_fingerprint().add(Attr::kSoftware, "last");
  c.silent(s, m.bytes(), "FINGERPRINT not last");
}

void t16(Context& c) {
  Session s(c.target, c.seen);
  s.must_allocate();
  auto m = s.begin(Method::kRefresh);
  s.sign(m);
  m.add_fingerprint();
  c.expect(s.must_answer(m.bytes()), 0, "MESSAGE-INTEGRITY, FINGERPRINT");
  if (!s.offers(PasswordAlgorithm::kSha256)) return;
  auto how = Signing::rfc8489();
  how.sha1_integrity = true;
  m = s.begin(Method::kRefresh);
  s.sign(m, how);
  m.add_fingerprint();
  c.expect(s.must_answer(m.bytes()), 0, "MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256, FINGERPRINT");
}

void need_sha256(Session& s) {
  if (s.nonce().empty()) s.challenge();
  if (!s.offers(PasswordAlgorithm::kSha256))
    throw NotOffered{"the 401 offers no SHA-256 in PASSWORD-ALGORITHMS"};
}

void t17(Context& c) {
  Session s(c.target, c.seen);
  need_sha256(s);
  c.expect(s.allocate({}, Signing::rfc8489()), 0, "32 bytes");
  for (const size_t length : {12u, 16u, 20u, 28u}) {
    auto how = Signing::rfc8489();
    how.sha256_length = length;
    auto m = s.begin(Method::kRefresh);
    s.sign(m, how);
    const auto answer = s.ask(m.bytes());
    const std::string what = std::to_string(length) + " bytes: ";
    if (answer && answer->code() == 0) throw Failed{what + "accepted"};
    c.note(what + (answer ? answer->describe() : "silence"));
  }
  auto how = Signing::rfc8489();
  how.sha256_integrity = false;
  auto m = s.begin(Method::kRefresh);
  s.sign(m, how);
  m.add(Attr::kMessageIntegritySha256, std::string(33, '\0'));
  const auto answer = s.ask(m.bytes());
  if (answer && answer->code() == 0) throw Failed{"33 bytes: accepted"};
  c.note(std::string("33 bytes: ") + (answer ? answer->describe() : "silence"));
}

void t18(Context& c) {
  Session s(c.target, c.seen);
  s.challenge();
  auto m = s.begin(Method::kBinding);
  m.add_u32(kUnknownRequired, 0);
  static_cast<void>(s.ask(m.bytes()));
  static_cast<void>(s.allocate([](auto& b) { b.add_u32(kUnknownRequired, 0); }));
  if (!c.seen.error_codes.empty())
    throw Failed{"a malformed ERROR-CODE: " + c.seen.error_codes.front()};
  c.note("ERROR-CODE well formed in all " + std::to_string(c.seen.answers) + " answers so far");
}

bool is_quoted_text(std::string_view text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto ch = static_cast<unsigned char>(text[i]);
    if (ch == '\\' && i + 1 < text.size()) {
      ++i;
      continue;
    }
    if (ch == '"' || ch == '\\' || ch == 0x7f || (ch < 0x20 && ch != '\t')) return false;
  }
  return true;
}

void t19(Context& c) {
  Session s(c.target, c.seen);
  s.challenge();
  c.require(!s.nonce().empty() && s.nonce().size() < 128,
            "NONCE of " + std::to_string(s.nonce().size()) + " characters");
  c.require(is_quoted_text(s.nonce()), "of qdtext and quoted pairs: " + s.nonce());
}

void t20(Context& c) {
  Session s(c.target, c.seen);
  s.challenge();
  c.require(!s.realm().empty() && s.realm().size() < 509 && is_quoted_text(s.realm()),
            "REALM \"" + s.realm() + "\"");
  for (const size_t length : {508u, 763u}) {
    Signing how;
    how.user = std::string(length, 'u');
    c.expect(s.call(
                 Method::kAllocate, [](auto& m) { m.add_u8(Attr::kRequestedTransport, 17); }, how),
             401, "a stranger's USERNAME of " + std::to_string(length) + " bytes");
  }
}

void t21(Context& c) {
  Session s(c.target, c.seen);
  const auto answer = s.allocate();
  c.expect(answer, 0, "Allocate");
  const auto software = answer->text(Attr::kSoftware);
  if (!software) throw Failed{"no SOFTWARE in an authenticated answer"};
  c.require(software->size() < 764, "SOFTWARE \"" + std::string(*software) + "\"");
}

constexpr Row kRows[] = {
    {1, "8489 5, 6.3", "a malformed header is discarded silently", Kind::kTest, "", t1},
    {2, "8489 6.3", "method, class and length are checked first; wrong ones are discarded",
     Kind::kTest, "", t2},
    {3, "8489 6.3.1", "authentication comes before the check for unknown attributes", Kind::kTest,
     "", t3},
    {4, "8489 6.3.1", "unknown required attribute in a request: 420, all of them named",
     Kind::kTest, "", t4},
    {5, "8489 6.3.2", "unknown required attribute in an indication: discarded", Kind::kTest, "",
     t5},
    {6, "8489 14", "unknown optional attributes are ignored", Kind::kTest, "", t6},
    {7, "8489 14", "of duplicate attributes the first counts", Kind::kTest, "", t7},
    {8, "8489 14", "any padding is accepted, zeros are sent", Kind::kTest, "", t8},
    {9, "8489 9", "attributes after the integrity are ignored", Kind::kTest, "", t9},
    {10, "8489 6.3.1.2", "answers leave from the address that was asked", Kind::kTest, "", t10},
    {11, "8489 6.3.1", "a retransmitted request has the same outcome", Kind::kTest, "", t11},
    {12, "8489 6.2.2", "TCP: the client closes the connection", Kind::kLater,
     "a row of the TCP transport", nullptr},
    {13, "8489 14.2", "XOR-MAPPED-ADDRESS names the source", Kind::kTest, "", t13},
    {14, "8489 12", "Binding works without credentials", Kind::kTest, "", t14},
    {15, "8489 7, 14.7", "FINGERPRINT is optional, but must be right and last", Kind::kTest, "",
     t15},
    {16, "8489 14.5", "integrity is right with attributes behind it", Kind::kTest, "", t16},
    {17, "8489 14.6", "MESSAGE-INTEGRITY-SHA256 has its full length", Kind::kTest, "", t17},
    {18, "8489 14.8", "ERROR-CODE is well formed", Kind::kTest, "", t18},
    {19, "8489 14.10", "NONCE is short and quotable", Kind::kTest, "", t19},
    {20, "8489 14.3, 14.9", "REALM is short; long USERNAMEs are parsed", Kind::kTest, "", t20},
    {21, "8489 6.3.1.1", "SOFTWARE in authenticated answers (SHOULD)", Kind::kTest, "", t21},
};

}  // namespace

std::span<const Row> stun_rows() {
  return kRows;
}

}  // namespace culvert::conformance
