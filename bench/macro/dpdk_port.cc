// The relay on one port, one core, as fast as it goes: frames in by the DPDK driver, process(),
// frames out. The allocations are installed by the commands that control sends; time and seeds are
// fixed; the frames come from a capture this program has written, so that testpmd can be given the
// very same one (bench/macro/dpdk_memory_port, which alternates several of these processes).
//
//   dpdk_port write TRAFFIC FILE              65,536 frames of 16,384 clients, 200 bytes each
//   dpdk_port serve TRAFFIC FILE --eal=ARGS   net_pcap with infinite_rx on that file
//
// TRAFFIC is one of kTraffics. `serve` reads a number of CPU seconds from each line of its standard
// input, relays that long, and prints one JSON object: packets, seconds of CPU, packets per CPU
// second, and the median burst's TSC cycles per packet in receiving, process() and sending. CPU
// seconds and medians, since the machine may be shared: a burst during which the core was taken
// away says nothing.
//
// A million flows do not come from a million frames: those would lie in 2.5 GB of buffers, and the
// port's copies out of cold memory would be measured and not the relay. `flows-64k` and `flows-1m`
// replace the source of each parsed datagram by that of the next of 16,384 or 262,144 clients, in
// an order that no prefetcher guesses. Everything else is the same in both.
#include <time.h>
#include <x86intrin.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <iostream>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "config/dpdk.h"
#include "dataplane/core/ring_engine.h"
#include "dataplane/core/worker.h"
#include "dataplane/io/dpdk/dpdk_driver.h"
#include "dataplane/io/dpdk/eal.h"
#include "dataplane/wire/channel_data.h"
#include "dataplane/wire/stun.h"

namespace culvert {
namespace {

constexpr uint32_t kFrames = 65536;
constexpr uint32_t kChannels = 4;  // of each client, to as many peers
constexpr uint16_t kFirstPort = 49152;
constexpr uint32_t kPortsOfAddress = 65536 - kFirstPort;
constexpr uint32_t kFrameBytes = 200;  // with FCS, as line rates are counted; 196 are sent
constexpr uint16_t kListenPort = 3478;
constexpr frame::MacAddress kRelayMac = {2, 0, 0, 0, 0, 1};
constexpr frame::MacAddress kGatewayMac = {2, 0, 0, 0, 0, 0xfe};
// Times an index modulo a power of two: a permutation that no prefetcher guesses.
constexpr uint32_t kOdd = 40503;

struct Traffic {
  const char* name;
  Outcome outcome;  // of every datagram
  Family client = Family::kIpv4;
  Family peer = Family::kIpv4;
  bool to_client = false;
  bool indication = false;
  bool hairpin = false;
  uint32_t clients_in_turn = 0;  // 0: the frames' own sources
};

constexpr Family k4 = Family::kIpv4;
constexpr Family k6 = Family::kIpv6;
constexpr Outcome kToPeer = Outcome::k_relayed_channel_to_peer;
constexpr Outcome kToClient = Outcome::k_relayed_peer_to_channel;
constexpr std::array kTraffics = {
    Traffic{"channel", kToPeer},
    Traffic{"channel-to-client", kToClient, k4, k4, true},
    Traffic{"send", Outcome::k_relayed_send_to_peer, k4, k4, false, true},
    Traffic{"data", Outcome::k_relayed_peer_to_data, k4, k4, true, true},
    Traffic{"ipv6", kToPeer, k6, k6},
    Traffic{"ipv6-to-client", kToClient, k6, k6, true},
    Traffic{"4to6", kToPeer, k4, k6},
    Traffic{"4to6-to-client", kToClient, k4, k6, true},
    Traffic{"6to4", kToPeer, k6, k4},
    Traffic{"6to4-to-client", kToClient, k6, k4, true},
    Traffic{"hairpin", Outcome::k_hairpinned, k4, k4, false, false, true},
    Traffic{"flows-64k", kToPeer, k4, k4, false, false, false, 16384},
    Traffic{"flows-1m", kToPeer, k4, k4, false, false, false, 262144},
};

struct Options {
  std::string traffic;
  std::string file;
  std::string eal;
  uint32_t burst = kMaxBurst;
};

[[nodiscard]] uint32_t allocations_of(const Traffic& t) {
  return t.clients_in_turn != 0 ? t.clients_in_turn : kFrames / kChannels;
}
[[nodiscard]] bool any_ipv6(const Traffic& t) {
  return t.client == k6 || t.peer == k6;
}

[[nodiscard]] IpAddress address(Family family, uint32_t net, uint32_t host) {
  if (family == k4) return IpAddress::v4((net << 24) + host);
  std::array<uint8_t, 16> bytes{0x20, 0x01, 0x0d, 0xb8, static_cast<uint8_t>(net)};
  store_be32(bytes.data() + 12, host);
  return IpAddress::v6_bytes(bytes.data());
}
[[nodiscard]] TransportAddress client_of(const Traffic& t, uint32_t allocation) {
  return {address(t.client, 10, allocation), static_cast<uint16_t>(1024 + allocation % 60000)};
}
// The relay's addresses: as many IPv4 ones as the allocations need ports, then one of IPv6.
[[nodiscard]] uint16_t ipv4_addresses(const Traffic& t) {
  return static_cast<uint16_t>((allocations_of(t) + kPortsOfAddress - 1) / kPortsOfAddress);
}
[[nodiscard]] IpAddress relay_ip(Family family, uint32_t index = 0) {
  return address(family, 172, 1 + index);
}
[[nodiscard]] IpAddress gateway(Family family) {
  return address(family, 172, 254);
}
[[nodiscard]] uint16_t port_of(uint32_t allocation) {
  return static_cast<uint16_t>(kFirstPort + allocation % kPortsOfAddress);
}
// Through a hairpin, channel c joins the clients whose numbers differ in bit c, both ways.
[[nodiscard]] TransportAddress peer_of(const Traffic& t, uint32_t allocation, uint32_t channel) {
  if (t.hairpin) return {relay_ip(k4), port_of(allocation ^ (1u << channel))};
  const uint32_t flow = allocation * kChannels + channel;
  return {address(t.peer, 11, flow), static_cast<uint16_t>(2000 + flow % 50000)};
}

template <class T>
void put(std::ofstream& out, T value) {
  out.write(reinterpret_cast<const char*>(&value), sizeof value);
}

[[nodiscard]] size_t body_bytes(Family family) {
  return kFrameBytes - 4 - frame::kEthernetHeader - frame::kUdpHeader -
         (family == k4 ? frame::kIpv4Header : frame::kIpv6Header);
}

// What stands in the frame's UDP datagram: `length` bytes, or up to 3 less where STUN's padding
// wants it so. Returns how many.
size_t write_body(const Traffic& t, uint32_t flow, uint8_t* body, size_t length) {
  for (size_t b = 0; b < length; ++b)
    body[b] = static_cast<uint8_t>(flow + b);
  if (t.to_client) return length;
  const uint32_t channel = flow % kChannels;
  if (!t.indication) {
    store_be16(body, static_cast<uint16_t>(kFirstChannel + channel));
    store_be16(body + 2, static_cast<uint16_t>(length - kChannelHeaderSize));
    return length;
  }
  const std::vector<uint8_t> data(body, body + length);
  constexpr std::array<uint8_t, 12> kTransaction{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  stun::Builder builder({body, length}, stun::Class::kIndication, stun::kSend, kTransaction.data());
  builder.add_xor_address(stun::Attribute::kXorPeerAddress, peer_of(t, flow / kChannels, channel));
  const size_t room = (length - builder.size() - 4) / 4 * 4;  // after DATA's own header
  builder.add(stun::Attribute::kData, std::span(data).first(room));
  if (!builder.ok()) throw std::runtime_error("the Send indication does not fit its frame");
  return builder.size();
}

// Classic pcap: no library is needed to write one.
void write_capture(const Traffic& t, const std::string& path) {
  std::ofstream out(path, std::ios::binary);
  for (const uint32_t word : {0xa1b2c3d4u, 0x00040002u, 0u, 0u, 65535u, 1u})
    put(out, word);
  std::array<uint8_t, 2048> buffer{};
  const Family family = t.to_client ? t.peer : t.client;
  for (uint32_t i = 0; i < kFrames; ++i) {
    const uint32_t flow = i * kOdd % kFrames;
    const uint32_t allocation = flow / kChannels;
    uint8_t* body = buffer.data() + 256;
    const size_t length = write_body(t, flow, body, body_bytes(family));
    frame::Outgoing o;
    o.source = t.to_client ? peer_of(t, allocation, flow % kChannels) : client_of(t, allocation);
    o.destination = {relay_ip(family), t.to_client ? port_of(allocation) : kListenPort};
    o.body = frame::full_sum(body, length);
    const size_t headers =
        frame::write_headers(body, length, {kRelayMac, kGatewayMac, frame::kNoVlan}, o);
    const auto bytes = static_cast<uint32_t>(headers + length);
    for (const uint32_t word : {0u, i, bytes, bytes})
      put(out, word);
    out.write(reinterpret_cast<const char*>(body - headers), bytes);
  }
  if (!out.flush()) throw std::runtime_error("cannot write " + path);
}

[[nodiscard]] std::unique_ptr<Snapshot> snapshot(const Traffic& t) {
  auto s = std::make_unique<Snapshot>();
  s->version = 1;
  for (uint32_t i = 0; i < ipv4_addresses(t); ++i)
    s->addresses.push_back({relay_ip(k4, i), relay_ip(k4, i), true});
  if (any_ipv6(t)) s->addresses.push_back({relay_ip(k6), relay_ip(k6), true});
  s->listeners.resize(1);
  s->listeners[0].address = t.client == k4 ? uint16_t{0} : ipv4_addresses(t);
  s->listeners[0].port = kListenPort;
  s->relay_port_low = kFirstPort;
  return s;
}

[[nodiscard]] CoreLimits limits(const Traffic& t) {
  CoreLimits l;
  l.allocations = allocations_of(t);
  const uint32_t flows = l.allocations * kChannels;
  l.permissions = flows;
  l.narrow_channels = any_ipv6(t) ? 1 : flows;
  l.wide_channels = any_ipv6(t) ? flows : 0;
  l.policers = 1;
  l.relay_port_low = kFirstPort;
  l.addresses = static_cast<uint16_t>(ipv4_addresses(t) + (any_ipv6(t) ? 1 : 0));
  return l;
}

// What control would send; the worker applies 32 a loop.
class Installer {
 public:
  Installer(const Traffic& traffic, RingEngine& engine, Worker<DpdkDriver>& worker)
      : t_(traffic), engine_(engine), worker_(worker) {}

  void install() {
    for (uint32_t a = 0; a < allocations_of(t_); ++a) {
      InstallAllocation allocation;
      allocation.handle = {a, 1};
      allocation.client.client = client_of(t_, a);
      if (t_.peer == k4)
        allocation.ipv4 = {static_cast<uint16_t>(a / kPortsOfAddress), port_of(a)};
      else
        allocation.ipv6 = {ipv4_addresses(t_), port_of(a)};
      allocation.lifetime_ms = 3'600'000;
      send(allocation);
      if (t_.indication)
        permit(a);
      else
        bind(a);
    }
    while (engine_.stats(0).commands_applied.get() < sent_)
      (void)worker_.run_once();
    if (engine_.stats(0).commands_failed.get() != 0)
      throw std::runtime_error("some allocations could not be installed");
  }

 private:
  void permit(uint32_t a) {
    std::array<PermissionPeer, kChannels> peers;
    for (uint32_t c = 0; c < kChannels; ++c)
      peers[c].ip = peer_of(t_, a, c).ip;
    CreatePermission command;
    command.handle = {a, 1};
    command.peer_count = kChannels;
    send(command, {reinterpret_cast<const uint8_t*>(peers.data()), sizeof peers});
  }
  void bind(uint32_t a) {
    for (uint32_t c = 0; c < kChannels; ++c) {
      BindChannel command;
      command.handle = {a, 1};
      command.peer = peer_of(t_, a, c);
      command.channel = static_cast<uint16_t>(kFirstChannel + c);
      command.own_address = t_.hairpin ? 1 : 0;
      send(command);
    }
  }
  template <class Command>
  void send(Command command, std::span<const uint8_t> payload = {}) {
    ++sent_;
    while (!engine_.send(0, command, payload))
      (void)worker_.run_once();
  }

  const Traffic& t_;
  RingEngine& engine_;
  Worker<DpdkDriver>& worker_;
  uint64_t sent_ = 0;
};

[[nodiscard]] double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
}

constexpr size_t kSamples = size_t{1} << 20;  // bursts whose cycles are kept

struct Measured {
  uint64_t packets = 0;
  uint64_t bursts = 0;
  std::array<std::vector<float>, 3> cycles;  // per packet: receive, process, send
  double seconds = 0;
};

[[nodiscard]] double median(std::vector<float>& samples) {
  if (samples.empty()) return 0;
  const auto middle = samples.begin() + static_cast<long>(samples.size() / 2);
  std::nth_element(samples.begin(), middle, samples.end());
  return static_cast<double>(*middle);
}

// The sources of a million flows: see the top.
class ClientsInTurn {
 public:
  explicit ClientsInTurn(const Traffic& traffic) : t_(traffic) {}
  void write(std::span<RxDatagram> burst) {
    if (t_.clients_in_turn == 0) return;
    for (RxDatagram& rx : burst)
      rx.source = client_of(t_, next_++ * kOdd % t_.clients_in_turn);
  }

 private:
  const Traffic& t_;
  uint32_t next_ = 0;
};

class Relay {
 public:
  Relay(const Traffic& traffic, uint32_t burst)
      : t_(traffic),
        ports_(ports_options()),
        neighbours_(12345),
        engine_({}, snapshot(traffic)),
        clients_(traffic) {
    ports_.ports()[0].mac = kRelayMac;
    DpdkOptions options;
    for (const LocalAddress& a : engine_.snapshot().addresses)
      options.addresses.push_back({a.bound, static_cast<uint8_t>(a.bound.is_v4() ? 24 : 64), 0});
    for (const Family family : {k4, k6}) {
      options.gateways.push_back(gateway(family));
      (void)neighbours_.learn(gateway(family), {kGatewayMac, 0}, 0,
                              NeighbourTable::Origin::kConfigured);
    }
    options.busy = true;
    options.clock = &clock_;
    driver_ = std::make_unique<DpdkDriver>(engine_.snapshot(), 0, ports_, neighbours_, options,
                                           engine_.mutable_stats(0));
    worker_ = std::make_unique<Worker<DpdkDriver>>(*driver_, engine_.board(), 0, limits(traffic),
                                                   CoreSeeds{}, engine_.mutable_stats(0));
    driver_->set_burst(0);
    Installer(traffic, engine_, *worker_).install();
    driver_->set_burst(burst);
  }

  [[nodiscard]] Measured measure(double seconds) {
    auto rx = std::make_unique<std::array<RxDatagram, kMaxBurst>>();
    auto tx = std::make_unique<TxBurst>();
    Measured m;
    for (auto& samples : m.cycles)
      samples.reserve(kSamples);
    const double begin = cpu_seconds();
    while (m.seconds < seconds) {
      for (int i = 0; i < 1000; ++i)
        one_burst(*rx, *tx, m);
      m.seconds = cpu_seconds() - begin;
    }
    return m;
  }

  // Every datagram so far ended as this traffic's do.
  [[nodiscard]] bool all_relayed() const {
    const CoreStats& stats = engine_.stats(0);
    const uint64_t relayed = stats.outcomes[static_cast<size_t>(t_.outcome)].get();
    const uint64_t second = stats.outcomes[static_cast<size_t>(kToClient)].get();
    return relayed != 0 && relayed == stats.received_packets.get() &&
           (!t_.hairpin || second == relayed);
  }

 private:
  // The port keeps all frames of an endless capture in the buffers of its own queue.
  [[nodiscard]] static PortsOptions ports_options() {
    PortsOptions options;
    options.extra_buffers = kFrames;
    return options;
  }

  void one_burst(std::array<RxDatagram, kMaxBurst>& rx, TxBurst& tx, Measured& m) {
    const uint64_t t0 = __rdtsc();
    const uint32_t received = driver_->rx_burst(rx);
    const uint64_t t1 = __rdtsc();
    clients_.write({rx.data(), received});
    const uint64_t t2 = __rdtsc();
    process(worker_->core(), engine_.snapshot(), Ticks{1000}, {rx.data(), received}, tx);
    const uint64_t t3 = __rdtsc();
    const uint32_t failed = driver_->tx_burst(tx);
    m.packets += tx.count - failed;
    tx.count = 0;
    const uint64_t t4 = __rdtsc();
    ++m.bursts;
    if (received == 0 || m.cycles[0].size() == kSamples) return;
    m.cycles[0].push_back(static_cast<float>(t1 - t0) / static_cast<float>(received));
    m.cycles[1].push_back(static_cast<float>(t3 - t2) / static_cast<float>(received));
    m.cycles[2].push_back(static_cast<float>(t4 - t3) / static_cast<float>(received));
  }

  const Traffic& t_;
  DpdkPorts ports_;
  NeighbourTable neighbours_;
  RingEngine engine_;
  const Ticks clock_ = 0;
  std::unique_ptr<DpdkDriver> driver_;
  std::unique_ptr<Worker<DpdkDriver>> worker_;
  ClientsInTurn clients_;
};

int serve(const Traffic& traffic, const Options& options) {
  auto words = split_words(options.eal).value_or(std::vector<std::string>{});
  words.insert(words.begin(), {"--iova-mode=va", "--no-pci", "--no-telemetry"});
  words.push_back("--vdev=net_pcap0,infinite_rx=1,rx_pcap=" + options.file);
  const Eal eal(words);
  Relay relay(traffic, options.burst);
  std::string line;
  while (std::getline(std::cin, line)) {
    Measured m = relay.measure(std::stod(line));
    std::printf(
        "{\"packets\":%llu,\"cpu_seconds\":%.3f,\"packets_per_cpu_second\":%.0f,\"burst\":%.1f,"
        "\"receive_cycles\":%.1f,\"process_cycles\":%.1f,\"send_cycles\":%.1f,"
        "\"all_relayed\":%s}\n",
        static_cast<unsigned long long>(m.packets), m.seconds,
        static_cast<double>(m.packets) / m.seconds,
        static_cast<double>(m.packets) / static_cast<double>(m.bursts), median(m.cycles[0]),
        median(m.cycles[1]), median(m.cycles[2]), relay.all_relayed() ? "true" : "false");
    std::fflush(stdout);
  }
  return 0;
}

[[nodiscard]] const Traffic& traffic_named(const std::string& name) {
  const auto* found = std::find_if(kTraffics.begin(), kTraffics.end(),
                                   [&](const Traffic& t) { return t.name == name; });
  if (found == kTraffics.end()) throw std::runtime_error("no traffic is called " + name);
  return *found;
}

int bench_main(int argc, char** argv) {
  Options options;
  CLI::App app("The relay on one DPDK port, one core.");
  app.require_subcommand(1);
  CLI::App* write = app.add_subcommand("write", "write the frames as a capture");
  CLI::App* served =
      app.add_subcommand("serve", "relay them endlessly, a line's seconds at a time");
  for (CLI::App* command : {write, served}) {
    command->add_option("traffic", options.traffic)->required();
    command->add_option("file", options.file)->required();
  }
  served->add_option("--eal", options.eal, "EAL's memory and lcore arguments");
  served->add_option("--burst", options.burst)->check(CLI::Range(1, 64));
  CLI11_PARSE(app, argc, argv);
  const Traffic& traffic = traffic_named(options.traffic);
  if (write->parsed()) {
    write_capture(traffic, options.file);
    return 0;
  }
  return serve(traffic, options);
}

}  // namespace
}  // namespace culvert

int main(int argc, char** argv) {
  try {
    return culvert::bench_main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "dpdk_port: %s\n", error.what());
    return 1;
  }
}
