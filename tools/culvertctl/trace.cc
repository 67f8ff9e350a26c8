#include "tools/culvertctl/trace.h"

#include <ctime>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <thread>
#include <vector>

#include "control/trace.h"
#include "tools/culvertctl/client.h"
#include "tools/culvertctl/pcapng.h"
#include "tools/culvertctl/render.h"

namespace culvert {

using nlohmann::json;

namespace {

constexpr std::chrono::milliseconds kReadInterval{50};
constexpr uint32_t kTraceCount = 10, kTraceSeconds = 60;
constexpr uint32_t kCaptureCount = 1000, kCaptureSeconds = 60;

volatile std::sig_atomic_t stop_asked = 0;

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = [](int) { stop_asked = 1; };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP})
    sigaction(signal, &action, nullptr);
}

struct Ended {
  size_t records = 0;
  uint64_t lost = 0;
};

// Begins a trace and hands every record to `take` until it is done or a signal ends it.
template <class Take>
Ended follow(const TraceOptions& o, const char* bytes, uint32_t count, uint32_t seconds,
             Take take) {
  json params = {{"bytes", bytes},
                 {"count", o.count == 0 ? count : o.count},
                 {"seconds", o.seconds == 0 ? seconds : o.seconds}};
  if (!o.client.empty()) params["client"] = o.client;
  if (!o.peer.empty()) params["peer"] = o.peer;
  if (!o.outcome.empty()) params["outcome"] = o.outcome;
  if (o.relay_port != 0) params["relay_port"] = o.relay_port;
  catch_signals();
  ControlClient client(o.socket);
  const json session = {{"session", client.call("trace.start", params).at("session")}};
  std::fputs("culvertctl: watching; Ctrl-C ends it\n", stderr);
  Ended ended;
  const auto read = [&] {
    json page = client.call("trace.read", session);
    ended.lost = page.value("lost", uint64_t{0});
    for (const json& record : page.at("records")) {
      take(record);
      ++ended.records;
    }
    return page;
  };
  for (;;) {
    const json page = read();
    if (page.value("done", false)) break;
    if (stop_asked != 0) {
      (void)client.call("trace.stop", session);
      break;
    }
    if (page.at("records").size() < kMaxTracePage) std::this_thread::sleep_for(kReadInterval);
  }
  while (read().at("records").size() == kMaxTracePage) {
  }
  return ended;
}

void say_lost(const Ended& ended) {
  if (ended.lost != 0)
    std::fprintf(stderr, "culvertctl: %llu records were lost: more came than could be read\n",
                 static_cast<unsigned long long>(ended.lost));
}

[[nodiscard]] std::string outcomes(const json& record) {
  std::string out = record.at("outcome").is_null() ? "?" : record["outcome"].get<std::string>();
  if (record.contains("second_outcome")) out += ", " + record["second_outcome"].get<std::string>();
  return out;
}

[[nodiscard]] std::vector<uint8_t> bytes_of_hex(const std::string& hex) {
  const auto digit = [](char c) { return static_cast<uint8_t>(c <= '9' ? c - '0' : c - 'a' + 10); };
  std::vector<uint8_t> out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    out.push_back(static_cast<uint8_t>(digit(hex[i]) << 4 | digit(hex[i + 1])));
  return out;
}

}  // namespace

std::string render_trace(const json& r) {
  const auto ns = r.at("unix_ns").get<uint64_t>();
  const auto seconds = static_cast<std::time_t>(ns / 1'000'000'000);
  std::tm local{};
  localtime_r(&seconds, &local);
  char time[48];
  std::snprintf(time, sizeof time, "%02d:%02d:%02d.%06u", local.tm_hour, local.tm_min, local.tm_sec,
                static_cast<unsigned>(ns % 1'000'000'000 / 1000));
  const auto number = r.value("number", 0u);
  const bool sent = r.value("kind", "") == "sent";
  std::string out = std::string(time) + " core " + r.at("core").dump() +
                    (number == 0 ? " control" : " #" + std::to_string(number)) +
                    (sent ? "   sent " : " from " + r.value("kind", "") + " ") +
                    r.value("from", "") + " -> " + r.value("to", "") + " " +
                    std::to_string(r.value("length", 0u)) + " bytes ttl " +
                    std::to_string(r.value("ttl", 0u));
  if (r.value("tos", 0u) != 0) out += " tos " + std::to_string(r.value("tos", 0u));
  if (r.value("handed_in", false)) out += " handed in";
  if (!sent) out += ": " + outcomes(r);
  return out + "\n";
}

int run_trace(const TraceOptions& o) {
  const Ended ended = follow(o, "none", kTraceCount, kTraceSeconds, [&](const json& record) {
    std::fputs((o.json_output ? record.dump() + "\n" : render_trace(record)).c_str(), stdout);
    std::fflush(stdout);
  });
  if (ended.records == 0) std::fputs("culvertctl: nothing that matches was seen\n", stderr);
  say_lost(ended);
  return 0;
}

int run_capture(const TraceOptions& o) {
  PcapngWriter file(o.file);
  size_t written = 0, icmp = 0;
  const Ended ended = follow(
      o, o.payload ? "payload" : "headers", kCaptureCount, kCaptureSeconds, [&](const json& r) {
        const std::string kind = r.value("kind", "");
        const auto from = TransportAddress::parse(r.value("from", ""));
        const auto to = TransportAddress::parse(r.value("to", ""));
        // An ICMP error is not the datagram it speaks of.
        if (kind == "icmp_error" || !from || !to) {
          ++icmp;
          return;
        }
        const std::vector<uint8_t> bytes = bytes_of_hex(r.value("bytes", ""));
        CapturedDatagram d;
        d.unix_ns = r.at("unix_ns").get<uint64_t>();
        d.from = *from;
        d.to = *to;
        d.length = r.value("length", uint16_t{0});
        d.bytes = bytes;
        d.ttl = r.value("ttl", uint8_t{0});
        d.tos = r.value("tos", uint8_t{0});
        d.sent = kind == "sent";
        d.comment = "core " + r.at("core").dump() + " #" + std::to_string(r.value("number", 0u)) +
                    (d.sent ? "" : " " + outcomes(r));
        file.write(d);
        ++written;
      });
  file.finish();
  std::fprintf(stderr, "culvertctl: %zu datagrams in %s%s\n", written, o.file.c_str(),
               o.payload ? "" : ", without payload (--payload)");
  if (icmp != 0) std::fprintf(stderr, "culvertctl: %zu ICMP errors are left out\n", icmp);
  say_lost(ended);
  return 0;
}

}  // namespace culvert
