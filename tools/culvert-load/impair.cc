// culvert-impair: a UDP proxy that harms traffic by known amounts, to show that culvert-load sees
// exactly what was done. It stands between clients and server; each client gets a socket of its own
// towards the server, as behind a NAT. Only ChannelData is harmed: requests must come through for
// the set-up to be the same in every run. Draws are seeded; the counts are printed as JSON at the
// end (SIGTERM or SIGINT). A held-back datagram overtakes nothing: those sent after it overtake it.
#include <sys/epoll.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <map>
#include <queue>
#include <random>
#include <vector>

#include "tools/culvert-load/driver.h"
#include "tools/culvert-load/server_cpu.h"

namespace culvert::load {
namespace {

volatile std::sig_atomic_t g_stop = 0;

struct Harm {
  double loss = 0;
  double duplicate = 0;
  double reorder = 0;
  uint64_t reorder_us = 20'000;  // a chosen datagram is held back so long
  uint64_t delay_us = 0;
  double rate = 0;        // ChannelData a second let through, over both ways; 0: all
  double burst_s = 0.05;  // and so many seconds of it at once
};

struct Counts {
  uint64_t passed = 0;
  uint64_t lost = 0;
  uint64_t duplicated = 0;
  uint64_t held_back = 0;
  uint64_t policed = 0;
};

// A token bucket on the kernel's arrival times: a proxy that did not get its CPU for a while finds
// the datagrams that came meanwhile and polices them as if it had been there.
class Policer {
 public:
  Policer(double rate, double burst_s) : rate_(rate), depth_(rate * burst_s), tokens_(depth_) {}
  [[nodiscard]] bool passes(uint64_t arrived_ns) {
    if (rate_ <= 0) return true;
    if (arrived_ns > last_ns_) {
      const double gone = last_ns_ == 0 ? 0 : static_cast<double>(arrived_ns - last_ns_) / 1e9;
      tokens_ = std::min(depth_, tokens_ + gone * rate_);
      last_ns_ = arrived_ns;
    }
    if (tokens_ < 1) return false;
    tokens_ -= 1;
    return true;
  }

 private:
  double rate_;
  double depth_;
  double tokens_;
  uint64_t last_ns_ = 0;
};

struct Waiting {
  uint64_t at_ns = 0;
  uint64_t order = 0;  // keeps equal times in the order they came
  int fd = -1;
  Destination to;
  std::vector<uint8_t> data;
  bool operator<(const Waiting& other) const {
    return at_ns != other.at_ns ? at_ns > other.at_ns : order > other.order;
  }
};

class Proxy {
 public:
  Proxy(const TransportAddress& listen, const TransportAddress& server, const Harm& harm,
        uint64_t seed)
      : server_(Destination::of(server)),
        harm_(harm),
        policer_(harm.rate, harm.burst_s),
        random_(seed) {
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    front_ = socket(listen.ip.is_v6() ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    const auto at = Destination::of(listen);
    usable_ = bind(front_, reinterpret_cast<const sockaddr*>(&at.storage), at.size) == 0;
    widen(front_);
    watch(front_);
  }
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;
  ~Proxy() {
    for (const auto& [client, fd] : by_client_)
      close(fd);
    close(front_);
    close(epoll_);
  }

  [[nodiscard]] bool usable() const { return usable_; }
  [[nodiscard]] const Counts& counts(bool to_server) const { return counts_[to_server ? 0 : 1]; }

  void run() {
    std::array<epoll_event, 64> ready{};
    while (g_stop == 0) {
      timespec wait{0, 100'000'000};
      const uint64_t now = monotonic_ns();
      if (!waiting_.empty()) {
        const uint64_t due = waiting_.top().at_ns;
        wait = {0, due > now ? static_cast<long>(std::min<uint64_t>(due - now, 100'000'000)) : 0};
      }
      const int count =
          epoll_pwait2(epoll_, ready.data(), static_cast<int>(ready.size()), &wait, nullptr);
      for (int i = 0; i < count; ++i)
        drain(ready[static_cast<size_t>(i)].data.fd);
      release(monotonic_ns());
    }
  }

 private:
  static void widen(int fd) {
    const int size = 8 << 20;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) != 0)
      setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
  }

  // One datagram; its kernel arrival time in `arrived_ns`. Negative when there is none.
  static ssize_t receive(int fd, std::span<uint8_t> buffer, Destination& from,
                         uint64_t& arrived_ns) {
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(timespec))> control{};
    iovec part{buffer.data(), buffer.size()};
    msghdr header{};
    header.msg_name = &from.storage;
    header.msg_namelen = sizeof from.storage;
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    const ssize_t got = recvmsg(fd, &header, 0);
    from.size = header.msg_namelen;
    for (auto* c = CMSG_FIRSTHDR(&header); got >= 0 && c != nullptr; c = CMSG_NXTHDR(&header, c)) {
      if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_TIMESTAMPNS) continue;
      timespec at{};
      std::memcpy(&at, CMSG_DATA(c), sizeof at);
      arrived_ns =
          static_cast<uint64_t>(at.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(at.tv_nsec);
    }
    return got;
  }

  void watch(int fd) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
  }

  // The socket towards the server that stands for this client.
  int back_of(const sockaddr_storage& client, socklen_t size) {
    const std::string key(reinterpret_cast<const char*>(&client), size);
    const auto found = by_client_.find(key);
    if (found != by_client_.end()) return found->second;
    const int fd = socket(server_.storage.ss_family, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (connect(fd, reinterpret_cast<const sockaddr*>(&server_.storage), server_.size) != 0)
      return -1;
    widen(fd);
    watch(fd);
    by_client_[key] = fd;
    Destination back;
    back.storage = client;
    back.size = size;
    client_of_[fd] = back;
    return fd;
  }

  void drain(int fd) {
    std::array<uint8_t, 65536> buffer;
    for (int i = 0; i < 64; ++i) {
      Destination from;
      uint64_t arrived_ns = 0;
      const ssize_t got = receive(fd, buffer, from, arrived_ns);
      if (got < 0) return;
      const std::vector<uint8_t> data(buffer.begin(), buffer.begin() + got);
      if (fd == front_) {
        const int back = back_of(from.storage, from.size);
        if (back >= 0) handle(back, {}, data, arrived_ns, counts_[0]);
      } else {
        handle(front_, client_of_[fd], data, arrived_ns, counts_[1]);
      }
    }
  }

  bool chance(double probability) {
    return std::uniform_real_distribution<double>(0, 1)(random_) < probability;
  }

  void handle(int fd, const Destination& to, const std::vector<uint8_t>& data, uint64_t arrived_ns,
              Counts& counts) {
    // A very short ChannelData introduces a client to the bare loop: set-up as well.
    const bool channel_data = data.size() > 8 && data[0] >= 0x40 && data[0] <= 0x4f;
    if (!channel_data) {
      emit(fd, to, data);
      return;
    }
    const uint64_t now = monotonic_ns();
    if (!policer_.passes(arrived_ns)) {
      ++counts.policed;
      return;
    }
    if (chance(harm_.loss)) {
      ++counts.lost;
      return;
    }
    ++counts.passed;
    uint64_t at = now + harm_.delay_us * 1000;
    if (chance(harm_.reorder)) {
      ++counts.held_back;
      at += harm_.reorder_us * 1000;
    } else if (chance(harm_.duplicate)) {
      // Never of one held back, so that the two counts do not mix.
      ++counts.duplicated;
      wait_until(at, fd, to, data);
    }
    wait_until(at, fd, to, data);
  }

  void wait_until(uint64_t at, int fd, const Destination& to, const std::vector<uint8_t>& data) {
    if (at <= monotonic_ns()) {
      emit(fd, to, data);
      return;
    }
    waiting_.push({at, ++order_, fd, to, data});
  }

  void release(uint64_t now) {
    while (!waiting_.empty() && waiting_.top().at_ns <= now) {
      emit(waiting_.top().fd, waiting_.top().to, waiting_.top().data);
      waiting_.pop();
    }
  }

  static void emit(int fd, const Destination& to, const std::vector<uint8_t>& data) {
    const auto* address = to.size == 0 ? nullptr : reinterpret_cast<const sockaddr*>(&to.storage);
    if (sendto(fd, data.data(), data.size(), 0, address, to.size) < 0)
      std::perror("culvert-impair: sendto");
  }

  Destination server_;
  Harm harm_;
  Policer policer_;
  std::mt19937_64 random_;
  int epoll_ = -1;
  int front_ = -1;
  bool usable_ = false;
  uint64_t order_ = 0;
  std::array<Counts, 2> counts_{};
  std::map<std::string, int> by_client_;
  std::map<int, Destination> client_of_;
  std::priority_queue<Waiting> waiting_;
};

void print_counts(const char* name, const Counts& c, const char* end) {
  std::printf(
      "\"%s\": {\"passed\": %llu, \"lost\": %llu, \"duplicated\": %llu, \"held_back\": %llu, "
      "\"policed\": %llu}%s",
      name, static_cast<unsigned long long>(c.passed), static_cast<unsigned long long>(c.lost),
      static_cast<unsigned long long>(c.duplicated), static_cast<unsigned long long>(c.held_back),
      static_cast<unsigned long long>(c.policed), end);
}

int run(int argc, char** argv) {
  CLI::App app("culvert-impair: a UDP proxy that harms ChannelData by known amounts");
  std::string listen = "127.0.0.1:0";
  std::string server;
  Harm harm;
  uint64_t seed = 1;
  app.add_option("--listen", listen, "where clients send, ADDRESS:PORT")->required();
  app.add_option("--server", server, "where it passes on to, ADDRESS:PORT")->required();
  app.add_option("--loss", harm.loss, "share lost")->check(CLI::Range(0.0, 1.0));
  app.add_option("--duplicate", harm.duplicate, "share doubled")->check(CLI::Range(0.0, 1.0));
  app.add_option("--reorder", harm.reorder, "share held back")->check(CLI::Range(0.0, 1.0));
  app.add_option("--reorder-us", harm.reorder_us, "how long")->capture_default_str();
  app.add_option("--delay-us", harm.delay_us, "added to every datagram, each way");
  app.add_option("--rate-limit", harm.rate, "datagrams a second let through, both ways together")
      ->check(CLI::PositiveNumber);
  app.add_option("--burst-s", harm.burst_s, "seconds of that rate let through at once")
      ->capture_default_str();
  app.add_option("--seed", seed, "of the draws")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const auto from = TransportAddress::parse(listen);
  const auto to = TransportAddress::parse(server);
  if (!from || !to) {
    std::fprintf(stderr, "culvert-impair: --listen and --server are ADDRESS:PORT in numbers\n");
    return 2;
  }
  struct sigaction action {};
  action.sa_handler = [](int) { g_stop = 1; };
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  Proxy proxy(*from, *to, harm, seed);
  if (!proxy.usable()) {
    std::perror("culvert-impair: cannot bind --listen");
    return 1;
  }
  std::printf("ready\n");
  std::fflush(stdout);
  proxy.run();
  std::printf("{");
  print_counts("to_server", proxy.counts(true), ", ");
  print_counts("to_client", proxy.counts(false), "}\n");
  return 0;
}

}  // namespace
}  // namespace culvert::load

int main(int argc, char** argv) {
  return culvert::load::run(argc, argv);
}
