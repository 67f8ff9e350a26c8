// Cycles per packet of the packet path: each stage, process() alone, and frame + process + frame,
// for IPv4 ChannelData to UDP with random flows, policers and counters on. Beside it the flow
// table's own look-up and touch in the same run, so that figures from different machines can be
// compared as ratios.
//
// Method: every burst picks random flows and writes its frames outside the timed part (a NIC would
// have put them into the cache); TSC around the timed part; several passes, the best and the median
// are printed.
#include <x86intrin.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "dataplane/api/nonce.h"
#include "dataplane/path/stages.h"
#include "dataplane/wire/channel_data.h"
#include "dataplane/wire/frame.h"
#include "dataplane/wire/stun.h"

namespace culvert {
namespace {

constexpr uint32_t kChannelsPerAllocation = 4;
constexpr size_t kFrameRoom = 2176;

struct Options {
  uint32_t payload = 200;
  uint32_t passes = 20;
  uint32_t packets = 1u << 17;  // per pass
  uint32_t burst = 64;
  bool json = false;
  uint64_t seed = 1;
};

struct Samples {
  std::vector<double> cycles;  // per packet, one a pass
  [[nodiscard]] double best() const { return *std::min_element(cycles.begin(), cycles.end()); }
  [[nodiscard]] double median() const {
    std::vector<double> sorted = cycles;
    std::nth_element(sorted.begin(), sorted.begin() + static_cast<long>(sorted.size() / 2),
                     sorted.end());
    return sorted[sorted.size() / 2];
  }
};

[[nodiscard]] uint64_t stamp() {
  unsigned aux = 0;
  _mm_lfence();
  const uint64_t t = __rdtscp(&aux);
  _mm_lfence();
  return t;
}

class Bench {
 public:
  Bench(uint32_t flows, const Options& options)
      : flow_count_(flows), options_(options), random_(options.seed) {
    limits_.allocations = flows / kChannelsPerAllocation;
    limits_.permissions = flows;
    limits_.narrow_channels = flows;
    limits_.policers = limits_.allocations + 1;
    limits_.relay_port_low = 1024;
    limits_.addresses = static_cast<uint16_t>(limits_.allocations / 60000 + 1);
    arena_ = std::make_unique<Arena>(CoreState::arena_bytes(limits_));
    stats_ = std::make_unique<CoreStats>();
    core_ = std::make_unique<CoreState>(*arena_, limits_, seeds(), CoreId{0}, *stats_, Ticks{0});
    build_snapshot();
    for (uint32_t a = 0; a < limits_.allocations; ++a)
      install(a);
    frames_.resize(kFrameRoom * kMaxBurst);
    out_ = std::make_unique<TxBurst>();
  }

  // Runs `timed` once per burst; `prepare` fills the burst before.
  template <class Prepare, class Timed>
  Samples run(Prepare&& prepare, Timed&& timed) {
    Samples samples;
    for (uint32_t pass = 0; pass < options_.passes; ++pass) {
      uint64_t total = 0;
      uint32_t done = 0;
      while (done < options_.packets) {
        prepare();
        const uint64_t begin = stamp();
        timed();
        total += stamp() - begin;
        done += options_.burst;
      }
      samples.cycles.push_back(static_cast<double>(total) / done);
    }
    return samples;
  }

  Samples table_only() {
    std::vector<NarrowKey> keys(options_.burst);
    std::vector<uint64_t> hashes(options_.burst);
    std::vector<uint32_t> slots(options_.burst);
    return run(
        [&] {
          for (NarrowKey& key : keys)
            key = key_of(pick());
        },
        [&] {
          auto& table = core_->flows.narrow;
          for (uint32_t i = 0; i < options_.burst; ++i) {
            hashes[i] = hash_key(keys[i], core_->flows.seed);
            table.prefetch_group(hashes[i]);
          }
          for (uint32_t i = 0; i < options_.burst; ++i)
            slots[i] = table.probe(hashes[i]);
          for (uint32_t i = 0; i < options_.burst; ++i) {
            uint32_t slot = slots[i];
            if (slot == kNoSlot || !same_key(table[slot].key, keys[i])) {
              slot = table.find(hashes[i],
                                [&](const NarrowFlow& f) { return same_key(f.key, keys[i]); });
            }
            ++table[slot].packets;
          }
        });
  }

  Samples process_only(bool to_peer) {
    return run([&] { fill_datagrams(to_peer); },
               [&] {
                 out_->count = 0;
                 process(*core_, snapshot_, Ticks{1000}, {rx_.data(), options_.burst}, *out_);
               });
  }

  Samples classify_only() {
    return run([&] { fill_datagrams(true); },
               [&] {
                 classify(*core_, {rx_.data(), options_.burst}, *core_->work);
               });
  }
  Samples lookup_only() {
    return run(
        [&] {
          fill_datagrams(true);
          classify(*core_, {rx_.data(), options_.burst}, *core_->work);
        },
        [&] { lookup(core_->flows, *core_->work); });
  }
  Samples forward_only() {
    PathContext path(*core_, snapshot_, Ticks{1000}, *out_);
    return run(
        [&] {
          fill_datagrams(true);
          classify(*core_, {rx_.data(), options_.burst}, *core_->work);
          lookup(core_->flows, *core_->work);
          out_->count = 0;
        },
        [&] {
          for (uint32_t i = 0; i < options_.burst; ++i)
            forward_channel_data<NarrowFlow>(path, rx_[i], core_->work->slot[i]);
        });
  }

  // Ethernet in, Ethernet out: parse, process, write headers in front of the payload where it lies.
  Samples frames() {
    std::array<frame::Parsed, kMaxBurst> parsed;
    return run([&] { fill_frames(); },
               [&] {
                 for (uint32_t i = 0; i < options_.burst; ++i)
                   parse_one(i, parsed[i]);
                 out_->count = 0;
                 process(*core_, snapshot_, Ticks{1000}, {rx_.data(), options_.burst}, *out_);
                 for (uint32_t i = 0; i < out_->count; ++i)
                   write_one(out_->items[i], parsed[i]);
               });
  }

  // Requests without integrity: the stateless 401.
  Samples challenges() {
    return run([&] { fill_allocates(); },
               [&] {
                 out_->count = 0;
                 process(*core_, snapshot_, Ticks{1000}, {rx_.data(), options_.burst}, *out_);
               });
  }

  [[nodiscard]] bool all_relayed() const {
    const auto& o = stats_->outcomes;
    const auto got = [&](Outcome x) { return o[static_cast<size_t>(x)].get(); };
    return got(Outcome::k_no_channel) + got(Outcome::k_no_allocation) + got(Outcome::k_policed) +
               got(Outcome::k_no_permission) + got(Outcome::k_reply_budget) +
               got(Outcome::k_reply_too_large) ==
           0;
  }
  [[nodiscard]] double bytes_per_allocation() const {
    return static_cast<double>(FlowState::table_bytes(limits_)) / limits_.allocations;
  }

 private:
  [[nodiscard]] CoreSeeds seeds() { return {{random_(), random_()}, {random_(), random_()}}; }
  [[nodiscard]] uint32_t pick() {
    return static_cast<uint32_t>((random_() >> 32) * flow_count_ >> 32);
  }
  void build_snapshot() {
    for (uint16_t i = 0; i < limits_.addresses; ++i) {
      const IpAddress ip = IpAddress::v4(0xC6336400u + i);
      snapshot_.addresses.push_back({ip, ip, true});
    }
    snapshot_.version = 1;
    snapshot_.listeners.resize(1);
    snapshot_.listeners[0].port = 3478;
    snapshot_.listeners[0].nonce_features = kFeaturePasswordAlgorithms;
    snapshot_.listeners[0].realm_attribute = {0,   0x14, 0,   8,   'b', 'e',
                                              'n', 'c',  'h', '.', 'o', 'r'};
    snapshot_.listeners[0].algorithms_attribute = {0x80, 2, 0, 8, 0, 2, 0, 0, 0, 1, 0, 0};
    snapshot_.relay_port_low = 1024;
    snapshot_.reply_budget = {1ull << 50, 1ull << 50, 1u << 30};
    core_->listener_egress[0] = 7;
  }

  [[nodiscard]] static TransportAddress client_of(uint32_t allocation) {
    return {IpAddress::v4(0x0A000000u + allocation),
            static_cast<uint16_t>(1024 + allocation % 60000)};
  }
  [[nodiscard]] static TransportAddress peer_of(uint32_t flow) {
    return {IpAddress::v4(0x0B000000u + flow), static_cast<uint16_t>(2000 + flow % 50000)};
  }
  [[nodiscard]] static RelayLeg leg_of(uint32_t allocation) {
    return {static_cast<uint16_t>(allocation / 60000),
            static_cast<uint16_t>(1024 + allocation % 60000)};
  }
  [[nodiscard]] static uint16_t channel_of(uint32_t flow) {
    return static_cast<uint16_t>(kFirstChannel + flow % kChannelsPerAllocation);
  }
  [[nodiscard]] static NarrowKey key_of(uint32_t flow) {
    return client_key<NarrowKey>(client_of(flow / kChannelsPerAllocation), 0, channel_of(flow));
  }

  void install(uint32_t index) {
    FlowState& flows = core_->flows;
    InstallAllocation command;
    command.handle = {index, 1};
    command.client.client = client_of(index);
    command.ipv4 = leg_of(index);
    command.lifetime_ms = 3'600'000;
    command.policer = index + 1;
    flows.policers[index + 1] = {1ull << 40, 1ll << 50, 1ll << 50, 0};
    const Egress egress[2] = {index, kNoEgress};
    if (!flows.install(command, egress, 7, 0)) std::abort();
    for (uint32_t i = 0; i < kChannelsPerAllocation; ++i) {
      BindChannel bind;
      bind.handle = command.handle;
      bind.peer = peer_of(index * kChannelsPerAllocation + i);
      bind.channel = static_cast<uint16_t>(kFirstChannel + i);
      if (flows.bind_channel(index, bind, 0) != ApplyError::kNone) std::abort();
    }
  }

  uint8_t* frame_at(uint32_t i) { return frames_.data() + size_t{i} * kFrameRoom + 128; }

  void fill_datagrams(bool to_peer) {
    for (uint32_t i = 0; i < options_.burst; ++i) {
      const uint32_t flow = pick();
      uint8_t* payload = frame_at(i);
      RxDatagram& rx = rx_[i];
      rx = RxDatagram{};
      rx.payload = payload;
      if (to_peer) {
        store_be16(payload, channel_of(flow));
        store_be16(payload + 2, static_cast<uint16_t>(options_.payload));
        rx.length = static_cast<uint16_t>(options_.payload + kChannelHeaderSize);
        rx.source = client_of(flow / kChannelsPerAllocation);
      } else {
        rx.kind = RxKind::kPeer;
        rx.length = static_cast<uint16_t>(options_.payload);
        rx.relay = leg_of(flow / kChannelsPerAllocation);
        rx.source = peer_of(flow);
      }
    }
  }

  void fill_frames() {
    for (uint32_t i = 0; i < options_.burst; ++i) {
      const uint32_t flow = pick();
      uint8_t* payload = frame_at(i);
      store_be16(payload, channel_of(flow));
      store_be16(payload + 2, static_cast<uint16_t>(options_.payload));
      frame::Outgoing fields;
      fields.source = client_of(flow / kChannelsPerAllocation);
      fields.destination = {IpAddress::v4(0xC6336400u), 3478};
      fields.body = {0x1234, true};
      const size_t headers =
          frame::write_headers(payload, options_.payload + kChannelHeaderSize, {}, fields);
      frame_length_ = headers + options_.payload + kChannelHeaderSize;
      frame_start_[i] = payload - headers;
    }
  }

  void parse_one(uint32_t i, frame::Parsed& parsed) {
    const frame::Kind kind =
        frame::parse({frame_start_[i], frame_length_}, frame::Verify::kHeaders, parsed);
    if (kind != frame::Kind::k_udp) std::abort();
    RxDatagram& rx = rx_[i];
    rx.payload = parsed.payload;
    rx.length = parsed.length;
    rx.kind = RxKind::kClient;
    rx.ttl = parsed.ttl;
    rx.tos = parsed.tos;
    rx.df = parsed.dont_fragment ? DontFragment::kSet : DontFragment::kClear;
    rx.listener = 0;
    rx.source = parsed.source;
    rx.hops_done = rx.handed_over = 0;
  }

  void write_one(const TxDatagram& tx, const frame::Parsed& parsed) {
    frame::Outgoing fields;
    fields.source = {snapshot_.addresses[tx.from_address].bound, tx.from_port};
    fields.destination = tx.to;
    fields.ttl = tx.ttl;
    fields.tos = tx.tos;
    fields.dont_fragment = tx.dont_fragment;
    fields.body = frame::piece_sum(parsed, tx.payload, tx.length);
    (void)frame::write_headers(const_cast<uint8_t*>(tx.payload), tx.length, {}, fields);
  }

  void fill_allocates() {
    for (uint32_t i = 0; i < options_.burst; ++i) {
      uint8_t* m = frame_at(i);
      std::memset(m, 0, 28);
      store_be16(m, stun::kAllocate);
      store_be16(m + 2, 8);
      store_be32(m + 4, stun::kMagicCookie);
      store_be64(m + 8, random_());
      store_be16(m + 20, static_cast<uint16_t>(stun::Attribute::kRequestedTransport));
      store_be16(m + 22, 4);
      m[24] = 17;
      rx_[i] = RxDatagram{};
      rx_[i].payload = m;
      rx_[i].length = 28;
      const auto random = static_cast<uint32_t>(random_());
      rx_[i].source = {IpAddress::v4(random), static_cast<uint16_t>(1024 + (random >> 17))};
    }
  }

  uint32_t flow_count_;
  Options options_;
  std::mt19937_64 random_;
  CoreLimits limits_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<CoreStats> stats_;
  std::unique_ptr<CoreState> core_;
  Snapshot snapshot_;
  std::vector<uint8_t> frames_;
  std::array<RxDatagram, kMaxBurst> rx_;
  std::array<uint8_t*, kMaxBurst> frame_start_{};
  size_t frame_length_ = 0;
  std::unique_ptr<TxBurst> out_;
};

void print(const Options& options, uint32_t flows, const char* what, const Samples& s,
           double table) {
  if (options.json) {
    std::printf("{\"flows\":%u,\"what\":\"%s\",\"best_cycles\":%.1f,\"median_cycles\":%.1f}\n",
                flows, what, s.best(), s.median());
  } else {
    std::printf("%9u  %-28s %8.1f %8.1f %8.2f\n", flows, what, s.best(), s.median(),
                s.best() / table);
  }
}

[[nodiscard]] bool measure(uint32_t flows, const Options& options) {
  Bench bench(flows, options);
  const Samples table = bench.table_only();
  const double base = table.best();
  print(options, flows, "table look-up + touch", table, base);
  print(options, flows, "classify", bench.classify_only(), base);
  print(options, flows, "hash, prefetch, resolve", bench.lookup_only(), base);
  print(options, flows, "forward (flow in cache)", bench.forward_only(), base);
  print(options, flows, "process, client to peer", bench.process_only(true), base);
  print(options, flows, "process, peer to client", bench.process_only(false), base);
  print(options, flows, "frame + process + frame", bench.frames(), base);
  print(options, flows, "stateless 401", bench.challenges(), base);
  if (!options.json)
    std::printf("%9u  table bytes per allocation %10.0f\n", flows, bench.bytes_per_allocation());
  if (!bench.all_relayed()) std::fprintf(stderr, "path_bench: some packets were dropped\n");
  return bench.all_relayed();
}

int usage(int code) {
  std::fputs(
      "usage: path_bench [--payload BYTES] [--passes N] [--packets N] [--burst N] [--seed N]\n"
      "                  [--json] [FLOWS ...]\n"
      "TSC cycles per packet of the packet path; FLOWS defaults to 65536 1048576.\n"
      "The last column is the ratio to the flow table's own look-up in the same run.\n",
      code == 0 ? stdout : stderr);
  return code;
}

int bench_main(int argc, char** argv) {
  Options options;
  std::vector<uint32_t> flows;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const auto number = [&](uint32_t low, uint32_t high) {
      const unsigned long v = i + 1 < argc ? std::strtoul(argv[++i], nullptr, 10) : 0;
      if (v < low || v > high) std::exit(usage(2));
      return static_cast<uint32_t>(v);
    };
    if (arg == "--help") return usage(0);
    if (arg == "--json")
      options.json = true;
    else if (arg == "--payload")
      options.payload = number(1, 1400);
    else if (arg == "--passes")
      options.passes = number(1, 1000);
    else if (arg == "--packets")
      options.packets = number(64, 1u << 26);
    else if (arg == "--burst")
      options.burst = number(1, kMaxBurst);
    else if (arg == "--seed")
      options.seed = number(0, 0xffffffff);
    else if (const unsigned long v = std::strtoul(arg.c_str(), nullptr, 10);
             v >= 64 && v <= 1u << 22)
      flows.push_back(static_cast<uint32_t>(v));
    else
      return usage(2);
  }
  if (flows.empty()) flows = {65536, 1u << 20};
  if (!options.json)
    std::printf("%9s  %-28s %8s %8s %8s\n", "flows", "TSC cycles per packet", "best", "median",
                "x table");
  bool ok = true;
  for (const uint32_t n : flows)
    ok = measure(n, options) && ok;
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace culvert

int main(int argc, char** argv) {
  return culvert::bench_main(argc, argv);
}
