#include "tools/culvert-load/port_reflector.h"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "config/dpdk.h"
#include "dataplane/io/dpdk/eal.h"
#include "dataplane/io/dpdk/host.h"
#include "dataplane/io/dpdk/port_burst.h"
#include "tools/culvert-load/run.h"

namespace culvert::load {
namespace {

// Of a link that nobody else is on.
const PortAddressConfig kReflector{IpAddress::v4(0xc6120001), 24, 0};  // 198.18.0.1 (RFC 2544)
const PortAddressConfig kGenerator{IpAddress::v4(0xc6120002), 24, 0};
constexpr uint16_t kPort = 3478;

std::string device(const std::string& folder, const std::string& role) {
  return " --file-prefix=culvert-load-" + role + std::to_string(getpid()) +
         " --vdev=net_memif0,role=" + role + ",socket=" + folder +
         "/memif.sock,socket-abstract=no,bsize=2048,rsize=11";
}

template <size_t Size>
void exchange(uint8_t* one, uint8_t* other) {
  std::array<uint8_t, Size> kept;
  std::memcpy(kept.data(), one, Size);
  std::memcpy(one, other, Size);
  std::memcpy(other, kept.data(), Size);
}

// Sums do not change when what they are sums of changes places.
void turn_round(uint8_t* frame) {
  uint8_t* ip = frame + frame::kEthernetHeader;
  exchange<6>(frame, frame + 6);
  exchange<4>(ip + 12, ip + 16);
  exchange<2>(ip + frame::kIpv4Header, ip + frame::kIpv4Header + 2);
}

bool is_udp(const PortBurst::Frame& frame) {
  constexpr size_t kShortest = frame::kEthernetHeader + frame::kIpv4Header + frame::kUdpHeader;
  return frame.size >= kShortest && load_be16(frame.data + 12) == frame::kEtherIpv4 &&
         frame.data[frame::kEthernetHeader + 9] == frame::kProtocolUdp;
}

void reflect(PortBurst& burst) {
  const host::Port host{burst.port().mac, {&kReflector.ip, 1}};
  while (!interrupted()) {
    const auto frames = burst.receive(0);
    for (size_t i = 0; i < frames.size(); ++i) {
      if (is_udp(frames[i])) {
        turn_round(frames[i].data);
        burst.send_back(0, i);
        continue;
      }
      const size_t room = std::max<size_t>(frames[i].size, host::kSolicitationFrame);
      uint8_t* body = burst.body(room);
      if (body == nullptr) continue;
      const auto reaction = host::react({frames[i].data, frames[i].size}, host, {body, room});
      if (reaction.kind == host::Reaction::Kind::kReply)
        burst.send_body(0, 0, reaction.reply_bytes);
    }
    burst.flush();
  }
}

// `ready` is written to when its memif listens.
int child(const DpdkConfig& config, int ready) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  try {
    const std::vector<uint32_t> cpus = own_cpus();
    const Eal eal(eal_arguments(config, cpus));
    DpdkPorts ports(PortsOptions{});
    PortBurst burst(ports.ports().at(0));
    if (write(ready, "r", 1) != 1) return 1;
    reflect(burst);
    return 0;
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "culvert-load: the reflector: %s\n", problem.what());
    return 1;
  }
}

}  // namespace

PortReflector::PortReflector(Options& options) {
  std::string folder = "/tmp/culvert-load-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr)
    throw std::runtime_error("cannot make a folder in /tmp for the memif's socket");
  folder_ = folder;
  DpdkConfig mine = options.dpdk;
  mine.eal += device(folder_, "server");
  options.dpdk.eal += device(folder_, "client");
  options.dpdk.port_addresses = {kGenerator};
  options.server = {kReflector.ip, kPort};
  std::array<int, 2> ready{};
  if (pipe(ready.data()) != 0) throw std::runtime_error("cannot make a pipe for the reflector");
  child_ = fork();
  if (child_ == 0) {
    ::close(ready[0]);
    _exit(child(mine, ready[1]));
  }
  ::close(ready[1]);
  char byte = 0;
  const bool came = child_ > 0 && read(ready[0], &byte, 1) == 1;
  ::close(ready[0]);
  if (came) return;
  end();
  throw std::runtime_error("the reflector's process did not start");
}

PortReflector::~PortReflector() {
  end();
}

void PortReflector::end() {
  if (child_ > 0) {
    kill(child_, SIGTERM);
    (void)waitpid(child_, nullptr, 0);
  }
  (void)unlink((folder_ + "/memif.sock").c_str());
  (void)rmdir(folder_.c_str());
}

}  // namespace culvert::load
