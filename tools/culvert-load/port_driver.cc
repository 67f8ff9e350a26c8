// The DPDK driver: Ethernet ports on which this process is every client and every peer itself. An
// endpoint is an entry of a table, not a socket, so tens of thousands cost what one does; there is
// no kernel between the tool and the frame, so the tool does what a host does: it answers ARP,
// neighbour discovery and echo for all its addresses, asks for the link address of the server or a
// gateway, and verifies the UDP checksum of everything that arrives.
//
// Addresses: those of --port-address, of --local and of --peer-address, and of a flood's --spoof.
// Each of them makes itself known before traffic begins (settle()), as a host does that asks for
// its neighbour, because a relay drops the first datagram for a neighbour that it does not know.
#include <algorithm>
#include <array>
#include <cstring>
#include <ctime>
#include <stdexcept>
#include <unordered_map>

#include "config/dpdk.h"
#include "dataplane/api/frame_counter.h"
#include "dataplane/api/stats.h"
#include "dataplane/io/dpdk/eal.h"
#include "dataplane/io/dpdk/host.h"
#include "dataplane/io/dpdk/neighbours.h"
#include "dataplane/io/dpdk/port_burst.h"
#include "dataplane/io/dpdk/routes.h"
#include "dataplane/steer/owner.h"
#include "tools/culvert-load/driver.h"
#include "tools/culvert-load/options.h"
#include "tools/culvert-load/port_table.h"
#include "tools/culvert-load/run.h"

namespace culvert::load {
namespace {

constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kNsPerSecond = 1'000'000'000;
// Ports given out where the caller leaves the choice: below the dynamic ones, which are the
// relay's.
constexpr uint32_t kFirstPort = 10'000;
constexpr uint32_t kLastPort = 49'000;
constexpr uint32_t kNeighbours = 1024;  // the server's addresses and gateways
constexpr uint64_t kAskAgainNs = 200 * kMs;
constexpr size_t kAsksInFlight = 32;
constexpr uint64_t kSilenceNs = 5 * kNsPerSecond;  // without any new answer: nobody is there
constexpr uint64_t kSpinNs = 20'000;               // a wait so short is not worth a system call
constexpr uint64_t kNapNs = 50'000;                // between polls while waiting
constexpr size_t kHops = 16;
constexpr uint8_t kTtl = 64;

struct HashIp {
  size_t operator()(const IpAddress& ip) const {
    const uint64_t high = load_be64(&ip.bytes[0]);
    return (load_be64(&ip.bytes[8]) ^ high * 0xc2b2ae3d27d4eb4fu) * 0x9e3779b97f4a7c15u >> 16;
  }
};

class PortNetwork final : public Network {
 public:
  explicit PortNetwork(const Options& options)
      : options_(options), eal_(eal_arguments(options.dpdk, own_cpus())), ports_(ports_options()) {}
  std::unique_ptr<Driver> make_driver(bool coalesce, std::string& error) override;

  [[nodiscard]] const Options& options() const { return options_; }
  [[nodiscard]] DpdkPorts& ports() { return ports_; }

 private:
  [[nodiscard]] PortsOptions ports_options() const {
    PortsOptions out;
    out.cores = static_cast<CoreId>(options_.queues);
    return out;
  }

  const Options& options_;
  Eal eal_;
  DpdkPorts ports_;
};

class PortDriver final : public Driver {
 public:
  PortDriver(const Options& options, DpdkPorts& ports);

  std::optional<Endpoint> open(const TransportAddress& local,
                               const std::optional<TransportAddress>& remote,
                               std::string& error) override;
  void close(Endpoint endpoint) override;
  TransportAddress local(Endpoint endpoint) const override { return open_[endpoint].local; }
  void send(std::span<const TxItem> items) override;
  std::span<const RxItem> receive(uint64_t wait_ns) override;
  uint64_t receive_drops() const override;
  const DriverCounters& counters() const override { return counters_; }
  std::optional<IpAddress> source_address(const IpAddress& remote) const override;
  std::optional<IpAddress> peer_address(const IpAddress& server, Family relayed) const override;
  std::string settle(const IpAddress& remote) override;
  void belongs_to(Endpoint endpoint, uint16_t relayed_port) override;
  std::vector<std::pair<std::string, uint64_t>> details() const override;

 private:
  struct Open {
    bool used = false;
    bool connected = false;
    uint16_t queue = 0;
    TransportAddress local;
    TransportAddress remote;
  };
  struct Hop {
    IpAddress to;
    uint64_t good_until_ns = 0;
    NeighbourTable::Hop hop;
  };
  struct Asked {
    IpAddress own;
    uint64_t at_ns = 0;  // 0: not yet
  };

  [[nodiscard]] auto key_of() const {
    return [this](uint32_t endpoint) -> const TransportAddress& { return open_[endpoint].local; };
  }
  void count(FrameCounter what, uint64_t n = 1) { frames_[static_cast<size_t>(what)] += n; }
  [[nodiscard]] uint64_t counted(FrameCounter what) const {
    return frames_[static_cast<size_t>(what)];
  }
  [[nodiscard]] bool is_ours(const IpAddress& ip, size_t port) const;
  [[nodiscard]] uint16_t queue_of(const TransportAddress& from, const TransportAddress& to) const;
  [[nodiscard]] uint16_t queue_of_port(uint16_t relayed_port) const;

  void send_datagram(const TransportAddress& from, const TransportAddress& to, uint16_t queue,
                     const uint8_t* data, size_t size);
  void send_one(const TxItem& item);
  [[nodiscard]] const NeighbourTable::Hop* hop_to(const IpAddress& ip);
  void introduce(const IpAddress& own, const IpAddress& remote);
  void ask(const PortAddress& by, const IpAddress& own, const IpAddress& target);
  [[nodiscard]] std::vector<Asked> to_settle(const Routes::Route& route) const;
  void ask_some(std::vector<Asked>& waiting, const Routes::Route& route);

  bool take_burst();
  void take(const PortBurst::Frame& frame, size_t port);
  void take_datagram(const frame::Parsed& parsed);
  void react(const PortBurst::Frame& frame, size_t port);
  void flush();

  const Options& options_;
  DpdkPorts& ports_;
  std::vector<std::unique_ptr<PortBurst>> bursts_;  // by port
  std::vector<PortAddress> addresses_;
  std::unique_ptr<const Routes> routes_;
  NeighbourTable neighbours_;
  std::array<Hop, kHops> hops_{};
  uint64_t now_ns_ = 0;  // of the call that is under way

  std::vector<Open> open_;
  std::vector<Endpoint> free_;
  PortTable table_;
  uint32_t next_port_ = kFirstPort;
  // Our addresses with open endpoints, and who has answered each.
  std::unordered_map<IpAddress, std::vector<IpAddress>, HashIp> settled_;
  uint64_t answers_ = 0;
  bool settled_once_ = false;

  size_t next_queue_ = 0;  // to be polled, counted over all ports
  size_t rx_queues_ = 0;
  std::array<RxItem, kMaxBurst> received_{};
  size_t received_count_ = 0;
  DriverCounters counters_;
  uint64_t refused_here_ = 0;  // without a next hop, or too long
  std::array<uint64_t, kFrameCounters> frames_{};
};

PortDriver::PortDriver(const Options& options, DpdkPorts& ports)
    : options_(options), ports_(ports), neighbours_(options.seed, kNeighbours) {
  // The thread's lcore id and buffer cache, for as long as it lives.
  thread_local const EalThread known;
  for (const PortAddressConfig& a : options.dpdk.port_addresses) {
    if (a.port >= ports.ports().size())
      throw std::runtime_error("--port-address " + a.ip.to_string() + " is on port " +
                               std::to_string(a.port) + ", and there are " +
                               std::to_string(ports.ports().size()) + ", counted from 0");
    addresses_.push_back({a.ip, a.prefix_bits, a.port});
  }
  routes_ = std::make_unique<Routes>(addresses_, options.dpdk.gateways);
  // It answers no ARP, and takes frames to any address.
  if (options.reflector)
    (void)neighbours_.learn(options.server.ip, {{2, 0, 0, 0, 0, 1}, 0}, 0,
                            NeighbourTable::Origin::kConfigured);
  for (Port& port : ports.ports()) {
    bursts_.push_back(std::make_unique<PortBurst>(port));
    rx_queues_ += port.rx_queues;
  }
}

// An address without a network of ours stands behind whichever port is asked.
bool PortDriver::is_ours(const IpAddress& ip, size_t port) const {
  const PortAddress* by = routes_->network_of(ip);
  if (by != nullptr && by->port != port) return false;
  const auto is = [&](const PortAddress& a) { return a.ip == ip; };
  return std::any_of(addresses_.begin(), addresses_.end(), is) || options_.local.contains(ip) ||
         options_.peer_address.contains(ip) || options_.spoof.contains(ip);
}

std::optional<Endpoint> PortDriver::open(const TransportAddress& local,
                                         const std::optional<TransportAddress>& remote,
                                         std::string& error) {
  Open made{true, remote.has_value(), 0, local, remote.value_or(TransportAddress{})};
  const auto taken = [&] { return table_.find(made.local, key_of()) != PortTable::kNone; };
  if (local.port == 0) {
    for (uint32_t tries = kFirstPort; tries <= kLastPort; ++tries) {
      made.local.port = static_cast<uint16_t>(next_port_);
      next_port_ = next_port_ == kLastPort ? kFirstPort : next_port_ + 1;
      if (!taken()) break;
    }
  }
  if (taken()) {
    error = made.local.ip.to_string() + " has no port left: give more addresses by --local";
    return std::nullopt;
  }
  const bool is_port_address = [&] {
    const auto is = [&](const PortAddress& a) { return a.ip == local.ip; };
    return std::any_of(addresses_.begin(), addresses_.end(), is);
  }();
  if (!is_port_address && !options_.local.contains(local.ip) &&
      !options_.peer_address.contains(local.ip)) {
    error = local.ip.to_string() + " is none of the tool's addresses";
    return std::nullopt;
  }
  made.queue = queue_of(made.local, made.remote);
  Endpoint endpoint = static_cast<Endpoint>(open_.size());
  if (free_.empty()) {
    open_.push_back(made);
  } else {
    endpoint = free_.back();
    free_.pop_back();
    open_[endpoint] = made;
  }
  table_.put(endpoint, key_of());
  const bool is_new = settled_.try_emplace(local.ip).second;
  if (is_new && settled_once_ && remote) introduce(local.ip, remote->ip);
  return endpoint;
}

// An address that comes up while traffic runs: its question goes out just before its first
// datagram.
void PortDriver::introduce(const IpAddress& own, const IpAddress& remote) {
  const Routes::Route route = routes_->route(remote);
  if (route.by != nullptr && routes_->network_of(own) == route.by)
    ask(*route.by, own, route.target);
}

void PortDriver::close(Endpoint endpoint) {
  table_.remove(open_[endpoint].local, key_of());
  open_[endpoint] = {};
  free_.push_back(endpoint);
}

std::optional<IpAddress> PortDriver::source_address(const IpAddress& remote) const {
  const PortAddress* by = routes_->route(remote).by;
  return by == nullptr ? std::nullopt : std::optional(by->ip);
}

std::optional<IpAddress> PortDriver::peer_address(const IpAddress& server, Family relayed) const {
  if (server.family == relayed)
    if (const auto ip = source_address(server)) return ip;
  for (const PortAddress& a : addresses_)
    if (a.ip.family == relayed) return a.ip;
  return std::nullopt;
}

// --- Queues.

uint16_t PortDriver::queue_of_port(uint16_t relayed_port) const {
  const auto cores = static_cast<CoreId>(options_.queues);
  const CoreId core = owner(relayed_port, cores);
  return options_.queue_of == QueueOf::kOther ? static_cast<uint16_t>((core + 1) % cores) : core;
}

// As a port spreads that knows nothing of relays.
uint16_t PortDriver::queue_of(const TransportAddress& from, const TransportAddress& to) const {
  if (options_.queues == 1) return 0;
  uint64_t word = load_be64(&from.ip.bytes[8]) ^ load_be64(&to.ip.bytes[8]) * 3;
  word = (word ^ uint64_t{from.port} << 48 ^ uint64_t{to.port} << 32) * 0x9e3779b97f4a7c15u;
  return static_cast<uint16_t>((word >> 33) % options_.queues);
}

void PortDriver::belongs_to(Endpoint endpoint, uint16_t relayed_port) {
  if (options_.queue_of != QueueOf::kHash) open_[endpoint].queue = queue_of_port(relayed_port);
}

// --- Link addresses.

// nullptr: not known, asked for, counted.
const NeighbourTable::Hop* PortDriver::hop_to(const IpAddress& ip) {
  Hop& kept = hops_[ip.bytes[15] % kHops];
  if (kept.good_until_ns > now_ns_ && kept.to == ip) return &kept.hop;
  const Routes::Route route = routes_->route(ip);
  if (route.by == nullptr) {
    count(FrameCounter::k_no_route);
    return nullptr;
  }
  using State = NeighbourTable::State;
  const auto seconds = static_cast<uint16_t>(now_ns_ / kNsPerSecond);
  const State state = neighbours_.find(route.target, seconds, true, kept.hop);
  if (state == State::kStale || state == State::kUnknown)
    ask(*route.by, route.by->ip, route.target);
  kept.to = ip;
  const bool known = state == State::kKnown || state == State::kStale;
  kept.good_until_ns = known ? now_ns_ + kNsPerSecond / 4 : 0;
  if (known) return &kept.hop;
  count(FrameCounter::k_no_next_hop);
  return nullptr;
}

void PortDriver::ask(const PortAddress& by, const IpAddress& own, const IpAddress& target) {
  PortBurst& burst = *bursts_[by.port];
  uint8_t* body = burst.body(host::kSolicitationFrame);
  if (body == nullptr) return;
  const host::Port port{burst.port().mac, {}};
  burst.send_body(0, 0, host::ask({body, host::kSolicitationFrame}, port, own, target));
  count(FrameCounter::k_neighbour_asked);
}

// Of our addresses on the target's network: those that it has not answered. A port address that
// nobody opened asks for itself when it is the only one.
std::vector<PortDriver::Asked> PortDriver::to_settle(const Routes::Route& route) const {
  std::vector<Asked> out;
  for (const auto& [own, answered] : settled_) {
    if (own.family != route.target.family || routes_->network_of(own) != route.by) continue;
    if (std::find(answered.begin(), answered.end(), route.target) == answered.end())
      out.push_back({own, 0});
  }
  return out;
}

void PortDriver::ask_some(std::vector<Asked>& waiting, const Routes::Route& route) {
  size_t in_flight = 0;
  for (Asked& one : waiting) {
    if (in_flight == kAsksInFlight) break;
    ++in_flight;
    if (one.at_ns != 0 && now_ns_ < one.at_ns + kAskAgainNs) continue;
    one.at_ns = now_ns_;
    ask(*route.by, one.own, route.target);
  }
  flush();
}

std::string PortDriver::settle(const IpAddress& remote) {
  if (options_.reflector) return {};
  const Routes::Route route = routes_->route(remote);
  if (route.by == nullptr)
    return "there is no route to " + remote.to_string() +
           ": it is on no --port-address network, and there is no --gateway";
  settled_.try_emplace(route.by->ip);
  auto waiting = to_settle(route);
  const size_t wanted = waiting.size();
  now_ns_ = monotonic_ns();
  uint64_t last_ns = now_ns_;
  while (!waiting.empty() && !interrupted()) {
    ask_some(waiting, route);
    const uint64_t before = answers_;
    for (uint64_t spun = now_ns_; now_ns_ < spun + kSpinNs; now_ns_ = monotonic_ns())
      (void)take_burst();
    received_count_ = 0;
    if (answers_ != before) {
      last_ns = now_ns_;
      std::erase_if(waiting, [&](const Asked& one) {
        const auto& answered = settled_.at(one.own);
        return std::find(answered.begin(), answered.end(), route.target) != answered.end();
      });
    }
    if (now_ns_ < last_ns + kSilenceNs) continue;
    const std::string asked = route.target.is_v4() ? "ARP" : "neighbour discovery";
    return route.target.to_string() + " does not answer " + asked + " on " +
           bursts_[route.by->port]->port().name + " (" + std::to_string(wanted - waiting.size()) +
           " of " + std::to_string(wanted) +
           " addresses were answered): is it up, is it on that network, and are --local and "
           "--peer-address too?";
  }
  settled_once_ = true;
  return {};
}

// --- Sending.

void PortDriver::flush() {
  for (const auto& burst : bursts_)
    burst->flush();
}

void PortDriver::send_datagram(const TransportAddress& from, const TransportAddress& to,
                               uint16_t queue, const uint8_t* data, size_t size) {
  const NeighbourTable::Hop* hop = hop_to(to.ip);
  if (hop == nullptr) {
    ++refused_here_;
    return;
  }
  PortBurst& burst = *bursts_[hop->port];
  const size_t ip_bytes =
      frame::kUdpHeader + size + (to.ip.is_v4() ? frame::kIpv4Header : frame::kIpv6Header);
  if (ip_bytes > burst.port().mtu) {
    count(FrameCounter::k_exceeds_mtu);
    ++refused_here_;
    return;
  }
  uint8_t* body = burst.body(size);
  if (body == nullptr) return;
  std::memcpy(body, data, size);
  frame::Outgoing out;
  out.source = from;
  out.destination = to;
  out.ttl = kTtl;
  out.dont_fragment = true;
  out.body = frame::full_sum(body, size);
  const frame::Link link{hop->mac, burst.port().mac, frame::kNoVlan};
  const size_t headers = frame::write_headers(body, size, link, out);
  burst.send_body(static_cast<uint16_t>(queue % burst.tx_queues()), headers, size);
}

void PortDriver::send_one(const TxItem& item) {
  const bool forged = item.from == kForged;
  const TransportAddress& from = forged ? *item.source : open_[item.from].local;
  const TransportAddress& to = item.to != nullptr ? item.to->address : open_[item.from].remote;
  uint16_t queue = 0;
  if (options_.queues > 1) {
    if (item.to == nullptr)
      queue = open_[item.from].queue;
    else if (forged || options_.queue_of == QueueOf::kHash)
      queue = queue_of(from, to);
    else
      queue = queue_of_port(to.port);
  }
  if (item.segment == 0) return send_datagram(from, to, queue, item.data, item.size);
  for (uint32_t at = 0; at < item.size; at += item.segment)
    send_datagram(from, to, queue, item.data + at,
                  std::min<uint32_t>(item.segment, item.size - at));
}

void PortDriver::send(std::span<const TxItem> items) {
  now_ns_ = monotonic_ns();
  ++counters_.send_calls;
  for (const TxItem& item : items)
    send_one(item);
  flush();
  counters_.send_refused = refused_here_;
  for (const auto& burst : bursts_)
    counters_.send_refused += burst->refused() + burst->no_buffer();
}

// --- Receiving.

std::span<const RxItem> PortDriver::receive(uint64_t wait_ns) {
  ++counters_.receive_calls;
  received_count_ = 0;
  const uint64_t until = wait_ns == 0 ? 0 : monotonic_ns() + wait_ns;
  while (true) {
    // All queues before giving up, and no further than the first that has something for us.
    for (size_t polled = 0; polled < rx_queues_ && received_count_ == 0; ++polled)
      (void)take_burst();
    if (received_count_ != 0 || wait_ns == 0 || interrupted()) break;
    now_ns_ = monotonic_ns();
    if (now_ns_ >= until) break;
    const uint64_t left = until - now_ns_;
    if (left < kSpinNs) continue;
    const timespec nap{0, static_cast<long>(std::min(left, kNapNs))};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, nullptr);
  }
  return {received_.data(), received_count_};
}

// One queue, the next; what came before is gone. False when it had nothing.
bool PortDriver::take_burst() {
  size_t queue = next_queue_;
  next_queue_ = next_queue_ + 1 == rx_queues_ ? 0 : next_queue_ + 1;
  size_t port = 0;
  while (queue >= bursts_[port]->rx_queues())
    queue -= bursts_[port++]->rx_queues();
  PortBurst& burst = *bursts_[port];
  received_count_ = 0;
  const auto frames = burst.receive(static_cast<uint16_t>(queue));
  if (frames.empty()) return false;
  for (const auto& frame : frames)
    take(frame, port);
  burst.flush();  // answers
  return true;
}

void PortDriver::take(const PortBurst::Frame& frame, size_t port) {
  using Kind = frame::Kind;
  if (frame.sum == PortBurst::Sum::kBad) return count(FrameCounter::k_bad_udp_checksum);
  // What the port has not looked at is read here: a wrong checksum is the server's fault, and the
  // only one that nobody else would see.
  const auto verify =
      frame.sum == PortBurst::Sum::kUnchecked ? frame::Verify::kAll : frame::Verify::kHeaders;
  frame::Parsed parsed;
  const Kind kind = frame::parse({frame.data, frame.size}, verify, parsed);
  if (kind == Kind::k_udp) [[likely]]
    return take_datagram(parsed);
  if (kind == Kind::k_not_ip || kind == Kind::k_other_protocol) return react(frame, port);
  if (kind == Kind::k_icmp_error) return count(FrameCounter::k_other_protocol);
  // Both lists have these names in this order (dpdk_rx.cc).
  count(static_cast<FrameCounter>(static_cast<size_t>(kind) - static_cast<size_t>(Kind::k_not_ip)));
}

void PortDriver::take_datagram(const frame::Parsed& parsed) {
  // A reflector that exchanges link addresses only leaves the datagram as it was sent.
  const bool as_sent = options_.reflector && parsed.destination == options_.server;
  const TransportAddress& ours = as_sent ? parsed.source : parsed.destination;
  const TransportAddress& theirs = as_sent ? parsed.destination : parsed.source;
  const uint32_t endpoint = table_.find(ours, key_of());
  if (endpoint == PortTable::kNone) {
    if (!options_.spoof.contains(ours.ip)) return count(FrameCounter::k_not_ours);
    received_[received_count_++] = {kForged, parsed.payload, parsed.length, 0};
    return;
  }
  const Open& open = open_[endpoint];
  if (open.connected && !(open.remote == theirs)) return count(FrameCounter::k_not_ours);
  received_[received_count_++] = {endpoint, parsed.payload, parsed.length, 0};
}

namespace {
// The address that an ARP request, a solicitation or an echo request is for.
[[nodiscard]] std::optional<IpAddress> asked_for(const PortBurst::Frame& frame) {
  constexpr size_t kArpTarget = frame::kEthernetHeader + 24;
  constexpr size_t kIcmp = frame::kEthernetHeader + frame::kIpv6Header;
  constexpr uint8_t kSolicitation = 135;
  const uint8_t* ip = frame.data + frame::kEthernetHeader;
  if (frame.size < kArpTarget + 4) return std::nullopt;
  switch (load_be16(frame.data + 12)) {
    case frame::kEtherIpv4:
      return IpAddress::v4_bytes(ip + 16);
    case frame::kEtherIpv6:
      if (frame.size < kIcmp + 24) return std::nullopt;
      return IpAddress::v6_bytes(frame.data[kIcmp] == kSolicitation ? frame.data + kIcmp + 8
                                                                    : ip + 24);
    default:
      return IpAddress::v4_bytes(frame.data + kArpTarget);
  }
}
}  // namespace

void PortDriver::react(const PortBurst::Frame& frame, size_t port) {
  PortBurst& burst = *bursts_[port];
  const auto wanted = asked_for(frame);
  // One address of the tool's tens of thousands is enough for this frame.
  const bool ours = wanted && is_ours(*wanted, port);
  const host::Port host{burst.port().mac, {ours ? &*wanted : nullptr, ours ? 1u : 0u}};
  const size_t room = std::max<size_t>(frame.size, host::kSolicitationFrame);
  uint8_t* body = burst.body(room);
  if (body == nullptr) return count(FrameCounter::k_no_buffer);
  const auto reaction = host::react({frame.data, frame.size}, host, {body, room});
  using Kind = host::Reaction::Kind;
  if (reaction.kind == Kind::kNone) return count(FrameCounter::k_not_ours);
  count(reaction.count);
  if (reaction.learned) {
    const auto seconds = static_cast<uint16_t>(monotonic_ns() / kNsPerSecond);
    const auto origin =
        reaction.only_update ? NeighbourTable::Origin::kUpdate : NeighbourTable::Origin::kAnswer;
    // Who asks for us is a neighbour too, but only those we send to are kept: the table is small.
    if (reaction.kind == Kind::kTold)
      (void)neighbours_.learn(reaction.learned_ip,
                              {reaction.learned_mac, static_cast<uint8_t>(port)}, seconds, origin);
  }
  if (reaction.kind == Kind::kReply) return burst.send_body(0, 0, reaction.reply_bytes);
  if (!ours) return;
  auto at = settled_.find(*wanted);
  if (at == settled_.end()) return;
  auto& answered = at->second;
  if (std::find(answered.begin(), answered.end(), reaction.learned_ip) != answered.end()) return;
  answered.push_back(reaction.learned_ip);
  ++answers_;
}

uint64_t PortDriver::receive_drops() const {
  std::array<PortStats, kMaxPorts> stats;
  const uint32_t ports = ports_.read_stats(stats);
  uint64_t drops = 0;
  for (uint32_t i = 0; i < ports; ++i)
    drops += stats[i].missed.get() + stats[i].no_buffer.get();
  return drops;
}

std::vector<std::pair<std::string, uint64_t>> PortDriver::details() const {
  std::vector<std::pair<std::string, uint64_t>> out;
  for (size_t i = 0; i < kFrameCounters; ++i)
    if (frames_[i] != 0) out.emplace_back(kFrameCounterInfo[i].name, frames_[i]);
  uint64_t refused = 0;
  uint64_t no_buffer = counted(FrameCounter::k_no_buffer);
  for (const auto& burst : bursts_) {
    refused += burst->refused();
    no_buffer += burst->no_buffer();
  }
  if (refused != 0) out.emplace_back("port_full", refused);
  if (no_buffer != 0) out.emplace_back("no_buffer", no_buffer);
  return out;
}

std::unique_ptr<Driver> PortNetwork::make_driver(bool /*coalesce*/, std::string& error) {
  try {
    return std::make_unique<PortDriver>(options_, ports_);
  } catch (const std::runtime_error& problem) {
    error = problem.what();
    return nullptr;
  }
}

}  // namespace

std::unique_ptr<Network> make_port_network(const Options& options, std::string& error) {
  try {
    return std::make_unique<PortNetwork>(options);
  } catch (const std::runtime_error& problem) {
    error = problem.what();
    if (options.dpdk.eal.find("role=client") != std::string::npos)
      error += "; a memif's client comes after its server: is that there?";
    return nullptr;
  }
}

}  // namespace culvert::load
