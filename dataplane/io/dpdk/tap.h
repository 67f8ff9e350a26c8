// A TAP interface beside a port that the kernel does not see (DESIGN 8): with the port's link
// address, MTU and IP addresses, so that the kernel is a host there. Made while the process is
// privileged; its descriptor goes on working after. The interface goes when the object does.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "dataplane/io/dpdk/routes.h"
#include "dataplane/wire/frame.h"

namespace culvert {

class Tap {
 public:
  // `addresses`: the port's alone. Throws std::runtime_error with a sentence.
  Tap(const std::string& name, const frame::MacAddress& mac, uint16_t mtu,
      std::span<const PortAddress> addresses);
  ~Tap();
  Tap(const Tap&) = delete;
  Tap& operator=(const Tap&) = delete;

  // Frames without FCS, one a read or write; does not block.
  [[nodiscard]] int fd() const { return fd_; }
  [[nodiscard]] unsigned if_index() const { return if_index_; }
  [[nodiscard]] const std::string& name() const { return name_; }

 private:
  std::string name_;
  int fd_ = -1;
  unsigned if_index_ = 0;
};

}  // namespace culvert
