// Long-term credentials in the order of RFC 8489 section 9.2.4, rows T24 to T38 of the checklist,
// and time-limited credentials by shared secret.
#include "control/auth.h"

#include "control/auth_failures.h"
#include "crypto/credentials.h"
#include "tests/unit/turn_fixture.h"

namespace culvert {
namespace {

using stun::Attribute;
using stun::AttributeSlot;

class AuthTest : public TurnTest {
 protected:
  void start_with_secrets(std::vector<std::string> secrets) {
    Config config = test_config();
    config.realms[0].secrets = std::move(secrets);
    start(config);
  }
  [[nodiscard]] static Credential timed(uint64_t expires, const std::string& secret,
                                        bool sha256 = false, const std::string& who = "zoe") {
    Credential out;
    out.name = std::to_string(expires) + (who.empty() ? "" : ":" + who);
    out.password = crypto::rest_password(secret, out.name, sha256);
    return out;
  }
  // An Allocate of which some parts are left out or replaced.
  struct Parts {
    bool user = true;
    bool realm = true;
    bool nonce = true;
    std::optional<std::string> nonce_text;
    std::optional<std::vector<uint8_t>> algorithms;  // PASSWORD-ALGORITHMS
    std::optional<std::vector<uint8_t>> algorithm;   // PASSWORD-ALGORITHM
    bool unknown_attribute = false;
    bool right_key = true;
  };
  std::optional<Response> send(const Parts& parts, const Credential& who = {}) {
    ClientRequest r(stun::kAllocate);
    r.udp();
    if (parts.user) r.text(Attribute::kUsername, who.name);
    if (parts.realm) r.text(Attribute::kRealm, who.realm);
    if (parts.nonce) r.text(Attribute::kNonce, parts.nonce_text.value_or(nonce_for(client())));
    if (parts.algorithms) r.bytes(Attribute::kPasswordAlgorithms, *parts.algorithms);
    if (parts.algorithm) r.bytes(Attribute::kPasswordAlgorithm, *parts.algorithm);
    if (parts.unknown_attribute) r.u32(static_cast<Attribute>(0x7777), 1);
    IntegrityKey key = who.key();
    if (!parts.right_key) key.bytes[0] ^= 1;
    add_integrity(r.builder(), {key, who.sha256});
    return exchange(r.done(), client());
  }
  [[nodiscard]] std::string stale_nonce() {
    std::string nonce = nonce_for(client());
    now_.ms += (uint64_t{config_.limits.nonce_lifetime_seconds} + 2) * 1000;
    server_->poll(now_);
    return nonce;
  }
  // What every 401 and 438 must carry, and must not.
  void expect_challenge(const std::optional<Response>& r, uint16_t code) {
    ASSERT_TRUE(r);
    EXPECT_EQ(r->error, code);
    EXPECT_EQ(r->text(AttributeSlot::kRealm), kTestRealm);
    EXPECT_EQ(r->text(AttributeSlot::kNonce).substr(0, 9), "obMatJos2");
    const auto list = r->message.value(AttributeSlot::kPasswordAlgorithms);
    EXPECT_EQ(std::vector<uint8_t>(list.begin(), list.end()),
              (std::vector<uint8_t>{0, 2, 0, 0, 0, 1, 0, 0}));
    EXPECT_FALSE(r->message.has(AttributeSlot::kUsername));
    EXPECT_FALSE(r->message.has(AttributeSlot::kUserhash));
    EXPECT_FALSE(r->message.has_integrity());
    EXPECT_FALSE(r->message.has(AttributeSlot::kSoftware)) << "T21: amplification";
  }
  static inline const std::vector<uint8_t> kOffered{0, 2, 0, 0, 0, 1, 0, 0};
};

// T26
TEST_F(AuthTest, MissingUsernameRealmOrNonceIs400WithoutRealmNonceOrIntegrity) {
  for (int i = 0; i < 3; ++i) {
    const auto r = send({.user = i != 0, .realm = i != 1, .nonce = i != 2});
    ASSERT_TRUE(r);
    EXPECT_EQ(r->error, 400) << i;
    EXPECT_FALSE(r->message.has(AttributeSlot::kRealm));
    EXPECT_FALSE(r->message.has(AttributeSlot::kNonce));
    EXPECT_FALSE(r->message.has_integrity());
  }
}

// T28
TEST_F(AuthTest, AWrongUsernameOrRealmIs401WithAChallenge) {
  expect_challenge(send({}, {"mallory", "wonderland"}), 401);
  Credential other_realm;
  other_realm.realm = "example.net";
  expect_challenge(send({}, other_realm), 401);
  expect_empty();
}

// T29
TEST_F(AuthTest, WrongIntegrityIs401WithAChallenge) {
  expect_challenge(send({.right_key = false}), 401);
  Credential sha256;
  sha256.sha256 = true;
  expect_challenge(send({.right_key = false}, sha256), 401);
}

// T30
TEST_F(AuthTest, AnExpiredNonceIs438WithAFreshOneThatWorks) {
  const auto r = send({.nonce_text = stale_nonce()});
  expect_challenge(r, 438);
  const auto again = send({.nonce_text = r->text(AttributeSlot::kNonce)});
  ASSERT_TRUE(again);
  EXPECT_EQ(again->error, 0);
}

// T25
TEST_F(AuthTest, ANonceOfAnotherClientIs438) {
  const std::string other = nonce_for(client("93.184.216.99:4000"));
  EXPECT_NE(other, nonce_for(client()));
  expect_challenge(send({.nonce_text = other}), 438);
  expect_challenge(send({.nonce_text = "nonsense"}), 438);
}

// T27, T3
TEST_F(AuthTest, TheOrderIs400ThenAlgorithmsThenUserThenIntegrityThenNonceThenUnknownAttributes) {
  const std::string stale = stale_nonce();
  const auto code_of = [&](const Parts& parts, const Credential& who = {}) {
    const auto r = send(parts, who);
    return r ? int{r->error} : -1;
  };
  // From everything wrong to nothing wrong, one repair at a time.
  Parts parts{.realm = false,
              .nonce_text = stale,
              .algorithms = kOffered,
              .unknown_attribute = true,
              .right_key = false};
  EXPECT_EQ(code_of(parts, {"mallory", "x"}), 400) << "no REALM";
  parts.realm = true;
  EXPECT_EQ(code_of(parts, {"mallory", "x"}), 400)
      << "PASSWORD-ALGORITHMS without PASSWORD-ALGORITHM";
  parts.algorithm = std::vector<uint8_t>{0, 1, 0, 0};
  EXPECT_EQ(code_of(parts, {"mallory", "x"}), 401) << "unknown user";
  EXPECT_EQ(code_of(parts), 401) << "wrong integrity";
  parts.right_key = true;
  EXPECT_EQ(code_of(parts), 438) << "stale nonce";
  parts.nonce_text.reset();
  EXPECT_EQ(code_of(parts), 420) << "unknown attribute";
  parts.unknown_attribute = false;
  EXPECT_EQ(code_of(parts), 0);
}

// T4, T34
TEST_F(AuthTest, A420ListsEveryUnknownAttributeOnceAndIsSigned) {
  ClientRequest r(stun::kAllocate);
  r.udp().u32(static_cast<Attribute>(0x7777), 1).u32(static_cast<Attribute>(0x7778), 1);
  r.u32(static_cast<Attribute>(0x7777), 2).u32(Attribute::kChangeRequest, 0);
  r.u32(Attribute::kConnectionId, 7);
  const auto answer = ask(r, client());
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->error, 420);
  const auto list = answer->message.value(AttributeSlot::kUnknownAttributes);
  std::multiset<uint16_t> types;
  for (size_t i = 0; i + 1 < list.size(); i += 2)
    types.insert(load_be16(&list[i]));
  EXPECT_EQ(types, (std::multiset<uint16_t>{0x0003, 0x002A, 0x7777, 0x7778}));
  EXPECT_TRUE(integrity_holds(answer->message, Credential{}.key()));
}

// T4: nobody sends that many, but all of them are to be named.
TEST_F(AuthTest, A420ListsTwentyFourUnknownAttributes) {
  ClientRequest r(stun::kAllocate);
  r.udp();
  for (uint16_t type = 0x7e00; type < 0x7e18; ++type)
    r.u32(static_cast<Attribute>(type), 0);
  const auto answer = ask(r, client());
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->error, 420);
  EXPECT_EQ(answer->message.value(AttributeSlot::kUnknownAttributes).size(), 24u * 2);
}

// T6
TEST_F(AuthTest, UnknownComprehensionOptionalAttributesAreIgnored) {
  ClientRequest r(stun::kAllocate);
  r.udp().u32(static_cast<Attribute>(0xDADA), 1).u32(Attribute::kMobilityTicket, 0);
  EXPECT_EQ(code(r, client()), 0);
}

// T31
TEST_F(AuthTest, TheNonceCookieAnnouncesAlgorithmsAndUserhashAndNoUserhashBesideASharedSecret) {
  // 'w' is 48: bits 0 and 1 of the 24; 'g' is 32: bit 0 alone; 'Q' is 16: bit 1 alone.
  EXPECT_EQ(nonce_for(client()).substr(0, 13), "obMatJos2wAAA");
  start_with_secrets({"s3cret"});
  EXPECT_EQ(nonce_for(client()).substr(0, 13), "obMatJos2gAAA");
  Config config = test_config();
  config.realms[0].algorithms.clear();
  start(config);
  EXPECT_EQ(nonce_for(client()).substr(0, 13), "obMatJos2QAAA");
}

// T32
TEST_F(AuthTest, BiddingDownIsRefusedWith400) {
  const std::vector<uint8_t> md5{0, 1, 0, 0};
  const std::vector<uint8_t> sha256{0, 2, 0, 0};
  const std::vector<uint8_t> unknown{0, 9, 0, 0};
  const auto code_of = [&](const Parts& parts, const Credential& who = {}) {
    const auto r = send(parts, who);
    return r ? int{r->error} : -1;
  };
  EXPECT_EQ(code_of({.algorithms = kOffered}), 400) << "list without choice";
  EXPECT_EQ(code_of({.algorithm = md5}), 400) << "choice without list";
  EXPECT_EQ(code_of({.algorithms = md5, .algorithm = md5}), 400) << "not the list we sent";
  EXPECT_EQ(code_of({.algorithms = std::vector<uint8_t>{0, 1, 0, 0, 0, 2, 0, 0}, .algorithm = md5}),
            400)
      << "another order";
  EXPECT_EQ(code_of({.algorithms = kOffered, .algorithm = unknown}), 400) << "not in the list";
  EXPECT_EQ(code_of({.algorithms = kOffered, .algorithm = std::vector<uint8_t>{0, 1}}), 400);
  EXPECT_EQ(
      code_of({.algorithms = kOffered, .algorithm = std::vector<uint8_t>{0, 1, 0, 4, 1, 2, 3, 4}}),
      400)
      << "parameters that MD5 does not have";
  Credential strong;
  strong.algorithm = PasswordAlgorithm::kSha256;
  EXPECT_EQ(code_of({.algorithms = kOffered, .algorithm = sha256}, strong), 0);
  // An attacker who clears the bit in the cookie makes the nonce a stranger's.
  std::string cleared = nonce_for(client());
  cleared[9] = 'A';
  EXPECT_EQ(code_of({.nonce_text = cleared}), 438);
}

// T32, T34
TEST_F(AuthTest, WithoutAlgorithmAttributesItIsMd5AndTheAnswerHasMessageIntegrity) {
  const auto r = send({});
  ASSERT_TRUE(r && r->error == 0);
  EXPECT_TRUE(r->message.has(AttributeSlot::kMessageIntegrity));
  EXPECT_FALSE(r->message.has(AttributeSlot::kMessageIntegritySha256));
  EXPECT_TRUE(integrity_holds(r->message, Credential{}.key()));
  for (const auto slot : {AttributeSlot::kRealm, AttributeSlot::kNonce, AttributeSlot::kUsername,
                          AttributeSlot::kUserhash})
    EXPECT_FALSE(r->message.has(slot));
}

// T34, T33, T35
TEST_F(AuthTest, WithSha256ChosenTheAnswerHasMessageIntegritySha256) {
  for (const bool request_sha256 : {false, true}) {
    Credential who;
    who.announce = true;
    who.algorithm = PasswordAlgorithm::kSha256;
    who.sha256 = request_sha256;
    const auto from = client(request_sha256 ? "93.184.216.1:1" : "93.184.216.1:2");
    const auto r = allocate(from, who);
    ASSERT_TRUE(r);
    EXPECT_EQ(r->error, 0);
    EXPECT_TRUE(r->message.has(AttributeSlot::kMessageIntegritySha256));
    EXPECT_FALSE(r->message.has(AttributeSlot::kMessageIntegrity));
    EXPECT_TRUE(integrity_holds(r->message, who.key()));
  }
}

// T33
TEST_F(AuthTest, WhenBothIntegritiesAreThereTheSha256OneDecides) {
  for (const bool good_sha256 : {true, false}) {
    ClientRequest r(stun::kAllocate);
    r.udp().text(Attribute::kUsername, "alice").text(Attribute::kRealm, kTestRealm);
    r.text(Attribute::kNonce, nonce_for(client()));
    IntegrityKey good = Credential{}.key();
    IntegrityKey bad = good;
    bad.bytes[3] ^= 0x40;
    add_integrity(r.builder(), {good_sha256 ? bad : good, false});
    add_integrity(r.builder(), {good_sha256 ? good : bad, true});
    const auto answer = exchange(r.done(), client());
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->error, good_sha256 ? 0 : 401);
  }
}

// T36
TEST_F(AuthTest, AUserhashNamesTheUser) {
  Credential who;
  who.userhash = true;
  EXPECT_EQ(allocate(client(), who)->error, 0);
  server_->each_allocation(0, [](const AllocationInfo& info) {
    EXPECT_EQ(info.user, "alice");
    return true;
  });
  // The same user by name is the same user: 441 compares who, not how it was said.
  ClientRequest refresh(stun::kRefresh, 2);
  EXPECT_EQ(code(refresh, client()), 0);
  Credential stranger{"mallory", "x"};
  stranger.userhash = true;
  EXPECT_EQ(allocate(client("93.184.216.1:1"), stranger)->error, 401);
}

// T36
TEST_F(AuthTest, InARealmWithASharedSecretAUserhashIs401) {
  start_with_secrets({"s3cret"});
  Credential who;
  who.userhash = true;
  EXPECT_EQ(allocate(client(), who)->error, 401);
  EXPECT_EQ(allocate(client())->error, 0) << "the configured user by name";
}

// T35
TEST_F(AuthTest, NonAsciiNamesAndPasswordsWorkAfterOpaqueString) {
  Config config = test_config();
  // "matrix" with a decomposed e-acute, and a no-break space in the password.
  config.realms[0].users = {{"matrixe\xCC\x81", "the\xC2\xA0one"}};
  start(config);
  const Credential who{"matrix\xC3\xA9", "the one"};
  EXPECT_EQ(allocate(client(), who)->error, 0);
}

TEST_F(AuthTest, AFingerprintInTheRequestGetsOneInTheAnswerBehindTheIntegrity) {
  ClientRequest r(stun::kAllocate);
  r.udp();
  static_cast<void>(sign(r, {}, client()));
  r.builder().add_fingerprint();
  const auto answer = exchange(r.done(), client());
  ASSERT_TRUE(answer);
  EXPECT_TRUE(answer->message.has(AttributeSlot::kFingerprint));
  EXPECT_TRUE(integrity_holds(answer->message, Credential{}.key()));
  EXPECT_EQ(load_be16(&answer->bytes[answer->bytes.size() - 8]), 0x8028);
}

TEST_F(AuthTest, AuthenticatedAnswersNameTheSoftware) {
  Config config = test_config();
  config.software = "Culvert";
  start(config);
  const auto r = allocate(client());
  ASSERT_TRUE(r && r->error == 0);
  EXPECT_EQ(r->text(AttributeSlot::kSoftware), "Culvert");
  EXPECT_TRUE(integrity_holds(r->message, Credential{}.key()));
  EXPECT_FALSE(send({}, {"mallory", "x"})->message.has(AttributeSlot::kSoftware));
}

TEST_F(AuthTest, ACoresVerdictThatTheNonceWasValidStandsWhenTheKeysTurnedSince) {
  ClientRequest r(stun::kAllocate);
  r.udp();
  const auto bytes = sign(r, {}, client());
  Request event;
  event.client = client();
  event.nonce_valid = 1;
  for (int i = 0; i < 2; ++i) {
    now_.ms += uint64_t{config_.limits.nonce_lifetime_seconds} * 1000;
    server_->poll(now_);
  }
  ASSERT_TRUE(engine_->inject(0, event, bytes));
  server_->poll(now_);
  EXPECT_EQ(collect()->error, 0);
}

// T62
TEST_F(AuthTest, ANonceSurvivesOneRotationOfTheKeysWithinItsLifetime) {
  now_.ms += (uint64_t{config_.limits.nonce_lifetime_seconds} - 10) * 1000;
  server_->poll(now_);
  const std::string nonce = nonce_for(client());
  const uint32_t epoch = engine_->snapshot().nonce_keys.current;
  now_.ms += 60'000;
  server_->poll(now_);
  EXPECT_NE(engine_->snapshot().nonce_keys.current, epoch);
  EXPECT_EQ(send({.nonce_text = nonce})->error, 0);
}

TEST_F(AuthTest, WhenAReloadChangesTheOfferedAlgorithmsOldNoncesAre438AndNot400) {
  Credential who;
  who.announce = true;
  who.algorithm = PasswordAlgorithm::kMd5;
  ClientRequest r(stun::kAllocate);
  r.udp();
  const auto bytes = sign(r, who, client());
  Config config = test_config();
  config.realms[0].algorithms = {PasswordAlgorithm::kMd5};
  ASSERT_FALSE(server_->reload(config, now_));
  EXPECT_EQ(exchange(bytes, client())->error, 438);
  EXPECT_EQ(allocate(client(), who, 2)->error, 0);
}

// ---------------------------------------------------------------- shared secrets

TEST_F(AuthTest, TimeLimitedCredentialsWorkBySha1AndSha256WithEitherSecretAndEitherKey) {
  start_with_secrets({"new-secret", "old-secret"});
  int port = 1;
  for (const char* secret : {"new-secret", "old-secret"}) {
    for (const bool sha256_password : {false, true}) {
      for (const auto algorithm : {PasswordAlgorithm::kMd5, PasswordAlgorithm::kSha256}) {
        Credential who = timed(now_.unix_seconds + 100, secret, sha256_password);
        who.name += std::to_string(port);
        who.password = crypto::rest_password(secret, who.name, sha256_password);
        who.announce = true;
        who.algorithm = algorithm;
        const auto from = client(("93.184.216.1:" + std::to_string(port++)).c_str());
        EXPECT_EQ(allocate(from, who)->error, 0) << who.name;
      }
    }
  }
  const Credential wrong = timed(now_.unix_seconds + 100, "no-secret");
  EXPECT_EQ(allocate(client("93.184.216.2:1"), wrong)->error, 401);
}

TEST_F(AuthTest, EveryPasswordOfOneTimeLimitedNameWorksWhileTheKeysOfAnotherAreKept) {
  start_with_secrets({"new-secret", "old-secret"});
  std::vector<Credential> passwords;
  for (const char* secret : {"new-secret", "old-secret"}) {
    for (const bool sha256 : {false, true})
      passwords.push_back(timed(now_.unix_seconds + 100, secret, sha256));
  }
  const Credential wrong{passwords[0].name, "no-password-of-it"};
  int port = 1;
  const auto next = [&] { return client(("93.184.216.1:" + std::to_string(port++)).c_str()); };
  // Each after each other, so that every pair of kept and brought keys occurs.
  for (const Credential& kept : passwords) {
    for (const Credential& brought : passwords) {
      ASSERT_EQ(allocate(next(), kept)->error, 0);
      const auto from = next();
      ASSERT_EQ(allocate(from, brought)->error, 0) << kept.password << " " << brought.password;
      ASSERT_EQ(allocate(next(), kept)->error, 0);
      ASSERT_EQ(allocate(next(), wrong)->error, 401) << "the kept keys are no free pass";
      ClientRequest refresh(stun::kRefresh, 2);
      const auto answer = ask(refresh.u32(Attribute::kLifetime, 0), from, brought);
      ASSERT_TRUE(answer && answer->error == 0);
      EXPECT_TRUE(integrity_holds(answer->message, brought.key())) << "signed as it was asked";
    }
  }
  EXPECT_EQ(server_->stats().known_users, 2u) << "the name and its account";
}

TEST_F(AuthTest, ARefusalByTheCoreIsSignedAsItsRequestWasThoughAnotherPasswordCameBetween) {
  start_with_secrets({"s3cret"});
  const Credential first = timed(now_.unix_seconds + 100, "s3cret", false);
  const Credential second = timed(now_.unix_seconds + 100, "s3cret", true);
  // The Allocate's command is on its way while the same name authenticates by its other password.
  ClientRequest slow(stun::kAllocate);
  slow.udp();
  const auto from = client("93.184.216.1:1");
  inject(sign(slow, first, from), from);
  ASSERT_EQ(engine_->waiting(), 1u);
  const RecordingEngine::Command install = engine_->take();
  ASSERT_EQ(allocate(client("93.184.216.1:2"), second)->error, 0);
  fail(install, ApplyError::kTableFull);
  const auto answer = collect();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->error, 508);
  EXPECT_TRUE(integrity_holds(answer->message, first.key()));
}

TEST_F(AuthTest, AnExpiredCredentialIs401WithAChallengeAndMakesNoState) {
  start_with_secrets({"s3cret"});
  const auto r = allocate(client(), timed(now_.unix_seconds, "s3cret"));
  ASSERT_TRUE(r);
  EXPECT_EQ(r->error, 401);
  EXPECT_TRUE(r->message.has(AttributeSlot::kNonce));
  EXPECT_EQ(server_->stats().known_users, 0u);
  EXPECT_EQ(allocate(client(), timed(now_.unix_seconds + 1, "s3cret"))->error, 0);
}

TEST_F(AuthTest, ALiveAllocationGoesOnAfterItsCredentialExpiredButMakesNoNewOne) {
  start_with_secrets({"s3cret"});
  const Credential who = timed(now_.unix_seconds + 60, "s3cret");
  ASSERT_EQ(allocate(client(), who)->error, 0);
  now_.unix_seconds += 120;
  now_.ms += 120'000;
  server_->poll(now_);
  ClientRequest refresh(stun::kRefresh, 2);
  EXPECT_EQ(code(refresh, client(), who), 0);
  EXPECT_EQ(allocate(client("93.184.216.1:1"), who)->error, 401);
}

TEST_F(AuthTest, TakingASecretAwayEndsTheCredentialsMadeWithIt) {
  start_with_secrets({"new-secret", "old-secret"});
  const Credential old_user = timed(now_.unix_seconds + 600, "old-secret", false, "old");
  const Credential new_user = timed(now_.unix_seconds + 600, "new-secret", false, "new");
  ASSERT_EQ(allocate(client("93.184.216.1:1"), old_user)->error, 0);
  ASSERT_EQ(allocate(client("93.184.216.1:2"), new_user)->error, 0);
  Config config = config_;
  config.realms[0].secrets = {"new-secret"};
  ASSERT_FALSE(server_->reload(config, now_));
  ClientRequest a(stun::kRefresh, 2);
  EXPECT_EQ(code(a, client("93.184.216.1:1"), old_user), 401);
  ClientRequest b(stun::kRefresh, 2);
  EXPECT_EQ(code(b, client("93.184.216.1:2"), new_user), 0);
}

// T52, T61
TEST_F(AuthTest, TheQuotaOfTimeLimitedNamesIsTheNamedUsersAndNotTheTimestamps) {
  Config config = test_config();
  config.realms[0].secrets = {"s3cret"};
  config.realms[0].user_quota = 1;
  start(config);
  EXPECT_EQ(allocate(client("93.184.216.1:1"), timed(now_.unix_seconds + 100, "s3cret"))->error, 0);
  EXPECT_EQ(allocate(client("93.184.216.1:2"), timed(now_.unix_seconds + 101, "s3cret"))->error,
            486);
  EXPECT_EQ(
      allocate(client("93.184.216.1:3"), timed(now_.unix_seconds + 100, "s3cret", false, "yan"))
          ->error,
      0);
  // 441 compares the whole username: another password made it.
  ClientRequest refresh(stun::kRefresh, 2);
  EXPECT_EQ(code(refresh, client("93.184.216.1:1"), timed(now_.unix_seconds + 101, "s3cret")), 441);
}

TEST_F(AuthTest, MintedCredentialsWorkAndOnlyInARealmWithASecret) {
  EXPECT_FALSE(server_->mint("", "zoe", 60, now_));
  start_with_secrets({"s3cret"});
  EXPECT_FALSE(server_->mint("example.net", "zoe", 60, now_));
  const auto minted = server_->mint(kTestRealm, "zoe", 60, now_);
  ASSERT_TRUE(minted);
  EXPECT_EQ(minted->username, std::to_string(now_.unix_seconds + 60) + ":zoe");
  EXPECT_EQ(minted->expires_unix_seconds, now_.unix_seconds + 60);
  EXPECT_EQ(allocate(client(), {minted->username, minted->password})->error, 0);
}

// T37
TEST_F(AuthTest, AHostThatKeepsFailingIsNoLongerListenedToAndHarmsNobodyElse) {
  const ClientTuple friendly = client("93.184.216.34:5000");  // behind the same address
  ASSERT_EQ(allocate(friendly)->error, 0);
  const Credential wrong{"alice", "wrong"};
  uint32_t answered = 0;
  for (uint32_t i = 0; i < 3 * kAuthFailureBurst; ++i)
    answered += allocate(client(), wrong) ? 1 : 0;
  EXPECT_EQ(answered, kAuthFailureBurst);
  EXPECT_EQ(server_->stats().requests_silenced, 2 * kAuthFailureBurst);
  EXPECT_EQ(notices_.size(), 1u) << "one line, not one a request";
  EXPECT_FALSE(allocate(client())) << "nor does the right password help at once";

  ClientRequest refresh(stun::kRefresh, 2);
  EXPECT_EQ(code(refresh, friendly), 0) << "who has an allocation is heard";
  EXPECT_EQ(allocate(client("93.184.216.35:4000"))->error, 0) << "another host";
  now_.ms += 1000;
  EXPECT_EQ(allocate(client())->error, 0) << "a second later";
}

// With integrity but without a nonce of ours the source may be forged: no amplifier.
TEST_F(AuthTest, AnErrorToAnUnprovenAddressIsAtMostTwoAndAHalfTimesItsRequest) {
  const auto forged = [&](std::string padding) {
    ClientRequest r(stun::kAllocate);
    r.text(stun::Attribute::kUsername, padding).text(stun::Attribute::kRealm, "");
    r.text(stun::Attribute::kNonce, "");
    add_integrity(r.builder(), {Credential{}.key(), false});
    const std::vector<uint8_t> bytes = r.done();
    last_.clear();
    inject(bytes, client());
    const auto answer = collect();
    if (answer) {
      EXPECT_LE((answer->bytes.size() + 28) * 10, (bytes.size() + 28) * kMaxReplyRatioTenths);
    }
    return answer.has_value();
  };
  EXPECT_TRUE(forged("")) << "a short realm fits";
  Config config = test_config();
  config.realms[0].name = std::string(120, 'r');
  start(config);
  EXPECT_FALSE(forged(""));
  EXPECT_EQ(server_->stats().requests_silenced, 1u);
  EXPECT_TRUE(forged(std::string(100, 'u')));
}

TEST_F(AuthTest, ForgedNoncesCannotSilenceAnotherHost) {
  for (uint32_t i = 0; i < 2 * kAuthFailureBurst; ++i) {
    ClientRequest r(stun::kAllocate);
    r.udp();
    const ClientTuple forger = client("198.18.0.1:1");  // whose nonce it is
    inject(sign(r, {"alice", "wrong"}, forger), client());
    static_cast<void>(collect());
  }
  EXPECT_EQ(allocate(client())->error, 0);
}

TEST_F(AuthTest, FloodsOfUnknownUsersAndWrongPasswordsLeaveNoState) {
  start_with_secrets({"s3cret"});
  for (int i = 0; i < 1000; ++i) {
    Credential who = timed(now_.unix_seconds + 100, "wrong", false, std::to_string(i));
    ASSERT_EQ(allocate(client(), who)->error, 401);
    ASSERT_EQ(allocate(client(), {"user" + std::to_string(i), "x"})->error, 401);
    now_.ms += 2 * 1000 / kAuthFailuresPerSecond;  // more often, and it would be silenced
  }
  EXPECT_EQ(server_->stats().known_users, 0u);
  expect_empty();
}

}  // namespace
}  // namespace culvert
