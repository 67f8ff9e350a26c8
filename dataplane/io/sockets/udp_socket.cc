#include "dataplane/io/sockets/udp_socket.h"

#include <linux/udp.h>
#include <unistd.h>

#include <cerrno>

namespace culvert {

namespace {

struct Option {
  int level;
  int name;
  int value;
  const char* step;
};

// DF clear on IPv4: OMIT, not DONT. Both clear DF and fragment at the interface's MTU, but under
// DONT the kernel swallows ICMP "fragmentation needed" (RFC 8656 section 11.5 wants it relayed) and
// obeys forged ones. IPv6 routers never fragment, so there the kernel must learn the path's MTU:
// DONT.
constexpr Option kIpv4Options[] = {
    {IPPROTO_IP, IP_RECVTTL, 1, "IP_RECVTTL"},
    {IPPROTO_IP, IP_RECVTOS, 1, "IP_RECVTOS"},
    {IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_OMIT, "IP_MTU_DISCOVER"},
    {IPPROTO_UDP, UDP_GRO, 1, "UDP_GRO"},
};
constexpr Option kIpv6Options[] = {
    {IPPROTO_IPV6, IPV6_V6ONLY, 1, "IPV6_V6ONLY"},
    {IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1, "IPV6_RECVHOPLIMIT"},
    {IPPROTO_IPV6, IPV6_RECVTCLASS, 1, "IPV6_RECVTCLASS"},
    {IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DONT, "IPV6_MTU_DISCOVER"},
    {IPPROTO_UDP, UDP_GRO, 1, "UDP_GRO"},
};

[[nodiscard]] bool set(int fd, int level, int name, int value) {
  return setsockopt(fd, level, name, &value, sizeof value) == 0;
}

// The forced form passes net.core.rmem_max but needs CAP_NET_ADMIN; the other is cut to that limit.
// Neither can make the socket unusable, so a refusal is not an error.
void set_buffer(int fd, bool force, int forced, int plain, int bytes) {
  if (bytes <= 0) return;
  if (!force || !set(fd, SOL_SOCKET, forced, bytes)) (void)set(fd, SOL_SOCKET, plain, bytes);
}

[[nodiscard]] const char* set_options(int fd, const UdpSocketSpec& spec) {
  const bool v4 = spec.bind_to.ip.is_v4();
  const Option* option = v4 ? kIpv4Options : kIpv6Options;
  const size_t count = v4 ? std::size(kIpv4Options) : std::size(kIpv6Options);
  for (size_t i = 0; i < count; ++i) {
    if (!set(fd, option[i].level, option[i].name, option[i].value)) return option[i].step;
  }
  if (spec.reuse_port && !set(fd, SOL_SOCKET, SO_REUSEPORT, 1)) return "SO_REUSEPORT";
  if (spec.report_errors) {
    if (v4 && !set(fd, IPPROTO_IP, IP_RECVERR, 1)) return "IP_RECVERR";
    if (!v4 && !set(fd, IPPROTO_IPV6, IPV6_RECVERR, 1)) return "IPV6_RECVERR";
  }
  set_buffer(fd, spec.force_buffers, SO_RCVBUFFORCE, SO_RCVBUF, spec.receive_bytes);
  set_buffer(fd, spec.force_buffers, SO_SNDBUFFORCE, SO_SNDBUF, spec.send_bytes);
  return nullptr;
}

}  // namespace

UdpSocketResult open_udp_socket(const UdpSocketSpec& spec) {
  const int family = spec.bind_to.ip.is_v4() ? AF_INET : AF_INET6;
  const int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return {-1, errno, "socket"};
  const char* failed = set_options(fd, spec);
  if (failed == nullptr) {
    SocketName name;
    const socklen_t length = to_socket_name(spec.bind_to, name);
    if (bind(fd, &name.any, length) == 0) return {fd, 0, ""};
    failed = "bind";
  }
  const int error = errno;
  close(fd);
  return {-1, error, failed};
}

}  // namespace culvert
