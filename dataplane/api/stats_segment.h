// The stats segment: the live counters themselves in shared memory, under a name beside the control
// socket, for whoever may connect there. Cores write into it and nothing copies; a reader maps it
// read-only, asks nobody, and so works while control is stuck.
//
//   StatsHeader | StatsName x names | CoreStats x cores | PortStats x kMaxStatsPorts
//
// A reader takes offsets and sizes from the header and finds numbers by their names: one of another
// build works with what both know. Every number is one aligned 64-bit word of the machine, written
// by one thread with relaxed stores: read each on its own, differences of two looks are rates. The
// layout is fixed before the name appears; `version` changes when this page does.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <string>

#include "dataplane/api/stats_names.h"

namespace culvert {

inline constexpr std::array<char, 8> kStatsMagic = {'C', 'U', 'L', 'V', 'S', 'T', 'A', 'T'};
inline constexpr uint32_t kStatsVersion = 1;
// Ports that have a place in the segment: as many as are served.
inline constexpr uint32_t kMaxStatsPorts = 8;

enum class StatsScope : uint8_t { kCore = 0, kPort = 1 };

// One number of every core or port. Names of outcomes begin with "outcome/", of frame counters with
// "frame/".
struct StatsName {
  std::array<char, 56> name{};  // closed by a zero
  uint32_t offset = 0;          // from the begin of the core's or port's block
  StatsScope scope = StatsScope::kCore;
  CounterKind kind = CounterKind::kCounter;
  uint8_t severity = 0;  // of an outcome or frame counter: 0 ok, 1 normal, 2 notice, 3 hostile
  uint8_t reserved = 0;
};
static_assert(sizeof(StatsName) == 64);

struct StatsHeader {
  std::array<char, 8> magic{};  // kStatsMagic, written last
  uint32_t version = 0;
  uint32_t header_bytes = 0;
  uint64_t segment_bytes = 0;
  uint32_t names_offset = 0;
  uint32_t names = 0;
  uint32_t name_bytes = 0;
  uint32_t cores_offset = 0;
  uint32_t cores = 0;
  uint32_t core_bytes = 0;
  uint32_t ports_offset = 0;
  uint32_t max_ports = 0;
  uint32_t port_bytes = 0;
  uint32_t pid = 0;
  uint64_t started_unix_ms = 0;
  std::array<char, 32> build{};   // of culvertd, closed by a zero
  std::array<char, 16> driver{};  // closed by a zero
  // By control, each tick. CLOCK_MONOTONIC: old while control is stuck or gone.
  std::atomic<uint64_t> control_seen_ms{0};
  std::atomic<uint64_t> ports_seen_ms{0};  // when the ports were last asked
  std::atomic<uint32_t> ports{0};          // blocks in use
  std::atomic<uint32_t> state{0};          // ServiceState; kStatsEnded: a clean end
};
inline constexpr uint32_t kStatsEnded = 255;

// Where it is: beside the control socket, "/run/culvert/control.stats" for
// "/run/culvert/control.sock".
[[nodiscard]] inline std::string stats_path(const std::string& control_socket) {
  const bool ends = control_socket.ends_with(".sock");
  return control_socket.substr(0, control_socket.size() - (ends ? 5 : 0)) + ".stats";
}

// The name that the segment gets, and who may read it.
struct StatsFile {
  std::string path;
  uint32_t mode = 0640;
  std::optional<uid_t> owner;
  std::optional<gid_t> group;
};

static_assert(std::atomic<uint64_t>::is_always_lock_free && sizeof(Counter) == sizeof(uint64_t));

}  // namespace culvert
