// The kernel's neighbours and routes, for the interfaces beside our ports, as the fast cores need
// them: link addresses in the NeighbourTable, routes in a RouteTable. By rtnetlink, reading only,
// so it needs no privilege. Owned by one slow thread; nothing here is called by a fast core.
//
// Neighbours are applied one by one as the kernel tells them; routes are read anew as a whole
// (RTM_GETROUTE) after any change of routes, links or addresses, since the kernel does not tell of
// routes that go with an address or a link. After lost messages (ENOBUFS) all is read anew.
//
// The kernel is made to resolve an address by an empty UDP datagram of one hop to its discard port
// (9, RFC 863): what an ordinary process may do. Neighbours in use are made known to the kernel
// the same way every kNeighbourReachableSeconds, so that it probes them as if it had sent itself.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dataplane/base/address.h"
#include "dataplane/io/dpdk/neighbours.h"
#include "dataplane/io/dpdk/routes.h"

struct nl_sock;
struct nlmsghdr;

namespace culvert {

// Routes are read at most this often, and never for more than a tenth of the time: a full table of
// the Internet takes a second.
inline constexpr uint64_t kRouteReadMs = 100;
inline constexpr uint64_t kRouteReadShare = 10;
// Questions for link addresses asked of the kernel in a second, for all cores.
inline constexpr uint32_t kMaxQuestionsPerSecond = 1000;
// Messages applied before the thread looks after frames again.
inline constexpr int kMaxNetlinkMessages = 256;

struct MirroredInterface {
  unsigned if_index = 0;
  uint8_t port = 0;
  std::string name;
};

// One entry of the kernel's table, changed or gone.
struct NeighbourChange {
  unsigned if_index = 0;
  IpAddress ip;
  frame::MacAddress mac{};
  enum class Kind : uint8_t {
    kConfirmed,  // REACHABLE, PERMANENT, NOARP
    kUsable,     // STALE, DELAY, PROBE: used, and not heard from lately
    kGone,       // deleted, INCOMPLETE, FAILED
  };
  Kind kind = Kind::kGone;
};
// nullopt: not about an IP neighbour of an Ethernet interface. For tests, too.
[[nodiscard]] std::optional<NeighbourChange> parse_neighbour(const nlmsghdr* message);
void apply(const NeighbourChange& change, uint8_t port, uint16_t now_seconds,
           NeighbourTable& table);
// nullopt: not in the main table, not over one of the interfaces, or nothing to forward by.
[[nodiscard]] std::optional<KernelRoute> parse_route(const nlmsghdr* message,
                                                     std::span<const MirroredInterface> interfaces);

class KernelMirror {
 public:
  // Reads everything once. Throws std::runtime_error with a sentence.
  KernelMirror(std::vector<MirroredInterface> interfaces, std::vector<PortAddress> addresses,
               std::vector<IpAddress> gateways, NeighbourTable& neighbours, CoreId cores);
  ~KernelMirror();
  KernelMirror(const KernelMirror&) = delete;
  KernelMirror& operator=(const KernelMirror&) = delete;

  [[nodiscard]] RouteTable& routes() { return *routes_; }
  // Of the kernel's routes as last read; any thread.
  [[nodiscard]] size_t routes_left_out() const { return left_out_.load(std::memory_order_relaxed); }
  // Readable when the kernel has something to tell.
  [[nodiscard]] int fd() const;
  void take_events();
  // Reads routes when it is due. Returns the milliseconds until it wants to be called, -1: never.
  [[nodiscard]] int tick();
  // Whoever has `target`, on that port (Routes::on_port's spelling).
  void ask(uint8_t port, const IpAddress& target);

 private:
  struct Sockets;
  void read_neighbours();
  void read_routes();
  void take(nlmsghdr* message);
  [[nodiscard]] const MirroredInterface* interface_of(unsigned if_index) const;

  std::vector<MirroredInterface> interfaces_;
  std::vector<PortAddress> addresses_;
  std::vector<IpAddress> gateways_;
  uint32_t with_kernel_ = 0;
  NeighbourTable& neighbours_;
  std::unique_ptr<RouteTable> routes_;
  std::unique_ptr<Sockets> sockets_;
  std::vector<KernelRoute> last_;  // as published
  std::atomic<size_t> left_out_{0};
  bool stale_ = true;  // routes are to be read
  bool unpublished_ = false;
  uint64_t next_read_ms_ = 0;
  uint64_t question_second_ = 0;
  uint32_t questions_left_ = 0;
};

}  // namespace culvert
