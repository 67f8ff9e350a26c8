#include "tools/stun_client/client.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "dataplane/base/endian.h"

namespace culvert::stun_client {
namespace {

// A permission lives 300 s and a channel 600 s, and binding a channel renews its permission: both
// are asked for again after 240 s, which leaves the 39.5 s of one whole transaction to spare.
constexpr uint64_t kRenewNs = 240 * kSecondNs;
constexpr unsigned kMaxAttempts = 4;  // first, 401, 438, and one more 438

uint64_t next_random(uint64_t& state) {  // splitmix64: ids need to differ, not to be secret
  state += 0x9e3779b97f4a7c15u;
  uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

TurnClient::TurnClient(const ClientConfig& config, Credentials* credentials, uint64_t seed)
    : config_(&config), credentials_(credentials), random_(seed) {}

TransactionId TurnClient::new_id() {
  TransactionId id;
  store_be64(id.data(), next_random(random_));
  store_be32(&id[8], static_cast<uint32_t>(next_random(random_)));
  return id;
}

uint32_t TurnClient::binding(uint64_t now) {
  return start({.method = Method::kBinding}, now);
}

uint32_t TurnClient::allocate(const AllocateOptions& options, uint64_t now) {
  return start({.method = Method::kAllocate, .allocate = options}, now);
}

uint32_t TurnClient::refresh(uint32_t lifetime_s, uint64_t now) {
  return start({.method = Method::kRefresh, .lifetime_s = lifetime_s}, now);
}

uint32_t TurnClient::create_permission(std::span<const TransportAddress> peers, uint64_t now) {
  return start({.method = Method::kCreatePermission, .peers = {peers.begin(), peers.end()}}, now);
}

uint32_t TurnClient::channel_bind(uint16_t channel, const TransportAddress& peer, uint64_t now) {
  return start({.method = Method::kChannelBind, .channel = channel, .peers = {peer}}, now);
}

uint32_t TurnClient::start(Body body, uint64_t now) {
  body.request = next_request_++;
  const uint32_t request = body.request;
  launch(std::move(body), 0, now);
  return request;
}

void TurnClient::launch(Body body, unsigned attempts, uint64_t now) {
  Transaction transaction;
  transaction.id = new_id();
  transaction.authenticated =
      credentials_ != nullptr && !nonce_.empty() && body.method != Method::kBinding;
  transaction.datagram = encode(body, transaction.id, transaction.authenticated);
  transaction.body = std::move(body);
  transaction.first_sent_ns = now;
  transaction.interval_ns = config_->rto_ns;
  transaction.deadline_ns = now + transaction.interval_ns;
  transaction.attempts = attempts + 1;
  transaction.sent = 1;
  transactions_.push_back(std::move(transaction));
}

std::vector<uint8_t> TurnClient::encode(const Body& body, const TransactionId& id,
                                        bool authenticated) {
  MessageBuilder message(body.method, Class::kRequest, id);
  if (!config_->software.empty()) message.add(Attr::kSoftware, config_->software);
  if (body.method == Method::kAllocate) encode_allocate(message, body.allocate);
  if (body.method == Method::kRefresh) message.add_u32(Attr::kLifetime, body.lifetime_s);
  if (body.method == Method::kChannelBind) message.add_channel(body.channel);
  for (const auto& peer : body.peers)
    message.add_xor_address(Attr::kXorPeerAddress, peer);
  if (authenticated) authenticate(message);
  if (config_->fingerprint) message.add_fingerprint();
  return message.take();
}

void TurnClient::encode_allocate(MessageBuilder& message, const AllocateOptions& options) const {
  message.add_u8(Attr::kRequestedTransport, options.transport);
  if (options.lifetime_s) message.add_u32(Attr::kLifetime, *options.lifetime_s);
  if (options.family) message.add_u8(Attr::kRequestedAddressFamily, family_code(*options.family));
  if (options.additional_family)
    message.add_u8(Attr::kAdditionalAddressFamily, family_code(*options.additional_family));
  if (options.even_port) message.add_even_port(*options.even_port);
  if (options.dont_fragment) message.add_flag(Attr::kDontFragment);
  if (options.reservation_token) {
    std::array<uint8_t, 8> token{};
    store_be64(token.data(), *options.reservation_token);
    message.add(Attr::kReservationToken, token);
  }
}

void TurnClient::authenticate(MessageBuilder& message) {
  if (use_userhash_) {
    message.add(Attr::kUserhash, credentials_->hashed_user(realm_));
  } else {
    message.add(Attr::kUsername, credentials_->user());
  }
  message.add(Attr::kRealm, realm_).add(Attr::kNonce, nonce_);
  const Key& key = credentials_->key(algorithm_, realm_);
  if (offered_.empty()) {
    message.add_integrity(key);
    return;
  }
  // Offered algorithms are repeated unchanged, and then only -SHA256 is used (section 9.2.5).
  message.add(Attr::kPasswordAlgorithms, offered_);
  message.add_password_algorithm(algorithm_);
  message.add_integrity_sha256(key);
}

Received TurnClient::receive(Bytes datagram, uint64_t now) {
  if (looks_like_channel_data(datagram)) return Received::kChannelData;
  const auto message = MessageView::parse(datagram);
  if (!message) return Received::kIgnored;
  if (message->cls() == Class::kIndication) return Received::kIndication;
  if (message->cls() == Class::kRequest) return Received::kIgnored;
  const auto id = message->transaction_id();
  const auto at = std::find_if(transactions_.begin(), transactions_.end(),
                               [&](const Transaction& t) { return t.id == id; });
  if (at == transactions_.end() || at->body.method != message->method()) return Received::kIgnored;
  if (message->has(Attr::kFingerprint) && !message->fingerprint_valid()) return Received::kIgnored;
  // A response that fails its check is ignored as if it had never come (section 9.2.5).
  if (!response_authentic(*at, *message)) return Received::kIgnored;
  Transaction done = std::move(*at);
  if (at != transactions_.end() - 1) *at = std::move(transactions_.back());
  transactions_.pop_back();
  if (message->cls() == Class::kSuccess) {
    on_success(std::move(done), *message, now);
  } else {
    on_error(std::move(done), *message, now);
  }
  return Received::kResponse;
}

bool TurnClient::response_authentic(const Transaction& transaction,
                                    const MessageView& message) const {
  if (!transaction.authenticated || !config_->verify_integrity) return true;
  const bool sha256 = message.has(Attr::kMessageIntegritySha256);
  if (!sha256 && !message.has(Attr::kMessageIntegrity)) {
    // Challenges carry none (section 9.2.4), and a server that could not find the user cannot.
    const auto error = message.error();
    return error && (error->code == 400 || error->code == 401 || error->code == 438 ||
                     error->code == 500 || error->code == 508);
  }
  const Key& key = credentials_->key(algorithm_, realm_);
  return sha256 ? message.integrity_sha256_valid(key)
                : offered_.empty() && message.integrity_valid(key);
}

void TurnClient::on_success(Transaction done, const MessageView& message, uint64_t now) {
  if (message.has(Attr::kXorMappedAddress)) mapped_ = message.xor_address(Attr::kXorMappedAddress);
  if (done.body.method == Method::kAllocate) {
    on_allocated(message, now);
    if (relayed_.empty()) {
      finish(done, Event::Kind::kError, 0, "success without XOR-RELAYED-ADDRESS", now);
      return;
    }
  }
  if (done.body.method == Method::kRefresh) {
    lifetime_s_ = message.u32(Attr::kLifetime).value_or(done.body.lifetime_s);
    refresh_at_ns_ = now + uint64_t{lifetime_s_} * kSecondNs / 2;
    if (lifetime_s_ == 0) {
      relayed_.clear();
      bound_.clear();
      refresh_at_ns_ = kNever;
    }
  }
  if (done.body.method == Method::kCreatePermission || done.body.method == Method::kChannelBind)
    remember(done.body, now);
  finish(done, Event::Kind::kSuccess, 0, {}, now);
}

void TurnClient::on_allocated(const MessageView& message, uint64_t now) {
  relayed_ = message.xor_addresses(Attr::kXorRelayedAddress);
  lifetime_s_ = message.u32(Attr::kLifetime).value_or(600);
  refresh_at_ns_ = now + uint64_t{lifetime_s_} * kSecondNs / 2;
  token_.reset();
  if (const auto* token = message.find(Attr::kReservationToken); token && token->value.size() == 8)
    token_ = load_be64(token->value.data());
  address_error_.reset();
  if (const auto* error = message.find(Attr::kAddressErrorCode); error && error->value.size() >= 4)
    address_error_ = ErrorCode{(error->value[2] & 7) * 100 + error->value[3],
                               std::string(error->value.begin() + 4, error->value.end())};
}

void TurnClient::remember(const Body& body, uint64_t now) {
  for (const auto& peer : body.peers) {
    const auto at = std::find_if(bound_.begin(), bound_.end(), [&](const Bound& b) {
      return b.channel == body.channel && b.peer == peer;
    });
    if (at == bound_.end()) {
      bound_.push_back({body.channel, peer, now + kRenewNs});
    } else {
      at->refresh_at_ns = now + kRenewNs;
    }
  }
}

void TurnClient::on_error(Transaction done, const MessageView& message, uint64_t now) {
  const auto error = message.error();
  if (!error) {
    finish(done, Event::Kind::kError, 0, "error response without ERROR-CODE", now);
    return;
  }
  // A 401 to a request that had credentials means that they are wrong (section 9.2.5).
  const bool challenge = error->code == 438 || (error->code == 401 && !done.authenticated);
  if (challenge && credentials_ != nullptr && done.attempts < kMaxAttempts) {
    std::string reason;
    if (take_challenge(message, reason)) {
      launch(std::move(done.body), done.attempts, now);
    } else {
      finish(done, Event::Kind::kError, 0, reason, now);
    }
    return;
  }
  finish(done, Event::Kind::kError, error->code, error->reason, now);
  if (error->code == 300) events_.back().alternate_server = message.address(Attr::kAlternateServer);
}

bool TurnClient::take_challenge(const MessageView& message, std::string& reason) {
  const auto realm = message.text(Attr::kRealm);
  const auto nonce = message.text(Attr::kNonce);
  if (!realm || !nonce || nonce->empty()) {
    reason = "challenge without REALM or NONCE";
    return false;
  }
  if (!config_->expected_realm.empty() && *realm != config_->expected_realm) {
    reason = "the server's realm is '" + std::string(*realm) + "', not the one asked for";
    return false;
  }
  const auto features = nonce_features(*nonce);
  std::vector<uint8_t> offered;
  PasswordAlgorithm algorithm = PasswordAlgorithm::kMd5;
  bool hashed = false;
  if (config_->auth == ClientConfig::Auth::kOffered) {
    const auto* list = message.find(Attr::kPasswordAlgorithms);
    // The bid-down check: a promise in the nonce that the attribute does not keep (section 9.2.5).
    if (features.password_algorithms && list == nullptr) {
      reason = "the nonce promises PASSWORD-ALGORITHMS and the response has none";
      return false;
    }
    if (features.password_algorithms) {
      offered.assign(list->value.begin(), list->value.end());
      const auto known = message.password_algorithms();
      const auto has = [&](PasswordAlgorithm a) {
        return std::find(known.begin(), known.end(), a) != known.end();
      };
      if (!has(PasswordAlgorithm::kSha256) && !has(PasswordAlgorithm::kMd5)) {
        reason = "the server offers no password algorithm that this client knows";
        return false;
      }
      // RFC 8656 section 6: SHA-256 must be used where both sides have it.
      if (has(PasswordAlgorithm::kSha256)) algorithm = PasswordAlgorithm::kSha256;
    }
    hashed = features.username_anonymity;
  }
  realm_ = *realm;
  nonce_ = *nonce;
  offered_ = std::move(offered);
  algorithm_ = algorithm;
  use_userhash_ = hashed;
  return true;
}

void TurnClient::finish(const Transaction& done, Event::Kind kind, int code, std::string reason,
                        uint64_t now) {
  events_.push_back({kind, done.body.request, done.body.method, code, std::move(reason),
                     now - done.first_sent_ns, std::nullopt});
}

void TurnClient::tick(uint64_t now) {
  for (size_t i = 0; i < transactions_.size();) {
    auto& t = transactions_[i];
    if (now < t.deadline_ns) {
      ++i;
      continue;
    }
    if (t.sent >= config_->rc) {
      const Transaction lost = std::move(t);
      if (i + 1 != transactions_.size()) transactions_[i] = std::move(transactions_.back());
      transactions_.pop_back();
      finish(lost, Event::Kind::kTimeout, 0, "no answer", now);
      continue;
    }
    t.due = true;
    ++t.sent;
    ++retransmissions_;
    t.interval_ns *= 2;
    // After the last request the wait is Rm times the first RTO (section 6.2.1).
    t.deadline_ns += t.sent == config_->rc ? config_->rm * config_->rto_ns : t.interval_ns;
    ++i;
  }
  if (config_->keep_alive && allocated()) keep_alive(now);
}

void TurnClient::keep_alive(uint64_t now) {
  if (now >= refresh_at_ns_) {
    refresh_at_ns_ = now + kRenewNs;  // until the answer sets it
    launch({.method = Method::kRefresh, .lifetime_s = lifetime_s_}, 0, now);
  }
  for (auto& bound : bound_) {
    if (now < bound.refresh_at_ns) continue;
    bound.refresh_at_ns = now + kRenewNs;
    launch({.method = bound.channel != 0 ? Method::kChannelBind : Method::kCreatePermission,
            .channel = bound.channel,
            .peers = {bound.peer}},
           0, now);
  }
}

uint64_t TurnClient::next_deadline() const {
  uint64_t next = kNever;
  for (const auto& t : transactions_)
    next = std::min(next, t.due ? 0 : t.deadline_ns);
  if (!config_->keep_alive || !allocated()) return next;
  next = std::min(next, refresh_at_ns_);
  for (const auto& bound : bound_)
    next = std::min(next, bound.refresh_at_ns);
  return next;
}

std::optional<Bytes> TurnClient::poll_transmit() {
  for (auto& t : transactions_) {
    if (!t.due) continue;
    t.due = false;
    sending_ = t.datagram;
    return Bytes{sending_};
  }
  return std::nullopt;
}

std::optional<Event> TurnClient::poll_event() {
  if (events_.empty()) return std::nullopt;
  Event event = std::move(events_.front());
  events_.erase(events_.begin());
  return event;
}

}  // namespace culvert::stun_client
