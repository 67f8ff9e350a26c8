// T24 to T38: long-term credentials (RFC 8489 section 9.2).
#include "dataplane/base/endian.h"
#include "tools/culvert-conformance/rows.h"

namespace culvert::conformance {
namespace {

const Fill kUdpTransport = [](MessageBuilder& m) { m.add_u8(Attr::kRequestedTransport, 17); };

void require_challenge(Context& c, const Answer& answer, const std::string& what) {
  c.require(answer->has(Attr::kRealm) && answer->has(Attr::kNonce), what + " has REALM and NONCE");
}

void require_bare(const Answer& answer, const std::string& what) {
  for (const auto& [type, name] :
       {std::pair{Attr::kRealm, "REALM"}, {Attr::kNonce, "NONCE"}, {Attr::kUsername, "USERNAME"}})
    if (answer->has(type)) throw Failed{what + " carries " + name};
}

void need_offer(Session& s) {
  if (s.nonce().empty()) s.challenge();
  if (!s.features().password_algorithms || !s.offers(PasswordAlgorithm::kSha256))
    throw NotOffered{"no PASSWORD-ALGORITHMS with SHA-256 in the 401"};
}

void t24(Context& c) {
  Session s(c.target, c.seen);
  const auto answer = s.challenge();
  c.note("Allocate without integrity: 401 with REALM and NONCE");
  for (const auto& [type, name] : {std::pair{Attr::kUsername, "USERNAME"},
                                   {Attr::kUserhash, "USERHASH"},
                                   {Attr::kMessageIntegrity, "MESSAGE-INTEGRITY"},
                                   {Attr::kMessageIntegritySha256, "MESSAGE-INTEGRITY-SHA256"}})
    if (answer->has(type)) throw Failed{std::string("the 401 carries ") + name};
  c.note("and no USERNAME, USERHASH or integrity");
}

void t25(Context& c) {
  Session a(c.target, c.seen), b(c.target, c.seen);
  a.challenge();
  b.challenge();
  c.require(a.nonce() != b.nonce(), "two ports get two nonces");
  Signing stolen;
  stolen.nonce = a.nonce();
  const auto answer = b.call(Method::kAllocate, kUdpTransport, stolen);
  if (answer.code() == 0) b.set_allocated(true);
  c.note("one port's nonce used at the other: " + answer.describe());
}

void t26(Context& c) {
  Session s(c.target, c.seen);
  s.challenge();
  Signing how[3];
  how[0].leave_out_username = how[1].leave_out_realm = how[2].leave_out_nonce = true;
  const char* const names[] = {"USERNAME", "REALM", "NONCE"};
  for (size_t i = 0; i < 3; ++i) {
    auto m = s.begin(Method::kAllocate);
    kUdpTransport(m);
    s.sign(m, how[i]);
    const auto answer = s.must_answer(m.bytes());
    c.expect(answer, 400, std::string("without ") + names[i]);
    require_bare(answer, std::string("the 400 without ") + names[i]);
  }
  c.note("none of them carries REALM or NONCE");
}

void t27(Context& c) {
  Session s(c.target, c.seen);
  s.challenge();
  const std::string foreign = "0123456789abcdef0123456789abcdef";
  Signing how;
  how.nonce = foreign;
  how.leave_out_realm = true;
  c.expect(s.call(Method::kAllocate, kUdpTransport, how), 400, "no REALM and a foreign nonce");
  how.leave_out_realm = false;
  how.user = "nobody-of-that-name";
  c.expect(s.call(Method::kAllocate, kUdpTransport, how), 401, "unknown user and a foreign nonce");
  how.user.reset();
  how.spoil_sha1 = true;
  c.expect(s.call(Method::kAllocate, kUdpTransport, how), 401,
           "wrong integrity and a foreign nonce");
  how.spoil_sha1 = false;
  c.expect(s.call(Method::kAllocate, kUdpTransport, how), 438, "all right but the nonce");
}

void t28(Context& c) {
  Session s(c.target, c.seen);
  s.challenge();
  Signing how;
  how.user = "nobody-of-that-name";
  auto answer = s.call(Method::kAllocate, kUdpTransport, how);
  c.expect(answer, 401, "unknown user");
  require_challenge(c, answer, "it");
  how = {};
  how.realm = "another.realm.example";
  answer = s.call(Method::kAllocate, kUdpTransport, how);
  c.expect(answer, 401, "another realm");
  require_challenge(c, answer, "it");
  if (s.features().password_algorithms)
    c.require(answer->has(Attr::kPasswordAlgorithms), "and PASSWORD-ALGORITHMS");
}

void t29(Context& c) {
  Session s(c.target, c.seen);
  s.challenge();
  Signing how;
  how.password = "not" + c.target.account.password;
  auto answer = s.call(Method::kAllocate, kUdpTransport, how);
  c.expect(answer, 401, "wrong password");
  require_challenge(c, answer, "it");
  how = {};
  how.spoil_sha1 = true;
  c.expect(s.call(Method::kAllocate, kUdpTransport, how), 401, "a bit of the HMAC changed");
}

void t30(Context& c) {
  Session s(c.target, c.seen);
  s.challenge();
  Signing how;
  how.nonce = s.nonce();
  how.nonce->back() = how.nonce->back() == 'a' ? 'b' : 'a';
  const auto answer = s.call(Method::kAllocate, kUdpTransport, how);
  c.expect(answer, 438, "a nonce that is not (or no longer) good");
  require_challenge(c, answer, "it");
  if (s.features().password_algorithms)
    c.require(answer->has(Attr::kPasswordAlgorithms), "and PASSWORD-ALGORITHMS");
  s.take_nonce(answer);
  how.nonce = s.nonce();
  const auto second = s.allocate({}, how);
  c.expect(second, 0, "with the new nonce");
}

void t31(Context& c) {
  Session s(c.target, c.seen);
  const auto answer = s.challenge();
  c.require(s.features().cookie, "the nonce begins with obMatJos2 and four base64 characters (" +
                                     s.nonce().substr(0, 13) + ")");
  c.require(s.features().password_algorithms == answer->has(Attr::kPasswordAlgorithms),
            "its bit 0 agrees with PASSWORD-ALGORITHMS being there");
}

void t32(Context& c) {
  Session s(c.target, c.seen);
  need_offer(s);
  const auto expect_400 = [&](const Signing& how, const std::string& what) {
    const auto answer = s.call(Method::kAllocate, kUdpTransport, how);
    if (answer.code() == 0) s.set_allocated(true);
    c.expect(answer, 400, what);
  };
  auto how = Signing::rfc8489();
  how.algorithm.reset();
  expect_400(how, "PASSWORD-ALGORITHMS alone");
  how = Signing::rfc8489();
  how.list = false;
  expect_400(how, "PASSWORD-ALGORITHM alone");
  how = Signing::rfc8489();
  how.other_list = {0, 1, 0, 0};  // MD5 only, as an attacker would have it
  how.algorithm = 1;
  how.key = PasswordAlgorithm::kMd5;
  if (*how.other_list != s.offered()) expect_400(how, "a list cut down to MD5");
  how = Signing::rfc8489();
  how.algorithm = 0x7777;
  expect_400(how, "an algorithm that is not in the list");
  how = {};
  const auto answer = s.allocate();
  c.expect(answer, 0, "neither attribute, MD5");
}

void t33(Context& c) {
  Session s(c.target, c.seen);
  need_offer(s);
  auto how = Signing::rfc8489();
  how.sha1_integrity = how.spoil_sha1 = true;
  c.expect(s.allocate({}, how), 0, "MESSAGE-INTEGRITY wrong, -SHA256 right");
  how = Signing::rfc8489();
  how.sha1_integrity = how.spoil_sha256 = true;
  c.expect(s.call(Method::kRefresh, {}, how), 401, "MESSAGE-INTEGRITY right, -SHA256 wrong");
}

void t34(Context& c) {
  Session s(c.target, c.seen);
  auto answer = s.allocate();
  c.expect(answer, 0, "Allocate with MD5");
  c.require(answer->integrity_valid(s.key(PasswordAlgorithm::kMd5)),
            "the success carries a right MESSAGE-INTEGRITY");
  require_bare(answer, "the success");
  answer = s.allocate();
  c.expect(answer, 437, "a second Allocate");
  c.require(answer->integrity_valid(s.key(PasswordAlgorithm::kMd5)), "the error carries it too");
  require_bare(answer, "the error");
  if (!s.offers(PasswordAlgorithm::kSha256)) return;
  answer = s.call(Method::kRefresh, {}, Signing::rfc8489());
  c.expect(answer, 0, "Refresh with SHA-256");
  c.require(answer->integrity_sha256_valid(s.key(PasswordAlgorithm::kSha256)) &&
                !answer->has(Attr::kMessageIntegrity),
            "its answer carries MESSAGE-INTEGRITY-SHA256 alone");
  require_bare(answer, "it");
}

void t35(Context& c) {
  Session s(c.target, c.seen);
  c.expect(s.allocate(), 0, "the MD5 key of user:realm:password");
  if (!s.offers(PasswordAlgorithm::kSha256)) return;
  c.expect(s.call(Method::kRefresh, {}, Signing::rfc8489()), 0, "the SHA-256 key");
  auto how = Signing::rfc8489();
  how.algorithm = 1;
  how.key = PasswordAlgorithm::kMd5;
  c.expect(s.call(Method::kRefresh, {}, how), 0,
           "PASSWORD-ALGORITHM MD5 with MESSAGE-INTEGRITY-SHA256");
}

void t36(Context& c) {
  Session s(c.target, c.seen);
  s.challenge();
  if (!s.features().username_anonymity)
    throw NotOffered{"the nonce does not promise username anonymity"};
  auto how = s.offers(PasswordAlgorithm::kSha256) ? Signing::rfc8489() : Signing{};
  how.userhash = true;
  c.expect(s.allocate({}, how), 0, "USERHASH instead of USERNAME");
  how.user = "nobody-of-that-name";
  c.expect(s.call(Method::kRefresh, {}, how), 401, "a stranger's USERHASH");
}

constexpr Row kRows[] = {
    {24, "8489 9.2.4", "no integrity: 401 with REALM and NONCE, nothing of the client's",
     Kind::kTest, "", t24},
    {25, "8489 9.2.4", "different clients get different nonces", Kind::kTest, "", t25},
    {26, "8489 9.2.4", "integrity without USERNAME, REALM or NONCE: a bare 400", Kind::kTest, "",
     t26},
    {27, "8489 9.2.4", "order of checks: 400, 401, and 438 last", Kind::kTest, "", t27},
    {28, "8489 9.2.4", "wrong user or realm: 401", Kind::kTest, "", t28},
    {29, "8489 9.2.4", "wrong integrity: 401", Kind::kTest, "", t29},
    {30, "8489 9.2.4", "stale nonce: 438 with a fresh one that works", Kind::kTest, "", t30},
    {31, "8489 9.2", "the nonce begins with the RFC 8489 cookie", Kind::kTest, "", t31},
    {32, "8489 9.2.4", "bid-down protection of password algorithms", Kind::kTest, "", t32},
    {33, "8489 9.2.4", "with both integrities, -SHA256 is the one verified", Kind::kTest, "", t33},
    {34, "8489 9.2.4", "answers carry the integrity of the request's kind", Kind::kTest, "", t34},
    {35, "8489 9.2.2, 18.5", "keys by MD5 and by SHA-256", Kind::kTest, "", t35},
    {36, "8489 14.4", "USERHASH names a user", Kind::kTest, "", t36},
    {37, "8489 (practice)", "comparison in constant time", Kind::kNotObservable,
     "differences of nanoseconds do not survive a network", nullptr},
    {38, "8656 6", "the server stores keys, not passwords", Kind::kNotObservable,
     "what a server stores is not on the wire", nullptr},
};

}  // namespace

std::span<const Row> credential_rows() {
  return kRows;
}

}  // namespace culvert::conformance
