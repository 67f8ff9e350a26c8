// The relay under test with its judges: real cores (Worker) and control (TurnServer) with the rings
// between them, on a virtual network and clock, and beside them the Reference, which is shown what
// each core receives and sends. Every turn of a core is compared as soon as it is over: what left,
// in order, and the outcomes counted. Throws Violation.
#pragma once

#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "control/turn_server.h"
#include "crypto/random.h"
#include "dataplane/core/ring_engine.h"
#include "dataplane/core/worker.h"
#include "dataplane/io/sim/sim_driver.h"
#include "tests/sim/reference.h"
#include "tests/sim/watcher.h"

namespace culvert::sim_test {

inline constexpr uint64_t kUs = 1;
inline constexpr uint64_t kMilli = 1000;  // in microseconds of the virtual clock
inline constexpr uint64_t kSec = 1000 * kMilli;

// Application data of the simulation begins with this, the flow's number and the datagram's.
inline constexpr uint32_t kFlowMark = 0x464c4f57;
inline constexpr size_t kFlowHeader = 12;

class Rig;

// The simulator's driver, with somebody looking over its shoulder.
class TapDriver {
 public:
  TapDriver(sim::Card& card, CoreId core, Rig& rig, size_t burst)
      : inner_(card, core), rig_(rig), core_(core), burst_(burst) {}

  [[nodiscard]] uint32_t rx_burst(std::span<RxDatagram> rx);
  [[nodiscard]] uint32_t tx_burst(TxBurst& tx);
  [[nodiscard]] Egress listener_egress(uint16_t l) const { return inner_.listener_egress(l); }
  [[nodiscard]] Egress open_relay_port(RelayLeg leg);
  void close_relay_port(RelayLeg leg) { inner_.close_relay_port(leg); }
  [[nodiscard]] Ticks now() const { return inner_.now(); }
  void wait(uint32_t /*us*/) {}
  void wake() {}

 private:
  SimDriver inner_;
  Rig& rig_;
  CoreId core_;
  size_t burst_;
};

class Rig {
 public:
  struct Options {
    uint64_t seed = 1;
    size_t burst = kMaxBurst;
    uint32_t command_slots = 2048;
    uint32_t event_slots = 4096;
    uint32_t handoff_slots = 4096;
    CoreLimits limits;
    sim::Card::Options card;
    Plant plant = Plant::kNone;
  };
  Rig(sim::Network& network, const Config& config, const Options& options, Coverage& coverage);
  ~Rig();

  [[nodiscard]] TurnServer& server() { return *server_; }
  [[nodiscard]] Reference& reference() { return reference_; }
  [[nodiscard]] sim::Card& card() { return *card_; }
  [[nodiscard]] const Config& config() const { return config_; }
  [[nodiscard]] uint64_t now_ms() const { return network_.now_us() / kMilli; }
  [[nodiscard]] ControlTime time() const;
  void shift_wall_clock(int64_t seconds) { wall_offset_ += seconds; }

  // Until nobody has anything to do at this instant; the faults below excepted.
  void settle();
  // That core does not run, or control does not, until then.
  void freeze_core(CoreId core, uint64_t until_us) { frozen_until_[core] = until_us; }
  void stall_control(uint64_t until_us) { control_stalled_until_ = until_us; }
  // The process ends and starts anew.
  void restart();
  [[nodiscard]] std::optional<std::string> reload(const Config& config);
  void close_allocation(const TransportAddress& client);
  void set_draining(bool on);

  // The relay's tables against what it has granted; only when nothing is under way.
  void check_tables();
  // Nothing is left of anything. Call when all lifetimes are over.
  void check_empty();
  // Some of what clients sent of late, as it came to the relay.
  [[nodiscard]] const std::vector<sim::Datagram>& captures() const { return captures_; }
  [[nodiscard]] uint64_t packets() const { return packets_; }

  // ---- for TapDriver
  void core_received(CoreId core, std::span<const RxDatagram> rx);
  void core_sent(CoreId core, const TxBurst& tx);
  void port_refused() { ++ports_refused_; }

 private:
  struct Judged {
    Arrival arrival;
    Fate fate;
  };
  struct Handed {
    Arrival arrival;
    std::vector<uint8_t> bytes;
  };

  void build();
  [[nodiscard]] Arrival arrival_of(const RxDatagram& rx) const;
  [[nodiscard]] TransportAddress local(uint16_t address, uint16_t port) const;
  uint32_t run_core(CoreId core);
  void judge_turn(CoreId core);
  void judge_group(CoreId core, std::vector<Judged>& group);
  void judge_one(CoreId core, const Judged& judged, std::vector<Arrival>& second);
  // `seen`: what left shows that it was this outcome.
  [[nodiscard]] bool take(CoreId core, const Judged& judged, Outcome outcome, bool seen);
  [[nodiscard]] bool make_room(const Judged& judged);
  [[noreturn]] void disagree(CoreId core, const Judged& judged) const;
  void pass_on(CoreId core, const Fate& fate, std::vector<Arrival>& second);
  void note_order_in(const Arrival& arrival);
  void note_order_out(const sim::Datagram& left);
  void note_bytes(const TransportAddress& client, size_t bytes, bool in);
  [[nodiscard]] uint64_t excuses() const;
  void check_conservation() const;

  sim::Network& network_;
  Config config_;
  Options options_;
  Reference reference_;
  std::unique_ptr<Watcher> watcher_;
  uint64_t builds_ = 0;
  int64_t wall_offset_ = 0;
  std::vector<LocalAddress> addresses_;

  std::unique_ptr<crypto::Random> random_;
  std::unique_ptr<RingEngine> engine_;
  std::unique_ptr<TurnServer> server_;
  std::unique_ptr<sim::Card> card_;
  std::vector<std::unique_ptr<TapDriver>> drivers_;
  std::vector<std::unique_ptr<Worker<TapDriver>>> workers_;

  std::vector<uint64_t> frozen_until_;
  uint64_t control_stalled_until_ = 0;

  // Of the turn being judged.
  bool packets_phase_ = false;
  std::vector<Judged> came_;
  std::vector<sim::Datagram> left_;
  std::vector<std::pair<Judged, Outcome>> chosen_;  // where several ends were right
  size_t left_count_ = 0;
  size_t left_taken_ = 0;
  std::array<int64_t, kOutcomes> remaining_{};
  std::array<int64_t, kOutcomes> certain_{};              // of those, what can have no other end
  std::vector<std::array<uint64_t, kOutcomes>> counted_;  // per core, before the turn
  std::vector<std::deque<Handed>> handed_;                // [from * cores + to]

  std::unordered_map<uint32_t, std::deque<uint32_t>> flows_;
  struct Bytes {
    uint64_t in = 0;
    uint64_t out = 0;
    uint64_t since_ms = 0;
  };
  std::map<uint32_t, Bytes> prefixes_;  // of spoofed IPv4 sources (100.64.0.0/10), by /24
  std::vector<sim::Datagram> captures_;
  uint64_t clients_sent_ = 0;
  uint64_t packets_ = 0;
  uint64_t ports_refused_ = 0;
  uint64_t excuses_before_ = 0;
};

}  // namespace culvert::sim_test
