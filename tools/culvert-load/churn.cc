// The churn mode: whole authenticated allocations (401, Allocate, Refresh 0), each from a port that
// was not used lately, a bounded number of them in progress at once.
#include <algorithm>

#include "tools/culvert-load/client_pool.h"
#include "tools/culvert-load/port_walk.h"
#include "tools/culvert-load/worker.h"

namespace culvert::load {
namespace {

using stun_client::Event;
using stun_client::Method;

constexpr uint64_t kWaitNs = 1'000'000;  // one wait for answers when there is nothing to begin
constexpr uint64_t kTimerNs = 5'000'000;
constexpr size_t kBurst = 32;

class ChurnWorker final : public DriverWorker {
 public:
  // Below the dynamic ports 49152-65535, which are the relay's (RFC 8656 section 7.2).
  static constexpr uint32_t kFirstPort = 10'000;
  static constexpr uint32_t kLastPort = 49'000;

  ChurnWorker(const Options& options, Network& network, uint32_t thread)
      : DriverWorker(options, network, thread),
        config_(ClientPool::client_config(options)),
        credentials_(options.user, options.password),
        wanted_(ClientPool::allocate_options(options)),
        ports_(kFirstPort, kLastPort, thread, options.threads) {
    config_.keep_alive = false;
    wait_ns_ = kWaitNs;
  }

  std::string prepare() override {
    std::string error = open_driver(false);
    if (!error.empty()) return error;
    const auto local = local_address(error);
    if (!local) return error;
    local_ = *local;
    slots_.resize(std::max(1u, share(o_.clients)));
    return driver_->settle(o_.server.ip);
  }

 private:
  struct Slot {
    bool busy = false;
    bool releasing = false;
    Endpoint endpoint = 0;
    uint64_t due = 0;
    std::optional<stun_client::TurnClient> turn;
  };

  size_t send_due(uint64_t now) override {
    size_t begun = 0;
    while (free_hint_ < slots_.size() && begun < kBurst) {
      if (slots_[free_hint_].busy) {
        ++free_hint_;
        continue;
      }
      const auto due = take_due(now);
      if (!due || !begin(free_hint_, *due, now)) break;
      ++begun;
    }
    return begun;
  }

  bool begin(size_t index, uint64_t due, uint64_t now) {
    Slot& slot = slots_[index];
    std::string error;
    std::optional<Endpoint> endpoint;
    for (int tries = 0; !endpoint && tries < kPortTries; ++tries) {
      bool wrapped = false;
      const uint16_t port = ports_.take(wrapped);
      if (wrapped && !o_.local.empty()) local_.ip = o_.local.at(++round_);
      endpoint = driver_->open({local_.ip, port}, o_.server, error);
    }
    if (!endpoint) {
      tally.count_error(error);
      return false;
    }
    slot.busy = true;
    slot.releasing = false;
    slot.endpoint = *endpoint;
    slot.due = due;
    slot.turn.emplace(config_, &credentials_, random_());
    if (by_endpoint_.size() <= *endpoint) by_endpoint_.resize(*endpoint + 1);
    by_endpoint_[*endpoint] = static_cast<uint32_t>(index);
    slot.turn->allocate(wanted_, now);
    ++sent_;
    tally.count_sent(kToPeerIndex, due);
    flush(slot);
    return true;
  }

  void flush(Slot& slot) {
    while (const auto datagram = slot.turn->poll_transmit()) {
      const TxItem item{slot.endpoint, nullptr, datagram->data(),
                        static_cast<uint32_t>(datagram->size()), 0};
      transmit({&item, 1}, 1);
    }
  }

  void on_item(const RxItem& item, uint64_t now) override {
    ++tally.rx_datagrams;
    if (item.at >= by_endpoint_.size()) return;
    const size_t index = by_endpoint_[item.at];
    Slot& slot = slots_[index];
    if (!slot.busy || slot.endpoint != item.at) return;
    slot.turn->receive({item.data, item.size}, now);
    advance(index, now);
  }

  void advance(size_t index, uint64_t now) {
    Slot& slot = slots_[index];
    flush(slot);
    while (const auto event = slot.turn->poll_event()) {
      if (event->kind != Event::Kind::kSuccess) {
        tally.count_error(event->kind == Event::Kind::kTimeout
                              ? "timeout"
                              : std::to_string(event->code) + " " + event->reason);
        end(index);
        return;
      }
      if (event->method == Method::kAllocate) {
        slot.releasing = true;
        slot.turn->refresh(0, now);
        flush(slot);
        continue;
      }
      ++received_;
      tally.count_arrival(kToPeerIndex, slot.due, now);
      end(index);
      return;
    }
  }

  void end(size_t index) {
    Slot& slot = slots_[index];
    driver_->close(slot.endpoint);
    slot.busy = false;
    slot.turn.reset();
    free_hint_ = std::min(free_hint_, index);
  }

  void housekeeping(uint64_t now) override {
    if (now < next_timer_) return;
    next_timer_ = now + kTimerNs;
    for (size_t i = 0; i < slots_.size(); ++i) {
      if (!slots_[i].busy || slots_[i].turn->next_deadline() > now) continue;
      slots_[i].turn->tick(now);
      advance(i, now);
    }
  }

  [[nodiscard]] bool drained() const override {
    return std::none_of(slots_.begin(), slots_.end(), [](const Slot& s) { return s.busy; });
  }

  stun_client::ClientConfig config_;
  stun_client::Credentials credentials_;
  stun_client::AllocateOptions wanted_;
  PortWalk ports_;
  TransportAddress local_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> by_endpoint_;
  uint64_t round_ = 0;  // of --local
  size_t free_hint_ = 0;
  uint64_t next_timer_ = 0;
};

}  // namespace

std::unique_ptr<Worker> make_churn_worker(const Options& options, Network& network,
                                          uint32_t thread) {
  return std::make_unique<ChurnWorker>(options, network, thread);
}

}  // namespace culvert::load
