// Any sequence of commands through the command ring into a core, with datagrams and jumps of time
// between them, control slow or fast at emptying the event ring. However it goes:
//   - a command's response is sent to the client or comes back in CommandFailed, exactly one of
//     the two;
//   - every installed allocation ends exactly once, and nothing is reported that was not there;
//   - after each step tables, lists, twins, deadlines, ports and timers agree with each other;
//   - every datagram has one outcome; what goes to a peer goes to one with a permission;
//   - once all lifetimes have passed and control has listened, nothing is left.
//
// Input: steps. The first byte of each picks a command (in the order of CommandType), a datagram or
// a jump of time; its fields follow, drawn from few clients, ports and peers so that they meet.
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "dataplane/core/ring_engine.h"
#include "dataplane/core/worker.h"
#include "dataplane/wire/channel_data.h"
#include "dataplane/wire/stun.h"
#include "tests/fuzz/reader.h"

namespace {

using namespace culvert;

constexpr uint16_t kLow = 50000;
constexpr uint16_t kPorts = 12;
constexpr uint32_t kAllocations = 4;
constexpr uint32_t kMaxSteps = 200;
// A full command ring holds 85 commands, of which a turn applies 32; what they fail with is heard
// in the same turn.
constexpr int kTurnsToQuiet = 8;
// A response carries its serial number behind this, so that it is known again.
constexpr uint8_t kResponse = 0xfe;
constexpr size_t kResponseBytes = 5;

// A driver whose network is two lists.
class ListDriver {
 public:
  uint32_t rx_burst(std::span<RxDatagram> rx) {
    const auto count = static_cast<uint32_t>(std::min(rx.size(), arrived.size()));
    std::copy_n(arrived.begin(), count, rx.begin());
    arrived.erase(arrived.begin(), arrived.begin() + count);
    return count;
  }
  uint32_t tx_burst(TxBurst& tx) {
    for (uint32_t i = 0; i < tx.count; ++i) {
      ENSURE(tx.items[i].length == 0 || tx.items[i].payload != nullptr);
      sent.push_back(tx.items[i]);
      Bytes& bytes = payloads.emplace_back();
      if (tx.items[i].length != 0)
        bytes.assign(tx.items[i].payload, tx.items[i].payload + tx.items[i].length);
    }
    return 0;
  }
  [[nodiscard]] Egress listener_egress(uint16_t listener) const { return listener; }
  Egress open_relay_port(RelayLeg leg) {
    if (refuse || !open.insert(key(leg)).second) return kNoEgress;
    return key(leg);
  }
  void close_relay_port(RelayLeg leg) { ENSURE(open.erase(key(leg)) == 1); }
  [[nodiscard]] Ticks now() const { return clock; }
  void wait(uint32_t) {}
  void wake() {}

  static Egress key(RelayLeg leg) { return 0x10000u * (leg.address + 1u) + leg.port; }

  using Bytes = std::vector<uint8_t>;
  std::vector<RxDatagram> arrived;
  std::vector<TxDatagram> sent;
  std::vector<Bytes> payloads;  // of `sent`
  std::set<Egress> open;
  bool refuse = false;       // as when another process holds the port
  Ticks clock = 0xffff0000;  // wraps within the run
};

std::unique_ptr<Snapshot> make_snapshot() {
  auto out = std::make_unique<Snapshot>();
  const auto ip = [](const char* text) { return IpAddress::parse(text).value(); };
  out->version = 1;
  out->addresses = {{ip("198.51.100.1"), ip("203.0.113.9"), true},
                    {ip("2001:db8::1"), ip("2001:db8::1"), true}};
  out->listeners.resize(2);
  for (uint16_t i = 0; i < 2; ++i) {
    out->listeners[i].address = i;
    out->listeners[i].port = 3478;
    out->listeners[i].realm_attribute = {0, 0x14, 0, 4, 't', 'e', 's', 't'};
  }
  out->relay_port_low = kLow;
  out->relay_port_high = kLow + kPorts - 1;
  out->nonce_keys = {{{1, 2}, {3, 4}}, 0, 5000};
  out->reply_budget = {1'000'000, 10'000'000, 100};
  return out;
}

CoreLimits limits() {
  CoreLimits out;
  out.allocations = kAllocations;
  out.permissions = 7;
  out.narrow_channels = 5;
  out.wide_channels = 4;
  out.policers = 3;
  out.count_policers = true;
  out.addresses = 2;
  out.relay_port_low = kLow;
  out.relay_port_high = kLow + kPorts - 1;
  return out;
}

class Run {
 public:
  Run(const uint8_t* data, size_t size) : in_(data, size) {}

  void all() {
    for (uint32_t step = 0; step < kMaxSteps && !in_.empty(); ++step) {
      one_step();
      turn();
    }
    end();
  }

 private:
  // ---- what the input decides

  TransportAddress client(uint32_t n) const {
    TransportAddress out = n % 2 == 0 ? TransportAddress{IpAddress::v4(0xc0000201), 4000}
                                      : TransportAddress{v6_, 4000};
    out.port = static_cast<uint16_t>(4000 + n / 2);
    return out;
  }
  TransportAddress peer() {
    const uint32_t n = in_.u8();
    TransportAddress out;
    const auto host = static_cast<uint8_t>(n & 3);
    if ((n & 4) != 0) {
      out.ip = v6_;
      out.ip.bytes[15] = static_cast<uint8_t>(0x90 + host);
    } else {
      out.ip = IpAddress::v4(0xcb007100u + host);
    }
    out.port = static_cast<uint16_t>(7000 + (n >> 3 & 1));
    if ((n & 0xf0) == 0xf0) {  // one of our own relayed ports
      out.ip = engine_.snapshot().addresses[(n & 4) != 0 ? 1 : 0].advertised;
      out.port = static_cast<uint16_t>(kLow + host);
    }
    return out;
  }
  ClientTuple tuple() {
    ClientTuple out;
    out.client = client(in_.below(4));
    out.listener = out.client.ip.is_v6() ? 1 : 0;
    return out;
  }
  AllocationHandle handle() {
    const uint32_t n = in_.u8();
    return {n % (kAllocations + 1), 1 + (n >> 4 & 1)};
  }
  uint32_t lifetime_ms() { return in_.u16() % 3600 * 1000u; }
  uint16_t channel() { return static_cast<uint16_t>(kFirstChannel + in_.below(4)); }
  uint16_t port() { return static_cast<uint16_t>(kLow + in_.below(kPorts + 1)); }

  // ---- commands

  std::vector<uint8_t> response() {
    std::vector<uint8_t> out(kResponseBytes, kResponse);
    store_be32(&out[1], ++serial_);
    return out;
  }
  template <class Command>
  void send(Command command, std::span<const uint8_t> list = {}, bool answered = true) {
    const std::vector<uint8_t> said = answered ? response() : std::vector<uint8_t>{};
    command.cookie = serial_;
    if (!engine_.send(0, command, list, said)) return;  // the ring is full
    if (answered) waiting_.insert(serial_);
    if constexpr (std::is_same_v<Command, InstallAllocation>) installs_.insert(serial_);
  }
  void install() {
    InstallAllocation c;
    c.handle = handle();
    c.client = tuple();
    const uint32_t kind = in_.u8();
    if ((kind & 3) != 2) c.ipv4 = {0, port()};
    if ((kind & 3) >= 2) c.ipv6 = {1, port()};
    c.reserve_next = (kind & 3) < 2 ? kind >> 2 & 1 : 0;
    c.port_already_open = (kind & 3) < 2 && c.reserve_next == 0 ? kind >> 3 & 1 : 0;
    c.policer = kind >> 4 & 3;
    driver_.refuse = (kind & 0xc0) == 0xc0;
    c.lifetime_ms = lifetime_ms();
    send(c);
  }
  void permit() {
    CreatePermission c;
    c.handle = handle();
    c.peer_count = in_.below(6);
    c.lifetime_ms = lifetime_ms();
    std::vector<PermissionPeer> peers(c.peer_count);
    for (PermissionPeer& p : peers) {
      p.ip = peer().ip;
      p.own_address = own(p.ip) ? 1 : 0;
    }
    send(c, {reinterpret_cast<const uint8_t*>(peers.data()), peers.size() * sizeof peers[0]});
  }
  void bind() {
    BindChannel c;
    c.handle = handle();
    c.channel = channel();
    c.peer = peer();
    c.own_address = own(c.peer.ip) ? 1 : 0;
    c.lifetime_ms = lifetime_ms();
    c.permission_lifetime_ms = lifetime_ms();
    send(c);
  }
  [[nodiscard]] bool own(const IpAddress& ip) const {
    for (const LocalAddress& a : engine_.snapshot().addresses)
      if (a.advertised == ip) return true;
    return false;
  }
  void other_command(CommandType type) {
    switch (type) {
      case CommandType::kSendReply: {
        SendReply c;
        c.client = tuple();
        return send(c);
      }
      case CommandType::kClosePort: {
        ClosePort c;
        c.leg = {static_cast<uint16_t>(in_.below(2)), port()};
        return send(c, {}, false);
      }
      case CommandType::kInstallRedirect: {
        InstallRedirect c;
        c.client = tuple();
        c.owner = static_cast<uint16_t>(in_.below(2));
        return send(c, {}, false);
      }
      case CommandType::kRemoveRedirect: {
        RemoveRedirect c;
        c.client = tuple();
        return send(c, {}, false);
      }
      case CommandType::kSetPolicer: {
        SetPolicer c;
        c.policer = in_.below(5);
        c.rate_bytes_per_second = in_.u32();
        c.burst_bytes = in_.u16();
        return send(c, {}, false);
      }
      case CommandType::kQueryAllocation: {
        QueryAllocation c;
        c.handle = handle();
        return send(c, {}, false);
      }
      case CommandType::kExplain: {
        Explain c;
        const ClientTuple from = tuple();
        c.from = from.client;
        c.listener = from.listener;
        if (in_.flag()) {
          c.from = peer();
          c.relay = {static_cast<uint16_t>(c.from.ip.is_v6() ? 1 : 0), port()};
        }
        if (in_.flag()) c.channel = channel();
        c.peer = peer();
        return send(c, {}, false);
      }
      case CommandType::kTrace: {
        Trace c;
        c.count = in_.below(20);
        c.duration_ms = lifetime_ms();
        if (in_.flag()) c.client = tuple().client;
        if (in_.flag()) c.peer = peer();
        if (in_.flag()) c.relay_port = port();
        if (in_.flag()) c.outcome = in_.u8();
        c.bytes = static_cast<TraceBytes>(in_.below(3));
        return send(c, {}, false);
      }
      default:
        return;
    }
  }
  void one_step() {
    driver_.refuse = false;
    const uint32_t what = in_.below(16);
    switch (what) {
      case 0:
        return install();
      case 1: {
        RefreshAllocation c;
        c.handle = handle();
        c.lifetime_ms = lifetime_ms();
        c.legs = static_cast<uint8_t>(1 + in_.below(3));
        return send(c);
      }
      case 2: {
        RemoveAllocation c;
        c.handle = handle();
        c.legs = static_cast<uint8_t>(1 + in_.below(3));
        return send(c);
      }
      case 3:
        return permit();
      case 4:
        return bind();
      case 12:
      case 13:
        return datagram(what == 12);
      case 14:
        driver_.clock += in_.u16() * (in_.flag() ? 100u : 1u);
        return;
      case 15:
        switch (in_.below(4)) {
          case 0:
            return other_command(CommandType::kExplain);
          case 1:
          case 2:
            return other_command(CommandType::kTrace);
          default:
            listening_ = !listening_;
            return;
        }
      default:
        return other_command(static_cast<CommandType>(what + 1));
    }
  }

  // ---- datagrams

  void datagram(bool from_client) {
    std::vector<uint8_t>& bytes = kept_.emplace_back();
    RxDatagram rx;
    if (from_client) {
      const ClientTuple from = tuple();
      rx.kind = RxKind::kClient;
      rx.source = from.client;
      rx.listener = from.listener;
      const auto data = [&] { return in_.bytes(in_.below(9)); };
      if (in_.flag()) {
        const uint16_t number = channel();
        const auto body = data();
        bytes.resize(kChannelHeaderSize);
        write_channel_header(bytes.data(), number, static_cast<uint16_t>(body.size()));
        bytes.insert(bytes.end(), body.begin(), body.end());
      } else {
        constexpr uint8_t kId[12] = {};
        bytes.resize(128);
        stun::Builder builder(bytes, stun::Class::kIndication, stun::kSend, kId);
        builder.add_xor_address(stun::Attribute::kXorPeerAddress, peer());
        builder.add(stun::Attribute::kData, data());
        bytes.resize(builder.size());
      }
    } else {
      rx.kind = in_.flag() ? RxKind::kIcmpError : RxKind::kPeer;
      rx.icmp_type = 3;
      rx.source = peer();
      rx.relay = {static_cast<uint16_t>(rx.source.ip.is_v6() ? 1 : 0), port()};
      const auto body = in_.bytes(in_.below(9));
      bytes.assign(body.begin(), body.end());
    }
    rx.payload = bytes.data();
    rx.length = static_cast<uint16_t>(bytes.size());
    driver_.arrived.push_back(rx);
  }

  // ---- what must hold

  void turn() {
    (void)worker_.run_once();
    take_sent();
    if (listening_) take_events();
    check_state();
    if (driver_.arrived.empty()) kept_.clear();
  }

  void answered(std::span<const uint8_t> bytes) {
    ENSURE(bytes.size() == kResponseBytes && bytes[0] == kResponse);
    ENSURE(waiting_.erase(load_be32(&bytes[1])) == 1);  // sent or brought back, never both
  }

  void take_sent() {
    const FlowState& flows = worker_.core().flows;
    for (size_t i = 0; i < driver_.sent.size(); ++i) {
      const TxDatagram& tx = driver_.sent[i];
      const auto& bytes = driver_.payloads[i];
      const bool to_client = tx.from_port == 3478;
      if (to_client && tx.head_length == 0 && bytes.size() == kResponseBytes &&
          bytes[0] == kResponse) {
        const uint32_t number = load_be32(&bytes[1]);
        answered(bytes);
        if (installs_.erase(number) != 0) installed_.insert(number);
      } else if (!to_client) {
        const PortEntry* entry = flows.port({tx.from_address, tx.from_port});
        ENSURE(entry != nullptr && tx.egress == ListDriver::key({tx.from_address, tx.from_port}));
        // Still there: the clock stands within a turn, and what is dead at its end let nothing
        // pass.
        ENSURE(entry->allocation < kAllocations);
        ENSURE(flows.find_permission(entry->allocation, tx.to.ip) != kNoSlot);
      }
    }
    driver_.sent.clear();
    driver_.payloads.clear();
  }
  void take_events() {
    while (const RingSlot* slot = engine_.front_trace(0)) {
      const MessageView view(slot);
      const auto record = view.as<TraceRecord>();
      ENSURE(record.captured == view.payload().size() && record.captured <= kMaxTraceBytes);
      ENSURE(record.captured <= record.length);
      ENSURE((record.outcome < kOutcomes) == (record.kind != TraceKind::kSent));
      engine_.pop_trace(0);
    }
    while (const RingSlot* slot = engine_.front_event(0)) {
      const MessageView view(slot);
      switch (static_cast<EventType>(view.type())) {
        case EventType::kCommandFailed: {
          const auto e = view.as<CommandFailed>();
          ENSURE(e.error != ApplyError::kNone && e.error < ApplyError::kCount);
          if (!view.payload().empty()) answered(view.payload());
          installs_.erase(e.cookie);
          break;
        }
        case EventType::kAllocationEnded: {
          const auto e = view.as<AllocationEnded>();
          ENSURE((e.legs & e.legs_left) == 0 && (e.legs | e.legs_left) != 0);
          if (e.legs_left == 0) ENSURE(installed_.erase(e.cookie) == 1);
          break;
        }
        case EventType::kAllocationReport:
        case EventType::kExplainReport:
        case EventType::kRequest:
          break;
      }
      engine_.pop_event(0);
    }
  }

  template <class Flow>
  [[nodiscard]] static const SwissTable<Flow>& table(const FlowState& flows) {
    if constexpr (std::is_same_v<Flow, NarrowFlow>)
      return flows.narrow;
    else
      return flows.wide;
  }
  // Returns how many channels hang off this permission.
  template <class Flow>
  static uint32_t check_channels(const FlowState& flows, uint32_t index, const Permission& p) {
    using Key = typename FlowTraits<Flow>::Key;
    const SwissTable<Flow>& t = table<Flow>(flows);
    const Allocation& a = flows.allocations[index];
    uint32_t count = 0;
    for (uint32_t slot = p.channels; slot != kNoSlot; slot = t[slot].link) {
      const Flow& out = t[slot];
      const Flow& back = t[out.twin];
      ENSURE(++count <= kMaxChannelsPerAllocation);
      ENSURE(out.allocation == index && back.allocation == index && back.twin == slot);
      ENSURE(out.channel == back.channel && out.policer == a.policer && back.policer == a.policer);
      const TransportAddress peer = destination(out);
      const AllocationLeg& leg = a.leg[leg_index(peer.ip.family)];
      ENSURE(peer.ip.bytes == p.peer && leg.relay.present());
      ENSURE(destination(back) == a.client.client);
      ENSURE(same_key(out.key, client_key<Key>(a.client.client, a.client.listener, out.channel)));
      ENSURE(same_key(back.key, peer_key<Key>(peer, leg.relay)));
      ENSURE(out.deadline == ticks_earlier(ticks_earlier(p.deadline, leg.deadline), back.link));
      ENSURE(back.deadline == out.deadline);
      ENSURE(out.from_port == leg.relay.port && out.from_address == leg.relay.address);
      const auto found = [&](const Key& key) {
        return t.find(hash_key(key, flows.seed),
                      [&](const Flow& f) { return same_key(f.key, key); });
      };
      ENSURE(found(out.key) == slot && found(back.key) == out.twin);
    }
    return count;
  }

  void check_allocation(uint32_t index, uint32_t& permissions, uint32_t& channels) {
    const FlowState& flows = worker_.core().flows;
    const Allocation& a = flows.allocations[index];
    ENSURE(flows.find_client(a.client) == index && flows.wheel.armed(index));
    ENSURE(a.leg[0].relay.present() || a.leg[1].relay.present());
    uint32_t count = 0;
    uint32_t bound = 0;
    for (uint32_t slot = a.permissions; slot != kNoSlot;) {
      const Permission& p = flows.permission_table[slot];
      ENSURE(++count <= kMaxPermissionsPerAllocation && p.allocation == index);
      IpAddress ip;
      ip.bytes = p.peer;
      ENSURE(flows.find_permission(index, ip) == slot);
      const bool v4 = load_be64(p.peer.data()) == 0 && load_be32(p.peer.data() + 8) == 0xffff;
      ENSURE(a.leg[v4 ? 0 : 1].relay.present());
      bound += a.client.client.ip.is_v6() || !v4 ? check_channels<WideFlow>(flows, index, p)
                                                 : check_channels<NarrowFlow>(flows, index, p);
      const uint32_t next = p.next & FlowState::kLinkMask;
      slot = next == FlowState::kLinkMask ? kNoSlot : next;
    }
    ENSURE(count == a.permission_count && bound == a.channel_count);
    permissions += count;
    channels += bound;
  }

  void check_state() {
    const FlowState& flows = worker_.core().flows;
    uint32_t live = 0;
    uint32_t permissions = 0;
    uint32_t channels = 0;
    uint32_t legs = 0;
    for (uint32_t i = 0; i < kAllocations; ++i) {
      if (flows.allocations[i].live == 0) {
        ENSURE(!flows.wheel.armed(i));  // it would fire for the next one at this index
        continue;
      }
      ++live;
      check_allocation(i, permissions, channels);
      for (const AllocationLeg& leg : flows.allocations[i].leg) {
        if (!leg.relay.present()) continue;
        ++legs;
        ENSURE(flows.port(leg.relay)->allocation == i && driver_.open.contains(leg.egress));
      }
    }
    ENSURE(live == flows.live_allocations && permissions == flows.permission_table.size());
    ENSURE(2 * channels == flows.narrow.size() + flows.wide.size());
    uint32_t taken = 0;
    uint32_t held = 0;
    for (uint16_t address = 0; address < 2; ++address) {
      for (uint16_t p = 0; p < kPorts; ++p) {
        const PortEntry* entry = flows.port({address, static_cast<uint16_t>(kLow + p)});
        taken += entry->allocation != PortEntry::kFree;
        held += entry->allocation == PortEntry::kHeld;
      }
    }
    ENSURE(taken == flows.open_ports && taken == driver_.open.size() && taken == legs + held);
    uint64_t outcomes = 0;
    const CoreStats& stats = engine_.stats(0);
    for (const Counter& c : stats.outcomes)
      outcomes += c.get();
    ENSURE(stats.received_packets.get() + stats.hairpin_passes.get() + stats.handed_in.get() ==
           outcomes);
    ENSURE(stats.events_dropped.get() == 0);
  }

  // All lifetimes pass and control listens: nothing may be left.
  void end() {
    listening_ = true;
    for (int round = 0; round < 4; ++round) {
      for (int i = 0; i < kTurnsToQuiet; ++i)
        turn();
      driver_.clock += 3'600'000;
    }
    for (uint16_t address = 0; address < 2; ++address) {
      for (uint16_t p = 0; p < kPorts; ++p) {
        ClosePort c;
        c.leg = {address, static_cast<uint16_t>(kLow + p)};
        ENSURE(engine_.send(0, c));
        turn();
      }
    }
    const FlowState& flows = worker_.core().flows;
    ENSURE(flows.live_allocations == 0 && flows.permission_table.size() == 0);
    ENSURE(flows.narrow.size() == 0 && flows.wide.size() == 0);
    ENSURE(flows.open_ports == 0 && driver_.open.empty());
    ENSURE(waiting_.empty() && installed_.empty());
  }

  static RingEngine::Options options() {
    RingEngine::Options out;
    out.cores = 2;  // the second never runs: its ring fills up
    out.command_slots = out.event_slots = SpscRing::kMinSlots;
    out.handoff_slots = SpscRing::kMinSlots;
    return out;
  }

  fuzz::Reader in_;
  const IpAddress v6_ = IpAddress::parse("2001:db8:c::5").value();
  RingEngine engine_{options(), make_snapshot()};
  ListDriver driver_;
  Worker<ListDriver> worker_{driver_,  engine_.board(), 0,
                             limits(), CoreSeeds{},     engine_.mutable_stats(0)};
  std::vector<std::vector<uint8_t>> kept_;  // payloads of datagrams that wait
  std::set<uint32_t> waiting_;              // responses neither sent nor come back
  std::set<uint32_t> installs_;             // under way
  std::set<uint32_t> installed_;            // cookies of live allocations
  uint32_t serial_ = 0;
  bool listening_ = true;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto run = std::make_unique<Run>(data, size);
  run->all();
  return 0;
}
