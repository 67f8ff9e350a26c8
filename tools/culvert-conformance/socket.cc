#include "tools/culvert-conformance/socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <random>
#include <stdexcept>
#include <system_error>

// <linux/in6.h> has these, but does not live together with <netinet/in.h>.
#ifndef IPV6_FLOWINFO
#define IPV6_FLOWINFO 11
#define IPV6_FLOWINFO_SEND 33
#endif

namespace culvert::conformance {
namespace {

constexpr uint32_t kFlowLabelMask = 0x000fffff;
constexpr uint8_t kNoOperation = 1;  // IPv4 option, RFC 791

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

socklen_t to_native(const TransportAddress& address, sockaddr_storage& out) {
  out = {};
  if (address.ip.is_v4()) {
    auto* in = reinterpret_cast<sockaddr_in*>(&out);
    in->sin_family = AF_INET;
    in->sin_port = htons(address.port);
    std::memcpy(&in->sin_addr, address.ip.wire(), 4);
    return sizeof *in;
  }
  auto* in = reinterpret_cast<sockaddr_in6*>(&out);
  in->sin6_family = AF_INET6;
  in->sin6_port = htons(address.port);
  std::memcpy(&in->sin6_addr, address.ip.wire(), 16);
  return sizeof *in;
}

TransportAddress from_native(const sockaddr_storage& from) {
  if (from.ss_family == AF_INET) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(&from);
    return {IpAddress::v4_bytes(&in->sin_addr), ntohs(in->sin_port)};
  }
  const auto* in = reinterpret_cast<const sockaddr_in6*>(&from);
  return {IpAddress::v6_bytes(&in->sin6_addr), ntohs(in->sin6_port)};
}

TransportAddress name_of(int fd) {
  sockaddr_storage name{};
  socklen_t size = sizeof name;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size) != 0) fail("getsockname");
  return from_native(name);
}

void set(int fd, int level, int option, int value, const char* what) {
  if (setsockopt(fd, level, option, &value, sizeof value) != 0) fail(what);
}

void read_control(msghdr& message, Datagram& out) {
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    const auto is = [&](int level, int type) {
      return c->cmsg_level == level && c->cmsg_type == type;
    };
    if (is(IPPROTO_IP, IP_TOS)) out.tos = *CMSG_DATA(c);
    if (is(IPPROTO_IP, IP_RECVOPTS)) out.options = c->cmsg_len > CMSG_LEN(0);
    int value = 0;
    if (c->cmsg_len >= CMSG_LEN(sizeof value)) std::memcpy(&value, CMSG_DATA(c), sizeof value);
    if (is(IPPROTO_IP, IP_TTL) || is(IPPROTO_IPV6, IPV6_HOPLIMIT)) out.ttl = value;
    if (is(IPPROTO_IPV6, IPV6_TCLASS)) out.tos = value;
    if (is(IPPROTO_IPV6, IPV6_FLOWINFO))
      out.flow_label = ntohl(static_cast<uint32_t>(value)) & kFlowLabelMask;
  }
}

// Below the ports that relays use. One after another, from a random one on: a server may hold a
// 5-tuple for a while after its allocation has gone, and that is not what most rows are about.
constexpr uint32_t kFirstPort = 32768;
constexpr uint32_t kPorts = 49152 - kFirstPort;

uint16_t next_port() {
  static std::atomic<uint32_t> next{std::random_device{}()};
  return static_cast<uint16_t>(kFirstPort + next++ % kPorts);
}

}  // namespace

UdpSocket::UdpSocket(const IpAddress& ip, uint16_t port) {
  fd_ = socket(ip.is_v4() ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd_ < 0) fail("socket");
  const auto bind_to = [&](uint16_t wanted) {
    sockaddr_storage to;
    const socklen_t size = to_native({ip, wanted}, to);
    return bind(fd_, reinterpret_cast<sockaddr*>(&to), size) == 0 ? 0 : errno;
  };
  int error = EADDRINUSE;
  for (uint32_t tries = 0; port == 0 && error == EADDRINUSE && tries < kPorts; ++tries)
    error = bind_to(next_port());
  if (port != 0) error = bind_to(port);
  if (error != 0) {
    close(fd_);
    throw std::system_error(error, std::generic_category(), "bind " + ip.to_string());
  }
  address_ = name_of(fd_);
  if (ip.is_v4()) {
    set(fd_, IPPROTO_IP, IP_RECVTOS, 1, "IP_RECVTOS");
    set(fd_, IPPROTO_IP, IP_RECVTTL, 1, "IP_RECVTTL");
    set(fd_, IPPROTO_IP, IP_RECVOPTS, 1, "IP_RECVOPTS");
  } else {
    set(fd_, IPPROTO_IPV6, IPV6_RECVTCLASS, 1, "IPV6_RECVTCLASS");
    set(fd_, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1, "IPV6_RECVHOPLIMIT");
    set(fd_, IPPROTO_IPV6, IPV6_FLOWINFO, 1, "IPV6_FLOWINFO");
  }
}

UdpSocket::~UdpSocket() {
  if (fd_ >= 0) close(fd_);
}

void UdpSocket::set_tos(int tos) {
  if (address_.ip.is_v4())
    set(fd_, IPPROTO_IP, IP_TOS, tos, "IP_TOS");
  else
    set(fd_, IPPROTO_IPV6, IPV6_TCLASS, tos, "IPV6_TCLASS");
}

void UdpSocket::set_ttl(int ttl) {
  if (address_.ip.is_v4())
    set(fd_, IPPROTO_IP, IP_TTL, ttl, "IP_TTL");
  else
    set(fd_, IPPROTO_IPV6, IPV6_UNICAST_HOPS, ttl, "IPV6_UNICAST_HOPS");
}

void UdpSocket::set_no_operation_options() {
  const std::array<uint8_t, 4> options{kNoOperation, kNoOperation, kNoOperation, kNoOperation};
  if (setsockopt(fd_, IPPROTO_IP, IP_OPTIONS, options.data(), options.size()) != 0)
    fail("IP_OPTIONS");
}

void UdpSocket::set_dont_fragment(bool on) {
  if (address_.ip.is_v4())
    set(fd_, IPPROTO_IP, IP_MTU_DISCOVER, on ? IP_PMTUDISC_DO : IP_PMTUDISC_DONT,
        "IP_MTU_DISCOVER");
  else
    set(fd_, IPPROTO_IPV6, IPV6_MTU_DISCOVER, on ? IPV6_PMTUDISC_DO : IPV6_PMTUDISC_DONT,
        "IPV6_MTU_DISCOVER");
}

void UdpSocket::set_fragment_size(int size) {
  set(fd_, IPPROTO_IPV6, IPV6_MTU, size, "IPV6_MTU");
}

void UdpSocket::set_flow_label(uint32_t label) {
  set(fd_, IPPROTO_IPV6, IPV6_FLOWINFO_SEND, 1, "IPV6_FLOWINFO_SEND");
  flow_label_ = label;
}

void UdpSocket::send(const TransportAddress& to, Bytes payload) {
  sockaddr_storage native;
  const socklen_t size = to_native(to, native);
  if (flow_label_ != 0)
    reinterpret_cast<sockaddr_in6*>(&native)->sin6_flowinfo = htonl(flow_label_);
  for (int tries = 0; tries < 3; ++tries) {
    if (sendto(fd_, payload.data(), payload.size(), 0, reinterpret_cast<sockaddr*>(&native),
               size) >= 0)
      return;
    // What an ICMP error left behind at the socket; this datagram itself was not sent.
    if (errno != ECONNREFUSED && errno != EHOSTUNREACH && errno != EINTR) break;
  }
  fail("sendto");
}

std::optional<Datagram> UdpSocket::receive(Clock::time_point deadline) {
  for (;;) {
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now()).count();
    pollfd waiting{fd_, POLLIN, 0};
    const int ready = poll(&waiting, 1, left > 0 ? static_cast<int>(left) : 0);
    if (ready < 0 && errno != EINTR) fail("poll");
    if (ready == 0) return std::nullopt;
    Datagram out;
    out.payload.resize(kReceiveBuffer);
    sockaddr_storage from{};
    alignas(cmsghdr) std::array<uint8_t, 512> control{};
    iovec part{out.payload.data(), out.payload.size()};
    msghdr message{&from, sizeof from, &part, 1, control.data(), control.size(), 0};
    const ssize_t got = recvmsg(fd_, &message, MSG_DONTWAIT);
    if (got < 0) continue;  // an ICMP error, or another's datagram with a wrong checksum
    out.payload.resize(static_cast<size_t>(got));
    out.from = from_native(from);
    read_control(message, out);
    return out;
  }
}

IpAddress source_towards(const TransportAddress& to) {
  const int fd = socket(to.ip.is_v4() ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) fail("socket");
  sockaddr_storage native;
  const socklen_t size = to_native(to, native);
  const bool routed = connect(fd, reinterpret_cast<sockaddr*>(&native), size) == 0;
  const int error = errno;
  const TransportAddress out = routed ? name_of(fd) : TransportAddress{};
  close(fd);
  if (!routed)
    throw std::system_error(error, std::generic_category(), "no route to " + to.to_string());
  return out.ip;
}

TransportAddress resolve(const std::string& host_and_port) {
  if (const auto literal = TransportAddress::parse(host_and_port)) return *literal;
  const size_t colon = host_and_port.rfind(':');
  if (colon == std::string::npos)
    throw std::invalid_argument("'" + host_and_port + "' is not HOST:PORT");
  const std::string host = host_and_port.substr(0, colon);
  const std::string port = host_and_port.substr(colon + 1);
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  if (error != 0) throw std::invalid_argument("'" + host_and_port + "': " + gai_strerror(error));
  sockaddr_storage first{};
  std::memcpy(&first, found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  return from_native(first);
}

}  // namespace culvert::conformance
