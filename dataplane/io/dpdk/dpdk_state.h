// What the driver's source files share and nobody else sees: DPDK's types.
#pragma once

#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_pause.h>
#include <rte_prefetch.h>

#include <array>
#include <vector>

#include "dataplane/io/dpdk/dpdk_driver.h"

namespace culvert {

inline constexpr uint16_t kNoAddressIndex = 0xffff;

// nullptr: nothing is shared, and nothing is locked.
class QueueGuard {
 public:
  explicit QueueGuard(QueueLock* lock) : lock_(lock) {
    while (lock_ != nullptr && lock_->held.exchange(true, std::memory_order_acquire))
      rte_pause();
  }
  ~QueueGuard() {
    if (lock_ != nullptr) lock_->held.store(false, std::memory_order_release);
  }
  QueueGuard(const QueueGuard&) = delete;
  QueueGuard& operator=(const QueueGuard&) = delete;

 private:
  QueueLock* lock_;
};

// One port as one core uses it.
struct DpdkDriver::PortOfCore {
  PortOfCore(Port& p, uint8_t place, CoreId core)
      : shared(p),
        position(place),
        rx(p.queue(static_cast<uint16_t>(core % p.rx_queues))),
        tx(p.queue(static_cast<uint16_t>(core % p.tx_queues))),
        tx_lock(p.shared_tx ? &p.locks[core % p.tx_queues] : nullptr),
        receives(core < p.rx_queues),
        learns(p.kernel == PortKernel::kNobody),
        pool(p.pools[core]),
        frame_limit(p.mtu + frame::kEthernetHeader) {}

  Port& shared;
  uint8_t position;  // among the ports
  PortQueue rx;
  PortQueue tx;
  QueueLock* tx_lock;  // nullptr: the queue is this core's alone
  bool receives;
  bool learns;  // link addresses, from what it receives
  rte_mempool* pool;
  size_t frame_limit;
  host::Port host;
  std::vector<IpAddress> addresses;
  // A burst, and at most as many requests for link addresses.
  uint16_t queued = 0;
  std::array<rte_mbuf*, 2 * kMaxBurst> out{};
};

inline frame::Outgoing DpdkDriver::outgoing(const TxDatagram& tx, const Held* sum_from) {
  frame::Outgoing o;
  o.source = {addresses_[tx.from_address].bound, tx.from_port};
  o.destination = tx.to;
  o.ttl = tx.ttl;
  o.tos = tx.tos;
  o.dont_fragment = tx.dont_fragment;
  // RFC 6864: an atomic datagram's identification means nothing; others count, each core in a
  // residue class of its own.
  if (!tx.dont_fragment && tx.to.ip.is_v4())
    o.identification = static_cast<uint16_t>(++identification_ * cores_ + core_);
  o.body = sum_of(tx, sum_from);
  return o;
}

}  // namespace culvert
