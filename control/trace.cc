#include "control/trace.h"

#include <algorithm>
#include <optional>

#include "dataplane/api/outcome.h"

namespace culvert {

using nlohmann::json;

namespace {

constexpr const char* kKinds[] = {"client", "peer", "icmp_error", "sent"};

[[nodiscard]] uint64_t lost_by_cores(const Engine& engine) {
  uint64_t lost = 0;
  for (CoreId core = 0; core < engine.cores(); ++core)
    lost += engine.stats(core).trace_lost.get();
  return lost;
}

[[nodiscard]] json outcome_name(uint8_t outcome) {
  return outcome < kOutcomes ? json(std::string(kOutcomeInfo[outcome].name)) : json(nullptr);
}

[[nodiscard]] std::string hex(const std::vector<uint8_t>& bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  out.reserve(2 * bytes.size());
  for (const uint8_t byte : bytes) {
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

[[nodiscard]] json describe(CoreId core, const TraceRecord& r, const std::vector<uint8_t>& bytes) {
  json out = {{"core", core},
              {"number", r.number},
              {"unix_ns", r.unix_ns},
              {"kind", kKinds[static_cast<size_t>(r.kind) % std::size(kKinds)]},
              {"from", r.from.to_string()},
              {"to", r.to.to_string()},
              {"length", r.length},
              {"ttl", r.ttl},
              {"tos", r.tos},
              {"bytes", hex(bytes)}};
  if (r.kind == TraceKind::kSent) return out;
  out["outcome"] = outcome_name(r.outcome);
  if (r.second_outcome != TraceRecord::kNoOutcome)
    out["second_outcome"] = outcome_name(r.second_outcome);
  out["handed_in"] = r.handed_in != 0;
  return out;
}

// An address with or without a port. False: neither.
[[nodiscard]] bool read_address(const json& params, const char* name, TransportAddress& out) {
  const std::string text = params.value(name, "");
  if (text.empty()) return true;
  if (const auto whole = TransportAddress::parse(text)) {
    out = *whole;
    return true;
  }
  const auto ip = IpAddress::parse(text);
  if (ip) out = {*ip, 0};
  return ip.has_value();
}

// The question of `params`; nullopt: an answer was given.
[[nodiscard]] std::optional<Trace> read_question(const json& params, const RpcAnswer& answer) {
  Trace question;
  question.count = params.value("count", 100u);
  question.duration_ms = params.value("seconds", 60u) * 1000;
  question.relay_port = params.value("relay_port", uint16_t{0});
  for (const char* name : {"client", "peer"}) {
    if (read_address(params, name, name[0] == 'c' ? question.client : question.peer)) continue;
    answer.error(RpcError::kInvalidParams, std::string("\"") + name +
                                               "\" must be an address, or an address and port: "
                                               "192.0.2.1, 192.0.2.1:5000, [2001:db8::1]:5000");
    return std::nullopt;
  }
  const std::string outcome = params.value("outcome", "");
  if (!outcome.empty()) {
    const auto at = std::find_if(std::begin(kOutcomeInfo), std::end(kOutcomeInfo),
                                 [&](const OutcomeInfo& o) { return o.name == outcome; });
    if (at == std::end(kOutcomeInfo)) {
      answer.error(RpcError::kInvalidParams,
                   "no outcome is called \"" + outcome + "\": `culvertctl drops --all` names them");
      return std::nullopt;
    }
    question.outcome = static_cast<uint8_t>(at - std::begin(kOutcomeInfo));
  }
  const std::string bytes = params.value("bytes", "none");
  question.bytes = bytes == "payload"   ? TraceBytes::kPayload
                   : bytes == "headers" ? TraceBytes::kHeaders
                                        : TraceBytes::kNone;
  return question;
}

}  // namespace

bool TraceSession::ask_cores(Trace question) {
  bool all = true;
  for (CoreId core = 0; core < engine_.cores(); ++core)
    all = engine_.send(core, question) && all;
  return all;
}

void TraceSession::start(const json& params, uint64_t now_ms, const RpcAnswer& answer) {
  gather(now_ms);
  if (on_ && now_ms < read_ms_ + kTraceIdleMs)
    return answer.error(RpcError::kBusy, "a trace is under way: wait for its end");
  const std::optional<Trace> question = read_question(params, answer);
  if (!question) return;
  held_.clear();
  shown_.fill(0);
  left_ = question->count;
  lost_ = 0;
  lost_before_ = lost_by_cores(engine_);
  end_ms_ = now_ms + question->duration_ms;
  read_ms_ = now_ms;
  on_ = true;
  ++session_;
  if (!ask_cores(*question)) {
    finish();
    return answer.error(RpcError::kBusy, "a core takes no commands at the moment: try again");
  }
  answer.result({{"session", session_}});
}

// Ends it everywhere. A core that takes no command ends by its own count and clock.
void TraceSession::finish() {
  if (on_) (void)ask_cores(Trace{});
  on_ = false;
}

void TraceSession::gather(uint64_t now_ms) {
  for (CoreId core = 0; core < engine_.cores(); ++core) {
    while (const RingSlot* at = engine_.front_trace(core)) {
      const MessageView view(at);
      Held held{core, view.as<TraceRecord>(), {}};
      // What was sent for a datagram that is shown belongs to it, also after the last.
      const uint32_t number = held.record.number;
      const bool follows = held.record.kind == TraceKind::kSent && number != 0;
      const bool wanted = follows ? number == shown_[core] : on_ && left_ != 0;
      if (wanted && !follows) --left_;
      if (wanted && held_.size() >= kMaxTraceHeld) {
        ++lost_;
      } else if (wanted) {
        if (!follows) shown_[core] = number;
        held.bytes.assign(view.payload().begin(), view.payload().end());
        held_.push_back(std::move(held));
      }
      engine_.pop_trace(core);
    }
  }
  if (on_ && (left_ == 0 || now_ms >= end_ms_)) finish();
}

bool TraceSession::known(const json& params, const RpcAnswer& answer) const {
  if (params.value("session", 0u) == session_ && session_ != 0) return true;
  answer.error(RpcError::kNotFound, "that trace was replaced by another, or never began");
  return false;
}

void TraceSession::read(const json& params, uint64_t now_ms, const RpcAnswer& answer) {
  if (!known(params, answer)) return;
  read_ms_ = now_ms;
  gather(now_ms);
  json records = json::array();
  for (; !held_.empty() && records.size() < kMaxTracePage; held_.pop_front())
    records.push_back(describe(held_.front().core, held_.front().record, held_.front().bytes));
  answer.result({{"records", std::move(records)},
                 {"done", !on_ && held_.empty()},
                 {"lost", lost_ + lost_by_cores(engine_) - lost_before_}});
}

void TraceSession::stop(const json& params, const RpcAnswer& answer) {
  if (!known(params, answer)) return;
  finish();
  answer.result({{"stopped", true}});
}

}  // namespace culvert
