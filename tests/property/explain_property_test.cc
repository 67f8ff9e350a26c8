// explain() against the path itself: on random tables, at random times, for random datagrams, the
// outcome it foretells is the one that process() counts.
#include <gtest/gtest.h>

#include <random>

#include "dataplane/core/explain.h"
#include "dataplane/steer/owner.h"
#include "tests/support/core_fixture.h"

namespace culvert {
namespace {

using test::at;
using test::Bytes;

constexpr uint16_t kCores = 2;
constexpr int kWorlds = 200;
constexpr int kQuestions = 200;

class ExplainWorld {
 public:
  explicit ExplainWorld(uint32_t seed)
      : random_(seed), core_(test::TestCore::small_limits(), 0, kCores) {
    core_.state->handoff[1] = &ring_;
    for (uint16_t port = 50000; own_ports_.size() < 12; ++port)
      if (owner(port, kCores) == 0) own_ports_.push_back(port);
    for (uint32_t i = 0; i < clients_.size(); ++i) {
      if (draw() % 4 == 0) continue;
      const uint32_t families = 1 + draw() % 3;
      const uint32_t lifetime = 1000 + draw() % 900'000;
      const uint16_t v4 = (families & 1) != 0 ? own_ports_[2 * i] : uint16_t{0};
      const uint16_t v6 = (families & 2) != 0 ? own_ports_[2 * i + 1] : uint16_t{0};
      if (core_.allocate(i, clients_[i], v4, v6, lifetime) == kNoSlot) continue;
      for (uint32_t n = draw() % 6; n > 0; --n) {
        const TransportAddress peer = a_peer();
        const Ticks when = draw() % 100'000;
        const bool own = is_own(peer.ip);
        if (draw() % 2 == 0)
          (void)core_.permit(i, peer.ip.to_string(), when, own);
        else if (peer.port != 0)
          (void)core_.bind(i, a_channel(), peer.to_string(), when, own);
      }
    }
  }

  void ask() {
    const Ticks now = draw() % 1'000'000;
    Explain question;
    Bytes payload = test::bytes_of("twelve bytes");
    RxDatagram rx;
    switch (draw() % 3) {
      case 0: {  // ChannelData
        question.from = clients_[draw() % clients_.size()];
        question.channel = a_channel();
        payload = test::channel_data(question.channel, payload);
        rx = test::TestCore::from_client(question.from, payload);
        break;
      }
      case 1: {  // a Send indication
        question.from = clients_[draw() % clients_.size()];
        question.peer = a_peer();
        payload = test::send_indication(question.peer, payload);
        rx = test::TestCore::from_client(question.from, payload);
        break;
      }
      default: {  // from a peer; control asks the port's owner
        do
          question.from = a_peer();
        while (question.from.ip.is_v4_mapped_v6() || question.from.port == 0);
        const uint16_t port = own_ports_[draw() % own_ports_.size()];
        rx = test::TestCore::from_peer(question.from, port, payload);
        question.relay = rx.relay;
      }
    }
    question.listener = rx.listener;
    const ExplainReport report = explain(*core_.state, core_.snapshot, question, now);
    const auto told = static_cast<Outcome>(report.outcome);
    const uint64_t before = core_.outcome(told);
    (void)core_.run(rx, now);
    while (ring_.front() != nullptr)
      (void)ring_.read();
    ring_.release();
    ++seen_[report.outcome];
    EXPECT_EQ(core_.outcome(told), before + 1)
        << "foretold " << info(told).name << " for " << question.from.to_string() << " channel "
        << question.channel << " peer " << question.peer.to_string() << " at " << now;
  }

  [[nodiscard]] const std::array<uint64_t, 256>& seen() const { return seen_; }

 private:
  [[nodiscard]] bool is_own(const IpAddress& ip) const {
    return ip == test::ip("203.0.113.9") || ip == test::ip("198.51.100.1") ||
           ip == test::ip("2001:db8::1");
  }
  TransportAddress a_peer() {
    static const char* const kHosts[] = {"192.0.2.1:9", "192.0.2.1:10", "192.0.2.2:9",
                                         "[2001:db8:2::1]:9", "[2001:db8:2::2]:9"};
    if (draw() % 8 == 0) {
      TransportAddress own = at(draw() % 2 == 0 ? "203.0.113.9:3478" : "[2001:db8::1]:3478");
      if (draw() % 2 == 0) own.port = static_cast<uint16_t>(50000 + draw() % 40);
      return own;
    }
    if (draw() % 16 == 0) return at("[::ffff:192.0.2.1]:9");
    return at(kHosts[draw() % std::size(kHosts)]);
  }
  uint16_t a_channel() { return static_cast<uint16_t>(0x4000 + draw() % 3); }

  uint32_t draw() { return static_cast<uint32_t>(random_()); }

  std::mt19937 random_;
  std::vector<RingSlot> ring_memory_ = std::vector<RingSlot>(1024);
  SpscRing ring_{ring_memory_};
  test::TestCore core_;
  std::vector<TransportAddress> clients_{at("192.0.2.50:4000"),      at("192.0.2.50:4001"),
                                         at("[2001:db8:5::1]:4000"), at("[2001:db8:5::1]:4001"),
                                         at("192.0.2.51:4000"),      at("192.0.2.52:4000")};
  std::vector<uint16_t> own_ports_;
  std::array<uint64_t, 256> seen_{};
};

TEST(Explain, ForetellsWhatThePathDoes) {
  std::array<uint64_t, 256> seen{};
  for (uint32_t seed = 1; seed <= kWorlds && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    ExplainWorld world(seed);
    for (int i = 0; i < kQuestions; ++i)
      world.ask();
    for (size_t i = 0; i < seen.size(); ++i)
      seen[i] += world.seen()[i];
  }
  for (const Outcome o :
       {Outcome::k_relayed_channel_to_peer, Outcome::k_relayed_send_to_peer,
        Outcome::k_relayed_peer_to_channel, Outcome::k_relayed_peer_to_data, Outcome::k_hairpinned,
        Outcome::k_hairpin_cross, Outcome::k_own_port_not_relayed, Outcome::k_no_allocation,
        Outcome::k_no_channel, Outcome::k_no_permission, Outcome::k_expired_allocation,
        Outcome::k_family_mismatch, Outcome::k_no_relayed_port}) {
    EXPECT_GT(seen[static_cast<size_t>(o)], 0u) << info(o).name << " was never reached";
  }
}

}  // namespace
}  // namespace culvert
