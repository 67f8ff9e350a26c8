// Any bytes to the metrics listener, in two pieces, over loopback: what comes back is HTTP answers
// and nothing else, and whatever was said, the next client is served (a leak of connections would
// soon refuse it).
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include <spdlog/sinks/null_sink.h>

#include "control/health.h"
#include "control/logging.h"
#include "dataplane/base/assert.h"

namespace {

using namespace culvert;

struct Server {
  Server() {
    HealthHooks hooks;
    hooks.metrics = [] { return std::string("culvert_state{state=\"ready\"} 1\n"); };
    hooks.healthy = [] { return true; };
    hooks.ready = [] { return false; };
    listener = std::make_unique<HealthListener>(io, TransportAddress::parse("127.0.0.1:0").value(),
                                                std::move(hooks), log);
  }
  boost::asio::io_context io;
  Logger log{LogFormat::kText, LogLevel::kError, std::make_shared<spdlog::sinks::null_sink_st>()};
  std::unique_ptr<HealthListener> listener;
};

// One connection: the pieces go out, what has come back when nothing moves any more is returned.
std::string talk(Server& server, std::string_view first, std::string_view second) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ENSURE(fd >= 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(server.listener->address().port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  // libFuzzer's alarm may interrupt it; it goes on by itself then.
  int connected = -1;
  do
    connected = connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to);
  while (connected != 0 && (errno == EINTR || errno == EALREADY));
  ENSURE(connected == 0 || errno == EISCONN);
  std::string out;
  const auto settle = [&] {
    for (int quiet = 0; quiet < 3;) {
      char bytes[4096];
      const ssize_t n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
      if (n > 0) out.append(bytes, static_cast<size_t>(n));
      quiet = server.io.poll() == 0 && n <= 0 ? quiet + 1 : 0;
    }
  };
  for (const std::string_view piece : {first, second}) {
    settle();
    if (!piece.empty()) (void)send(fd, piece.data(), piece.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  settle();
  // Reset, not closed: no TIME_WAIT uses up the ports.
  const linger at_once{1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close(fd);
  while (server.io.poll() != 0) {
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Server server;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t cut = size == 0 ? 0 : data[size - 1] % size;
  const std::string answers = talk(server, text.substr(0, cut), text.substr(cut));
  ENSURE(answers.empty() || answers.starts_with("HTTP/1."));
  if (answers.starts_with("HTTP/1.1 200") || answers.starts_with("HTTP/1.0 200"))
    ENSURE(text.find("GET") != text.npos || text.find("HEAD") != text.npos);
  const std::string next = talk(server, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", "");
  ENSURE(next.starts_with("HTTP/1.1 503") && next.ends_with("not taking new allocations\n"));
  return 0;
}
