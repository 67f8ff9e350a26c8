// All listening sockets of a relay, opened once at start for every core, in core order, before
// traffic and before privileges are dropped. With one core a listener is one ordinary socket, so a
// second relay on the same port fails; with more they share the port by SO_REUSEPORT, and the
// kernel gives each client's 5-tuple to one of them. The fds belong to this object until a driver
// takes its own.
#pragma once

#include <cstdint>
#include <vector>

#include "dataplane/api/snapshot.h"

namespace culvert {

class ListenerSockets {
 public:
  // Throws std::system_error whose text names the address, the reason and what to do.
  // `receive_bytes`, `send_bytes`: socket buffers of each.
  ListenerSockets(const Snapshot& snapshot, int receive_bytes, int send_bytes);
  ~ListenerSockets();
  ListenerSockets(const ListenerSockets&) = delete;
  ListenerSockets& operator=(const ListenerSockets&) = delete;

  [[nodiscard]] size_t listeners() const { return listeners_; }
  // Hands over the socket; the caller closes it. -1 when it was taken before.
  [[nodiscard]] int take(CoreId core, size_t listener);

 private:
  void close_all();

  size_t listeners_ = 0;
  std::vector<int> fds_;  // core-major
};

}  // namespace culvert
