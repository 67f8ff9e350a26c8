#include "control/turn_server.h"

#include <algorithm>
#include <stdexcept>

#include "config/derive.h"
#include "control/snapshot_builder.h"
#include "control/turn_impl.h"
#include "crypto/credentials.h"
#include "crypto/random.h"
#include "dataplane/base/assert.h"
#include "dataplane/steer/client.h"
#include "dataplane/steer/owner.h"

namespace culvert {

TurnServer::Impl::Impl(const Config& config, Engine& engine, crypto::Random& random,
                       TurnHooks hooks, ControlTime now)
    : config_(config),
      engine_(engine),
      random_(random),
      hooks_(std::move(hooks)),
      now_(now),
      cores_(engine.cores()),
      per_core_(allocations_per_core(config.limits.max_allocations, engine.cores())),
      max_allocations_(config.limits.max_allocations),
      addresses_(local_addresses(config)),
      policy_(config.peers, addresses_),
      auth_(users_, random),
      records_(size_t{per_core_} * cores_),
      free_records_(cores_, kNoRecord),
      hash_key_{random.u64(), random.u64()},
      failures_({random.u64(), random.u64()}),
      by_client_(per_core_ * cores_) {
  if (config.relay_addresses.empty()) throw std::runtime_error("no relay address is configured");
  for (size_t i = 0; i < config.relay_addresses.size(); ++i) {
    ports_.emplace_back(config.relay_port_low, config.relay_port_high, cores_);
    (addresses_[i].bound.is_v4() ? relays_ipv4_ : relays_ipv6_).push_back(static_cast<uint16_t>(i));
  }
  if (!ports_.front().serves_all_cores())
    throw std::runtime_error("the relay port range has no port for some of the cores");
  for (size_t i = records_.size(); i-- > 0;) {
    const auto index = static_cast<uint32_t>(i);
    records_[i].next_free = free_records_[core_of(index)];
    free_records_[core_of(index)] = index;
  }
  reservations_.reserve(kMaxReservations);
  nonce_keys_ = fresh_keys();
  keys_rotate_ms_ = now.ms + uint64_t{config.limits.nonce_lifetime_seconds} * 1000;
  next_rebalance_ms_ = now.ms + kRebalanceMs;
  // One allocation in each: every core counts as busy.
  whole_shares_.assign(cores_, BandwidthShare{1, 0, 0});
  load_realms(config);
  publish();
  rebalance();
}

NonceKeys TurnServer::Impl::fresh_keys() {
  NonceKeys keys;
  for (SipKey& key : keys.key)
    key = {random_.u64(), random_.u64()};
  return keys;
}

// One key a nonce lifetime: a nonce made just before the change stays good for a whole lifetime,
// because its key is replaced only at the change after.
void TurnServer::Impl::rotate_nonce_keys(bool both) {
  ++nonce_keys_.current;
  nonce_keys_.key[nonce_keys_.current & 1] = {random_.u64(), random_.u64()};
  if (both) nonce_keys_.key[(nonce_keys_.current + 1) & 1] = {random_.u64(), random_.u64()};
  keys_rotate_ms_ = now_.ms + uint64_t{config_.limits.nonce_lifetime_seconds} * 1000;
}

void TurnServer::Impl::publish() {
  nonce_keys_.now_seconds = static_cast<uint32_t>(now_.ms / 1000);
  auto snapshot = build_snapshot(config_, cores_, nonce_keys_);
  snapshot->version = ++version_;
  snapshot->steering = engine_.snapshot().steering;  // of the ports, for as long as they are open
  engine_.publish(std::move(snapshot));
  next_publish_ms_ = now_.ms + kPublishMs;
  ++stats_.snapshots_published;
}

void TurnServer::Impl::load_realms(const Config& config) {
  const std::vector<RealmState> before = std::move(realms_);
  realms_.clear();
  for (size_t i = 0; i < config.realms.size(); ++i) {
    const RealmConfig& from = config.realms[i];
    RealmState realm;
    realm.name = from.name;
    std::vector<StoredAccount> accounts;
    for (const UserConfig& user : from.users) {
      StoredAccount account;
      if (make_account(user.name, from.name, user.password, account))
        accounts.push_back(std::move(account));
      else if (hooks_.notice)
        hooks_.notice("user '" + user.name + "' of realm '" + from.name +
                      "' is left out: its name or password holds characters RFC 8265 forbids");
    }
    realm.configured = std::make_shared<const StoredAccounts>(std::move(accounts));
    realm.secrets = from.secrets;
    realm.user_quota = from.user_quota;
    realm.user_bandwidth = from.user_bandwidth;
    realm.features = nonce_features(from);
    realm.algorithms = from.algorithms;
    realm.realm_attribute = realm_attribute(from);
    realm.algorithms_attribute = algorithms_attribute(from);
    if (i < before.size()) {
      realm.stored = before[i].stored;
      realm.secrets_epoch = before[i].secrets_epoch + (before[i].secrets != from.secrets ? 1 : 0);
    }
    realms_.push_back(std::move(realm));
  }
  software_ = software_attribute(config);
}

std::optional<std::string> TurnServer::Impl::reload(const Config& config, ControlTime now) {
  const auto names = [](const Config& c) {
    std::vector<std::string> out;
    for (const RealmConfig& realm : c.realms)
      out.push_back(realm.name);
    return out;
  };
  if (config.listeners != config_.listeners) return "listeners changed: needs a restart";
  if (config.relay_addresses != config_.relay_addresses)
    return "relay addresses changed: needs a restart";
  if (config.relay_port_low != config_.relay_port_low ||
      config.relay_port_high != config_.relay_port_high)
    return "the relay port range changed: needs a restart";
  if (names(config) != names(config_)) return "the realms' names changed: needs a restart";
  if (config.limits.max_allocations != config_.limits.max_allocations)
    return "max_allocations changed: needs a restart";

  now_ = now;
  bool offers_changed = false;
  for (size_t i = 0; i < config.realms.size(); ++i)
    offers_changed |= algorithms_attribute(config.realms[i]) != realms_[i].algorithms_attribute ||
                      nonce_features(config.realms[i]) != realms_[i].features;
  config_ = config;
  load_realms(config);
  policy_ = PeerPolicy(config.peers, addresses_);
  // A nonce stands for what was offered with it (bid-down protection): new offers, new nonces.
  if (offers_changed) rotate_nonce_keys(true);
  publish();
  want_joins();
  next_rebalance_ms_ = now.ms;
  return std::nullopt;
}

void TurnServer::Impl::set_accounts(uint16_t realm,
                                    std::shared_ptr<const StoredAccounts> accounts) {
  ENSURE(realm < realms_.size());
  realms_[realm].stored = std::move(accounts);
}

// ---------------------------------------------------------------- records

uint64_t TurnServer::Impl::client_hash(const ClientTuple& client) const {
  uint8_t text[17 + 3 + 4] = {};
  std::memcpy(text, client.client.ip.bytes.data(), 16);
  text[16] = static_cast<uint8_t>(client.client.ip.family);
  store_be16(text + 18, client.client.port);
  store_be16(text + 20, client.listener);
  return siphash24(hash_key_, text, sizeof text);
}

uint32_t TurnServer::Impl::find_client(const ClientTuple& client) const {
  return by_client_.find(client_hash(client),
                         [&](uint32_t i) { return records_[i].client == client; });
}

uint32_t TurnServer::Impl::find_record(CoreId core, AllocationHandle handle) const {
  if (core >= cores_ || handle.index >= per_core_) return kNoRecord;
  const uint32_t index = core * per_core_ + handle.index;
  const AllocationRecord& record = records_[index];
  return record.in_use && record.generation == handle.generation ? index : kNoRecord;
}

uint32_t TurnServer::Impl::new_record(CoreId core, const ClientTuple& client) {
  const uint32_t index = free_records_[core];
  if (index == kNoRecord) return kNoRecord;
  AllocationRecord& record = records_[index];
  free_records_[core] = record.next_free;
  const uint32_t generation = record.generation + 1;
  record = AllocationRecord{};
  record.in_use = true;
  record.generation = generation;
  record.client = client;
  record.created_ms = now_.ms;
  by_client_.insert(client_hash(client), index);
  ++live_;
  return index;
}

void TurnServer::Impl::give_back_leg(RelayLeg& leg) {
  if (!leg.present()) return;
  ports_[leg.address].give_back(leg.port);
  leg = RelayLeg{};
}

void TurnServer::Impl::free_record(uint32_t index) {
  AllocationRecord& record = records_[index];
  ENSURE(record.in_use);
  leave_bandwidth(index);
  give_back_leg(record.ipv4);
  give_back_leg(record.ipv6);
  by_client_.erase(client_hash(record.client), index,
                   [&](uint32_t i) { return client_hash(records_[i].client); });
  if (record.close_wanted) --closes_wanted_;
  if (record.join_wanted) --joins_wanted_;
  if (record.user != kNoUser) {
    --users_.account_of(record.user).held;
    users_.drop_reference(record.user);
  }
  record.in_use = false;
  const CoreId core = core_of(index);
  record.next_free = free_records_[core];
  free_records_[core] = index;
  --live_;
}

// `port_open`: the core holds it and must be told to close it first.
void TurnServer::Impl::drop_reservation(uint64_t token, bool port_open) {
  const auto at = reservations_.find(token);
  if (at == reservations_.end()) return;
  const Reservation held = at->second;
  reservations_.erase(at);
  if (port_open)
    defer({held.core, CommandType::kClosePort, held.leg, {}});
  else
    ports_[held.leg.address].give_back(held.leg.port);
  --users_.account_of(held.user).held;
  users_.drop_reference(held.user);
}

// False: the command ring is full and nothing changed.
bool TurnServer::Impl::remove(uint32_t index, uint8_t legs, EndReason reason,
                              std::span<const uint8_t> response) {
  AllocationRecord& record = records_[index];
  RemoveAllocation command;
  command.cookie = users_.ticket(record.user);
  command.handle = handle_of(index);
  command.legs = legs;
  command.reason = reason;
  if (!engine_.send(core_of(index), command, response)) return false;
  record.ending_legs = static_cast<uint8_t>(record.ending_legs | legs);
  return true;
}

std::optional<TransportAddress> TurnServer::Impl::advertised(const RelayLeg& leg) const {
  if (!leg.present()) return std::nullopt;
  return TransportAddress{addresses_[leg.address].advertised, leg.port};
}

AllocationInfo TurnServer::Impl::info_of(uint32_t index) const {
  const AllocationRecord& record = records_[index];
  AllocationInfo out;
  out.id = {core_of(index), handle_of(index)};
  out.user = users_[record.user].name;
  out.realm = realms_[users_[record.user].realm].name;
  out.client = record.client.client;
  out.listener = config_.listeners[record.client.listener].address;
  out.relayed_ipv4 = advertised(record.ipv4);
  out.relayed_ipv6 = advertised(record.ipv6);
  out.created_ms = record.created_ms;
  out.expires_ms = record.expires_ms;
  out.ingress_core = record.ingress_core;
  return out;
}

// ---------------------------------------------------------------- events

bool TurnServer::Impl::poll(ControlTime now) {
  now_ = now;
  bool more = false;
  for (CoreId core = 0; core < cores_; ++core) {
    uint32_t taken = 0;
    const RingSlot* at = nullptr;
    while (taken < kMaxEventsPerPoll && (at = engine_.front_event(core)) != nullptr) {
      dispatch(core, MessageView(at));
      engine_.pop_event(core);
      ++taken;
    }
    more |= taken == kMaxEventsPerPoll;
  }
  run_due();
  return more;
}

void TurnServer::Impl::dispatch(CoreId core, const MessageView& event) {
  switch (static_cast<EventType>(event.type())) {
    case EventType::kRequest:
      return on_request(core, event.as<Request>(), event.payload());
    case EventType::kCommandFailed:
      return on_command_failed(core, event.as<CommandFailed>(), event.payload());
    case EventType::kAllocationEnded:
      return on_allocation_ended(core, event.as<AllocationEnded>());
    case EventType::kAllocationReport:
      return answer_report(event.as<AllocationReport>());
    case EventType::kExplainReport:
      return answer_explain(event.as<ExplainReport>());
  }
}

void TurnServer::Impl::on_command_failed(CoreId core, const CommandFailed& event,
                                         std::span<const uint8_t> unsent) {
  if (event.command == CommandType::kInstallRedirect) {
    // Too many clients on foreign cores: without it this one's data would never arrive.
    const uint32_t record = find_client(event.client);
    if (record != kNoRecord)
      static_cast<void>(close({core_of(record), handle_of(record)}, EndReason::kClosedByOperator));
    return;
  }
  if (event.command != CommandType::kInstallAllocation)
    return on_refused_request(core, event, unsent);
  const uint32_t record = find_record(core, event.handle);
  if (record == kNoRecord) return;
  stun::Message message;
  std::optional<Reply> reply;
  if (stun::Message::parse(unsent, message) == stun::ParseError::kNone)
    reply = reopen(core, event.client, records_[record].user, message);
  // Its user is gone since: nothing could be signed, the client will ask again and get 401.
  if (!reply) return abandon(record);
  on_install_failed(record, event, *reply);
}

// A request that the core could not carry out becomes the error it means.
void TurnServer::Impl::on_refused_request(CoreId core, const CommandFailed& event,
                                          std::span<const uint8_t> unsent) {
  const UserId user = users_.by_ticket(event.cookie);
  stun::Message message;
  if (user == kNoUser || stun::Message::parse(unsent, message) != stun::ParseError::kNone) return;
  // A repeated Allocate whose installation failed: that failure is answered, or the client asks
  // again.
  if (message.method() == stun::kAllocate) return;
  // The core does not name the client of an allocation that is over. With its record gone as well
  // the client asks again and gets its 437 then.
  ClientTuple client = event.client;
  if (client.client.ip.family == Family::kNone) {
    const uint32_t record = find_record(core, event.handle);
    if (record == kNoRecord) return;
    client = records_[record].client;
  }
  const std::optional<Reply> reply = reopen(core, client, user, message);
  if (!reply) return;
  switch (event.error) {
    case ApplyError::kNoSuchAllocation:
      return send_error(*reply, 437);
    case ApplyError::kChannelConflict:
      return send_error(*reply, 400);
    case ApplyError::kFamilyMismatch:
      return send_error(*reply, 443);
    case ApplyError::kTableFull:
    case ApplyError::kPortInUse:
    case ApplyError::kNone:
    case ApplyError::kCount:
      return send_error(*reply, 508);
  }
}

void TurnServer::Impl::on_allocation_ended(CoreId core, const AllocationEnded& event) {
  const uint32_t index = find_record(core, event.handle);
  if (index == kNoRecord) return;
  AllocationRecord& record = records_[index];
  const bool whole = event.legs_left == 0;
  if (whole && event.reason < EndReason::kCount) ++stats_.ended[static_cast<size_t>(event.reason)];
  if (hooks_.allocation_ended)
    hooks_.allocation_ended({info_of(index), now_.ms, event.counters, event.reason, whole});
  if (whole) {
    if (record.ingress_core != core)
      defer({record.ingress_core, CommandType::kRemoveRedirect, {}, record.client});
    return free_record(index);
  }
  if ((event.legs & kLegIpv4) != 0) give_back_leg(record.ipv4);
  if ((event.legs & kLegIpv6) != 0) give_back_leg(record.ipv6);
  record.ending_legs = static_cast<uint8_t>(record.ending_legs & ~event.legs);
}

// ---------------------------------------------------------------- timed work

uint64_t TurnServer::Impl::next_due_ms() const {
  uint64_t due = std::min(next_publish_ms_, keys_rotate_ms_);
  if (!reservation_expiry_.empty()) due = std::min(due, reservation_expiry_.front().at_ms);
  if (!question_expiry_.empty()) due = std::min(due, question_expiry_.front().at_ms);
  if (!limited_.empty() || shares_whole()) due = std::min(due, next_rebalance_ms_);
  if (!deferred_.empty() || closes_wanted_ != 0 || joins_wanted_ != 0)
    due = std::min(due, now_.ms + 1);
  return due;
}

void TurnServer::Impl::run_due() {
  if (!deferred_.empty()) send_deferred();
  if (closes_wanted_ != 0) retry_closes();
  if (joins_wanted_ != 0) retry_joins();
  expire_reservations();
  expire_questions();
  if (now_.ms >= next_rebalance_ms_) {
    rebalance();
    next_rebalance_ms_ = now_.ms + kRebalanceMs;
  }
  if (now_.ms >= keys_rotate_ms_) {
    rotate_nonce_keys(false);
    next_publish_ms_ = now_.ms;
  }
  if (now_.ms >= next_publish_ms_) publish();
}

void TurnServer::Impl::expire_reservations() {
  while (!reservation_expiry_.empty() && reservation_expiry_.front().at_ms <= now_.ms) {
    drop_reservation(reservation_expiry_.front().what, true);
    reservation_expiry_.pop_front();
  }
}

// Order is kept: while something waits, later clean-ups wait behind it. Their number is bounded by
// the reservations and redirects there are.
void TurnServer::Impl::defer(const Deferred& command) {
  deferred_.push_back(command);
  send_deferred();
}

void TurnServer::Impl::send_deferred() {
  while (!deferred_.empty()) {
    const Deferred& next = deferred_.front();
    bool sent = false;
    if (next.type == CommandType::kClosePort) {
      ClosePort command;
      command.leg = next.leg;
      sent = engine_.send(next.core, command);
      // Free only now: an installation on it that is sent later comes behind the close.
      if (sent) ports_[next.leg.address].give_back(next.leg.port);
    } else {
      RemoveRedirect command;
      command.client = next.client;
      sent = engine_.send(next.core, command);
    }
    if (!sent) return;
    deferred_.pop_front();
  }
}

void TurnServer::Impl::retry_closes() {
  for (uint32_t i = 0; i < records_.size() && closes_wanted_ != 0; ++i) {
    AllocationRecord& record = records_[i];
    if (!record.in_use || !record.close_wanted) continue;
    if (!remove(i, record.legs(), record.close_reason, {})) return;
    record.close_wanted = false;
    --closes_wanted_;
  }
}

// ---------------------------------------------------------------- operators

bool TurnServer::Impl::close(AllocationId id, EndReason reason) {
  const uint32_t index = find_record(id.core, id.handle);
  if (index == kNoRecord) return false;
  AllocationRecord& record = records_[index];
  if (record.live_legs() == 0 || record.close_wanted) return true;
  if (remove(index, record.live_legs(), reason, {})) return true;
  record.close_wanted = true;
  record.close_reason = reason;
  ++closes_wanted_;
  return true;
}

size_t TurnServer::Impl::close_if(const std::function<bool(const AllocationInfo&)>& which,
                                  EndReason reason) {
  size_t count = 0;
  for (uint32_t i = 0; i < records_.size(); ++i) {
    if (!records_[i].in_use || records_[i].live_legs() == 0) continue;
    if (!which(info_of(i))) continue;
    close({core_of(i), handle_of(i)}, reason);
    ++count;
  }
  return count;
}

void TurnServer::Impl::each_allocation(
    size_t skip, const std::function<bool(const AllocationInfo&)>& visit) const {
  for (uint32_t i = 0; i < records_.size(); ++i) {
    if (!records_[i].in_use) continue;
    if (skip > 0) {
      --skip;
    } else if (!visit(info_of(i))) {
      return;
    }
  }
}

std::optional<AllocationInfo> TurnServer::Impl::find(AllocationId id) const {
  const uint32_t index = find_record(id.core, id.handle);
  if (index == kNoRecord) return std::nullopt;
  return info_of(index);
}

uint32_t TurnServer::Impl::next_cookie() {
  do
    ++cookie_;
  while (questions_.contains(cookie_));
  return cookie_;
}

bool TurnServer::Impl::query(AllocationId id, ReportAnswer answer) {
  const uint32_t index = find_record(id.core, id.handle);
  if (index == kNoRecord || questions_.size() >= kMaxPendingQuestions) return false;
  QueryAllocation command;
  command.cookie = next_cookie();
  command.handle = id.handle;
  if (!engine_.send(id.core, command)) return false;
  questions_[command.cookie].report = std::move(answer);
  question_expiry_.push_back({now_.ms + kQuestionTimeoutMs, command.cookie});
  return true;
}

// Where a client without an allocation arrives: known where ports spread by a hash that we have.
CoreId TurnServer::Impl::steered_core(const ExplainQuery& query) const {
  const ClientSteering& steering = engine_.snapshot().steering;
  return steering.by_hash ? client_owner(steering.key, query.from, query.to, cores_) : CoreId{0};
}

bool TurnServer::Impl::explain(const ExplainQuery& query, ExplainAnswer answer) {
  if (questions_.size() >= kMaxPendingQuestions) return false;
  Explain command;
  command.from = query.from;
  command.channel = query.channel;
  command.peer = query.peer;
  CoreId core = kMaxCores;
  for (size_t i = 0; i < config_.listeners.size() && core == kMaxCores; ++i) {
    if (!(config_.listeners[i].address == query.to)) continue;
    command.listener = static_cast<uint16_t>(i);
    ClientTuple client;
    client.client = query.from;
    client.listener = command.listener;
    const uint32_t record = find_client(client);
    core = record == kNoRecord ? steered_core(query) : core_of(record);
  }
  for (size_t i = 0; i < ports_.size() && core == kMaxCores; ++i) {
    const LocalAddress& a = addresses_[i];
    if (a.bound != query.to.ip && a.advertised != query.to.ip) continue;
    if (ports_[i].state(query.to.port) == PortState::kForeign) continue;
    command.relay = {static_cast<uint16_t>(i), query.to.port};
    core = owner(query.to.port, cores_);
  }
  if (core == kMaxCores) return false;
  command.cookie = next_cookie();
  if (!engine_.send(core, command)) return false;
  questions_[command.cookie].explain = std::move(answer);
  question_expiry_.push_back({now_.ms + kQuestionTimeoutMs, command.cookie});
  return true;
}

void TurnServer::Impl::answer_report(const AllocationReport& event) {
  const auto at = questions_.find(event.cookie);
  if (at == questions_.end() || !at->second.report) return;
  const ReportAnswer answer = std::move(at->second.report);
  questions_.erase(at);
  answer(event);
}

void TurnServer::Impl::answer_explain(const ExplainReport& event) {
  const auto at = questions_.find(event.cookie);
  if (at == questions_.end() || !at->second.explain) return;
  const ExplainAnswer answer = std::move(at->second.explain);
  questions_.erase(at);
  answer(event);
}

void TurnServer::Impl::expire_questions() {
  while (!question_expiry_.empty() && question_expiry_.front().at_ms <= now_.ms) {
    const auto at = questions_.find(static_cast<uint32_t>(question_expiry_.front().what));
    question_expiry_.pop_front();
    if (at == questions_.end()) continue;
    const Question question = std::move(at->second);
    questions_.erase(at);
    if (question.report) question.report(std::nullopt);
    if (question.explain) question.explain(std::nullopt);
  }
}

std::optional<TurnServer::Minted> TurnServer::Impl::mint(std::string_view realm,
                                                         std::string_view user,
                                                         uint32_t lifetime_seconds,
                                                         ControlTime now) const {
  for (const RealmState& state : realms_) {
    if (!realm.empty() && state.name != realm) continue;
    if (state.secrets.empty()) return std::nullopt;
    Minted out;
    out.expires_unix_seconds = now.unix_seconds + lifetime_seconds;
    crypto::MintedCredential minted =
        crypto::mint_rest(state.secrets.front(), out.expires_unix_seconds, user);
    out.username = std::move(minted.username);
    out.password = std::move(minted.password);
    out.realm = state.name;
    return out;
  }
  return std::nullopt;
}

TurnStats TurnServer::Impl::stats() const {
  TurnStats out = stats_;
  out.allocations = live_;
  out.reservations = static_cast<uint32_t>(reservations_.size());
  out.known_users = static_cast<uint32_t>(users_.size());
  for (const PortTable& table : ports_) {
    out.ports_free += table.free_count();
    out.ports_total += table.total();
  }
  out.draining = draining_;
  return out;
}

// ---------------------------------------------------------------- the public face

TurnServer::TurnServer(const Config& config, Engine& engine, crypto::Random& random,
                       TurnHooks hooks, ControlTime now)
    : impl_(std::make_unique<Impl>(config, engine, random, std::move(hooks), now)) {}
TurnServer::~TurnServer() = default;

bool TurnServer::poll(ControlTime now) {
  return impl_->poll(now);
}
uint64_t TurnServer::next_due_ms() const {
  return impl_->next_due_ms();
}
std::optional<std::string> TurnServer::reload(const Config& config, ControlTime now) {
  return impl_->reload(config, now);
}
void TurnServer::set_accounts(uint16_t realm, std::shared_ptr<const StoredAccounts> accounts) {
  impl_->set_accounts(realm, std::move(accounts));
}
void TurnServer::set_draining(bool draining) {
  impl_->draining_ = draining;
}
bool TurnServer::draining() const {
  return impl_->draining_;
}
bool TurnServer::close(AllocationId id, EndReason reason) {
  return impl_->close(id, reason);
}
size_t TurnServer::close_if(const std::function<bool(const AllocationInfo&)>& which,
                            EndReason reason) {
  return impl_->close_if(which, reason);
}
void TurnServer::each_allocation(size_t skip,
                                 const std::function<bool(const AllocationInfo&)>& visit) const {
  impl_->each_allocation(skip, visit);
}
std::optional<AllocationInfo> TurnServer::find(AllocationId id) const {
  return impl_->find(id);
}
bool TurnServer::query(AllocationId id, ReportAnswer answer) {
  return impl_->query(id, std::move(answer));
}
bool TurnServer::explain(const ExplainQuery& query, ExplainAnswer answer) {
  return impl_->explain(query, std::move(answer));
}
std::optional<TurnServer::Minted> TurnServer::mint(std::string_view realm, std::string_view user,
                                                   uint32_t lifetime_seconds,
                                                   ControlTime now) const {
  return impl_->mint(realm, user, lifetime_seconds, now);
}
TurnStats TurnServer::stats() const {
  return impl_->stats();
}

}  // namespace culvert
