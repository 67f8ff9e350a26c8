// The kernel's bound for a relay on kernel sockets: forwards between one listener and N relayed
// ports with the relay's own socket options and control messages, and does no work of its own. What
// a relay reaches of its rate is what its logic leaves over. Three loops:
//
//   single   recvmmsg, then one send per datagram (sendmmsg where one socket sends several)
//   gso      the same, but runs of one flow that arrive together leave by UDP_SEGMENT
//   driver   the sockets driver (dataplane/io/sockets) with the same forwarding rule
//
// What a load generator must do: client i sends ChannelData with channel number 0x4000 + i to
// --listen; its payload goes to flow i's peer from port --relay-port + i. That peer is the i-th
// --peer (modulo their number) or, without --peer, whoever sent to that port last; the client of
// flow i is whoever sent on its channel last. A peer's datagram to port --relay-port + i goes to
// client i as ChannelData. Datagrams of flows whose other end is not known are dropped and counted.
//
// Prints `ready` when it serves and one JSON object when it ends (SIGTERM, SIGINT or --seconds).
#include <linux/udp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "dataplane/io/sockets/sockets_driver.h"
#include "dataplane/io/sockets/udp_socket.h"

namespace culvert {
namespace {

constexpr size_t kHeader = 4;  // ChannelData, RFC 8656 section 12.4
constexpr size_t kBatch = kMaxBurst;
constexpr size_t kBufferBytes = 65536;
constexpr size_t kStride = kBufferBytes + 33 * kCacheLine;  // spreads them over the cache's sets
constexpr int kRelayReceiveBytes = SocketsOptions{}.relay_receive_bytes;

std::atomic<bool> stopped{false};

struct Settings {
  TransportAddress listen;
  uint32_t sockets = 32;
  uint16_t relay_port = 49152;
  std::vector<TransportAddress> peers;
  std::string mode = "single";
  double seconds = 0;
};

struct Totals {
  uint64_t to_peer = 0;
  uint64_t to_client = 0;
  uint64_t unknown = 0;
  uint64_t failed = 0;
};

struct End {
  SocketName name{};
  socklen_t length = 0;  // 0: not known yet
};
struct Flow {
  int fd = -1;
  End client;
  End peer;
};

[[nodiscard]] int open_or_throw(const TransportAddress& at, bool relay) {
  UdpSocketSpec spec;
  spec.bind_to = at;
  spec.report_errors = relay;
  spec.receive_bytes = relay ? kRelayReceiveBytes : kListenerBufferBytes;
  spec.send_bytes = relay ? 0 : kListenerBufferBytes;
  const UdpSocketResult result = open_udp_socket(spec);
  if (result.fd < 0) {
    throw std::system_error(result.error, std::generic_category(),
                            "cannot open " + at.to_string() + " (" + result.step + ")");
  }
  return result.fd;
}

[[nodiscard]] std::chrono::steady_clock::time_point deadline(const Settings& settings) {
  const double seconds = settings.seconds > 0 ? settings.seconds : 1e9;
  return std::chrono::steady_clock::now() +
         std::chrono::duration_cast<std::chrono::steady_clock::duration>(
             std::chrono::duration<double>(seconds));
}

// The loop with no work.
class BareLoop {
 public:
  explicit BareLoop(const Settings& settings)
      : runs_(settings.mode == "gso"), flows_(settings.sockets), buffers_(kBatch * kStride) {
    listener_ = open_or_throw(settings.listen, false);
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    watch(listener_, kListener);
    for (uint32_t i = 0; i < settings.sockets; ++i) {
      const auto port = static_cast<uint16_t>(settings.relay_port + i);
      flows_[i].fd = open_or_throw({settings.listen.ip, port}, true);
      watch(flows_[i].fd, i);
      if (settings.peers.empty()) continue;
      End& peer = flows_[i].peer;
      peer.length = to_socket_name(settings.peers[i % settings.peers.size()], peer.name);
    }
    for (size_t i = 0; i < kBatch; ++i) {
      in_pieces_[i] = {buffers_.data() + i * kStride, kBufferBytes};
      in_[i].msg_hdr = {&names_[i], 0, &in_pieces_[i], 1, in_control_[i].data(), 0, 0};
    }
  }
  ~BareLoop() {
    for (const Flow& flow : flows_)
      close(flow.fd);
    close(epoll_);
    close(listener_);
  }
  BareLoop(const BareLoop&) = delete;
  BareLoop& operator=(const BareLoop&) = delete;

  void run(const Settings& settings) {
    const auto end = deadline(settings);
    std::array<epoll_event, kBatch> events;
    while (!stopped.load(std::memory_order_relaxed)) {
      const int count = epoll_wait(epoll_, events.data(), kBatch, 20);
      for (int i = 0; i < count; ++i)
        read(events[static_cast<size_t>(i)].data.u32);
      if (count <= 0 && std::chrono::steady_clock::now() >= end) return;
      if ((++turns_ & 1023) == 0 && std::chrono::steady_clock::now() >= end) return;
    }
  }
  [[nodiscard]] const Totals& totals() const { return totals_; }

 private:
  static constexpr uint32_t kListener = 0xffffffff;

  void watch(int fd, uint32_t id) {
    epoll_event event{EPOLLIN, {.u32 = id}};
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) {
      throw std::system_error(errno, std::generic_category(), "epoll_ctl");
    }
  }

  void read(uint32_t id) {
    const int fd = id == kListener ? listener_ : flows_[id].fd;
    for (mmsghdr& m : in_) {
      m.msg_hdr.msg_namelen = sizeof(SocketName);
      m.msg_hdr.msg_controllen = in_control_[0].size();
    }
    const int count = recvmmsg(fd, in_.data(), kBatch, MSG_DONTWAIT, nullptr);
    if (count < 0) {
      std::array<uint8_t, 512> lost;  // an ICMP error: taken off the queue, not reported
      if (errno != EAGAIN) (void)!recv(fd, lost.data(), lost.size(), MSG_ERRQUEUE | MSG_DONTWAIT);
      return;
    }
    for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
      const size_t size = in_[i].msg_len;
      const size_t run = segment_of(in_[i].msg_hdr);
      const size_t segment = run == 0 || run > size ? size : run;
      for (size_t at = 0; at < size; at += segment) {
        const uint8_t* payload = buffers_.data() + i * kStride + at;
        const size_t length = std::min(segment, size - at);
        const End from{names_[i], in_[i].msg_hdr.msg_namelen};
        if (id == kListener)
          from_client(payload, length, from);
        else
          from_peer(id, payload, length, from);
      }
    }
    flush();
  }

  [[nodiscard]] static size_t segment_of(msghdr& header) {
    for (cmsghdr* m = CMSG_FIRSTHDR(&header); m != nullptr; m = CMSG_NXTHDR(&header, m)) {
      if (m->cmsg_level != IPPROTO_UDP || m->cmsg_type != UDP_GRO) continue;
      int value;
      std::memcpy(&value, CMSG_DATA(m), sizeof value);
      return static_cast<size_t>(value);
    }
    return 0;
  }

  void from_client(const uint8_t* payload, size_t length, const End& from) {
    const size_t id = length < kHeader ? flows_.size() : load_be16(payload) - size_t{kFirstChannel};
    if (id >= flows_.size() || load_be16(payload + 2) + kHeader > length ||
        flows_[id].peer.length == 0) {
      ++totals_.unknown;
      return;
    }
    flows_[id].client = from;
    add(flows_[id].fd, flows_[id].peer, nullptr, payload + kHeader, load_be16(payload + 2));
    ++totals_.to_peer;
  }

  void from_peer(size_t id, const uint8_t* payload, size_t length, const End& from) {
    Flow& flow = flows_[id];
    flow.peer = from;
    if (flow.client.length == 0) {
      ++totals_.unknown;
      return;
    }
    uint8_t* head = heads_[heads_used_++].data();
    store_be16(head, static_cast<uint16_t>(kFirstChannel + id));
    store_be16(head + 2, static_cast<uint16_t>(length));
    add(listener_, flow.client, head, payload, length);
    ++totals_.to_client;
  }

  void add(int fd, const End& to, const uint8_t* head, const uint8_t* payload, size_t length) {
    const size_t size = length + (head != nullptr ? kHeader : 0);
    if (out_count_ != 0 && fd != out_fd_) flush();
    if (out_count_ == kBatch) flush();
    out_fd_ = fd;
    const bool joins = runs_ && out_count_ != 0 && size == out_size_ && size != 0 &&
                       out_segments_[out_count_ - 1] < kMaxSegments &&
                       (out_segments_[out_count_ - 1] + 1) * size <= kMaxMessageBytes &&
                       std::memcmp(&out_to_.name, &to.name, to.length) == 0;
    if (!joins) {
      out_[out_count_].msg_hdr = {
          &out_names_[out_count_], to.length, &pieces_[pieces_used_], 0, nullptr, 0, 0};
      out_names_[out_count_] = to.name;
      out_segments_[out_count_++] = 0;
      out_to_ = to;
      out_size_ = size;
    }
    msghdr& header = out_[out_count_ - 1].msg_hdr;
    if (head != nullptr) pieces_[pieces_used_++] = {const_cast<uint8_t*>(head), kHeader};
    pieces_[pieces_used_++] = {const_cast<uint8_t*>(payload), length};
    header.msg_iovlen = static_cast<size_t>(&pieces_[pieces_used_] - header.msg_iov);
    if (++out_segments_[out_count_ - 1] == 2) mark_run(out_count_ - 1, size);
    if (pieces_used_ + 2 > pieces_.size()) flush();
  }

  void mark_run(size_t message, size_t size) {
    msghdr& header = out_[message].msg_hdr;
    header.msg_control = out_control_[message].data();
    header.msg_controllen = out_control_[message].size();
    cmsghdr* head = CMSG_FIRSTHDR(&header);
    head->cmsg_level = IPPROTO_UDP;
    head->cmsg_type = UDP_SEGMENT;
    head->cmsg_len = CMSG_LEN(sizeof(uint16_t));
    const auto segment = static_cast<uint16_t>(size);
    std::memcpy(CMSG_DATA(head), &segment, sizeof segment);
  }

  void flush() {
    for (size_t at = 0; at < out_count_;) {
      const size_t left = out_count_ - at;
      const int sent =
          left == 1 ? (sendmsg(out_fd_, &out_[at].msg_hdr, MSG_DONTWAIT) < 0 ? -1 : 1)
                    : sendmmsg(out_fd_, &out_[at], static_cast<unsigned>(left), MSG_DONTWAIT);
      if (sent < 0) totals_.failed += out_segments_[at];
      at += sent < 0 ? 1 : static_cast<size_t>(sent);
    }
    out_count_ = pieces_used_ = heads_used_ = 0;
  }

  bool runs_;
  int listener_ = -1;
  int epoll_ = -1;
  uint32_t turns_ = 0;
  Totals totals_;
  std::vector<Flow> flows_;
  std::vector<uint8_t> buffers_;
  std::array<mmsghdr, kBatch> in_;
  std::array<iovec, kBatch> in_pieces_;
  std::array<SocketName, kBatch> names_;
  alignas(cmsghdr) std::array<std::array<uint8_t, 72>, kBatch> in_control_;
  int out_fd_ = -1;
  End out_to_;
  size_t out_size_ = 0;
  size_t out_count_ = 0;
  size_t pieces_used_ = 0;
  size_t heads_used_ = 0;
  std::array<mmsghdr, kBatch> out_;
  std::array<SocketName, kBatch> out_names_;
  std::array<uint32_t, kBatch> out_segments_;
  alignas(
      cmsghdr) std::array<std::array<uint8_t, CMSG_SPACE(sizeof(uint16_t))>, kBatch> out_control_;
  std::array<std::array<uint8_t, kHeader>, kBatch * kMaxSegments> heads_;
  std::array<iovec, kBatch * kMaxSegments * 2> pieces_;
};

// The same forwarding rule through the sockets driver, the worker's way: a burst in, a burst out,
// and a wait when nothing came.
class DriverLoop {
 public:
  explicit DriverLoop(const Settings& settings)
      : peers_(settings.sockets), clients_(settings.sockets) {
    Snapshot snapshot;
    snapshot.addresses.push_back({settings.listen.ip, settings.listen.ip, true});
    snapshot.listeners.resize(1);
    snapshot.listeners[0].port = settings.listen.port;
    snapshot.relay_port_low = low_ = settings.relay_port;
    snapshot.relay_port_high = static_cast<uint16_t>(low_ + settings.sockets - 1);
    ListenerSockets sockets(snapshot, kListenerBufferBytes, kListenerBufferBytes);
    SocketsOptions options;
    options.max_relay_ports = settings.sockets;
    driver_ = std::make_unique<SocketsDriver>(snapshot, CoreId{0}, sockets, options);
    for (uint32_t i = 0; i < settings.sockets; ++i) {
      const RelayLeg leg{0, static_cast<uint16_t>(low_ + i)};
      egresses_.push_back(driver_->open_relay_port(leg));
      if (egresses_.back() == kNoEgress) {
        throw std::runtime_error("cannot open relay port " + std::to_string(leg.port));
      }
      if (!settings.peers.empty()) peers_[i] = settings.peers[i % settings.peers.size()];
    }
  }

  void run(const Settings& settings) {
    const auto end = deadline(settings);
    std::array<RxDatagram, kMaxBurst> rx;
    for (uint32_t turn = 0; !stopped.load(std::memory_order_relaxed); ++turn) {
      const uint32_t count = driver_->rx_burst(rx);
      tx_.count = 0;
      for (uint32_t i = 0; i < count; ++i)
        forward(rx[i]);
      if (tx_.count != 0) totals_.failed += driver_->tx_burst(tx_);
      if (count == 0) driver_->wait(20000);
      if ((count == 0 || turn % 1024 == 0) && std::chrono::steady_clock::now() >= end) return;
    }
  }
  [[nodiscard]] const Totals& totals() const { return totals_; }
  void print_stats() const {
    const SocketsStats& s = driver_->stats();
    std::printf(
        "\"driver\":{\"reads\":%llu,\"runs\":%llu,\"messages\":%llu,\"send_retried\":%llu,"
        "\"segment_refused\":%llu,\"option_changes\":%llu},",
        static_cast<unsigned long long>(s.reads), static_cast<unsigned long long>(s.runs),
        static_cast<unsigned long long>(s.messages),
        static_cast<unsigned long long>(s.send_retried),
        static_cast<unsigned long long>(s.segment_refused),
        static_cast<unsigned long long>(s.option_changes));
  }

 private:
  void forward(const RxDatagram& d) {
    if (d.kind == RxKind::kIcmpError) return;
    const bool client = d.kind == RxKind::kClient;
    if (client && d.length < kHeader) return void(++totals_.unknown);
    const size_t id =
        client ? load_be16(d.payload) - size_t{kFirstChannel} : size_t{d.relay.port} - low_;
    if (id >= peers_.size()) return void(++totals_.unknown);
    (client ? clients_ : peers_)[id] = d.source;
    const TransportAddress& to = (client ? peers_ : clients_)[id];
    if (to.ip.family == Family::kNone) return void(++totals_.unknown);
    TxDatagram& out = tx_.items[tx_.count++];
    out.pad_length = 0;
    out.to = to;
    out.ttl = static_cast<uint8_t>(d.ttl - 1);
    out.tos = d.tos;
    out.dont_fragment = false;
    out.payload = client ? d.payload + kHeader : d.payload;
    out.length = client ? load_be16(d.payload + 2) : d.length;
    out.head_length = client ? 0 : kHeader;
    out.egress = client ? egresses_[id] : driver_->listener_egress(0);
    if (!client) {
      store_be16(out.head.data(), static_cast<uint16_t>(kFirstChannel + id));
      store_be16(out.head.data() + 2, d.length);
    }
    ++(client ? totals_.to_peer : totals_.to_client);
  }

  uint16_t low_ = 0;
  std::vector<TransportAddress> peers_;
  std::vector<TransportAddress> clients_;
  std::vector<Egress> egresses_;
  std::unique_ptr<SocketsDriver> driver_;
  TxBurst tx_;
  Totals totals_;
};

[[nodiscard]] double cpu_seconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

template <class Loop>
void measure(const Settings& settings) {
  const auto loop = std::make_unique<Loop>(settings);
  std::printf("ready\n");
  std::fflush(stdout);
  const double cpu = cpu_seconds();
  const auto start = std::chrono::steady_clock::now();
  loop->run(settings);
  const double used = cpu_seconds() - cpu;
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
  const Totals& t = loop->totals();
  const auto packets = static_cast<double>(t.to_peer + t.to_client);
  std::printf("{\"mode\":\"%s\",\"sockets\":%u,", settings.mode.c_str(), settings.sockets);
  if constexpr (requires { loop->print_stats(); }) loop->print_stats();
  std::printf(
      "\"to_peer\":%llu,\"to_client\":%llu,\"unknown\":%llu,\"send_failed\":%llu,"
      "\"cpu_seconds\":%.6f,\"wall_seconds\":%.6f,\"packets_per_cpu_second\":%.0f}\n",
      static_cast<unsigned long long>(t.to_peer), static_cast<unsigned long long>(t.to_client),
      static_cast<unsigned long long>(t.unknown), static_cast<unsigned long long>(t.failed), used,
      wall.count(), used > 0 ? packets / used : 0.0);
}

[[nodiscard]] TransportAddress address_or_throw(const std::string& text) {
  const auto address = TransportAddress::parse(text);
  if (!address) throw CLI::ValidationError(text + " is not ADDRESS:PORT or [ADDRESS]:PORT");
  return *address;
}

int run_main(int argc, char** argv) {
  CLI::App app{
      "Forwards ChannelData between a listener and N relayed ports and does nothing else: the rate "
      "that the kernel leaves a relay. Client i uses channel 0x4000 + i and port relay-port + i."};
  Settings settings;
  std::string listen = "127.0.0.1:3478";
  std::vector<std::string> peers;
  app.add_option("--listen", listen, "Where clients send")->capture_default_str();
  app.add_option("--sockets", settings.sockets, "Relayed ports")
      ->check(CLI::Range(1u, 16384u))
      ->capture_default_str();
  app.add_option("--relay-port", settings.relay_port, "The first relayed port")
      ->capture_default_str();
  app.add_option("--peer", peers, "Peer of flow i, repeated: the i-th, modulo their number");
  app.add_option("--mode", settings.mode, "single, gso or driver")
      ->check(CLI::IsMember({"single", "gso", "driver"}))
      ->capture_default_str();
  app.add_option("--seconds", settings.seconds, "Ends after that time; 0: by SIGTERM");
  try {
    app.parse(argc, argv);
    settings.listen = address_or_throw(listen);
    for (const std::string& peer : peers)
      settings.peers.push_back(address_or_throw(peer));
    if (settings.relay_port + settings.sockets > 65536) {
      throw CLI::ValidationError("--relay-port plus --sockets passes port 65535");
    }
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  std::signal(SIGTERM, [](int) { stopped = true; });
  std::signal(SIGINT, [](int) { stopped = true; });
  try {
    if (settings.mode == "driver")
      measure<DriverLoop>(settings);
    else
      measure<BareLoop>(settings);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kernel_bound: %s\n", error.what());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace culvert

int main(int argc, char** argv) {
  return culvert::run_main(argc, argv);
}
