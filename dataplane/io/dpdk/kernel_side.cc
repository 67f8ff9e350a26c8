#include "dataplane/io/dpdk/kernel_side.h"

#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

namespace culvert {

namespace {

// How long a TAP is left alone whose port's ring was full.
constexpr int kFullRingMs = 1;
// The longest frame a TAP can give: an MTU of 65535 and Ethernet's header with a tag.
constexpr size_t kLongestFrame = 65535 + frame::kEthernetHeader + frame::kVlanTag;

[[nodiscard]] std::vector<PortAddress> of_port(const std::vector<PortAddress>& all, uint8_t port) {
  std::vector<PortAddress> out;
  std::copy_if(all.begin(), all.end(), std::back_inserter(out),
               [&](const PortAddress& a) { return a.port == port; });
  return out;
}

}  // namespace

KernelSide::KernelSide(const DpdkPorts& ports, std::vector<PortAddress> addresses,
                       std::vector<IpAddress> gateways, NeighbourTable& neighbours, CoreId cores)
    : addresses_(std::move(addresses)),
      exception_(cores, ports.ports().size()),
      frame_(kLongestFrame) {
  uint8_t position = 0;
  for (const Port& port : ports.ports()) {
    taps_.emplace_back();
    if (port.kernel == PortKernel::kTap) {
      taps_.back() = std::make_unique<Tap>("culvert" + std::to_string(position), port.mac, port.mtu,
                                           of_port(addresses_, position));
      interfaces_.push_back({taps_.back()->if_index(), position, taps_.back()->name()});
    } else if (port.kernel == PortKernel::kInterface) {
      char name[IF_NAMESIZE] = {};
      if (port.if_index == 0 || if_indextoname(port.if_index, name) == nullptr)
        throw std::runtime_error("port " + port.name + " (" + port.driver +
                                 ") stands on no interface of the kernel: dpdk.kernel = \"beside\" "
                                 "is not for it; \"tap\" is");
      interfaces_.push_back({port.if_index, position, name});
    }
    ++position;
  }
  mirror_ = std::make_unique<KernelMirror>(interfaces_, addresses_, std::move(gateways), neighbours,
                                           cores);
}

void KernelSide::start() {
  thread_ = std::thread([this] { run(); });
  (void)pthread_setname_np(thread_.native_handle(), "culvert-kernel");
}

void KernelSide::stop() {
  stop_.store(true, std::memory_order_relaxed);
  exception_.wake();
  if (thread_.joinable()) thread_.join();
}

void KernelSide::run() {
  std::vector<pollfd> wait;
  while (!stop_.load(std::memory_order_relaxed)) {
    bool more = serve_cores();
    bool full = false;
    for (uint8_t port = 0; port < taps_.size(); ++port)
      if (taps_[port] != nullptr) more = serve_tap(port, *taps_[port], full) || more;
    mirror_->take_events();
    const int due = mirror_->tick();
    if (more) continue;
    if (exception_.arm()) {
      exception_.disarm();
      continue;
    }
    wait.assign({{exception_.wake_fd(), POLLIN, 0}, {mirror_->fd(), POLLIN, 0}});
    for (const auto& tap : taps_)
      if (tap != nullptr && !full) wait.push_back({tap->fd(), POLLIN, 0});
    if (!stop_.load(std::memory_order_relaxed))
      (void)poll(wait.data(), wait.size(), full ? kFullRingMs : due);
    exception_.disarm();
  }
}

bool KernelSide::serve_cores() {
  bool more = false;
  for (CoreId core = 0; core < exception_.cores(); ++core) {
    ExceptionPath::Item item;
    for (int i = 0; i < kFramesPerTurn && exception_.next(core, item); ++i) {
      if (item.question)
        mirror_->ask(item.port, item.target);
      else if (item.port < taps_.size() && taps_[item.port] != nullptr)
        // The interface may be down: then its host is, too.
        (void)!write(taps_[item.port]->fd(), item.frame.data(), item.frame.size());
      exception_.done(core);
      more = i + 1 == kFramesPerTurn || more;
    }
  }
  return more;
}

bool KernelSide::serve_tap(uint8_t port, const Tap& tap, bool& full) {
  for (int i = 0; i < kFramesPerTurn; ++i) {
    if (frame_bytes_ == 0) {
      const ssize_t got = read(tap.fd(), frame_.data(), frame_.size());
      if (got <= 0) return false;
      frame_bytes_ = static_cast<size_t>(got);
      frame_port_ = port;
    }
    // One that waits keeps the kernel's others in the interface's queue, where they are counted.
    if (!exception_.send(frame_port_, {frame_.data(), frame_bytes_})) {
      full = true;
      return false;
    }
    frame_bytes_ = 0;
  }
  return true;
}

}  // namespace culvert
