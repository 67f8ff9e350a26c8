// The generator's own ceiling: the relay traffic against a reflector in this process, a thread that
// does nothing but send back what it reads. Two figures come out: what went round (both threads and
// the kernel share it), and what one sent and one received datagram cost the generator's thread,
// from which follows the most it could drive if the server cost nothing. Of a DPDK port the
// reflector is a process of its own at the other end of a memif (port_reflector.h).
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

#ifdef CULVERT_HAVE_DPDK
#include "tools/culvert-load/port_reflector.h"
#endif
#include "tools/culvert-load/run.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

namespace culvert::load {
namespace {

constexpr size_t kBurst = 64;
constexpr size_t kSlot = 65536;
constexpr int kBuffer = 8 << 20;

class Reflector {
 public:
  explicit Reflector(bool coalesce) : memory_(kBurst * kSlot) {
    fd_ = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (setsockopt(fd_, SOL_SOCKET, SO_RCVBUFFORCE, &kBuffer, sizeof kBuffer) != 0)
      setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &kBuffer, sizeof kBuffer);
    const int on = 1;
    if (coalesce) setsockopt(fd_, SOL_UDP, UDP_GRO, &on, sizeof on);
    const timeval wait{0, 50'000};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    if (bind(fd_, reinterpret_cast<sockaddr*>(&at), size) == 0 &&
        getsockname(fd_, reinterpret_cast<sockaddr*>(&at), &size) == 0)
      address_ = {IpAddress::v4(INADDR_LOOPBACK), ntohs(at.sin_port)};
    thread_ = std::thread([this] { loop(); });
  }
  Reflector(const Reflector&) = delete;
  Reflector& operator=(const Reflector&) = delete;
  ~Reflector() {
    stop_ = true;
    thread_.join();
    close(fd_);
  }

  [[nodiscard]] TransportAddress address() const { return address_; }

 private:
  void loop() {
    while (!stop_) {
      for (size_t i = 0; i < kBurst; ++i) {
        parts_[i] = {&memory_[i * kSlot], kSlot};
        auto& header = messages_[i].msg_hdr;
        header = {};
        header.msg_name = &from_[i];
        header.msg_namelen = sizeof from_[i];
        header.msg_iov = &parts_[i];
        header.msg_iovlen = 1;
        header.msg_control = control_[i].data();
        header.msg_controllen = control_[i].size();
      }
      const int got = recvmmsg(fd_, messages_.data(), kBurst, MSG_WAITFORONE, nullptr);
      for (int i = 0; i < got; ++i)
        turn_round(static_cast<size_t>(i));
      for (int done = 0; done < got;) {
        const int sent = sendmmsg(fd_, &messages_[static_cast<size_t>(done)],
                                  static_cast<unsigned>(got - done), 0);
        done += sent > 0 ? sent : 1;
      }
    }
  }

  // A datagram that came coalesced goes back as one GSO packet.
  void turn_round(size_t i) {
    auto& header = messages_[i].msg_hdr;
    parts_[i].iov_len = messages_[i].msg_len;
    cmsghdr* control = CMSG_FIRSTHDR(&header);
    if (control == nullptr || control->cmsg_type != UDP_GRO) {
      header.msg_control = nullptr;
      header.msg_controllen = 0;
      return;
    }
    int segment = 0;
    std::memcpy(&segment, CMSG_DATA(control), sizeof segment);
    const auto size = static_cast<uint16_t>(segment);
    control->cmsg_type = UDP_SEGMENT;
    control->cmsg_len = CMSG_LEN(sizeof size);
    header.msg_controllen = CMSG_SPACE(sizeof size);
    std::memcpy(CMSG_DATA(control), &size, sizeof size);
  }

  std::vector<uint8_t> memory_;
  int fd_ = -1;
  TransportAddress address_;
  std::atomic<bool> stop_{false};
  std::array<mmsghdr, kBurst> messages_{};
  std::array<iovec, kBurst> parts_{};
  std::array<sockaddr_storage, kBurst> from_{};
  alignas(cmsghdr) std::array<std::array<char, CMSG_SPACE(sizeof(int))>, kBurst> control_{};
  std::thread thread_;
};

bool measure_on(const Options& options, Result& result) {
  std::string error;
  const auto network = make_network(options, error);
  if (!network) {
    std::fprintf(stderr, "culvert-load: %s\n", error.c_str());
    return false;
  }
  const auto make = [&](uint32_t thread) { return make_relay_worker(options, *network, thread); };
  return run_once(options, make, result);
}

bool measure_on_port(Options& options, Result& result) {
#ifdef CULVERT_HAVE_DPDK
  try {
    const PortReflector reflector(options);
    return measure_on(options, result);
  } catch (const std::runtime_error& problem) {
    std::fprintf(stderr, "culvert-load: %s\n", problem.what());
    return false;
  }
#else
  return measure_on(options, result);  // says that there is none
#endif
}

bool measure(Options& options, Result& result) {
  if (options.driver == "dpdk") return measure_on_port(options, result);
  const Reflector reflector(options.coalesce);
  if (reflector.address().port == 0) {
    std::fprintf(stderr, "culvert-load: cannot open the reflector's socket\n");
    return false;
  }
  options.server = reflector.address();
  return measure_on(options, result);
}

}  // namespace

int calibrate(Options options) {
  Result result;
  if (!measure(options, result)) return 1;
  if (!options.quiet && options.json != "-") {
    print_summary(result);
    const auto& t = result.tally;
    const double tx =
        static_cast<double>(t.tx_ns) / static_cast<double>(std::max<uint64_t>(t.tx_datagrams, 1));
    const double rx =
        static_cast<double>(t.rx_ns) / static_cast<double>(std::max<uint64_t>(t.rx_datagrams, 1));
    std::printf("generator    %.0f ns to send one datagram, %.0f ns to receive one\n", tx, rx);
    if (tx + rx > 0)
      std::printf("ceiling      about %.0f datagrams a second through a server, one thread\n",
                  1e9 / (tx + rx));
  }
  return write_json(result) ? 0 : 1;
}

}  // namespace culvert::load
