// The idle mode: allocations that do nothing, for the memory they take.
#include "tools/culvert-load/client_pool.h"
#include "tools/culvert-load/worker.h"

namespace culvert::load {
namespace {

constexpr uint64_t kWaitNs = 10'000'000;

class IdleWorker final : public DriverWorker {
 public:
  IdleWorker(const Options& options, Network& network, uint32_t thread)
      : DriverWorker(options, network, thread) {
    wait_ns_ = kWaitNs;
  }

  std::string prepare() override {
    std::string error = open_driver(false);
    if (!error.empty()) return error;
    pool_ = std::make_unique<ClientPool>(o_, *driver_, random_());
    if (error = pool_->open(share(o_.clients)); !error.empty()) return error;
    if (error = pool_->allocate_all(); !error.empty()) return error;
    const auto base = o_.peer_address.empty() ? driver_->source_address(o_.server.ip)
                                              : std::optional(o_.peer_address.at(0));
    if (!base) return "there is no route to " + o_.server.to_string();
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
    return {};
  }

  void finish() override {
    if (pool_) pool_->release_all();
  }

 private:
  void on_item(const RxItem& item, uint64_t now) override { pool_->receive(item, now); }
  void housekeeping(uint64_t now) override { pool_->maintain(now); }
  [[nodiscard]] bool drained() const override { return true; }

  // Peers that differ in address, because a permission is for an address and not for a port.
  static TransportAddress peer(IpAddress base, uint32_t index) {
    base.bytes[15] = static_cast<uint8_t>(base.bytes[15] + 1 + index);
    return {base, static_cast<uint16_t>(20'000 + index)};
  }

  std::unique_ptr<ClientPool> pool_;
};

}  // namespace

std::unique_ptr<Worker> make_idle_worker(const Options& options, Network& network,
                                         uint32_t thread) {
  return std::make_unique<IdleWorker>(options, network, thread);
}

}  // namespace culvert::load
