#include "tools/culvertctl/stats_reader.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <stdexcept>

#include "dataplane/base/cycles.h"
#include "tools/culvertctl/client.h"

namespace culvert {

namespace {

template <size_t N>
[[nodiscard]] std::string text_of(const std::array<char, N>& from) {
  return {from.data(), strnlen(from.data(), N)};
}

// `count` blocks of `each` bytes from `at` lie within `bytes`.
[[nodiscard]] bool fits(uint64_t at, uint64_t count, uint64_t each, uint64_t bytes) {
  return at <= bytes && at % sizeof(uint64_t) == 0 && each % sizeof(uint64_t) == 0 &&
         (count == 0 || (each != 0 && count <= (bytes - at) / each));
}

}  // namespace

StatsReader::StatsReader(const std::string& path) : path_(path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    throw Unreachable("no stats segment at " + path + ": " + std::strerror(errno) +
                      (errno == ENOENT ? " (is culvertd running there? --socket PATH)"
                                       : " (allowed is who may use the control socket)"));
  try {
    map(fd);
    check();
    read_names();
  } catch (...) {
    close(fd);
    if (base_ != nullptr) munmap(const_cast<uint8_t*>(base_), bytes_);
    throw;
  }
  close(fd);
}

void StatsReader::map(int fd) {
  struct stat there {};
  if (fstat(fd, &there) != 0 || static_cast<size_t>(there.st_size) < sizeof(StatsHeader))
    throw std::runtime_error(path_ + " is no stats segment: it is too short");
  device_ = there.st_dev;
  inode_ = there.st_ino;
  bytes_ = static_cast<size_t>(there.st_size);
  void* memory = mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED)
    throw std::runtime_error(path_ + " cannot be mapped: " + std::strerror(errno));
  base_ = static_cast<const uint8_t*>(memory);
}

StatsReader::~StatsReader() {
  munmap(const_cast<uint8_t*>(base_), bytes_);
}

void StatsReader::check() const {
  const StatsHeader& h = header();
  if (h.magic != kStatsMagic) throw std::runtime_error(path_ + " is no stats segment");
  if (h.version != kStatsVersion)
    throw std::runtime_error(path_ + " has layout " + std::to_string(h.version) +
                             ", this culvertctl reads layout " + std::to_string(kStatsVersion) +
                             ": use the culvertctl that came with the running culvertd (" +
                             build() + ")");
  const bool sound =
      h.segment_bytes == bytes_ && h.header_bytes >= sizeof(StatsHeader) &&
      h.name_bytes >= sizeof(StatsName) && fits(h.names_offset, h.names, h.name_bytes, bytes_) &&
      fits(h.cores_offset, h.cores, h.core_bytes, bytes_) &&
      fits(h.ports_offset, h.max_ports, h.port_bytes, bytes_) &&
      (h.max_ports == 0 || h.port_bytes >= sizeof(PortStats::name) + sizeof(PortStats::driver));
  if (!sound) throw std::runtime_error(path_ + " is damaged: its sizes do not fit together");
}

void StatsReader::read_names() {
  const StatsHeader& h = header();
  for (uint32_t i = 0; i < h.names; ++i) {
    const auto& entry =
        *reinterpret_cast<const StatsName*>(base_ + h.names_offset + uint64_t{i} * h.name_bytes);
    if (entry.scope != StatsScope::kCore && entry.scope != StatsScope::kPort) continue;
    const uint64_t block = entry.scope == StatsScope::kCore ? h.core_bytes : h.port_bytes;
    if (entry.offset % sizeof(uint64_t) != 0 || entry.offset + sizeof(uint64_t) > block)
      throw std::runtime_error(path_ + " is damaged: a name points outside of its block");
    names_.push_back({text_of(entry.name), entry.scope, entry.kind, entry.severity, entry.offset});
  }
}

size_t StatsReader::find(StatsScope scope, std::string_view name) const {
  return static_cast<size_t>(
      std::find_if(names_.begin(), names_.end(),
                   [&](const StatsNameView& n) { return n.scope == scope && n.name == name; }) -
      names_.begin());
}

std::vector<uint64_t> StatsReader::read_block(StatsScope scope, uint64_t at) const {
  std::vector<uint64_t> out(names_.size());
  for (size_t i = 0; i < names_.size(); ++i) {
    if (names_[i].scope != scope) continue;
    const auto& word =
        *reinterpret_cast<const std::atomic<uint64_t>*>(base_ + at + names_[i].offset);
    out[i] = word.load(std::memory_order_relaxed);
  }
  return out;
}

StatsSample StatsReader::sample() const {
  const StatsHeader& h = header();
  StatsSample out;
  out.at_ms = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                        std::chrono::steady_clock::now().time_since_epoch())
                                        .count());
  out.at_cycles = read_cycles();
  out.control_seen_ms = h.control_seen_ms.load(std::memory_order_relaxed);
  out.ports_seen_ms = h.ports_seen_ms.load(std::memory_order_relaxed);
  out.state = h.state.load(std::memory_order_relaxed);
  for (uint32_t core = 0; core < h.cores; ++core)
    out.cores.push_back(
        read_block(StatsScope::kCore, h.cores_offset + uint64_t{core} * h.core_bytes));
  const uint32_t ports = std::min(h.ports.load(std::memory_order_acquire), h.max_ports);
  for (uint32_t i = 0; i < ports; ++i) {
    const uint64_t at = h.ports_offset + uint64_t{i} * h.port_bytes;
    const auto& port = *reinterpret_cast<const PortStats*>(base_ + at);
    out.ports.push_back(
        {text_of(port.name), text_of(port.driver), read_block(StatsScope::kPort, at)});
  }
  return out;
}

bool StatsReader::replaced() const {
  struct stat there {};
  return stat(path_.c_str(), &there) != 0 || there.st_dev != device_ || there.st_ino != inode_;
}

std::string StatsReader::build() const {
  return text_of(header().build);
}

std::string StatsReader::driver() const {
  return text_of(header().driver);
}

}  // namespace culvert
