// The modes that count operations instead of datagrams: churn (a whole authenticated allocation:
// 401, Allocate, Refresh 0), idle (allocations that do nothing), binding and hostile requests.
#include <algorithm>
#include <cstring>
#include <random>

#include "dataplane/base/endian.h"
#include "tools/culvert-load/client_pool.h"
#include "tools/culvert-load/run.h"

namespace culvert::load {
namespace {

using stun_client::Event;
using stun_client::Method;

constexpr uint64_t kWaitNs = 1'000'000;  // one wait for answers when there is nothing to send
constexpr uint64_t kTimerNs = 5'000'000;
constexpr size_t kBurst = 32;
constexpr uint64_t kDrainNs = kSecond / 2;
constexpr int kPortTries = 4096;  // ports in a row that others may hold before it is an error

bool measured(const RunClock& clock, uint64_t at) {
  return at >= clock.measure_from && at < clock.measure_to;
}

// When the n-th event of a steady rate is due, and whether one is due now.
class Pacer {
 public:
  Pacer(double rate, uint32_t threads) : interval_ns_(rate > 0 ? 1e9 * threads / rate : 0) {}
  void start(uint64_t at) { start_ = at; }
  [[nodiscard]] bool paced() const { return interval_ns_ > 0; }
  [[nodiscard]] uint64_t due() const {
    return start_ + static_cast<uint64_t>(static_cast<double>(next_) * interval_ns_);
  }
  void taken() { ++next_; }
  [[nodiscard]] uint64_t scheduled_in(uint64_t ns) const {
    return paced() ? static_cast<uint64_t>(static_cast<double>(ns) / interval_ns_) : 0;
  }

 private:
  double interval_ns_;
  uint64_t start_ = 0;
  uint64_t next_ = 0;
};

// Local ports one after the other instead of the kernel's choice: a server may remember a 5-tuple
// for seconds after it ended, and a random port of 28,000 comes again long before that.
class PortWalk {
 public:
  PortWalk(uint32_t first, uint32_t last, uint32_t thread, uint32_t threads)
      : first_(first + (last - first) / threads * thread),
        last_(first + (last - first) / threads * (thread + 1)),
        next_(first_) {}
  // True in `wrapped` each time the walk begins again.
  [[nodiscard]] uint16_t take(bool& wrapped) {
    wrapped = next_ == last_;
    if (wrapped) next_ = first_;
    return static_cast<uint16_t>(next_++);
  }

 private:
  uint32_t first_;
  uint32_t last_;
  uint32_t next_;
};

// ---------------------------------------------------------------------------------- churn

class ChurnWorker final : public Worker {
 public:
  // Below the dynamic ports 49152-65535, which are the relay's (RFC 8656 section 7.2).
  static constexpr uint32_t kFirstPort = 10'000;
  static constexpr uint32_t kLastPort = 49'000;

  ChurnWorker(const Options& options, uint32_t thread)
      : o_(options),
        thread_(thread),
        random_(options.seed + thread),
        config_(ClientPool::client_config(options)),
        credentials_(options.user, options.password),
        wanted_(ClientPool::allocate_options(options)),
        pacer_(options.rate, options.threads),
        ports_(kFirstPort, kLastPort, thread, options.threads) {
    config_.keep_alive = false;
  }

  std::string prepare() override {
    std::string error;
    driver_ = make_driver(o_.driver, false, error);
    if (!driver_) return error;
    const auto local = ClientPool::local_address(o_, thread_);
    if (!local) return "there is no route to " + o_.server.to_string();
    local_ = *local;
    return {};
  }

  void traffic(const RunClock& clock) override {
    clock_ = clock;
    pacer_.start(clock.start);
    slots_.resize(std::max(1u, o_.clients / o_.threads));
    uint64_t now = monotonic_ns();
    while (now < clock.start)
      now = monotonic_ns();
    while (now < clock.measure_to && !interrupted()) {
      begin_due(now);
      for (const auto& item : driver_->receive(kWaitNs))
        on_item(item);
      now = monotonic_ns();
      if (now >= next_timer_) tick_all(now);
    }
    tally.scheduled = pacer_.scheduled_in(clock.measure_to - clock.measure_from);
    release(now + kDrainNs);
  }

  void finish() override {
    if (!driver_) return;
    tally.receive_drops = driver_->receive_drops();
    tally.send_refused = driver_->counters().send_refused;
  }

 private:
  struct Slot {
    bool busy = false;
    bool releasing = false;
    Endpoint endpoint = 0;
    uint64_t due = 0;
    std::optional<stun_client::TurnClient> turn;
  };

  void begin_due(uint64_t now) {
    size_t begun = 0;
    while (free_hint_ < slots_.size() && begun < kBurst) {
      if (slots_[free_hint_].busy) {
        ++free_hint_;
        continue;
      }
      const uint64_t due = pacer_.paced() ? pacer_.due() : now;
      if (due > now) return;
      if (!begin(free_hint_, due, now)) return;
      pacer_.taken();
      ++begun;
    }
  }

  bool begin(size_t index, uint64_t due, uint64_t now) {
    Slot& slot = slots_[index];
    std::string error;
    std::optional<Endpoint> endpoint;
    for (int tries = 0; !endpoint && tries < kPortTries; ++tries) {
      bool wrapped = false;
      endpoint = driver_->open({local_.ip, ports_.take(wrapped)}, o_.server, error);
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
    ++begun_;
    if (measured(clock_, due)) ++tally.flows[kToPeerIndex].sent;
    live.sent.store(begun_, std::memory_order_relaxed);
    flush(slot);
    return true;
  }

  void flush(Slot& slot) {
    while (const auto datagram = slot.turn->poll_transmit()) {
      const TxItem item{slot.endpoint, nullptr, datagram->data(),
                        static_cast<uint32_t>(datagram->size()), 0};
      driver_->send({&item, 1});
      ++tally.tx_datagrams;
    }
  }

  void on_item(const RxItem& item) {
    ++tally.rx_datagrams;
    if (item.at >= by_endpoint_.size()) return;
    const size_t index = by_endpoint_[item.at];
    Slot& slot = slots_[index];
    if (!slot.busy || slot.endpoint != item.at) return;
    const uint64_t now = monotonic_ns();
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
      ++completed_;
      live.received.store(completed_, std::memory_order_relaxed);
      if (measured(clock_, slot.due)) {
        ++tally.flows[kToPeerIndex].unique;
        tally.operation.record(now - slot.due);
      }
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

  void tick_all(uint64_t now) {
    next_timer_ = now + kTimerNs;
    for (size_t i = 0; i < slots_.size(); ++i) {
      if (!slots_[i].busy || slots_[i].turn->next_deadline() > now) continue;
      slots_[i].turn->tick(now);
      advance(i, now);
    }
  }

  void release(uint64_t until) {
    const auto busy = [&] {
      return std::any_of(slots_.begin(), slots_.end(), [](const Slot& s) { return s.busy; });
    };
    while (busy() && monotonic_ns() < until) {
      for (const auto& item : driver_->receive(kWaitNs))
        on_item(item);
      if (monotonic_ns() >= next_timer_) tick_all(monotonic_ns());
    }
  }

  const Options& o_;
  uint32_t thread_;
  std::mt19937_64 random_;
  stun_client::ClientConfig config_;
  stun_client::Credentials credentials_;
  stun_client::AllocateOptions wanted_;
  Pacer pacer_;
  PortWalk ports_;
  std::unique_ptr<Driver> driver_;
  TransportAddress local_;
  RunClock clock_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> by_endpoint_;
  size_t free_hint_ = 0;
  uint64_t next_timer_ = 0;
  uint64_t begun_ = 0;
  uint64_t completed_ = 0;
};

// ---------------------------------------------------------------------------------- idle

class IdleWorker final : public Worker {
 public:
  IdleWorker(const Options& options, uint32_t thread) : o_(options), thread_(thread) {}

  std::string prepare() override {
    std::string error;
    driver_ = make_driver(o_.driver, false, error);
    if (!driver_) return error;
    pool_ = std::make_unique<ClientPool>(o_, *driver_, o_.seed + thread_);
    const uint32_t share = o_.clients / o_.threads + (thread_ < o_.clients % o_.threads ? 1 : 0);
    if (error = pool_->open(share); !error.empty()) return error;
    if (error = pool_->allocate_all(); !error.empty()) return error;
    const auto base = o_.peer_address ? o_.peer_address : source_address(o_.server);
    for (uint32_t i = 0; i < o_.channels; ++i) {
      error = pool_->for_all("ChannelBind", [&](PoolClient& client, size_t, uint64_t now) {
        const auto number = static_cast<uint16_t>(stun_client::kChannelFirst + i);
        client.turn.channel_bind(number, peer(*base, i), now);
      });
      if (!error.empty()) return error;
    }
    for (uint32_t i = 0; i < o_.permissions; ++i) {
      error = pool_->for_all("CreatePermission", [&](PoolClient& client, size_t, uint64_t now) {
        const auto address = peer(*base, o_.channels + i);
        client.turn.create_permission({&address, 1}, now);
      });
      if (!error.empty()) return error;
    }
    live.received.store(share, std::memory_order_relaxed);
    return {};
  }

  void traffic(const RunClock& clock) override {
    while (monotonic_ns() < clock.measure_to && !interrupted()) {
      for (const auto& item : driver_->receive(10 * kWaitNs))
        pool_->receive(item, monotonic_ns());
      pool_->maintain(monotonic_ns());
    }
  }

  void finish() override {
    if (pool_) pool_->release_all();
  }

 private:
  // Peers that differ in address, because a permission is for an address and not for a port.
  static TransportAddress peer(IpAddress base, uint32_t index) {
    base.bytes[15] = static_cast<uint8_t>(base.bytes[15] + 1 + index);
    return {base, static_cast<uint16_t>(20'000 + index)};
  }

  const Options& o_;
  uint32_t thread_;
  std::unique_ptr<Driver> driver_;
  std::unique_ptr<ClientPool> pool_;
};

// ---------------------------------------------------------------------------------- binding

// The transaction id holds a tag and the due time, so an answer needs no memory of its request.
class BindingWorker final : public Worker {
 public:
  BindingWorker(const Options& options, uint32_t thread)
      : o_(options),
        thread_(thread),
        tag_(static_cast<uint32_t>(std::mt19937_64(options.seed + thread)())),
        pacer_(options.rate, options.threads) {}

  std::string prepare() override {
    std::string error;
    driver_ = make_driver(o_.driver, false, error);
    if (!driver_) return error;
    const auto local = ClientPool::local_address(o_, thread_);
    if (!local) return "there is no route to " + o_.server.to_string();
    for (uint32_t i = 0; i < std::max(1u, o_.clients / o_.threads); ++i) {
      const auto endpoint = driver_->open(*local, o_.server, error);
      if (!endpoint) return error;
      endpoints_.push_back(*endpoint);
    }
    return {};
  }

  void traffic(const RunClock& clock) override {
    clock_ = clock;
    pacer_.start(clock.start);
    uint64_t now = monotonic_ns();
    while (now < clock.start)
      now = monotonic_ns();
    while (now < clock.measure_to && !interrupted()) {
      const uint64_t began = now;
      const size_t sent = send_due(now);
      const size_t got = receive();
      now = monotonic_ns();
      if (sent == 0 && got == 0) tally.idle_ns += now - began;
    }
    while (pacer_.paced() && pacer_.due() < clock.measure_to && send_due(clock.measure_to - 1) != 0)
      receive();
    tally.scheduled = pacer_.scheduled_in(clock.measure_to - clock.measure_from);
    for (const uint64_t end = now + kDrainNs; now < end; now = monotonic_ns())
      receive();
  }

  void finish() override {
    if (!driver_) return;
    tally.receive_drops = driver_->receive_drops();
    tally.send_refused = driver_->counters().send_refused;
  }

 private:
  size_t send_due(uint64_t now) {
    std::array<std::array<uint8_t, stun_client::kHeaderSize>, kBurst> requests{};
    std::array<TxItem, kBurst> items{};
    size_t built = 0;
    while (built < kBurst) {
      const uint64_t due = pacer_.paced() ? pacer_.due() : now;
      if (due > now) break;
      pacer_.taken();
      auto& request = requests[built];
      store_be16(&request[0],
                 stun_client::message_type(Method::kBinding, stun_client::Class::kRequest));
      store_be32(&request[4], stun_client::kMagicCookie);
      store_be32(&request[8], tag_);
      store_be64(&request[12], due);
      items[built] = {endpoints_[turn_], nullptr, request.data(),
                      static_cast<uint32_t>(request.size()), 0};
      if (++turn_ == endpoints_.size()) turn_ = 0;
      if (measured(clock_, due)) {
        ++tally.flows[kToPeerIndex].sent;
        if (pacer_.paced()) tally.lateness.record(now - due);
      }
      ++built;
    }
    if (built == 0) return 0;
    driver_->send({items.data(), built});
    tally.tx_ns += monotonic_ns() - now;
    tally.tx_datagrams += built;
    sent_ += built;
    live.sent.store(sent_, std::memory_order_relaxed);
    return built;
  }

  size_t receive() {
    const uint64_t before = monotonic_ns();
    const auto items = driver_->receive(0);
    if (items.empty()) return 0;
    const uint64_t now = monotonic_ns();
    for (const auto& item : items) {
      ++tally.rx_datagrams;
      if (item.size < stun_client::kHeaderSize || load_be32(item.data + 8) != tag_ ||
          load_be16(item.data) !=
              stun_client::message_type(Method::kBinding, stun_client::Class::kSuccess)) {
        ++tally.strange;
        continue;
      }
      ++received_;
      const uint64_t due = load_be64(item.data + 12);
      if (!measured(clock_, due)) continue;
      ++tally.flows[kToPeerIndex].unique;
      tally.operation.record(now - due);
    }
    live.received.store(received_, std::memory_order_relaxed);
    tally.rx_ns += now - before;
    return items.size();
  }

  const Options& o_;
  uint32_t thread_;
  uint32_t tag_;
  Pacer pacer_;
  std::unique_ptr<Driver> driver_;
  std::vector<Endpoint> endpoints_;
  RunClock clock_;
  size_t turn_ = 0;
  uint64_t sent_ = 0;
  uint64_t received_ = 0;
};

// ---------------------------------------------------------------------------------- hostile

// Each datagram comes from an address and port that was not used before, as a spoofing attacker's
// would; the socket stays open for the next kOpen datagrams, so that answers are seen and counted.
class HostileWorker final : public Worker {
 public:
  static constexpr size_t kOpen = 512;
  static constexpr uint32_t kFirstPort = 5'000;
  static constexpr uint32_t kLastPort = 65'000;

  HostileWorker(const Options& options, uint32_t thread)
      : o_(options),
        thread_(thread),
        random_(options.seed + thread),
        pacer_(options.rate, options.threads),
        ports_(kFirstPort, kLastPort, thread, options.threads),
        wanted_(options.count / options.threads) {}

  std::string prepare() override {
    std::string error;
    driver_ = make_driver(o_.driver, false, error);
    if (!driver_) return error;
    const auto local = ClientPool::local_address(o_, thread_);
    if (!local) return "there is no route to " + o_.server.to_string();
    local_ = local->ip;
    header_bytes_ = o_.server.ip.is_v6() ? 48 : 28;  // IP and UDP
    return {};
  }

  void traffic(const RunClock& clock) override {
    clock_ = clock;
    pacer_.start(clock.start);
    uint64_t now = monotonic_ns();
    while (now < clock.start)
      now = monotonic_ns();
    while (now < clock.measure_to && !interrupted() && (wanted_ == 0 || sent_ < wanted_)) {
      send_due(now);
      receive(0);
      now = monotonic_ns();
    }
    for (const uint64_t end = now + kDrainNs; now < end; now = monotonic_ns())
      receive(kWaitNs);
    // With --count the rest of the time passes quietly, so that memory is read after the storm.
    while (wanted_ != 0 && monotonic_ns() < clock.measure_to && !interrupted())
      receive(10 * kWaitNs);
  }

  void finish() override {
    if (driver_) tally.send_refused = driver_->counters().send_refused;
  }

 private:
  void send_due(uint64_t now) {
    for (size_t i = 0; i < kBurst && (wanted_ == 0 || sent_ < wanted_); ++i) {
      const uint64_t due = pacer_.paced() ? pacer_.due() : now;
      if (due > now) return;
      pacer_.taken();
      const auto endpoint = next_source();
      if (!endpoint) return;
      const auto datagram = make_datagram();
      const TxItem item{*endpoint, nullptr, datagram.data(), static_cast<uint32_t>(datagram.size()),
                        0};
      driver_->send({&item, 1});
      tally.request_bytes += datagram.size() + header_bytes_;
      ++tally.tx_datagrams;
      if (measured(clock_, now)) ++tally.flows[kToPeerIndex].sent;
      live.sent.store(++sent_, std::memory_order_relaxed);
    }
  }

  std::optional<Endpoint> next_source() {
    if (open_.size() == kOpen) {
      driver_->close(open_[oldest_]);
    }
    std::string error;
    for (int tries = 0; tries < kPortTries; ++tries) {
      bool wrapped = false;
      const uint16_t port = ports_.take(wrapped);
      // All ports used: the next address, where there is one. Loopback has sixteen million.
      if (wrapped && !o_.local.empty()) local_ = o_.local[++round_ % o_.local.size()];
      if (wrapped && o_.local.empty() && local_.is_v4() && local_.bytes[12] == 127)
        local_ = IpAddress::v4(local_.v4_host() + 1);
      const auto endpoint = driver_->open({local_, port}, o_.server, error);
      if (!endpoint) continue;
      if (open_.size() < kOpen) {
        open_.push_back(*endpoint);
      } else {
        open_[oldest_] = *endpoint;
        oldest_ = (oldest_ + 1) % kOpen;
      }
      return endpoint;
    }
    tally.count_error(error);
    return std::nullopt;
  }

  std::vector<uint8_t> make_datagram() {
    stun_client::TransactionId id;
    store_be64(id.data(), random_());
    store_be32(&id[8], static_cast<uint32_t>(random_()));
    const auto method = o_.attack == Attack::kBinding ? Method::kBinding : Method::kAllocate;
    stun_client::MessageBuilder message(method, stun_client::Class::kRequest, id);
    if (method == Method::kAllocate) message.add_u8(stun_client::Attr::kRequestedTransport, 17);
    auto bytes = message.take();
    if (o_.attack == Attack::kMalformed) spoil(bytes);
    return bytes;
  }

  // One of: noise, a cut message, a length that lies, flipped bytes, a channel nobody bound.
  void spoil(std::vector<uint8_t>& bytes) {
    const uint64_t dice = random_();
    switch (dice % 5) {
      case 0:
        bytes.resize(1 + dice / 5 % 200);
        for (auto& byte : bytes)
          byte = static_cast<uint8_t>(random_());
        break;
      case 1:
        bytes.resize(1 + dice / 5 % (bytes.size() - 1));
        break;
      case 2:
        store_be16(&bytes[2], static_cast<uint16_t>(dice >> 16));
        break;
      case 3:
        for (int i = 0; i < 4; ++i)
          bytes[random_() % bytes.size()] ^= static_cast<uint8_t>(1 + random_() % 255);
        break;
      default:
        store_be16(&bytes[0], static_cast<uint16_t>(0x4000 + dice % 0x1000));
        break;
    }
  }

  void receive(uint64_t wait_ns) {
    for (const auto& item : driver_->receive(wait_ns)) {
      ++tally.responses;
      tally.response_bytes += item.size + header_bytes_;
    }
    live.received.store(tally.responses, std::memory_order_relaxed);
  }

  const Options& o_;
  uint32_t thread_;
  std::mt19937_64 random_;
  Pacer pacer_;
  PortWalk ports_;
  uint64_t wanted_;
  std::unique_ptr<Driver> driver_;
  IpAddress local_;
  RunClock clock_;
  std::vector<Endpoint> open_;
  size_t oldest_ = 0;
  size_t round_ = 0;
  uint64_t sent_ = 0;
  uint64_t header_bytes_ = 28;
};

}  // namespace

std::unique_ptr<Worker> make_churn_worker(const Options& options, uint32_t thread) {
  return std::make_unique<ChurnWorker>(options, thread);
}
std::unique_ptr<Worker> make_idle_worker(const Options& options, uint32_t thread) {
  return std::make_unique<IdleWorker>(options, thread);
}
std::unique_ptr<Worker> make_binding_worker(const Options& options, uint32_t thread) {
  return std::make_unique<BindingWorker>(options, thread);
}
std::unique_ptr<Worker> make_hostile_worker(const Options& options, uint32_t thread) {
  return std::make_unique<HostileWorker>(options, thread);
}

}  // namespace culvert::load
