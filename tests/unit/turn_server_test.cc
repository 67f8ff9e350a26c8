// The TURN rules that control decides, row by row of the checklist ("T55" is row 55), against a
// recording engine with real credentials and real integrity.
#include "control/turn_server.h"

#include "config/derive.h"
#include "dataplane/steer/owner.h"
#include "tests/unit/turn_fixture.h"

namespace culvert {
namespace {

using stun::Attribute;
using stun::AttributeSlot;

constexpr uint32_t kIpv4Family = 1u << 24;
constexpr uint32_t kIpv6Family = 2u << 24;

// ---------------------------------------------------------------- Allocate

// T56, T54, T53
TEST_F(TurnTest, AnAllocateIsAnsweredWithRelayedAddressLifetimeAndMappedAddressInsideTheCommand) {
  const auto r = allocate(client());
  ASSERT_TRUE(r);
  EXPECT_EQ(r->error, 0);
  ASSERT_EQ(r->relayed().size(), 1u);
  EXPECT_EQ(r->relayed()[0].ip, ip("198.51.100.1"));
  EXPECT_GE(r->relayed()[0].port, 49152);
  EXPECT_EQ(r->lifetime(), 600u);
  EXPECT_EQ(r->message.xor_address(r->message.value(AttributeSlot::kXorMappedAddress)),
            client().client);
  EXPECT_FALSE(r->message.has(AttributeSlot::kReservationToken));
  const auto install = sent<InstallAllocation>();
  ASSERT_EQ(install.size(), 1u);
  EXPECT_EQ(install[0].ipv4.port, r->relayed()[0].port);
  EXPECT_FALSE(install[0].ipv6.present());
  EXPECT_EQ(install[0].lifetime_ms, 600'000u);
  EXPECT_EQ(install[0].reserve_next, 0);
  EXPECT_TRUE(sent<SendReply>().empty()) << "a success never travels by SendReply";
}

// T54
TEST_F(TurnTest, RelayedAddressesAreUniqueAmongAllAllocations) {
  std::set<uint16_t> seen;
  for (int i = 0; i < 64; ++i) {
    const auto r = allocate(client(("93.184.216.34:" + std::to_string(5000 + i)).c_str()));
    ASSERT_TRUE(r && r->error == 0);
    EXPECT_TRUE(seen.insert(r->relayed()[0].port).second);
  }
}

// T40
TEST_F(TurnTest, WrongIntegrityOnAnOccupiedFiveTupleIs401AndNot437) {
  ASSERT_TRUE(allocate(client()));
  Credential wrong;
  wrong.password = "mirror";
  ClientRequest r(stun::kAllocate, 2);
  r.udp();
  EXPECT_EQ(code(r, client(), wrong), 401);
}

// T41
TEST_F(TurnTest, ANewTransactionOnAnOccupiedFiveTupleIs437) {
  ASSERT_TRUE(allocate(client()));
  const auto r = allocate(client(), {}, 2);
  ASSERT_TRUE(r);
  EXPECT_EQ(r->error, 437);
  EXPECT_EQ(server_->stats().allocations, 1u);
}

// T42, T11
TEST_F(TurnTest, ARetransmittedAllocateGetsTheSameAnswerAndNoSecondAllocation) {
  const auto first = allocate(client());
  now_.ms += 500;
  const auto again = allocate(client());
  ASSERT_TRUE(first && again);
  EXPECT_EQ(first->bytes, again->bytes);
  EXPECT_EQ(server_->stats().allocations, 1u);
  EXPECT_TRUE(sent<InstallAllocation>().empty());
  const auto carrier = sent<RefreshAllocation>();
  ASSERT_EQ(carrier.size(), 1u);
  EXPECT_EQ(carrier[0].lifetime_ms, 599'500u) << "T59: a retransmission does not extend it";
}

// T42
TEST_F(TurnTest, ARetransmissionWhileTheInstallationIsUnderWayMakesNoSecondOne) {
  ClientRequest r(stun::kAllocate);
  r.udp();
  const auto bytes = sign(r, {}, client());
  inject(bytes, client());
  inject(bytes, client());
  ASSERT_EQ(engine_->waiting(), 2u);
  EXPECT_EQ(engine_->commands()[0].type(), CommandType::kInstallAllocation);
  EXPECT_EQ(engine_->commands()[1].type(), CommandType::kRefreshAllocation);
  EXPECT_EQ(engine_->commands()[0].payload, engine_->commands()[1].payload);
  EXPECT_EQ(engine_->commands()[0].as<InstallAllocation>().handle,
            engine_->commands()[1].as<RefreshAllocation>().handle);
}

// T42
TEST_F(TurnTest, ARetransmittedEvenPortAllocateRepeatsItsToken) {
  ClientRequest first(stun::kAllocate);
  first.udp().bytes(Attribute::kEvenPort, {0x80});
  const auto bytes = sign(first, {}, client());
  const auto a = exchange(bytes, client());
  const auto b = exchange(bytes, client());
  ASSERT_TRUE(a && b);
  EXPECT_TRUE(a->message.has(AttributeSlot::kReservationToken));
  EXPECT_EQ(a->bytes, b->bytes);
  EXPECT_EQ(server_->stats().reservations, 1u);
}

// T43
TEST_F(TurnTest, RequestedTransportMissingOrMalformedIs400AndOtherThanUdpIs442) {
  ClientRequest missing(stun::kAllocate);
  EXPECT_EQ(code(missing, client()), 400);
  ClientRequest malformed(stun::kAllocate);
  malformed.bytes(Attribute::kRequestedTransport, {17});
  EXPECT_EQ(code(malformed, client()), 400);
  ClientRequest tcp(stun::kAllocate);
  tcp.u32(Attribute::kRequestedTransport, 6u << 24);
  EXPECT_EQ(code(tcp, client()), 442);
  expect_empty();
}

// T44
TEST_F(TurnTest, DontFragmentIsUnderstood) {
  ClientRequest r(stun::kAllocate);
  r.udp().bytes(Attribute::kDontFragment, {});
  EXPECT_EQ(code(r, client()), 0);
}

// T45
TEST_F(TurnTest, AReservationTokenTogetherWithEvenPortOrAnyFamilyIs400) {
  const struct {
    Attribute type;
    std::vector<uint8_t> value;
  } rows[] = {{Attribute::kEvenPort, {0}},
              {Attribute::kRequestedAddressFamily, {1, 0, 0, 0}},
              {Attribute::kAdditionalAddressFamily, {2, 0, 0, 0}}};
  for (const auto& row : rows) {
    ClientRequest r(stun::kAllocate);
    r.udp()
        .bytes(Attribute::kReservationToken, {1, 2, 3, 4, 5, 6, 7, 8})
        .bytes(row.type, row.value);
    EXPECT_EQ(code(r, client()), 400) << static_cast<int>(row.type);
  }
  expect_empty();
}

// T46
TEST_F(TurnTest, AnUnknownReservationTokenIs508AndAMalformedOne400) {
  ClientRequest unknown(stun::kAllocate);
  unknown.udp().bytes(Attribute::kReservationToken, {1, 2, 3, 4, 5, 6, 7, 8});
  EXPECT_EQ(code(unknown, client()), 508);
  ClientRequest malformed(stun::kAllocate);
  malformed.udp().bytes(Attribute::kReservationToken, {1, 2, 3, 4});
  EXPECT_EQ(code(malformed, client()), 400);
  expect_empty();
}

// T47
TEST_F(TurnTest, RequestedAndAdditionalFamilyTogetherAre400) {
  ClientRequest r(stun::kAllocate);
  r.udp().u32(Attribute::kRequestedAddressFamily, kIpv4Family);
  r.u32(Attribute::kAdditionalAddressFamily, kIpv6Family);
  EXPECT_EQ(code(r, client()), 400);
}

// T48
TEST_F(TurnTest, TheFamilyIsIpv4UnlessAskedForAndAnUnsupportedOneIs440) {
  ClientRequest six(stun::kAllocate);
  six.udp().u32(Attribute::kRequestedAddressFamily, kIpv6Family);
  const auto r = ask(six, client());
  ASSERT_TRUE(r);
  EXPECT_EQ(r->relayed().at(0).ip, ip("2001:db8::1"));

  // The default is IPv4 also for a client that came over IPv6.
  const auto plain = allocate(client("[2606:4700::5]:4000", 1));
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->relayed().at(0).ip, ip("198.51.100.1"));

  ClientRequest unknown(stun::kAllocate);
  unknown.udp().u32(Attribute::kRequestedAddressFamily, 3u << 24);
  EXPECT_EQ(code(unknown, client("93.184.216.34:4001")), 440);

  Config config = test_config();
  config.relay_addresses.pop_back();
  start(config);
  ClientRequest none(stun::kAllocate);
  none.udp().u32(Attribute::kRequestedAddressFamily, kIpv6Family);
  EXPECT_EQ(code(none, client()), 440);
  config.relay_addresses = {{ip("2001:db8::1"), ip("2001:db8::1")}};
  start(config);
  EXPECT_EQ(allocate(client())->error, 440) << "no attribute means IPv4";
}

// T49
TEST_F(TurnTest, EvenPortWithReservationAndAdditionalFamilyIs400AndAnUnsatisfiableOne508) {
  ClientRequest both(stun::kAllocate);
  both.udp().bytes(Attribute::kEvenPort, {0x80});
  both.u32(Attribute::kAdditionalAddressFamily, kIpv6Family);
  EXPECT_EQ(code(both, client()), 400);

  Config config = test_config();
  config.relay_port_low = config.relay_port_high = 50001;
  start(config);
  ClientRequest even(stun::kAllocate);
  even.udp().bytes(Attribute::kEvenPort, {0});
  EXPECT_EQ(code(even, client()), 508);
  expect_empty();
}

// T50
TEST_F(TurnTest, EvenPortWithoutReservationGivesAnEvenPortAndHoldsNothing) {
  for (int i = 0; i < 20; ++i) {
    ClientRequest r(stun::kAllocate);
    r.udp().bytes(Attribute::kEvenPort, {0});
    const auto answer = ask(r, client(("93.184.216.34:" + std::to_string(4000 + i)).c_str()));
    ASSERT_TRUE(answer && answer->error == 0);
    EXPECT_EQ(answer->relayed().at(0).port % 2, 0);
    EXPECT_FALSE(answer->message.has(AttributeSlot::kReservationToken));
    EXPECT_EQ(sent<InstallAllocation>().at(0).reserve_next, 0);
  }
  EXPECT_EQ(server_->stats().reservations, 0u);
}

// T50
TEST_F(TurnTest, AReservedPortIsHeldForAnyFiveTupleAndUserAndUsedOnce) {
  ClientRequest first(stun::kAllocate);
  first.udp().bytes(Attribute::kEvenPort, {0x80});
  const auto a = ask(first, client());
  ASSERT_TRUE(a && a->error == 0);
  const uint16_t even = a->relayed().at(0).port;
  EXPECT_EQ(even % 2, 0);
  EXPECT_EQ(sent<InstallAllocation>().at(0).reserve_next, 1);
  const auto value = a->message.value(AttributeSlot::kReservationToken);
  const std::vector<uint8_t> token(value.begin(), value.end());
  ASSERT_EQ(token.size(), 8u);

  now_.ms += 30'000;  // "at least 30 s"
  server_->poll(now_);
  Credential bob{"bob", "builder"};
  ClientRequest second(stun::kAllocate, 2);
  second.udp().bytes(Attribute::kReservationToken, token);
  const auto b = ask(second, client("93.184.216.40:7000"), bob);
  ASSERT_TRUE(b);
  EXPECT_EQ(b->error, 0);
  EXPECT_EQ(b->relayed().at(0).port, even + 1);
  EXPECT_EQ(sent<InstallAllocation>().at(0).port_already_open, 1);
  EXPECT_EQ(server_->stats().reservations, 0u);

  // T46: a used token.
  ClientRequest third(stun::kAllocate, 3);
  third.udp().bytes(Attribute::kReservationToken, token);
  EXPECT_EQ(code(third, client("93.184.216.41:7000"), bob), 508);
}

// T46, T50
TEST_F(TurnTest, AnUnusedReservationIsClosedAndItsTokenForgotten) {
  ClientRequest first(stun::kAllocate);
  first.udp().bytes(Attribute::kEvenPort, {0x80});
  const auto a = ask(first, client());
  ASSERT_TRUE(a);
  const auto value = a->message.value(AttributeSlot::kReservationToken);
  const std::vector<uint8_t> token(value.begin(), value.end());
  const uint64_t free_before = server_->stats().ports_free;
  now_.ms += 33'000;
  last_.clear();
  server_->poll(now_);
  collect();
  ASSERT_EQ(sent<ClosePort>().size(), 1u);
  EXPECT_EQ(sent<ClosePort>()[0].leg.port, a->relayed().at(0).port + 1);
  EXPECT_EQ(server_->stats().ports_free, free_before + 1);
  ClientRequest late(stun::kAllocate, 2);
  late.udp().bytes(Attribute::kReservationToken, token);
  EXPECT_EQ(code(late, client("93.184.216.40:7000")), 508);
}

TEST_F(TurnTest, AReservedPortStaysTakenUntilItsCloseWasReallySent) {
  ClientRequest first(stun::kAllocate);
  first.udp().bytes(Attribute::kEvenPort, {0x80});
  ASSERT_TRUE(ask(first, client()));
  const uint64_t free_before = server_->stats().ports_free;
  now_.ms += 33'000;
  engine_->set_ring_full(0, true);
  server_->poll(now_);
  EXPECT_EQ(server_->stats().ports_free, free_before);
  engine_->set_ring_full(0, false);
  server_->poll(now_);
  EXPECT_EQ(server_->stats().ports_free, free_before + 1);
}

// T51
TEST_F(TurnTest, ADualAllocationHasTwoRelayedAddressesOnOneCore) {
  start(test_config(), 4);
  ClientRequest r(stun::kAllocate);
  r.udp().u32(Attribute::kAdditionalAddressFamily, kIpv6Family);
  const auto answer = ask(r, client(), {}, 3);
  ASSERT_TRUE(answer && answer->error == 0);
  ASSERT_EQ(answer->relayed().size(), 2u);
  EXPECT_FALSE(answer->message.has(AttributeSlot::kAddressErrorCode));
  const auto install = sent<InstallAllocation>().at(0);
  EXPECT_EQ(owner(install.ipv4.port, 4), 3);
  EXPECT_EQ(owner(install.ipv6.port, 4), 3);
}

// T51
TEST_F(TurnTest, ADualAllocationThatGetsOneFamilyOnlySucceedsWithAnAddressErrorCode) {
  Config config = test_config();
  config.relay_addresses.pop_back();
  start(config);
  ClientRequest r(stun::kAllocate);
  r.udp().u32(Attribute::kAdditionalAddressFamily, kIpv6Family);
  const auto bytes = sign(r, {}, client());
  const auto answer = exchange(bytes, client());
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->error, 0);
  EXPECT_EQ(answer->relayed().size(), 1u);
  const auto error = answer->message.value(AttributeSlot::kAddressErrorCode);
  ASSERT_GE(error.size(), 4u);
  EXPECT_EQ(error[0], 2) << "family IPv6";
  EXPECT_EQ(error[2] * 100 + error[3], 440);
  const auto again = exchange(bytes, client());
  ASSERT_TRUE(again);
  EXPECT_EQ(again->bytes, answer->bytes) << "T42";
}

// T51
TEST_F(TurnTest, ADualAllocationWhoseIpv6PortsAreExhaustedGets508ForThatFamily) {
  Config config = test_config();
  config.relay_port_low = 50000;
  config.relay_port_high = 50001;
  start(config);
  for (uint8_t i = 0; i < 2; ++i) {
    ClientRequest six(stun::kAllocate, i);
    six.udp().u32(Attribute::kRequestedAddressFamily, kIpv6Family);
    ASSERT_EQ(code(six, client(i == 0 ? "93.184.216.1:1" : "93.184.216.1:2")), 0);
  }
  ClientRequest r(stun::kAllocate);
  r.udp().u32(Attribute::kAdditionalAddressFamily, kIpv6Family);
  const auto answer = ask(r, client());
  ASSERT_TRUE(answer && answer->error == 0);
  const auto error = answer->message.value(AttributeSlot::kAddressErrorCode);
  ASSERT_GE(error.size(), 4u);
  EXPECT_EQ(error[2] * 100 + error[3], 508);
}

// T51
TEST_F(TurnTest, AdditionalFamilyIpv4OrNonsenseIs400) {
  ClientRequest four(stun::kAllocate);
  four.udp().u32(Attribute::kAdditionalAddressFamily, kIpv4Family);
  EXPECT_EQ(code(four, client()), 400);
  ClientRequest nonsense(stun::kAllocate);
  nonsense.udp().bytes(Attribute::kAdditionalAddressFamily, {2});
  EXPECT_EQ(code(nonsense, client()), 400);
  expect_empty();
}

// T52
TEST_F(TurnTest, TheQuotaIsPerUsernameWhateverTheAddressAndFreedByDeletion) {
  Config config = test_config();
  config.realms[0].user_quota = 2;
  start(config);
  const ClientTuple first = client("93.184.216.1:1");
  EXPECT_EQ(allocate(first)->error, 0);
  EXPECT_EQ(allocate(client("93.184.216.2:1"))->error, 0);
  EXPECT_EQ(allocate(client("93.184.216.3:1"))->error, 486);
  EXPECT_EQ(allocate(client("93.184.216.1:2"), {"bob", "builder"})->error, 0)
      << "another user behind the same address";
  ClientRequest gone(stun::kRefresh, 9);
  gone.u32(Attribute::kLifetime, 0);
  EXPECT_EQ(code(gone, first), 0);
  EXPECT_EQ(allocate(client("93.184.216.3:1"), {}, 7)->error, 0);
}

TEST_F(TurnTest, AReservationCountsInTheQuotaOfItsMaker) {
  Config config = test_config();
  config.realms[0].user_quota = 2;
  start(config);
  ClientRequest pair(stun::kAllocate);
  pair.udp().bytes(Attribute::kEvenPort, {0x80});
  const auto a = ask(pair, client("93.184.216.1:1"));
  ASSERT_TRUE(a && a->error == 0);
  EXPECT_EQ(allocate(client("93.184.216.2:1"))->error, 486);
  const auto value = a->message.value(AttributeSlot::kReservationToken);
  ClientRequest use(stun::kAllocate, 2);
  use.udp().bytes(Attribute::kReservationToken, {value.begin(), value.end()});
  EXPECT_EQ(code(use, client("93.184.216.2:1")), 0) << "its own reservation was already counted";
  EXPECT_EQ(allocate(client("93.184.216.3:1"))->error, 486);
}

TEST_F(TurnTest, AFullRelayAnswers508AndRecovers) {
  Config config = test_config();
  config.limits.max_allocations = 2;
  start(config);
  EXPECT_EQ(allocate(client("93.184.216.1:1"))->error, 0);
  EXPECT_EQ(allocate(client("93.184.216.1:2"))->error, 0);
  EXPECT_EQ(allocate(client("93.184.216.1:3"))->error, 508);
  ClientRequest gone(stun::kRefresh, 9);
  gone.u32(Attribute::kLifetime, 0);
  EXPECT_EQ(code(gone, client("93.184.216.1:1")), 0);
  EXPECT_EQ(allocate(client("93.184.216.1:3"))->error, 0);
}

// T55
TEST_F(TurnTest, TheLifetimeIsBetweenTheDefaultAndTheMaximum) {
  const struct {
    uint32_t asked;
    uint32_t granted;
  } rows[] = {{1, 600}, {600, 600}, {1800, 1800}, {3600, 3600}, {86400, 3600}, {0, 600}};
  int port = 1000;
  for (const auto& row : rows) {
    ClientRequest r(stun::kAllocate);
    r.udp().u32(Attribute::kLifetime, row.asked);
    const auto answer = ask(r, client(("93.184.216.1:" + std::to_string(++port)).c_str()));
    ASSERT_TRUE(answer && answer->error == 0);
    EXPECT_EQ(answer->lifetime(), row.granted) << row.asked;
    EXPECT_EQ(sent<InstallAllocation>().at(0).lifetime_ms, row.granted * 1000);
  }
}

// ---------------------------------------------------------------- Refresh

// T57, T64
TEST_F(TurnTest, ARefreshWithLifetimeZeroDeletesARepeatIs437AndTheFiveTupleMayAllocateAtOnce) {
  ASSERT_TRUE(allocate(client()));
  ClientRequest gone(stun::kRefresh, 2);
  gone.u32(Attribute::kLifetime, 0);
  const auto bytes = sign(gone, {}, client());
  const auto answer = exchange(bytes, client());
  ASSERT_TRUE(answer && answer->error == 0);
  EXPECT_EQ(answer->lifetime(), 0u);
  ASSERT_EQ(sent<RemoveAllocation>().size(), 1u);
  expect_empty();
  const auto repeat = exchange(bytes, client());
  ASSERT_TRUE(repeat);
  EXPECT_EQ(repeat->error, 437);
  EXPECT_EQ(allocate(client(), {}, 3)->error, 0);
}

// T57
TEST_F(TurnTest, ARepeatedDeletionIs437AlsoBeforeTheCoreHasReportedTheEnd) {
  ASSERT_TRUE(allocate(client()));
  ClientRequest gone(stun::kRefresh, 2);
  gone.u32(Attribute::kLifetime, 0);
  const auto bytes = sign(gone, {}, client());
  inject(bytes, client());
  inject(bytes, client());
  ASSERT_EQ(engine_->waiting(), 2u);
  EXPECT_EQ(engine_->commands()[0].type(), CommandType::kRemoveAllocation);
  EXPECT_EQ(engine_->commands()[1].type(), CommandType::kSendReply);
  Response second{engine_->commands()[1].payload, {}, 0};
  read(second);
  EXPECT_EQ(second.error, 437);
}

// T55, T59
TEST_F(TurnTest, ARefreshExtendsByTheGrantedLifetime) {
  ASSERT_TRUE(allocate(client()));
  now_.ms += 100'000;
  for (const auto& [asked, granted] : {std::pair{1200u, 1200u}, {5u, 600u}, {99999u, 3600u}}) {
    ClientRequest r(stun::kRefresh, 2);
    r.u32(Attribute::kLifetime, asked);
    const auto answer = ask(r, client());
    ASSERT_TRUE(answer && answer->error == 0);
    EXPECT_EQ(answer->lifetime(), granted);
    EXPECT_EQ(sent<RefreshAllocation>().at(0).lifetime_ms, granted * 1000);
    EXPECT_EQ(sent<RefreshAllocation>().at(0).legs, kLegIpv4);
  }
  ClientRequest malformed(stun::kRefresh, 3);
  malformed.bytes(Attribute::kLifetime, {1, 2});
  EXPECT_EQ(code(malformed, client()), 400);
}

// T58
TEST_F(TurnTest, ARefreshOfAFamilyTheAllocationDoesNotHaveIs443) {
  ASSERT_TRUE(allocate(client()));
  ClientRequest r(stun::kRefresh, 2);
  r.u32(Attribute::kRequestedAddressFamily, kIpv6Family);
  EXPECT_EQ(code(r, client()), 443);
}

// T58
TEST_F(TurnTest, OnADualAllocationARefreshTouchesTheFamilyItNamesOrBoth) {
  ClientRequest dual(stun::kAllocate);
  dual.udp().u32(Attribute::kAdditionalAddressFamily, kIpv6Family);
  ASSERT_TRUE(ask(dual, client()));
  const uint64_t free_before = server_->stats().ports_free;
  ClientRequest both(stun::kRefresh, 2);
  EXPECT_EQ(code(both, client()), 0);
  EXPECT_EQ(sent<RefreshAllocation>().at(0).legs, kLegIpv4 | kLegIpv6);
  ClientRequest six(stun::kRefresh, 3);
  six.u32(Attribute::kRequestedAddressFamily, kIpv6Family);
  EXPECT_EQ(code(six, client()), 0);
  EXPECT_EQ(sent<RefreshAllocation>().at(0).legs, kLegIpv6);

  ClientRequest delete_six(stun::kRefresh, 4);
  delete_six.u32(Attribute::kRequestedAddressFamily, kIpv6Family).u32(Attribute::kLifetime, 0);
  EXPECT_EQ(code(delete_six, client()), 0);
  EXPECT_EQ(sent<RemoveAllocation>().at(0).legs, kLegIpv6);
  EXPECT_EQ(server_->stats().allocations, 1u);
  EXPECT_EQ(server_->stats().ports_free, free_before + 1);
  ClientRequest again(stun::kRefresh, 5);
  again.u32(Attribute::kRequestedAddressFamily, kIpv6Family);
  EXPECT_EQ(code(again, client()), 443);
  ClientRequest rest(stun::kRefresh, 6);
  EXPECT_EQ(code(rest, client()), 0);
  EXPECT_EQ(sent<RefreshAllocation>().at(0).legs, kLegIpv4);
  ASSERT_EQ(ended_.size(), 1u);
  EXPECT_FALSE(ended_[0].what.whole);
}

// T60
TEST_F(TurnTest, AnyOtherRequestWithoutAnAllocationIs437) {
  for (const uint16_t method : {stun::kRefresh, stun::kCreatePermission, stun::kChannelBind}) {
    ClientRequest r(method);
    r.peer("8.8.8.8:53").u32(Attribute::kChannelNumber, 0x4000u << 16);
    EXPECT_EQ(code(r, client()), 437) << method;
  }
}

// T61
TEST_F(TurnTest, AnotherUsersAllocationCannotBeUsed) {
  ASSERT_TRUE(allocate(client()));
  const Credential bob{"bob", "builder"};
  for (const uint16_t method : {stun::kRefresh, stun::kCreatePermission, stun::kChannelBind}) {
    ClientRequest r(method, 2);
    r.peer("8.8.8.8:53").u32(Attribute::kChannelNumber, 0x4000u << 16);
    EXPECT_EQ(code(r, client(), bob), 441) << method;
  }
  EXPECT_EQ(server_->stats().allocations, 1u);
}

// ---------------------------------------------------------------- CreatePermission

// T65, T66
TEST_F(TurnTest, APermissionIsForTheAddressAndLasts300Seconds) {
  ASSERT_TRUE(allocate(client()));
  ClientRequest r(stun::kCreatePermission, 2);
  r.peer("8.8.8.8:53");
  EXPECT_EQ(code(r, client()), 0);
  const auto p = sent<CreatePermission>();
  ASSERT_EQ(p.size(), 1u);
  EXPECT_EQ(p[0].lifetime_ms, 300'000u);
  EXPECT_EQ(p[0].peer_count, 1u);
  PermissionPeer peer;
  std::memcpy(static_cast<void*>(&peer), last_.at(0).payload.data(), sizeof peer);
  EXPECT_EQ(peer.ip, ip("8.8.8.8"));
  EXPECT_EQ(peer.own_address, 0);
}

// T67
TEST_F(TurnTest, NoPeerOrAMalformedOneIs400AndNothingIsInstalled) {
  ASSERT_TRUE(allocate(client()));
  ClientRequest none(stun::kCreatePermission, 2);
  EXPECT_EQ(code(none, client()), 400);
  ClientRequest malformed(stun::kCreatePermission, 3);
  malformed.peer("8.8.8.8:53").bytes(Attribute::kXorPeerAddress, {0, 1, 2, 3}).peer("1.1.1.1:1");
  EXPECT_EQ(code(malformed, client()), 400);
  EXPECT_TRUE(sent<CreatePermission>().empty());
}

// T67, T68, T69
TEST_F(TurnTest, OneBadPeerAmongManyRefusesThemAll) {
  ASSERT_TRUE(allocate(client()));
  ClientRequest denied(stun::kCreatePermission, 2);
  denied.peer("8.8.8.8:53").peer("127.0.0.1:22").peer("1.1.1.1:53");
  EXPECT_EQ(code(denied, client()), 403);
  EXPECT_TRUE(sent<CreatePermission>().empty());
  ClientRequest family(stun::kCreatePermission, 3);
  family.peer("8.8.8.8:53").peer("[2606:4700::1]:53");
  EXPECT_EQ(code(family, client()), 443);
  EXPECT_TRUE(sent<CreatePermission>().empty());
}

TEST_F(TurnTest, ManyPeersInOneRequestTravelInOneCommandUpToTheLimit) {
  ASSERT_TRUE(allocate(client()));
  ClientRequest r(stun::kCreatePermission, 2);
  for (size_t i = 0; i < kMaxPermissionPeers; ++i)
    r.peer(("8.8.4." + std::to_string(i) + ":53").c_str());
  EXPECT_EQ(code(r, client()), 0);
  EXPECT_EQ(sent<CreatePermission>().at(0).peer_count, kMaxPermissionPeers);
  ClientRequest more(stun::kCreatePermission, 3);
  for (size_t i = 0; i <= kMaxPermissionPeers; ++i)
    more.peer(("8.8.4." + std::to_string(i) + ":53").c_str());
  EXPECT_EQ(code(more, client()), 508);
}

// T68
TEST_F(TurnTest, APeerOfAFamilyWithoutRelayedAddressIs443) {
  ASSERT_TRUE(allocate(client()));
  ClientRequest r(stun::kCreatePermission, 2);
  r.peer("[2606:4700::1]:53");
  EXPECT_EQ(code(r, client()), 443);
}

// T69, T119, T120
TEST_F(TurnTest, ForbiddenPeersAre403InPermissionsAndChannels) {
  ClientRequest dual(stun::kAllocate);
  dual.udp().u32(Attribute::kAdditionalAddressFamily, kIpv6Family);
  ASSERT_TRUE(ask(dual, client()));
  for (const char* peer : {"127.0.0.1:80", "10.0.0.1:80", "169.254.169.254:80", "[::1]:80",
                           "[::ffff:127.0.0.1]:80", "[2002:7f00:1::]:80", "[64:ff9b::7f00:1]:80",
                           "224.0.0.1:80", "255.255.255.255:80", "0.0.0.0:80"}) {
    ClientRequest permission(stun::kCreatePermission, 2);
    permission.peer(peer);
    EXPECT_EQ(code(permission, client()), 403) << peer;
    ClientRequest channel(stun::kChannelBind, 3);
    channel.peer(peer).u32(Attribute::kChannelNumber, 0x4000u << 16);
    EXPECT_EQ(code(channel, client()), 403) << peer;
  }
}

TEST_F(TurnTest, AV4MappedPeerIs403WhateverTheOperatorAllows) {
  Config config = test_config();
  config.peers.default_deny = false;
  config.peers.allow = {{ip("::"), 0}, {ip("::ffff:0:0"), 96}};
  start(config);
  ClientRequest dual(stun::kAllocate);
  dual.udp().u32(Attribute::kAdditionalAddressFamily, kIpv6Family);
  ASSERT_TRUE(ask(dual, client()));
  ClientRequest permission(stun::kCreatePermission, 2);
  permission.peer("[::ffff:93.184.216.35]:80");
  EXPECT_EQ(code(permission, client()), 403);
  ClientRequest channel(stun::kChannelBind, 3);
  channel.peer("[::ffff:93.184.216.35]:80").u32(Attribute::kChannelNumber, 0x4000u << 16);
  EXPECT_EQ(code(channel, client()), 403);
}

// T70
TEST_F(TurnTest, AFullPermissionTableIs508SignedLikeTheAnswerItReplaces) {
  ASSERT_TRUE(allocate(client()));
  for (const bool sha256 : {false, true}) {
    Credential who;
    who.announce = sha256;
    who.algorithm = sha256 ? PasswordAlgorithm::kSha256 : PasswordAlgorithm::kMd5;
    ClientRequest r(stun::kCreatePermission, 2);
    r.peer("8.8.8.8:53");
    last_.clear();
    inject(sign(r, who, client()), client());
    const auto command = engine_->take();
    fail(command, ApplyError::kTableFull);
    const auto answer = collect();
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->error, 508);
    EXPECT_EQ(answer->message.has(AttributeSlot::kMessageIntegritySha256), sha256);
    EXPECT_TRUE(integrity_holds(answer->message, who.key()));
    EXPECT_EQ(std::vector<uint8_t>(answer->message.transaction_id(),
                                   answer->message.transaction_id() + 12),
              std::vector<uint8_t>(12, 2));
  }
}

// ---------------------------------------------------------------- ChannelBind

// T81, T88
TEST_F(TurnTest, AChannelLasts600SecondsItsPermission300AndARetransmissionHasTheSameResult) {
  ASSERT_TRUE(allocate(client()));
  ClientRequest r(stun::kChannelBind, 2);
  r.peer("8.8.8.8:53").u32(Attribute::kChannelNumber, 0x4ABCu << 16);
  const auto bytes = sign(r, {}, client());
  const auto first = exchange(bytes, client());
  ASSERT_TRUE(first && first->error == 0);
  const auto bind = sent<BindChannel>().at(0);
  EXPECT_EQ(bind.channel, 0x4ABC);
  EXPECT_EQ(bind.peer, at("8.8.8.8:53"));
  EXPECT_EQ(bind.lifetime_ms, 600'000u);
  EXPECT_EQ(bind.permission_lifetime_ms, 300'000u);
  const auto second = exchange(bytes, client());
  ASSERT_TRUE(second);
  EXPECT_EQ(second->bytes, first->bytes);
}

// T79
TEST_F(TurnTest, ChannelNumbersOutside4000To4FFFAre400) {
  ASSERT_TRUE(allocate(client()));
  for (const uint32_t number : {0x3FFFu, 0x5000u, 0x7FFFu, 0xFFFFu, 0u}) {
    ClientRequest r(stun::kChannelBind, 2);
    r.peer("8.8.8.8:53").u32(Attribute::kChannelNumber, number << 16);
    EXPECT_EQ(code(r, client()), 400) << number;
  }
  for (const uint32_t number : {0x4000u, 0x4FFFu}) {
    ClientRequest r(stun::kChannelBind, 2);
    r.peer("8.8.8.8:53").u32(Attribute::kChannelNumber, number << 16);
    EXPECT_EQ(code(r, client()), 0) << number;
  }
  ClientRequest no_number(stun::kChannelBind, 3);
  no_number.peer("8.8.8.8:53");
  EXPECT_EQ(code(no_number, client()), 400);
  ClientRequest no_peer(stun::kChannelBind, 4);
  no_peer.u32(Attribute::kChannelNumber, 0x4000u << 16);
  EXPECT_EQ(code(no_peer, client()), 400);
}

// T80, T68, T60
TEST_F(TurnTest, WhatTheCoreRefusesBecomesTheErrorItMeans) {
  ASSERT_TRUE(allocate(client()));
  const struct {
    ApplyError error;
    uint16_t code;
  } rows[] = {{ApplyError::kChannelConflict, 400},
              {ApplyError::kTableFull, 508},
              {ApplyError::kFamilyMismatch, 443},
              {ApplyError::kNoSuchAllocation, 437}};
  for (const auto& row : rows) {
    ClientRequest r(stun::kChannelBind, 2);
    r.peer("8.8.8.8:53").u32(Attribute::kChannelNumber, 0x4000u << 16);
    last_.clear();
    inject(sign(r, {}, client()), client());
    fail(engine_->take(), row.error);
    const auto answer = collect();
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->error, row.code);
    EXPECT_TRUE(integrity_holds(answer->message, Credential{}.key()));
  }
}

// turn.md 7.2
TEST_F(TurnTest, OurOwnRelayedAddressesAreReachableAtLivePortsOnly) {
  const auto mine = allocate(client());
  const auto other = allocate(client("93.184.216.40:1"), {"bob", "builder"});
  ASSERT_TRUE(mine && other);
  const std::string port = std::to_string(other->relayed().at(0).port);
  ClientRequest permission(stun::kCreatePermission, 2);
  permission.peer("198.51.100.1:1");
  EXPECT_EQ(code(permission, client()), 0) << "inside a denied range, but ours";
  PermissionPeer peer;
  std::memcpy(static_cast<void*>(&peer), last_.at(0).payload.data(), sizeof peer);
  EXPECT_EQ(peer.own_address, 1);

  ClientRequest live(stun::kChannelBind, 3);
  live.peer(("198.51.100.1:" + port).c_str()).u32(Attribute::kChannelNumber, 0x4000u << 16);
  EXPECT_EQ(code(live, client()), 0);
  EXPECT_EQ(sent<BindChannel>().at(0).own_address, 1);
  ClientRequest listener(stun::kChannelBind, 4);
  listener.peer("198.51.100.1:3478").u32(Attribute::kChannelNumber, 0x4001u << 16);
  EXPECT_EQ(code(listener, client()), 403);
  ClientRequest gone(stun::kRefresh, 5);
  gone.u32(Attribute::kLifetime, 0);
  ASSERT_EQ(code(gone, client("93.184.216.40:1"), {"bob", "builder"}), 0);
  ClientRequest dead(stun::kChannelBind, 6);
  dead.peer(("198.51.100.1:" + port).c_str()).u32(Attribute::kChannelNumber, 0x4002u << 16);
  EXPECT_EQ(code(dead, client()), 403);
}

TEST_F(TurnTest, TheAdvertisedSideOfA1To1NatIsAnOwnAddressTooAndIsWhatClientsAreTold) {
  Config config = test_config();
  config.listeners = {{at("10.0.0.5:3478"), 0}};
  config.relay_addresses = {{ip("10.0.0.5"), ip("93.184.216.50")}};
  start(config);
  const auto a = allocate(client());
  ASSERT_TRUE(a);
  EXPECT_EQ(a->relayed().at(0).ip, ip("93.184.216.50"));
  for (const char* address : {"10.0.0.5", "93.184.216.50"}) {
    const std::string peer = std::string(address) + ":" + std::to_string(a->relayed()[0].port);
    ClientRequest r(stun::kChannelBind, 2);
    r.peer(peer.c_str()).u32(Attribute::kChannelNumber, 0x4000u << 16);
    EXPECT_EQ(code(r, client()), 0) << peer;
    EXPECT_EQ(sent<BindChannel>().at(0).own_address, 1);
  }
}

// ---------------------------------------------------------------- what can go wrong underneath

TEST_F(TurnTest, ALostCommandLeavesNoState) {
  for (const bool pair : {false, true}) {
    engine_->set_ring_full(0, true);
    ClientRequest r(stun::kAllocate);
    r.udp();
    if (pair) r.bytes(Attribute::kEvenPort, {0x80});
    EXPECT_EQ(code(r, client()), -1) << "silence: the client retransmits";
    expect_empty();
    EXPECT_EQ(server_->stats().known_users, 0u);
  }
  EXPECT_EQ(server_->stats().command_ring_full, 2u);
  engine_->set_ring_full(0, false);
  EXPECT_EQ(allocate(client())->error, 0);
}

// A core names no client when the allocation is over: control knows it as long as its record lives.
TEST_F(TurnTest, ALateRequestIsAnsweredWhereItsClientIsOrNotAtAll) {
  ASSERT_TRUE(allocate(client()));
  ClientRequest r(stun::kRefresh, 2);
  inject(sign(r, {}, client()), client());
  const auto late = engine_->take();
  CommandFailed failed;
  failed.command = late.type();
  failed.error = ApplyError::kNoSuchAllocation;
  failed.cookie = late.head().cookie;
  failed.handle = late.as<RefreshAllocation>().handle;
  ASSERT_TRUE(engine_->inject(0, failed, late.payload));
  server_->poll(now_);
  ASSERT_EQ(engine_->waiting(), 1u);
  EXPECT_EQ(engine_->take().as<SendReply>().client, client());

  AllocationEnded ended;
  ended.handle = failed.handle;
  ASSERT_TRUE(engine_->inject(0, ended));
  ASSERT_TRUE(engine_->inject(0, failed, late.payload));
  server_->poll(now_);
  EXPECT_EQ(engine_->waiting(), 0u) << "an answer to nobody's address";
}

TEST_F(TurnTest, AnAllocationClosedWhileItsPortIsRefusedIsNotInstalledAgain) {
  ClientRequest r(stun::kAllocate);
  r.udp();
  inject(sign(r, {}, client()), client());
  const auto install = engine_->take();
  EXPECT_EQ(server_->close_if([](const AllocationInfo&) { return true; }), 1u);
  (void)engine_->take();  // the removal, which will find nothing
  fail(install, ApplyError::kPortInUse, kLegIpv4);
  last_.clear();
  const auto answer = collect();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->error, 508);
  EXPECT_TRUE(sent<InstallAllocation>().empty()) << "it could be neither used nor closed again";
  expect_empty();
}

TEST_F(TurnTest, AReservationSurvivesALostInstallation) {
  ClientRequest first(stun::kAllocate);
  first.udp().bytes(Attribute::kEvenPort, {0x80});
  const auto a = ask(first, client());
  ASSERT_TRUE(a);
  const auto value = a->message.value(AttributeSlot::kReservationToken);
  ClientRequest second(stun::kAllocate, 2);
  second.udp().bytes(Attribute::kReservationToken, {value.begin(), value.end()});
  const ClientTuple other = client("93.184.216.40:1");
  const auto bytes = sign(second, {}, other);
  engine_->set_ring_full(0, true);
  EXPECT_FALSE(exchange(bytes, other));
  engine_->set_ring_full(0, false);
  const auto b = exchange(bytes, other);
  ASSERT_TRUE(b);
  EXPECT_EQ(b->error, 0);
  EXPECT_EQ(b->relayed().at(0).port, a->relayed().at(0).port + 1);
}

TEST_F(TurnTest, AFullRingDuringRefreshOrDeletionChangesNothing) {
  ASSERT_TRUE(allocate(client()));
  engine_->set_ring_full(0, true);
  ClientRequest gone(stun::kRefresh, 2);
  gone.u32(Attribute::kLifetime, 0);
  const auto bytes = sign(gone, {}, client());
  EXPECT_FALSE(exchange(bytes, client()));
  engine_->set_ring_full(0, false);
  EXPECT_EQ(exchange(bytes, client())->error, 0);
  expect_empty();
}

TEST_F(TurnTest, APortTakenByAnotherProcessIsReplacedAndTheAnswerNamesTheNewOne) {
  Credential who;
  who.announce = true;
  who.algorithm = PasswordAlgorithm::kSha256;
  ClientRequest r(stun::kAllocate);
  r.udp().bytes(Attribute::kEvenPort, {0x80});
  inject(sign(r, who, client()), client());
  const auto first = engine_->take();
  fail(first, ApplyError::kPortInUse, kLegIpv4);
  last_.clear();
  const auto answer = collect();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->error, 0);
  const auto install = sent<InstallAllocation>().at(0);
  EXPECT_NE(install.ipv4.port, first.as<InstallAllocation>().ipv4.port);
  EXPECT_NE(install.handle, first.as<InstallAllocation>().handle) << "late commands hit nobody";
  EXPECT_EQ(answer->relayed().at(0).port, install.ipv4.port);
  EXPECT_TRUE(integrity_holds(answer->message, who.key()));
  EXPECT_EQ(server_->stats().port_retries, 1u);
  EXPECT_EQ(server_->stats().ports_free, server_->stats().ports_total - 2);
  EXPECT_EQ(server_->stats().reservations, 1u);
}

TEST_F(TurnTest, AfterAFewTakenPortsTheAnswerIs508AndNothingIsLeft) {
  ClientRequest r(stun::kAllocate);
  r.udp();
  inject(sign(r, {}, client()), client());
  int tries = 0;
  while (engine_->waiting() > 0) {
    const auto command = engine_->take();
    if (command.type() != CommandType::kInstallAllocation) {
      Response answer{command.payload, {}, 0};
      read(answer);
      EXPECT_EQ(answer.error, 508);
      break;
    }
    ASSERT_LE(++tries, kMaxPortTries);
    fail(command, ApplyError::kPortInUse, kLegIpv4);
  }
  EXPECT_EQ(tries, kMaxPortTries);
  expect_empty();
}

// T51
TEST_F(TurnTest, OnADualAllocationOnlyTheRefusedFamilyDrawsAgain) {
  ClientRequest r(stun::kAllocate);
  r.udp().u32(Attribute::kAdditionalAddressFamily, kIpv6Family);
  inject(sign(r, {}, client()), client());
  const auto first = engine_->take();
  fail(first, ApplyError::kPortInUse, kLegIpv6);
  const auto answer = collect();
  ASSERT_TRUE(answer && answer->error == 0);
  const auto before = first.as<InstallAllocation>();
  const auto after = sent<InstallAllocation>().at(0);
  EXPECT_EQ(after.ipv4.port, before.ipv4.port);
  EXPECT_NE(after.ipv6.port, before.ipv6.port);
}

TEST_F(TurnTest, AFullCoreTableIs508AndARetransmissionInBetweenIsNotAnsweredTwice) {
  ClientRequest r(stun::kAllocate);
  r.udp();
  const auto bytes = sign(r, {}, client());
  inject(bytes, client());
  inject(bytes, client());
  const auto install = engine_->take();
  const auto carrier = engine_->take();
  fail(install, ApplyError::kTableFull);
  fail(carrier, ApplyError::kNoSuchAllocation);
  ASSERT_EQ(engine_->waiting(), 1u);
  const auto answer = collect();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->error, 508);
  expect_empty();
}

TEST_F(TurnTest, ALateEventForAnEarlierGenerationTouchesNobody) {
  ASSERT_TRUE(allocate(client()));
  const auto old = sent<InstallAllocation>().at(0).handle;
  ClientRequest gone(stun::kRefresh, 2);
  gone.u32(Attribute::kLifetime, 0);
  ASSERT_EQ(code(gone, client()), 0);
  ASSERT_TRUE(allocate(client("93.184.216.40:9")));
  EXPECT_EQ(sent<InstallAllocation>().at(0).handle.index, old.index);
  AllocationEnded late;
  late.handle = old;
  ASSERT_TRUE(engine_->inject(0, late));
  server_->poll(now_);
  EXPECT_EQ(server_->stats().allocations, 1u);
}

TEST_F(TurnTest, TenThousandAllocationsAndDeletionsLeakNothing) {
  for (int i = 0; i < 10'000; ++i) {
    const auto a = allocate(client(), {}, static_cast<uint8_t>(i));
    ASSERT_TRUE(a && a->error == 0) << i;
    ClientRequest gone(stun::kRefresh, 2);
    gone.u32(Attribute::kLifetime, 0);
    ASSERT_EQ(code(gone, client()), 0) << i;
  }
  expect_empty();
  EXPECT_EQ(server_->stats().known_users, 0u);
  EXPECT_EQ(ended_.size(), 10'000u);
}

TEST_F(TurnTest, AnEventThatIsNoRequestIsCountedAndIgnored) {
  Request event;
  event.client = client();
  const std::vector<uint8_t> junk(40, 0xff);
  ASSERT_TRUE(engine_->inject(0, event, junk));
  event.client.listener = 60;
  ClientRequest r(stun::kAllocate);
  r.udp();
  const auto bytes = sign(r, {}, client());
  ASSERT_TRUE(engine_->inject(0, event, bytes));
  server_->poll(now_);
  EXPECT_EQ(server_->stats().malformed, 2u);
  EXPECT_EQ(engine_->waiting(), 0u);
}

// ---------------------------------------------------------------- the end of an allocation

TEST_F(TurnTest, OneRecordPerEndedAllocationSaysWhoWhereHowLongHowMuchAndWhy) {
  const auto a = allocate(client());
  ASSERT_TRUE(a);
  const auto handle = sent<InstallAllocation>().at(0).handle;
  now_.ms += 12'345;
  AllocationEnded event;
  event.handle = handle;
  event.reason = EndReason::kExpired;
  event.legs = kLegIpv4;
  event.counters = {10, 1000, 20, 2000};
  ASSERT_TRUE(engine_->inject(0, event));
  server_->poll(now_);
  ASSERT_EQ(ended_.size(), 1u);
  const Ended& e = ended_[0];
  EXPECT_EQ(e.user, "alice");
  EXPECT_EQ(e.realm, kTestRealm);
  EXPECT_EQ(e.what.info.client, client().client);
  EXPECT_EQ(e.what.info.listener, at("198.51.100.1:3478"));
  EXPECT_EQ(e.what.info.relayed_ipv4, a->relayed().at(0));
  EXPECT_FALSE(e.what.info.relayed_ipv6);
  EXPECT_EQ(e.what.ended_ms - e.what.info.created_ms, 12'345u);
  EXPECT_EQ(e.what.counters.bytes_to_peer, 1000u);
  EXPECT_EQ(e.what.counters.packets_to_client, 20u);
  EXPECT_EQ(e.what.reason, EndReason::kExpired);
  EXPECT_TRUE(e.what.whole);
  expect_empty();
}

// ---------------------------------------------------------------- more than one core

// DESIGN 4
TEST_F(TurnTest, AnAllocationLivesOnTheCoreThatPassedTheRequestAndSoDoesItsPort) {
  start(test_config(), 4);
  for (CoreId core = 0; core < 4; ++core) {
    const auto from = client(("93.184.216.1:" + std::to_string(100 + core)).c_str());
    const auto a = allocate(from, {}, 1, core);
    ASSERT_TRUE(a);
    EXPECT_EQ(last_.at(0).core, core);
    EXPECT_EQ(owner(a->relayed().at(0).port, 4), core);
    EXPECT_EQ(sent<InstallAllocation>().at(0).ingress_core, core);
  }
}

TEST_F(TurnTest, AReservationUsedOnAnotherCoreLivesOnThePortsOwnerAndGetsARedirect) {
  start(test_config(), 2);
  ClientRequest first(stun::kAllocate);
  first.udp().bytes(Attribute::kEvenPort, {0x80});
  const auto a = ask(first, client(), {}, 0);
  ASSERT_TRUE(a);
  const auto value = a->message.value(AttributeSlot::kReservationToken);
  ClientRequest second(stun::kAllocate, 2);
  second.udp().bytes(Attribute::kReservationToken, {value.begin(), value.end()});
  const auto other = client("93.184.216.40:1");
  const auto b = ask(second, other, {}, 1);
  ASSERT_TRUE(b && b->error == 0);
  const auto install = sent<InstallAllocation>().at(0);
  EXPECT_EQ(install.ingress_core, 1);
  EXPECT_EQ(install.port_already_open, 1);
  const auto redirect = sent<InstallRedirect>();
  ASSERT_EQ(redirect.size(), 1u);
  EXPECT_EQ(redirect[0].client, other);
  EXPECT_EQ(redirect[0].owner, 0);

  // Its packets are handed over, so its next request comes from the owner.
  ClientRequest gone(stun::kRefresh, 3);
  gone.u32(Attribute::kLifetime, 0);
  ASSERT_EQ(code(gone, other, {}, 0), 0);
  collect();
  ASSERT_EQ(sent<RemoveRedirect>().size(), 1u);
  EXPECT_EQ(sent<RemoveRedirect>()[0].client, other);
}

TEST_F(TurnTest, AClientWhosePacketsMoveToAnotherCoreGetsARedirectThere) {
  start(test_config(), 3);
  ASSERT_TRUE(allocate(client(), {}, 1, 0));
  ClientRequest r(stun::kCreatePermission, 2);
  r.peer("8.8.8.8:53");
  ASSERT_EQ(code(r, client(), {}, 2), 0);
  ASSERT_EQ(sent<InstallRedirect>().size(), 1u);
  EXPECT_EQ(last_.at(0).core, 2);
  EXPECT_EQ(last_.at(1).core, 0) << "the permission goes to the owner";
}

TEST_F(TurnTest, ACoreWithoutRoomAnswers508AlthoughOthersHaveRoom) {
  Config config = test_config();
  config.limits.max_allocations = 1000;
  config.relay_port_low = 50000;
  config.relay_port_high = 50003;
  start(config, 2);
  EXPECT_EQ(allocate(client("93.184.216.1:1"), {}, 1, 0)->error, 0);
  EXPECT_EQ(allocate(client("93.184.216.1:2"), {}, 1, 0)->error, 0);
  EXPECT_EQ(allocate(client("93.184.216.1:3"), {}, 1, 0)->error, 508);
  EXPECT_EQ(allocate(client("93.184.216.1:4"), {}, 1, 1)->error, 0);
}

// ---------------------------------------------------------------- bandwidth

TEST_F(TurnTest, OnOneCoreAUsersPolicerHasTheWholeRateAndIsSetBeforeTheAllocation) {
  Config config = test_config();
  config.realms[0].user_bandwidth = 1'000'000;
  start(config);
  ASSERT_TRUE(allocate(client("93.184.216.1:1")));
  ASSERT_EQ(last_.at(0).type(), CommandType::kSetPolicer);
  ASSERT_EQ(last_.at(1).type(), CommandType::kInstallAllocation);
  const auto policer = sent<SetPolicer>().at(0);
  EXPECT_EQ(policer.rate_bytes_per_second, 1'000'000u);
  EXPECT_NE(policer.policer, 0u);
  EXPECT_EQ(sent<InstallAllocation>().at(0).policer, policer.policer);
  ASSERT_TRUE(allocate(client("93.184.216.1:2")));
  EXPECT_TRUE(sent<SetPolicer>().empty()) << "one bucket for all of a user's allocations";
  EXPECT_EQ(sent<InstallAllocation>().at(0).policer, policer.policer);
  ASSERT_TRUE(allocate(client("93.184.216.1:3"), {"bob", "builder"}));
  EXPECT_NE(sent<InstallAllocation>().at(0).policer, policer.policer);
}

TEST_F(TurnTest, TheWholeRelaysBandwidthIsSharedAmongAllCoresFromTheStartAndMayBeReloaded) {
  const auto rates = [this](uint64_t& sum) {
    std::map<CoreId, uint64_t> out;
    last_.clear();
    static_cast<void>(collect());
    for (const auto& c : last_) {
      if (c.type() != CommandType::kSetPolicer) continue;
      EXPECT_EQ(c.as<SetPolicer>().policer, 0u);
      out[c.core] = c.as<SetPolicer>().rate_bytes_per_second;
    }
    sum = 0;
    for (const auto& [core, rate] : out)
      sum += rate;
    return out;
  };
  Config config = test_config();
  config.limits.total_bandwidth = 1'000'000;
  start(config, 2);
  uint64_t sum = 0;
  EXPECT_EQ(rates(sum).size(), 2u);
  EXPECT_LE(sum, 1'000'000u);
  EXPECT_GE(sum, 999'990u);

  engine_->enable_policer_bytes(1);
  engine_->policer_counter(1, 0).add(50'000);
  now_.ms += kRebalanceMs;
  server_->poll(now_);
  const auto busy = rates(sum);
  EXPECT_LE(sum, 1'000'000u);
  EXPECT_GT(busy.at(1), 9 * busy.at(0)) << "shares follow what each core was asked to carry";

  config.limits.total_bandwidth = 0;
  EXPECT_FALSE(server_->reload(config, now_));
  server_->poll(now_);
  EXPECT_EQ(rates(sum).size(), 2u);
  EXPECT_EQ(sum, 0u) << "unlimited again";
}

TEST_F(TurnTest, AmongCoresTheSharesFollowTheTrafficAndNeverSumToMoreThanTheRate) {
  Config config = test_config();
  config.realms[0].user_bandwidth = 1'000'000;
  start(config, 2);
  engine_->enable_policer_bytes(16);
  std::map<CoreId, uint64_t> rate;
  const auto follow = [&] {
    for (const auto& c : last_) {
      if (c.type() != CommandType::kSetPolicer) continue;
      rate[c.core] = c.as<SetPolicer>().rate_bytes_per_second;
      EXPECT_LE(rate[0] + rate[1], 1'000'000u);
    }
  };
  ASSERT_TRUE(allocate(client("93.184.216.1:1"), {}, 1, 0));
  follow();
  const uint32_t policer = sent<InstallAllocation>().at(0).policer;
  ASSERT_TRUE(allocate(client("93.184.216.1:2"), {}, 1, 1));
  follow();
  EXPECT_EQ(rate[0], 500'000u);
  EXPECT_EQ(rate[1], 500'000u);
  engine_->policer_counter(0, policer).add(90'000);
  engine_->policer_counter(1, policer).add(10'000);
  now_.ms += kRebalanceMs;
  last_.clear();
  server_->poll(now_);
  collect();
  follow();
  EXPECT_NEAR(static_cast<double>(rate[0]), 860'000,
              2);  // a tenth of an equal share each, the rest 9:1
  EXPECT_NEAR(static_cast<double>(rate[1]), 140'000, 2);
}

// ---------------------------------------------------------------- operators

TEST_F(TurnTest, WhileDrainingNewAllocatesAre508AndEverythingElseGoesOn) {
  ASSERT_TRUE(allocate(client()));
  server_->set_draining(true);
  EXPECT_EQ(allocate(client("93.184.216.1:1"))->error, 508);
  EXPECT_EQ(allocate(client())->error, 0) << "a retransmission is no new Allocate";
  ClientRequest refresh(stun::kRefresh, 2);
  EXPECT_EQ(code(refresh, client()), 0);
  server_->set_draining(false);
  EXPECT_EQ(allocate(client("93.184.216.1:1"))->error, 0);
}

TEST_F(TurnTest, AnOperatorClosesOneOrManyAndAFullRingOnlyDelaysIt) {
  for (int i = 0; i < 4; ++i)
    ASSERT_TRUE(allocate(client(("93.184.216.1:" + std::to_string(1 + i)).c_str())));
  std::vector<AllocationId> ids;
  server_->each_allocation(0, [&](const AllocationInfo& info) {
    ids.push_back(info.id);
    return true;
  });
  ASSERT_EQ(ids.size(), 4u);
  EXPECT_TRUE(server_->close(ids[0]));
  collect();
  server_->poll(now_);
  EXPECT_FALSE(server_->close(ids[0])) << "it is gone";
  EXPECT_EQ(server_->stats().allocations, 3u);
  engine_->set_ring_full(0, true);
  EXPECT_EQ(server_->close_if([](const AllocationInfo& i) { return i.user == "alice"; }), 3u);
  engine_->set_ring_full(0, false);
  server_->poll(now_);
  collect();
  server_->poll(now_);
  expect_empty();
  ASSERT_EQ(ended_.size(), 4u);
  EXPECT_EQ(ended_[3].what.reason, EndReason::kClosedByOperator);
}

TEST_F(TurnTest, AReportIsAskedOfTheCoreAndAnsweredOrTimesOut) {
  ASSERT_TRUE(allocate(client()));
  AllocationId id;
  server_->each_allocation(0, [&](const AllocationInfo& info) {
    id = info.id;
    return true;
  });
  std::optional<AllocationReport> got;
  int calls = 0;
  const auto answer = [&](const std::optional<AllocationReport>& r) {
    got = r;
    ++calls;
  };
  ASSERT_TRUE(server_->query(id, answer));
  const auto command = engine_->take().as<QueryAllocation>();
  AllocationReport report;
  report.cookie = command.cookie;
  report.counters.bytes_to_peer = 77;
  ASSERT_TRUE(engine_->inject(0, report));
  server_->poll(now_);
  ASSERT_EQ(calls, 1);
  ASSERT_TRUE(got);
  EXPECT_EQ(got->counters.bytes_to_peer, 77u);

  ASSERT_TRUE(server_->query(id, answer));
  now_.ms += kQuestionTimeoutMs;
  server_->poll(now_);
  EXPECT_EQ(calls, 2);
  EXPECT_FALSE(got);
  EXPECT_FALSE(server_->query({0, {63, 99}}, answer));
}

TEST_F(TurnTest, ExplainIsAskedOfTheCoreThatWouldSeeTheDatagram) {
  start(test_config(), 4);
  const auto a = allocate(client(), {}, 1, 2);
  ASSERT_TRUE(a);
  ExplainQuery query;
  query.from = client().client;
  query.to = at("198.51.100.1:3478");
  query.channel = 0x4001;
  const auto ignore = [](const std::optional<ExplainReport>&) {};
  ASSERT_TRUE(server_->explain(query, ignore));
  auto command = engine_->take();
  EXPECT_EQ(command.core, 2);
  EXPECT_EQ(command.as<Explain>().channel, 0x4001);
  EXPECT_FALSE(command.as<Explain>().relay.present());
  query.from = at("8.8.8.8:53");
  query.to = a->relayed().at(0);
  ASSERT_TRUE(server_->explain(query, ignore));
  command = engine_->take();
  EXPECT_EQ(command.core, 2);
  EXPECT_EQ(command.as<Explain>().relay.port, a->relayed()[0].port);
  query.to = at("9.9.9.9:1");
  EXPECT_FALSE(server_->explain(query, ignore));
}

TEST_F(TurnTest, AReloadAppliesUsersAndPoliciesAndLeavesAllocationsAlone) {
  ASSERT_TRUE(allocate(client()));
  Config config = test_config();
  config.realms[0].users = {{"alice", "looking-glass"}, {"carol", "noel"}};
  config.peers.deny = {{ip("8.8.8.0"), 24}};
  ASSERT_FALSE(server_->reload(config, now_));
  EXPECT_EQ(server_->stats().allocations, 1u);
  ClientRequest old(stun::kRefresh, 2);
  EXPECT_EQ(code(old, client()), 401) << "the old password";
  Credential alice{"alice", "looking-glass"};
  ClientRequest refresh(stun::kRefresh, 3);
  EXPECT_EQ(code(refresh, client(), alice), 0);
  ClientRequest denied(stun::kCreatePermission, 4);
  denied.peer("8.8.8.8:53");
  EXPECT_EQ(code(denied, client(), alice), 403);
  EXPECT_EQ(allocate(client("93.184.216.1:1"), {"bob", "builder"})->error, 401);
  EXPECT_EQ(allocate(client("93.184.216.1:1"), {"carol", "noel"})->error, 0);
}

// The operator's answer to one user who takes everything: a limit that holds at once.
TEST_F(TurnTest, ALimitThatAReloadBringsHoldsForAllocationsThatAreThere) {
  const auto first = allocate(client("93.184.216.1:1"));
  ASSERT_TRUE(first);
  const AllocationHandle handle = sent<InstallAllocation>().at(0).handle;
  EXPECT_EQ(sent<InstallAllocation>().at(0).policer, 0u);
  Config config = test_config();
  config.realms[0].user_bandwidth = 1'000'000;
  ASSERT_FALSE(server_->reload(config, now_));
  last_.clear();
  static_cast<void>(collect());
  const auto policers = sent<SetPolicer>();
  ASSERT_EQ(policers.size(), 1u);
  EXPECT_EQ(policers[0].rate_bytes_per_second, 1'000'000u);
  const auto joins = sent<JoinPolicer>();
  ASSERT_EQ(joins.size(), 1u);
  EXPECT_EQ(joins[0].handle, handle);
  EXPECT_EQ(joins[0].policer, policers[0].policer);
  ASSERT_TRUE(allocate(client("93.184.216.1:2")));
  EXPECT_EQ(sent<InstallAllocation>().at(0).policer, policers[0].policer) << "the same bucket";
  ASSERT_FALSE(server_->reload(config, now_));
  last_.clear();
  static_cast<void>(collect());
  EXPECT_TRUE(sent<JoinPolicer>().empty()) << "who has joined does not join again";
}

TEST_F(TurnTest, AReloadedLimitThatFindsTheRingFullIsSentAgain) {
  ASSERT_TRUE(allocate(client("93.184.216.1:1")));
  ASSERT_TRUE(allocate(client("93.184.216.1:2")));
  ASSERT_TRUE(allocate(client("93.184.216.1:3"), {"bob", "builder"}));
  Config config = test_config();
  config.realms[0].user_bandwidth = 1'000'000;
  engine_->refuse_type(CommandType::kJoinPolicer, true);
  ASSERT_FALSE(server_->reload(config, now_));
  server_->poll(now_);
  last_.clear();
  static_cast<void>(collect());
  EXPECT_TRUE(sent<JoinPolicer>().empty());
  EXPECT_LE(server_->next_due_ms(), now_.ms + 1);
  // One goes before it is joined: nothing waits for it.
  ClientRequest goodbye(stun::kRefresh, 2);
  goodbye.u32(stun::Attribute::kLifetime, 0);
  EXPECT_EQ(code(goodbye, client("93.184.216.1:2")), 0);
  engine_->refuse_type(CommandType::kJoinPolicer, false);
  ++now_.ms;
  server_->poll(now_);
  last_.clear();
  static_cast<void>(collect());
  EXPECT_EQ(sent<JoinPolicer>().size(), 2u);
  EXPECT_GT(server_->next_due_ms(), now_.ms + 1);
}

TEST_F(TurnTest, AReloadThatNeedsARestartIsRefusedWhole) {
  Config config = test_config();
  config.realms[0].users.clear();
  config.relay_port_high = 60000;
  const auto refused = server_->reload(config, now_);
  ASSERT_TRUE(refused);
  EXPECT_NE(refused->find("port range"), std::string::npos);
  EXPECT_EQ(allocate(client())->error, 0) << "the users are still there";
}

TEST_F(TurnTest, StoredAccountsServeBesideConfiguredOnes) {
  StoredAccount dora;
  ASSERT_TRUE(make_account("dora", kTestRealm, "explorer", dora));
  EXPECT_EQ(allocate(client("93.184.216.1:1"), {"dora", "explorer"})->error, 401);
  server_->set_accounts(0, std::make_shared<const StoredAccounts>(std::vector{dora}));
  EXPECT_EQ(allocate(client("93.184.216.1:1"), {"dora", "explorer"})->error, 0);
  EXPECT_EQ(allocate(client("93.184.216.1:2"))->error, 0);
}

TEST_F(TurnTest, TheSnapshotCarriesAddressesRealmsAndAShareOfTheReplyBudget) {
  Config config = test_config();
  config.listeners.push_back({at("93.184.216.50:3479"), 0});
  config.reply_budget.total = 4001;
  start(config, 4);
  const Snapshot& s = engine_->snapshot();
  ASSERT_EQ(s.addresses.size(), 3u);
  EXPECT_TRUE(s.addresses[0].relays && s.addresses[1].relays);
  EXPECT_FALSE(s.addresses[2].relays);
  ASSERT_EQ(s.listeners.size(), 3u);
  EXPECT_EQ(s.listeners[2].address, 2);
  EXPECT_EQ(s.listeners[2].port, 3479);
  EXPECT_EQ(s.reply_budget.total_bytes_per_second, 1000u);
  EXPECT_EQ(s.cores, 4);
  EXPECT_EQ(s.listeners[0].realm_attribute.size() % 4, 0u);
  const uint64_t version = s.version;
  const uint32_t seconds = s.nonce_keys.now_seconds;
  now_.ms += 3000;
  server_->poll(now_);
  EXPECT_GT(engine_->snapshot().version, version);
  EXPECT_EQ(engine_->snapshot().nonce_keys.now_seconds, seconds + 3);
}

TEST_F(TurnTest, TheNextTimedWorkIsNeverLaterThanTheNextPublication) {
  EXPECT_LE(server_->next_due_ms(), now_.ms + kPublishMs);
  server_->poll(now_);
  EXPECT_GT(server_->next_due_ms(), now_.ms);
}

TEST_F(TurnTest, AConfigurationThatCannotBeServedIsRefusedWithASentence) {
  Config config = test_config();
  config.relay_addresses.clear();
  EXPECT_THROW(start(config), std::runtime_error);
  config = test_config();
  config.relay_port_low = config.relay_port_high = 50000;
  EXPECT_THROW(start(config, 2), std::runtime_error);
}

}  // namespace
}  // namespace culvert
