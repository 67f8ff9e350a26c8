#include "dataplane/io/dpdk/telemetry.h"

#include <rte_telemetry.h>
#include <rte_version.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <mutex>
#include <string>

namespace culvert {

namespace {

struct Source {
  std::mutex lock;
  const StatsHeader* header = nullptr;  // nullptr: nothing to tell
  std::span<const CoreStats> cores;
  std::span<const PortStats> ports;
};

Source& source() {
  static Source only;
  return only;
}

// DPDK 23.03 renamed them.
void put(rte_tel_data* to, const char* name, uint64_t value) {
#if RTE_VERSION >= RTE_VERSION_NUM(23, 3, 0, 0)
  (void)rte_tel_data_add_dict_uint(to, name, value);
#else
  (void)rte_tel_data_add_dict_u64(to, name, value);
#endif
}

[[nodiscard]] uint32_t ports_in_use(const Source& s) {
  return std::min<uint32_t>(s.header->ports.load(std::memory_order_acquire),
                            static_cast<uint32_t>(s.ports.size()));
}

// The number in `text`, below `end`; -1: there is none.
[[nodiscard]] long index_in(const char* text, size_t end) {
  if (text == nullptr || *text == 0) return -1;
  char* rest = nullptr;
  errno = 0;
  const unsigned long value = std::strtoul(text, &rest, 10);
  return errno == 0 && *rest == 0 && *text != '-' && value < end ? static_cast<long>(value) : -1;
}

// `answer` sees the source only while there is one.
template <class Answer>
[[nodiscard]] int with_source(Answer answer) {
  Source& s = source();
  const std::lock_guard guard(s.lock);
  return s.header == nullptr ? -ENOENT : answer(s);
}

int on_cores(const char*, const char*, rte_tel_data* to) {
  return with_source([&](const Source& s) {
    (void)rte_tel_data_start_array(to, RTE_TEL_INT_VAL);
    for (size_t core = 0; core < s.cores.size(); ++core)
      (void)rte_tel_data_add_array_int(to, static_cast<int>(core));
    return 0;
  });
}

int on_core(const char*, const char* parameters, rte_tel_data* to) {
  return with_source([&](const Source& s) {
    const long core = index_in(parameters, s.cores.size());
    if (core < 0) return -EINVAL;
    (void)rte_tel_data_start_dict(to);
    for (const CoreCounterInfo& c : kCoreCounters)
      put(to, c.name, (s.cores[static_cast<size_t>(core)].*c.counter).get());
    return 0;
  });
}

// Of the named core, or summed over all: `counter(core, i)` for `names`.
template <class Names, class Value>
[[nodiscard]] int sums(const char* parameters, rte_tel_data* to, const Names& names, Value value) {
  return with_source([&](const Source& s) {
    const bool all = parameters == nullptr || *parameters == 0;
    const long only = index_in(parameters, s.cores.size());
    if (!all && only < 0) return -EINVAL;
    (void)rte_tel_data_start_dict(to);
    for (size_t i = 0; i < std::size(names); ++i) {
      uint64_t sum = 0;
      for (size_t core = 0; core < s.cores.size(); ++core)
        if (all || core == static_cast<size_t>(only)) sum += value(s.cores[core], i);
      put(to, std::string(names[i].name).c_str(), sum);
    }
    return 0;
  });
}

int on_outcomes(const char*, const char* parameters, rte_tel_data* to) {
  return sums(parameters, to, kOutcomeInfo,
              [](const CoreStats& core, size_t i) { return core.outcomes[i].get(); });
}

int on_frames(const char*, const char* parameters, rte_tel_data* to) {
  return sums(parameters, to, kFrameCounterInfo,
              [](const CoreStats& core, size_t i) { return core.frames[i].get(); });
}

int on_ports(const char*, const char*, rte_tel_data* to) {
  return with_source([&](const Source& s) {
    (void)rte_tel_data_start_array(to, RTE_TEL_STRING_VAL);
    for (uint32_t port = 0; port < ports_in_use(s); ++port)
      (void)rte_tel_data_add_array_string(to, s.ports[port].name.data());
    return 0;
  });
}

int on_port(const char*, const char* parameters, rte_tel_data* to) {
  return with_source([&](const Source& s) {
    const long port = index_in(parameters, ports_in_use(s));
    if (port < 0) return -EINVAL;
    const PortStats& stats = s.ports[static_cast<size_t>(port)];
    (void)rte_tel_data_start_dict(to);
    (void)rte_tel_data_add_dict_string(to, "name", stats.name.data());
    (void)rte_tel_data_add_dict_string(to, "driver", stats.driver.data());
    for (const PortCounterInfo& p : kPortCounters)
      put(to, p.name, (stats.*p.counter).get());
    return 0;
  });
}

}  // namespace

Telemetry::Telemetry(const StatsHeader& header, std::span<const CoreStats> cores,
                     std::span<const PortStats> ports) {
  Source& s = source();
  {
    const std::lock_guard guard(s.lock);
    s.header = &header;
    s.cores = cores;
    s.ports = ports;
  }
  // There is no way to take a command back; one that is there already is refused, and stays.
  (void)rte_telemetry_register_cmd("/culvert/cores", on_cores,
                                   "Ids of the fast cores. Takes no parameters");
  (void)rte_telemetry_register_cmd("/culvert/core", on_core,
                                   "Counters of a fast core. Parameters: core id");
  (void)rte_telemetry_register_cmd("/culvert/outcomes", on_outcomes,
                                   "Datagrams by how they ended. Parameters: none, or core id");
  (void)rte_telemetry_register_cmd("/culvert/frames", on_frames,
                                   "Frames that were no datagrams. Parameters: none, or core id");
  (void)rte_telemetry_register_cmd("/culvert/ports", on_ports,
                                   "Names of our ports. Takes no parameters");
  (void)rte_telemetry_register_cmd("/culvert/port", on_port,
                                   "Counters of a port. Parameters: its place among our ports");
}

Telemetry::~Telemetry() {
  Source& s = source();
  const std::lock_guard guard(s.lock);
  s.header = nullptr;
  s.cores = {};
  s.ports = {};
}

}  // namespace culvert
