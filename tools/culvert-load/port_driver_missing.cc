// A build without DPDK: the driver's name is known, and refused.
#include "tools/culvert-load/driver.h"

namespace culvert::load {

std::unique_ptr<Network> make_port_network(const Options& /*options*/, std::string& error) {
  error = "--driver dpdk is not in this build: build where libdpdk-dev is installed";
  return nullptr;
}

}  // namespace culvert::load
