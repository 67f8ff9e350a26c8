#include "control/operations.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <optional>
#include <utility>

#include "control/trace.h"
#include "crypto/credentials.h"
#include "dataplane/api/stats_names.h"
#include "dataplane/steer/client.h"
#include "dataplane/steer/owner.h"

namespace culvert {

using nlohmann::json;

namespace {

using Context = std::shared_ptr<const OperationsContext>;

[[nodiscard]] std::string text(std::string_view view) {
  return std::string(view);
}

[[nodiscard]] json address_or_null(const std::optional<TransportAddress>& address) {
  return address ? json(address->to_string()) : json(nullptr);
}

[[nodiscard]] json describe(const AllocationInfo& a, uint64_t now_ms) {
  return {{"id", format_allocation_id(a.id)},
          {"user", text(a.user)},
          {"realm", text(a.realm)},
          {"client", a.client.to_string()},
          {"listener", a.listener.to_string()},
          {"relayed_ipv4", address_or_null(a.relayed_ipv4)},
          {"relayed_ipv6", address_or_null(a.relayed_ipv6)},
          {"core", a.id.core},
          {"ingress_core", a.ingress_core},
          {"age_seconds", static_cast<double>(now_ms - std::min(a.created_ms, now_ms)) / 1000},
          {"expires_in_seconds",
           static_cast<double>(a.expires_ms > now_ms ? a.expires_ms - now_ms : 0) / 1000}};
}

void add_report(json& to, const AllocationReport& r) {
  to["packets_to_peer"] = r.counters.packets_to_peer;
  to["bytes_to_peer"] = r.counters.bytes_to_peer;
  to["packets_to_client"] = r.counters.packets_to_client;
  to["bytes_to_client"] = r.counters.bytes_to_client;
  to["permissions"] = r.permissions;
  to["channels"] = r.channels;
}

// ---------------------------------------------------------------- status, cores, drops

[[nodiscard]] json core_numbers(const CoreStats& s) {
  json out = json::object();
  for (const CoreCounterInfo& c : kCoreCounters)
    out[c.name] = (s.*c.counter).get();
  out["snapshot_version"] = s.seen_version.load(std::memory_order_relaxed);
  return out;
}

void method_cores(const Context& c, const json&, const RpcAnswer& answer) {
  json cores = json::array();
  for (CoreId core = 0; core < c->engine.cores(); ++core) {
    json one = core_numbers(c->engine.stats(core));
    one["core"] = core;
    one["stalled"] = c->watchdog.stalled(core);
    cores.push_back(std::move(one));
  }
  answer.result({{"cores", std::move(cores)}});
}

[[nodiscard]] std::string_view severity_name(Severity s) {
  constexpr std::string_view kNames[] = {"ok", "normal", "notice", "hostile"};
  return kNames[static_cast<size_t>(s)];
}

// Of a driver that sees frames: what happened before and after the path.
[[nodiscard]] json frame_counts(const Engine& engine, bool per_core) {
  json frames = json::array();
  for (size_t i = 0; i < kFrameCounters; ++i) {
    uint64_t total = 0;
    json each = json::array();
    for (CoreId core = 0; core < engine.cores(); ++core) {
      const uint64_t n = engine.stats(core).frames[i].get();
      total += n;
      each.push_back(n);
    }
    const FrameCounterInfo& about = kFrameCounterInfo[i];
    json one = {{"frame", text(about.name)},
                {"severity", text(severity_name(about.severity))},
                {"text", text(about.text)},
                {"total", total}};
    if (per_core) one["cores"] = std::move(each);
    frames.push_back(std::move(one));
  }
  return frames;
}

void method_drops(const Context& c, const json& params, const RpcAnswer& answer) {
  const bool per_core = params.value("per_core", false);
  json outcomes = json::array();
  for (size_t i = 0; i < kOutcomes; ++i) {
    uint64_t total = 0;
    json each = json::array();
    for (CoreId core = 0; core < c->engine.cores(); ++core) {
      const uint64_t n = c->engine.stats(core).outcomes[i].get();
      total += n;
      each.push_back(n);
    }
    const OutcomeInfo& about = kOutcomeInfo[i];
    json one = {{"outcome", text(about.name)},
                {"severity", text(severity_name(about.severity))},
                {"text", text(about.text)},
                {"total", total}};
    if (per_core) one["cores"] = std::move(each);
    outcomes.push_back(std::move(one));
  }
  json result = {{"outcomes", std::move(outcomes)}};
  if (c->config().driver == "dpdk") result["frames"] = frame_counts(c->engine, per_core);
  answer.result(std::move(result));
}

[[nodiscard]] json traffic_totals(const Engine& engine) {
  uint64_t in = 0, in_bytes = 0, out = 0, out_bytes = 0, failed = 0;
  for (CoreId core = 0; core < engine.cores(); ++core) {
    const CoreStats& s = engine.stats(core);
    in += s.received_packets.get();
    in_bytes += s.received_bytes.get();
    out += s.sent_packets.get();
    out_bytes += s.sent_bytes.get();
    failed += s.send_failed.get();
  }
  return {{"received_packets", in},
          {"received_bytes", in_bytes},
          {"sent_packets", out},
          {"sent_bytes", out_bytes},
          {"send_failed", failed}};
}

[[nodiscard]] json turn_numbers(const TurnStats& s) {
  json errors = json::object();
  for (size_t i = 0; i < kTurnErrorCodes.size(); ++i)
    errors[std::to_string(kTurnErrorCodes[i])] = s.errors[i];
  json ended = json::object();
  for (size_t i = 0; i < s.ended.size(); ++i)
    ended[text(to_string(static_cast<EndReason>(i)))] = s.ended[i];
  return {{"requests", s.requests},
          {"allocations_made", s.allocations_made},
          {"refreshes", s.refreshes},
          {"permission_requests", s.permission_requests},
          {"channel_binds", s.channel_binds},
          {"reservations", s.reservations},
          {"known_users", s.known_users},
          {"port_retries", s.port_retries},
          {"command_ring_full", s.command_ring_full},
          {"errors", std::move(errors)},
          {"ended", std::move(ended)}};
}

[[nodiscard]] json port_numbers(const OperationsContext& c) {
  json out = json::array();
  if (!c.ports) return out;
  for (const PortStats& port : c.ports()) {
    json one = {{"name", text(port.name.data())}, {"driver", text(port.driver.data())}};
    for (const PortCounterInfo& p : kPortCounters)
      one[p.name] = (port.*p.counter).get();
    out.push_back(std::move(one));
  }
  return out;
}

// For scripts and probes: one small answer, and culvertctl's exit status follows it.
void method_health(const Context& c, const json&, const RpcAnswer& answer) {
  json stalled = json::array();
  for (CoreId core = 0; core < c->engine.cores(); ++core)
    if (c->watchdog.stalled(core)) stalled.push_back(core);
  answer.result({{"healthy", c->watchdog.all_well()},
                 {"state", text(to_string(c->state()))},
                 {"cores", c->engine.cores()},
                 {"stalled_cores", std::move(stalled)}});
}

void method_status(const Context& c, const json&, const RpcAnswer& answer) {
  const ControlTime now = c->now();
  const TurnStats s = c->turn.stats();
  const Config& config = c->config();
  const Snapshot& snapshot = c->engine.snapshot();
  json listeners = json::array();
  for (const Listener& l : snapshot.listeners) {
    const TransportAddress at{snapshot.addresses[l.address].bound, l.port};
    listeners.push_back(
        {{"address", at.to_string()},
         {"realm", l.realm < config.realms.size() ? config.realms[l.realm].name : ""}});
  }
  json relays = json::array();
  for (const LocalAddress& a : snapshot.addresses) {
    if (a.relays)
      relays.push_back({{"bound", a.bound.to_string()}, {"advertised", a.advertised.to_string()}});
  }
  answer.result({{"version", CULVERT_VERSION},
                 {"pid", getpid()},
                 {"state", text(to_string(c->state()))},
                 {"healthy", c->watchdog.all_well()},
                 {"uptime_seconds", static_cast<double>(now.ms - c->started_ms) / 1000},
                 {"driver", config.driver},
                 {"cores", c->engine.cores()},
                 {"listeners", std::move(listeners)},
                 {"relay_addresses", std::move(relays)},
                 {"allocations", s.allocations},
                 {"max_allocations", config.limits.max_allocations},
                 {"ports_free", s.ports_free},
                 {"ports_total", s.ports_total},
                 {"traffic", traffic_totals(c->engine)},
                 {"ports", port_numbers(*c)},
                 {"turn", turn_numbers(s)}});
}

// ---------------------------------------------------------------- allocations

struct Filter {
  std::string user, realm;
  std::optional<TransportAddress> client, relay;
  std::optional<IpAddress> client_ip, relay_ip;

  [[nodiscard]] bool matches(const AllocationInfo& a) const {
    if (!user.empty() && a.user != user) return false;
    if (!realm.empty() && a.realm != realm) return false;
    if (client && a.client != *client) return false;
    if (client_ip && a.client.ip != *client_ip) return false;
    if (relay && a.relayed_ipv4 != *relay && a.relayed_ipv6 != *relay) return false;
    if (relay_ip && !(a.relayed_ipv4 && a.relayed_ipv4->ip == *relay_ip) &&
        !(a.relayed_ipv6 && a.relayed_ipv6->ip == *relay_ip))
      return false;
    return true;
  }
};

// An address with or without a port.
[[nodiscard]] bool read_address(const json& params, const char* name,
                                std::optional<TransportAddress>& whole,
                                std::optional<IpAddress>& ip) {
  const std::string value = params.value(name, "");
  if (value.empty()) return true;
  whole = TransportAddress::parse(value);
  if (!whole) ip = IpAddress::parse(value);
  return whole.has_value() || ip.has_value();
}

// False: an answer was given.
[[nodiscard]] bool read_filter(const json& params, Filter& filter, const RpcAnswer& answer) {
  filter.user = params.value("user", "");
  filter.realm = params.value("realm", "");
  for (const char* name : {"client", "relay"}) {
    const bool client = name[0] == 'c';
    if (!read_address(params, name, client ? filter.client : filter.relay,
                      client ? filter.client_ip : filter.relay_ip)) {
      answer.error(RpcError::kInvalidParams,
                   std::string("\"") + name +
                       "\" must be an address, or an address and port: "
                       "192.0.2.1, 192.0.2.1:5000, 2001:db8::1, [2001:db8::1]:5000");
      return false;
    }
  }
  return true;
}

// A page under way: the answer leaves with the last report.
struct Page {
  json allocations = json::array();
  json next;
  size_t waiting = 1;  // one for the one who asks
  RpcAnswer answer;

  void done() {
    if (--waiting == 0) answer.result({{"allocations", std::move(allocations)}, {"next", next}});
  }
};

void method_allocations(const Context& c, const json& params, const RpcAnswer& answer) {
  Filter filter;
  if (!read_filter(params, filter, answer)) return;
  const size_t from = params.value("from", size_t{0});
  const size_t limit = params.value("limit", size_t{100});
  const auto page = std::make_shared<Page>(Page{json::array(), nullptr, 1, answer});
  const uint64_t now_ms = c->now().ms;

  std::vector<AllocationId> ids;
  size_t looked_at = 0;
  c->turn.each_allocation(from, [&](const AllocationInfo& a) {
    if (ids.size() == limit || looked_at == kMaxAllocationScan) {
      page->next = from + looked_at;
      return false;
    }
    ++looked_at;
    if (filter.matches(a)) {
      ids.push_back(a.id);
      page->allocations.push_back(describe(a, now_ms));
    }
    return true;
  });

  if (params.value("counters", true)) {
    for (size_t i = 0; i < ids.size(); ++i) {
      const bool asked =
          c->turn.query(ids[i], [page, i](const std::optional<AllocationReport>& report) {
            if (report && report->live != 0) add_report(page->allocations[i], *report);
            page->done();
          });
      if (asked) ++page->waiting;
    }
  }
  page->done();
}

void method_close(const Context& c, const json& params, const RpcAnswer& answer) {
  if (params.contains("id")) {
    const auto id = parse_allocation_id(params["id"].get_ref<const std::string&>());
    if (!id)
      return answer.error(RpcError::kInvalidParams,
                          "\"id\" is core.index.generation as `allocations` shows it, e.g. 0.17.3");
    if (!c->turn.close(*id))
      return answer.error(RpcError::kNotFound, "no live allocation " + format_allocation_id(*id));
    return answer.result({{"closed", 1}});
  }
  Filter filter;
  if (!read_filter(params, filter, answer)) return;
  const bool narrowed = params.contains("user") || params.contains("realm") ||
                        params.contains("client") || params.contains("relay");
  if (!narrowed && !params.value("all", false))
    return answer.error(
        RpcError::kInvalidParams,
        "say which: \"id\", \"user\", \"realm\", \"client\", \"relay\", or \"all\": true");
  const size_t closed =
      c->turn.close_if([&](const AllocationInfo& a) { return filter.matches(a); });
  answer.result({{"closed", closed}});
}

// ---------------------------------------------------------------- explain

[[nodiscard]] json relay_address(const Snapshot& snapshot, const RelayLeg& leg) {
  if (!leg.present() || leg.address >= snapshot.addresses.size()) return nullptr;
  return TransportAddress{snapshot.addresses[leg.address].advertised, leg.port}.to_string();
}

[[nodiscard]] json describe_report(const OperationsContext& c, const ExplainReport& r) {
  if (r.outcome >= kOutcomes) return {{"outcome", nullptr}};
  const OutcomeInfo& about = kOutcomeInfo[r.outcome];
  json out = {{"outcome", text(about.name)},
              {"severity", text(severity_name(about.severity))},
              {"text", text(about.text)},
              {"to", r.to.ip.family == Family::kNone ? json(nullptr) : json(r.to.to_string())},
              {"from_relay", relay_address(c.engine.snapshot(), r.from_relay)},
              {"channel", r.channel},
              {"permission_remaining_seconds", r.permission_remaining_ms / 1000},
              {"channel_remaining_seconds", r.channel_remaining_ms / 1000},
              {"allocation", nullptr}};
  return out;
}

// The report names a handle; which core it is of, only the client or relayed address tells.
void add_allocation(const OperationsContext& c, const ExplainReport& r, const ExplainQuery& q,
                    json& out) {
  if (r.has_allocation == 0) return;
  c.turn.each_allocation(0, [&](const AllocationInfo& a) {
    const bool ours = a.id.handle == r.handle &&
                      (a.client == q.from || a.relayed_ipv4 == q.to || a.relayed_ipv6 == q.to);
    if (ours) out["allocation"] = describe(a, c.now().ms);
    return !ours;
  });
}

// Which core such a datagram belongs to: a relayed port's owner, or the client's by the ports'
// hash. Null: the kernel's sockets spread clients as they like.
void add_steering(const OperationsContext& c, const ExplainQuery& q, json& out) {
  const Snapshot& snapshot = c.engine.snapshot();
  out["steered_to_core"] = nullptr;
  const bool to_listener =
      std::any_of(snapshot.listeners.begin(), snapshot.listeners.end(), [&](const Listener& l) {
        return snapshot.addresses[l.address].bound == q.to.ip && l.port == q.to.port;
      });
  if (!to_listener) {
    out["steered_to_core"] = owner(q.to.port, snapshot.cores);
    out["steered_by"] = "relayed port";
  } else if (snapshot.steering.by_hash) {
    out["steered_to_core"] = client_owner(snapshot.steering.key, q.from, q.to, snapshot.cores);
    out["steered_by"] = "hash of addresses and ports";
  } else if (snapshot.cores == 1) {
    out["steered_to_core"] = 0;
    out["steered_by"] = "there is one core";
  }
}

void method_explain(const Context& c, const json& params, const RpcAnswer& answer) {
  const ExplainText parsed = parse_explain(params["datagram"].get_ref<const std::string&>());
  if (!parsed.error.empty()) return answer.error(RpcError::kInvalidParams, parsed.error);
  const ExplainQuery query = parsed.query;
  const bool asked = c->turn.explain(query, [c, query, answer](const auto& report) {
    if (!report) return answer.error(RpcError::kTimeout, "the core did not answer in time");
    json out = describe_report(*c, *report);
    add_allocation(*c, *report, query, out);
    add_steering(*c, query, out);
    answer.result(out);
  });
  if (!asked)
    answer.error(
        RpcError::kNotFound,
        query.to.to_string() +
            " is neither a listener nor a relayed address of this relay (or its core is too "
            "busy: try again)");
}

// ---------------------------------------------------------------- drain, reload, mint, config

void method_drain(const Context& c, const json& params, const RpcAnswer& answer) {
  if (c->state() == ServiceState::kStopping)
    return answer.error(RpcError::kRefused, "the relay is stopping");
  c->drain(!params.value("off", false));
  answer.result(
      {{"state", text(to_string(c->state()))}, {"allocations", c->turn.stats().allocations}});
}

void method_reload(const Context& c, const json&, const RpcAnswer& answer) {
  const ReloadOutcome outcome = c->reload();
  if (outcome.applied) return answer.result({{"applied", true}, {"messages", outcome.messages}});
  std::string all;
  for (const std::string& m : outcome.messages)
    all += (all.empty() ? "" : "\n") + m;
  answer.error(RpcError::kRefused, all.empty() ? "nothing was applied" : all);
}

[[nodiscard]] const RealmConfig* find_realm(const Config& config, const std::string& name) {
  if (name.empty() && !config.realms.empty()) return &config.realms.front();
  for (const RealmConfig& r : config.realms) {
    if (r.name == name) return &r;
  }
  return nullptr;
}

void method_mint(const Context& c, const json& params, const RpcAnswer& answer) {
  const RealmConfig* realm = find_realm(c->config(), params.value("realm", ""));
  if (realm == nullptr) return answer.error(RpcError::kNotFound, "no such realm");
  if (realm->secrets.empty())
    return answer.error(RpcError::kRefused,
                        "realm \"" + realm->name + "\" has no shared secret: set realm.secrets");
  const std::string user = params.value("user", "");
  const uint64_t expires = c->now().unix_seconds + params.value("ttl_seconds", uint64_t{86400});
  const bool sha256 = params.value("algorithm", "sha1") == "sha256";
  const crypto::MintedCredential minted =
      crypto::mint_rest(realm->secrets.front(), expires, user,
                        sha256 ? crypto::HashKind::kSha256 : crypto::HashKind::kSha1);
  if (minted.username.size() > kMaxUserNameBytes)
    return answer.error(RpcError::kInvalidParams, "\"user\" is too long");
  answer.result({{"username", minted.username},
                 {"password", minted.password},
                 {"realm", realm->name},
                 {"expires_unix_seconds", expires}});
}

void method_config(const Context& c, const json&, const RpcAnswer& answer) {
  answer.result({{"toml", c->effective_toml()}});
}

void method_limits(const Context& c, const json&, const RpcAnswer& answer) {
  answer.result(c->limits());
}

// ---------------------------------------------------------------- users

void change_accounts(const Context& c, AccountRequest request, const json& params,
                     const RpcAnswer& answer) {
  const Config& config = c->config();
  const std::string wanted = params.value("realm", "");
  const RealmConfig* realm = find_realm(config, wanted);
  if (realm == nullptr) return answer.error(RpcError::kNotFound, "no realm \"" + wanted + "\"");
  if (realm->database.empty() || !c->accounts)
    return answer.error(RpcError::kRefused, "realm \"" + realm->name +
                                                "\" has no account database: set realm.database");
  request.realm = static_cast<uint16_t>(realm - config.realms.data());
  request.name = params.value("user", "");
  request.password = params.value("password", "");
  const AccountRequest::Verb verb = request.verb;
  c->accounts(std::move(request), [answer, verb](AccountReply reply) {
    if (!reply.error.empty())
      return answer.error(reply.not_found ? RpcError::kNotFound : RpcError::kRefused, reply.error);
    if (verb == AccountRequest::Verb::kList) return answer.result({{"users", reply.names}});
    answer.result({{"done", true}});
  });
}

[[nodiscard]] auto account_method(AccountRequest::Verb verb) {
  return [verb](const Context& c, const json& params, const RpcAnswer& answer) {
    AccountRequest request;
    request.verb = verb;
    change_accounts(c, std::move(request), params, answer);
  };
}

// ---------------------------------------------------------------- text

[[nodiscard]] std::string_view next_word(std::string_view& text) {
  while (!text.empty() && text.front() == ' ')
    text.remove_prefix(1);
  const size_t end = std::min(text.find(' '), text.size());
  const std::string_view word = text.substr(0, end);
  text.remove_prefix(end);
  return word;
}

template <class T>
[[nodiscard]] bool read_number(std::string_view word, T& out, int base = 10) {
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), out, base);
  return error == std::errc() && end == word.data() + word.size();
}

[[nodiscard]] bool read_channel(std::string_view word, uint16_t& out) {
  const bool hex = word.starts_with("0x") || word.starts_with("0X");
  return read_number(hex ? word.substr(2) : word, out, hex ? 16 : 10) && out >= kFirstChannel &&
         out <= kLastChannel;
}

constexpr const char* kExplainHelp =
    "write \"udp 192.0.2.1:5000 -> 198.51.100.1:3478 channel 0x4000\", the same with \"peer "
    "203.0.113.5:9\" for a Send indication, or \"udp PEER -> RELAYED-ADDRESS\"";

}  // namespace

std::string_view to_string(ServiceState state) {
  constexpr std::string_view kNames[] = {"starting", "ready", "draining", "stopping"};
  return kNames[static_cast<size_t>(state)];
}

std::string_view to_string(EndReason reason) {
  constexpr std::string_view kNames[] = {"expired", "deleted", "closed_by_operator", "shutdown"};
  static_assert(std::size(kNames) == static_cast<size_t>(EndReason::kCount));
  return kNames[static_cast<size_t>(reason)];
}

std::string format_allocation_id(AllocationId id) {
  return std::to_string(id.core) + "." + std::to_string(id.handle.index) + "." +
         std::to_string(id.handle.generation);
}

std::optional<AllocationId> parse_allocation_id(std::string_view text) {
  const size_t first = text.find('.');
  const size_t second = text.find('.', first == std::string_view::npos ? first : first + 1);
  if (second == std::string_view::npos) return std::nullopt;
  AllocationId id;
  if (!read_number(text.substr(0, first), id.core) ||
      !read_number(text.substr(first + 1, second - first - 1), id.handle.index) ||
      !read_number(text.substr(second + 1), id.handle.generation))
    return std::nullopt;
  return id;
}

ExplainText parse_explain(std::string_view text) {
  ExplainText out;
  std::string_view word = next_word(text);
  if (word == "udp" || word == "UDP") word = next_word(text);
  const auto from = TransportAddress::parse(word);
  const std::string_view arrow = next_word(text);
  const auto to = TransportAddress::parse(next_word(text));
  if (!from || arrow != "->" || !to) {
    out.error = kExplainHelp;
    return out;
  }
  out.query.from = *from;
  out.query.to = *to;
  const std::string_view option = next_word(text);
  const std::string_view value = next_word(text);
  if (option == "channel") {
    if (!read_channel(value, out.query.channel))
      out.error = "a channel number is 0x4000 to 0x4FFF (16384 to 20479)";
  } else if (option == "peer") {
    const auto peer = TransportAddress::parse(value);
    if (peer)
      out.query.peer = *peer;
    else
      out.error = "\"peer\" needs an address and port, e.g. 203.0.113.5:9";
  } else if (!option.empty()) {
    out.error = kExplainHelp;
  }
  if (out.error.empty() && !next_word(text).empty()) out.error = kExplainHelp;
  return out;
}

namespace {

[[nodiscard]] json trace_params() {
  const json string = {{"type", "string"}};
  const auto integer = [](uint64_t low, uint64_t high) {
    return json{{"type", "integer"}, {"minimum", low}, {"maximum", high}};
  };
  return {{"count", integer(1, kMaxTraceDatagrams)},
          {"seconds", integer(1, kMaxTraceSeconds)},
          {"client", string},
          {"peer", string},
          {"relay_port", integer(1, 65535)},
          {"outcome", string},
          {"bytes", {{"type", "string"}, {"enum", {"none", "headers", "payload"}}}}};
}

}  // namespace

std::vector<RpcMethod> operator_methods(OperationsContext context) {
  const Context c = std::make_shared<const OperationsContext>(std::move(context));
  const auto bind = [&c](auto method) {
    return [c, method](const json& params, const RpcAnswer& answer) { method(c, params, answer); };
  };
  const json string = {{"type", "string"}};
  const json boolean = {{"type", "boolean"}};
  const json name = {{"type", "string"}, {"maxLength", kMaxUserNameBytes}};
  const json filters = {{"user", name}, {"realm", string}, {"client", string}, {"relay", string}};
  json page = filters;
  page["from"] = {{"type", "integer"}, {"minimum", 0}, {"maximum", kMaxConfiguredAllocations}};
  page["limit"] = {{"type", "integer"}, {"minimum", 1}, {"maximum", kMaxAllocationPage}};
  page["counters"] = boolean;
  json which = filters;
  which["id"] = string;
  which["all"] = boolean;
  const json mint = {
      {"user", name},
      {"realm", string},
      {"ttl_seconds", {{"type", "integer"}, {"minimum", 1}, {"maximum", kMaxMintSeconds}}},
      {"algorithm", {{"type", "string"}, {"enum", {"sha1", "sha256"}}}}};
  const json password = {{"type", "string"}, {"maxLength", kMaxPasswordBytes}};
  const json none = json::object();
  const json trace = trace_params();
  const auto session = std::make_shared<TraceSession>(c->engine);
  using Verb = AccountRequest::Verb;
  return {
      {"status", "what the relay is doing", none, {}, bind(method_status)},
      {"health", "whether every fast core moves", none, {}, bind(method_health)},
      {"allocations",
       "live allocations, a page at a time; `next` begins the next page",
       page,
       {},
       bind(method_allocations)},
      {"drops",
       "every outcome of datagrams with its severity and count",
       json::object({{"per_core", boolean}}),
       {},
       bind(method_drops)},
      {"cores", "the counters of each fast core", none, {}, bind(method_cores)},
      {"explain",
       "what would happen to a datagram",
       json::object({{"datagram", string}}),
       {"datagram"},
       bind(method_explain)},
      {"drain",
       "refuse new allocations (508) and let live ones go on; off: accept again",
       json::object({{"off", boolean}}),
       {},
       bind(method_drain)},
      {"reload", "read the configuration file again", none, {}, bind(method_reload)},
      {"close", "end allocations", which, {}, bind(method_close)},
      {"mint",
       "a time-limited credential by the realm's first shared secret",
       mint,
       {},
       bind(method_mint)},
      {"user.add",
       "add a user to the realm's database, or change the password",
       json::object({{"user", name}, {"password", password}, {"realm", string}}),
       {"user", "password"},
       bind(account_method(Verb::kAdd))},
      {"user.list",
       "users in the realm's database",
       json::object({{"realm", string}}),
       {},
       bind(account_method(Verb::kList))},
      {"user.remove",
       "remove a user from the realm's database",
       json::object({{"user", name}, {"realm", string}}),
       {"user"},
       bind(account_method(Verb::kRemove))},
      {"trace.start",
       "shows the next `count` datagrams that match, in `seconds` at most; one trace at a time",
       trace,
       {},
       [c, session](const json& p, const RpcAnswer& a) { session->start(p, c->now().ms, a); }},
      {"trace.read",
       "what a trace has seen since the last read",
       json::object({{"session", {{"type", "integer"}, {"minimum", 1}, {"maximum", UINT32_MAX}}}}),
       {"session"},
       [c, session](const json& p, const RpcAnswer& a) { session->read(p, c->now().ms, a); }},
      {"trace.stop",
       "ends a trace",
       json::object({{"session", {{"type", "integer"}, {"minimum", 1}, {"maximum", UINT32_MAX}}}}),
       {"session"},
       [session](const json& p, const RpcAnswer& a) { session->stop(p, a); }},
      {"config", "the effective configuration, secrets masked", none, {}, bind(method_config)},
      {"limits", "the limits derived from the configuration", none, {}, bind(method_limits)},
  };
}

}  // namespace culvert
