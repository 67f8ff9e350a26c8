// Whole frames in and out of one port, for a program that plays the network itself (culvert-load):
// the port's queues as DpdkPorts set them up, without a datagram path above. A few queues of both
// directions, used by one thread; whoever sends chooses the queue of each frame.
//
// Invariants: nothing is allocated after construction but buffers from the port's pool; a received
// frame belongs to this object until the next receive(); a frame that the port does not take is
// counted and lost, as on a wire. Cost: a burst in one call of the port; frames for sending are
// written where they are sent from.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "dataplane/api/limits.h"
#include "dataplane/io/dpdk/ports.h"

struct rte_mbuf;

namespace culvert {

class PortBurst {
 public:
  // What the port says about the frame's checksums.
  enum class Sum : uint8_t {
    kUnchecked,
    kGood,
    kBad,
    kUnfilled,  // never computed: it came from a sender on this host
  };
  struct Frame {
    uint8_t* data = nullptr;  // Ethernet, without FCS
    uint32_t size = 0;
    Sum sum = Sum::kUnchecked;
  };

  explicit PortBurst(Port& port);
  ~PortBurst();
  PortBurst(const PortBurst&) = delete;
  PortBurst& operator=(const PortBurst&) = delete;

  [[nodiscard]] const Port& port() const { return port_; }
  [[nodiscard]] uint16_t rx_queues() const { return port_.rx_queues; }
  [[nodiscard]] uint16_t tx_queues() const { return port_.tx_queues; }

  // Up to kMaxBurst frames of one queue; those of the call before are gone.
  [[nodiscard]] std::span<const Frame> receive(uint16_t queue);

  // Room for a body of `size` bytes with frame::kMaxHeaders before it; nullptr: no buffer is free,
  // or none is so long. What was written there goes out by send_body(), else by the next body().
  [[nodiscard]] uint8_t* body(size_t size);
  // The frame that ends where the body of the last body() ends, `headers` bytes before its
  // beginning.
  void send_body(uint16_t queue, size_t headers, size_t size);
  // Frame `index` of the last receive(), as it is now; it is no longer readable.
  void send_back(uint16_t queue, size_t index);
  // Everything handed over leaves; frames wait at most until a queue has a burst of them.
  void flush();

  // Frames that the port did not take, and bodies for which there was no buffer.
  [[nodiscard]] uint64_t refused() const { return refused_; }
  [[nodiscard]] uint64_t no_buffer() const { return no_buffer_; }

 private:
  struct Queue {
    uint16_t count = 0;
    std::array<rte_mbuf*, kMaxBurst> frames{};
  };

  void release_received();
  void stage(uint16_t queue, rte_mbuf* mbuf);
  void send(uint16_t queue);

  Port& port_;
  uint64_t refused_ = 0;
  uint64_t no_buffer_ = 0;
  size_t longest_body_ = 0;
  rte_mbuf* begun_ = nullptr;  // of body()
  uint16_t received_ = 0;
  std::array<rte_mbuf*, kMaxBurst> mbufs_{};  // nullptr: sent back
  std::array<Frame, kMaxBurst> frames_{};
  std::vector<Queue> out_;  // by sending queue
  size_t spare_ = 0;        // buffers taken from the pool at once
  std::array<rte_mbuf*, kMaxBurst> spares_{};
};

}  // namespace culvert
