// Everything one fast core owns: allocations, permissions, channel flows, relayed ports, policers,
// timers, reply budget. No other thread reads or writes it. All memory is carved from one Arena at
// start.
//
// The methods here change state at the word of a command or a timer; the packet path
// (dataplane/path) reads it and writes only counters and token buckets. All deadlines are checked
// against `now` at every use, so an entry is dead at its instant whether or not the wheel has swept
// it yet.
#pragma once

#include <cstdint>
#include <span>

#include "dataplane/api/messages.h"
#include "dataplane/api/snapshot.h"
#include "dataplane/api/stats.h"
#include "dataplane/flow/entry.h"
#include "dataplane/flow/reply_budget.h"
#include "dataplane/flow/wheel.h"

namespace culvert {

// Sizes of one core's tables; derived from configuration (config/derive).
struct CoreLimits {
  uint32_t allocations = 1024;
  uint32_t permissions = 4096;
  uint32_t narrow_channels = 4096;  // IPv4 client and peer
  uint32_t wide_channels = 0;       // any IPv6 side
  uint32_t policers = 1;            // 0 is the unlimited one
  bool count_policers =
      false;  // keep policer_bytes: needed where control splits a rate among cores
  uint16_t relay_port_low = 49152;
  uint16_t relay_port_high = 65535;
  uint16_t addresses = 1;  // Snapshot::addresses
};

struct CoreSeeds {
  HashSeed hash;
  uint64_t transaction[2] = {1, 2};  // for transaction ids of Data indications
};

class FlowState {
 public:
  // Bytes reserved for allocations, permissions, channels, keys and timers (the memory benchmark's
  // figure).
  [[nodiscard]] static size_t table_bytes(const CoreLimits& limits);
  [[nodiscard]] static size_t arena_bytes(const CoreLimits& limits);

  FlowState(Arena& arena, const CoreLimits& limits, const CoreSeeds& seeds, Ticks now);
  FlowState(const FlowState&) = delete;
  FlowState& operator=(const FlowState&) = delete;

  // ---- allocations
  [[nodiscard]] Allocation* find(AllocationHandle handle);
  [[nodiscard]] uint32_t find_client(const ClientTuple& client) const;  // index or kNoSlot
  // The caller has opened the ports; `egress` per leg. False: the 5-tuple is taken or the table is
  // full.
  [[nodiscard]] bool install(const InstallAllocation& command, const Egress (&egress)[2],
                             Egress client_egress, Ticks now);
  void refresh(Allocation& allocation, uint8_t legs, Ticks deadline);
  // The allocation's data counts in this policer from now on.
  void set_policer(Allocation& allocation, uint32_t policer);
  // Takes the named legs down with their permissions and channels. Returns the legs that ended.
  uint8_t remove_legs(uint32_t index, uint8_t legs);
  // After the last leg: forgets the 5-tuple; the index may be reused.
  void forget(uint32_t index);

  // ---- permissions and channels
  [[nodiscard]] uint32_t find_permission(uint32_t allocation, const IpAddress& peer) const;
  // Creates or refreshes; kTableFull changes nothing.
  [[nodiscard]] ApplyError permit(uint32_t allocation, std::span<const PermissionPeer> peers,
                                  Ticks deadline);
  [[nodiscard]] ApplyError bind_channel(uint32_t allocation, const BindChannel& command, Ticks now);

  // ---- ports
  [[nodiscard]] PortEntry* port(RelayLeg leg);
  [[nodiscard]] const PortEntry* port(RelayLeg leg) const {
    return const_cast<FlowState*>(this)->port(leg);
  }
  [[nodiscard]] bool in_relay_range(uint16_t port) const {
    return port >= limits_.relay_port_low && port <= limits_.relay_port_high;
  }

  // Sweeps what has died and arms the allocation's timer for what dies next. Returns the legs that
  // have ended (still present: the caller takes them down with remove_legs when it can report it).
  [[nodiscard]] uint8_t sweep(uint32_t index, Ticks now);

  [[nodiscard]] AllocationCounters counters(uint32_t index) const;

  // ---- read by the path
  SwissTable<NarrowFlow> narrow;
  SwissTable<WideFlow> wide;
  SwissTable<Permission, 15> permission_table;
  SwissTable<uint32_t, 15> clients;  // index by 5-tuple
  SwissTable<Redirect> redirects;
  std::span<Allocation> allocations;
  Policer whole;  // of all users of this core together (limits.total_bandwidth)
  std::span<Policer> policers;
  std::span<Counter>
      policer_bytes;  // offered to each policer; empty unless CoreLimits::count_policers
  TimerWheel wheel;
  ReplyBudgetBuckets budget;
  HashSeed seed;
  uint64_t transaction_state[2];
  uint32_t live_allocations = 0;
  uint32_t open_ports = 0;

  // May `bytes` of this user's data pass now? policer_bytes[0] counts what `whole` was asked for.
  [[nodiscard]] bool admit(uint32_t policer, uint32_t bytes, Ticks now) {
    if (policer != 0 && !policer_bytes.empty()) policer_bytes[policer].add(bytes);
    if (!policers[policer].admit(bytes, now)) return false;
    // The user's bucket first: what it refuses must not use up everyone's.
    if (whole.rate_bytes_per_second == 0) [[likely]]
      return true;
    if (!policer_bytes.empty()) policer_bytes[0].add(bytes);
    return whole.admit(bytes, now);
  }

  [[nodiscard]] uint64_t client_hash(const ClientTuple& client) const {
    // By words: a key put together from bytes would stall the loads of the hash.
    const TransportAddress& from = client.client;
    const uint64_t rest = uint64_t{from.port} | uint64_t{client.listener} << 16 |
                          uint64_t{static_cast<uint8_t>(from.ip.family)} << 32;
    uint64_t w[2];
    std::memcpy(w, from.ip.bytes.data(), sizeof w);
    return hash_fold(hash_fold(w[0] ^ seed.a, w[1] ^ seed.b) ^ rest, seed.a);
  }
  [[nodiscard]] uint64_t permission_hash(uint32_t allocation,
                                         const std::array<uint8_t, 16>& peer) const {
    uint64_t w[2];
    std::memcpy(w, peer.data(), sizeof w);
    return hash_fold(hash_fold(w[0] ^ seed.a, w[1] ^ seed.b) ^ allocation, seed.a);
  }

  [[nodiscard]] static bool is_permission(const Permission& p, uint32_t allocation,
                                          const IpAddress& peer) {
    return p.allocation == allocation && same_bytes(p.peer, peer.bytes);
  }

  static constexpr uint32_t kOwnAddress = 0x80000000;  // in Permission::next
  static constexpr uint32_t kLinkMask = 0x7fffffff;

  [[nodiscard]] bool is_own_address(const Permission& p) const {
    return (p.next & kOwnAddress) != 0;
  }
  [[nodiscard]] const CoreLimits& limits() const { return limits_; }

  // Redirects (control -> here).
  [[nodiscard]] bool add_redirect(const ClientTuple& client, CoreId owner);
  void remove_redirect(const ClientTuple& client);
  [[nodiscard]] uint32_t find_redirect(const ClientTuple& client) const;

 private:
  template <class Flow>
  [[nodiscard]] SwissTable<Flow>& table();
  template <class Flow>
  [[nodiscard]] const SwissTable<Flow>& table() const;

  [[nodiscard]] static uint32_t next_of(const Permission& p) {
    return (p.next & kLinkMask) == kLinkMask ? kNoSlot : (p.next & kLinkMask);
  }
  static void set_next(Permission& p, uint32_t slot) {
    p.next = (p.next & kOwnAddress) | (slot & kLinkMask);
  }
  [[nodiscard]] Ticks leg_deadline(const Allocation& a, const Permission& p) const;
  [[nodiscard]] bool is_wide(const Allocation& a, const Permission& p) const;

  template <class Flow>
  [[nodiscard]] ApplyError bind_in(uint32_t index, bool room, const BindChannel& command,
                                   Ticks now);
  template <class Flow>
  void update_channels(Allocation& a, Permission& p);
  template <class Flow>
  void set_policer_of_channels(const Permission& p, uint32_t policer);
  template <class Flow>
  void drop_dead_channels(Allocation& a, Permission& p, Ticks now, Ticks& earliest);
  template <class Flow>
  void erase_channel(Allocation& a, uint32_t client_slot);
  template <class Flow>
  void fold(Allocation& a, Flow& from_client, Flow& from_peer);
  template <class Flow>
  void add_counters(const Permission& p, AllocationCounters& sum) const;

  template <class Flow>
  void unbind_if_dead(uint32_t index, uint32_t client_slot, Ticks now);
  // ApplyError::kChannelConflict when `channel` is bound to another peer than `peer` in this table.
  template <class Flow>
  [[nodiscard]] ApplyError check_channel_free(uint32_t index, uint16_t channel,
                                              const TransportAddress* peer, Ticks now);

  void erase_permission(uint32_t index, uint32_t slot);
  void update_permission(Allocation& a, Permission& p);

  CoreLimits limits_;
  std::span<PortEntry> ports_;
  uint32_t port_span_ = 0;
};

}  // namespace culvert
