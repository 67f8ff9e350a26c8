// The relay mode, and calibration, which is the same traffic against a reflector. Each thread has
// its clients, its peers and its flows; a flow is one direction between one client and its partner.
// Flows take turns in a seeded order, one run each, so datagrams of different flows interleave. In
// paced sending the n-th run is due when the schedule says, whatever happened before; latency
// counts from that moment. The datagram's payload: run tag, flow, sequence number, due time.
#include <algorithm>
#include <cstring>
#include <random>

#include "tools/culvert-load/client_pool.h"
#include "tools/culvert-load/run.h"
#include "tools/culvert-load/sequence.h"
#include "tools/culvert-load/worker.h"

namespace culvert::load {
namespace {

using stun_client::Bytes;

constexpr size_t kBatch = 64;       // datagrams built before they are sent
constexpr size_t kPrefixRoom = 64;  // Send indication towards IPv6: 20 + 24 + 4
constexpr uint64_t kMaintainNs = 1'000'000;
constexpr uint64_t kIntroductionNs = 5 * kSecond;
constexpr uint64_t kIntroductionWaitNs = 2'000'000;
constexpr uint16_t kChannel = stun_client::kChannelFirst;

struct Stamp {
  uint32_t tag;
  uint32_t flow;
  uint64_t sequence;
  uint64_t due_ns;
};
static_assert(sizeof(Stamp) == kMinPayload);

struct Flow {
  Endpoint from = 0;
  bool has_destination = false;
  uint8_t direction = kToPeerIndex;
  uint8_t prefix_size = 0;
  std::array<uint8_t, kPrefixRoom> prefix{};
  Destination to;
  uint64_t next_sequence = 0;
  SequenceTracker arrived;
};

class RelayWorker final : public DriverWorker {
 public:
  using DriverWorker::DriverWorker;

  std::string prepare() override;
  void finish() override;

 private:
  std::string open_peers();
  std::string bind_pairs();
  std::string bind_round(uint32_t round);
  std::string introduce();
  void introduce_one(uint32_t client);
  [[nodiscard]] bool talks_turn() const {
    return o_.mode != Mode::kCalibrate && !o_.bare && !o_.reflector;
  }
  [[nodiscard]] TransportAddress relayed_address(size_t client) const {
    if (!o_.bare) return pool_->clients()[client].turn.relayed()[0];
    return {o_.bare->ip, static_cast<uint16_t>(o_.bare->port + client)};
  }
  [[nodiscard]] uint16_t channel_of(size_t client, uint32_t round) const {
    return static_cast<uint16_t>(kChannel + (o_.bare ? client : round));
  }
  // Which of peer_address_ the client's channel number `round` leads to. A client's channels need
  // different peers.
  [[nodiscard]] size_t peer_of(size_t client, uint32_t round) const {
    return (client * o_.channels + round) % peer_address_.size();
  }
  void make_flows();
  [[nodiscard]] std::string settle_flows();
  void add_flow(Flow flow, size_t direction);
  Flow client_flow(size_t client, uint32_t round, const TransportAddress& peer) const;
  void make_buffers();
  size_t build_run(uint64_t due);
  [[nodiscard]] bool room_for_a_run() const;
  size_t send_due(uint64_t now) override;
  void on_item(const RxItem& item, uint64_t now) override;
  void on_payload(Bytes payload, uint64_t now);
  void housekeeping(uint64_t now) override;

  uint32_t tag_ = 0;
  std::unique_ptr<ClientPool> pool_;
  std::vector<TransportAddress> peer_address_;
  std::vector<Endpoint> peers_;
  std::vector<Flow> flows_;
  std::vector<uint8_t> buffer_;
  size_t stride_ = 0;
  std::vector<TxItem> batch_;
  size_t turn_ = 0;
  uint64_t next_maintain_ = 0;
  uint64_t failures_ = 0;  // of the pool, counted
};

std::string RelayWorker::prepare() {
  std::string error = open_driver(o_.coalesce);
  if (!error.empty()) return error;
  tag_ = static_cast<uint32_t>(random_()) | 1u;
  pool_ = std::make_unique<ClientPool>(o_, *driver_, random_());
  if (error = open_peers(); !error.empty()) return error;
  if (error = pool_->open(share(o_.clients)); !error.empty()) return error;
  if (talks_turn()) {
    if (error = pool_->allocate_all(); !error.empty()) return error;
    if (error = bind_pairs(); !error.empty()) return error;
  }
  make_flows();
  make_buffers();
  if (error = settle_flows(); !error.empty()) return error;
  return o_.bare ? introduce() : std::string();
}

// The bare loop learns both ends of a flow from what they send. Each end repeats its index until
// the other has heard it, so that traffic begins with every flow known.
std::string RelayWorker::introduce() {
  const size_t count = pool_->clients().size();
  std::vector<uint8_t> heard(count);  // bit 0: by the peer, bit 1: by the client
  const auto hear = [&](Bytes payload, uint8_t by) {
    uint32_t index = 0;
    if (payload.size() != sizeof index) return;
    std::memcpy(&index, payload.data(), sizeof index);
    if (index < count) heard[index] = static_cast<uint8_t>(heard[index] | by);
  };
  const uint64_t give_up = monotonic_ns() + kIntroductionNs;
  while (std::any_of(heard.begin(), heard.end(), [](uint8_t h) { return h != 3; })) {
    if (monotonic_ns() > give_up) return "the bare loop at --server does not forward";
    size_t introduced = 0;
    for (uint32_t i = 0; i < count && introduced < kBatch; ++i) {
      if (heard[i] == 3) continue;
      introduce_one(i);
      ++introduced;
    }
    for (auto items = driver_->receive(kIntroductionWaitNs); !items.empty();
         items = driver_->receive(kIntroductionWaitNs)) {
      for (const auto& item : items) {
        const Bytes datagram{item.data, item.size};
        const auto data = stun_client::parse_channel_data(datagram);
        const bool at_peer = item.at < peers_.size();
        if (at_peer) hear(datagram, 1);
        if (!at_peer && data) hear(data->payload, 2);
      }
    }
  }
  return {};
}

void RelayWorker::introduce_one(uint32_t client) {
  const auto relayed = Destination::of(relayed_address(client));
  std::array<uint8_t, 8> hello{};
  const auto header = stun_client::channel_data_header(channel_of(client, 0), sizeof client);
  std::copy(header.begin(), header.end(), hello.begin());
  std::memcpy(&hello[4], &client, sizeof client);
  const TxItem from_client{pool_->clients()[client].endpoint, nullptr, hello.data(), 8, 0};
  const TxItem from_peer{peers_[client % peers_.size()], &relayed, &hello[4], 4, 0};
  driver_->send({&from_client, 1});
  driver_->send({&from_peer, 1});
}

std::string RelayWorker::open_peers() {
  if (o_.mode == Mode::kCalibrate || o_.reflector || o_.topology == Topology::kClientToClient)
    return {};
  const auto wanted = ClientPool::allocate_options(o_).family.value_or(Family::kIpv4);
  AddressSet at = o_.peer_address;
  if (at.empty())
    if (const auto ip = driver_->peer_address(o_.server.ip, wanted)) at.add({*ip, 1});
  if (at.family() != wanted) return "--peer-address is not of the relayed address's family";
  const uint32_t useful = share(o_.clients) * o_.channels;
  const uint32_t count = std::max(o_.channels, std::min(share(o_.peers), useful));
  for (uint32_t i = 0; i < count; ++i) {
    std::string error;
    const auto endpoint = driver_->open({at.at(i), 0}, std::nullopt, error);
    if (!endpoint) return error;
    peers_.push_back(*endpoint);
    peer_address_.push_back(driver_->local(*endpoint));
  }
  return {};
}

// The partner of client i: a peer, or the relayed address of the client it is paired with.
std::string RelayWorker::bind_pairs() {
  auto& clients = pool_->clients();
  if (o_.topology == Topology::kClientToClient) {
    peer_address_.resize(clients.size());
    for (size_t i = 0; i < clients.size(); ++i) {
      // The last of an odd number has no partner and talks to itself through the relay.
      const size_t partner = (i ^ 1) < clients.size() ? i ^ 1 : i;
      peer_address_[i] = clients[partner].turn.relayed()[0];
    }
  }
  std::string error;
  for (uint32_t round = 0; round < o_.channels && error.empty(); ++round)
    error = bind_round(round);
  return error;
}

std::string RelayWorker::bind_round(uint32_t round) {
  const bool channel = o_.encoding == Encoding::kChannel;
  return pool_->for_all(channel ? "ChannelBind" : "CreatePermission",
                        [&](PoolClient& client, size_t i, uint64_t now) {
                          const auto& peer = peer_address_[peer_of(i, round)];
                          if (channel) {
                            client.turn.channel_bind(channel_of(i, round), peer, now);
                          } else {
                            client.turn.create_permission({&peer, 1}, now);
                          }
                        });
}

// What a client sends: ChannelData, or a Send indication whose header is built once.
Flow RelayWorker::client_flow(size_t client, uint32_t round, const TransportAddress& peer) const {
  Flow flow;
  flow.from = pool_->clients()[client].endpoint;
  if (o_.encoding == Encoding::kChannel) {
    const auto header =
        stun_client::channel_data_header(channel_of(client, round), static_cast<uint16_t>(o_.size));
    std::copy(header.begin(), header.end(), flow.prefix.begin());
    flow.prefix_size = 4;
    return flow;
  }
  stun_client::TransactionId id{};
  std::memcpy(id.data(), &client, sizeof client);
  stun_client::MessageBuilder message(stun_client::Method::kSend, stun_client::Class::kIndication,
                                      id);
  const std::vector<uint8_t> payload(o_.size);
  message.add_xor_address(stun_client::Attr::kXorPeerAddress, peer);
  const size_t prefix = message.bytes().size() + 4;
  message.add(stun_client::Attr::kData, payload);
  std::copy_n(message.bytes().begin(), prefix, flow.prefix.begin());
  flow.prefix_size = static_cast<uint8_t>(prefix);
  return flow;
}

void RelayWorker::add_flow(Flow flow, size_t direction) {
  flow.direction = static_cast<uint8_t>(direction);
  flows_.push_back(flow);
}

void RelayWorker::make_flows() {
  const auto& clients = pool_->clients();
  for (size_t i = 0; i < clients.size(); ++i) {
    if (o_.mode == Mode::kCalibrate || o_.topology == Topology::kClientToClient) {
      const auto peer = peer_address_.empty() ? TransportAddress{} : peer_address_[i];
      add_flow(client_flow(i, 0, peer), kToPeerIndex);
      continue;
    }
    for (uint32_t round = 0; round < o_.channels; ++round) {
      if (o_.reflector) {
        add_flow(client_flow(i, round, {}), kToPeerIndex);
        continue;
      }
      const size_t peer = peer_of(i, round);
      if (o_.direction != Direction::kToClient)
        add_flow(client_flow(i, round, peer_address_[peer]), kToPeerIndex);
      if (o_.direction == Direction::kToPeer) continue;
      Flow flow;
      flow.from = peers_[peer];
      flow.has_destination = true;
      flow.to = Destination::of(relayed_address(i));
      add_flow(flow, kToClientIndex);
    }
  }
  // A seeded order mixes the directions. Flows of one peer socket then rarely follow each other,
  // so to-client sends cost a call each, as they do from real peers.
  std::shuffle(flows_.begin(), flows_.end(), random_);
}

// Towards every address that peers send to: a handful of relayed ones, whatever the flows' number.
std::string RelayWorker::settle_flows() {
  std::vector<IpAddress> done;
  for (const Flow& flow : flows_) {
    const IpAddress& to = flow.to.address.ip;
    if (!flow.has_destination || std::find(done.begin(), done.end(), to) != done.end()) continue;
    done.push_back(to);
    if (auto error = driver_->settle(to); !error.empty()) return error;
  }
  return {};
}

void RelayWorker::make_buffers() {
  stride_ = (kPrefixRoom + o_.size + 4 + 63) / 64 * 64;
  if (o_.gso) stride_ = (o_.run_length * (kPrefixRoom + o_.size + 4) + 63) / 64 * 64;
  buffer_.resize(stride_ * (o_.gso ? std::max<size_t>(1, kBatch / o_.run_length) : kBatch + 64));
  for (auto& byte : buffer_)
    byte = static_cast<uint8_t>(random_());
  batch_.reserve(kBatch + kMaxGsoSegments);
}

// Adds the next flow's run to the batch; the number of its datagrams.
size_t RelayWorker::build_run(uint64_t due) {
  const size_t index = turn_;
  if (++turn_ == flows_.size()) turn_ = 0;
  Flow& flow = flows_[index];
  const bool send_indication = flow.prefix_size > 4;
  const size_t tail = send_indication ? (4 - o_.size % 4) % 4 : 0;  // STUN pads its attributes
  const size_t wire = flow.prefix_size + o_.size + tail;
  uint8_t* at = &buffer_[batch_.size() * stride_];
  TxItem run{flow.from, flow.has_destination ? &flow.to : nullptr, at, 0,
             static_cast<uint16_t>(o_.gso ? wire : 0)};
  for (uint32_t i = 0; i < o_.run_length; ++i) {
    std::memcpy(at, flow.prefix.data(), flow.prefix_size);
    const Stamp stamp{tag_, static_cast<uint32_t>(index), flow.next_sequence++, due};
    std::memcpy(at + flow.prefix_size, &stamp, sizeof stamp);
    if (o_.gso) {
      at += wire;
      run.size += static_cast<uint32_t>(wire);
    } else {
      run.data = at;
      run.size = static_cast<uint32_t>(wire);
      batch_.push_back(run);
      at += stride_;
    }
  }
  if (o_.gso) batch_.push_back(run);
  tally.count_sent(flow.direction, due, o_.run_length);
  sent_ += o_.run_length;
  return o_.run_length;
}

bool RelayWorker::room_for_a_run() const {
  return (batch_.size() + (o_.gso ? 1 : o_.run_length)) * stride_ <= buffer_.size();
}

size_t RelayWorker::send_due(uint64_t now) {
  size_t built = 0;
  while (built < kBatch && room_for_a_run()) {
    const auto due = take_due(now);
    if (!due) break;
    if (paced() && trial_.within(*due)) tally.lateness.record(now - *due);
    built += build_run(*due);
  }
  if (built == 0) return 0;
  transmit(batch_, built);
  batch_.clear();
  return built;
}

void RelayWorker::on_payload(Bytes payload, uint64_t now) {
  Stamp stamp{};
  if (payload.size() < sizeof stamp) {
    ++tally.strange;
    return;
  }
  std::memcpy(&stamp, payload.data(), sizeof stamp);
  if (stamp.tag != tag_ || stamp.flow >= flows_.size()) {
    ++tally.strange;
    return;
  }
  if (payload.size() != o_.size) {
    ++tally.corrupt;
    return;
  }
  Flow& flow = flows_[stamp.flow];
  const Arrival arrival = flow.arrived.arrive(stamp.sequence);
  if (arrival != Arrival::kDuplicate) ++received_;
  if (!trial_.within(stamp.due_ns)) return;
  FlowTally& counts = tally.flows[flow.direction];
  if (arrival == Arrival::kDuplicate) {
    ++counts.duplicates;
    return;
  }
  if (arrival == Arrival::kReordered) ++counts.reordered;
  tally.count_arrival(flow.direction, stamp.due_ns, now);
}

void RelayWorker::on_item(const RxItem& item, uint64_t now) {
  const bool to_client = item.at >= peers_.size();  // peers were opened first
  const size_t step = item.segment == 0 ? std::max(item.size, 1u) : item.segment;
  for (size_t at = 0; at < std::max(item.size, 1u); at += step) {
    const Bytes datagram{item.data + at, std::min<size_t>(step, item.size - at)};
    ++tally.rx_datagrams;
    if (!to_client) {
      on_payload(datagram, now);
    } else if (const auto data = stun_client::parse_channel_data(datagram)) {
      on_payload(data->payload, now);
    } else if (const auto indication = stun_client::parse_data_indication(datagram)) {
      on_payload(indication->payload, now);
    } else {
      const RxItem one{item.at, datagram.data(), static_cast<uint32_t>(datagram.size()), 0};
      if (!pool_->receive(one, now)) ++tally.strange;
    }
  }
}

void RelayWorker::housekeeping(uint64_t now) {
  if (now < next_maintain_) return;
  next_maintain_ = now + kMaintainNs;
  pool_->maintain(now);
  for (; failures_ < pool_->failures(); ++failures_)
    tally.count_error(pool_->first_failure());
}

void RelayWorker::finish() {
  if (pool_ && talks_turn()) pool_->release_all();
}

}  // namespace

std::unique_ptr<Worker> make_relay_worker(const Options& options, Network& network,
                                          uint32_t thread) {
  return std::make_unique<RelayWorker>(options, network, thread);
}

}  // namespace culvert::load
