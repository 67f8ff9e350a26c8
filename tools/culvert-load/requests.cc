// Requests that nobody authenticates: Binding, answered without state, and the hostile mode.
#include <algorithm>
#include <array>
#include <cstring>

#include "dataplane/base/endian.h"
#include "tools/culvert-load/client_pool.h"
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
    return {};
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
class HostileWorker final : public DriverWorker {
 public:
  static constexpr size_t kOpen = 512;
  static constexpr uint32_t kFirstPort = 5'000;
  static constexpr uint32_t kLastPort = 65'000;

  HostileWorker(const Options& options, uint32_t thread)
      : DriverWorker(options, thread),
        ports_(kFirstPort, kLastPort, thread, options.threads),
        wanted_(share(options.count)) {}

  std::string prepare() override {
    std::string error = open_driver(false);
    if (!error.empty()) return error;
    const auto local = local_address(error);
    if (local) local_ = local->ip;
    header_bytes_ = o_.server.ip.is_v6() ? 48 : 28;  // IP and UDP
    return error;
  }

 private:
  // With --count the rest of the time passes quietly, so that memory is read after the storm.
  size_t send_due(uint64_t now) override {
    size_t built = 0;
    while (built < kBurst && (wanted_ == 0 || sent_ < wanted_)) {
      const auto due = take_due(now);
      if (!due) break;
      const auto endpoint = next_source();
      if (!endpoint) break;
      const auto datagram = make_datagram();
      const TxItem item{*endpoint, nullptr, datagram.data(), static_cast<uint32_t>(datagram.size()),
                        0};
      transmit({&item, 1}, 1);
      tally.request_bytes += datagram.size() + header_bytes_;
      tally.count_sent(kToPeerIndex, *due);
      ++sent_;
      ++built;
    }
    if (wanted_ != 0 && sent_ >= wanted_) wait_ns_ = kQuietWaitNs;
    return built;
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

  void on_item(const RxItem& item, uint64_t) override {
    ++received_;
    ++tally.responses;
    tally.response_bytes += item.size + header_bytes_;
  }

  PortWalk ports_;
  uint64_t wanted_;  // 0: until the time is over
  IpAddress local_;
  std::vector<Endpoint> open_;
  size_t oldest_ = 0;
  size_t round_ = 0;
  uint64_t header_bytes_ = 28;
};

}  // namespace

std::unique_ptr<Worker> make_binding_worker(const Options& options, uint32_t thread) {
  return std::make_unique<BindingWorker>(options, thread);
}
std::unique_ptr<Worker> make_hostile_worker(const Options& options, uint32_t thread) {
  return std::make_unique<HostileWorker>(options, thread);
}

}  // namespace culvert::load
