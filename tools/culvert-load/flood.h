// What an attacker sends: requests that nobody authenticated, and noise. Attack makes the
// datagrams, for the hostile mode and for a flood; Flood sends them from forged addresses beside
// whatever else its thread does, at a rate of its own, and keeps nothing of any of them. Answers to
// forged addresses come back through the driver and are counted here, apart from the traffic that
// is measured. Its rate and the trial's end bound it.
#pragma once

#include <array>
#include <cstdint>
#include <random>
#include <vector>

#include "tools/culvert-load/driver.h"
#include "tools/culvert-load/options.h"
#include "tools/culvert-load/schedule.h"
#include "tools/culvert-load/tally.h"

namespace culvert::load {

class AttackMaker {
 public:
  AttackMaker(Attack attack, uint64_t seed);
  // The next datagram into `out`: a request with a transaction id of its own, or one spoilt.
  void make(std::vector<uint8_t>& out);
  // As an attacker's zombies: an address of `from` and a port, both drawn.
  [[nodiscard]] TransportAddress draw_source(const AddressSet& from);

 private:
  void spoil(std::vector<uint8_t>& bytes);

  Attack attack_;
  std::mt19937_64 random_;
  std::vector<uint8_t> request_;
};

// IP and UDP.
[[nodiscard]] inline uint64_t header_bytes(const TransportAddress& server) {
  return server.ip.is_v6() ? 48 : 28;
}

class Flood {
 public:
  static constexpr size_t kBurst = 64;

  Flood(const Options& options, uint64_t seed);
  Flood(const Flood&) = delete;
  Flood& operator=(const Flood&) = delete;

  void begin(const Trial& trial);
  // Sends what is due by `now`, at most one burst; how many.
  size_t send_due(uint64_t now, Driver& driver, FloodTally& tally);
  [[nodiscard]] uint64_t next_due() const { return schedule_.due(next_); }
  [[nodiscard]] uint64_t due_by(uint64_t at) const;
  void answered(const RxItem& item, FloodTally& tally) const;

 private:
  const Options& options_;
  AttackMaker maker_;
  Destination server_;
  Trial trial_;
  Schedule schedule_;
  uint64_t next_ = 0;
  std::array<std::vector<uint8_t>, kBurst> datagrams_;
  std::array<TransportAddress, kBurst> sources_;
  std::array<TxItem, kBurst> items_{};
};

}  // namespace culvert::load
