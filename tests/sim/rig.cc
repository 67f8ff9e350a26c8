#include "tests/sim/rig.h"

#include <algorithm>

#include "control/snapshot_builder.h"
#include "dataplane/base/endian.h"

namespace culvert::sim_test {

namespace {

constexpr uint64_t kUnixStart = 1'767'225'600;
// Spoofed sources come from here and from nowhere else (RFC 6598).
constexpr uint32_t kSpoofedNet = 0x64400000;
constexpr uint32_t kSpoofedMask = 0xffc00000;

bool is_spoofed(const TransportAddress& client) {
  return client.ip.is_v4() && (client.ip.v4_host() & kSpoofedMask) == kSpoofedNet;
}

bool is_certain(const Fate& fate) {
  return fate.may == 0 && fate.other_outcome == Outcome::kCount;
}

// The application's data in what a client or a peer sent, or in what left.
codec::Bytes application_data(codec::Bytes bytes, bool stun_side) {
  if (!stun_side) return bytes;
  if (const auto channel = codec::parse_channel_data(bytes)) return channel->payload;
  if (bytes.size() < 28 || bytes[0] > 3) return {};
  // A Send or a Data indication: header, XOR-PEER-ADDRESS, DATA, as this simulator's clients and
  // the relay write them.
  const uint16_t type = load_be16(bytes.data());
  if (type != 0x0016 && type != 0x0017) return {};
  const size_t address = load_be16(&bytes[22]);
  const size_t data = 24 + address;
  if (bytes.size() < data + 4 || load_be16(&bytes[data]) != 0x0013) return {};
  const size_t length = load_be16(&bytes[data + 2]);
  return length <= bytes.size() - data - 4 ? bytes.subspan(data + 4, length) : codec::Bytes{};
}

}  // namespace

// ------------------------------------------------------------------ driver

uint32_t TapDriver::rx_burst(std::span<RxDatagram> rx) {
  const uint32_t count = inner_.rx_burst(rx.first(std::min(burst_, rx.size())));
  rig_.core_received(core_, rx.first(count));
  return count;
}

uint32_t TapDriver::tx_burst(TxBurst& tx) {
  rig_.core_sent(core_, tx);
  return inner_.tx_burst(tx);
}

Egress TapDriver::open_relay_port(RelayLeg leg) {
  const Egress egress = inner_.open_relay_port(leg);
  if (egress == kNoEgress) rig_.port_refused();
  return egress;
}

// ------------------------------------------------------------------ life

Rig::Rig(sim::Network& network, const Config& config, const Options& options, Coverage& coverage)
    : network_(network),
      config_(config),
      options_(options),
      reference_(config, static_cast<CoreId>(config.cores), coverage, options.plant),
      addresses_(local_addresses(config)),
      frozen_until_(config.cores),
      counted_(config.cores),
      handed_(size_t{config.cores} * config.cores) {
  build();
}

Rig::~Rig() = default;

ControlTime Rig::time() const {
  const uint64_t ms = now_ms();
  return {ms, static_cast<uint64_t>(static_cast<int64_t>(kUnixStart + ms / 1000) + wall_offset_)};
}

void Rig::build() {
  const auto cores = static_cast<CoreId>(config_.cores);
  watcher_ = std::make_unique<Watcher>(config_);
  random_ = std::make_unique<crypto::Random>(options_.seed * 7919 + ++builds_);
  RingEngine::Options rings;
  rings.cores = cores;
  rings.command_slots = options_.command_slots;
  rings.event_slots = options_.event_slots;
  rings.handoff_slots = options_.handoff_slots;
  engine_ = std::make_unique<RingEngine>(rings, build_snapshot(config_, cores, NonceKeys{}));
  TurnHooks hooks;
  hooks.allocation_ended = [this](const EndedAllocation& end) { reference_.ended(end, now_ms()); };
  server_ = std::make_unique<TurnServer>(config_, *engine_, *random_, hooks, time());
  card_ = std::make_unique<sim::Card>(network_, engine_->snapshot(), options_.card);
  for (CoreId core = 0; core < cores; ++core) {
    drivers_.push_back(std::make_unique<TapDriver>(*card_, core, *this, options_.burst));
    CoreSeeds seeds;
    seeds.hash = {random_->u64(), random_->u64()};
    seeds.transaction[0] = random_->u64() | 1;
    seeds.transaction[1] = random_->u64();
    workers_.push_back(std::make_unique<Worker<TapDriver>>(*drivers_.back(), engine_->board(), core,
                                                           options_.limits, seeds,
                                                           engine_->mutable_stats(core)));
    if (options_.limits.count_policers)
      engine_->set_policer_bytes(core, workers_.back()->core().flows.policer_bytes.data());
    counted_[core].fill(0);
  }
  excuses_before_ = 0;
  ports_refused_ = 0;
}

void Rig::restart() {
  check_conservation();
  // The kernel closes what the process held.
  for (const ListenConfig& l : config_.listeners)
    network_.close_address(l.address);
  for (const RelayAddressConfig& relay : config_.relay_addresses) {
    for (uint32_t port = config_.relay_port_low; port <= config_.relay_port_high; ++port)
      network_.close_address({relay.bound, static_cast<uint16_t>(port)});
  }
  workers_.clear();
  drivers_.clear();
  card_.reset();
  server_.reset();
  engine_.reset();
  for (auto& ring : handed_)
    ring.clear();
  flows_.clear();
  frozen_until_.assign(frozen_until_.size(), 0);
  control_stalled_until_ = 0;
  reference_.reset();
  reference_.set_draining(false);
  build();
}

std::optional<std::string> Rig::reload(const Config& config) {
  const auto refused = server_->reload(config, time());
  if (refused) return refused;
  config_ = config;
  reference_.set_config(config);
  return std::nullopt;
}

void Rig::close_allocation(const TransportAddress& client) {
  reference_.closing(client);
  server_->close_if([&](const AllocationInfo& a) { return a.client == client; });
}

void Rig::set_draining(bool on) {
  server_->set_draining(on);
  reference_.set_draining(on);
}

// ------------------------------------------------------------------ turning

void Rig::settle() {
  const uint64_t now = network_.now_us();
  reference_.set_unix_seconds(time().unix_seconds);
  bool all_run = now >= control_stalled_until_;
  bool busy = true;
  while (busy) {
    busy = false;
    for (CoreId c = 0; c < workers_.size(); ++c) {
      if (now < frozen_until_[c]) {
        all_run = false;
        continue;
      }
      busy |= run_core(c) != 0;
    }
    if (now < control_stalled_until_) continue;
    busy |= server_->poll(time());
    for (CoreId c = 0; c < workers_.size(); ++c) {
      busy |= now >= frozen_until_[c] && !engine_->board().cores[c]->commands.empty();
      busy |= !engine_->board().cores[c]->events.empty();
    }
  }
  if (!all_run) return;
  const uint64_t now_excused = excuses();
  reference_.quiet(now_excused - excuses_before_, now_ms());
  excuses_before_ = now_excused;
  for (const std::string& v : watcher_->violations())
    throw Violation("watcher: " + v);
  if (card_->wrong_egress() != 0) throw Violation("a datagram left by another port than its own");
}

uint64_t Rig::excuses() const {
  const TurnStats s = server_->stats();
  uint64_t out = s.command_ring_full + s.requests_silenced + ports_refused_;
  for (CoreId c = 0; c < workers_.size(); ++c)
    out += engine_->stats(c).events_dropped.get();
  return out;
}

uint32_t Rig::run_core(CoreId core) {
  packets_phase_ = false;
  came_.clear();
  left_count_ = left_taken_ = 0;
  const uint32_t done = workers_[core]->run_once();
  judge_turn(core);
  return done;
}

TransportAddress Rig::local(uint16_t address, uint16_t port) const {
  return {addresses_[address].bound, port};
}

Arrival Rig::arrival_of(const RxDatagram& rx) const {
  Arrival a;
  a.kind = rx.kind;
  a.from = rx.source;
  a.to = rx.kind == RxKind::kClient ? config_.listeners[rx.listener].address
                                    : local(rx.relay.address, rx.relay.port);
  a.ttl = rx.ttl;
  a.tos = rx.tos;
  a.df = rx.df == DontFragment::kSet;
  a.icmp_type = rx.icmp_type;
  a.icmp_code = rx.icmp_code;
  a.icmp_mtu = rx.icmp_mtu;
  a.data = {rx.payload, rx.length};
  return a;
}

void Rig::core_received(CoreId core, std::span<const RxDatagram> rx) {
  packets_phase_ = true;
  for (const RxDatagram& datagram : rx) {
    Judged judged;
    judged.arrival = arrival_of(datagram);
    const Arrival& a = judged.arrival;
    if (a.kind == RxKind::kClient) {
      note_bytes(a.from, a.data.size(), true);
      sim::Datagram d;
      d.from = a.from;
      d.to = a.to;
      if (!a.data.empty() && a.data[0] < 2) {
        d.payload.assign(a.data.begin(), a.data.end());
        watcher_->client_sent(d);
      }
    }
    if (a.kind == RxKind::kClient && ++clients_sent_ % 7 == 0 && a.data.size() < 1500) {
      sim::Datagram d;
      d.from = a.from;
      d.to = a.to;
      d.payload.assign(a.data.begin(), a.data.end());
      if (captures_.size() < 64)
        captures_.push_back(std::move(d));
      else
        captures_[clients_sent_ / 7 % 64] = std::move(d);
    }
    note_order_in(a);
    judged.fate = reference_.received(core, a, now_ms());
    came_.push_back(judged);
  }
  packets_ += rx.size();
}

void Rig::core_sent(CoreId core, const TxBurst& tx) {
  for (uint32_t i = 0; i < tx.count; ++i) {
    const TxDatagram& t = tx.items[i];
    if (left_.size() == left_count_) left_.emplace_back();
    sim::Datagram& d = left_[left_count_];
    d.from = local(t.from_address, t.from_port);
    d.to = t.to;
    d.ttl = t.ttl;
    d.tos = t.tos;
    d.dont_fragment = t.dont_fragment;
    d.payload.assign(t.head.data(), t.head.data() + t.head_length);
    if (t.length != 0) d.payload.insert(d.payload.end(), t.payload, t.payload + t.length);
    d.payload.insert(d.payload.end(), t.pad_length, 0);
    if (!packets_phase_) {
      reference_.answered(core, d, now_ms());
      note_bytes(d.to, d.payload.size(), false);
    } else {
      ++left_count_;
    }
    watcher_->relay_sent(d, now_ms());
  }
}

// ------------------------------------------------------------------ judging

void Rig::judge_turn(CoreId core) {
  const auto cores = static_cast<CoreId>(workers_.size());
  bool any = !came_.empty();
  for (CoreId from = 0; from < cores; ++from)
    any |= !handed_[size_t{from} * cores + core].empty();
  if (!any) return;
  const CoreStats& stats = engine_->stats(core);
  for (size_t o = 0; o < kOutcomes; ++o) {
    const uint64_t now = stats.outcomes[o].get();
    remaining_[o] = static_cast<int64_t>(now - counted_[core][o]);
    counted_[core][o] = now;
  }
  std::vector<std::vector<Judged>> groups;
  groups.push_back(std::move(came_));
  for (CoreId from = 0; from < cores; ++from) {
    auto& ring = handed_[size_t{from} * cores + core];
    std::vector<Judged> group(std::min(ring.size(), kMaxBurst));
    for (size_t i = 0; i < group.size(); ++i) {
      group[i].arrival = ring[i].arrival;
      group[i].arrival.data = ring[i].bytes;
      group[i].fate = reference_.received(core, group[i].arrival, now_ms());
    }
    groups.push_back(std::move(group));
  }
  // What has but one end keeps its place in the counters; what may end in several takes the rest.
  certain_.fill(0);
  for (const auto& group : groups) {
    for (const Judged& judged : group)
      certain_[static_cast<size_t>(judged.fate.outcome)] += is_certain(judged.fate) ? 1 : 0;
  }
  for (auto& group : groups)
    judge_group(core, group);
  for (const auto& [judged, outcome] : chosen_)
    reference_.confirm(core, judged.arrival, judged.fate, outcome, now_ms());
  // Which of several requests a budget or a full ring refused only their answers will tell.
  const auto requests = std::count_if(chosen_.begin(), chosen_.end(), [](const auto& c) {
    return c.first.fate.way == Fate::Way::kControl;
  });
  for (const auto& [judged, outcome] : chosen_) {
    if (requests > 1 && judged.fate.way == Fate::Way::kControl)
      reference_.unsure(core, judged.arrival, outcome, now_ms());
  }
  chosen_.clear();
  for (CoreId from = 0; from < cores; ++from) {
    auto& ring = handed_[size_t{from} * cores + core];
    ring.erase(ring.begin(), ring.begin() + static_cast<ptrdiff_t>(groups[from + 1u].size()));
  }
  came_ = std::move(groups[0]);
  if (left_taken_ != left_count_) {
    throw Violation("core " + std::to_string(core) +
                    " sent what nothing it received explains, to " +
                    left_[left_taken_].to.to_string());
  }
  for (size_t o = 0; o < kOutcomes; ++o) {
    if (remaining_[o] == 0) continue;
    throw Violation("core " + std::to_string(core) + " counted " +
                    std::string(kOutcomeInfo[o].name) + " " + std::to_string(remaining_[o]) +
                    " times more than the reference");
  }
}

void Rig::judge_group(CoreId core, std::vector<Judged>& group) {
  std::vector<Arrival> second;
  for (const Judged& judged : group)
    judge_one(core, judged, second);
  std::vector<Arrival> none;
  for (const Arrival& arrival : second)
    judge_one(core, {arrival, reference_.received(core, arrival, now_ms())}, none);
}

bool Rig::take(CoreId core, const Judged& judged, Outcome outcome, bool seen) {
  const auto o = static_cast<size_t>(outcome);
  const bool certain = is_certain(judged.fate) && outcome == judged.fate.outcome;
  if (remaining_[o] <= (certain || seen ? 0 : certain_[o])) return false;
  --remaining_[o];
  if (certain && certain_[o] > 0) --certain_[o];
  const Fate::Way way = judged.fate.way;
  if (!certain && !seen && (way == Fate::Way::kDropped || way == Fate::Way::kControl)) {
    chosen_.emplace_back(judged, outcome);  // it may turn out that another needed that place
    return true;
  }
  reference_.confirm(core, judged.arrival, judged.fate, outcome, now_ms());
  return true;
}

void Rig::judge_one(CoreId core, const Judged& judged, std::vector<Arrival>& second) {
  const Fate& fate = judged.fate;
  const bool leaves = fate.way == Fate::Way::kRaw || fate.way == Fate::Way::kChannel ||
                      fate.way == Fate::Way::kData || fate.way == Fate::Way::kIcmp ||
                      fate.way == Fate::Way::kBinding || fate.way == Fate::Way::kError;
  if (leaves && left_taken_ < left_count_) {
    const sim::Datagram& next = left_[left_taken_];
    Outcome outcome = fate.outcome;
    if (reference_.matches(fate, next, judged.arrival, now_ms(), outcome)) {
      if (!take(core, judged, outcome, true)) disagree(core, judged);
      if (fate.way == Fate::Way::kBinding || fate.way == Fate::Way::kError)
        note_bytes(next.to, next.payload.size(), false);
      else
        note_order_out(next);
      ++left_taken_;
      return;
    }
  }
  if (!leaves && take(core, judged, fate.outcome, false)) return pass_on(core, fate, second);
  for (size_t o = 0; o < kOutcomes; ++o) {
    if ((fate.may >> o & 1) != 0 && take(core, judged, static_cast<Outcome>(o), false)) return;
  }
  if (make_room(judged)) return;
  disagree(core, judged);
}

// An earlier datagram of this turn took the end that only this one can have: it takes another.
bool Rig::make_room(const Judged& judged) {
  const OutcomeBits mine = judged.fate.may | bit(judged.fate.outcome);
  const Fate::Way way = judged.fate.way;
  if (way != Fate::Way::kDropped && way != Fate::Way::kControl) return false;
  for (auto& [earlier, outcome] : chosen_) {
    if ((mine & bit(outcome)) == 0) continue;
    const OutcomeBits others = (earlier.fate.may | bit(earlier.fate.outcome)) & ~bit(outcome);
    for (size_t o = 0; o < kOutcomes; ++o) {
      if ((others >> o & 1) == 0 || remaining_[o] == 0) continue;
      --remaining_[o];
      const Outcome freed = outcome;
      outcome = static_cast<Outcome>(o);
      chosen_.emplace_back(judged, freed);
      return true;
    }
  }
  return false;
}

void Rig::pass_on(CoreId core, const Fate& fate, std::vector<Arrival>& second) {
  if (fate.way == Fate::Way::kSecond) second.push_back(fate.next);
  if (fate.way != Fate::Way::kHandOff) return;
  Handed handed;
  handed.arrival = fate.next;
  handed.bytes.assign(fate.next.data.begin(), fate.next.data.end());
  handed_[size_t{core} * workers_.size() + fate.core].push_back(std::move(handed));
}

void Rig::disagree(CoreId core, const Judged& judged) const {
  const Arrival& a = judged.arrival;
  std::string text = "core " + std::to_string(core) + ": the reference has " +
                     std::string(info(judged.fate.outcome).name) + " for " +
                     std::to_string(a.data.size()) + " bytes from " + a.from.to_string() + " to " +
                     a.to.to_string();
  if (!a.data.empty()) text += ", first byte " + std::to_string(a.data[0]);
  if (a.data.size() > 1) text += " " + std::to_string(a.data[1]);
  text += "; the relay counted";
  for (size_t o = 0; o < kOutcomes; ++o) {
    if (remaining_[o] != 0)
      text += " " + std::string(kOutcomeInfo[o].name) + "=" + std::to_string(remaining_[o]);
  }
  if (left_taken_ < left_count_) {
    const sim::Datagram& next = left_[left_taken_];
    text += "; next left " + std::to_string(next.payload.size()) + " bytes from " +
            next.from.to_string() + " to " + next.to.to_string() + " ttl " +
            std::to_string(next.ttl);
  }
  throw Violation(text);
}

// ------------------------------------------------------------------ order

void Rig::note_order_in(const Arrival& a) {
  if (a.kind == RxKind::kIcmpError) return;
  const codec::Bytes data = application_data(a.data, a.kind == RxKind::kClient);
  if (data.size() < kFlowHeader || load_be32(data.data()) != kFlowMark) return;
  auto& flow = flows_[load_be32(&data[4])];
  flow.push_back(load_be32(&data[8]));
}

void Rig::note_order_out(const sim::Datagram& d) {
  const bool listener = std::any_of(config_.listeners.begin(), config_.listeners.end(),
                                    [&](const ListenConfig& l) { return l.address == d.from; });
  const codec::Bytes data = application_data(d.payload, listener);
  if (data.size() < kFlowHeader || load_be32(data.data()) != kFlowMark) return;
  auto& flow = flows_[load_be32(&data[4])];
  const uint32_t number = load_be32(&data[8]);
  // What was dropped on the way is skipped; what came earlier cannot leave later.
  while (!flow.empty() && flow.front() != number)
    flow.pop_front();
  if (flow.empty())
    throw Violation("flow " + std::to_string(load_be32(&data[4])) + ": order lost at datagram " +
                    std::to_string(number));
  flow.pop_front();
}

// ------------------------------------------------------------------ checks

void Rig::note_bytes(const TransportAddress& client, size_t bytes, bool in) {
  if (!is_spoofed(client)) return;
  Bytes& prefix = prefixes_[client.ip.v4_host() >> 8];
  if (prefix.in == 0) prefix.since_ms = now_ms();
  (in ? prefix.in : prefix.out) += bytes + 28;
  if (in) return;
  // A core's bucket begins full with ten seconds of its share of the rate.
  const uint64_t rate = config_.reply_budget.per_prefix;
  const uint64_t most = prefix.in + rate * 10 + rate * (now_ms() - prefix.since_ms) / 1000;
  if (prefix.out > most)
    throw Violation("spoofed sources of a /24 drew more than the reply budget");
}

void Rig::check_conservation() const {
  for (CoreId c = 0; c < workers_.size(); ++c) {
    const CoreStats& s = engine_->stats(c);
    uint64_t sum = 0;
    for (const Counter& counter : s.outcomes)
      sum += counter.get();
    const uint64_t came = s.received_packets.get() + s.hairpin_passes.get() + s.handed_in.get();
    if (came != sum) {
      throw Violation("core " + std::to_string(c) + ": " + std::to_string(came) +
                      " datagrams came, " + std::to_string(sum) + " outcomes were counted");
    }
  }
}

void Rig::check_tables() {
  check_conservation();
  const Reference::Counts mine = reference_.counts(now_ms());
  size_t allocations = 0;
  size_t permissions = 0;
  for (auto& worker : workers_) {
    allocations += worker->core().flows.live_allocations;
    permissions += worker->core().flows.permission_table.size();
  }
  if (allocations < mine.allocations || allocations > mine.at_most) {
    throw Violation("the cores hold " + std::to_string(allocations) + " allocations, " +
                    std::to_string(mine.allocations) + " to " + std::to_string(mine.at_most) +
                    " were granted");
  }
  if (permissions < mine.permissions)
    throw Violation("the cores hold " + std::to_string(permissions) + " permissions of " +
                    std::to_string(mine.permissions) + " live ones");
  server_->each_allocation(0, [&](const AllocationInfo& a) {
    if (!reference_.knows(a.client))
      throw Violation("control holds an allocation of " + a.client.to_string() +
                      " that was never granted");
    if (is_spoofed(a.client)) throw Violation("an allocation of a spoofed source");
    return true;
  });
}

void Rig::check_empty() {
  check_conservation();
  for (auto& worker : workers_) {
    const FlowState& f = worker->core().flows;
    if (f.live_allocations != 0 || f.permission_table.size() != 0 ||
        f.narrow.size() + f.wide.size() != 0 || f.open_ports != 0 || f.redirects.size() != 0) {
      throw Violation("left behind: " + std::to_string(f.live_allocations) + " allocations, " +
                      std::to_string(f.permission_table.size()) + " permissions, " +
                      std::to_string(f.narrow.size() + f.wide.size()) + " flows, " +
                      std::to_string(f.open_ports) + " ports, " +
                      std::to_string(f.redirects.size()) + " redirects");
    }
  }
  const TurnStats s = server_->stats();
  if (card_->open_ports() != 0 || s.allocations != 0 || s.reservations != 0 ||
      s.ports_free != s.ports_total) {
    throw Violation("left behind in control: " + std::to_string(s.allocations) + " allocations, " +
                    std::to_string(s.reservations) + " reservations, " +
                    std::to_string(s.ports_total - s.ports_free) + " ports, " +
                    std::to_string(card_->open_ports()) + " open");
  }
}

}  // namespace culvert::sim_test
