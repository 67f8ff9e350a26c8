// A fast core's loop under pressure: what control must hear is never lost, whatever fills the
// rings.
#include "dataplane/core/worker.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "dataplane/api/nonce.h"
#include "dataplane/core/ring_engine.h"
#include "dataplane/io/sim/sim_driver.h"
#include "dataplane/wire/stun.h"

namespace culvert {
namespace {

TransportAddress at(const std::string& text) {
  return TransportAddress::parse(text).value();
}

std::unique_ptr<Snapshot> make_snapshot() {
  auto out = std::make_unique<Snapshot>();
  out->version = 1;
  out->addresses = {{at("192.0.2.1:1").ip, at("192.0.2.1:1").ip, true}};
  out->listeners.resize(1);
  out->listeners[0].port = 3478;
  out->listeners[0].realm_attribute = {0, 0x14, 0, 4, 't', 'e', 's', 't'};
  out->relay_port_low = 50000;
  out->relay_port_high = 50099;
  out->nonce_keys = {{{1, 2}, {3, 4}}, 0, 5000};
  out->nonce_lifetime_seconds = 600;
  out->reply_budget = {1'000'000, 10'000'000, 100};
  return out;
}

CoreLimits limits() {
  CoreLimits out;
  out.allocations = 64;
  out.permissions = 256;
  out.narrow_channels = 256;
  out.relay_port_low = 50000;
  out.relay_port_high = 50099;
  return out;
}

class WorkerTest : public ::testing::Test {
 protected:
  static RingEngine::Options options() {
    RingEngine::Options out;
    out.event_slots = SpscRing::kMinSlots;
    return out;
  }

  // A request with integrity, as a stranger or a client would send it.
  std::vector<uint8_t> signed_request(const TransportAddress& from, uint32_t nonce_age_seconds) {
    NonceKeys then = engine_.snapshot().nonce_keys;
    then.now_seconds -= nonce_age_seconds;
    const Nonce nonce = make_nonce(then, 0, 0, from);
    return signed_request({nonce.data(), nonce.size()});
  }
  static std::vector<uint8_t> signed_request(std::string_view nonce) {
    std::array<uint8_t, 512> buffer;
    const stun::TransactionId id{};
    stun::Builder builder(buffer, stun::Class::kRequest, stun::kRefresh, id.data());
    builder.add(stun::Attribute::kNonce, nonce);
    builder.add(stun::Attribute::kMessageIntegrity, std::vector<uint8_t>(20));
    return {builder.bytes().begin(), builder.bytes().end()};
  }
  void arrive(const TransportAddress& from, const std::vector<uint8_t>& bytes) {
    sim::Datagram d;
    d.from = from;
    d.to = at("192.0.2.1:3478");
    d.payload = bytes;
    network_.send(d);
    while (network_.step()) {
    }
  }
  uint32_t flood(uint32_t datagrams) {
    const TransportAddress from = at("198.51.100.7:4000");
    for (uint32_t i = 0; i < datagrams; ++i) {
      arrive(from, signed_request(from, 0));
      (void)worker_.run_once();
    }
    return static_cast<uint32_t>(outcome(Outcome::k_control_busy));
  }
  bool install(uint32_t index, uint16_t port, uint32_t lifetime_ms) {
    InstallAllocation command;
    command.handle = {index, 1};
    command.cookie = 1000 + index;
    command.client.client = at("198.51.100.9:" + std::to_string(5000 + index));
    command.ipv4 = {0, port};
    command.lifetime_ms = lifetime_ms;
    const std::vector<uint8_t> answer(200, 1);
    return engine_.send(0, command, answer);
  }
  // Takes all events that wait and returns how many were of that type.
  uint32_t take(EventType wanted) {
    uint32_t count = 0;
    while (const RingSlot* slot = engine_.front_event(0)) {
      count += MessageView(slot).type() == static_cast<uint16_t>(wanted) ? 1 : 0;
      engine_.pop_event(0);
    }
    return count;
  }
  uint64_t outcome(Outcome o) const {
    return engine_.stats(0).outcomes[static_cast<size_t>(o)].get();
  }

  sim::Network network_{1, {}};
  RingEngine engine_{options(), make_snapshot()};
  sim::Card card_{network_, engine_.snapshot(), {}};
  SimDriver driver_{card_, 0};
  Worker<SimDriver> worker_{driver_,  engine_.board(), 0,
                            limits(), CoreSeeds{},     engine_.mutable_stats(0)};
};

TEST_F(WorkerTest, EveryFailedInstallationIsReportedHoweverFullTheRingToControlIs) {
  constexpr uint32_t kInstalls = 60;  // 6 slots each: more than the whole ring
  for (uint32_t i = 0; i < kInstalls; ++i) {
    card_.occupy({0, static_cast<uint16_t>(50000 + i)});
    ASSERT_TRUE(install(i, static_cast<uint16_t>(50000 + i), 600'000));
  }
  uint32_t reported = 0;
  for (int turn = 0; turn < 20; ++turn) {
    for (int i = 0; i < 4; ++i)
      (void)worker_.run_once();  // control is slower than the core
    reported += take(EventType::kCommandFailed);
  }
  EXPECT_EQ(reported, kInstalls);
  EXPECT_EQ(engine_.stats(0).events_dropped.get(), 0u);
}

TEST_F(WorkerTest, AFloodOfRequestsLeavesRoomForTheEndsOfAllocations) {
  ASSERT_TRUE(install(1, 50001, 20));
  (void)worker_.run_once();
  ASSERT_EQ(engine_.stats(0).allocations.get(), 1u);
  ASSERT_GT(flood(300), 0u) << "the flood did not fill the ring";
  network_.advance_to(network_.now_us() + 200'000);
  for (int i = 0; i < 20; ++i)
    (void)worker_.run_once();
  EXPECT_EQ(worker_.core().flows.live_allocations, 0u) << "expired, but its end finds no room";
  EXPECT_EQ(take(EventType::kAllocationEnded), 1u);
}

TEST_F(WorkerTest, ClientsWithAnOldNonceAreHeardWhileStrangersUseUpTheBudgetOfBadNonces) {
  const TransportAddress stranger = at("198.51.100.66:1");
  for (int i = 0; i < 300; ++i) {
    arrive(stranger, signed_request("not a nonce of ours"));
    (void)worker_.run_once();
    (void)take(EventType::kRequest);
  }
  ASSERT_GT(outcome(Outcome::k_bad_nonce_budget), 0u);
  const TransportAddress client = at("198.51.100.9:5001");
  arrive(client, signed_request(client, 700));  // valid once, for this client, and too old now
  (void)worker_.run_once();
  EXPECT_EQ(take(EventType::kRequest), 1u) << "it would never get its 438 and a new nonce";
}

TEST_F(WorkerTest, TheWholeRelaysBandwidthLimitsUsersWithoutOneOfTheirOwn) {
  SetPolicer command;
  command.rate_bytes_per_second = 1000;
  command.burst_bytes = 1500;
  ASSERT_TRUE(engine_.send(0, command));
  (void)worker_.run_once();
  FlowState& flows = worker_.core().flows;
  EXPECT_TRUE(flows.admit(0, 1000, driver_.now()));
  EXPECT_FALSE(flows.admit(0, 1000, driver_.now()));
  EXPECT_TRUE(flows.admit(0, 1000, driver_.now() + 600));
  command.rate_bytes_per_second = 0;
  ASSERT_TRUE(engine_.send(0, command));
  (void)worker_.run_once();
  for (int i = 0; i < 10; ++i)
    EXPECT_TRUE(flows.admit(0, 1000, driver_.now() + 600));
}

TEST_F(WorkerTest, AJoinOfAnAllocationThatIsGoneChangesNothing) {
  JoinPolicer command;
  command.handle = {0, 7};
  command.policer = 1;
  ASSERT_TRUE(engine_.send(0, command));
  (void)worker_.run_once();
  EXPECT_EQ(worker_.core().flows.allocations[0].policer, 0u);
}

TEST_F(WorkerTest, ADatagramThatCameOverARingIsCountedAmongTheBytesReceivedOnItsFirstCoreOnly) {
  const std::vector<uint8_t> bytes = signed_request("x");
  arrive(at("198.51.100.66:1"), bytes);
  (void)worker_.run_once();
  EXPECT_EQ(engine_.stats(0).received_bytes.get(), bytes.size());
  RxDatagram rx;
  rx.payload = bytes.data();
  rx.length = static_cast<uint16_t>(bytes.size());
  rx.source = at("198.51.100.66:1");
  rx.handed_over = 1;
  auto out = std::make_unique<TxBurst>();
  process(worker_.core(), engine_.snapshot(), 0, {&rx, 1}, *out);
  EXPECT_EQ(engine_.stats(0).received_bytes.get(), bytes.size());
}

}  // namespace
}  // namespace culvert
