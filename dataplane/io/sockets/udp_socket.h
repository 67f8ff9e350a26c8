// Opening kernel UDP sockets with the options the relay needs, and the two address conversions.
// Cold code, except the conversions. Nothing here throws: a failure is an errno with the step that
// failed, and the caller decides whether that is a sentence (start-up) or an answer to a client (a
// taken port).
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <cstring>

#include "dataplane/base/address.h"

namespace culvert {

// Room for either family; smaller than sockaddr_storage, so that a burst's names stay in few lines.
union SocketName {
  sockaddr any;
  sockaddr_in v4;
  sockaddr_in6 v6;
};
static_assert(sizeof(SocketName) == 28);

// Returns the length to pass beside it.
inline socklen_t to_socket_name(const TransportAddress& from, SocketName& to) {
  if (from.ip.is_v4()) {
    to.v4.sin_family = AF_INET;
    to.v4.sin_port = htons(from.port);
    std::memcpy(&to.v4.sin_addr, from.ip.wire(), 4);
    std::memset(to.v4.sin_zero, 0, sizeof to.v4.sin_zero);
    return sizeof to.v4;
  }
  to.v6.sin6_family = AF_INET6;
  to.v6.sin6_port = htons(from.port);
  to.v6.sin6_flowinfo = 0;  // RFC 8656 section 13.2: the flow label is not copied
  std::memcpy(&to.v6.sin6_addr, from.ip.wire(), 16);
  to.v6.sin6_scope_id = 0;
  return sizeof to.v6;
}

[[nodiscard]] inline TransportAddress from_socket_name(const SocketName& from) {
  TransportAddress out;
  if (from.any.sa_family == AF_INET) {
    out.ip = IpAddress::v4_bytes(&from.v4.sin_addr);
    out.port = ntohs(from.v4.sin_port);
  } else if (from.any.sa_family == AF_INET6) {
    out.ip = IpAddress::v6_bytes(&from.v6.sin6_addr);
    out.port = ntohs(from.v6.sin6_port);
  }
  return out;
}

struct UdpSocketSpec {
  TransportAddress bind_to;
  bool reuse_port = false;     // one of several sockets of ours on that address
  bool report_errors = false;  // ICMP errors come to the error queue
  int receive_bytes = 0;       // SO_RCVBUF; 0: the system's default
  int send_bytes = 0;          // SO_SNDBUF; 0: the system's default
  // Past net.core.rmem_max, which needs CAP_NET_ADMIN: for sockets opened at start. A relayed port
  // is opened after privileges are gone, where asking would be a wasted system call each time.
  bool force_buffers = false;
};

struct UdpSocketResult {
  int fd = -1;
  int error = 0;          // errno when fd < 0
  const char* step = "";  // the system call or option that failed
};

// A non-blocking UDP socket that reports TTL and TOS, takes GRO runs and sends with DF clear.
[[nodiscard]] UdpSocketResult open_udp_socket(const UdpSocketSpec& spec);

}  // namespace culvert
