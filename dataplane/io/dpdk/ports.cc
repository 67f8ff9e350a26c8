#include "dataplane/io/dpdk/ports.h"

#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_mempool.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <stdexcept>
#include <string_view>

#include "dataplane/io/dpdk/xdp_program.h"
#include "dataplane/steer/client.h"

namespace culvert {

namespace {

// DPDK's compile-time maximum; a burst of 64 must be well below it (architecture.md 5.5).
constexpr unsigned kPoolCache = RTE_MEMPOOL_CACHE_MAX_SIZE;
constexpr std::string_view kAfXdp = "net_af_xdp";

[[noreturn]] void fail(const Port& port, const std::string& what, int error) {
  throw std::runtime_error("port " + port.name + " (" + port.driver + "): " + what + ": " +
                           rte_strerror(std::abs(error)));
}

void must(const Port& port, const std::string& what, int result) {
  if (result < 0) fail(port, what, result);
}

// Drivers whose port is an interface that the kernel goes on serving. Not net_tap, whose interface
// is the other end of the wire.
[[nodiscard]] bool shares_interface(std::string_view driver) {
  constexpr std::array<std::string_view, 4> kNames = {"net_af_xdp", "net_af_packet", "mlx5_pci",
                                                      "net_mlx4"};
  return std::find(kNames.begin(), kNames.end(), driver) != kNames.end();
}

[[nodiscard]] PortKernel kernel_of(const Port& port, PortKernelChoice choice) {
  const bool on_interface = port.if_index != 0;
  switch (choice) {
    case PortKernelChoice::kNobody:
      return PortKernel::kNobody;
    case PortKernelChoice::kTap:
      return PortKernel::kTap;
    case PortKernelChoice::kAuto:
      return on_interface ? PortKernel::kInterface : PortKernel::kTap;
    case PortKernelChoice::kInterface:
      break;
  }
  if (!on_interface)
    throw std::runtime_error("port " + port.name + " (" + port.driver +
                             ") stands on no interface that the kernel keeps: give dpdk.kernel = "
                             "\"tap\", \"auto\" or \"none\"");
  return PortKernel::kInterface;
}

[[nodiscard]] uint64_t udp_rss(const rte_eth_dev_info& info) {
  return info.flow_type_rss_offloads &
         (RTE_ETH_RSS_NONFRAG_IPV4_UDP | RTE_ETH_RSS_NONFRAG_IPV6_UDP);
}

// Best effort: without it the ports' own spread stays, and cores hand over.
[[nodiscard]] bool program_redirection(const Port& port, const rte_eth_dev_info& info,
                                       CoreId cores) {
  if (info.reta_size == 0 || info.reta_size % kRedirectionEntries != 0) return false;
  std::vector<rte_eth_rss_reta_entry64> table(info.reta_size / RTE_ETH_RETA_GROUP_SIZE);
  for (uint32_t i = 0; i < info.reta_size; ++i) {
    rte_eth_rss_reta_entry64& group = table[i / RTE_ETH_RETA_GROUP_SIZE];
    group.mask = UINT64_MAX;
    group.reta[i % RTE_ETH_RETA_GROUP_SIZE] = redirection(i, cores);
  }
  return rte_eth_dev_rss_reta_update(port.id, table.data(), info.reta_size) == 0;
}

// Frames of a queue that nobody serves would go to the kernel, which refuses them; so every queue
// of the interface must be a core's.
void check_af_xdp(const Port& port, CoreId cores) {
  XdpProgram::expect_none(port.if_index);
  const std::string name = interface_name(port.if_index);
  const size_t members = port.ethdevs.size();
  if (members > cores)
    throw std::runtime_error(name + " has " + std::to_string(members) + " ports (--vdev), but " +
                             std::to_string(cores) +
                             " fast cores: give each queue a core (cores), or the interface fewer "
                             "queues (ethtool -L)");
  const unsigned served = members > 1 ? static_cast<unsigned>(members) : port.rx_queues;
  const unsigned queues = interface_queues(port.if_index);
  if (queues > served)
    throw std::runtime_error(
        name + " has " + std::to_string(queues) + " receive queues, and the relay would serve " +
        std::to_string(served) + ": give one --vdev=net_af_xdpN,iface=" + name +
        ",start_queue=N and one fast core for each, or the interface fewer queues (ethtool -L " +
        name + " combined N)");
}

}  // namespace

// Those that belong to another driver (the members of a bond) are skipped.
void DpdkPorts::gather_ethdevs() {
  for (uint64_t id = rte_eth_find_next_owned_by(0, RTE_ETH_DEV_NO_OWNER); id < RTE_MAX_ETHPORTS;
       id = rte_eth_find_next_owned_by(static_cast<uint16_t>(id + 1), RTE_ETH_DEV_NO_OWNER)) {
    Port port;
    port.id = static_cast<uint16_t>(id);
    char name[RTE_ETH_NAME_MAX_LEN] = {};
    if (rte_eth_dev_get_name_by_port(port.id, name) == 0) port.name = name;
    rte_eth_dev_info info{};
    must(port, "cannot be asked what it can do", rte_eth_dev_info_get(port.id, &info));
    port.driver = info.driver_name != nullptr ? info.driver_name : "?";
    if (shares_interface(port.driver)) port.if_index = info.if_index;
    const auto same = [&](const Port& other) {
      return other.driver == kAfXdp && port.driver == kAfXdp && other.if_index == port.if_index;
    };
    const auto first = std::find_if(ports_.begin(), ports_.end(), same);
    if (first != ports_.end()) {
      first->ethdevs.push_back(port.id);
      continue;
    }
    port.ethdevs = {port.id};
    port.kernel = kernel_of(port, options_.kernel);
    ports_.push_back(std::move(port));
  }
}

DpdkPorts::DpdkPorts(const PortsOptions& options)
    : options_(options), fragments_(options.fragment_key) {
  gather_ethdevs();
  if (ports_.empty())
    throw std::runtime_error(
        "EAL found no port: name one in dpdk.eal, such as --vdev=net_af_packet0,iface=eth1 or "
        "-a 0000:3b:00.0 (and install its driver, such as librte-net-af-packet)");
  if (ports_.size() > kMaxPorts)
    throw std::runtime_error("EAL found " + std::to_string(ports_.size()) + " ports; at most " +
                             std::to_string(kMaxPorts) + " are served: name them with -a");
  try {
    for (Port& port : ports_)
      configure(port);
    for (Port& port : ports_)
      start(port);
  } catch (...) {
    close();
    throw;
  }
}

DpdkPorts::~DpdkPorts() {
  close();
}

void DpdkPorts::close() {
  const auto beside = [](const Port& port) {
    return port.driver == kAfXdp && port.kernel == PortKernel::kInterface;
  };
  if (std::any_of(ports_.begin(), ports_.end(), beside)) {
    silence_xdp_libraries();
    (void)rte_log_set_level_pattern("pmd.net.af_xdp", RTE_LOG_CRIT);
  }
  for (Port& port : ports_) {
    port.rules = FlowRules();
    for (const uint16_t id : port.ethdevs) {
      (void)rte_eth_dev_stop(id);
      (void)rte_eth_dev_close(id);
    }
    for (rte_mempool* pool : port.pools)
      rte_mempool_free(pool);
    port.pools.clear();
  }
  ports_.clear();
}

void DpdkPorts::configure(Port& port) {
  rte_eth_dev_info info{};
  must(port, "cannot be asked what it can do", rte_eth_dev_info_get(port.id, &info));
  const auto several = static_cast<uint16_t>(port.ethdevs.size() > 1 ? port.ethdevs.size() : 0);
  const auto queues = [&](uint16_t most) {
    return std::min<uint16_t>(options_.cores, several != 0 ? several : std::max<uint16_t>(most, 1));
  };
  port.rx_queues = queues(info.max_rx_queues);
  port.tx_queues = queues(info.max_tx_queues);
  if (port.driver == kAfXdp) check_af_xdp(port, options_.cores);
  port.shared_tx = port.tx_queues < options_.cores;
  port.locks = std::make_unique<QueueLock[]>(port.tx_queues);
  (void)rte_eth_dev_get_mtu(port.id, &port.mtu);

  constexpr uint64_t kChecksums = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
  const uint64_t rx_offloads = info.rx_offload_capa & kChecksums;
  port.verifies_checksums = rx_offloads == kChecksums;
  // Only where all buffers of a queue come from one pool: frames of another port come from another.
  const bool one_pool = ports_.size() == 1 && !port.shared_tx;
  const uint64_t tx_offloads =
      one_pool ? info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE : 0;

  rte_eth_conf conf{};
  conf.rxmode.offloads = rx_offloads;
  conf.txmode.offloads = tx_offloads;
  port.rss =
      port.rx_queues > 1 && udp_rss(info) != 0 && info.hash_key_size == options_.rss_key.size();
  if (port.rss) {
    conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
    conf.rx_adv_conf.rss_conf.rss_key = options_.rss_key.data();
    conf.rx_adv_conf.rss_conf.rss_key_len = static_cast<uint8_t>(options_.rss_key.size());
    conf.rx_adv_conf.rss_conf.rss_hf = udp_rss(info);
  }
  for (const uint16_t id : port.ethdevs)
    must(port, "cannot be configured",
         rte_eth_dev_configure(id, several != 0 ? 1 : port.rx_queues,
                               several != 0 ? 1 : port.tx_queues, &conf));
  make_pools(port);
  set_up_queues(port, rx_offloads, tx_offloads);
}

namespace {

// net_af_xdp gives the kernel as much memory as the buffers have bytes, from the first one on. A
// pool as usual leaves gaps, so that none crosses a page, and what lies behind the gaps would be
// lost in sending and receiving: nearly half of the buffers with --no-huge.
[[nodiscard]] rte_mempool* make_pool_without_gaps(const char* name, uint32_t count, uint16_t room,
                                                  int socket) {
  const auto element = static_cast<unsigned>(sizeof(rte_mbuf) + room);
  rte_mempool* pool =
      rte_mempool_create_empty(name, count, element, kPoolCache, sizeof(rte_pktmbuf_pool_private),
                               socket, RTE_MEMPOOL_F_NO_IOVA_CONTIG);
  if (pool == nullptr) return nullptr;
  rte_pktmbuf_pool_private about{};
  about.mbuf_data_room_size = room;
  if (rte_mempool_set_ops_byname(pool, rte_mbuf_best_mempool_ops(), nullptr) != 0) {
    rte_mempool_free(pool);
    return nullptr;
  }
  rte_pktmbuf_pool_init(pool, &about);
  if (rte_mempool_populate_default(pool) < 0 || pool->nb_mem_chunks != 1) {
    rte_mempool_free(pool);
    return nullptr;
  }
  (void)rte_mempool_obj_iter(pool, rte_pktmbuf_init, nullptr);
  // Such a pool knows no addresses for devices; another port, which reads them, may send the frame.
  if (rte_eal_iova_mode() == RTE_IOVA_VA)
    (void)rte_mempool_obj_iter(
        pool,
        [](rte_mempool*, void*, void* object, unsigned) {
          auto* mbuf = static_cast<rte_mbuf*>(object);
          rte_mbuf_iova_set(mbuf, reinterpret_cast<uintptr_t>(mbuf->buf_addr));
        },
        nullptr);
  return pool;
}

}  // namespace

// Enough for full queues both ways, every core's cache and a burst in hand.
void DpdkPorts::make_pools(Port& port) {
  const size_t in_flight =
      2u * options_.descriptors + 2 * kPoolCache + 4 * kMaxBurst + options_.extra_buffers;
  const auto count = static_cast<uint32_t>(std::bit_ceil(in_flight) - 1);
  const auto room = static_cast<uint16_t>(
      std::max<uint32_t>(options_.buffer_bytes,
                         std::bit_ceil<uint32_t>(port.mtu + frame::kMaxHeaders)) +
      RTE_PKTMBUF_HEADROOM);
  for (CoreId core = 0; core < options_.cores; ++core) {
    const std::string name = "culvert_" + std::to_string(port.id) + "_" + std::to_string(core);
    const int socket = rte_eth_dev_socket_id(port.id);
    rte_mempool* pool =
        port.driver == kAfXdp
            ? make_pool_without_gaps(name.c_str(), count, room, socket)
            : rte_pktmbuf_pool_create(name.c_str(), count, kPoolCache, 0, room, socket);
    if (pool == nullptr)
      throw std::runtime_error("port " + port.name + ": no memory for " + std::to_string(count) +
                               " buffers of " + std::to_string(room) +
                               " bytes: reserve more hugepages (docs/deployment.md)");
    port.pools.push_back(pool);
  }
}

void DpdkPorts::set_up_queues(Port& port, uint64_t rx_offloads, uint64_t tx_offloads) {
  uint16_t rx_descriptors = options_.descriptors;
  uint16_t tx_descriptors = options_.descriptors;
  must(port, "does not take its queue sizes",
       rte_eth_dev_adjust_nb_rx_tx_desc(port.id, &rx_descriptors, &tx_descriptors));
  rte_eth_dev_info info{};
  must(port, "cannot be asked what it can do", rte_eth_dev_info_get(port.id, &info));
  const auto socket = static_cast<unsigned>(rte_eth_dev_socket_id(port.id));
  rte_eth_rxconf rx = info.default_rxconf;
  rx.offloads = rx_offloads;
  rte_eth_txconf tx = info.default_txconf;
  tx.offloads = tx_offloads;
  for (uint16_t q = 0; q < port.rx_queues; ++q) {
    const PortQueue at = port.queue(q);
    must(port, "cannot set up receiving queue " + std::to_string(q),
         rte_eth_rx_queue_setup(at.id, at.queue, rx_descriptors, socket, &rx, port.pools[q]));
  }
  for (uint16_t q = 0; q < port.tx_queues; ++q) {
    const PortQueue at = port.queue(q);
    must(port, "cannot set up sending queue " + std::to_string(q),
         rte_eth_tx_queue_setup(at.id, at.queue, tx_descriptors, socket, &tx));
  }
}

void DpdkPorts::start(Port& port) {
  for (const uint16_t id : port.ethdevs)
    must(port, "cannot be started", rte_eth_dev_start(id));
  rte_ether_addr mac{};
  must(port, "has no link address", rte_eth_macaddr_get(port.id, &mac));
  std::copy_n(mac.addr_bytes, port.mac.size(), port.mac.begin());
  // Neighbour solicitations come to group addresses. Ports that cannot filter say so. An interface
  // of the kernel's stays as it is.
  if (port.kernel != PortKernel::kInterface && rte_eth_allmulticast_enable(port.id) != 0)
    (void)rte_eth_promiscuous_enable(port.id);
  if (port.rss) {
    rte_eth_dev_info info{};
    must(port, "cannot be asked what it can do", rte_eth_dev_info_get(port.id, &info));
    port.rss = program_redirection(port, info, options_.cores);
  }
  if (port.rx_queues == options_.cores)
    port.rules = FlowRules(port.id, {options_.relays, options_.relay_port_low,
                                     options_.relay_port_high, options_.cores});
}

namespace {

// Of all its ethdevs; false: one does not tell.
[[nodiscard]] bool stats_of(const Port& port, rte_eth_stats& sum) {
  for (const uint16_t id : port.ethdevs) {
    rte_eth_stats stats{};
    if (rte_eth_stats_get(id, &stats) != 0) return false;
    sum.ipackets += stats.ipackets;
    sum.ibytes += stats.ibytes;
    sum.opackets += stats.opackets;
    sum.obytes += stats.obytes;
    sum.imissed += stats.imissed;
    sum.rx_nombuf += stats.rx_nombuf;
    sum.ierrors += stats.ierrors;
    sum.oerrors += stats.oerrors;
  }
  return true;
}

}  // namespace

uint32_t DpdkPorts::read_stats(std::span<PortStats> to) const {
  const size_t count = std::min(ports_.size(), to.size());
  for (size_t i = 0; i < count; ++i) {
    const Port& port = ports_[i];
    PortStats& out = to[i];
    if (out.name[0] == 0) {
      std::copy_n(port.name.begin(), std::min(port.name.size(), out.name.size() - 1),
                  out.name.begin());
      std::copy_n(port.driver.begin(), std::min(port.driver.size(), out.driver.size() - 1),
                  out.driver.begin());
    }
    rte_eth_stats stats{};
    if (!stats_of(port, stats)) continue;
    rte_eth_link link{};
    const bool asked = rte_eth_link_get_nowait(port.id, &link) == 0;
    out.received_packets.set(stats.ipackets);
    out.received_bytes.set(stats.ibytes);
    out.sent_packets.set(stats.opackets);
    out.sent_bytes.set(stats.obytes);
    out.missed.set(stats.imissed);
    out.no_buffer.set(stats.rx_nombuf);
    out.receive_errors.set(stats.ierrors);
    out.send_errors.set(stats.oerrors);
    out.link_up.set(asked && link.link_status == RTE_ETH_LINK_UP ? 1 : 0);
  }
  return static_cast<uint32_t>(count);
}

}  // namespace culvert
