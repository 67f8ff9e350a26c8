// culvert-conformance: holds a TURN server to RFC 8489 and RFC 8656, one named test per
// requirement, from outside. It plays the client and the peers; nothing is installed on the server.
#include <cstdio>
#include <stdexcept>
#include <vector>

#include <CLI/CLI.hpp>

#include "tools/culvert-conformance/capture.h"
#include "tools/culvert-conformance/report.h"

namespace culvert::conformance {
namespace {

constexpr int kUsage = 2;
constexpr int kUnreachable = 3;

constexpr const char* kFooter = R"(
Examples:
  culvert-conformance 192.0.2.10:3478 --user demo --password secret
  culvert-conformance '[2001:db8::1]:3478' --user demo --password secret --row T27 --row T31
  culvert-conformance 127.0.0.1:3478 --user demo --password secret --peer 127.0.0.2 --json

The server must allow the peers' addresses. Peers are played on --peer and --peer6, which must be
addresses of this machine that the server can reach; the default is the address this machine talks
to the server from, or 127.0.0.2 when that is loopback. Rows about a family that the server relays
nothing of, or of which there is no peer, read "not offered".

Exit status: 0 no row failed, 1 some did, 2 wrong usage, 3 the server does not answer.)";

struct Options {
  std::string server, server6, peer, peer6, other_user, other_password;
  std::vector<std::string> rows;
  Target target;
  bool json = false, list = false, slow = false;
};

[[nodiscard]] std::vector<Row> chosen(const Options& o) {
  std::vector<Row> rows = all_rows();
  if (o.rows.empty()) return rows;
  std::vector<Row> out;
  for (const auto& name : o.rows) {
    const int number = row_number(name);
    const size_t before = out.size();
    for (const Row& row : rows)
      if (row.number == number) out.push_back(row);
    if (out.size() == before)
      throw std::invalid_argument("there is no row '" + name + "' (--list)");
  }
  return out;
}

void list(const std::vector<Row>& rows) {
  for (const Row& row : rows) {
    const char* how = row.kind == Kind::kSlow            ? " (--slow)"
                      : row.kind == Kind::kNotObservable ? " (not observable)"
                      : row.kind == Kind::kCapture       ? " (--capture)"
                      : row.kind == Kind::kLater         ? " (later)"
                                                         : "";
    std::printf("T%-4d %-17s %s%s\n", row.number, row.section, row.title, how);
  }
}

[[nodiscard]] IpAddress address_of(const std::string& text, const char* option) {
  const auto ip = IpAddress::parse(text);
  if (!ip) throw std::invalid_argument(std::string(option) + ": '" + text + "' is not an address");
  return *ip;
}

// Where client and peers live, from what was given.
void derive(Options& o) {
  Target& t = o.target;
  t.server = resolve(o.server);
  t.client_ip = source_towards(t.server);
  // A relay refuses its own address as a peer, so loopback needs another one; ::1 has none.
  const bool loopback = t.client_ip.is_v4() ? t.client_ip.v4_host() >> 24 == 127
                                            : t.client_ip == *IpAddress::parse("::1");
  if (!o.peer.empty())
    t.peer_ip = address_of(o.peer, "--peer");
  else if (loopback)
    t.peer_ip = IpAddress::parse("127.0.0.2");
  else if (t.client_ip.is_v4())
    t.peer_ip = t.client_ip;
  if (!o.peer6.empty())
    t.peer_ip6 = address_of(o.peer6, "--peer6");
  else if (!loopback && t.client_ip.is_v6())
    t.peer_ip6 = t.client_ip;
  if (t.peer_ip && !t.peer_ip->is_v4())
    throw std::invalid_argument("--peer must be an IPv4 address");
  if (t.peer_ip6 && !t.peer_ip6->is_v6())
    throw std::invalid_argument("--peer6 must be an IPv6 address");
  if (!o.server6.empty()) t.server6 = resolve(o.server6);
  if (t.server6 && !t.server6->ip.is_v6())
    throw std::invalid_argument("--server6 must be an IPv6 address");
  if (!t.capture.empty()) static_cast<void>(Capture(t.capture));  // may we?
  if (!o.other_user.empty()) t.other = Account{o.other_user, o.other_password};
}

void define(CLI::App& app, Options& o) {
  app.footer(kFooter);
  auto* server = app.add_option("HOST:PORT", o.server, "The TURN server, over UDP");
  auto* user = app.add_option("--user", o.target.account.user, "Name of an account");
  auto* password = app.add_option("--password", o.target.account.password, "Its password");
  app.add_option("--realm", o.target.realm, "Realm; default: the one the server names");
  app.add_option("--other-user", o.other_user, "A second account of the realm, for row T61");
  app.add_option("--other-password", o.other_password, "Its password");
  app.add_option("--peer", o.peer, "IPv4 address of this machine on which peers are played");
  app.add_option("--peer6", o.peer6, "IPv6 address of this machine for IPv6 peers");
  app.add_option("--server6", o.server6,
                 "The same server over IPv6, [ADDRESS]:PORT, for rows about headers");
  app.add_option("--capture", o.target.capture,
                 "Interface on which the server's packets arrive here: judges header and ICMP rows "
                 "as well; needs root");
  app.add_option("--row", o.rows, "Only this row, such as T12; may be repeated");
  app.add_flag("--json", o.json, "Results as JSON");
  app.add_flag("--slow", o.slow, "Also rows that wait for lifetimes of 5 to 15 minutes");
  auto* list_flag = app.add_flag("--list", o.list, "Print the rows and end");
  app.callback([=] {
    if (list_flag->count() != 0) return;
    for (auto* needed : {server, user, password})
      if (needed->count() == 0) throw CLI::RequiredError(needed->get_name());
  });
}

int run(Options& o, const std::vector<Row>& rows) {
  Observations seen;
  {
    Session probe(o.target, seen);
    if (!probe.ask(probe.begin(Method::kBinding).bytes())) {
      std::fprintf(stderr, "culvert-conformance: %s does not answer a STUN Binding request\n",
                   o.target.server.to_string().c_str());
      return kUnreachable;
    }
  }
  o.target.relay = find_relay_family(o.target, seen);
  if (o.target.relay == Family::kIpv4 && !o.target.peer_ip)
    throw std::invalid_argument("--peer must name an IPv4 address of this machine");
  if (o.target.relay == Family::kIpv6 && !o.target.peer_ip6)
    throw std::invalid_argument(
        "the server relays IPv6 alone: --peer6 must name an IPv6 address of this machine");
  std::vector<Result> results;
  for (const Row& row : rows) {
    results.push_back(run_row(row, o.target, seen, o.slow));
    if (o.json) continue;
    std::fputs(table_line(results.back()).c_str(), stdout);
    std::fflush(stdout);
  }
  const auto text = o.json
                        ? to_json(o.server, results)
                                  .dump(2, ' ', false, nlohmann::json::error_handler_t::replace) +
                              "\n"
                        : summary(results);
  std::fputs(text.c_str(), stdout);
  return exit_status(results);
}

}  // namespace
}  // namespace culvert::conformance

int main(int argc, char** argv) {
  using namespace culvert::conformance;
  CLI::App app{"Holds a TURN server to RFC 8489 and RFC 8656, from outside"};
  Options options;
  define(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsage;
  }
  try {
    const auto rows = chosen(options);
    if (options.list) {
      list(rows);
      return 0;
    }
    derive(options);
    return run(options, rows);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "culvert-conformance: %s\n", error.what());
    return kUsage;
  }
}
