// A fast core: its loop and what commands do to it. A template on the driver, instantiated once per
// driver, so that no call per packet is virtual.
//
//   run_once: commands, receive, process, send, hand-off rings, timers.
//
// Owns the core's memory (one Arena, sealed after construction) and is used by one thread. Nothing
// here allocates after construction, blocks (but in wait()), logs or reads a clock other than the
// driver's.
#pragma once

#include <bit>
#include <type_traits>

#include "dataplane/base/arena.h"
#include "dataplane/base/cycles.h"
#include "dataplane/core/explain.h"
#include "dataplane/core/mailbox.h"
#include "dataplane/core/tracer.h"
#include "dataplane/io/driver.h"
#include "dataplane/path/process.h"

namespace culvert {

template <Driver D>
class Worker {
 public:
  // The longest a worker sleeps while nothing happens: how late an expiry may be reported when
  // idle.
  static constexpr uint32_t kIdleWaitUs = 20'000;

  Worker(D& driver, Switchboard& board, CoreId id, const CoreLimits& limits, const CoreSeeds& seeds,
         CoreStats& stats)
      : driver_(driver),
        board_(board),
        mailbox_(*board.cores[id]),
        arena_(CoreState::arena_bytes(limits)),
        core_(arena_, limits, seeds, id, stats, driver.now()),
        tracer_(mailbox_.trace, stats) {
    const Snapshot& snapshot = *board.snapshot.load(std::memory_order_acquire);
    for (uint16_t i = 0; i < snapshot.listeners.size(); ++i)
      core_.listener_egress[i] = driver.listener_egress(i);
    core_.events = &mailbox_.events;
    for (CoreId other = 0; other < board.count; ++other)
      core_.handoff[other] = board.handoff[id][other];
    arena_.seal();
  }

  // One turn of the loop. Returns the datagrams and commands handled: 0 means it was idle.
  uint32_t run_once() {
    count_turn();
    const Ticks now = driver_.now();
    const Snapshot& snapshot = *board_.snapshot.load(std::memory_order_acquire);
    core_.stats.seen_version.store(snapshot.version, std::memory_order_release);
    core_.stats.loops.add(1);

    uint32_t done = apply_commands(snapshot, now);
    const uint32_t received = driver_.rx_burst(rx_);
    if (received != 0) run_path(snapshot, now, {rx_.data(), received});
    done += received + take_handoffs(snapshot, now);
    core_.flows.wheel.advance(now, [&](uint32_t index) { expire(index, now); });
    ring_bells();
    was_busy_ = done != 0;
    if (done == 0)
      core_.stats.idle_loops.add(1);
    else
      publish_gauges();
    return done;
  }

  // Until board.stop. Sleeps as soon as a turn found nothing to do: a kernel-socket core that
  // polled would burn the CPU its peers need.
  void run() {
    while (!board_.stop.load(std::memory_order_relaxed)) {
      if (run_once() != 0) continue;
      mailbox_.bell.arm();
      if (nothing_waiting()) {
        publish_gauges();
        const uint64_t before = read_cycles();
        if (sleep()) {
          core_.stats.sleeps.add(1);
          core_.stats.sleep_cycles.add(read_cycles() - before);
        }
      }
      mailbox_.bell.disarm();
    }
  }

  // `taken`: bytes that the calling thread has taken from the heap so far, counted by the allocator
  // (jemalloc's thread.allocatedp); nullptr: it does not count.
  void watch_heap(const uint64_t* taken) {
    heap_taken_ = taken;
    heap_at_start_ = taken == nullptr ? 0 : *taken;
  }

  [[nodiscard]] CoreState& core() { return core_; }
  [[nodiscard]] size_t arena_used() const { return arena_.used(); }

 private:
  // The end of a busy turn is the start of the next one: one read of the counter for each burst.
  void count_turn() {
    const uint64_t at = read_cycles();
    if (was_busy_) core_.stats.busy_cycles.add(at - turn_began_);
    turn_began_ = at;
  }

  // A driver that polls says whether it slept at all; the others always do.
  bool sleep() {
    if constexpr (std::is_same_v<decltype(driver_.wait(kIdleWaitUs)), bool>) {
      return driver_.wait(kIdleWaitUs);
    } else {
      driver_.wait(kIdleWaitUs);
      return true;
    }
  }

  // ---------------------------------------------------------------- the path

  void run_path(const Snapshot& snapshot, Ticks now, std::span<const RxDatagram> in) {
    if (tracer_.on()) [[unlikely]]
      return trace_path(snapshot, now, in);
    process(core_, snapshot, now, in, tx_);
    flush();
  }

  // One by one, so that what happened can be told for each.
  void trace_path(const Snapshot& snapshot, Ticks now, std::span<const RxDatagram> in) {
    for (size_t i = 0; i < in.size(); ++i) {
      const bool traced = tracer_.goes_on(now);
      if (traced) tracer_.before();
      process(core_, snapshot, now, in.subspan(i, 1), tx_);
      if (traced) tracer_.after(snapshot, in[i], tx_);
      flush();
    }
  }

  // ---------------------------------------------------------------- sending

  void flush() {
    if (tx_.count + tx_.expired_count == 0) return;
    const uint32_t failed = driver_.tx_burst(tx_);
    core_.stats.sent_packets.add(tx_.count - failed);
    if (failed != 0) core_.stats.send_failed.add(failed);
    tx_.count = tx_.expired_count = 0;
  }

  // A response from control, sent only now that its command is true.
  void reply(const Snapshot& snapshot, const ClientTuple& client, std::span<const uint8_t> bytes) {
    if (bytes.empty()) return;
    const Listener& listener = snapshot.listeners[client.listener];
    TxDatagram& tx = tx_.items[tx_.count++];
    tx.payload = bytes.data();
    tx.length = static_cast<uint16_t>(bytes.size());
    tx.head_length = tx.pad_length = 0;
    tx.egress = core_.listener_egress[client.listener];
    tx.to = client.client;
    tx.from_address = listener.address;
    tx.from_port = listener.port;
    tx.ttl = 64;
    tx.tos = 0;
    tx.dont_fragment = false;
    core_.stats.sent_bytes.add(bytes.size());
  }

  // ---------------------------------------------------------------- commands

  uint32_t apply_commands(const Snapshot& snapshot, Ticks now) {
    uint32_t applied = 0;
    while (applied < kMaxCommandsPerLoop) {
      const RingSlot* at = mailbox_.commands.front();
      if (at == nullptr) break;
      const MessageView view(at);
      // Applied only when control can be told that it failed: what control holds for it (ports, a
      // place in quotas) is given back by that event alone. It is never longer than the command.
      if (!mailbox_.events.can_reserve(view.slots())) break;
      (void)mailbox_.commands.read();
      apply(snapshot, view, now);
      core_.stats.applied_sequence.set(view.as<CommandHead>().sequence);
      ++applied;
    }
    if (applied == 0) return 0;
    if (tracer_.on()) [[unlikely]]
      tracer_.answered(snapshot, tx_);
    flush();  // before release(): the responses lie in the ring
    mailbox_.commands.release();
    core_.stats.commands_applied.add(applied);
    return applied;
  }

  void apply(const Snapshot& snapshot, const MessageView& view, Ticks now) {
    switch (static_cast<CommandType>(view.type())) {
      case CommandType::kInstallAllocation:
        return on(view.as<InstallAllocation>(), view, snapshot, now);
      case CommandType::kRefreshAllocation:
        return on(view.as<RefreshAllocation>(), view, snapshot, now);
      case CommandType::kRemoveAllocation:
        return on(view.as<RemoveAllocation>(), view, snapshot, now);
      case CommandType::kCreatePermission:
        return on(view.as<CreatePermission>(), view, snapshot, now);
      case CommandType::kBindChannel:
        return on(view.as<BindChannel>(), view, snapshot, now);
      case CommandType::kSendReply:
        return reply(snapshot, view.as<SendReply>().client, view.payload());
      case CommandType::kClosePort:
        return on(view.as<ClosePort>());
      case CommandType::kInstallRedirect: {
        const auto command = view.as<InstallRedirect>();
        if (!core_.flows.add_redirect(command.client, command.owner))
          fail(view, {}, command.client, ApplyError::kTableFull, now);
        return;
      }
      case CommandType::kRemoveRedirect:
        return core_.flows.remove_redirect(view.as<RemoveRedirect>().client);
      case CommandType::kSetPolicer:
        return on(view.as<SetPolicer>(), now);
      case CommandType::kJoinPolicer: {
        const auto command = view.as<JoinPolicer>();
        if (Allocation* a = live(command.handle, now)) core_.flows.set_policer(*a, command.policer);
        return;
      }
      case CommandType::kQueryAllocation:
        return on(view.as<QueryAllocation>(), now);
      case CommandType::kTrace:
        return tracer_.start(view.as<Trace>(), now);
      case CommandType::kExplain: {
        const auto question = view.as<Explain>();
        ExplainReport report = explain(core_, snapshot, question, now);
        report.cookie = question.cookie;
        return send_event(report, now);
      }
    }
  }

  void fail(const MessageView& view, AllocationHandle handle, const ClientTuple& client,
            ApplyError error, Ticks now, uint8_t failed_legs = 0,
            std::span<const uint8_t> response = {}) {
    core_.stats.commands_failed.add(1);
    CommandFailed event;
    event.cookie = view.as<CommandHead>().cookie;
    event.command = static_cast<CommandType>(view.type());
    event.error = error;
    event.failed_legs = failed_legs;
    event.handle = handle;
    event.client = client;
    event.at = now;
    core_.wake_control = true;
    // apply_commands() has looked for room.
    if (!ring_write(mailbox_.events, event, response)) core_.stats.events_dropped.add(1);
  }

  template <class Event>
  void send_event(Event event, Ticks now) {
    event.at = now;
    core_.wake_control = true;
    if (!ring_write(mailbox_.events, event)) core_.stats.events_dropped.add(1);
  }

  // The allocation, if it is there and has a leg that has not reached its end.
  [[nodiscard]] Allocation* live(AllocationHandle handle, Ticks now) {
    Allocation* a = core_.flows.find(handle);
    if (a == nullptr) return nullptr;
    for (const AllocationLeg& leg : a->leg)
      if (leg.relay.present() && !ticks_reached(now, leg.deadline)) return a;
    return nullptr;
  }

  void on(const InstallAllocation& command, const MessageView& view, const Snapshot& snapshot,
          Ticks now) {
    const RelayLeg legs[2] = {command.ipv4, command.ipv6};
    Egress egress[2] = {kNoEgress, kNoEgress};
    uint8_t failed = 0;
    for (size_t i = 0; i < 2; ++i) {
      if (!legs[i].present()) continue;
      egress[i] = open_leg(command, legs[i]);
      if (egress[i] == kNoEgress) failed |= static_cast<uint8_t>(1u << i);
    }
    const bool installed =
        failed == 0 &&
        core_.flows.install(command, egress, core_.listener_egress[command.client.listener], now);
    if (installed) return reply(snapshot, command.client, view.payload());

    for (size_t i = 0; i < 2; ++i)
      if (egress[i] != kNoEgress) close_leg(command, legs[i]);
    fail(view, command.handle, command.client,
         failed != 0 ? ApplyError::kPortInUse : ApplyError::kTableFull, now, failed,
         view.payload());
  }

  // Opens the port (and, for EVEN-PORT with R set, its neighbour) or takes over a held one.
  [[nodiscard]] Egress open_leg(const InstallAllocation& command, RelayLeg leg) {
    PortEntry* entry = core_.flows.port(leg);
    if (entry == nullptr) return kNoEgress;
    if (command.port_already_open != 0)
      return entry->allocation == PortEntry::kHeld ? entry->egress : kNoEgress;
    if (entry->allocation != PortEntry::kFree) return kNoEgress;
    const Egress egress = driver_.open_relay_port(leg);
    if (egress == kNoEgress || command.reserve_next == 0) return count_open(egress);

    const RelayLeg next{leg.address, static_cast<uint16_t>(leg.port + 1)};
    PortEntry* held = core_.flows.port(next);
    Egress next_egress = kNoEgress;
    if (held != nullptr && held->allocation == PortEntry::kFree)
      next_egress = driver_.open_relay_port(next);
    if (next_egress == kNoEgress) {
      driver_.close_relay_port(leg);
      return kNoEgress;
    }
    *held = {PortEntry::kHeld, next_egress};
    (void)count_open(next_egress);
    return count_open(egress);
  }
  [[nodiscard]] Egress count_open(Egress egress) {
    if (egress != kNoEgress) ++core_.flows.open_ports;
    return egress;
  }
  // Undoes open_leg after the install was refused; a held reservation stays held.
  void close_leg(const InstallAllocation& command, RelayLeg leg) {
    if (command.port_already_open != 0) return;
    close_port(leg);
    if (command.reserve_next != 0)
      close_port(RelayLeg{leg.address, static_cast<uint16_t>(leg.port + 1)});
  }
  void close_port(RelayLeg leg) {
    if (PortEntry* entry = core_.flows.port(leg)) *entry = {};
    driver_.close_relay_port(leg);
    --core_.flows.open_ports;
  }

  void on(const RefreshAllocation& command, const MessageView& view, const Snapshot& snapshot,
          Ticks now) {
    Allocation* a = live(command.handle, now);
    if (a == nullptr)
      return fail(view, command.handle, {}, ApplyError::kNoSuchAllocation, now, 0, view.payload());
    core_.flows.refresh(*a, command.legs, now + command.lifetime_ms);
    reply(snapshot, a->client, view.payload());
  }

  void on(const RemoveAllocation& command, const MessageView& view, const Snapshot& snapshot,
          Ticks now) {
    Allocation* a = live(command.handle, now);
    if (a == nullptr)
      return fail(view, command.handle, {}, ApplyError::kNoSuchAllocation, now, 0, view.payload());
    const ClientTuple client = a->client;
    end_legs(command.handle.index, command.legs, command.reason, now);
    reply(snapshot, client, view.payload());
  }

  void on(const CreatePermission& command, const MessageView& view, const Snapshot& snapshot,
          Ticks now) {
    const size_t list = command.peer_count * sizeof(PermissionPeer);
    if (command.peer_count > kMaxPermissionPeers || list > view.payload().size()) return;
    const auto response = view.payload().subspan(list);
    Allocation* a = live(command.handle, now);
    if (a == nullptr)
      return fail(view, command.handle, {}, ApplyError::kNoSuchAllocation, now, 0, response);
    std::array<PermissionPeer, kMaxPermissionPeers> peers;
    std::memcpy(static_cast<void*>(peers.data()), view.payload().data(), list);
    const ApplyError error = core_.flows.permit(
        command.handle.index, {peers.data(), command.peer_count}, now + command.lifetime_ms);
    if (error != ApplyError::kNone)
      return fail(view, command.handle, a->client, error, now, 0, response);
    reply(snapshot, a->client, response);
  }

  void on(const BindChannel& command, const MessageView& view, const Snapshot& snapshot,
          Ticks now) {
    Allocation* a = live(command.handle, now);
    if (a == nullptr)
      return fail(view, command.handle, {}, ApplyError::kNoSuchAllocation, now, 0, view.payload());
    const ApplyError error = core_.flows.bind_channel(command.handle.index, command, now);
    if (error != ApplyError::kNone)
      return fail(view, command.handle, a->client, error, now, 0, view.payload());
    reply(snapshot, a->client, view.payload());
  }

  void on(const ClosePort& command) {
    PortEntry* entry = core_.flows.port(command.leg);
    if (entry == nullptr || entry->allocation != PortEntry::kHeld) return;
    close_port(command.leg);
  }

  void on(const SetPolicer& command, Ticks now) {
    if (command.policer >= core_.flows.policers.size()) return;
    Policer& policer =
        command.policer == 0 ? core_.flows.whole : core_.flows.policers[command.policer];
    if (policer.rate_bytes_per_second == 0) {
      policer.tokens_bytes = static_cast<int64_t>(command.burst_bytes);
      policer.last = now;
    }
    policer.rate_bytes_per_second = command.rate_bytes_per_second;
    policer.burst_bytes = static_cast<int64_t>(command.burst_bytes);
  }

  void on(const QueryAllocation& command, Ticks now) {
    AllocationReport report;
    report.cookie = command.cookie;
    report.handle = command.handle;
    if (const Allocation* a = live(command.handle, now)) {
      report.live = 1;
      report.counters = core_.flows.counters(command.handle.index);
      report.permissions = a->permission_count;
      report.channels = a->channel_count;
      for (const AllocationLeg& leg : a->leg)
        if (leg.relay.present() && !ticks_reached(now, leg.deadline))
          report.remaining_ms = std::max(report.remaining_ms, leg.deadline - now);
    }
    send_event(report, now);
  }

  // ---------------------------------------------------------------- the end of allocations

  void expire(uint32_t index, Ticks now) {
    const uint8_t ended = core_.flows.sweep(index, now);
    if (ended != 0) end_legs(index, ended, end_reason(index), now);
  }

  [[nodiscard]] EndReason end_reason(uint32_t index) const {
    return static_cast<EndReason>(core_.flows.allocations[index].end_reason);
  }

  // The report goes first: when its ring is full nothing is taken down yet and the wheel comes
  // again, so control never misses an end (the path already treats the legs as dead).
  void end_legs(uint32_t index, uint8_t legs, EndReason reason, Ticks now) {
    FlowState& flows = core_.flows;
    Allocation& a = flows.allocations[index];
    uint8_t present = 0;
    for (size_t i = 0; i < 2; ++i)
      if (a.leg[i].relay.present()) present |= static_cast<uint8_t>(1u << i);
    AllocationEnded event;
    event.cookie = a.cookie;
    event.handle = {index, a.generation};
    event.counters = flows.counters(index);
    event.reason = reason;
    event.legs = legs & present;
    event.legs_left = static_cast<uint8_t>(present & ~legs);
    event.at = now;
    core_.wake_control = true;
    if (!ring_write(mailbox_.events, event)) {
      a.end_reason = static_cast<uint8_t>(reason);
      for (size_t i = 0; i < 2; ++i)
        if ((legs >> i & 1) != 0) a.leg[i].deadline = now;
      flows.refresh(a, 0, now);  // flows follow their leg's deadline
      flows.wheel.arm(index, now + TimerWheel::kTickMs);
      return;
    }
    for (size_t i = 0; i < 2; ++i)
      if ((event.legs >> i & 1) != 0) close_port(a.leg[i].relay);
    flows.remove_legs(index, legs);
    if (event.legs_left == 0) flows.forget(index);
  }

  // ---------------------------------------------------------------- other cores

  uint32_t take_handoffs(const Snapshot& snapshot, Ticks now) {
    uint32_t total = 0;
    for (CoreId from = 0; from < board_.count; ++from) {
      SpscRing* ring = board_.handoff[from][core_.id];
      if (ring == nullptr) continue;
      uint32_t count = 0;
      while (count < kMaxBurst) {
        const RingSlot* at = ring->read();
        if (at == nullptr) break;
        const MessageView view(at);
        rx_[count] = view.as<Handoff>().datagram;
        rx_[count].payload = view.payload().data();
        ++count;
      }
      if (count == 0) continue;
      // A driver that writes checksums itself wants to know the payloads' sums.
      const std::span<const RxDatagram> taken{rx_.data(), count};
      if constexpr (requires { driver_.handed_in(taken); }) driver_.handed_in(taken);
      run_path(snapshot, now, taken);
      ring->release();
      total += count;
    }
    return total;
  }

  void ring_bells() {
    if (core_.wake_control) {
      core_.wake_control = false;
      board_.ring_control();
    }
    while (core_.wake_cores != 0) {
      board_.ring_core(static_cast<CoreId>(std::countr_zero(core_.wake_cores)));
      core_.wake_cores &= core_.wake_cores - 1;
    }
  }

  [[nodiscard]] bool nothing_waiting() const {
    if (!mailbox_.commands.empty() || board_.stop.load(std::memory_order_relaxed)) return false;
    for (CoreId from = 0; from < board_.count; ++from) {
      const SpscRing* ring = board_.handoff[from][core_.id];
      if (ring != nullptr && !ring->empty()) return false;
    }
    return true;
  }

  void publish_gauges() {
    const FlowState& flows = core_.flows;
    core_.stats.allocations.set(flows.live_allocations);
    core_.stats.permissions.set(flows.permission_table.size());
    core_.stats.channels.set((flows.narrow.size() + flows.wide.size()) / 2);
    core_.stats.open_ports.set(flows.open_ports);
    if (heap_taken_ != nullptr) core_.stats.heap_bytes.set(*heap_taken_ - heap_at_start_);
  }

  D& driver_;
  Switchboard& board_;
  CoreMailbox& mailbox_;
  Arena arena_;
  CoreState core_;
  Tracer tracer_;
  uint64_t turn_began_ = 0;
  bool was_busy_ = false;
  const uint64_t* heap_taken_ = nullptr;
  uint64_t heap_at_start_ = 0;
  std::array<RxDatagram, kMaxBurst> rx_;
  TxBurst tx_;
};

}  // namespace culvert
