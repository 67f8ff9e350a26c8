// The kernel-sockets driver: one UDP socket per endpoint, epoll, sendmmsg and recvmmsg, GSO and GRO
// by control message. A TURN client is a 5-tuple, so each client must have a socket of its own; one
// datagram per client therefore costs one system call, and only runs of a flow share one.
#include <arpa/inet.h>
#include <linux/sock_diag.h>
#include <netinet/udp.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "tools/culvert-load/driver.h"
#include "tools/culvert-load/options.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

namespace culvert::load {
namespace {

constexpr size_t kSlots = 256;     // datagrams of one receive call
constexpr size_t kPerSocket = 64;  // of one socket, so that no socket starves the others
// Slots are an odd number of cache lines apart, or all their starts would share one cache set.
constexpr size_t kPlainSlot = 2048 + 64;       // an MTU of 1500 and room
constexpr size_t kCoalescedSlot = 65536 + 64;  // what GRO may hand over at once
constexpr uint16_t kAnyPort = 9;         // of a connect() that only asks for the route (discard)
constexpr int kReceiveBuffer = 8 << 20;  // asked for; without CAP_NET_ADMIN rmem_max caps it

template <class T>
void put_control(msghdr& header, void* space, int level, int type, T value) {
  header.msg_control = space;
  header.msg_controllen = CMSG_SPACE(sizeof(T));
  cmsghdr* control = CMSG_FIRSTHDR(&header);
  control->cmsg_level = level;
  control->cmsg_type = type;
  control->cmsg_len = CMSG_LEN(sizeof(T));
  std::memcpy(CMSG_DATA(control), &value, sizeof value);
}

class SocketDriver final : public Driver {
 public:
  explicit SocketDriver(bool coalesce)
      : coalesce_(coalesce),
        slot_size_(coalesce ? kCoalescedSlot : kPlainSlot),
        memory_(kSlots * slot_size_),
        epoll_(epoll_create1(EPOLL_CLOEXEC)) {}
  SocketDriver(const SocketDriver&) = delete;
  SocketDriver& operator=(const SocketDriver&) = delete;
  ~SocketDriver() override {
    for (const auto& socket : sockets_)
      if (socket.fd >= 0) ::close(socket.fd);
    ::close(epoll_);
  }

  std::optional<Endpoint> open(const TransportAddress& local,
                               const std::optional<TransportAddress>& remote,
                               std::string& error) override;
  void close(Endpoint endpoint) override;
  TransportAddress local(Endpoint endpoint) const override;
  void send(std::span<const TxItem> items) override;
  std::span<const RxItem> receive(uint64_t wait_ns) override;
  uint64_t receive_drops() const override;
  const DriverCounters& counters() const override { return counters_; }
  std::optional<IpAddress> source_address(const IpAddress& remote) const override;
  std::optional<IpAddress> peer_address(const IpAddress& server, Family relayed) const override;

 private:
  struct Socket {
    int fd = -1;
    bool connected = false;
  };
  static constexpr size_t kTxBatch = 64;
  using ControlSpace = std::array<char, CMSG_SPACE(sizeof(int))>;

  void send_run(std::span<const TxItem> items);
  bool read_socket(Endpoint endpoint);

  bool coalesce_;
  size_t slot_size_;
  std::vector<uint8_t> memory_;
  int epoll_;
  std::vector<Socket> sockets_;
  std::vector<Endpoint> free_;
  std::array<RxItem, kSlots> received_{};
  size_t received_count_ = 0;
  DriverCounters counters_;
  std::array<mmsghdr, kTxBatch> tx_{};
  std::array<iovec, kTxBatch> tx_parts_{};
  alignas(cmsghdr) std::array<ControlSpace, kTxBatch> tx_control_{};
  std::array<mmsghdr, kPerSocket> rx_{};
  std::array<iovec, kPerSocket> rx_parts_{};
  alignas(cmsghdr) std::array<ControlSpace, kPerSocket> rx_control_{};
  std::array<epoll_event, 128> ready_{};
};

TransportAddress address_of(const sockaddr_storage& at) {
  if (at.ss_family == AF_INET6) {
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&at);
    return {IpAddress::v6_bytes(&v6->sin6_addr), ntohs(v6->sin6_port)};
  }
  const auto* v4 = reinterpret_cast<const sockaddr_in*>(&at);
  return {IpAddress::v4_bytes(&v4->sin_addr), ntohs(v4->sin_port)};
}

std::string system_error(const std::string& what) {
  return what + ": " + std::strerror(errno);
}

std::optional<Endpoint> SocketDriver::open(const TransportAddress& local,
                                           const std::optional<TransportAddress>& remote,
                                           std::string& error) {
  const int family = local.ip.is_v6() ? AF_INET6 : AF_INET;
  const int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    error = system_error("cannot open a UDP socket");
    if (errno == EMFILE)
      error += " (each client needs one: raise the limit with `ulimit -n`, or lower --clients)";
    return std::nullopt;
  }
  const int size = kReceiveBuffer;
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) != 0)
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  const int on = 1;
  if (coalesce_) setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof on);
  const auto from = Destination::of(local);
  if (bind(fd, reinterpret_cast<const sockaddr*>(&from.storage), from.size) != 0) {
    error = system_error("cannot bind " + local.to_string());
    ::close(fd);
    return std::nullopt;
  }
  if (remote) {
    const auto to = Destination::of(*remote);
    if (connect(fd, reinterpret_cast<const sockaddr*>(&to.storage), to.size) != 0) {
      error = system_error("cannot connect to " + remote->to_string());
      ::close(fd);
      return std::nullopt;
    }
  }
  Endpoint endpoint = 0;
  if (free_.empty()) {
    endpoint = static_cast<Endpoint>(sockets_.size());
    sockets_.emplace_back();
  } else {
    endpoint = free_.back();
    free_.pop_back();
  }
  sockets_[endpoint] = {fd, remote.has_value()};
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u32 = endpoint;
  epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
  return endpoint;
}

void SocketDriver::close(Endpoint endpoint) {
  ::close(sockets_[endpoint].fd);  // which takes it out of the epoll set as well
  sockets_[endpoint] = {};
  free_.push_back(endpoint);
}

TransportAddress SocketDriver::local(Endpoint endpoint) const {
  sockaddr_storage at{};
  socklen_t size = sizeof at;
  getsockname(sockets_[endpoint].fd, reinterpret_cast<sockaddr*>(&at), &size);
  return address_of(at);
}

void SocketDriver::send(std::span<const TxItem> items) {
  while (!items.empty()) {
    size_t run = 1;
    while (run < items.size() && run < kTxBatch && items[run].from == items[0].from)
      ++run;
    const auto& first = items[0];
    if (run == 1 && first.to == nullptr && first.segment == 0) {
      ++counters_.send_calls;
      // A pending error of an earlier datagram is reported once by the next send: repeat that one.
      const int fd = sockets_[first.from].fd;
      if (::send(fd, first.data, first.size, 0) < 0 && ::send(fd, first.data, first.size, 0) < 0)
        ++counters_.send_refused;
    } else {
      send_run(items.first(run));
    }
    items = items.subspan(run);
  }
}

void SocketDriver::send_run(std::span<const TxItem> items) {
  for (size_t i = 0; i < items.size(); ++i) {
    const auto& item = items[i];
    auto& header = tx_[i].msg_hdr;
    header = {};
    tx_parts_[i] = {const_cast<uint8_t*>(item.data), item.size};
    header.msg_iov = &tx_parts_[i];
    header.msg_iovlen = 1;
    if (item.to != nullptr) {
      header.msg_name = const_cast<sockaddr_storage*>(&item.to->storage);
      header.msg_namelen = item.to->size;
    }
    if (item.segment != 0 && item.size > item.segment)
      put_control<uint16_t>(header, tx_control_[i].data(), SOL_UDP, UDP_SEGMENT, item.segment);
  }
  size_t done = 0;
  bool repeated = false;
  while (done < items.size()) {
    ++counters_.send_calls;
    const int sent = sendmmsg(sockets_[items[0].from].fd, &tx_[done],
                              static_cast<unsigned>(items.size() - done), 0);
    if (sent > 0) {
      done += static_cast<size_t>(sent);
      repeated = false;
      continue;
    }
    if (!repeated) {
      repeated = true;
      continue;
    }
    const auto& item = items[done];
    counters_.send_refused +=
        item.segment == 0 ? 1u : (item.size + item.segment - 1u) / item.segment;
    ++done;
    repeated = false;
  }
}

std::span<const RxItem> SocketDriver::receive(uint64_t wait_ns) {
  received_count_ = 0;
  const timespec timeout{static_cast<time_t>(wait_ns / 1'000'000'000),
                         static_cast<long>(wait_ns % 1'000'000'000)};
  ++counters_.receive_calls;
  const int count =
      epoll_pwait2(epoll_, ready_.data(), static_cast<int>(ready_.size()), &timeout, nullptr);
  for (int i = 0; i < count; ++i)
    if (!read_socket(ready_[static_cast<size_t>(i)].data.u32)) break;
  return {received_.data(), received_count_};
}

// Reads one socket into the free slots; false when there are none left.
bool SocketDriver::read_socket(Endpoint endpoint) {
  const size_t room = std::min(kPerSocket, kSlots - received_count_);
  if (room == 0) return false;
  for (size_t i = 0; i < room; ++i) {
    auto& header = rx_[i].msg_hdr;
    header = {};
    rx_parts_[i] = {&memory_[(received_count_ + i) * slot_size_], slot_size_};
    header.msg_iov = &rx_parts_[i];
    header.msg_iovlen = 1;
    if (coalesce_) {
      header.msg_control = rx_control_[i].data();
      header.msg_controllen = rx_control_[i].size();
    }
  }
  ++counters_.receive_calls;
  const int got = recvmmsg(sockets_[endpoint].fd, rx_.data(), static_cast<unsigned>(room),
                           MSG_DONTWAIT, nullptr);
  for (int i = 0; i < got; ++i) {
    auto& message = rx_[static_cast<size_t>(i)];
    auto& item = received_[received_count_];
    item = {endpoint, &memory_[received_count_ * slot_size_], message.msg_len, 0};
    ++received_count_;
    if (!coalesce_) continue;
    for (cmsghdr* c = CMSG_FIRSTHDR(&message.msg_hdr); c != nullptr;
         c = CMSG_NXTHDR(&message.msg_hdr, c)) {
      if (c->cmsg_level != SOL_UDP || c->cmsg_type != UDP_GRO) continue;
      int segment = 0;
      std::memcpy(&segment, CMSG_DATA(c), sizeof segment);
      item.segment = static_cast<uint16_t>(segment);
    }
  }
  return true;
}

uint64_t SocketDriver::receive_drops() const {
  uint64_t drops = 0;
  for (const auto& socket : sockets_) {
    if (socket.fd < 0) continue;
    std::array<uint32_t, SK_MEMINFO_VARS> memory{};
    socklen_t size = sizeof memory;
    if (getsockopt(socket.fd, SOL_SOCKET, SO_MEMINFO, memory.data(), &size) == 0)
      drops += memory[SK_MEMINFO_DROPS];
  }
  return drops;
}

std::optional<IpAddress> SocketDriver::source_address(const IpAddress& remote) const {
  const int family = remote.is_v6() ? AF_INET6 : AF_INET;
  const int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return std::nullopt;
  const auto to = Destination::of({remote, kAnyPort});
  sockaddr_storage at{};
  socklen_t size = sizeof at;
  const bool ok = connect(fd, reinterpret_cast<const sockaddr*>(&to.storage), to.size) == 0 &&
                  getsockname(fd, reinterpret_cast<sockaddr*>(&at), &size) == 0;
  ::close(fd);
  if (!ok) return std::nullopt;
  return address_of(at).ip;
}

std::optional<IpAddress> SocketDriver::peer_address(const IpAddress& server, Family relayed) const {
  // On one machine not the server's own address: a relay may refuse to talk to itself.
  const bool loopback = server.is_v4() && server.v4_host() >> 24 == 127;
  if (loopback && relayed == Family::kIpv4)
    return IpAddress::parse(server == *IpAddress::parse("127.0.0.2") ? "127.0.0.1" : "127.0.0.2");
  if (server.family == relayed)
    if (const auto ip = source_address(server)) return ip;
  // Across families there is no route to ask; a server on this machine has both loopbacks.
  return IpAddress::parse(relayed == Family::kIpv6 ? "::1" : "127.0.0.1");
}

class SocketNetwork final : public Network {
 public:
  std::unique_ptr<Driver> make_driver(bool coalesce, std::string& /*error*/) override {
    return std::make_unique<SocketDriver>(coalesce);
  }
};

}  // namespace

Destination Destination::of(const TransportAddress& address) {
  Destination out;
  out.address = address;
  if (address.ip.is_v6()) {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&out.storage);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(address.port);
    std::memcpy(&v6->sin6_addr, address.ip.wire(), 16);
    out.size = sizeof(sockaddr_in6);
  } else {
    auto* v4 = reinterpret_cast<sockaddr_in*>(&out.storage);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(address.port);
    std::memcpy(&v4->sin_addr, address.ip.wire(), 4);
    out.size = sizeof(sockaddr_in);
  }
  return out;
}

std::unique_ptr<Network> make_network(const Options& options, std::string& error) {
  if (options.driver == "dpdk") return make_port_network(options, error);
  return std::make_unique<SocketNetwork>();
}

}  // namespace culvert::load
