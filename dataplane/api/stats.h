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
  // In cycles of the time-stamp counter (base/cycles.h): turns of the loop that found work, from
  // start to start; and sleeping. What is left of the time is polling that found nothing.
  Counter busy_cycles;
  Counter sleep_cycles;
  // Taken from the heap by the core's thread since its loop began: stays 0 (the memory is sealed).
  Counter heap_bytes;
  Counter commands_applied;
  Counter commands_failed;
  Counter applied_sequence;
  Counter trace_lost;      // records of a packet trace: its ring was full
  Counter events_dropped;  // ring to control full (also counted in an outcome where a packet fell)
  // Snapshot::version this core works with: everything older is no longer touched by it (QSBR).
  // Released by the core, acquired by control before it frees.
  std::atomic<uint64_t> seen_version{0};
};

// What a port counted itself; brought here by control (a port's counters may cost a system call),
// never by a core.
struct alignas(64) PortStats {
  std::array<char, 64> name{};  // closed by a zero
  std::array<char, 32> driver{};
  Counter received_packets;
  Counter received_bytes;
  Counter sent_packets;
  Counter sent_bytes;
  Counter missed;          // dropped by the port: no core took them in time
  Counter no_buffer;       // dropped for want of a buffer
  Counter receive_errors;  // damaged, or refused by the port
  Counter send_errors;
  Counter link_up;  // gauge: 1 or 0
  // Of the XDP program, where the port stands beside the kernel (dataplane/io/dpdk/relay_bpf.h).
  Counter xdp_redirected;  // given to the relay
  Counter xdp_passed;      // left to the kernel, for any reason
  Counter xdp_malformed;   // of these: cut short or with impossible lengths
  Counter xdp_no_socket;   // of these: the relay's, by a queue that no core serves
};

}  // namespace culvert
