// The relay on one port, one core, as fast as it goes: frames in by the DPDK driver, process(),
// frames out. The allocations are installed by the commands that control sends; time and seeds are
// fixed; the clients' frames come from a capture this program has written, so that testpmd can be
// given the very same one (bench/macro/dpdk_memory_port).
//
//   dpdk_port write FILE              65,536 ChannelData frames of 16,384 clients, 200 bytes each
//   dpdk_port run FILE --eal=ARGS     net_pcap with infinite_rx on that file, unless --device says
//                                     otherwise
//
// Prints one JSON object: packets, seconds of CPU, packets per CPU second, and the median burst's
// TSC cycles per packet in receiving, process() and sending. CPU seconds and medians, since the
// machine may be shared: a burst during which the core was taken away says nothing.
#include <time.h>
#include <x86intrin.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <memory>
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

namespace culvert {
namespace {

constexpr uint32_t kAllocations = 16384;
constexpr uint32_t kChannels = 4;
constexpr uint32_t kFlows = kAllocations * kChannels;
constexpr uint16_t kFirstPort = 49152;
constexpr uint32_t kFrameBytes = 200;  // with FCS, as line rates are counted; 196 are sent
constexpr const char* kRelay = "198.51.100.1";
constexpr const char* kGateway = "198.51.100.254";
constexpr frame::MacAddress kRelayMac = {2, 0, 0, 0, 0, 1};
constexpr frame::MacAddress kGatewayMac = {2, 0, 0, 0, 0, 0xfe};

struct Options {
  std::string file;
  std::string eal;
  std::string device;
  double seconds = 2;
  uint32_t burst = kMaxBurst;
};

[[nodiscard]] TransportAddress client_of(uint32_t allocation) {
  return {IpAddress::v4(0x0A000000u + allocation), static_cast<uint16_t>(1024 + allocation)};
}
[[nodiscard]] TransportAddress peer_of(uint32_t flow) {
  return {IpAddress::v4(0x0B000000u + flow), static_cast<uint16_t>(2000 + flow % 50000)};
}
[[nodiscard]] TransportAddress listener() {
  return {IpAddress::parse(kRelay).value(), 3478};
}

template <class T>
void put(std::ofstream& out, T value) {
  out.write(reinterpret_cast<const char*>(&value), sizeof value);
}

// Classic pcap: no library is needed to write one. Flows in an order that no prefetcher guesses.
void write_capture(const std::string& path) {
  std::ofstream out(path, std::ios::binary);
  for (const uint32_t word : {0xa1b2c3d4u, 0x00040002u, 0u, 0u, 65535u, 1u})
    put(out, word);
  std::array<uint8_t, 2048> buffer{};
  constexpr uint32_t kOdd = 40503;  // times an index modulo a power of two: a permutation
  for (uint32_t i = 0; i < kFlows; ++i) {
    const uint32_t flow = i * kOdd % kFlows;
    uint8_t* body = buffer.data() + 256;
    const uint32_t length =
        kFrameBytes - 4 - frame::kEthernetHeader - frame::kIpv4Header - frame::kUdpHeader;
    store_be16(body, static_cast<uint16_t>(kFirstChannel + flow % kChannels));
    store_be16(body + 2, static_cast<uint16_t>(length - kChannelHeaderSize));
    for (uint32_t b = kChannelHeaderSize; b < length; ++b)
      body[b] = static_cast<uint8_t>(flow + b);
    frame::Outgoing o;
    o.source = client_of(flow / kChannels);
    o.destination = listener();
    o.body = frame::full_sum(body, length);
    const size_t headers =
        frame::write_headers(body, length, {kRelayMac, kGatewayMac, frame::kNoVlan}, o);
    for (const uint32_t word :
         {0u, i, static_cast<uint32_t>(headers) + length, static_cast<uint32_t>(headers) + length})
      put(out, word);
    out.write(reinterpret_cast<const char*>(body - headers),
              static_cast<std::streamsize>(headers + length));
  }
  if (!out.flush()) throw std::runtime_error("cannot write " + path);
}

[[nodiscard]] std::unique_ptr<Snapshot> snapshot() {
  auto s = std::make_unique<Snapshot>();
  s->version = 1;
  s->addresses.push_back({listener().ip, listener().ip, true});
  s->listeners.resize(1);
  s->listeners[0].port = listener().port;
  s->relay_port_low = kFirstPort;
  return s;
}

[[nodiscard]] CoreLimits limits() {
  CoreLimits l;
  l.allocations = kAllocations;
  l.permissions = kFlows;
  l.narrow_channels = kFlows;
  l.policers = 1;
  l.relay_port_low = kFirstPort;
  l.addresses = 1;
  return l;
}

// What control would send; the worker applies 32 a loop.
void install(RingEngine& engine, Worker<DpdkDriver>& worker) {
  const auto send = [&](auto command) {
    while (!engine.send(0, command))
      (void)worker.run_once();
  };
  for (uint32_t a = 0; a < kAllocations; ++a) {
    InstallAllocation allocation;
    allocation.handle = {a, 1};
    allocation.client.client = client_of(a);
    allocation.ipv4 = {0, static_cast<uint16_t>(kFirstPort + a)};
    allocation.lifetime_ms = 3'600'000;
    send(allocation);
    for (uint32_t c = 0; c < kChannels; ++c) {
      BindChannel bind;
      bind.handle = {a, 1};
      bind.peer = peer_of(a * kChannels + c);
      bind.channel = static_cast<uint16_t>(kFirstChannel + c);
      send(bind);
    }
  }
  while (engine.stats(0).commands_applied.get() < kAllocations + kFlows)
    (void)worker.run_once();
  if (engine.stats(0).commands_failed.get() != 0)
    throw std::runtime_error("some allocations could not be installed");
}

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

[[nodiscard]] Measured measure(DpdkDriver& driver, CoreState& core, const Snapshot& s,
                               double seconds) {
  auto rx = std::make_unique<std::array<RxDatagram, kMaxBurst>>();
  auto tx = std::make_unique<TxBurst>();
  Measured m;
  for (auto& samples : m.cycles)
    samples.reserve(kSamples);
  const double begin = cpu_seconds();
  while (m.seconds < seconds) {
    for (int i = 0; i < 1000; ++i) {
      const uint64_t t0 = __rdtsc();
      const uint32_t received = driver.rx_burst(*rx);
      const uint64_t t1 = __rdtsc();
      process(core, s, Ticks{1000}, {rx->data(), received}, *tx);
      const uint64_t t2 = __rdtsc();
      const uint32_t failed = driver.tx_burst(*tx);
      m.packets += tx->count - failed;
      tx->count = 0;
      const uint64_t t3 = __rdtsc();
      ++m.bursts;
      if (received == 0 || m.cycles[0].size() == kSamples) continue;
      m.cycles[0].push_back(static_cast<float>(t1 - t0) / static_cast<float>(received));
      m.cycles[1].push_back(static_cast<float>(t2 - t1) / static_cast<float>(received));
      m.cycles[2].push_back(static_cast<float>(t3 - t2) / static_cast<float>(received));
    }
    m.seconds = cpu_seconds() - begin;
  }
  return m;
}

int run(const Options& options) {
  // The port keeps all frames of an endless capture in the buffers of its own queue.
  PortsOptions ports_options;
  ports_options.extra_buffers = kFlows;
  auto words = split_words(options.eal).value_or(std::vector<std::string>{});
  words.insert(words.begin(), {"--iova-mode=va", "--no-pci", "--no-telemetry"});
  words.push_back("--vdev=" + (options.device.empty()
                                   ? "net_pcap0,infinite_rx=1,rx_pcap=" + options.file
                                   : options.device));
  const Eal eal(words);
  DpdkPorts ports(ports_options);
  ports.ports()[0].mac = kRelayMac;
  NeighbourTable neighbours(12345);
  (void)neighbours.learn(IpAddress::parse(kGateway).value(), {kGatewayMac, 0}, 0,
                         NeighbourTable::Origin::kConfigured);
  const Ticks clock = 0;
  DpdkOptions driver_options;
  driver_options.addresses = {{listener().ip, 24, 0}};
  driver_options.gateways = {IpAddress::parse(kGateway).value()};
  driver_options.busy = true;
  driver_options.clock = &clock;
  RingEngine engine({}, snapshot());
  DpdkDriver driver(engine.snapshot(), 0, ports, neighbours, driver_options,
                    engine.mutable_stats(0));
  Worker<DpdkDriver> worker(driver, engine.board(), 0, limits(), CoreSeeds{},
                            engine.mutable_stats(0));
  driver.set_burst(0);
  install(engine, worker);
  driver.set_burst(options.burst);
  (void)measure(driver, worker.core(), engine.snapshot(), options.seconds / 4);
  Measured m = measure(driver, worker.core(), engine.snapshot(), options.seconds);
  const uint64_t relayed =
      engine.stats(0).outcomes[static_cast<size_t>(Outcome::k_relayed_channel_to_peer)].get();
  const bool all_relayed = relayed == engine.stats(0).received_packets.get() && m.packets != 0;
  std::printf(
      "{\"packets\":%llu,\"cpu_seconds\":%.3f,\"packets_per_cpu_second\":%.0f,\"burst\":%.1f,"
      "\"receive_cycles\":%.1f,\"process_cycles\":%.1f,\"send_cycles\":%.1f,"
      "\"all_relayed\":%s}\n",
      static_cast<unsigned long long>(m.packets), m.seconds,
      static_cast<double>(m.packets) / m.seconds,
      static_cast<double>(m.packets) / static_cast<double>(m.bursts), median(m.cycles[0]),
      median(m.cycles[1]), median(m.cycles[2]), all_relayed ? "true" : "false");
  return m.packets != 0 ? 0 : 1;
}

int bench_main(int argc, char** argv) {
  Options options;
  CLI::App app("The relay on one DPDK port, one core, 65,536 flows.");
  app.require_subcommand(1);
  CLI::App* write = app.add_subcommand("write", "write the clients' frames as a capture");
  write->add_option("file", options.file)->required();
  CLI::App* measured = app.add_subcommand("run", "relay them endlessly, and print what it cost");
  measured->add_option("file", options.file)->required();
  measured->add_option("--eal", options.eal, "EAL's memory and lcore arguments");
  measured->add_option("--device", options.device, "instead of net_pcap on the file");
  measured->add_option("--seconds", options.seconds, "of CPU, after a quarter of it to warm up");
  measured->add_option("--burst", options.burst)->check(CLI::Range(1, 64));
  CLI11_PARSE(app, argc, argv);
  if (write->parsed()) {
    write_capture(options.file);
    return 0;
  }
  return run(options);
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
