#include "dataplane/core/stats_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <system_error>
#include <vector>

namespace culvert {

namespace {

[[nodiscard]] constexpr size_t round_up(size_t bytes, size_t to) {
  return (bytes + to - 1) / to * to;
}

template <size_t N>
void put_text(std::array<char, N>& to, std::string_view text) {
  to.fill(0);
  std::copy_n(text.begin(), std::min(text.size(), N - 1), to.begin());
}

template <class Stats>
[[nodiscard]] uint32_t offset_in(const Stats& stats, const Counter& counter) {
  return static_cast<uint32_t>(reinterpret_cast<const uint8_t*>(&counter) -
                               reinterpret_cast<const uint8_t*>(&stats));
}

[[nodiscard]] StatsName make_name(const std::string& name, uint32_t offset, StatsScope scope,
                                  CounterKind kind, uint8_t severity = 0) {
  StatsName out;
  put_text(out.name, name);
  out.offset = offset;
  out.scope = scope;
  out.kind = kind;
  out.severity = severity;
  return out;
}

[[nodiscard]] std::vector<StatsName> make_names() {
  std::vector<StatsName> out;
  const CoreStats core;
  for (const CoreCounterInfo& c : kCoreCounters)
    out.push_back(make_name(c.name, offset_in(core, core.*c.counter), StatsScope::kCore, c.kind));
  for (size_t i = 0; i < kOutcomes; ++i)
    out.push_back(make_name("outcome/" + std::string(kOutcomeInfo[i].name),
                            offset_in(core, core.outcomes[i]), StatsScope::kCore,
                            CounterKind::kCounter, static_cast<uint8_t>(kOutcomeInfo[i].severity)));
  for (size_t i = 0; i < kFrameCounters; ++i)
    out.push_back(make_name("frame/" + std::string(kFrameCounterInfo[i].name),
                            offset_in(core, core.frames[i]), StatsScope::kCore,
                            CounterKind::kCounter,
                            static_cast<uint8_t>(kFrameCounterInfo[i].severity)));
  const PortStats port;
  for (const PortCounterInfo& p : kPortCounters)
    out.push_back(make_name(p.name, offset_in(port, port.*p.counter), StatsScope::kPort, p.kind));
  return out;
}

[[nodiscard]] std::runtime_error file_error(const std::string& path, const std::string& what) {
  return std::runtime_error("stats segment " + path + ": " + what + ": " + std::strerror(errno));
}

class File {
 public:
  explicit File(int fd) : fd_(fd) {}
  ~File() {
    if (fd_ >= 0) close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  [[nodiscard]] int fd() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

StatsMemory::StatsMemory(CoreId cores) {
  const std::vector<StatsName> names = make_names();
  const size_t names_at = round_up(sizeof(StatsHeader), alignof(CoreStats));
  const size_t cores_at = round_up(names_at + names.size() * sizeof(StatsName), alignof(CoreStats));
  const size_t ports_at = cores_at + cores * sizeof(CoreStats);
  bytes_ = round_up(ports_at + kMaxStatsPorts * sizeof(PortStats),
                    static_cast<size_t>(sysconf(_SC_PAGESIZE)));
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    throw std::system_error(errno, std::generic_category(), "no memory for the cores' counters");
  base_ = static_cast<uint8_t*>(memory);
  header_ = new (base_) StatsHeader;
  std::memcpy(base_ + names_at, names.data(), names.size() * sizeof(StatsName));
  cores_ = {reinterpret_cast<CoreStats*>(base_ + cores_at), cores};
  for (CoreStats& core : cores_)
    new (&core) CoreStats;
  ports_ = {reinterpret_cast<PortStats*>(base_ + ports_at), kMaxStatsPorts};
  for (PortStats& port : ports_)
    new (&port) PortStats;

  header_->version = kStatsVersion;
  header_->header_bytes = sizeof(StatsHeader);
  header_->segment_bytes = bytes_;
  header_->names_offset = static_cast<uint32_t>(names_at);
  header_->names = static_cast<uint32_t>(names.size());
  header_->name_bytes = sizeof(StatsName);
  header_->cores_offset = static_cast<uint32_t>(cores_at);
  header_->cores = cores;
  header_->core_bytes = sizeof(CoreStats);
  header_->ports_offset = static_cast<uint32_t>(ports_at);
  header_->max_ports = kMaxStatsPorts;
  header_->port_bytes = sizeof(PortStats);
  header_->pid = static_cast<uint32_t>(getpid());
  header_->started_unix_ms =
      static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                std::chrono::system_clock::now().time_since_epoch())
                                .count());
  header_->magic = kStatsMagic;
}

void StatsMemory::publish(const StatsFile& file, std::string_view build, std::string_view driver) {
  put_text(header_->build, build);
  put_text(header_->driver, driver);
  // Complete before it has its name; the name moves in one step over one that a killed relay left.
  std::string temporary = file.path + ".XXXXXX";
  const File out(mkostemp(temporary.data(), O_CLOEXEC));
  if (out.fd() < 0) throw file_error(file.path, "cannot be made in its folder");
  const auto fail = [&](const std::string& what) {
    const std::runtime_error error = file_error(file.path, what);
    unlink(temporary.c_str());
    return error;
  };
  struct stat made {};
  // Its pages are taken now: a full file system must not show as a SIGBUS of a core.
  if (const int error = posix_fallocate(out.fd(), 0, static_cast<off_t>(bytes_)); error != 0) {
    errno = error;
    throw fail("has no room for " + std::to_string(bytes_) + " bytes");
  }
  if (pwrite(out.fd(), base_, bytes_, 0) != static_cast<ssize_t>(bytes_))
    throw fail("cannot be written");
  if (fchown(out.fd(), file.owner.value_or(static_cast<uid_t>(-1)),
             file.group.value_or(static_cast<gid_t>(-1))) != 0 ||
      fchmod(out.fd(), file.mode) != 0 || fstat(out.fd(), &made) != 0)
    throw fail("cannot be given to its account");
  if (mmap(base_, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, out.fd(), 0) ==
      MAP_FAILED)
    throw fail("cannot be mapped");
  if (rename(temporary.c_str(), file.path.c_str()) != 0) throw fail("cannot be given its name");
  path_ = file.path;
  device_ = made.st_dev;
  inode_ = made.st_ino;
}

StatsMemory::~StatsMemory() {
  header_->state.store(kStatsEnded, std::memory_order_relaxed);
  struct stat there {};
  if (!path_.empty() && stat(path_.c_str(), &there) == 0 && there.st_dev == device_ &&
      there.st_ino == inode_)
    unlink(path_.c_str());
  munmap(base_, bytes_);
}

}  // namespace culvert
