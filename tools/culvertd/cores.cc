#include "tools/culvertd/cores.h"

#ifdef CULVERT_HAVE_JEMALLOC
#include <jemalloc/jemalloc.h>
#endif

#include <algorithm>

#include "control/turn_server.h"
#include "dataplane/io/sockets/sockets_driver.h"
#include "tools/culvertd/worker_threads.h"

namespace culvert {

namespace {

[[nodiscard]] bool any_ipv6(const Config& config) {
  const auto v6 = [](const IpAddress& ip) { return ip.is_v6(); };
  return std::any_of(config.relay_addresses.begin(), config.relay_addresses.end(),
                     [&](const RelayAddressConfig& a) { return v6(a.bound); }) ||
         std::any_of(config.listeners.begin(), config.listeners.end(),
                     [&](const ListenConfig& l) { return v6(l.address.ip); });
}

[[nodiscard]] bool any_ipv4(const Config& config) {
  return std::any_of(config.relay_addresses.begin(), config.relay_addresses.end(),
                     [](const RelayAddressConfig& a) { return a.bound.is_v4(); });
}

}  // namespace

CoreLimits core_limits(const Config& config, const DerivedLimits& derived) {
  CoreLimits limits;
  limits.allocations = derived.per_core_allocations;
  limits.permissions = derived.per_core_allocations * kPermissionsPerAllocation;
  const uint32_t channels = derived.per_core_allocations * kChannelsPerAllocation;
  limits.narrow_channels = any_ipv4(config) ? channels : 1;
  limits.wide_channels = any_ipv6(config) ? channels : 0;
  // One bucket a user at most, and never more users with an allocation than allocations. Also where
  // nobody is limited: a reload may begin.
  limits.policers = config.limits.max_allocations + 1;
  limits.count_policers =
      derived.cores > 1;  // also for the whole relay's, which a reload may begin
  limits.relay_port_low = config.relay_port_low;
  limits.relay_port_high = config.relay_port_high;
  limits.addresses = static_cast<uint16_t>(config.relay_addresses.size() + config.listeners.size());
  return limits;
}

ResourceCosts resource_costs(const Config& config) {
  CoreLimits one;
  one.allocations = 1024;
  one.permissions = one.allocations * kPermissionsPerAllocation;
  one.narrow_channels = one.allocations * kChannelsPerAllocation;
  one.wide_channels = any_ipv6(config) ? one.narrow_channels : 0;
  ResourceCosts costs;
  costs.bytes_per_allocation =
      FlowState::table_bytes(one) / one.allocations + kControlBytesPerAllocation;
  const size_t ports = size_t{config.relay_port_high} - config.relay_port_low + 1;
  const size_t addresses = config.relay_addresses.size() + config.listeners.size();
  costs.bytes_per_core = ReplyBudgetBuckets::bytes_for() + ports * addresses * sizeof(PortEntry) +
                         (kCommandRingSlots + kEventRingSlots) * sizeof(RingSlot);
  if (config.driver == "dpdk") costs.fds_per_relayed_port = costs.fds_per_listener_and_core = 0;
  return costs;
}

const uint64_t* heap_bytes_of_this_thread() {
#ifdef CULVERT_HAVE_JEMALLOC
  uint64_t* bytes = nullptr;
  size_t size = sizeof bytes;
  if (mallctl("thread.allocatedp", static_cast<void*>(&bytes), &size, nullptr, 0) == 0)
    return bytes;
#endif
  return nullptr;
}

CoreSeeds draw_seeds(crypto::Random& random) {
  return {{random.u64(), random.u64()}, {random.u64(), random.u64()}};
}

namespace {

class SocketCores final : public FastCores {
 public:
  SocketCores(RingEngine& engine, const Config& config, const DerivedLimits& derived)
      : limits_(core_limits(config, derived)),
        listeners_(engine.snapshot(), kListenerBufferBytes, kListenerBufferBytes),
        threads_(engine, limits_) {}
  ~SocketCores() override { threads_.stop(); }

  void start(crypto::Random& random) override {
    SocketsOptions options;
    // A relayed port per family, and one in four with a reservation beside it.
    options.max_relay_ports = limits_.allocations * 2 + limits_.allocations / 4;
    threads_.start(
        random,
        [&](RingEngine& engine, CoreId id) {
          return std::make_unique<SocketsDriver>(engine.snapshot(), id, listeners_, options);
        },
        [](Worker<SocketsDriver>& worker, CoreId) { worker.run(); });
  }
  void stop() override { threads_.stop(); }
  size_t table_bytes() const override { return threads_.table_bytes(); }

 private:
  CoreLimits limits_;
  ListenerSockets listeners_;
  WorkerThreads<SocketsDriver> threads_;
};

}  // namespace

std::unique_ptr<FastCores> make_cores(RingEngine& engine, const Config& config,
                                      const DerivedLimits& derived, crypto::Random& random) {
#ifdef CULVERT_HAVE_DPDK
  if (config.driver == "dpdk") return make_dpdk_cores(engine, config, derived, random);
#endif
  static_cast<void>(random);
  return std::make_unique<SocketCores>(engine, config, derived);
}

}  // namespace culvert
