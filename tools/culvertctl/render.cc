#include "tools/culvertctl/render.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "control/logging.h"

namespace culvert {

using nlohmann::json;

namespace {

[[nodiscard]] size_t width(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

[[nodiscard]] uint64_t number(const json& from, const char* key) {
  return from.value(key, uint64_t{0});
}

[[nodiscard]] std::string text_of(const json& from, const char* key) {
  const auto at = from.find(key);
  if (at == from.end() || at->is_null()) return "-";
  return at->is_string() ? printable(at->get<std::string>()) : at->dump();
}

[[nodiscard]] std::string relayed(const json& a) {
  const std::string v4 = text_of(a, "relayed_ipv4");
  const std::string v6 = text_of(a, "relayed_ipv6");
  if (v4 == "-") return v6;
  return v6 == "-" ? v4 : v4 + " " + v6;
}

}  // namespace

Table::Table(std::vector<std::string> head, std::vector<bool> right)
    : rows_{std::move(head)}, right_(std::move(right)) {}

void Table::add(std::vector<std::string> row) {
  rows_.push_back(std::move(row));
}

std::string Table::text() const {
  std::vector<size_t> widths(rows_.front().size());
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i)
      widths[i] = std::max(widths[i], width(row[i]));
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string fill(widths[i] - width(row[i]), ' ');
      if (i != 0) line += "  ";
      line += right_[i] ? fill + row[i] : row[i] + fill;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string with_bytes(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

std::string with_commas(uint64_t number) {
  std::string out = std::to_string(number);
  for (size_t at = out.size(); at > 3;) {
    at -= 3;
    out.insert(at, ",");
  }
  return out;
}

std::string with_time(double seconds) {
  const auto s = static_cast<uint64_t>(std::max(seconds, 0.0));
  char text[48];
  if (s < 60)
    std::snprintf(text, sizeof text, "%us", static_cast<unsigned>(s));
  else if (s < 3600)
    std::snprintf(text, sizeof text, "%um%02us", static_cast<unsigned>(s / 60),
                  static_cast<unsigned>(s % 60));
  else if (s < 86400)
    std::snprintf(text, sizeof text, "%uh%02um", static_cast<unsigned>(s / 3600),
                  static_cast<unsigned>(s / 60 % 60));
  else
    std::snprintf(text, sizeof text, "%ud%02uh", static_cast<unsigned>(s / 86400),
                  static_cast<unsigned>(s / 3600 % 24));
  return text;
}

std::string printable(const std::string& text) {
  std::string out;
  append_log_value(out, text);
  // Quotes only where something had to be escaped.
  const bool same = out.size() == text.size() + 2 && out.find(text) == 1;
  return same ? text : out;
}

std::string render_health(const json& health) {
  std::string still;
  for (const json& core : health.value("stalled_cores", json::array()))
    still += (still.empty() ? "" : ", ") + core.dump();
  if (health.value("healthy", false))
    return "every core moves (" + text_of(health, "cores") + "), " + text_of(health, "state") +
           "\n";
  return "STANDS STILL: core " + still + "\n";
}

std::string render_status(const json& s) {
  std::string out = "culvertd " + text_of(s, "version") + ", " + text_of(s, "state") +
                    (s.value("healthy", true) ? "" : ", A CORE STANDS STILL") + ", up " +
                    with_time(s.value("uptime_seconds", 0.0)) + ", process " + text_of(s, "pid") +
                    "\n";
  out += "driver " + text_of(s, "driver") + ", " + text_of(s, "cores") + " cores\n";
  for (const json& l : s.value("listeners", json::array()))
    out += "listens on " + text_of(l, "address") + " realm " + text_of(l, "realm") + "\n";
  for (const json& r : s.value("relay_addresses", json::array())) {
    out += "relays on " + text_of(r, "bound");
    if (r["bound"] != r["advertised"]) out += ", advertised as " + text_of(r, "advertised");
    out += "\n";
  }
  out += "allocations " + with_commas(number(s, "allocations")) + " of " +
         with_commas(number(s, "max_allocations")) + ", relayed ports free " +
         with_commas(number(s, "ports_free")) + " of " + with_commas(number(s, "ports_total")) +
         "\n";
  const json traffic = s.value("traffic", json::object());
  out += "received " + with_commas(number(traffic, "received_packets")) + " datagrams (" +
         with_bytes(number(traffic, "received_bytes")) + "), sent " +
         with_commas(number(traffic, "sent_packets")) + " (" +
         with_bytes(number(traffic, "sent_bytes")) + "), send failures " +
         with_commas(number(traffic, "send_failed")) + "\n";
  for (const json& port : s.value("ports", json::array()))
    out += "port " + text_of(port, "name") + " (" + text_of(port, "driver") + "): missed " +
           with_commas(number(port, "missed")) + ", no buffer " +
           with_commas(number(port, "no_buffer")) + ", errors " +
           with_commas(number(port, "receive_errors") + number(port, "send_errors")) +
           (number(port, "link_up") != 0 ? "" : ", LINK DOWN") + "\n";
  const json turn = s.value("turn", json::object());
  out += "requests " + with_commas(number(turn, "requests")) + ", allocations made " +
         with_commas(number(turn, "allocations_made")) + ", refreshes " +
         with_commas(number(turn, "refreshes")) + "\n";
  std::string errors;
  const json codes = turn.value("errors", json::object());  // items() only refers to it
  for (const auto& [code, count] : codes.items()) {
    if (count.get<uint64_t>() != 0)
      errors += "  " + code + ": " + with_commas(count.get<uint64_t>());
  }
  if (!errors.empty()) out += "error responses" + errors + "\n";
  return out;
}

std::string render_allocations(const json& answer) {
  Table table(
      {"ID", "USER", "CLIENT", "RELAYED", "AGE", "LEFT", "TO PEER", "TO CLIENT", "PERM", "CHAN"},
      {false, false, false, false, true, true, true, true, true, true});
  const json& list = answer.at("allocations");
  for (const json& a : list) {
    const bool counted = a.contains("bytes_to_peer");
    table.add({text_of(a, "id"), text_of(a, "user"), text_of(a, "client"), relayed(a),
               with_time(a.value("age_seconds", 0.0)),
               with_time(a.value("expires_in_seconds", 0.0)),
               counted ? with_bytes(number(a, "bytes_to_peer")) : "-",
               counted ? with_bytes(number(a, "bytes_to_client")) : "-", text_of(a, "permissions"),
               text_of(a, "channels")});
  }
  if (list.empty()) return "no allocations\n";
  return table.text();
}

std::string render_drops(const json& drops, bool all, bool per_core) {
  std::vector<std::string> head = {"COUNT", "SEVERITY", "OUTCOME", "MEANING"};
  std::vector<bool> right = {true, false, false, false};
  const json& list = drops.at("outcomes");
  const size_t cores =
      per_core && !list.empty() ? list.front().value("cores", json::array()).size() : 0;
  for (size_t core = 0; core < cores; ++core) {
    head.insert(head.begin() + 1 + static_cast<std::ptrdiff_t>(core),
                "CORE " + std::to_string(core));
    right.insert(right.begin() + 1, true);
  }
  Table table(std::move(head), std::move(right));
  bool any = false;
  const auto add = [&](const json& o, const char* name) {
    const uint64_t total = number(o, "total");
    if (!all && (total == 0 || o.value("severity", "") == "ok")) return;
    any = true;
    std::vector<std::string> row = {with_commas(total)};
    for (size_t core = 0; core < cores; ++core)
      row.push_back(with_commas(o["cores"][core].get<uint64_t>()));
    row.insert(row.end(), {text_of(o, "severity"), text_of(o, name), o.value("text", "")});
    table.add(std::move(row));
  };
  for (const json& o : list)
    add(o, "outcome");
  // Of a driver that sees frames: before and after the path.
  for (const json& o : drops.value("frames", json::array()))
    add(o, "frame");
  return any ? table.text() : "nothing was dropped (--all shows every outcome)\n";
}

std::string render_cores(const json& cores) {
  Table table({"CORE", "ALLOCS", "PERMS", "CHANS", "PORTS", "RECEIVED", "SENT", "FAILED",
               "HANDED IN", "IDLE", "STATE"},
              {true, true, true, true, true, true, true, true, true, true, false});
  for (const json& c : cores.at("cores")) {
    const uint64_t loops = std::max<uint64_t>(number(c, "loops"), 1);
    table.add({text_of(c, "core"), with_commas(number(c, "allocations")),
               with_commas(number(c, "permissions")), with_commas(number(c, "channels")),
               with_commas(number(c, "open_ports")), with_commas(number(c, "received_packets")),
               with_commas(number(c, "sent_packets")), with_commas(number(c, "send_failed")),
               with_commas(number(c, "handed_in")),
               std::to_string(number(c, "idle_loops") * 100 / loops) + "%",
               c.value("stalled", false) ? "STANDS STILL" : "ok"});
  }
  return table.text();
}

std::string render_explain(const json& r) {
  std::string out =
      text_of(r, "outcome") + " (" + text_of(r, "severity") + "): " + r.value("text", "") + "\n";
  if (!r["to"].is_null()) out += "  sent to " + text_of(r, "to");
  if (!r["from_relay"].is_null()) out += " from " + text_of(r, "from_relay");
  if (!r["to"].is_null() || !r["from_relay"].is_null()) out += "\n";
  if (number(r, "permission_remaining_seconds") != 0)
    out += "  permission for another " +
           with_time(static_cast<double>(number(r, "permission_remaining_seconds"))) + "\n";
  if (number(r, "channel") != 0) {
    char channel[16];
    std::snprintf(channel, sizeof channel, "0x%04x", static_cast<unsigned>(number(r, "channel")));
    out += "  channel " + std::string(channel) + " for another " +
           with_time(static_cast<double>(number(r, "channel_remaining_seconds"))) + "\n";
  }
  if (r.contains("steered_by"))
    out += "  belongs to core " + text_of(r, "steered_to_core") + " (" + text_of(r, "steered_by") +
           ")\n";
  else if (r.contains("steered_to_core"))
    out += "  arrives on whichever core the kernel chooses\n";
  if (!r["allocation"].is_null()) {
    const json& a = r["allocation"];
    out += "  allocation " + text_of(a, "id") + " of " + text_of(a, "user") + ", client " +
           text_of(a, "client") + ", relayed " + relayed(a) + ", core " + text_of(a, "core") + "\n";
  }
  return out;
}

std::string render_object(const json& object) {
  Table table({"KEY", "VALUE"}, {false, false});
  std::string lists;
  for (const auto& [key, value] : object.items()) {
    if (value.is_number_unsigned())
      table.add({key, with_commas(value.get<uint64_t>())});
    else if (value.is_string())
      table.add({key, printable(value.get<std::string>())});
    else if (!value.is_structured())
      table.add({key, value.dump()});
    else
      lists +=
          "\n" + key + ":\n" + (value.is_array() ? value.dump(2) + "\n" : render_object(value));
  }
  return table.text() + lists;
}

}  // namespace culvert
