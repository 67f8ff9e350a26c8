// Cycles (TSC) the frame layer costs per datagram: parsing, and writing headers with an incremental
// checksum, over a ring of 200-byte ChannelData frames that does not fit the first-level cache.
// Reported per frame as the counter `cycles`; the time column is per pass.
#include <benchmark/benchmark.h>
#include <x86intrin.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "dataplane/wire/frame.h"

namespace culvert::frame {
namespace {

constexpr size_t kFrames = 1024;       // 2 MiB of buffers: beyond L1, within L2 or L3
constexpr size_t kBufferBytes = 2048;  // an mbuf's size, so that set conflicts are as in life
constexpr size_t kRoom = 128;          // headroom
constexpr size_t kBody = 204;          // ChannelData header and 200 bytes

struct Frames {
  explicit Frames(bool v6) : memory(kFrames * kBufferBytes), length(kFrames) {
    std::mt19937 random(1);
    for (size_t i = 0; i < kFrames; ++i) {
      uint8_t* body = buffer(i) + kRoom;
      for (size_t b = 0; b < kBody; ++b)
        body[b] = static_cast<uint8_t>(random());
      Outgoing o{address(v6, random()), address(v6, random()), 64, 0, true, 0, 0,
                 full_sum(body, kBody)};
      headers = write_headers(body, kBody, {}, o);
      length[i] = headers + kBody;
    }
  }
  static TransportAddress address(bool v6, uint64_t from) {
    TransportAddress a;
    a.port = static_cast<uint16_t>(from);
    uint8_t bytes[16] = {0x20, 1, 0xd, 0xb8};
    store_be32(bytes + 12, static_cast<uint32_t>(from));
    a.ip = v6 ? IpAddress::v6_bytes(bytes) : IpAddress::v4(static_cast<uint32_t>(from));
    return a;
  }
  uint8_t* buffer(size_t i) { return memory.data() + i * kBufferBytes; }
  std::span<const uint8_t> frame(size_t i) { return {buffer(i) + kRoom - headers, length[i]}; }

  std::vector<uint8_t> memory;
  std::vector<size_t> length;
  size_t headers = 0;
};

// Runs `pass` over all frames and reports the best and the median pass, in cycles per frame.
template <class Pass>
void measure(benchmark::State& state, Pass&& pass) {
  std::vector<double> cycles;
  for (auto _ : state) {
    const uint64_t before = __rdtsc();
    pass();
    cycles.push_back(static_cast<double>(__rdtsc() - before) / kFrames);
  }
  std::sort(cycles.begin(), cycles.end());
  state.counters["cycles_best"] = cycles.front();
  state.counters["cycles_median"] = cycles[cycles.size() / 2];
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kFrames));
}

void parse_frames(benchmark::State& state) {
  Frames frames(state.range(0) == 6);
  measure(state, [&] {
    for (size_t i = 0; i < kFrames; ++i) {
      Parsed p;
      benchmark::DoNotOptimize(parse(frames.frame(i), Verify::kHeaders, p));
      benchmark::DoNotOptimize(p);
    }
  });
}
BENCHMARK(parse_frames)->Arg(4)->Arg(6);

void parse_and_verify_payload(benchmark::State& state) {
  Frames frames(state.range(0) == 6);
  measure(state, [&] {
    for (size_t i = 0; i < kFrames; ++i) {
      Parsed p;
      benchmark::DoNotOptimize(parse(frames.frame(i), Verify::kAll, p));
      benchmark::DoNotOptimize(p);
    }
  });
}
BENCHMARK(parse_and_verify_payload)->Arg(4)->Arg(6);

// ChannelData to UDP: the channel header goes, the headers are written again where they were.
void write_frames(benchmark::State& state) {
  const bool v6 = state.range(0) == 6;
  Frames frames(v6);
  std::vector<Parsed> parsed(kFrames);
  for (size_t i = 0; i < kFrames; ++i) {
    if (parse(frames.frame(i), Verify::kHeaders, parsed[i]) != Kind::k_udp) std::abort();
  }
  const Link link{{1, 2, 3, 4, 5, 6}, {6, 5, 4, 3, 2, 1}, kNoVlan};
  const TransportAddress from = Frames::address(v6, 77);
  const TransportAddress to = Frames::address(v6, 99);
  measure(state, [&] {
    for (size_t i = 0; i < kFrames; ++i) {
      uint8_t* body = frames.buffer(i) + kRoom + 4;
      const Outgoing o{from, to, 63, 0, true, 0, 0, piece_sum(parsed[i], body, kBody - 4)};
      benchmark::DoNotOptimize(write_headers(body, kBody - 4, link, o));
    }
  });
}
BENCHMARK(write_frames)->Arg(4)->Arg(6);

void parse_and_write(benchmark::State& state) {
  const bool v6 = state.range(0) == 6;
  Frames frames(v6);
  const Link link{{1, 2, 3, 4, 5, 6}, {6, 5, 4, 3, 2, 1}, kNoVlan};
  const TransportAddress from = Frames::address(v6, 77);
  const TransportAddress to = Frames::address(v6, 99);
  std::vector<uint8_t> out(kFrames * kBufferBytes);
  measure(state, [&] {
    for (size_t i = 0; i < kFrames; ++i) {
      Parsed p;
      if (parse(frames.frame(i), Verify::kHeaders, p) != Kind::k_udp) std::abort();
      // Headers to another buffer, so that every pass finds the same frame.
      uint8_t* body = &out[i * kBufferBytes + kRoom];
      const Outgoing o{from,
                       to,
                       static_cast<uint8_t>(p.ttl - 1),
                       p.tos,
                       p.dont_fragment,
                       0,
                       0,
                       piece_sum(p, p.payload + 4, p.length - size_t{4})};
      benchmark::DoNotOptimize(write_headers(body, kBody - 4, link, o));
    }
  });
}
BENCHMARK(parse_and_write)->Arg(4)->Arg(6);

}  // namespace
}  // namespace culvert::frame
