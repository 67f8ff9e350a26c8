#include "dataplane/io/dpdk/kernel_mirror.h"

#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/route/neighbour.h>
#include <netlink/route/route.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "dataplane/base/ticks.h"

namespace culvert {

namespace {

constexpr uint16_t kDiscardPort = 9;
constexpr int kEventBufferBytes = 1 << 20;

struct NlFree {
  void operator()(nl_sock* s) const { nl_socket_free(s); }
  void operator()(nl_msg* m) const { nlmsg_free(m); }
  void operator()(rtnl_neigh* n) const { rtnl_neigh_put(n); }
  void operator()(rtnl_route* r) const { rtnl_route_put(r); }
};
template <class T>
using Nl = std::unique_ptr<T, NlFree>;

[[nodiscard]] uint64_t monotonic_ms() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1000 + static_cast<uint64_t>(time.tv_nsec) / 1000000;
}
// As DpdkDriver::now() has them.
[[nodiscard]] uint16_t seconds_of(uint64_t ms) {
  return static_cast<uint16_t>(static_cast<Ticks>(ms) / kTicksPerSecond);
}

[[nodiscard]] std::optional<IpAddress> ip_of(nl_addr* address) {
  if (address == nullptr) return std::nullopt;
  const void* bytes = nl_addr_get_binary_addr(address);
  if (nl_addr_get_family(address) == AF_INET && nl_addr_get_len(address) == 4)
    return IpAddress::v4_bytes(bytes);
  if (nl_addr_get_family(address) == AF_INET6 && nl_addr_get_len(address) == 16)
    return IpAddress::v6_bytes(bytes);
  return std::nullopt;
}

[[nodiscard]] const MirroredInterface* find_interface(std::span<const MirroredInterface> interfaces,
                                                      int if_index) {
  const auto found = std::find_if(
      interfaces.begin(), interfaces.end(),
      [&](const MirroredInterface& i) { return static_cast<int>(i.if_index) == if_index; });
  return found == interfaces.end() ? nullptr : &*found;
}

// The first hop of a route that is up and goes over one of ours: nullptr: none.
[[nodiscard]] rtnl_nexthop* our_hop(rtnl_route* route,
                                    std::span<const MirroredInterface> interfaces) {
  for (int i = 0; i < rtnl_route_get_nnexthops(route); ++i) {
    rtnl_nexthop* hop = rtnl_route_nexthop_n(route, i);
    if ((rtnl_route_nh_get_flags(hop) & (RTNH_F_DEAD | RTNH_F_LINKDOWN)) != 0) continue;
    if (find_interface(interfaces, rtnl_route_nh_get_ifindex(hop)) != nullptr) return hop;
  }
  return nullptr;
}

[[nodiscard]] IpAddress any_address(int family) {
  IpAddress ip = IpAddress::v4(0);
  if (family == AF_INET6) {
    ip.bytes = {};
    ip.family = Family::kIpv6;
  }
  return ip;
}

[[nodiscard]] int question_socket(int family, const std::string& interface) {
  const int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const int one_hop = 1;
  const bool bound = setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, interface.c_str(),
                                static_cast<socklen_t>(interface.size() + 1)) == 0;
  const bool near =
      family == AF_INET
          ? setsockopt(fd, IPPROTO_IP, IP_TTL, &one_hop, sizeof one_hop) == 0
          : setsockopt(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, &one_hop, sizeof one_hop) == 0;
  if (bound && near) return fd;
  const int error = errno;
  (void)close(fd);
  throw std::runtime_error("cannot ask the kernel for neighbours on " + interface + ": " +
                           std::strerror(error));
}

}  // namespace

std::optional<NeighbourChange> parse_neighbour(const nlmsghdr* message) {
  if (message->nlmsg_type != RTM_NEWNEIGH && message->nlmsg_type != RTM_DELNEIGH)
    return std::nullopt;
  rtnl_neigh* parsed = nullptr;
  if (rtnl_neigh_parse(const_cast<nlmsghdr*>(message), &parsed) < 0) return std::nullopt;
  const Nl<rtnl_neigh> neighbour(parsed);
  const int family = rtnl_neigh_get_family(parsed);
  if (family != AF_INET && family != AF_INET6) return std::nullopt;  // a bridge's table
  const auto ip = ip_of(rtnl_neigh_get_dst(parsed));
  if (!ip) return std::nullopt;
  NeighbourChange change;
  change.if_index = static_cast<unsigned>(rtnl_neigh_get_ifindex(parsed));
  change.ip = *ip;
  nl_addr* link = rtnl_neigh_get_lladdr(parsed);
  const int state = rtnl_neigh_get_state(parsed);
  constexpr int kConfirmed = NUD_REACHABLE | NUD_PERMANENT | NUD_NOARP;
  constexpr int kUsable = NUD_STALE | NUD_DELAY | NUD_PROBE;
  if (message->nlmsg_type == RTM_DELNEIGH || link == nullptr ||
      nl_addr_get_len(link) != change.mac.size() || (state & (kConfirmed | kUsable)) == 0)
    return change;
  std::memcpy(change.mac.data(), nl_addr_get_binary_addr(link), change.mac.size());
  change.kind = (state & kConfirmed) != 0 ? NeighbourChange::Kind::kConfirmed
                                          : NeighbourChange::Kind::kUsable;
  return change;
}

void apply(const NeighbourChange& change, uint8_t port, uint16_t now_seconds,
           NeighbourTable& table) {
  const IpAddress ip = Routes::on_port(change.ip, port);
  const NeighbourTable::Hop hop{change.mac, port};
  using Kind = NeighbourChange::Kind;
  if (change.kind == Kind::kGone)
    table.forget(ip, now_seconds);
  else if (change.kind == Kind::kConfirmed || !table.mirrors(ip, hop))
    table.mirror(ip, hop, now_seconds);
}

std::optional<KernelRoute> parse_route(const nlmsghdr* message,
                                       std::span<const MirroredInterface> interfaces) {
  if (message->nlmsg_type != RTM_NEWROUTE) return std::nullopt;
  rtnl_route* parsed = nullptr;
  if (rtnl_route_parse(const_cast<nlmsghdr*>(message), &parsed) < 0) return std::nullopt;
  const Nl<rtnl_route> route(parsed);
  const int family = rtnl_route_get_family(parsed);
  if ((family != AF_INET && family != AF_INET6) || rtnl_route_get_table(parsed) != RT_TABLE_MAIN ||
      (rtnl_route_get_flags(parsed) & RTM_F_CLONED) != 0)
    return std::nullopt;
  KernelRoute out;
  nl_addr* to = rtnl_route_get_dst(parsed);
  const auto network = ip_of(to);
  out.network = network ? *network : any_address(family);
  out.prefix_bits = network ? static_cast<uint8_t>(nl_addr_get_prefixlen(to)) : uint8_t{0};
  out.metric = rtnl_route_get_priority(parsed);
  // Link-local addressees have no network of their own here: clients and peers are not such.
  if (Routes::is_link_local(out.network) || out.network.bytes[0] == 0xff) return std::nullopt;
  switch (rtnl_route_get_type(parsed)) {
    case RTN_BLACKHOLE:
    case RTN_UNREACHABLE:
    case RTN_PROHIBIT:
      out.refused = true;
      // The kernel's own placeholder for "no route".
      if (out.metric == UINT32_MAX) return std::nullopt;
      return out;
    case RTN_UNICAST:
      break;
    default:
      return std::nullopt;
  }
  rtnl_nexthop* hop = our_hop(parsed, interfaces);
  if (hop == nullptr) return std::nullopt;
  out.port = find_interface(interfaces, rtnl_route_nh_get_ifindex(hop))->port;
  nl_addr* gateway = rtnl_route_nh_get_gateway(hop);
  if (gateway == nullptr) gateway = rtnl_route_nh_get_via(hop);
  if (const auto by = ip_of(gateway)) out.gateway = *by;
  return out;
}

// Events and answers to questions come by one socket, reading as a whole goes by another, which
// blocks for as long as the kernel writes.
struct KernelMirror::Sockets {
  struct Ask {
    int v4 = -1;
    int v6 = -1;
  };
  Nl<nl_sock> events;
  Nl<nl_sock> dump;
  std::vector<Ask> ask;  // by place in interfaces_
  std::vector<KernelRoute> reading;

  ~Sockets() {
    for (const Ask& a : ask) {
      if (a.v4 >= 0) (void)close(a.v4);
      if (a.v6 >= 0) (void)close(a.v6);
    }
  }
};

KernelMirror::KernelMirror(std::vector<MirroredInterface> interfaces,
                           std::vector<PortAddress> addresses, std::vector<IpAddress> gateways,
                           NeighbourTable& neighbours, CoreId cores)
    : interfaces_(std::move(interfaces)),
      addresses_(std::move(addresses)),
      gateways_(std::move(gateways)),
      neighbours_(neighbours),
      sockets_(std::make_unique<Sockets>()) {
  const auto must = [](int result, const char* what) {
    if (result < 0)
      throw std::runtime_error(std::string("cannot follow the kernel's neighbours and routes: ") +
                               what + ": " + nl_geterror(result));
  };
  sockets_->events.reset(nl_socket_alloc());
  sockets_->dump.reset(nl_socket_alloc());
  nl_sock* events = sockets_->events.get();
  nl_sock* dump = sockets_->dump.get();
  if (events == nullptr || dump == nullptr) must(-NLE_NOMEM, "sockets");
  nl_socket_disable_seq_check(events);
  nl_socket_disable_auto_ack(events);
  must(nl_connect(events, NETLINK_ROUTE), "connect");
  must(nl_connect(dump, NETLINK_ROUTE), "connect");
  must(nl_socket_set_nonblocking(events), "non-blocking");
  must(nl_socket_set_buffer_size(events, kEventBufferBytes, 0), "buffer");
  must(nl_socket_add_memberships(events, RTNLGRP_NEIGH, RTNLGRP_LINK, RTNLGRP_IPV4_ROUTE,
                                 RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, 0),
       "groups");
  const auto taken = [](nl_msg* message, void* self) -> int {
    static_cast<KernelMirror*>(self)->take(nlmsg_hdr(message));
    return NL_OK;
  };
  must(nl_socket_modify_cb(events, NL_CB_VALID, NL_CB_CUSTOM, taken, this), "callback");
  must(nl_socket_modify_cb(dump, NL_CB_VALID, NL_CB_CUSTOM, taken, this), "callback");
  for (const MirroredInterface& i : interfaces_) {
    with_kernel_ |= uint32_t{1} << i.port;
    sockets_->ask.push_back({});
    sockets_->ask.back().v4 = question_socket(AF_INET, i.name);
    sockets_->ask.back().v6 = question_socket(AF_INET6, i.name);
  }
  routes_ = std::make_unique<RouteTable>(
      std::make_unique<Routes>(Routes::Ports{addresses_, gateways_, with_kernel_},
                               std::span<const KernelRoute>{}),
      cores);
  read_neighbours();
  (void)tick();
}

KernelMirror::~KernelMirror() = default;

int KernelMirror::fd() const {
  return nl_socket_get_fd(sockets_->events.get());
}

const MirroredInterface* KernelMirror::interface_of(unsigned if_index) const {
  return find_interface(interfaces_, static_cast<int>(if_index));
}

void KernelMirror::take(nlmsghdr* message) {
  switch (message->nlmsg_type) {
    case RTM_NEWNEIGH:
    case RTM_DELNEIGH:
      if (const auto change = parse_neighbour(message))
        if (const MirroredInterface* i = interface_of(change->if_index))
          apply(*change, i->port, seconds_of(monotonic_ms()), neighbours_);
      return;
    case RTM_NEWROUTE:
      if ((message->nlmsg_flags & NLM_F_MULTI) != 0) {
        if (const auto route = parse_route(message, interfaces_))
          sockets_->reading.push_back(*route);
        return;
      }
      stale_ = true;
      return;
    default:
      stale_ = true;
  }
}

void KernelMirror::take_events() {
  for (int i = 0; i < kMaxNetlinkMessages; ++i) {
    const int result = nl_recvmsgs_default(sockets_->events.get());
    if (result == -NLE_AGAIN) return;
    // ENOBUFS: the kernel had more to tell than fits. Other errors answer a question about an
    // entry that the kernel does not have.
    if (result == -NLE_NOMEM) {
      read_neighbours();
      stale_ = true;
    }
  }
}

void KernelMirror::read_neighbours() {
  for (const int family : {AF_INET, AF_INET6}) {
    nl_sock* dump = sockets_->dump.get();
    if (nl_rtgen_request(dump, RTM_GETNEIGH, family, NLM_F_DUMP) >= 0)
      (void)nl_recvmsgs_default(dump);
  }
}

void KernelMirror::read_routes() {
  sockets_->reading.clear();
  bool whole = true;
  for (const int family : {AF_INET, AF_INET6}) {
    nl_sock* dump = sockets_->dump.get();
    whole = whole && nl_rtgen_request(dump, RTM_GETROUTE, family, NLM_F_DUMP) >= 0 &&
            nl_recvmsgs_default(dump) >= 0;  // negative: changed meanwhile, among others
  }
  stale_ = !whole;
  if (whole && sockets_->reading != last_) {
    last_.swap(sockets_->reading);
    unpublished_ = true;
  }
}

int KernelMirror::tick() {
  const uint64_t now = monotonic_ms();
  if (!stale_ && !unpublished_) return -1;
  if (now < next_read_ms_) return static_cast<int>(next_read_ms_ - now);
  if (stale_) read_routes();
  if (unpublished_) {
    auto routes = std::make_unique<Routes>(Routes::Ports{addresses_, gateways_, with_kernel_},
                                           std::span<const KernelRoute>(last_));
    left_out_.store(routes->left_out(), std::memory_order_relaxed);
    unpublished_ = !routes_->publish(std::move(routes));
  }
  const uint64_t took = monotonic_ms() - now;
  next_read_ms_ = now + took + std::max(kRouteReadMs, kRouteReadShare * took);
  return stale_ || unpublished_ ? static_cast<int>(next_read_ms_ - now) : -1;
}

void KernelMirror::ask(uint8_t port, const IpAddress& target) {
  const uint64_t second = monotonic_ms() / 1000;
  if (second != question_second_) {
    question_second_ = second;
    questions_left_ = kMaxQuestionsPerSecond;
  }
  if (questions_left_ == 0) return;
  --questions_left_;
  const auto found = std::find_if(interfaces_.begin(), interfaces_.end(),
                                  [&](const MirroredInterface& i) { return i.port == port; });
  if (found == interfaces_.end()) return;
  const Sockets::Ask& sockets = sockets_->ask[static_cast<size_t>(found - interfaces_.begin())];
  const IpAddress ip = Routes::on_wire(target);
  // Whether it went does not matter: whoever needs the answer asks again in a second.
  if (ip.is_v4()) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(kDiscardPort);
    std::memcpy(&to.sin_addr, ip.wire(), 4);
    (void)!sendto(sockets.v4, "", 0, 0, reinterpret_cast<sockaddr*>(&to), sizeof to);
  } else {
    sockaddr_in6 to{};
    to.sin6_family = AF_INET6;
    to.sin6_port = htons(kDiscardPort);
    to.sin6_scope_id = found->if_index;
    std::memcpy(&to.sin6_addr, ip.wire(), 16);
    (void)!sendto(sockets.v6, "", 0, 0, reinterpret_cast<sockaddr*>(&to), sizeof to);
  }
  // What the kernel knows already it does not tell again by itself: RTM_GETNEIGH of this one.
  const Nl<nl_msg> question(nlmsg_alloc_simple(RTM_GETNEIGH, 0));
  if (question == nullptr) return;
  ndmsg head{};
  head.ndm_family = ip.is_v4() ? AF_INET : AF_INET6;
  head.ndm_ifindex = static_cast<int>(found->if_index);
  if (nlmsg_append(question.get(), &head, sizeof head, NLMSG_ALIGNTO) < 0 ||
      nla_put(question.get(), NDA_DST, static_cast<int>(ip.size()), ip.wire()) < 0)
    return;
  (void)nl_send_auto(sockets_->events.get(), question.get());
}

}  // namespace culvert
