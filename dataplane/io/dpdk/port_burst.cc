#include "dataplane/io/dpdk/port_burst.h"

#include <rte_ethdev.h>
#include <rte_mbuf.h>

namespace culvert {

namespace {

[[nodiscard]] PortBurst::Sum sum_of(const rte_mbuf& mbuf) {
  using Sum = PortBurst::Sum;
  const uint64_t ip = mbuf.ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK;
  const uint64_t l4 = mbuf.ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK;
  if (ip == RTE_MBUF_F_RX_IP_CKSUM_BAD || l4 == RTE_MBUF_F_RX_L4_CKSUM_BAD) return Sum::kBad;
  if (l4 == RTE_MBUF_F_RX_L4_CKSUM_GOOD) return Sum::kGood;
  return l4 == RTE_MBUF_F_RX_L4_CKSUM_NONE ? Sum::kUnfilled : Sum::kUnchecked;
}

}  // namespace

PortBurst::PortBurst(Port& port) : port_(port), out_(port.tx_queues) {
  const size_t room = rte_pktmbuf_data_room_size(port.pools[0]);
  longest_body_ = room > frame::kMaxHeaders ? room - frame::kMaxHeaders : 0;
}

PortBurst::~PortBurst() {
  release_received();
  for (Queue& queue : out_)
    rte_pktmbuf_free_bulk(queue.frames.data(), queue.count);
  rte_pktmbuf_free_bulk(spares_.data(), static_cast<unsigned>(spare_));
  if (begun_ != nullptr) rte_pktmbuf_free(begun_);
}

void PortBurst::release_received() {
  unsigned left = 0;
  for (uint16_t i = 0; i < received_; ++i)
    if (mbufs_[i] != nullptr) mbufs_[left++] = mbufs_[i];
  rte_pktmbuf_free_bulk(mbufs_.data(), left);
  received_ = 0;
}

std::span<const PortBurst::Frame> PortBurst::receive(uint16_t queue) {
  if (received_ != 0) release_received();
  const PortQueue at = port_.queue(queue);
  const uint16_t got = rte_eth_rx_burst(at.id, at.queue, mbufs_.data(), kMaxBurst);
  for (uint16_t i = 0; i < got; ++i) {
    rte_mbuf* mbuf = mbufs_[i];
    // Longer than one buffer and too long to be put into one: no frame that we could read.
    const bool whole = mbuf->nb_segs == 1 || rte_pktmbuf_linearize(mbuf) == 0;
    frames_[i] = {rte_pktmbuf_mtod(mbuf, uint8_t*), whole ? mbuf->data_len : 0u, sum_of(*mbuf)};
  }
  received_ = got;
  return {frames_.data(), got};
}

uint8_t* PortBurst::body(size_t size) {
  if (begun_ == nullptr && spare_ == 0) {
    if (rte_pktmbuf_alloc_bulk(port_.pools[0], spares_.data(), kMaxBurst) == 0) spare_ = kMaxBurst;
  }
  if (size > longest_body_ || (begun_ == nullptr && spare_ == 0)) {
    ++no_buffer_;
    return nullptr;
  }
  if (begun_ == nullptr) begun_ = spares_[--spare_];
  // From the very beginning of the buffer: the headroom is not needed.
  return static_cast<uint8_t*>(begun_->buf_addr) + frame::kMaxHeaders;
}

void PortBurst::send_body(uint16_t queue, size_t headers, size_t size) {
  rte_mbuf* mbuf = begun_;
  begun_ = nullptr;
  mbuf->data_off = static_cast<uint16_t>(frame::kMaxHeaders - headers);
  mbuf->data_len = static_cast<uint16_t>(headers + size);
  mbuf->pkt_len = mbuf->data_len;
  stage(queue, mbuf);
}

void PortBurst::send_back(uint16_t queue, size_t index) {
  rte_mbuf* mbuf = mbufs_[index];
  mbufs_[index] = nullptr;
  mbuf->ol_flags = 0;
  stage(queue, mbuf);
}

void PortBurst::stage(uint16_t queue, rte_mbuf* mbuf) {
  Queue& out = out_[queue];
  out.frames[out.count++] = mbuf;
  if (out.count == out.frames.size()) send(queue);
}

void PortBurst::send(uint16_t queue) {
  Queue& out = out_[queue];
  const PortQueue at = port_.queue(queue);
  const uint16_t sent = rte_eth_tx_burst(at.id, at.queue, out.frames.data(), out.count);
  if (sent < out.count) [[unlikely]] {
    refused_ += static_cast<uint64_t>(out.count - sent);
    rte_pktmbuf_free_bulk(&out.frames[sent], static_cast<unsigned>(out.count - sent));
  }
  out.count = 0;
}

void PortBurst::flush() {
  for (uint16_t queue = 0; queue < out_.size(); ++queue)
    if (out_[queue].count != 0) send(queue);
}

}  // namespace culvert
