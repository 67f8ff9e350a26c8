// Any line to the operators' real methods: one answer, in time
// (a core that does not answer is waited for no longer than kQuestionTimeoutMs), one line of valid
// JSON. Many lines in one input are many requests.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "control/operations.h"
#include "control/rpc.h"
#include "crypto/random.h"
#include "dataplane/api/recording_engine.h"
#include "dataplane/base/assert.h"

namespace {

using namespace culvert;
using nlohmann::json;

[[nodiscard]] TransportAddress at(const char* text) {
  return TransportAddress::parse(text).value();
}

[[nodiscard]] Config make_config() {
  Config config;
  RealmConfig realm;
  realm.name = "example.org";
  realm.users = {{"alice", "wonderland"}};
  realm.secrets = {"north"};
  realm.database = "there";
  config.realms = {realm};
  config.listeners = {{at("198.51.100.1:3478"), 0}};
  config.relay_addresses = {{at("198.51.100.1:1").ip, at("203.0.113.9:1").ip}};
  config.limits.max_allocations = 8;
  return config;
}

struct Relay {
  Relay() : rpc(operator_methods(context())) {}
  OperationsContext context() {
    return {.turn = turn,
            .engine = engine,
            .watchdog = watchdog,
            .now = [this] { return now; },
            .started_ms = 0,
            .config = [this]() -> const Config& { return config; },
            .effective_toml = [] { return std::string("[limits]\n"); },
            .limits =
                [] {
                  return json{{"cores", 2}};
                },
            .state =
                [this] { return turn.draining() ? ServiceState::kDraining : ServiceState::kReady; },
            .drain = [this](bool on) { turn.set_draining(on); },
            .reload =
                [] {
                  return ReloadOutcome{false, {"nothing changed"}};
                },
            .accounts =
                [](AccountRequest r, std::function<void(AccountReply)> done) {
                  AccountReply reply;
                  reply.not_found = r.name.size() % 2 == 0;
                  reply.names = {r.name};
                  done(std::move(reply));
                }};
  }
  ControlTime now{1'000'000, 1'767'225'600};
  Config config = make_config();
  RecordingEngine engine{2, 1024};
  crypto::Random random{42};
  TurnServer turn{config, engine, random, {}, now};
  CoreWatchdog watchdog;
  Rpc rpc;
};

void ask(Relay& relay, std::string_view line) {
  int answers = 0;
  relay.rpc.handle(line, [&](std::string answer) {
    ++answers;
    if (answer.empty()) return;  // a notification
    ENSURE(answer.find('\n') == std::string::npos);
    const json parsed = json::parse(answer, nullptr, false);
    ENSURE(parsed.is_object() && parsed.contains("error") != parsed.contains("result"));
  });
  // No core runs here, so questions to one time out.
  relay.now.ms += kQuestionTimeoutMs + 1;
  (void)relay.turn.poll(relay.now);
  relay.engine.clear();
  ENSURE(answers == 1);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // One relay for all inputs, since making it takes longer than asking it: of all methods only
  // `drain` changes it, and only until the next input.
  static const auto relay = std::make_unique<Relay>();
  relay->turn.set_draining(false);
  std::string_view text(reinterpret_cast<const char*>(data), size);
  for (int lines = 0; lines < 8 && !text.empty(); ++lines) {
    const size_t end = std::min(text.find('\n'), text.size());
    ask(*relay, text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return 0;
}
