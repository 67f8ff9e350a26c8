// What calibration measures a DPDK port against: a process of our own on the other end of a memif
// that does nothing but exchange the two ends of each datagram and send it back. EAL is one to a
// process, so this one forks, before EAL starts in either; it ends with its owner.
#pragma once

#include <sys/types.h>

#include "tools/culvert-load/options.h"

namespace culvert::load {

class PortReflector {
 public:
  // `options.dpdk.eal` holds the memory arguments of both. Makes `options` those of the generator:
  // its device, its address and the reflector as its server.
  explicit PortReflector(Options& options);
  // Its memif client must be gone by then.
  ~PortReflector();
  PortReflector(const PortReflector&) = delete;
  PortReflector& operator=(const PortReflector&) = delete;

 private:
  void end();

  std::string folder_;  // of the memif's socket; empty: there is none
  pid_t child_ = -1;
};

}  // namespace culvert::load
