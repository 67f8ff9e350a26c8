#include "dataplane/flow/state.h"

#include <algorithm>

#include "dataplane/flow/key.h"

namespace culvert {

namespace {

[[nodiscard]] bool is_v4_mapped(const std::array<uint8_t, 16>& a) {
  static constexpr uint8_t kPrefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  return std::memcmp(a.data(), kPrefix, sizeof kPrefix) == 0;
}

}  // namespace

// ------------------------------------------------------------------ memory

size_t FlowState::table_bytes(const CoreLimits& l) {
  const size_t wide = l.wide_channels == 0 ? 1 : size_t{l.wide_channels};
  return SwissTable<NarrowFlow>::bytes_for(size_t{l.narrow_channels} * 2) +
         SwissTable<WideFlow>::bytes_for(wide * 2) +
         decltype(permission_table)::bytes_for(l.permissions) +
         decltype(clients)::bytes_for(l.allocations) + size_t{l.allocations} * sizeof(Allocation) +
         TimerWheel::bytes_for(l.allocations);
}

size_t FlowState::arena_bytes(const CoreLimits& l) {
  const size_t span = size_t{l.relay_port_high} - l.relay_port_low + 1;
  constexpr size_t kSlack = 64 * 1024;  // alignment of a dozen pieces
  return table_bytes(l) + SwissTable<Redirect>::bytes_for(kMaxRedirects) +
         span * l.addresses * sizeof(PortEntry) +
         size_t{l.policers} * (sizeof(Policer) + sizeof(Counter)) +
         ReplyBudgetBuckets::bytes_for() + kSlack;
}

FlowState::FlowState(Arena& arena, const CoreLimits& limits, const CoreSeeds& seeds, Ticks now)
    : seed(seeds.hash),
      transaction_state{seeds.transaction[0] | 1, seeds.transaction[1]},
      limits_(limits) {
  narrow.init(arena, size_t{limits.narrow_channels} * 2);
  wide.init(arena, size_t{std::max<uint32_t>(limits.wide_channels, 1)} * 2);
  permission_table.init(arena, limits.permissions);
  clients.init(arena, limits.allocations);
  redirects.init(arena, kMaxRedirects);
  allocations = arena.make<Allocation>(limits.allocations);
  wheel.init(arena, limits.allocations, now);
  port_span_ = uint32_t{limits.relay_port_high} - limits.relay_port_low + 1;
  ports_ = arena.make<PortEntry>(size_t{port_span_} * limits.addresses);
  policers = arena.make<Policer>(std::max<uint32_t>(limits.policers, 1));
  if (limits.count_policers) policer_bytes = arena.make<Counter>(policers.size());
  budget.init(arena, HashSeed{seeds.hash.b, seeds.hash.a});
}

template <>
SwissTable<NarrowFlow>& FlowState::table<NarrowFlow>() {
  return narrow;
}
template <>
SwissTable<WideFlow>& FlowState::table<WideFlow>() {
  return wide;
}
template <>
const SwissTable<NarrowFlow>& FlowState::table<NarrowFlow>() const {
  return narrow;
}
template <>
const SwissTable<WideFlow>& FlowState::table<WideFlow>() const {
  return wide;
}

// ------------------------------------------------------------------ clients and allocations

uint32_t FlowState::find_client(const ClientTuple& client) const {
  const uint32_t slot = clients.find(
      client_hash(client), [&](uint32_t index) { return allocations[index].client == client; });
  return slot == kNoSlot ? kNoSlot : clients[slot];
}

Allocation* FlowState::find(AllocationHandle handle) {
  if (handle.index >= allocations.size()) return nullptr;
  Allocation& a = allocations[handle.index];
  return a.live != 0 && a.generation == handle.generation ? &a : nullptr;
}

bool FlowState::install(const InstallAllocation& command, const Egress (&egress)[2],
                        Egress client_egress, Ticks now) {
  const uint32_t index = command.handle.index;
  if (index >= allocations.size() || allocations[index].live != 0) return false;
  if (find_client(command.client) != kNoSlot) return false;
  const uint32_t slot = clients.insert(client_hash(command.client));
  if (slot == kNoSlot) return false;
  clients[slot] = index;

  Allocation& a = allocations[index];
  a = Allocation{};
  a.client = command.client;
  a.generation = command.handle.generation;
  a.cookie = command.cookie;
  a.client_egress = client_egress;
  a.policer = command.policer < policers.size() ? command.policer : 0;
  a.live = 1;
  const Ticks deadline = now + command.lifetime_ms;
  const RelayLeg relay[2] = {command.ipv4, command.ipv6};
  for (size_t i = 0; i < 2; ++i) {
    a.leg[i] = {relay[i], egress[i], deadline};
    if (PortEntry* entry = port(relay[i])) *entry = {index, egress[i]};
  }
  wheel.arm(index, deadline);
  ++live_allocations;
  return true;
}

void FlowState::refresh(Allocation& a, uint8_t legs, Ticks deadline) {
  const auto index = static_cast<uint32_t>(&a - allocations.data());
  for (size_t i = 0; i < 2; ++i)
    if ((legs >> i & 1) != 0 && a.leg[i].relay.present()) a.leg[i].deadline = deadline;
  for (uint32_t slot = a.permissions; slot != kNoSlot; slot = next_of(permission_table[slot]))
    update_permission(a, permission_table[slot]);
  wheel.arm_earlier(index, deadline);
}

void FlowState::set_policer(Allocation& a, uint32_t policer) {
  if (policer >= policers.size()) return;
  a.policer = policer;
  for (uint32_t slot = a.permissions; slot != kNoSlot; slot = next_of(permission_table[slot])) {
    const Permission& p = permission_table[slot];
    if (is_wide(a, p))
      set_policer_of_channels<WideFlow>(p, policer);
    else
      set_policer_of_channels<NarrowFlow>(p, policer);
  }
}

uint8_t FlowState::remove_legs(uint32_t index, uint8_t legs) {
  Allocation& a = allocations[index];
  uint8_t ended = 0;
  for (size_t i = 0; i < 2; ++i)
    if ((legs >> i & 1) != 0 && a.leg[i].relay.present()) ended |= static_cast<uint8_t>(1u << i);

  for (uint32_t slot = a.permissions; slot != kNoSlot;) {
    const uint32_t next = next_of(permission_table[slot]);
    const bool ipv4 = is_v4_mapped(permission_table[slot].peer);
    if ((ended & (ipv4 ? kLegIpv4 : kLegIpv6)) != 0) erase_permission(index, slot);
    slot = next;
  }
  for (size_t i = 0; i < 2; ++i) {
    if ((ended >> i & 1) == 0) continue;
    if (PortEntry* entry = port(a.leg[i].relay)) *entry = {};
    a.leg[i].relay = RelayLeg{};
    a.leg[i].egress = kNoEgress;
  }
  return ended;
}

void FlowState::forget(uint32_t index) {
  Allocation& a = allocations[index];
  const uint64_t hash = client_hash(a.client);
  const uint32_t slot = clients.find(hash, [&](uint32_t candidate) { return candidate == index; });
  ENSURE(slot != kNoSlot);
  clients.erase(slot, hash);
  wheel.cancel(index);
  a.live = 0;
  --live_allocations;
}

PortEntry* FlowState::port(RelayLeg leg) {
  if (!leg.present() || leg.address >= limits_.addresses || !in_relay_range(leg.port))
    return nullptr;
  return &ports_[size_t{leg.address} * port_span_ + (leg.port - limits_.relay_port_low)];
}

// ------------------------------------------------------------------ permissions

uint32_t FlowState::find_permission(uint32_t allocation, const IpAddress& peer) const {
  return permission_table.find(permission_hash(allocation, peer.bytes), [&](const Permission& p) {
    return is_permission(p, allocation, peer);
  });
}

Ticks FlowState::leg_deadline(const Allocation& a, const Permission& p) const {
  return a.leg[is_v4_mapped(p.peer) ? 0 : 1].deadline;
}

bool FlowState::is_wide(const Allocation& a, const Permission& p) const {
  return a.client.client.ip.is_v6() || !is_v4_mapped(p.peer);
}

ApplyError FlowState::permit(uint32_t index, std::span<const PermissionPeer> peers,
                             Ticks deadline) {
  Allocation& a = allocations[index];
  uint32_t fresh = 0;
  for (const PermissionPeer& peer : peers) {
    if (!a.leg[leg_index(peer.ip.family)].relay.present() || peer.ip.is_v4_mapped_v6())
      return ApplyError::kFamilyMismatch;
    if (find_permission(index, peer.ip) == kNoSlot) ++fresh;
  }
  const auto fits = [&] {
    return permission_table.has_room(fresh) &&
           a.permission_count + fresh <= kMaxPermissionsPerAllocation;
  };
  if (!fits()) {
    // A peer named twice is one permission. Rarely needed, so only then looked for.
    for (size_t i = 1; i < peers.size(); ++i) {
      const auto same = [&](const PermissionPeer& p) { return p.ip == peers[i].ip; };
      const auto before = peers.first(i);
      if (std::any_of(before.begin(), before.end(), same) &&
          find_permission(index, peers[i].ip) == kNoSlot)
        --fresh;
    }
    if (!fits()) return ApplyError::kTableFull;
  }

  for (const PermissionPeer& peer : peers) {
    uint32_t slot = find_permission(index, peer.ip);
    if (slot == kNoSlot) {
      slot = permission_table.insert(permission_hash(index, peer.ip.bytes));
      ENSURE(slot != kNoSlot);
      Permission& p = permission_table[slot];
      p = Permission{};
      p.peer = peer.ip.bytes;
      p.allocation = index;
      p.next = peer.own_address != 0 ? kOwnAddress : 0;
      set_next(p, a.permissions);
      a.permissions = slot;
      ++a.permission_count;
    }
    permission_table[slot].deadline = deadline;
    update_permission(a, permission_table[slot]);
  }
  wheel.arm_earlier(index, deadline);
  return ApplyError::kNone;
}

void FlowState::update_permission(Allocation& a, Permission& p) {
  if (is_wide(a, p))
    update_channels<WideFlow>(a, p);
  else
    update_channels<NarrowFlow>(a, p);
}

// The flows' one deadline follows whichever of channel, permission and allocation ends first.
template <class Flow>
void FlowState::update_channels(Allocation& a, Permission& p) {
  SwissTable<Flow>& flows = table<Flow>();
  const Ticks bound = ticks_earlier(p.deadline, leg_deadline(a, p));
  for (uint32_t slot = p.channels; slot != kNoSlot; slot = flows[slot].link) {
    Flow& from_client = flows[slot];
    Flow& from_peer = flows[from_client.twin];
    fold(a, from_client, from_peer);
    from_client.deadline = from_peer.deadline = ticks_earlier(bound, from_peer.link);
  }
}

template <class Flow>
void FlowState::set_policer_of_channels(const Permission& p, uint32_t policer) {
  SwissTable<Flow>& flows = table<Flow>();
  for (uint32_t slot = p.channels; slot != kNoSlot; slot = flows[slot].link)
    flows[slot].policer = flows[flows[slot].twin].policer = policer;
}

void FlowState::erase_permission(uint32_t index, uint32_t slot) {
  Allocation& a = allocations[index];
  Permission& p = permission_table[slot];
  while (p.channels != kNoSlot) {
    if (is_wide(a, p))
      erase_channel<WideFlow>(a, p.channels);
    else
      erase_channel<NarrowFlow>(a, p.channels);
  }
  if (a.permissions == slot) {
    a.permissions = next_of(p);
  } else {
    uint32_t before = a.permissions;
    while (next_of(permission_table[before]) != slot)
      before = next_of(permission_table[before]);
    set_next(permission_table[before], next_of(p));
  }
  --a.permission_count;
  permission_table.erase(slot, permission_hash(index, p.peer));
}

// ------------------------------------------------------------------ channels

template <class Flow>
void FlowState::fold(Allocation& a, Flow& from_client, Flow& from_peer) {
  a.counters.packets_to_peer += from_client.packets;
  a.counters.bytes_to_peer += from_client.bytes;
  a.counters.packets_to_client += from_peer.packets;
  a.counters.bytes_to_client += from_peer.bytes;
  from_client.packets = from_peer.packets = 0;
  from_client.bytes = from_peer.bytes = 0;
}

template <class Flow>
void FlowState::erase_channel(Allocation& a, uint32_t client_slot) {
  SwissTable<Flow>& flows = table<Flow>();
  const auto index = static_cast<uint32_t>(&a - allocations.data());
  Flow& from_client = flows[client_slot];
  Flow& from_peer = flows[from_client.twin];
  fold(a, from_client, from_peer);

  // The peer as the permission knows it is the source in the other direction's key.
  const TransportAddress peer = destination(from_client);
  const uint32_t permission = find_permission(index, peer.ip);
  ENSURE(permission != kNoSlot);
  uint32_t* link = &permission_table[permission].channels;
  while (*link != client_slot)
    link = &flows[*link].link;
  *link = from_client.link;

  flows.erase(from_client.twin, hash_key(from_peer.key, seed));
  flows.erase(client_slot, hash_key(from_client.key, seed));
  --a.channel_count;
}

template <class Flow>
void FlowState::unbind_if_dead(uint32_t index, uint32_t client_slot, Ticks now) {
  SwissTable<Flow>& flows = table<Flow>();
  if (ticks_reached(now, flows[flows[client_slot].twin].link))
    erase_channel<Flow>(allocations[index], client_slot);
}

template <class Flow>
ApplyError FlowState::check_channel_free(uint32_t index, uint16_t channel,
                                         const TransportAddress* peer, Ticks now) {
  using Key = typename FlowTraits<Flow>::Key;
  SwissTable<Flow>& flows = table<Flow>();
  const Allocation& a = allocations[index];
  if (sizeof(Key) == sizeof(NarrowKey) && a.client.client.ip.is_v6()) return ApplyError::kNone;
  const Key by_channel = client_key<Key>(a.client.client, a.client.listener, channel);
  const auto find = [&](const Key& key) {
    return flows.find(hash_key(key, seed), [&](const Flow& f) { return same_key(f.key, key); });
  };
  uint32_t slot = find(by_channel);
  if (slot != kNoSlot) {
    unbind_if_dead<Flow>(index, slot, now);
    slot = find(by_channel);
  }
  if (slot != kNoSlot && (peer == nullptr || destination(flows[slot]) != *peer))
    return ApplyError::kChannelConflict;
  if (peer == nullptr) return ApplyError::kNone;

  const Key by_peer = peer_key<Key>(*peer, a.leg[leg_index(peer->ip.family)].relay);
  slot = find(by_peer);
  if (slot != kNoSlot) {
    unbind_if_dead<Flow>(index, flows[slot].twin, now);
    slot = find(by_peer);
  }
  if (slot != kNoSlot && flows[slot].channel != channel) return ApplyError::kChannelConflict;
  return ApplyError::kNone;
}

ApplyError FlowState::bind_channel(uint32_t index, const BindChannel& command, Ticks now) {
  Allocation& a = allocations[index];
  const TransportAddress& peer = command.peer;
  if (!a.leg[leg_index(peer.ip.family)].relay.present() || peer.ip.is_v4_mapped_v6())
    return ApplyError::kFamilyMismatch;
  const bool wide_flow = a.client.client.ip.is_v6() || peer.ip.is_v6();

  // The same channel number may stand in the other table, for a peer of the other family.
  ApplyError error =
      check_channel_free<NarrowFlow>(index, command.channel, wide_flow ? nullptr : &peer, now);
  if (error == ApplyError::kNone)
    error = check_channel_free<WideFlow>(index, command.channel, wide_flow ? &peer : nullptr, now);
  if (error != ApplyError::kNone) return error;

  const bool room = wide_flow ? limits_.wide_channels != 0 && wide.has_room(2) : narrow.has_room(2);
  if (wide_flow) return bind_in<WideFlow>(index, room, command, now);
  return bind_in<NarrowFlow>(index, room, command, now);
}

template <class Flow>
ApplyError FlowState::bind_in(uint32_t index, bool room, const BindChannel& command, Ticks now) {
  using Key = typename FlowTraits<Flow>::Key;
  SwissTable<Flow>& flows = table<Flow>();
  Allocation& a = allocations[index];
  const AllocationLeg& leg = a.leg[leg_index(command.peer.ip.family)];
  const Key by_channel = client_key<Key>(a.client.client, a.client.listener, command.channel);
  const Key by_peer = peer_key<Key>(command.peer, leg.relay);
  uint32_t slot = flows.find(hash_key(by_channel, seed),
                             [&](const Flow& f) { return same_key(f.key, by_channel); });
  if (slot == kNoSlot && (!room || a.channel_count >= kMaxChannelsPerAllocation))
    return ApplyError::kTableFull;

  const PermissionPeer peer{command.peer.ip, command.own_address, 0};
  const ApplyError error = permit(index, {&peer, 1}, now + command.permission_lifetime_ms);
  if (error != ApplyError::kNone) return error;
  Permission& p = permission_table[find_permission(index, command.peer.ip)];

  if (slot == kNoSlot) {
    slot = flows.insert(hash_key(by_channel, seed));
    const uint32_t twin = flows.insert(hash_key(by_peer, seed));
    ENSURE(slot != kNoSlot && twin != kNoSlot);
    Flow& from_client = flows[slot];
    Flow& from_peer = flows[twin];
    from_client = Flow{};
    from_peer = Flow{};
    from_client.key = by_channel;
    from_peer.key = by_peer;
    from_client.allocation = from_peer.allocation = index;
    from_client.policer = from_peer.policer = a.policer;
    from_client.channel = from_peer.channel = command.channel;
    from_client.twin = twin;
    from_peer.twin = slot;
    from_client.egress = command.own_address != 0 ? kHairpinEgress : leg.egress;
    from_client.from_address = leg.relay.address;
    from_client.from_port = leg.relay.port;
    set_destination(from_client, command.peer);
    from_peer.egress = a.client_egress;
    from_peer.from_address = a.client.listener;  // the listener's own address and port
    set_destination(from_peer, a.client.client);
    from_client.link = p.channels;
    p.channels = slot;
    ++a.channel_count;
  }
  flows[flows[slot].twin].link = now + command.lifetime_ms;
  update_channels<Flow>(a, p);
  wheel.arm_earlier(index, now + command.lifetime_ms);
  return ApplyError::kNone;
}

// ------------------------------------------------------------------ expiry

template <class Flow>
void FlowState::drop_dead_channels(Allocation& a, Permission& p, Ticks now, Ticks& earliest) {
  SwissTable<Flow>& flows = table<Flow>();
  for (uint32_t slot = p.channels; slot != kNoSlot;) {
    const uint32_t next = flows[slot].link;
    const Ticks deadline = flows[flows[slot].twin].link;
    if (ticks_reached(now, deadline))
      erase_channel<Flow>(a, slot);
    else
      earliest = ticks_earlier(earliest, deadline);
    slot = next;
  }
}

uint8_t FlowState::sweep(uint32_t index, Ticks now) {
  Allocation& a = allocations[index];
  uint8_t ended = 0;
  Ticks earliest = now + kMaxAllocationLifetimeSeconds * kTicksPerSecond;
  for (size_t i = 0; i < 2; ++i) {
    if (!a.leg[i].relay.present()) continue;
    if (ticks_reached(now, a.leg[i].deadline))
      ended |= static_cast<uint8_t>(1u << i);
    else
      earliest = ticks_earlier(earliest, a.leg[i].deadline);
  }
  for (uint32_t slot = a.permissions; slot != kNoSlot;) {
    Permission& p = permission_table[slot];
    const uint32_t next = next_of(p);
    if (is_wide(a, p))
      drop_dead_channels<WideFlow>(a, p, now, earliest);
    else
      drop_dead_channels<NarrowFlow>(a, p, now, earliest);
    // A dead permission whose channel is still bound stays: refreshing the channel revives it.
    if (!ticks_reached(now, p.deadline))
      earliest = ticks_earlier(earliest, p.deadline);
    else if (p.channels == kNoSlot)
      erase_permission(index, slot);
    slot = next;
  }
  wheel.arm(index, earliest);
  return ended;
}

// ------------------------------------------------------------------ counters

template <class Flow>
void FlowState::add_counters(const Permission& p, AllocationCounters& sum) const {
  const SwissTable<Flow>& flows = table<Flow>();
  for (uint32_t slot = p.channels; slot != kNoSlot; slot = flows[slot].link) {
    const Flow& from_peer = flows[flows[slot].twin];
    sum.packets_to_peer += flows[slot].packets;
    sum.bytes_to_peer += flows[slot].bytes;
    sum.packets_to_client += from_peer.packets;
    sum.bytes_to_client += from_peer.bytes;
  }
}

AllocationCounters FlowState::counters(uint32_t index) const {
  const Allocation& a = allocations[index];
  AllocationCounters sum = a.counters;
  for (uint32_t slot = a.permissions; slot != kNoSlot; slot = next_of(permission_table[slot])) {
    const Permission& p = permission_table[slot];
    if (is_wide(a, p))
      add_counters<WideFlow>(p, sum);
    else
      add_counters<NarrowFlow>(p, sum);
  }
  return sum;
}

// ------------------------------------------------------------------ redirects

bool FlowState::add_redirect(const ClientTuple& client, CoreId owner) {
  uint32_t slot = find_redirect(client);
  if (slot == kNoSlot) slot = redirects.insert(client_hash(client));
  if (slot == kNoSlot) return false;
  redirects[slot] = Redirect{client, owner, 0};
  return true;
}

void FlowState::remove_redirect(const ClientTuple& client) {
  const uint32_t slot = find_redirect(client);
  if (slot != kNoSlot) redirects.erase(slot, client_hash(client));
}

uint32_t FlowState::find_redirect(const ClientTuple& client) const {
  if (redirects.size() == 0) return kNoSlot;
  return redirects.find(client_hash(client), [&](const Redirect& r) { return r.client == client; });
}

}  // namespace culvert
