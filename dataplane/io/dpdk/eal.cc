#include "dataplane/io/dpdk/eal.h"

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_version.h>
#include <sched.h>

#include <cerrno>
#include <stdexcept>

#include "dataplane/io/dpdk/xdp_program.h"

namespace culvert {

Eal::Eal(const std::vector<std::string>& arguments) {
  prepare_xdp_libraries();
  // EAL keeps pointers into the list and reorders it.
  std::vector<std::string> words{"culvertd"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  std::string line;
  for (std::string& word : words) {
    argv.push_back(word.data());
    line += (line.empty() ? "" : " ") + word;
  }
  argv.push_back(nullptr);
  if (rte_eal_init(static_cast<int>(words.size()), argv.data()) < 0)
    throw std::runtime_error("DPDK did not start (" + std::string(rte_strerror(rte_errno)) +
                             "); its own words stand above. It was given: " + line);
}

Eal::~Eal() {
  (void)rte_eal_cleanup();
}

void Eal::attach(const std::string& device, const std::string& arguments) {
  const int result = rte_eal_hotplug_add("vdev", device.c_str(), arguments.c_str());
  if (result < 0)
    throw std::runtime_error("cannot make the device " + device + " (" + arguments +
                             "): " + rte_strerror(-result));
}

void Eal::detach(const std::string& device) {
  (void)rte_eal_hotplug_remove("vdev", device.c_str());
}

std::string Eal::version() {
  return rte_version();
}

EalThread::EalThread() {
  if (rte_thread_register() != 0)
    throw std::runtime_error("EAL has no lcore id left for another fast core: " +
                             std::string(rte_strerror(rte_errno)));
}

EalThread::~EalThread() {
  rte_thread_unregister();
}

std::vector<uint32_t> own_cpus() {
  std::vector<uint32_t> out;
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (sched_getaffinity(0, sizeof cpus, &cpus) == 0)
    for (uint32_t cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &cpus)) out.push_back(cpu);
  if (out.empty()) out.push_back(0);
  return out;
}

}  // namespace culvert
