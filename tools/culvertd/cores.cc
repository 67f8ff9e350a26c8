#include "tools/culvertd/cores.h"

#include <pthread.h>

#include <algorithm>
#include <string>

#include "control/turn_server.h"

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

[[nodiscard]] CoreSeeds draw_seeds(crypto::Random& random) {
  return {{random.u64(), random.u64()}, {random.u64(), random.u64()}};
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
  return costs;
}

SocketCores::SocketCores(RingEngine& engine, const Config& config, const DerivedLimits& derived)
    : engine_(engine),
      limits_(core_limits(config, derived)),
      listeners_(engine.snapshot(), kListenerBufferBytes, kListenerBufferBytes),
      cores_(engine.cores()) {}

SocketCores::~SocketCores() {
  stop();
}

void SocketCores::start(crypto::Random& random) {
  for (CoreId id = 0; id < cores_.size(); ++id) {
    SocketsOptions options;
    // A relayed port per family, and one in four with a reservation beside it.
    options.max_relay_ports = limits_.allocations * 2 + limits_.allocations / 4;
    Core& core = cores_[id];
    core.driver = std::make_unique<SocketsDriver>(engine_.snapshot(), id, listeners_, options);
    core.worker = std::make_unique<Worker<SocketsDriver>>(
        *core.driver, engine_.board(), id, limits_, draw_seeds(random), engine_.mutable_stats(id));
    engine_.set_policer_bytes(id, core.worker->core().flows.policer_bytes.data());
    engine_.board().cores[id]->waker = {
        [](void* driver) { static_cast<SocketsDriver*>(driver)->wake(); }, core.driver.get()};
    table_bytes_ += FlowState::table_bytes(limits_);
  }
  for (CoreId id = 0; id < cores_.size(); ++id) {
    Worker<SocketsDriver>* worker = cores_[id].worker.get();
    cores_[id].thread = std::thread([worker] { worker->run(); });
    const std::string name = "culvert-core" + std::to_string(id);
    (void)pthread_setname_np(cores_[id].thread.native_handle(), name.c_str());
  }
}

void SocketCores::stop() {
  engine_.board().stop.store(true, std::memory_order_relaxed);
  for (Core& core : cores_) {
    if (core.driver) core.driver->wake();
    if (core.thread.joinable()) core.thread.join();
  }
}

}  // namespace culvert
