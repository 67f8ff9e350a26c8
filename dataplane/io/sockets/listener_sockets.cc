#include "dataplane/io/sockets/listener_sockets.h"

#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "dataplane/io/sockets/udp_socket.h"

namespace culvert {

namespace {

[[nodiscard]] const char* advice(int error) {
  switch (error) {
    case EADDRINUSE:
      return "another program holds this UDP port: stop it or listen on another port "
             "(see who with: ss -ulpn)";
    case EADDRNOTAVAIL:
      return "this host has no such address: give one that `ip address` shows";
    case EACCES:
      return "ports below 1024 need CAP_NET_BIND_SERVICE: start as root or use a higher port";
    case EMFILE:
    case ENFILE:
      return "raise the limit of open files (LimitNOFILE= or ulimit -n)";
    case EAFNOSUPPORT:
      return "the kernel has this address family disabled";
    default:
      return "check the address and the kernel's log";
  }
}

[[noreturn]] void fail(const TransportAddress& where, const UdpSocketResult& result) {
  throw std::system_error(result.error, std::generic_category(),
                          "cannot listen on " + where.to_string() + ": " + advice(result.error) +
                              " (" + result.step + ")");
}

}  // namespace

ListenerSockets::ListenerSockets(const Snapshot& snapshot, int receive_bytes, int send_bytes)
    : listeners_(snapshot.listeners.size()) {
  fds_.assign(listeners_ * snapshot.cores, -1);
  const bool shared = snapshot.cores > 1;
  try {
    for (size_t l = 0; l < listeners_; ++l) {
      const Listener& listener = snapshot.listeners[l];
      UdpSocketSpec spec;
      spec.bind_to = {snapshot.addresses.at(listener.address).bound, listener.port};
      spec.receive_bytes = receive_bytes;
      spec.send_bytes = send_bytes;
      spec.force_buffers = true;
      if (shared) {
        // SO_REUSEPORT would join a foreign group of the same user silently; an exclusive bind
        // tells.
        const UdpSocketResult probe = open_udp_socket(spec);
        if (probe.fd < 0) fail(spec.bind_to, probe);
        close(probe.fd);
        spec.reuse_port = true;
      }
      for (CoreId core = 0; core < snapshot.cores; ++core) {
        const UdpSocketResult opened = open_udp_socket(spec);
        if (opened.fd < 0) fail(spec.bind_to, opened);
        fds_[core * listeners_ + l] = opened.fd;
      }
    }
  } catch (...) {
    close_all();
    throw;
  }
}

ListenerSockets::~ListenerSockets() {
  close_all();
}

int ListenerSockets::take(CoreId core, size_t listener) {
  const size_t at = core * listeners_ + listener;
  return at < fds_.size() ? std::exchange(fds_[at], -1) : -1;
}

void ListenerSockets::close_all() {
  for (int& fd : fds_) {
    if (fd >= 0) close(std::exchange(fd, -1));
  }
}

}  // namespace culvert
