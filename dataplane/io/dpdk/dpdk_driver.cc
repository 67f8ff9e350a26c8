#include "dataplane/io/dpdk/dpdk_driver.h"

#include <sys/prctl.h>
#include <time.h>

#include <algorithm>
#include <stdexcept>

#include "dataplane/io/dpdk/dpdk_state.h"

namespace culvert {

namespace {

// Open addressing with at least three free slots for each taken one.
constexpr size_t kAddressSlots = 4 * kMaxLocalAddresses;

[[nodiscard]] size_t address_hash(const IpAddress& ip) {
  const uint64_t high = load_be64(ip.bytes.data());
  const uint64_t low = load_be64(ip.bytes.data() + 8);
  return ((high ^ low * 0x9e3779b97f4a7c15u) * 0xc2b2ae3d27d4eb4fu >> 48) % kAddressSlots;
}

// Idle: so many polls find nothing before the core sleeps, and then a microsecond longer each time
// (Snabb's ladder, architecture.md 5.10).
constexpr uint32_t kPollsBeforeSleep = 1000;
constexpr uint32_t kMaxSleepUs = 100;

}  // namespace

DpdkDriver::DpdkDriver(const Snapshot& snapshot, CoreId core, DpdkPorts& ports,
                       NeighbourTable& neighbours, const DpdkOptions& options, CoreStats& stats)
    : stats_(stats),
      neighbours_(neighbours),
      own_routes_(options.addresses, options.gateways),
      core_(core),
      cores_(snapshot.cores),
      options_(options),
      port_low_(snapshot.relay_port_low),
      port_high_(snapshot.relay_port_high),
      fragments_(ports.fragments()) {
  for (Port& port : ports.ports()) {
    auto mine = std::make_unique<PortOfCore>(port, static_cast<uint8_t>(ports_.size()), core);
    for (const PortAddress& a : options.addresses)
      if (a.port == ports_.size()) mine->addresses.push_back(a.ip);
    mine->host = {port.mac, mine->addresses};
    ports_.push_back(std::move(mine));
  }
  whole_.resize(size_t{UINT16_MAX} + 1);
  quoted_.resize(frame::kMaxHeaders + frame::kMaxIcmpErrorIpv6);
  index_addresses(snapshot);
}

DpdkDriver::~DpdkDriver() {
  for (uint32_t i = 0; i < unresolved_count_; ++i)
    rte_pktmbuf_free(unresolved_[i].mbuf);
  release_held();
}

void DpdkDriver::index_addresses(const Snapshot& snapshot) {
  address_slots_.assign(kAddressSlots, kNoAddressIndex);
  for (const LocalAddress& local : snapshot.addresses) {
    const auto on_port = [&](const PortAddress& a) {
      return a.ip == local.bound && a.port < ports_.size();
    };
    if (std::none_of(options_.addresses.begin(), options_.addresses.end(), on_port))
      throw std::runtime_error(local.bound.to_string() +
                               " stands on no port: give --port-address " +
                               local.bound.to_string() + "/LENGTH[@PORT], with a PORT below " +
                               std::to_string(ports_.size()));
    size_t slot = address_hash(local.bound);
    while (address_slots_[slot] != kNoAddressIndex)
      slot = (slot + 1) % kAddressSlots;
    address_slots_[slot] = static_cast<uint16_t>(addresses_.size());
    addresses_.push_back({local.bound, local.relays, {}});
  }
  for (uint16_t i = 0; i < snapshot.listeners.size(); ++i) {
    const Listener& listener = snapshot.listeners[i];
    addresses_[listener.address].listeners.push_back({listener.port, i});
    listener_address_.push_back(listener.address);
  }
}

uint16_t DpdkDriver::address_index(const IpAddress& ip) const {
  for (size_t slot = address_hash(ip); address_slots_[slot] != kNoAddressIndex;
       slot = (slot + 1) % kAddressSlots)
    if (addresses_[address_slots_[slot]].bound == ip) return address_slots_[slot];
  return kNoAddressIndex;
}

Egress DpdkDriver::listener_egress(uint16_t listener) const {
  return listener_address_[listener];
}

// Every port of our own addresses is ours: there is nobody to take it from.
Egress DpdkDriver::open_relay_port(RelayLeg leg) {
  return leg.address < addresses_.size() ? Egress{leg.address} : kNoEgress;
}

Ticks DpdkDriver::now() {
  Ticks ticks = 0;
  if (options_.clock != nullptr) {
    ticks = *options_.clock;
  } else {
    // Control's clock: see SocketsDriver::now().
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    ticks = static_cast<Ticks>(static_cast<uint64_t>(time.tv_sec) * 1000 +
                               static_cast<uint64_t>(time.tv_nsec) / 1000000);
  }
  ticks_ = ticks;
  seconds_ = static_cast<uint16_t>(ticks / kTicksPerSecond);
  return ticks;
}

bool DpdkDriver::wait(uint32_t wait_us) {
  if (options_.busy || ++idle_polls_ < kPollsBeforeSleep) {
    rte_pause();
    return false;
  }
  if (sleep_us_ == 0) (void)prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);  // nanoseconds
  sleep_us_ = std::min({sleep_us_ + 1, kMaxSleepUs, std::max(wait_us, 1u)});
  const timespec time{0, static_cast<long>(sleep_us_) * 1000};
  (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &time, nullptr);
  return true;
}

bool DpdkDriver::host_budget() {
  if (budget_second_ != seconds_) {
    budget_second_ = seconds_;
    budget_left_ = kMaxHostAnswersPerSecond;
  }
  if (budget_left_ == 0) {
    count(FrameCounter::k_host_budget);
    return false;
  }
  --budget_left_;
  return true;
}

void DpdkDriver::handed_in(std::span<const RxDatagram> datagrams) {
  foreign_.count = foreign_.cursor = 0;
  for (const RxDatagram& rx : datagrams) {
    foreign_rx_[foreign_.count] = rx;
    Held& held = foreign_.items[foreign_.count++];
    held.mbuf = nullptr;
    held.begin = held.payload = rx.payload;
    held.end = rx.payload + rx.length;
    held.length = rx.length;
    held.sum = rx.payload_sum;
    held.sum_state = rx.sum_state;
  }
}

// Outgoing datagrams keep the order of arrival, and a second pass (hairpins) does too: the search
// goes on from where the last one ended and is one step long.
DpdkDriver::Held* DpdkDriver::HeldList::find(const uint8_t* payload) {
  for (uint32_t steps = 0; steps < count; ++steps) {
    if (cursor >= count) cursor = 0;
    Held& held = items[cursor];
    const auto offset = static_cast<uintptr_t>(payload - held.begin);
    if (offset <= static_cast<uintptr_t>(held.end - held.begin)) return &held;
    ++cursor;
  }
  return nullptr;
}

}  // namespace culvert
