#include "dataplane/io/dpdk/xdp_program.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xdp/libxdp.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

namespace culvert {

namespace {

// relay.bpf.o as the build made it.
alignas(8) constexpr unsigned char kObject[] = {
#include "dataplane/io/dpdk/relay_bpf_object.inc"
};
constexpr const char* kProgram = "culvert_relay";

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&&) = delete;
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

[[noreturn]] void fail(const std::string& what, int error) {
  const std::string rights =
      error == EPERM ? " (it needs root, or CAP_BPF and CAP_NET_ADMIN, at start)" : "";
  throw std::runtime_error("XDP program: " + what + ": " + std::strerror(error) + rights);
}

// libbpf's functions return a negative errno.
int must(int result, const std::string& what) {
  if (result < 0) fail(what, -result);
  return result;
}

struct Attached {
  uint32_t id = 0;  // 0: none
  uint32_t mode_flags = 0;
};

[[nodiscard]] Attached attached_program(unsigned if_index) {
  bpf_xdp_query_opts query{};
  query.sz = sizeof query;
  must(bpf_xdp_query(static_cast<int>(if_index), 0, &query),
       "cannot ask what stands on " + interface_name(if_index));
  // prog_id is 0 where programs stand in several modes at once.
  Attached out;
  if (query.drv_prog_id != 0)
    out = {query.drv_prog_id, XDP_FLAGS_DRV_MODE};
  else if (query.skb_prog_id != 0)
    out = {query.skb_prog_id, XDP_FLAGS_SKB_MODE};
  else if (query.hw_prog_id != 0)
    out = {query.hw_prog_id, XDP_FLAGS_HW_MODE};
  return out;
}

[[nodiscard]] std::string program_name(uint32_t id) {
  const Fd program(bpf_prog_get_fd_by_id(id));
  bpf_prog_info info{};
  uint32_t length = sizeof info;
  if (program.get() < 0 || bpf_obj_get_info_by_fd(program.get(), &info, &length) != 0) return "?";
  return info.name;
}

// The map of sockets that an attached program uses.
[[nodiscard]] Fd sockets_of_program(uint32_t id, unsigned if_index) {
  const std::string name = interface_name(if_index);
  const Fd program(must(bpf_prog_get_fd_by_id(id), "cannot open the one on " + name));
  std::array<uint32_t, 16> maps{};
  bpf_prog_info info{};
  info.nr_map_ids = maps.size();
  info.map_ids = reinterpret_cast<uintptr_t>(maps.data());
  uint32_t length = sizeof info;
  must(bpf_obj_get_info_by_fd(program.get(), &info, &length), "cannot look into that of " + name);
  for (uint32_t i = 0; i < std::min<uint32_t>(info.nr_map_ids, maps.size()); ++i) {
    Fd map(bpf_map_get_fd_by_id(maps[i]));
    bpf_map_info about{};
    length = sizeof about;
    if (map.get() >= 0 && bpf_obj_get_info_by_fd(map.get(), &about, &length) == 0 &&
        about.type == BPF_MAP_TYPE_XSKMAP)
      return map;
  }
  throw std::runtime_error("XDP program: the one on " + name + " (" + program_name(id) +
                           ") is not the port driver's: it has no map of sockets");
}

[[nodiscard]] bpf_map* map_of(bpf_object* object, const char* name) {
  return bpf_object__find_map_by_name(object, name);
}

void set_port(relay_ports& ports, uint32_t port) {
  ports.words[port / 64] |= uint64_t{1} << (port % 64);
}

}  // namespace

void prepare_xdp_libraries() {
  (void)setenv("LIBXDP_SKIP_DISPATCHER", "1", 1);
  (void)libbpf_set_print([](libbpf_print_level level, const char* format, va_list words) {
    return level == LIBBPF_WARN ? std::vfprintf(stderr, format, words) : 0;
  });
}

void silence_xdp_libraries() {
  (void)libbpf_set_print(nullptr);
  (void)libxdp_set_print(nullptr);
}

std::string interface_name(unsigned if_index) {
  char name[IF_NAMESIZE] = {};
  return if_indextoname(if_index, name) != nullptr ? name : "interface " + std::to_string(if_index);
}

unsigned interface_queues(unsigned if_index) {
  ifreq request{};
  if (if_indextoname(if_index, request.ifr_name) == nullptr) return 0;
  ethtool_channels channels{};
  channels.cmd = ETHTOOL_GCHANNELS;
  request.ifr_data = reinterpret_cast<char*>(&channels);
  const Fd any(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (any.get() < 0 || ioctl(any.get(), SIOCETHTOOL, &request) != 0) return 0;
  return channels.rx_count + channels.combined_count;
}

void XdpProgram::CloseObject::operator()(bpf_object* object) const {
  bpf_object__close(object);
}
void XdpProgram::EndLink::operator()(bpf_link* link) const {
  (void)bpf_link__destroy(link);
}

XdpProgram::XdpProgram(const Snapshot& snapshot) {
  load(snapshot, -1);
}

XdpProgram::XdpProgram(const Snapshot& snapshot, unsigned if_index) {
  const std::string name = interface_name(if_index);
  const Attached theirs = attached_program(if_index);
  if (theirs.id == 0)
    throw std::runtime_error("XDP program: the port driver has attached none to " + name);
  const Fd sockets = sockets_of_program(theirs.id, if_index);
  load(snapshot, sockets.get());
  // A link takes no occupied place. In between, the kernel gets everything.
  must(bpf_xdp_detach(static_cast<int>(if_index), theirs.mode_flags, nullptr),
       "cannot take the port driver's off " + name);
  bpf_program* program = bpf_object__find_program_by_name(object_.get(), kProgram);
  link_.reset(bpf_program__attach_xdp(program, static_cast<int>(if_index)));
  if (link_ == nullptr) fail("cannot be attached to " + name, errno);
}

XdpProgram::~XdpProgram() = default;

void XdpProgram::load(const Snapshot& snapshot, int sockets_fd) {
  bpf_object_open_opts options{};
  options.sz = sizeof options;
  options.object_name = kProgram;
  object_.reset(bpf_object__open_mem(kObject, sizeof kObject, &options));
  if (object_ == nullptr) fail("cannot be opened", errno);
  const auto count = static_cast<uint32_t>(std::max<size_t>(snapshot.addresses.size(), 1));
  must(bpf_map__set_max_entries(map_of(object_.get(), "addresses"), count),
       "no room for addresses");
  if (sockets_fd >= 0)
    must(bpf_map__reuse_fd(map_of(object_.get(), "xsks_map"), sockets_fd),
         "cannot share the port driver's sockets");
  must(bpf_object__load(object_.get()), "the kernel does not take it");

  std::vector<relay_ports> ports(snapshot.addresses.size());
  for (size_t i = 0; i < ports.size(); ++i)
    if (snapshot.addresses[i].relays)
      for (uint32_t port = snapshot.relay_port_low; port <= snapshot.relay_port_high; ++port)
        set_port(ports[i], port);
  for (const Listener& listener : snapshot.listeners)
    set_port(ports[listener.address], listener.port);
  const int addresses = bpf_map__fd(map_of(object_.get(), "addresses"));
  for (size_t i = 0; i < ports.size(); ++i) {
    relay_ip ip{};
    static_assert(sizeof ip.bytes == sizeof(IpAddress::bytes));
    std::memcpy(ip.bytes, snapshot.addresses[i].bound.bytes.data(), sizeof ip.bytes);
    must(bpf_map_update_elem(addresses, &ip, &ports[i], BPF_ANY), "cannot be told the addresses");
  }
}

XdpProgram::Counts XdpProgram::counts() const {
  Counts out{};
  const int cpus = libbpf_num_possible_cpus();
  if (cpus <= 0) return out;
  std::vector<uint64_t> each(static_cast<size_t>(cpus));
  const int map = bpf_map__fd(map_of(object_.get(), "verdicts"));
  for (uint32_t verdict = 0; verdict < out.size(); ++verdict)
    if (bpf_map_lookup_elem(map, &verdict, each.data()) == 0)
      for (const uint64_t n : each)
        out[verdict] += n;
  return out;
}

int XdpProgram::program_fd() const {
  return bpf_program__fd(bpf_object__find_program_by_name(object_.get(), kProgram));
}

int XdpProgram::sockets_fd() const {
  return bpf_map__fd(map_of(object_.get(), "xsks_map"));
}

void XdpProgram::expect_none(unsigned if_index) {
  const Attached theirs = attached_program(if_index);
  if (theirs.id == 0) return;
  const std::string name = interface_name(if_index);
  const std::string program = program_name(theirs.id);
  const std::string fix =
      program == kProgram
          ? "another relay serves this interface: stop it"
          : "end what has put it there, or take it off: ip link set dev " + name + " xdp off";
  throw std::runtime_error(name + " has an XDP program already (" + program + ", id " +
                           std::to_string(theirs.id) + "): " + fix);
}

}  // namespace culvert
