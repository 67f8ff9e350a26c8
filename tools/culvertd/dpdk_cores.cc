// Fast cores on DPDK ports. EAL and the ports are opened here while the process is still
// privileged; the threads start afterwards, so that they have no more rights than control, and
// register with EAL, each pinned to its CPU.
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <bitset>
#include <cstdio>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "config/dpdk.h"
#include "config/interfaces.h"
#include "control/logging.h"
#include "dataplane/io/dpdk/dpdk_driver.h"
#include "dataplane/io/dpdk/eal.h"
#include "dataplane/io/dpdk/kernel_side.h"
#include "dataplane/io/dpdk/telemetry.h"
#include "dataplane/io/dpdk/xdp_program.h"
#include "tools/culvertd/worker_threads.h"

namespace culvert {

namespace {

void pin_to(uint32_t cpu) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(cpu, &cpus);
  // Refused only when the CPU has gone since; then the scheduler places the thread.
  (void)pthread_setaffinity_np(pthread_self(), sizeof cpus, &cpus);
}

[[nodiscard]] PortKernelChoice kernel_choice(KernelMode mode) {
  switch (mode) {
    case KernelMode::kAuto:
      return PortKernelChoice::kAuto;
    case KernelMode::kBeside:
      return PortKernelChoice::kInterface;
    case KernelMode::kTap:
      return PortKernelChoice::kTap;
    case KernelMode::kNone:
      break;
  }
  return PortKernelChoice::kNobody;
}

[[nodiscard]] PortsOptions ports_options(const RingEngine& engine, const DpdkConfig& config,
                                         crypto::Random& random) {
  PortsOptions options;
  options.cores = engine.cores();
  options.kernel = kernel_choice(config.kernel);
  const Snapshot& snapshot = engine.snapshot();
  options.rss_key = snapshot.steering.key;
  for (const LocalAddress& address : snapshot.addresses)
    if (address.relays) options.relays.push_back(address.bound);
  options.relay_port_low = snapshot.relay_port_low;
  options.relay_port_high = snapshot.relay_port_high;
  options.fragment_key = {random.u64(), random.u64()};
  return options;
}

[[nodiscard]] DpdkOptions driver_options(const DpdkConfig& config) {
  DpdkOptions options;
  for (const PortAddressConfig& a : config.port_addresses)
    options.addresses.push_back({a.ip, a.prefix_bits, a.port});
  options.gateways = config.gateways;
  options.busy = config.idle == IdlePolicy::kBusy;
  return options;
}

// Beside the kernel, addresses are its own too, on whichever interface: it answers for them.
void expect_kernel_addresses(const DpdkConfig& config, const std::vector<Port>& ports) {
  const std::vector<IpAddress> known = read_machine_addresses().addresses;
  for (const PortAddressConfig& a : config.port_addresses) {
    if (a.port >= ports.size() || ports[a.port].kernel != PortKernel::kInterface) continue;
    if (std::find(known.begin(), known.end(), a.ip) != known.end()) continue;
    const std::string name = interface_name(ports[a.port].if_index);
    throw std::runtime_error("the kernel, which shall answer for " + a.ip.to_string() +
                             " (dpdk.kernel), does not have it: ip address add " +
                             a.ip.to_string() + "/" + std::to_string(a.prefix_bits) + " dev " +
                             name + ", and ip link set " + name + " up");
  }
}

// Whether the kernel may choose a port of [low, high] for a socket of its own, whose answers would
// come to the relay. Both families draw from the one range.
[[nodiscard]] bool kernel_may_choose(uint32_t low, uint32_t high) {
  uint32_t first = 0;
  uint32_t last = 0;
  if (!(std::ifstream("/proc/sys/net/ipv4/ip_local_port_range") >> first >> last)) return false;
  std::ifstream in("/proc/sys/net/ipv4/ip_local_reserved_ports");
  std::bitset<65536> reserved;
  for (std::string part; std::getline(in, part, ',');) {
    unsigned from = 0;
    unsigned to = 0;
    const int found = std::sscanf(part.c_str(), "%u-%u", &from, &to);
    if (found == 1) to = from;
    for (unsigned port = from; found > 0 && port <= to && port < reserved.size(); ++port)
      reserved.set(port);
  }
  for (uint32_t port = std::max(low, first); port <= std::min({high, last, 65535u}); ++port)
    if (!reserved.test(port)) return true;
  return false;
}

[[nodiscard]] std::string_view kernel_name(PortKernel kernel) {
  switch (kernel) {
    case PortKernel::kNobody:
      return "none";
    case PortKernel::kInterface:
      return "beside";
    case PortKernel::kTap:
      return "tap";
  }
  return "";
}

class DpdkCores final : public FastCores {
 public:
  DpdkCores(RingEngine& engine, const Config& config, const DerivedLimits& derived,
            crypto::Random& random)
      : cpus_(own_cpus()),
        relay_port_low_(config.relay_port_low),
        relay_port_high_(config.relay_port_high),
        eal_(eal_arguments(config.dpdk, cpus_)),
        telemetry_(engine.stats_memory().header(), engine.stats_memory().cores(),
                   engine.stats_memory().ports()),
        ports_(ports_options(engine, config.dpdk, random)),
        neighbours_(random.u64()),
        options_(driver_options(config.dpdk)),
        threads_(engine, core_limits(config, derived)) {
    expect_kernel_addresses(config.dpdk, ports_.ports());
    if (config.dpdk.kernel != KernelMode::kNone) {
      kernel_ = std::make_unique<KernelSide>(ports_, options_.addresses, options_.gateways,
                                             neighbours_, engine.cores());
      options_.routes = &kernel_->routes();
      options_.exception = &kernel_->exception();
    }
    for (const NeighbourConfig& n : config.dpdk.neighbours)
      if (!neighbours_.learn(n.ip, {n.mac, n.port}, 0, NeighbourTable::Origin::kConfigured))
        throw std::runtime_error("dpdk.neighbours: there is no room for " + n.ip.to_string());
    for (size_t i = 0; i < ports_.ports().size(); ++i) {
      const Port& port = ports_.ports()[i];
      if (port.kernel == PortKernel::kInterface && port.driver == "net_af_xdp")
        beside_kernel_.push_back({i, interface_name(port.if_index),
                                  std::make_unique<XdpProgram>(engine.snapshot(), port.if_index)});
    }
    // Before threads start, so that an address without a port ends the start and not a core.
    CoreStats unused;
    const DpdkDriver probe(engine.snapshot(), 0, ports_, neighbours_, options_, unused);
  }
  ~DpdkCores() override { stop(); }

  void start(crypto::Random& random) override {
    if (kernel_) kernel_->start();
    threads_.start(
        random,
        [&](RingEngine& engine, CoreId id) {
          return std::make_unique<DpdkDriver>(engine.snapshot(), id, ports_, neighbours_, options_,
                                              engine.mutable_stats(id));
        },
        [this](Worker<DpdkDriver>& worker, CoreId id) {
          pin_to(cpu_of_core(id, cpus_));
          const EalThread known;
          worker.run();
        });
  }
  void stop() override {
    threads_.stop();
    if (kernel_) kernel_->stop();
  }
  size_t table_bytes() const override { return threads_.table_bytes(); }

  uint32_t read_ports(std::span<PortStats> to) const override {
    const uint32_t count = ports_.read_stats(to);
    for (const BesideKernel& beside : beside_kernel_)
      if (beside.port < count) tell(*beside.program, to[beside.port]);
    return count;
  }

  void describe(Logger& log) const override {
    warn(log);
    log.info("packet I/O", {{"library", Eal::version()}});
    for (const Port& port : ports_.ports())
      log.info("port", {{"name", port.name},
                        {"driver", port.driver},
                        {"link_address", format_mac(port.mac)},
                        {"mtu", port.mtu},
                        {"receive_queues", port.rx_queues},
                        {"send_queues", port.tx_queues},
                        {"verifies_checksums", port.verifies_checksums},
                        {"rss", port.rss},
                        {"port_rules", FlowRules::name(port.rules.method())},
                        {"port_rules_count", port.rules.count()},
                        {"kernel", kernel_name(port.kernel)}});
    if (!kernel_) return;
    for (const MirroredInterface& interface : kernel_->interfaces())
      log.info("kernel beside",
               {{"port", ports_.ports()[interface.port].name}, {"interface", interface.name}});
    if (const size_t left_out = kernel_->routes_left_out(); left_out != 0)
      log.warning("too many routes: only networks on a link and default routes are used",
                  {{"left_out", left_out}, {"limit", kMaxRoutes}});
  }

  void warn(Logger& log) const {
    const auto has_kernel = [](const Port& port) { return port.kernel != PortKernel::kNobody; };
    const std::string range =
        std::to_string(relay_port_low_) + "-" + std::to_string(relay_port_high_);
    if (std::any_of(ports_.ports().begin(), ports_.ports().end(), has_kernel) &&
        kernel_may_choose(relay_port_low_, relay_port_high_))
      log.warning(
          "the kernel may choose relayed ports for its own sockets, whose answers would come to "
          "the "
          "relay: sysctl -w net.ipv4.ip_local_reserved_ports=" +
          range + " (with what is reserved already)");
  }

  void report(Logger& log) const override {
    for (const BesideKernel& beside : beside_kernel_) {
      const XdpProgram::Counts counts = beside.program->counts();
      log.info("XDP program", {{"interface", beside.interface},
#define X(name, to_us, text) {#name, counts[RELAY_XDP_##name]},
                               RELAY_XDP_VERDICTS(X)
#undef X
                              });
    }
  }

 private:
  static void tell(const XdpProgram& program, PortStats& to) {
    const XdpProgram::Counts counts = program.counts();
    uint64_t by_fate[2] = {0, 0};
#define X(name, to_us, text) by_fate[to_us] += counts[RELAY_XDP_##name];
    RELAY_XDP_VERDICTS(X)
#undef X
    to.xdp_passed.set(by_fate[0]);
    to.xdp_redirected.set(by_fate[1]);
    to.xdp_malformed.set(counts[RELAY_XDP_malformed]);
    to.xdp_no_socket.set(counts[RELAY_XDP_no_socket]);
  }

  struct BesideKernel {
    size_t port = 0;
    std::string interface;
    std::unique_ptr<XdpProgram> program;
  };

  std::vector<uint32_t> cpus_;
  uint16_t relay_port_low_;
  uint16_t relay_port_high_;
  Eal eal_;
  Telemetry telemetry_;
  DpdkPorts ports_;
  NeighbourTable neighbours_;
  DpdkOptions options_;
  std::unique_ptr<KernelSide> kernel_;
  std::vector<BesideKernel> beside_kernel_;  // gone before the ports close
  WorkerThreads<DpdkDriver> threads_;
};

}  // namespace

std::unique_ptr<FastCores> make_dpdk_cores(RingEngine& engine, const Config& config,
                                           const DerivedLimits& derived, crypto::Random& random) {
  return std::make_unique<DpdkCores>(engine, config, derived, random);
}

}  // namespace culvert
