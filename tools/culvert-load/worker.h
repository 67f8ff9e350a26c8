// One generator thread. Worker is what the crew drives; DriverWorker is what all modes are built
// on: it opens the driver, keeps the schedule, and holds the one loop that sends what is due, takes
// what has come and counts the time in which there was neither. A mode says what to send and what
// an arrived datagram means. A worker belongs to its thread; `live` alone is read by another.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>

#include "tools/culvert-load/driver.h"
#include "tools/culvert-load/flood.h"
#include "tools/culvert-load/options.h"
#include "tools/culvert-load/tally.h"

namespace culvert::load {

struct alignas(64) Live {
  std::atomic<uint64_t> sent{0};
  std::atomic<uint64_t> received{0};  // unique datagrams, or completed operations
};

class Worker {
 public:
  virtual ~Worker() = default;
  // Sets up what the traffic needs; a sentence when it could not.
  [[nodiscard]] virtual std::string prepare() = 0;
  // One trial: runs to its end and drains. Called once for each, `tally` holds the last one's
  // counts.
  virtual void traffic(const Trial& trial) = 0;
  // Gives back what was taken; also after a failed prepare().
  virtual void finish() = 0;

  Live live;
  Tally tally;
};

class DriverWorker : public Worker {
 public:
  DriverWorker(const Options& options, Network& network, uint32_t thread);
  void traffic(const Trial& trial) final;
  void finish() override {}

 protected:
  [[nodiscard]] std::string open_driver(bool coalesce);
  // This thread's part of `total`.
  template <class Count>
  [[nodiscard]] Count share(Count total) const {
    return total / o_.threads + (thread_ < total % o_.threads ? 1 : 0);
  }
  // The local address of this thread's clients; a sentence in `error` when there is no route.
  [[nodiscard]] std::optional<TransportAddress> local_address(std::string& error) const;

  // Sends what is due at `now`; how many datagrams or operations it began.
  virtual size_t send_due(uint64_t /*now*/) { return 0; }
  virtual void on_item(const RxItem& item, uint64_t now) = 0;
  virtual void housekeeping(uint64_t /*now*/) {}
  // Nothing that was begun is still under way.
  [[nodiscard]] virtual bool drained() const { return false; }

  // The time at which the next event was due, and takes it; nullopt when it is not due by `now` or
  // not in this trial any more. Unpaced, an event is always due now.
  [[nodiscard]] std::optional<uint64_t> take_due(uint64_t now);
  // One call of the driver. Calibration counts the thread's CPU time, which other work on the
  // machine does not blur; that clock is a system call, so measurements of a server use the cheap
  // one.
  void transmit(std::span<const TxItem> items, uint64_t datagrams);
  [[nodiscard]] bool paced() const { return schedule_.paced(); }

  const Options& o_;
  const uint32_t thread_;
  std::mt19937_64 random_;
  std::unique_ptr<Driver> driver_;
  Trial trial_;
  uint64_t wait_ns_ = 0;   // in one receive when there is nothing to send; 0: the thread spins
  uint64_t sent_ = 0;      // of all trials, as `live` shows them
  uint64_t received_ = 0;  // likewise; the modes count it

 private:
  Network& network_;

  [[nodiscard]] uint64_t cost_clock() const;
  void pump();
  size_t receive_burst(uint64_t& now, uint64_t wait_ns);
  size_t receive_some(uint64_t& now, bool sent);
  [[nodiscard]] uint64_t wait_at(uint64_t now) const;
  void drain(uint64_t now);

  Schedule schedule_;
  std::unique_ptr<Flood> flood_;  // where --flood asks for one
  uint64_t next_event_ = 0;
};

[[nodiscard]] std::unique_ptr<Worker> make_relay_worker(const Options& options, Network& network,
                                                        uint32_t thread);
[[nodiscard]] std::unique_ptr<Worker> make_churn_worker(const Options& options, Network& network,
                                                        uint32_t thread);
[[nodiscard]] std::unique_ptr<Worker> make_idle_worker(const Options& options, Network& network,
                                                       uint32_t thread);
[[nodiscard]] std::unique_ptr<Worker> make_binding_worker(const Options& options, Network& network,
                                                          uint32_t thread);
[[nodiscard]] std::unique_ptr<Worker> make_hostile_worker(const Options& options, Network& network,
                                                          uint32_t thread);

}  // namespace culvert::load
