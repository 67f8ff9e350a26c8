// Requests that nobody authenticates: Binding, answered without state, and the hostile mode.
#include <algorithm>
#include <array>
#include <cstring>

#include "dataplane/base/endian.h"
#include "tools/culvert-load/client_pool.h"
#include "tools/culvert-load/flood.h"
#include "tools/culvert-load/port_walk.h"
#include "tools/culvert-load/worker.h"

namespace culvert::load {
namespace {

using stun_client::Method;

constexpr size_t kBurst = 32;
constexpr uint64_t kQuietWaitNs = 10'000'000;

// The transaction id holds a tag and the due time, so an answer needs no memory of its request.
class BindingWorker final : public DriverWorker {
 public:
  using DriverWorker::DriverWorker;

  std::string prepare() override {
    std::string error = open_driver(false);
    if (!error.empty()) return error;
    tag_ = static_cast<uint32_t>(random_());
    const auto local = local_address(error);
    if (!local) return error;
    for (uint32_t i = 0; i < std::max(1u, share(o_.clients)); ++i) {
      const auto endpoint = driver_->open(*local, o_.server, error);
      if (!endpoint) return error;
      endpoints_.push_back(*endpoint);
    }
    return driver_->settle(o_.server.ip);
  }

 private:
  size_t send_due(uint64_t now) override {
    std::array<std::array<uint8_t, stun_client::kHeaderSize>, kBurst> requests{};
    std::array<TxItem, kBurst> items{};
    size_t built = 0;
    while (built < kBurst) {
      const auto due = take_due(now);
      if (!due) break;
      auto& request = requests[built];
      store_be16(&request[0],
                 stun_client::message_type(Method::kBinding, stun_client::Class::kRequest));
      store_be32(&request[4], stun_client::kMagicCookie);
      store_be32(&request[8], tag_);
      store_be64(&request[12], *due);
      items[built++] = {endpoints_[turn_], nullptr, request.data(),
                        static_cast<uint32_t>(request.size()), 0};
      if (++turn_ == endpoints_.size()) turn_ = 0;
      tally.count_sent(kToPeerIndex, *due);
      if (paced() && trial_.within(*due)) tally.lateness.record(now - *due);
    }
    if (built != 0) transmit({items.data(), built}, built);
    sent_ += built;
    return built;
  }

  void on_item(const RxItem& item, uint64_t now) override {
    ++tally.rx_datagrams;
    if (item.size < stun_client::kHeaderSize || load_be32(item.data + 8) != tag_ ||
        load_be16(item.data) !=
            stun_client::message_type(Method::kBinding, stun_client::Class::kSuccess)) {
      ++tally.strange;
      return;
    }
    ++received_;
    tally.count_arrival(kToPeerIndex, load_be64(item.data + 12), now);
  }

  uint32_t tag_ = 0;
  std::vector<Endpoint> endpoints_;
  size_t turn_ = 0;
};

// Each datagram comes from an address and port that was not used before, as a spoofing attacker's
// would; the socket stays open for the next kOpen datagrams, so that answers are seen and counted.
// With --spoof there is no socket: the address is forged.
class HostileWorker final : public DriverWorker {
 public:
  static constexpr size_t kOpen = 512;
  static constexpr uint32_t kFirstPort = 5'000;
  static constexpr uint32_t kLastPort = 65'000;

  HostileWorker(const Options& options, Network& network, uint32_t thread)
      : DriverWorker(options, network, thread),
        ports_(kFirstPort, kLastPort, thread, options.threads),
        wanted_(share(options.count)),
        maker_(options.attack, random_()),
        server_(Destination::of(options.server)) {}

  std::string prepare() override {
    std::string error = open_driver(false);
    if (!error.empty()) return error;
    const auto local = local_address(error);
    if (!local) return error;
    local_ = local->ip;
    return driver_->settle(o_.server.ip);
  }

 private:
  // With --count the rest of the time passes quietly, so that memory is read after the storm.
  size_t send_due(uint64_t now) override {
    size_t built = 0;
    while (built < kBurst && (wanted_ == 0 || sent_ < wanted_)) {
      const auto due = take_due(now);
      if (!due) break;
      if (!add_datagram(built)) break;
      tally.request_bytes += datagrams_[built].size() + header_bytes(o_.server);
      tally.count_sent(kToPeerIndex, *due);
      ++sent_;
      ++built;
    }
    if (built != 0) transmit({items_.data(), built}, built);
    if (wanted_ != 0 && sent_ >= wanted_) wait_ns_ = kQuietWaitNs;
    return built;
  }

  bool add_datagram(size_t index) {
    auto& datagram = datagrams_[index];
    maker_.make(datagram);
    items_[index] = {
        kForged, &server_,        datagram.data(), static_cast<uint32_t>(datagram.size()),
        0,       &sources_[index]};
    if (!o_.spoof.empty()) {
      sources_[index] = maker_.draw_source(o_.spoof);
      return true;
    }
    const auto endpoint = next_source();
    if (!endpoint) return false;
    items_[index].from = *endpoint;
    items_[index].to = nullptr;
    return true;
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
      if (wrapped && !o_.local.empty()) local_ = o_.local.at(++round_);
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

  void on_item(const RxItem& item, uint64_t) override {
    ++received_;
    ++tally.responses;
    tally.response_bytes += item.size + header_bytes(o_.server);
  }

  PortWalk ports_;
  uint64_t wanted_;  // 0: until the time is over
  IpAddress local_;
  std::vector<Endpoint> open_;
  size_t oldest_ = 0;
  size_t round_ = 0;
  AttackMaker maker_;
  Destination server_;
  std::array<std::vector<uint8_t>, kBurst> datagrams_;
  std::array<TransportAddress, kBurst> sources_;
  std::array<TxItem, kBurst> items_{};
};

}  // namespace

std::unique_ptr<Worker> make_binding_worker(const Options& options, Network& network,
                                            uint32_t thread) {
  return std::make_unique<BindingWorker>(options, network, thread);
}
std::unique_ptr<Worker> make_hostile_worker(const Options& options, Network& network,
                                            uint32_t thread) {
  return std::make_unique<HostileWorker>(options, network, thread);
}

}  // namespace culvert::load
