// The edges of control that the mutation check (tests/mutation) found unwatched: when a place in a
// quota comes back, whose traffic decides a share of bandwidth, on whose allocation an expired name
// may ride.
#include "control/turn_server.h"
#include "crypto/credentials.h"
#include "tests/unit/turn_fixture.h"

namespace culvert {
namespace {

using stun::Attribute;
using stun::AttributeSlot;

TEST_F(TurnTest, AnExpiredReservationGivesItsPlaceInTheQuotaBackWhileItsMakerGoesOn) {
  Config config = test_config();
  config.realms[0].user_quota = 2;
  start(config);
  ClientRequest pair(stun::kAllocate);
  pair.udp().bytes(Attribute::kEvenPort, {0x80});
  ASSERT_EQ(code(pair, client("93.184.216.1:1")), 0);
  ASSERT_EQ(allocate(client("93.184.216.2:1"))->error, 486);
  now_.ms += 33'000;
  server_->poll(now_);
  collect();
  EXPECT_EQ(allocate(client("93.184.216.2:1"), {}, 2)->error, 0);
  EXPECT_EQ(allocate(client("93.184.216.3:1"), {}, 3)->error, 486) << "and no more than that";
}

TEST_F(TurnTest, SharesFollowTheLastTenthOfASecondAndNotWhatACoreEverCarried) {
  Config config = test_config();
  config.realms[0].user_bandwidth = 1'000'000;
  start(config, 2);
  engine_->enable_policer_bytes(16);
  std::map<CoreId, uint64_t> rate;
  const auto look = [&] {
    for (const auto& c : last_)
      if (c.type() == CommandType::kSetPolicer)
        rate[c.core] = c.as<SetPolicer>().rate_bytes_per_second;
  };
  ASSERT_TRUE(allocate(client("93.184.216.1:1"), {}, 1, 0));
  look();
  const uint32_t policer = sent<InstallAllocation>().at(0).policer;
  ASSERT_TRUE(allocate(client("93.184.216.1:2"), {}, 1, 1));
  look();
  // Core 0 carries everything, then core 1 does.
  for (const CoreId busy : {CoreId{0}, CoreId{1}}) {
    const auto idle = static_cast<CoreId>(1 - busy);
    engine_->policer_counter(busy, policer).add(100'000);
    now_.ms += kRebalanceMs;
    last_.clear();
    server_->poll(now_);
    collect();
    look();
    EXPECT_GT(rate[busy], 900'000u) << busy;
    EXPECT_LT(rate[idle], 100'000u) << busy;
  }
}

TEST_F(TurnTest, AnExpiredNameIsNotGoodOnSomebodyElsesAllocation) {
  Config config = test_config();
  config.realms[0].secrets = {"s3cret"};
  start(config);
  const auto timed = [&](uint64_t expires, const char* who) {
    Credential out;
    out.name = std::to_string(expires) + ":" + who;
    out.password = crypto::rest_password("s3cret", out.name, false);
    return out;
  };
  ASSERT_EQ(allocate(client(), timed(now_.unix_seconds + 60, "zoe"))->error, 0);
  ClientRequest refresh(stun::kRefresh, 2);
  EXPECT_EQ(code(refresh, client(), timed(now_.unix_seconds - 60, "eve")), 401);
  ClientRequest fresh(stun::kRefresh, 3);
  EXPECT_EQ(code(fresh, client(), timed(now_.unix_seconds + 60, "eve")), 441);
}

TEST_F(TurnTest, AForbiddenPeerRefusesTheRequestWhereverItStands) {
  ASSERT_TRUE(allocate(client()));
  const char* orders[3][3] = {{"127.0.0.1:22", "8.8.8.8:53", "1.1.1.1:53"},
                              {"8.8.8.8:53", "127.0.0.1:22", "1.1.1.1:53"},
                              {"8.8.8.8:53", "1.1.1.1:53", "127.0.0.1:22"}};
  uint8_t serial = 2;
  for (const auto& peers : orders) {
    ClientRequest r(stun::kCreatePermission, serial++);
    for (const char* peer : peers)
      r.peer(peer);
    EXPECT_EQ(code(r, client()), 403);
    EXPECT_TRUE(sent<CreatePermission>().empty());
  }
}

}  // namespace
}  // namespace culvert
