// Whatever comes over the control socket: exactly one answer to each line, valid JSON of one line,
// or none for a notification; over a real socket, in two pieces, the answers to the whole lines and
// no others, in order. Also the two small languages inside it: explain's datagrams and allocation
// ids.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include <spdlog/sinks/null_sink.h>

#include "control/control_socket.h"
#include "control/logging.h"
#include "control/operations.h"
#include "control/rpc.h"
#include "dataplane/base/assert.h"

namespace {

using namespace culvert;
using nlohmann::json;

const Rpc& methods() {
  static const Rpc rpc({
      {"echo",
       "gives its parameters back",
       json{{"text", {{"type", "string"}, {"maxLength", 100}}},
            {"number", {{"type", "integer"}, {"minimum", -3}, {"maximum", 500}}},
            {"flag", {{"type", "boolean"}}},
            {"hash", {{"type", "string"}, {"enum", {"sha1", "sha256"}}}}},
       {"text"},
       [](const json& params, const RpcAnswer& answer) { answer.result(params); }},
      {"throw",
       "fails",
       json::object(),
       {},
       [](const json&, const RpcAnswer&) { throw std::runtime_error("\xff"); }},
  });
  return rpc;
}

// The answer to one line, checked.
std::string answer_to(std::string_view line) {
  int answers = 0;
  std::string out;
  methods().handle(line, [&](std::string answer) {
    ++answers;
    out = std::move(answer);
  });
  ENSURE(answers == 1);
  if (out.empty()) return out;
  ENSURE(out.find('\n') == std::string::npos);
  const json parsed = json::parse(out, nullptr, false);
  ENSURE(parsed.is_object() && parsed.contains("error") != parsed.contains("result"));
  return out;
}

struct Server {
  Server() {
    ENSURE(mkdtemp(folder.data()) != nullptr);
    options.path = folder + "/control.sock";
    socket = std::make_unique<ControlSocket>(io, options, methods(), log);
  }
  ~Server() {
    socket.reset();
    std::filesystem::remove_all(folder);
  }
  boost::asio::io_context io;
  Logger log{LogFormat::kText, LogLevel::kError, std::make_shared<spdlog::sinks::null_sink_st>()};
  std::string folder = "/tmp/culvert_fuzz_XXXXXX";
  ControlSocketOptions options;
  std::unique_ptr<ControlSocket> socket;
};

std::string talk(std::string_view first, std::string_view second) {
  static Server server;
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ENSURE(fd >= 0);
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  std::memcpy(to.sun_path, server.options.path.data(), server.options.path.size());
  ENSURE(connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0);
  std::string out;
  const auto settle = [&] {
    for (int quiet = 0; quiet < 2;) {
      char bytes[65536];
      const ssize_t n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
      if (n > 0) out.append(bytes, static_cast<size_t>(n));
      quiet = server.io.poll() == 0 && n <= 0 ? quiet + 1 : 0;
    }
  };
  for (const std::string_view piece : {first, second}) {
    if (!piece.empty())
      ENSURE(send(fd, piece.data(), piece.size(), MSG_NOSIGNAL) ==
             static_cast<ssize_t>(piece.size()));
    settle();
  }
  close(fd);
  while (server.io.poll() != 0) {
  }
  ENSURE(server.socket->clients() == 0);
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  std::string expected;
  std::string_view rest = text;
  for (size_t end = rest.find('\n'); end != rest.npos; end = rest.find('\n')) {
    std::string_view line = rest.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    const std::string answer = answer_to(line);
    if (!answer.empty()) expected += answer + '\n';
    rest.remove_prefix(end + 1);
  }
  (void)answer_to(text);
  const size_t cut = size == 0 ? 0 : data[size - 1] % size;
  if (size <= kMaxRequestLine / 2) ENSURE(talk(text.substr(0, cut), text.substr(cut)) == expected);

  const ExplainText explain = parse_explain(text);
  ENSURE(!explain.error.empty() || explain.query.channel == 0 ||
         (explain.query.channel >= kFirstChannel && explain.query.channel <= kLastChannel));
  if (const auto id = parse_allocation_id(text))
    ENSURE(parse_allocation_id(format_allocation_id(*id)) == id);
  return 0;
}
