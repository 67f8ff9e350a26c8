#include "tools/culvert-load/worker.h"

#include <sys/prctl.h>

#include <algorithm>

#include "tools/culvert-load/client_pool.h"
#include "tools/culvert-load/run.h"

namespace culvert::load {
namespace {

constexpr uint64_t kDrainNs = kSecond;      // waits at most so long for what is under way
constexpr uint64_t kQuietNs = kSecond / 4;  // and stops when nothing came for so long
constexpr uint64_t kLastSendsNs = 20'000'000;
constexpr uint64_t kLongestSleepNs = 5'000'000;
constexpr unsigned long kTimerSlackNs = 1;  // the kernel's own 50 us would make every send late
constexpr int kReceivesPerTurn = 16;        // before sending goes on, if they keep coming

}  // namespace

DriverWorker::DriverWorker(const Options& options, Network& network, uint32_t thread)
    : o_(options), thread_(thread), random_(options.seed + thread), network_(network) {}

std::string DriverWorker::open_driver(bool coalesce) {
  std::string error;
  driver_ = network_.make_driver(coalesce, error);
  if (driver_ && o_.flood) flood_ = std::make_unique<Flood>(o_, random_());
  return error;
}

std::optional<TransportAddress> DriverWorker::local_address(std::string& error) const {
  const auto local = ClientPool::local_address(o_, *driver_, thread_);
  if (!local) error = "there is no route to " + o_.server.to_string();
  return local;
}

std::optional<uint64_t> DriverWorker::take_due(uint64_t now) {
  if (!schedule_.paced()) return now;
  const uint64_t due = schedule_.due(next_event_);
  if (due > now || due >= trial_.measure_to) return std::nullopt;
  ++next_event_;
  return due;
}

uint64_t DriverWorker::cost_clock() const {
  return o_.mode == Mode::kCalibrate ? thread_cpu_ns() : monotonic_ns();
}

void DriverWorker::transmit(std::span<const TxItem> items, uint64_t datagrams) {
  const uint64_t before = cost_clock();
  driver_->send(items);
  tally.tx_ns += cost_clock() - before;
  tally.tx_datagrams += datagrams;
}

size_t DriverWorker::receive_burst(uint64_t& now, uint64_t wait_ns) {
  const uint64_t before = cost_clock();
  const auto items = driver_->receive(wait_ns);
  now = monotonic_ns();
  if (items.empty()) return 0;
  for (const auto& item : items) {
    if (item.at == kForged && flood_) [[unlikely]] {
      flood_->answered(item, tally.flood);
      continue;
    }
    on_item(item, now);
  }
  live.received.store(received_, std::memory_order_relaxed);
  tally.rx_ns += cost_clock() - before;
  return items.size();
}

// How long one receive may wait when nothing was sent in this turn.
uint64_t DriverWorker::wait_at(uint64_t now) const {
  if (!o_.sleep || !schedule_.paced()) return wait_ns_;
  uint64_t next = std::min(schedule_.due(next_event_), trial_.measure_to);
  if (flood_) next = std::min(next, flood_->next_due());
  return std::min(next > now ? next - now : 0, kLongestSleepNs);
}

size_t DriverWorker::receive_some(uint64_t& now, bool sent) {
  size_t got = 0;
  for (int i = 0; i < kReceivesPerTurn; ++i) {
    const size_t more = receive_burst(now, sent ? 0 : wait_at(now));
    got += more;
    // Paced sending must not be late because much arrives: it looks at its schedule in between.
    if (more == 0 || schedule_.paced()) break;
  }
  return got;
}

void DriverWorker::pump() {
  uint64_t now = monotonic_ns();
  while (now < trial_.measure_to && !interrupted()) {
    const uint64_t began = now;
    size_t sent = send_due(now);
    if (flood_) sent += flood_->send_due(now, *driver_, tally.flood);
    if (sent != 0) {
      now = monotonic_ns();
      live.sent.store(sent_, std::memory_order_relaxed);
    }
    const size_t got = receive_some(now, sent != 0);
    housekeeping(now);
    if (sent == 0 && got == 0) tally.idle_ns += now - began;
  }
  // The last ones that were due before the end: this thread may have been stopped while they came
  // due. A generator that cannot keep its rate has more of them than this time allows.
  const uint64_t until = now + kLastSendsNs;
  while (schedule_.paced() && now < until && send_due(now) != 0)
    now = monotonic_ns();
  live.sent.store(sent_, std::memory_order_relaxed);
}

void DriverWorker::drain(uint64_t now) {
  const uint64_t end = now + kDrainNs;
  uint64_t last = now;
  while (now < end && now - last < kQuietNs && !drained()) {
    if (receive_burst(now, wait_ns_) != 0) last = now;
    housekeeping(now);
  }
}

void DriverWorker::traffic(const Trial& trial) {
  tally = Tally{};
  tally.trial = trial_ = trial;
  schedule_ = Schedule(trial, o_.threads, o_.run_length, o_.tick_us * 1000);
  next_event_ = 0;
  if (flood_) flood_->begin(trial);
  const uint64_t drops = driver_->receive_drops();
  const uint64_t refused = driver_->counters().send_refused;
  if (o_.sleep) prctl(PR_SET_TIMERSLACK, kTimerSlackNs);
  while (monotonic_ns() < trial.start) {
  }
  pump();
  drain(monotonic_ns());
  tally.scheduled = schedule_.in_window();
  tally.send_refused = driver_->counters().send_refused - refused;
  tally.port = driver_->details();
  if (flood_) tally.flood.due = flood_->due_by(trial.measure_to);
  // Sockets closed meanwhile took their counts with them.
  const uint64_t dropped = driver_->receive_drops();
  tally.receive_drops = dropped > drops ? dropped - drops : 0;
}

}  // namespace culvert::load
