// A core's live counters: written by that core alone with relaxed stores, read by anyone at any
// time. Totals since start; readers take differences. One cache line is never shared by two
// writers.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "dataplane/api/frame_counter.h"
#include "dataplane/api/outcome.h"

namespace culvert {

class Counter {
 public:
  // Single writer: a load and a store, no locked instruction (architecture.md 5.3).
  void add(uint64_t n) {
    value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  void set(uint64_t n) { value_.store(n, std::memory_order_relaxed); }
  [[nodiscard]] uint64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

struct alignas(128) CoreStats {
  // received (+ hairpin_passes + handed_in) == sum(outcomes)
  std::array<Counter, kOutcomes> outcomes;
  std::array<Counter, kFrameCounters> frames;  // of a driver that sees frames, beside outcomes
  Counter received_packets;
  Counter received_bytes;  // UDP payload
  Counter sent_packets;
  Counter sent_bytes;
  Counter send_failed;      // the driver could not send what the path had emitted
  Counter hairpin_passes;   // datagrams that entered the path a second time
  Counter handed_in;        // datagrams that came over a ring from another core
  Counter reply_bytes_in;   // unauthenticated requests, IP and UDP headers included
  Counter reply_bytes_out;  // and the answers to them
  Counter challenge_refunds;

  Counter allocations;  // gauges
  Counter permissions;
  Counter channels;
  Counter open_ports;

  Counter loops;
  Counter idle_loops;
  Counter sleeps;
  Counter commands_applied;
  Counter commands_failed;
  Counter applied_sequence;
  Counter events_dropped;  // ring to control full (also counted in an outcome where a packet fell)
  // Snapshot::version this core works with: everything older is no longer touched by it (QSBR).
  // Released by the core, acquired by control before it frees.
  std::atomic<uint64_t> seen_version{0};
};

}  // namespace culvert
