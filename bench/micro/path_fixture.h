// One core's packet path with its tables filled to the limit, and the stages of it one by one: what
// is timed (path_bench) and what is counted (regression/hot_stages) is the same code. A stage is
// given to the caller as two functions, one that fills a burst and one that works on it; random
// flows, seeded, so two runs do the same work.
#pragma once

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "dataplane/api/nonce.h"
#include "dataplane/path/stages.h"
#include "dataplane/wire/channel_data.h"
#include "dataplane/wire/frame.h"
#include "dataplane/wire/stun.h"

namespace culvert {

class PathFixture {
 public:
  static constexpr uint32_t kChannelsPerAllocation = 4;
  static constexpr size_t kFrameRoom = 2176;

  struct Options {
    uint32_t payload = 200;
    uint32_t burst = 64;
    uint64_t seed = 1;
  };

  PathFixture(uint32_t flows, const Options& options)
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

  template <class Run>
  auto table_only(Run&& run) {
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

  template <class Run>
  auto process_only(Run&& run, bool to_peer) {
    return run([&] { fill_datagrams(to_peer); },
               [&] {
                 out_->count = 0;
                 process(*core_, snapshot_, Ticks{1000}, {rx_.data(), options_.burst}, *out_);
               });
  }

  template <class Run>
  auto classify_only(Run&& run) {
    return run([&] { fill_datagrams(true); },
               [&] {
                 classify(*core_, {rx_.data(), options_.burst}, *core_->work);
               });
  }
  template <class Run>
  auto lookup_only(Run&& run) {
    return run(
        [&] {
          fill_datagrams(true);
          classify(*core_, {rx_.data(), options_.burst}, *core_->work);
        },
        [&] { lookup(core_->flows, *core_->work); });
  }
  template <class Run>
  auto forward_only(Run&& run) {
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
  template <class Run>
  auto frames(Run&& run) {
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

  // The two halves of that alone.
  template <class Run>
  auto parse_only(Run&& run) {
    std::array<frame::Parsed, kMaxBurst> parsed;
    return run([&] { fill_frames(); },
               [&] {
                 for (uint32_t i = 0; i < options_.burst; ++i)
                   parse_one(i, parsed[i]);
               });
  }
  template <class Run>
  auto write_only(Run&& run) {
    std::array<frame::Parsed, kMaxBurst> parsed;
    return run(
        [&] {
          fill_frames();
          for (uint32_t i = 0; i < options_.burst; ++i)
            parse_one(i, parsed[i]);
          out_->count = 0;
          process(*core_, snapshot_, Ticks{1000}, {rx_.data(), options_.burst}, *out_);
        },
        [&] {
          for (uint32_t i = 0; i < out_->count; ++i)
            write_one(out_->items[i], parsed[i]);
        });
  }

  // Requests without integrity: the stateless 401.
  template <class Run>
  auto challenges(Run&& run) {
    return run([&] { fill_allocates(); },
               [&] {
                 out_->count = 0;
                 process(*core_, snapshot_, Ticks{1000}, {rx_.data(), options_.burst}, *out_);
               });
  }

  // The same from a flood whose answers nobody pays for any more.
  template <class Run>
  auto unpaid_challenges(Run&& run) {
    snapshot_.reply_budget.total_bytes_per_second = 0;
    return run([&] { fill_allocates(); },
               [&] {
                 out_->count = 0;
                 process(*core_, snapshot_, Ticks{2000}, {rx_.data(), options_.burst}, *out_);
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

}  // namespace culvert
