// culvertctl: the operator's hand on a running culvertd, over its control socket. `mint --secret`
// and `user ... --database` also work without one. Everything printed for people is available as
// JSON.
#include <termios.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <iostream>
#include <stdexcept>
#include <string>

#include <CLI/CLI.hpp>

#include "config/config.h"
#include "config/parse.h"
#include "control/account_worker.h"
#include "control/trace.h"
#include "crypto/credentials.h"
#include "tools/culvertctl/client.h"
#include "tools/culvertctl/render.h"
#include "tools/culvertctl/top.h"
#include "tools/culvertctl/trace.h"

namespace culvert {
namespace {

using nlohmann::json;

constexpr int kOk = 0;
constexpr int kRefused = 1;  // the daemon said no, or the offline work failed
constexpr int kUsage = 2;
constexpr int kUnreachable = 3;  // no daemon there

constexpr const char* kExamples = R"(
Examples:
  culvertctl status
  culvertctl allocations --user alice
  culvertctl top                        a live table of cores, ports and drops; q ends it
  culvertctl drops                      what was not forwarded, and why
  culvertctl explain "udp 192.0.2.1:5000 -> 198.51.100.1:3478 channel 0x4000"
  culvertctl trace --client 192.0.2.1   what becomes of its next ten datagrams
  culvertctl capture call.pcapng --client 192.0.2.1 --seconds 30
  culvertctl drain                      before maintenance; `drain --off` takes it back
  culvertctl close --user alice
  culvertctl mint --user alice --ttl 3600
  culvertctl mint --secret s3cret       without a daemon
  culvertctl user add alice             asks for the password
  culvertctl status --json | jq .allocations

Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no daemon answers on the socket.)";

struct Options {
  std::string socket = ControlSocketConfig{}.path;
  bool json_output = false;
  // filters
  std::string user, realm, client, relay;
  size_t limit = 100;
  bool counters = true;
  // drops
  bool all = false, per_core = false;
  // top
  bool once = false;
  double interval = 1;
  // trace, capture
  std::string peer, outcome, file;
  uint32_t relay_port = 0, count = 0, seconds = 0;
  bool payload = false;
  // others
  std::string datagram, id;
  bool off = false;
  // mint
  std::string secret, algorithm = "sha1";
  uint32_t ttl = 86400;
  bool secret_stdin = false;
  // user
  std::string database;
  bool password_stdin = false;
};

[[nodiscard]] std::string dump(const json& value) {
  return value.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

void print(const Options& o, const json& answer, const std::string& text) {
  std::fputs((o.json_output ? dump(answer) : text).c_str(), stdout);
}

void add_filter(json& params, const char* name, const std::string& value) {
  if (!value.empty()) params[name] = value;
}

[[nodiscard]] json filters(const Options& o) {
  json params = json::object();
  add_filter(params, "user", o.user);
  add_filter(params, "realm", o.realm);
  add_filter(params, "client", o.client);
  add_filter(params, "relay", o.relay);
  return params;
}

// Follows the pages until the limit.
int run_allocations(const Options& o) {
  ControlClient client(o.socket);
  json all = {{"allocations", json::array()}, {"next", nullptr}};
  json params = filters(o);
  params["counters"] = o.counters;
  for (;;) {
    const size_t left = o.limit - all["allocations"].size();
    params["limit"] = std::min<size_t>(left, kMaxAllocationPage);
    json page = client.call("allocations", params);
    for (json& a : page["allocations"])
      all["allocations"].push_back(std::move(a));
    all["next"] = page["next"];
    if (page["next"].is_null() || all["allocations"].size() >= o.limit) break;
    params["from"] = page["next"];
  }
  std::string text = render_allocations(all);
  if (!all["next"].is_null()) text += "there are more: --limit N\n";
  print(o, all, text);
  return kOk;
}

int run_close(const Options& o) {
  json params = filters(o);
  add_filter(params, "id", o.id);
  if (o.all) params["all"] = true;
  const json answer = ControlClient(o.socket).call("close", params);
  print(o, answer,
        "closed " + std::to_string(answer.value("closed", size_t{0})) + " allocations\n");
  return kOk;
}

// One line of standard input, without its newline.
[[nodiscard]] std::string read_stdin_line() {
  std::string line;
  if (!std::getline(std::cin, line)) throw std::runtime_error("nothing to read on standard input");
  return line;
}

// From the terminal without echo, twice.
[[nodiscard]] std::string ask_password() {
  if (isatty(STDIN_FILENO) == 0)
    throw std::runtime_error("standard input is no terminal: use --password-stdin");
  termios before{};
  tcgetattr(STDIN_FILENO, &before);
  termios quiet = before;
  quiet.c_lflag &= ~static_cast<tcflag_t>(ECHO);
  const auto ask = [&](const char* prompt) {
    std::fputs(prompt, stderr);
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
    std::string line;
    std::getline(std::cin, line);
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &before);
    std::fputc('\n', stderr);
    return line;
  };
  const std::string first = ask("Password: ");
  if (first.empty()) throw std::runtime_error("no password given");
  if (ask("Again: ") != first) throw std::runtime_error("the two passwords differ");
  return first;
}

int run_user(const Options& o, AccountRequest::Verb verb) {
  using Verb = AccountRequest::Verb;
  std::string password;
  if (verb == Verb::kAdd) password = o.password_stdin ? read_stdin_line() : ask_password();
  json answer = {{"done", true}};
  if (!o.database.empty()) {
    const std::string realm = o.realm.empty() ? std::string(kDefaultRealm) : o.realm;
    const AccountReply reply = change_account_file({verb, 0, o.user, password}, realm, o.database);
    if (!reply.error.empty()) throw Refused(reply.error);
    if (verb == Verb::kList) answer = {{"users", reply.names}};
  } else {
    json params = json::object();
    add_filter(params, "realm", o.realm);
    if (verb != Verb::kList) params["user"] = o.user;
    if (verb == Verb::kAdd) params["password"] = password;
    constexpr const char* kMethods[] = {"user.add", "user.list", "user.remove"};
    answer = ControlClient(o.socket).call(kMethods[static_cast<size_t>(verb)], params);
  }
  std::string text = "done\n";
  if (verb == Verb::kList) {
    text.clear();
    for (const json& name : answer["users"])
      text += printable(name.get<std::string>()) + "\n";
    if (text.empty()) text = "no users\n";
  }
  print(o, answer, text);
  return kOk;
}

int run_mint(Options& o) {
  if (o.secret_stdin) o.secret = read_stdin_line();
  json answer;
  if (!o.secret.empty()) {
    const uint64_t expires = static_cast<uint64_t>(std::time(nullptr)) + o.ttl;
    const crypto::MintedCredential minted = crypto::mint_rest(
        o.secret, expires, o.user,
        o.algorithm == "sha256" ? crypto::HashKind::kSha256 : crypto::HashKind::kSha1);
    answer = {{"username", minted.username},
              {"password", minted.password},
              {"expires_unix_seconds", expires}};
  } else {
    json params = {{"ttl_seconds", o.ttl}, {"algorithm", o.algorithm}};
    add_filter(params, "user", o.user);
    add_filter(params, "realm", o.realm);
    answer = ControlClient(o.socket).call("mint", params);
  }
  print(o, answer,
        "username " + answer["username"].get<std::string>() + "\npassword " +
            answer["password"].get<std::string>() + "\n");
  return kOk;
}

int run_health(const Options& o) {
  const json answer = ControlClient(o.socket).call("health");
  const bool healthy = answer.value("healthy", false);
  print(o, answer, render_health(answer));
  return healthy ? kOk : kRefused;
}

template <class Render>
int run_simple(const Options& o, const char* method, const json& params, Render render) {
  const json answer = ControlClient(o.socket).call(method, params);
  print(o, answer, render(answer));
  return kOk;
}

void add_filter_options(CLI::App* to, Options& o) {
  to->add_option("--user", o.user, "only of this user name");
  to->add_option("--realm", o.realm, "only in this realm");
  to->add_option("--client", o.client, "only from this client address, with or without port");
  to->add_option("--relay", o.relay, "only with this relayed address, with or without port");
}

class Program {
 public:
  Program() : app_("Looks into and steers a running culvertd.", "culvertctl") {
    app_.footer(kExamples);
    app_.set_version_flag("--version", CULVERT_VERSION);
    // The second name is the one that culvertd has for it.
    app_.add_option("--socket,--control-socket", o_.socket, "the daemon's control socket")
        ->capture_default_str();
    app_.add_flag("--json", o_.json_output, "print the daemon's answer as JSON");
    app_.require_subcommand(1);
    app_.fallthrough();
    add_views();
    add_traces();
    add_orders();
    add_mint();
    add_users();
  }

  int run(int argc, char** argv) {
    try {
      app_.parse(argc, argv);
    } catch (const CLI::ParseError& e) {
      return app_.exit(e) == 0 ? kOk : kUsage;
    }
    return action_();
  }

 private:
  template <class Action>
  CLI::App* command(const char* name, const char* help, Action action, CLI::App* under = nullptr) {
    CLI::App* sub = (under == nullptr ? &app_ : under)->add_subcommand(name, help);
    sub->fallthrough();
    sub->callback([this, action] { action_ = action; });
    return sub;
  }

  void add_views() {
    command("status", "what the relay is doing",
            [this] { return run_simple(o_, "status", json::object(), render_status); });
    command("health", "exit status 0 while every fast core moves, 1 when one stands still",
            [this] { return run_health(o_); });
    CLI::App* top = command("top", "a live table of cores, ports and drops", [this] {
      return run_top({stats_path(o_.socket), o_.interval, o_.once, o_.json_output});
    });
    top->add_flag("--once", o_.once, "one table, after one interval");
    top->add_option("--interval", o_.interval, "seconds between two looks")
        ->capture_default_str()
        ->check(CLI::Range(kMinTopSeconds, kMaxTopSeconds));
    top->footer(
        "Reads the stats segment beside the control socket and asks the daemon nothing, so it "
        "works\n"
        "while control is stuck. q or Ctrl-C ends it; --json prints one object for each interval.");
    CLI::App* allocations = command("allocations", "live allocations with their counters",
                                    [this] { return run_allocations(o_); });
    add_filter_options(allocations, o_);
    allocations->add_option("--limit", o_.limit, "at most this many")
        ->capture_default_str()
        ->check(CLI::Range(size_t{1}, size_t{kMaxConfiguredAllocations}));
    allocations->add_flag("!--no-counters", o_.counters,
                          "do not ask the cores for bytes and packets");
    CLI::App* drops = command("drops", "datagrams that were not forwarded, by reason", [this] {
      return run_simple(o_, "drops", {{"per_core", o_.per_core}},
                        [this](const json& d) { return render_drops(d, o_.all, o_.per_core); });
    });
    drops->add_flag("--all", o_.all, "every outcome, also forwarded ones and zeros");
    drops->add_flag("--per-core", o_.per_core, "one column for each core");
    command("cores", "the fast cores' counters",
            [this] { return run_simple(o_, "cores", json::object(), render_cores); });
    CLI::App* explain = command("explain", "what would happen to a datagram", [this] {
      return run_simple(o_, "explain", {{"datagram", o_.datagram}}, render_explain);
    });
    explain
        ->add_option("datagram", o_.datagram,
                     "\"udp FROM -> TO [channel N | peer ADDRESS:PORT]\": TO is a listener, or a "
                     "relayed address when FROM is a peer")
        ->required();
    command("config", "the effective configuration, secrets masked", [this] {
      return run_simple(o_, "config", json::object(),
                        [](const json& c) { return c.value("toml", ""); });
    });
    command("limits", "limits derived from the configuration, and which one binds",
            [this] { return run_simple(o_, "limits", json::object(), render_object); });
    command("schema", "the control socket's methods and their parameters (JSON)",
            [this] { return run_simple(o_, "schema", json::object(), dump); });
  }

  [[nodiscard]] TraceOptions trace_options() const {
    return {o_.socket, o_.client,  o_.peer,        o_.outcome, o_.relay_port,
            o_.count,  o_.seconds, o_.json_output, o_.file,    o_.payload};
  }

  void add_trace_options(CLI::App* to) {
    to->add_option("--count", o_.count,
                   "datagrams that came; what was sent for them is shown too and not counted")
        ->check(CLI::Range(1u, kMaxTraceDatagrams));
    to->add_option("--seconds", o_.seconds, "at most so long")
        ->check(CLI::Range(1u, kMaxTraceSeconds));
    to->add_option("--client", o_.client, "from or to this address, with or without port");
    to->add_option("--peer", o_.peer, "and from or to this one");
    to->add_option("--relay", o_.relay_port, "through this relayed port")
        ->check(CLI::Range(1u, 65535u));
    to->add_option("--outcome", o_.outcome, "that end so (`drops --all` names them)");
  }

  void add_traces() {
    CLI::App* trace = command("trace", "what becomes of the next datagrams, one by one",
                              [this] { return run_trace(trace_options()); });
    add_trace_options(trace);
    trace->footer(
        "The next 10 that match within 60 seconds, if nothing else is said; Ctrl-C ends it. "
        "Frames\n"
        "that are no datagrams for this relay do not reach the path: `drops` counts them.");
    CLI::App* capture = command("capture", "the next datagrams as a capture file (pcapng)",
                                [this] { return run_capture(trace_options()); });
    capture->add_option("file", o_.file, "a file that does not exist yet; - is standard output")
        ->required();
    add_trace_options(capture);
    capture->add_flag("--payload", o_.payload,
                      "with what users sent; else STUN and channel headers only");
    capture->footer(
        "The next 1000 that match within 60 seconds, if nothing else is said, received and sent.\n"
        "IP and UDP headers are made up from what the relay saw: link type RAW.");
  }

  void add_orders() {
    CLI::App* drain = command("drain", "refuse new allocations, let live ones go on", [this] {
      return run_simple(o_, "drain", {{"off", o_.off}}, [](const json& a) {
        return a.value("state", "") + ", " + std::to_string(a.value("allocations", 0u)) +
               " allocations live\n";
      });
    });
    drain->add_flag("--off", o_.off, "accept new allocations again");
    command("reload", "read the configuration file again; all of it or nothing", [this] {
      return run_simple(o_, "reload", json::object(), [](const json& a) {
        std::string text = "applied\n";
        for (const json& m : a.value("messages", json::array()))
          text += "  " + m.get<std::string>() + "\n";
        return text;
      });
    });
    CLI::App* close = command("close", "end allocations", [this] { return run_close(o_); });
    close->add_option("id", o_.id, "as `allocations` shows it: 0.17.3");
    add_filter_options(close, o_);
    close->add_flag("--all", o_.all, "all of them");
  }

  void add_mint() {
    CLI::App* mint = command("mint", "a time-limited credential by shared secret",
                             [this] { return run_mint(o_); });
    mint->add_option("--user", o_.user, "who it is for (behind the colon of the username)");
    mint->add_option("--realm", o_.realm, "whose secret; the default realm if left out");
    mint->add_option("--ttl", o_.ttl, "seconds until it expires")
        ->capture_default_str()
        ->check(CLI::Range(1u, kMaxMintSeconds));
    mint->add_option("--algorithm", o_.algorithm, "HMAC of the password")
        ->capture_default_str()
        ->check(CLI::IsMember({"sha1", "sha256"}));
    mint->add_option("--secret", o_.secret,
                     "use this secret, ask no daemon (others see it in the process list)");
    mint->add_flag("--secret-stdin", o_.secret_stdin, "read the secret from standard input");
  }

  void add_users() {
    using Verb = AccountRequest::Verb;
    CLI::App* user = app_.add_subcommand("user", "users in a realm's SQLite database");
    user->fallthrough();
    user->require_subcommand(1);
    user->footer(
        "The database keeps keys derived from the password, never the password.\n"
        "With --database the file is changed directly; a running daemon notices within a second.");
    const auto common = [this](CLI::App* sub) {
      sub->add_option("--realm", o_.realm, "the realm; the default realm if left out");
      sub->add_option("--database", o_.database, "work on this file, ask no daemon");
    };
    CLI::App* add = command(
        "add", "add a user, or change the password", [this] { return run_user(o_, Verb::kAdd); },
        user);
    add->add_option("name", o_.user, "user name")->required();
    add->add_flag("--password-stdin", o_.password_stdin, "read the password from standard input");
    common(add);
    common(command(
        "list", "names of all users", [this] { return run_user(o_, Verb::kList); }, user));
    CLI::App* remove = command(
        "remove", "remove a user", [this] { return run_user(o_, Verb::kRemove); }, user);
    remove->add_option("name", o_.user, "user name")->required();
    common(remove);
  }

  Options o_;
  CLI::App app_;
  std::function<int()> action_;
};

}  // namespace
}  // namespace culvert

int main(int argc, char** argv) {
  try {
    return culvert::Program().run(argc, argv);
  } catch (const culvert::Unreachable& e) {
    std::fprintf(stderr, "culvertctl: %s\n", e.what());
    return culvert::kUnreachable;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "culvertctl: %s\n", e.what());
    return culvert::kRefused;
  }
}
