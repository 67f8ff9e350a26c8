// What a run says at its end: a page for people, JSON for programs, and whether the generator was
// the limit. Every figure printed was measured in this run.
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iostream>

#include "tools/culvert-load/report.h"
#include "tools/culvert-load/run.h"

namespace culvert::load {
namespace {

constexpr double kUs = 1e3;
constexpr double kSentOfSchedule = 0.995;         // less of what was due was sent: too slow
constexpr uint64_t kLatenessLimitNs = 1'000'000;  // p99 of sending after due
constexpr double kUnpacedLoss = 0.01;             // less lost: the server took all there was
constexpr uint64_t kStandingQueueNs = 5'000'000;  // median latency of a server that lags behind
constexpr double kCurveSamples = 10;
constexpr double kOwnDrops = 0.001;  // of what was delivered

double seconds_of(const Result& r) {
  return static_cast<double>(r.to.at_ns - r.from.at_ns) / 1e9;
}
double per_second(uint64_t count, const Result& r) {
  const double s = seconds_of(r);
  return s > 0 ? static_cast<double>(count) / s : 0;
}
double server_cpu_s(const Result& r) {
  return static_cast<double>(r.to.process_ns - r.from.process_ns) / 1e9;
}
double per_cpu_second(const Result& r) {
  const double cpu = server_cpu_s(r);
  return cpu > 0 ? static_cast<double>(r.received) / cpu : 0;
}
const char* unit_of(Mode mode) {
  switch (mode) {
    case Mode::kChurn:
      return "allocations";
    case Mode::kBinding:
      return "responses";
    case Mode::kHostile:
      return "responses";
    default:
      return "packets";
  }
}

double amplification(const FloodTally& f) {
  return f.request_bytes == 0
             ? 0
             : static_cast<double>(f.response_bytes) / static_cast<double>(f.request_bytes);
}

Json latency_json(const Histogram& h) {
  if (h.total() == 0) return nullptr;
  Json out;
  out["samples"] = h.total();
  out["min"] = static_cast<double>(h.min()) / kUs;
  out["mean"] = h.mean() / kUs;
  for (const auto& [name, q] :
       {std::pair{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}, {"p99.99", 0.9999}})
    out[name] = static_cast<double>(h.quantile(q)) / kUs;
  out["max"] = static_cast<double>(h.max()) / kUs;
  // For a plot: as far as ten samples lie beyond, which a single one would make chance.
  Json curve = Json::array();
  for (const double q : {0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995,
                         0.9998, 0.9999, 0.99999})
    if ((1 - q) * static_cast<double>(h.total()) >= kCurveSamples)
      curve.push_back({q, static_cast<double>(h.quantile(q)) / kUs});
  out["curve"] = curve;
  return out;
}

Json flow_json(const FlowTally& flow) {
  return {
      {"sent", flow.sent},
      {"unique", flow.unique},
      {"lost", flow.lost()},
      {"loss",
       flow.sent != 0 ? static_cast<double>(flow.lost()) / static_cast<double>(flow.sent) : 0.0},
      {"duplicates", flow.duplicates},
      {"reordered", flow.reordered},
      {"latency_us", latency_json(flow.latency)}};
}

Json options_json(const Options& o) {
  return {{"server", o.server.to_string()},
          {"driver", o.driver},
          {"transport", o.transport},
          {"clients", o.clients},
          {"peers", o.peers},
          {"threads", o.threads},
          {"size", o.size},
          {"rate", o.rate > 0 ? Json(o.rate) : Json("unpaced")},
          {"rate_to", o.rate_to > 0 ? Json(o.rate_to) : Json(nullptr)},
          {"tick_us", o.tick_us},
          {"sleep", o.sleep},
          {"run_length", o.run_length},
          {"gso", o.gso},
          {"gro", o.coalesce},
          {"duration_s", o.duration_s},
          {"warm_up_s", o.warm_up_s},
          {"family", name_of(o.family)},
          {"direction", name_of(o.direction)},
          {"topology", name_of(o.topology)},
          {"encoding", name_of(o.encoding)},
          {"eal", o.dpdk.eal},
          {"queues", o.queues},
          {"queue_of", name_of(o.queue_of)},
          {"attack", name_of(o.attack)},
          {"count", o.count},
          {"channels", o.channels},
          {"permissions", o.permissions},
          {"rfc5389", o.rfc5389},
          {"seed", o.seed}};
}

Json server_json(const Result& r) {
  if (!r.server_watched) return nullptr;
  const auto s = [](uint64_t a, uint64_t b) { return static_cast<double>(b - a) / 1e9; };
  return {{"pid", r.options.server_pid},
          {"cpu_s", server_cpu_s(r)},
          {"cpu_share", server_cpu_s(r) / std::max(seconds_of(r), 1e-9)},
          {"user_s", s(r.from.user_ns, r.to.user_ns)},
          {"system_s", s(r.from.system_ns, r.to.system_ns)},
          {"per_cpu_second", per_cpu_second(r)},
          {"setup_cpu_s", s(r.before.process_ns, r.ready.process_ns)},
          {"rss_before", r.before.rss_bytes},
          {"rss_ready", r.ready.rss_bytes},
          {"rss_after", r.to.rss_bytes},
          {"rss_peak", r.rss_peak}};
}

Json generator_json(const Result& r) {
  const auto& t = r.tally;
  const auto each = [](uint64_t ns, uint64_t n) {
    return n == 0 ? 0.0 : static_cast<double>(ns) / static_cast<double>(n);
  };
  return {{"was_the_limit", !r.limits.empty()},
          {"reasons", r.limits},
          {"cpu_s", static_cast<double>(r.own_cpu_ns) / 1e9},
          {"send_ns_each", each(t.tx_ns, t.tx_datagrams)},
          {"receive_ns_each", each(t.rx_ns, t.rx_datagrams)},
          {"idle_s", static_cast<double>(t.idle_ns) / 1e9},
          {"scheduled", t.scheduled},
          {"lateness_us", latency_json(t.lateness)},
          {"send_refused", t.send_refused},
          {"receive_drops", t.receive_drops}};
}

// Each second of the window: what was due in it and what became of that (by due time, so a late
// arrival counts where it belongs), and what the server took meanwhile.
Json series_json(const Result& r) {
  Json out = Json::array();
  for (size_t i = 0; i < r.series.size(); ++i) {
    const Second& s = r.series[i];
    const double seconds = std::max(s.seconds, 1e-9);
    Json one{{"second", i},
             {"seconds", s.seconds},
             {"received_per_s", static_cast<double>(s.received) / seconds},
             {"server_cpu_share", static_cast<double>(s.server_cpu_ns) / 1e9 / seconds},
             {"rss_bytes", s.rss_bytes}};
    const SecondTally due = i < r.tally.seconds.size() ? r.tally.seconds[i] : SecondTally{};
    one["sent"] = due.sent;
    one["unique"] = due.unique;
    one["lost"] = due.sent > due.unique ? due.sent - due.unique : 0;
    for (const auto& [name, q] : {std::pair{"p50_us", 0.5}, {"p99_us", 0.99}, {"max_us", 1.0}})
      one[name] = due.latency.total() == 0
                      ? Json(nullptr)
                      : Json(static_cast<double>(due.latency.quantile(q)) / kUs);
    out.push_back(one);
  }
  return out;
}

// Of the whole trial: warm-up, window and what came after it.
Json flood_json(const Result& r) {
  const FloodTally& f = r.tally.flood;
  if (!r.options.flood) return nullptr;
  return {{"attack", name_of(*r.options.flood)},
          {"rate", r.options.flood_rate},
          {"due", f.due},
          {"sent", f.sent},
          {"responses", f.responses},
          {"bytes", {{"requests", f.request_bytes}, {"responses", f.response_bytes}}},
          {"amplification", amplification(f)}};
}

}  // namespace

// What every result begins with: enough to tell whether two may be compared.
Json head_json(const Options& options) {
  const Machine m = machine();
  char when[32];
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return {{"tool", "culvert-load"},
          {"version", CULVERT_VERSION},
          {"mode", name_of(options.mode)},
          {"when", when},
          {"machine",
           {{"host", m.host},
            {"kernel", m.kernel},
            {"processor", m.processor},
            {"cpus", m.cpus},
            {"memory_bytes", m.memory_bytes}}},
          {"options", options_json(options)}};
}

Json result_json(const Result& r) {
  const auto& t = r.tally;
  const bool operations = r.options.mode == Mode::kChurn || r.options.mode == Mode::kBinding;
  Json errors = Json::object();
  Json port = Json::object();
  for (const auto& [name, count] : t.port)
    port[name] = count;
  for (const auto& [name, count] : t.error_kinds)
    errors[name] = count;
  return {{"setup_s", r.setup_s},
          {"seconds", seconds_of(r)},
          {"unit", unit_of(r.options.mode)},
          {"sent", r.sent},
          {"received", r.received},
          {"sent_per_s", per_second(r.sent, r)},
          {"received_per_s", per_second(r.received, r)},
          {"flows", {{"to_peer", flow_json(t.flows[0])}, {"to_client", flow_json(t.flows[1])}}},
          {"operation_us", operations ? latency_json(t.flows[0].latency) : Json(nullptr)},
          {"corrupt", t.corrupt},
          {"strange", t.strange},
          {"errors", errors},
          {"flood", flood_json(r)},
          {"port", port},
          {"bytes", {{"requests", t.request_bytes}, {"responses", t.response_bytes}}},
          {"server", server_json(r)},
          {"softirq_s", static_cast<double>(r.to.softirq_ns - r.from.softirq_ns) / 1e9},
          {"ksoftirqd_s", static_cast<double>(r.to.ksoftirqd_ns - r.from.ksoftirqd_ns) / 1e9},
          {"generator", generator_json(r)},
          {"series", series_json(r)}};
}

namespace {

void print_latency(const char* name, const Histogram& h) {
  if (h.total() == 0) return;
  std::printf("  %-10s p50 %.1f us   p99 %.1f us   p99.9 %.1f us   p99.99 %.1f us   max %.1f us\n",
              name, static_cast<double>(h.quantile(0.5)) / kUs,
              static_cast<double>(h.quantile(0.99)) / kUs,
              static_cast<double>(h.quantile(0.999)) / kUs,
              static_cast<double>(h.quantile(0.9999)) / kUs, static_cast<double>(h.max()) / kUs);
}

void print_flow(const char* name, const FlowTally& flow) {
  if (flow.sent == 0) return;
  std::printf("  %-10s sent %llu, lost %llu (%.4f %%), reordered %llu, duplicated %llu\n", name,
              static_cast<unsigned long long>(flow.sent),
              static_cast<unsigned long long>(flow.lost()),
              100.0 * static_cast<double>(flow.lost()) / static_cast<double>(flow.sent),
              static_cast<unsigned long long>(flow.reordered),
              static_cast<unsigned long long>(flow.duplicates));
  print_latency("", flow.latency);
}

void print_server(const Result& r) {
  if (!r.server_watched) {
    std::printf("server CPU   not sampled (give --server-pid)\n");
    return;
  }
  std::printf(
      "server CPU   %.3f s (%.0f %% of one), user %.2f, system %.2f; machine softirq %.2f s\n",
      server_cpu_s(r), 100 * server_cpu_s(r) / std::max(seconds_of(r), 1e-9),
      static_cast<double>(r.to.user_ns - r.from.user_ns) / 1e9,
      static_cast<double>(r.to.system_ns - r.from.system_ns) / 1e9,
      static_cast<double>(r.to.softirq_ns - r.from.softirq_ns) / 1e9);
  if (r.received != 0)
    std::printf("             %.0f %s per CPU-second of the whole server\n", per_cpu_second(r),
                unit_of(r.options.mode));
  std::printf("server RSS   %.1f MB before, %.1f MB when set up, %.1f MB at the end\n",
              static_cast<double>(r.before.rss_bytes) / 1e6,
              static_cast<double>(r.ready.rss_bytes) / 1e6,
              static_cast<double>(r.to.rss_bytes) / 1e6);
}

}  // namespace

void judge_limits(Result& r) {
  const auto& t = r.tally;
  const auto say = [&](const std::string& what) { r.limits.push_back(what); };
  uint64_t sent = 0;
  uint64_t missing = 0;
  for (const auto& flow : t.flows) {
    sent += flow.sent;
    missing += flow.lost();
  }
  const bool data = r.options.mode == Mode::kRelay || r.options.mode == Mode::kBinding;
  // Hostile mode with a count ends before its time on purpose.
  if (t.scheduled != 0 && r.options.count == 0 &&
      static_cast<double>(sent) < kSentOfSchedule * static_cast<double>(t.scheduled)) {
    say("it sent " + std::to_string(sent) + " of the " + std::to_string(t.scheduled) + " due");
    r.underloaded = true;
  }
  if (static_cast<double>(t.flood.sent) < kSentOfSchedule * static_cast<double>(t.flood.due))
    say("its flood sent " + std::to_string(t.flood.sent) + " of the " +
        std::to_string(t.flood.due) + " due");
  if (t.lateness.quantile(0.99) > kLatenessLimitNs)
    say("1 % of its datagrams left more than 1 ms after they were due");
  // A server behind its load either loses datagrams or keeps them waiting in a standing queue.
  const uint64_t median =
      std::max(t.flows[0].latency.quantile(0.5), t.flows[1].latency.quantile(0.5));
  if (data && t.trial.rate <= 0 && sent != 0 && median < kStandingQueueNs &&
      static_cast<double>(missing) < kUnpacedLoss * static_cast<double>(sent))
    say("unpaced, and the server still took all that it sent at once");
  if (static_cast<double>(t.receive_drops) > kOwnDrops * static_cast<double>(t.rx_datagrams)) {
    say("its own sockets dropped " + std::to_string(t.receive_drops) + " datagrams");
    r.underloaded = true;
  }
}

void print_summary(const Result& r) {
  const auto& o = r.options;
  const auto& t = r.tally;
  const char* unit = unit_of(o.mode);
  std::printf("%s: %u clients, set up in %.2f s, measured %.2f s, seed %llu\n", name_of(o.mode),
              o.clients, r.setup_s, seconds_of(r), static_cast<unsigned long long>(o.seed));
  if (o.mode != Mode::kIdle)
    std::printf("rate         %.0f %s a second, %.0f begun a second\n", per_second(r.received, r),
                unit, per_second(r.sent, r));
  if (o.mode == Mode::kRelay || o.mode == Mode::kCalibrate) {
    print_flow("to peer", t.flows[kToPeerIndex]);
    print_flow("to client", t.flows[kToClientIndex]);
  }
  if (o.mode == Mode::kChurn || o.mode == Mode::kBinding)
    print_latency(o.mode == Mode::kChurn ? "whole" : "answer", t.flows[0].latency);
  if (o.mode == Mode::kHostile && t.request_bytes != 0)
    std::printf("amplified    %llu bytes in, %llu bytes out: %.3f (IP and UDP headers included)\n",
                static_cast<unsigned long long>(t.request_bytes),
                static_cast<unsigned long long>(t.response_bytes),
                static_cast<double>(t.response_bytes) / static_cast<double>(t.request_bytes));
  if (o.flood)
    std::printf("flood        %llu sent, %llu answered; %llu bytes in, %llu bytes out: %.3f\n",
                static_cast<unsigned long long>(t.flood.sent),
                static_cast<unsigned long long>(t.flood.responses),
                static_cast<unsigned long long>(t.flood.request_bytes),
                static_cast<unsigned long long>(t.flood.response_bytes), amplification(t.flood));
  if (o.mode != Mode::kCalibrate) print_server(r);
  for (const auto& [name, count] : t.error_kinds)
    std::printf("errors       %llu x %s\n", static_cast<unsigned long long>(count), name.c_str());
  if (!t.port.empty()) {
    std::printf("port        ");
    for (const auto& [name, count] : t.port)
      std::printf(" %s %llu", name.c_str(), static_cast<unsigned long long>(count));
    std::printf("\n");
  }
  if (t.corrupt != 0)
    std::printf("CORRUPT      %llu datagrams of a wrong size\n",
                static_cast<unsigned long long>(t.corrupt));
  for (const auto& reason : r.limits)
    std::printf("GENERATOR-LIMITED: %s. The server's own limit is not known from this run.\n",
                reason.c_str());
}

bool write_json(const std::string& path, const Json& json) {
  if (path.empty()) return true;
  const auto text = json.dump(1) + "\n";
  if (path == "-") {
    std::cout << text << std::flush;
    return true;
  }
  std::ofstream file(path);
  file << text;
  file.close();
  if (file) return true;
  std::fprintf(stderr, "culvert-load: cannot write %s\n", path.c_str());
  return false;
}

bool write_json(const Result& result) {
  if (result.options.json.empty()) return true;
  Json out = head_json(result.options);
  out.update(result_json(result));
  return write_json(result.options.json, out);
}

}  // namespace culvert::load
