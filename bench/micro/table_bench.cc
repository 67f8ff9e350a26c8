// The flow table against DPDK's rte_hash bulk look-up: hits on random keys plus a touch of the
// 64-byte entry, burst 32, TSC cycles per look-up, alternating passes in one run. rte_hash keeps
// keys apart from entries, so its entries are prefetched by the positions it returns.
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_lcore.h>
#include <rte_prefetch.h>
#include <x86intrin.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "dataplane/flow/entry.h"
#include "dataplane/flow/hash.h"

namespace culvert {
namespace {

constexpr uint32_t kBurst = 32;
constexpr uint32_t kPasses = 15;
constexpr uint32_t kLookups = 1u << 18;

[[nodiscard]] NarrowKey key_of(uint32_t i) {
  NarrowKey key;
  key.source_ip = 0x0A000000u + i;
  key.source_port = static_cast<uint16_t>(1024 + i % 60000);
  key.channel = static_cast<uint16_t>(0x4000 + i % 4);
  return key;
}

class Contest {
 public:
  explicit Contest(uint32_t entries)
      : entries_(entries),
        arena_(SwissTable<NarrowFlow>::bytes_for(entries) + 4096),
        touched_(entries) {
    table_.init(arena_, entries);
    const std::string name = "contest" + std::to_string(entries);
    rte_hash_parameters parameters{};
    parameters.name = name.c_str();
    parameters.entries = entries * 5 / 4;  // its documentation's room for a bucket collision
    parameters.key_len = sizeof(NarrowKey);
    parameters.hash_func = rte_hash_crc;
    parameters.socket_id = static_cast<int>(rte_socket_id());
    hash_ = rte_hash_create(&parameters);
    if (hash_ == nullptr)
      throw std::runtime_error(std::string("rte_hash_create: ") + rte_strerror(rte_errno));
    for (uint32_t i = 0; i < entries; ++i) {
      const NarrowKey key = key_of(i);
      const uint32_t slot = table_.insert(hash_key(key, seed_));
      table_[slot] = NarrowFlow{};
      table_[slot].key = key;
      const int32_t at = rte_hash_add_key(hash_, &key);
      if (at < 0) throw std::runtime_error("rte_hash_add_key failed");
      if (static_cast<size_t>(at) >= touched_.size()) touched_.resize(static_cast<size_t>(at) + 1);
    }
  }
  ~Contest() { rte_hash_free(hash_); }
  Contest(const Contest&) = delete;
  Contest& operator=(const Contest&) = delete;

  [[nodiscard]] double swiss() {
    return pass([&] {
      uint64_t hashes[kBurst];
      uint32_t slots[kBurst];
      for (uint32_t i = 0; i < kBurst; ++i) {
        hashes[i] = hash_key(keys_[i], seed_);
        table_.prefetch_group(hashes[i]);
      }
      for (uint32_t i = 0; i < kBurst; ++i)
        slots[i] = table_.probe(hashes[i]);
      for (uint32_t i = 0; i < kBurst; ++i) {
        uint32_t slot = slots[i];
        if (slot == kNoSlot || !same_key(table_[slot].key, keys_[i]))
          slot = table_.find(hashes[i],
                             [&](const NarrowFlow& f) { return same_key(f.key, keys_[i]); });
        ++table_[slot].packets;
      }
    });
  }

  [[nodiscard]] double rte() {
    return pass([&] {
      const void* pointers[kBurst];
      int32_t positions[kBurst];
      for (uint32_t i = 0; i < kBurst; ++i)
        pointers[i] = &keys_[i];
      (void)rte_hash_lookup_bulk(hash_, pointers, kBurst, positions);
      for (uint32_t i = 0; i < kBurst; ++i)
        rte_prefetch0(&touched_[static_cast<size_t>(positions[i])]);
      for (uint32_t i = 0; i < kBurst; ++i)
        ++touched_[static_cast<size_t>(positions[i])].packets;
    });
  }

 private:
  template <class Burst>
  [[nodiscard]] double pass(Burst&& burst) {
    uint64_t cycles = 0;
    for (uint32_t done = 0; done < kLookups; done += kBurst) {
      for (NarrowKey& key : keys_)
        key = key_of(static_cast<uint32_t>((random_() >> 32) * entries_ >> 32));
      unsigned aux = 0;
      const uint64_t begin = __rdtscp(&aux);
      burst();
      cycles += __rdtscp(&aux) - begin;
    }
    return static_cast<double>(cycles) / kLookups;
  }

  uint32_t entries_;
  HashSeed seed_;
  Arena arena_;
  SwissTable<NarrowFlow> table_;
  rte_hash* hash_ = nullptr;
  std::vector<NarrowFlow> touched_;
  std::array<NarrowKey, kBurst> keys_;
  std::mt19937_64 random_{1};
};

void run(uint32_t entries) {
  Contest contest(entries);
  std::vector<double> swiss;
  std::vector<double> rte;
  for (uint32_t i = 0; i < kPasses; ++i) {
    swiss.push_back(contest.swiss());
    rte.push_back(contest.rte());
  }
  std::sort(swiss.begin(), swiss.end());
  std::sort(rte.begin(), rte.end());
  std::printf("%9u  %9.1f %9.1f   %9.1f %9.1f   %6.2f\n", entries, swiss[0], swiss[kPasses / 2],
              rte[0], rte[kPasses / 2], rte[0] / swiss[0]);
}

}  // namespace
}  // namespace culvert

int main(int argc, char** argv) {
  if (argc > 1) {
    std::puts(
        "usage: table_bench\nCycles per look-up and touch: the flow table against rte_hash bulk.");
    return argc == 2 && std::string(argv[1]) == "--help" ? 0 : 2;
  }
  const char* eal[] = {"table_bench",    "--no-huge",         "-m", "1024", "--no-pci",
                       "--no-telemetry", "--log-level=error", "-l", "0"};
  if (rte_eal_init(static_cast<int>(std::size(eal)), const_cast<char**>(eal)) < 0) {
    std::fprintf(stderr, "table_bench: rte_eal_init: %s\n", rte_strerror(rte_errno));
    return 1;
  }
  std::printf("%9s  %9s %9s   %9s %9s   %6s\n", "entries", "own best", "median", "rte best",
              "median", "ratio");
  try {
    for (const uint32_t entries : {65536u, 1u << 20})
      culvert::run(entries);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "table_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
