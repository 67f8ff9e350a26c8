// DPDK's environment: one rte_eal_init() for the life of the process, from an argument list that a
// caller has put together (config/dpdk.h). Memory, devices and EAL's own threads (interrupts,
// telemetry) come from here, so it runs before privileges are dropped.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace culvert {

class Eal {
 public:
  // `arguments`: what follows the program's name. Throws std::runtime_error with a sentence.
  explicit Eal(const std::vector<std::string>& arguments);
  ~Eal();
  Eal(const Eal&) = delete;
  Eal& operator=(const Eal&) = delete;

  // A software device made now instead of by an argument, such as ("net_null7", "copy=1"); tests
  // and benchmarks. Throws std::runtime_error with a sentence. Its ports must be closed before
  // detach().
  void attach(const std::string& device, const std::string& arguments);
  void detach(const std::string& device);

  // "DPDK 22.11.11"
  [[nodiscard]] static std::string version();
};

// Makes the calling thread known to EAL (an lcore id, and with it a buffer cache of its own) for as
// long as this object lives. Not for the thread that made Eal: that one is known. Throws where the
// lcore ids are used up.
class EalThread {
 public:
  EalThread();
  ~EalThread();
  EalThread(const EalThread&) = delete;
  EalThread& operator=(const EalThread&) = delete;
};

// The CPUs that this process may use, for EAL's list of lcores; at least one.
[[nodiscard]] std::vector<uint32_t> own_cpus();

}  // namespace culvert
