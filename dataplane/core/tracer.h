// A fast core's side of the packet trace (api/trace.h). While one is on, the worker runs datagrams
// through the path one by one, so that what a counter moved by and what was emitted belong to that
// datagram: the path itself knows nothing of it. Used by the core's thread alone; allocates
// nothing; a full ring loses records, counted.
#pragma once

#include <time.h>

#include <algorithm>
#include <array>

#include "dataplane/api/snapshot.h"
#include "dataplane/api/stats.h"
#include "dataplane/api/trace.h"
#include "dataplane/path/datagram.h"

namespace culvert {

class Tracer {
 public:
  Tracer(SpscRing& ring, CoreStats& stats) : ring_(ring), stats_(stats) {}

  [[nodiscard]] bool on() const { return left_ != 0; }

  void start(const Trace& question, Ticks now) {
    question_ = question;
    left_ = std::min(question.count, kMaxTraceDatagrams);
    number_ = 0;
    end_ = now + std::min(question.duration_ms, kMaxTraceSeconds * 1000);
  }
  // Whether it goes on; to be asked once a burst.
  [[nodiscard]] bool goes_on(Ticks now) {
    if (ticks_reached(now, end_)) left_ = 0;
    return on();
  }

  // Around process() with one datagram.
  void before() {
    for (size_t i = 0; i < kOutcomes; ++i)
      outcomes_before_[i] = stats_.outcomes[i].get();
  }
  void after(const Snapshot& snapshot, const RxDatagram& rx, const TxBurst& tx) {
    TraceRecord record;
    find_outcomes(record);
    record.kind = static_cast<TraceKind>(rx.kind);
    record.from = rx.source;
    record.to = local_of(snapshot, rx);
    if (!matches(record, tx)) return;
    --left_;
    record.number = ++number_;
    record.length = rx.length;
    record.ttl = rx.ttl;
    record.tos = rx.tos;
    record.handed_in = rx.handed_over;
    record.unix_ns = wall_clock();
    write(record, {}, {rx.payload, rx.payload == nullptr ? size_t{0} : size_t{rx.length}});
    for (uint32_t i = 0; i < tx.count; ++i)
      sent(snapshot, tx.items[i], record.number, record.unix_ns);
  }
  // What control sends by itself.
  void answered(const Snapshot& snapshot, const TxBurst& tx) {
    const bool asked = question_.outcome == Trace::kAnyOutcome && !given(question_.peer) &&
                       question_.relay_port == 0;
    for (uint32_t i = 0; asked && i < tx.count && on(); ++i) {
      if (given(question_.client) && !same(question_.client, tx.items[i].to)) continue;
      --left_;
      sent(snapshot, tx.items[i], 0, wall_clock());
    }
  }

 private:
  [[nodiscard]] static bool given(const TransportAddress& a) {
    return a.ip.family != Family::kNone;
  }
  [[nodiscard]] static bool same(const TransportAddress& wanted, const TransportAddress& a) {
    return wanted.ip == a.ip && (wanted.port == 0 || wanted.port == a.port);
  }
  // The wall clock is read for traced datagrams only.
  [[nodiscard]] static uint64_t wall_clock() {
    timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
  }
  [[nodiscard]] static TransportAddress local_of(const Snapshot& snapshot, const RxDatagram& rx) {
    if (rx.kind == RxKind::kClient) {
      const Listener& listener = snapshot.listeners[rx.listener];
      return {snapshot.addresses[listener.address].bound, listener.port};
    }
    return {snapshot.addresses[rx.relay.address].bound, rx.relay.port};
  }
  // A hairpin ends twice: as hairpinned, and as what its second pass made of it.
  void find_outcomes(TraceRecord& record) const {
    for (size_t i = 0; i < kOutcomes; ++i) {
      if (stats_.outcomes[i].get() == outcomes_before_[i]) continue;
      const auto outcome = static_cast<uint8_t>(i);
      if (record.outcome == TraceRecord::kNoOutcome)
        record.outcome = outcome;
      else
        record.second_outcome = outcome;
    }
    if (record.second_outcome == static_cast<uint8_t>(Outcome::k_hairpinned))
      std::swap(record.outcome, record.second_outcome);
  }
  [[nodiscard]] bool touches(const TransportAddress& wanted, const TraceRecord& record,
                             const TxBurst& tx) const {
    if (!given(wanted) || same(wanted, record.from)) return true;
    return std::any_of(tx.items.begin(), tx.items.begin() + tx.count,
                       [&](const TxDatagram& t) { return same(wanted, t.to); });
  }
  [[nodiscard]] bool matches(const TraceRecord& record, const TxBurst& tx) const {
    if (question_.outcome != Trace::kAnyOutcome && question_.outcome != record.outcome &&
        question_.outcome != record.second_outcome)
      return false;
    const uint16_t port = question_.relay_port;
    const bool on_port = port == 0 || record.to.port == port ||
                         std::any_of(tx.items.begin(), tx.items.begin() + tx.count,
                                     [&](const TxDatagram& t) { return t.from_port == port; });
    return on_port && touches(question_.client, record, tx) && touches(question_.peer, record, tx);
  }
  void sent(const Snapshot& snapshot, const TxDatagram& tx, uint32_t number, uint64_t unix_ns) {
    TraceRecord record;
    record.kind = TraceKind::kSent;
    record.number = number;
    record.unix_ns = unix_ns;
    record.from = {snapshot.addresses[tx.from_address].bound, tx.from_port};
    record.to = tx.to;
    record.length = static_cast<uint16_t>(tx.size());
    record.ttl = tx.ttl;
    record.tos = tx.tos;
    write(record, {tx.head.data(), tx.head_length}, {tx.payload, tx.length});
  }
  // `head`, then `body`: the UDP payload (a sent one's padding of at most three zeros is left out).
  void write(TraceRecord& record, std::span<const uint8_t> head, std::span<const uint8_t> body) {
    const size_t wanted = wanted_bytes(head.empty() ? body : head);
    const std::span<const uint8_t> first = head.first(std::min(wanted, head.size()));
    const std::span<const uint8_t> second =
        body.first(std::min(wanted - first.size(), body.size()));
    record.captured = static_cast<uint16_t>(first.size() + second.size());
    record.header.type = TraceRecord::kType;
    if (!ring_write(ring_, record, first, second)) stats_.trace_lost.add(1);
  }
  [[nodiscard]] size_t wanted_bytes(std::span<const uint8_t> begin) const {
    if (question_.bytes == TraceBytes::kPayload) return kMaxTraceBytes;
    if (question_.bytes == TraceBytes::kNone || begin.empty()) return 0;
    if (begin[0] < 4) return 20;                          // STUN: RFC 8489 section 5
    return begin[0] >= 0x40 && begin[0] <= 0x4f ? 4 : 0;  // ChannelData: RFC 8656 section 12.4
  }

  SpscRing& ring_;
  CoreStats& stats_;
  Trace question_;
  uint32_t left_ = 0;
  uint32_t number_ = 0;
  Ticks end_ = 0;
  std::array<uint64_t, kOutcomes> outcomes_before_{};
};

}  // namespace culvert
