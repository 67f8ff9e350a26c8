// The kernel beside our ports, seen from the relay: TAP interfaces for ports that the kernel does
// not see, the mirror of its neighbours and routes, and one slow thread that serves both. Opened
// while the process is privileged; the thread starts after and needs no privilege.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "dataplane/io/dpdk/exception.h"
#include "dataplane/io/dpdk/kernel_mirror.h"
#include "dataplane/io/dpdk/ports.h"
#include "dataplane/io/dpdk/tap.h"

namespace culvert {

// Frames taken from one TAP, or from one core, before the others have their turn.
inline constexpr int kFramesPerTurn = 64;

class KernelSide {
 public:
  // For the ports whose `kernel` is not kNobody: at least one. Throws std::runtime_error with a
  // sentence.
  KernelSide(const DpdkPorts& ports, std::vector<PortAddress> addresses,
             std::vector<IpAddress> gateways, NeighbourTable& neighbours, CoreId cores);
  ~KernelSide() { stop(); }
  KernelSide(const KernelSide&) = delete;
  KernelSide& operator=(const KernelSide&) = delete;

  void start();
  void stop();

  [[nodiscard]] ExceptionPath& exception() { return exception_; }
  [[nodiscard]] RouteTable& routes() { return mirror_->routes(); }
  [[nodiscard]] size_t routes_left_out() const { return mirror_->routes_left_out(); }
  [[nodiscard]] const std::vector<MirroredInterface>& interfaces() const { return interfaces_; }

 private:
  void run();
  [[nodiscard]] bool serve_cores();
  // False: nothing is left to read. Sets `full` where the port's ring has no room.
  [[nodiscard]] bool serve_tap(uint8_t port, const Tap& tap, bool& full);

  std::vector<PortAddress> addresses_;
  std::vector<std::unique_ptr<Tap>> taps_;  // by port; nullptr: no TAP
  std::vector<MirroredInterface> interfaces_;
  ExceptionPath exception_;
  std::unique_ptr<KernelMirror> mirror_;
  std::vector<uint8_t> frame_;
  size_t frame_bytes_ = 0;  // read from a TAP, and not yet taken by its port's ring
  uint8_t frame_port_ = 0;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace culvert
