#include "tools/culvert-load/client_pool.h"

#include "tools/culvert-load/run.h"

namespace culvert::load {
namespace {

using stun_client::Event;

constexpr uint64_t kPollNs = 10'000'000;
constexpr size_t kMaintainedAtOnce = 64;
constexpr uint64_t kReleaseNs = 2 * kSecond;  // after which allocations are left to expire
constexpr uint32_t kNobody = UINT32_MAX;

std::string explain(const Event& event) {
  if (event.kind == Event::Kind::kTimeout)
    return "no answer in 39.5 seconds; is the server there, and does its address route?";
  std::string out = event.code != 0 ? std::to_string(event.code) + " " : std::string();
  out += event.reason;
  if (event.code == 401) out += " (is --user or --password wrong?)";
  if (event.code == 403)
    out +=
        " (does the server permit peers there? its own relay address often is not: see "
        "--peer-address)";
  if (event.code == 486) out += " (the server's quota for this user)";
  if (event.code == 508) out += " (the server has no free port or no room left)";
  return out;
}

}  // namespace

ClientPool::ClientPool(const Options& options, Driver& driver, uint64_t seed)
    : options_(options),
      driver_(driver),
      config_(client_config(options)),
      credentials_(options.user, options.password),
      seed_(seed) {}

stun_client::ClientConfig ClientPool::client_config(const Options& options) {
  stun_client::ClientConfig config;
  config.auth = options.rfc5389 ? stun_client::ClientConfig::Auth::kRfc5389
                                : stun_client::ClientConfig::Auth::kOffered;
  config.expected_realm = options.realm;
  return config;
}

stun_client::AllocateOptions ClientPool::allocate_options(const Options& options) {
  stun_client::AllocateOptions out;
  const bool server_v6 = options.server.ip.is_v6();
  const bool relay_v6 = options.family == FamilyChoice::kCross ? !server_v6 : server_v6;
  // Left out, it means IPv4; older servers know no such attribute (RFC 8656 section 7.1).
  if (relay_v6) out.family = Family::kIpv6;
  return out;
}

std::optional<TransportAddress> ClientPool::local_address(const Options& options,
                                                          const Driver& driver, size_t index) {
  if (!options.local.empty()) return TransportAddress{options.local.at(index), 0};
  const auto ip = driver.source_address(options.server.ip);
  if (!ip) return std::nullopt;
  return TransportAddress{*ip, 0};
}

std::string ClientPool::open(uint32_t count) {
  const auto first_local = local_address(options_, driver_, 0);
  if (!first_local) return "there is no route to " + options_.server.to_string();
  clients_.reserve(count);
  for (uint32_t i = 0; i < count; ++i) {
    auto local = *first_local;
    if (!options_.local.empty()) local.ip = options_.local.at(i);
    std::string error;
    const auto endpoint = driver_.open(local, options_.server, error);
    if (!endpoint) return error;
    const uint64_t seed = seed_ ^ (uint64_t{i + 1} * 0x9e3779b97f4a7c15u);
    clients_.push_back({*endpoint, stun_client::TurnClient(config_, &credentials_, seed)});
    if (by_endpoint_.size() <= *endpoint) by_endpoint_.resize(*endpoint + 1, kNobody);
    by_endpoint_[*endpoint] = i;
  }
  return driver_.settle(options_.server.ip);
}

void ClientPool::flush(PoolClient& client) {
  while (const auto datagram = client.turn.poll_transmit()) {
    const TxItem item{client.endpoint, nullptr, datagram->data(),
                      static_cast<uint32_t>(datagram->size()), 0};
    driver_.send({&item, 1});
  }
}

void ClientPool::take_events(PoolClient& client) {
  while (const auto event = client.turn.poll_event()) {
    if (event->request != 0) ++done_;
    if (event->kind == Event::Kind::kSuccess) continue;
    ++failures_;
    if (first_failure_.empty()) first_failure_ = explain(*event);
  }
}

bool ClientPool::receive(const RxItem& item, uint64_t now) {
  if (item.at >= by_endpoint_.size() || by_endpoint_[item.at] == kNobody) return false;
  PoolClient& client = clients_[by_endpoint_[item.at]];
  const stun_client::Bytes datagram{item.data, item.size};
  if (client.turn.receive(datagram, now) != stun_client::Received::kResponse) return false;
  flush(client);
  take_events(client);
  return true;
}

void ClientPool::maintain(uint64_t now) {
  const size_t count = std::min(kMaintainedAtOnce, clients_.size());
  for (size_t i = 0; i < count; ++i) {
    PoolClient& client = clients_[next_maintained_];
    if (++next_maintained_ == clients_.size()) next_maintained_ = 0;
    if (client.turn.next_deadline() > now) continue;
    client.turn.tick(now);
    flush(client);
    take_events(client);
  }
}

std::string ClientPool::for_all(const char* what, const Request& request) {
  done_ = 0;
  size_t begun = 0;
  while (done_ < clients_.size()) {
    uint64_t now = monotonic_ns();
    while (begun < clients_.size() && begun - done_ < kInFlight) {
      PoolClient& client = clients_[begun];
      request(client, begun, now);
      flush(client);
      ++begun;
    }
    const auto items = driver_.receive(kPollNs);
    now = monotonic_ns();
    for (const auto& item : items)
      receive(item, now);
    // All of them when nothing came: a lost datagram must not wait for the walk to come round.
    if (items.empty())
      for (size_t walked = 0; walked < clients_.size(); walked += kMaintainedAtOnce)
        maintain(now);
    if (!first_failure_.empty()) return std::string(what) + " failed: " + first_failure_;
    if (interrupted()) return "interrupted";
  }
  return {};
}

std::string ClientPool::allocate_all() {
  const auto wanted = allocate_options(options_);
  auto error = for_all("Allocate", [&](PoolClient& client, size_t, uint64_t now) {
    client.turn.allocate(wanted, now);
  });
  if (!error.empty()) return error;
  for (const PoolClient& client : clients_)
    driver_.belongs_to(client.endpoint, client.turn.relayed()[0].port);
  return {};
}

void ClientPool::release_all() {
  const uint64_t give_up = monotonic_ns() + kReleaseNs;
  size_t begun = 0;
  size_t released = 0;
  while (released < clients_.size() && monotonic_ns() < give_up) {
    while (begun < clients_.size() && begun - released < kInFlight) {
      PoolClient& client = clients_[begun++];
      if (client.turn.allocated()) client.turn.refresh(0, monotonic_ns());
      flush(client);
    }
    for (const auto& item : driver_.receive(kPollNs))
      receive(item, monotonic_ns());
    released = 0;
    for (size_t i = 0; i < begun; ++i)
      released += clients_[i].turn.allocated() ? 0 : 1;
    maintain(monotonic_ns());
  }
}

}  // namespace culvert::load
