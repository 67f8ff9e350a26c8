#include "tools/culvert-conformance/rows.h"

#include <algorithm>
#include <exception>
#include <thread>

namespace culvert::conformance {

const char* name_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::kPass:
      return "pass";
    case Verdict::kFail:
      return "fail";
    case Verdict::kNotOffered:
      return "not offered";
    case Verdict::kNotObservable:
      return "not observable";
    case Verdict::kNotRun:
      return "not run";
  }
  return "?";
}

void Context::note(const std::string& text) {
  if (!evidence.empty()) evidence += "; ";
  evidence += text;
}

void Context::require(bool held, const std::string& what) {
  if (!held) throw Failed{"not so: " + what};
  note(what);
}

void Context::expect(const Answer& answer, int code, const std::string& what) {
  if (answer.code() != code)
    throw Failed{what + ": " + answer.describe() + ", expected " +
                 (code == 0 ? "success" : std::to_string(code))};
  note(what + ": " + answer.describe());
}

void Context::silent(Session& session, Bytes request, const std::string& what) {
  if (!session.stays_silent(request)) throw Failed{what + ": it was answered"};
  note(what + ": silence");
}

Clock::time_point Context::now() const {
  const auto skipped = target.skipped_ns;
  return Clock::now() + std::chrono::nanoseconds(skipped != nullptr ? skipped->load() : 0);
}

void Context::wait_until(Clock::time_point when) const {
  if (target.skipped_ns == nullptr)
    std::this_thread::sleep_until(when);
  else
    *target.skipped_ns += std::max<int64_t>(0, std::chrono::nanoseconds(when - now()).count());
}

std::optional<Datagram> Peer::receive(const TransportAddress& from, milliseconds wait) {
  const auto deadline = Clock::now() + wait;
  while (auto got = socket.receive(deadline))
    if (got->from == from) return got;
  return std::nullopt;
}

std::string text_of(const std::vector<uint8_t>& bytes) {
  return {bytes.begin(), bytes.end()};
}

std::vector<Row> all_rows() {
  std::vector<Row> out;
  for (const auto rows : {stun_rows(), credential_rows(), allocation_rows(), data_rows(),
                          header_rows(), capture_rows()})
    out.insert(out.end(), rows.begin(), rows.end());
  std::sort(out.begin(), out.end(), [](const Row& a, const Row& b) { return a.number < b.number; });
  return out;
}

Result run_row(const Row& row, const Target& target, Observations& seen, bool slow) {
  const bool hidden = row.kind == Kind::kCapture && target.capture.empty();
  if (row.kind == Kind::kNotObservable || hidden)
    return {&row, Verdict::kNotObservable, row.reason, 0};
  if (row.kind == Kind::kLater) return {&row, Verdict::kNotOffered, row.reason, 0};
  if (row.kind == Kind::kSlow && !slow)
    return {&row, Verdict::kNotRun, "waits for minutes: --slow", 0};
  Context context{target, seen, {}};
  const auto began = Clock::now();
  Verdict verdict = Verdict::kPass;
  const auto after = [&](const std::string& why) {
    return context.evidence.empty() ? why : why + " (before: " + context.evidence + ")";
  };
  try {
    row.run(context);
  } catch (const Failed& failed) {
    verdict = Verdict::kFail;
    context.evidence = after(failed.why);
  } catch (const NotOffered& missing) {
    verdict = Verdict::kNotOffered;
    context.evidence = missing.why;
  } catch (const std::exception& error) {
    verdict = Verdict::kFail;
    context.evidence = after(std::string("the suite itself failed: ") + error.what());
  }
  const std::chrono::duration<double> took = Clock::now() - began;
  return {&row, verdict, context.evidence, took.count()};
}

}  // namespace culvert::conformance
