#include "tools/culvertctl/client.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

namespace culvert {

ControlClient::ControlClient(const std::string& path) : path_(path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path)
    throw Unreachable("control socket " + path + ": the path is empty or too long");
  std::memcpy(address.sun_path, path.data(), path.size());
  fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval limit{kAnswerTimeoutSeconds, 0};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (fd_ >= 0 && connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0)
    return;
  const int error = errno;
  if (fd_ >= 0) close(fd_);
  std::string hint;
  if (error == ENOENT) hint = ": is culvertd running? --socket PATH names another place";
  if (error == ECONNREFUSED) hint = ": culvertd is not running (the file is left over)";
  if (error == EACCES) hint = ": be root, or a member of the socket's group";
  throw Unreachable("control socket " + path + ": " + std::strerror(error) + hint);
}

ControlClient::~ControlClient() {
  close(fd_);
}

std::string ControlClient::read_line() {
  for (;;) {
    const size_t end = buffer_.find('\n');
    if (end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    char chunk[16384];
    const ssize_t n = recv(fd_, chunk, sizeof chunk, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
      throw Unreachable("culvertd did not answer within " + std::to_string(kAnswerTimeoutSeconds) +
                        " s");
    if (n <= 0) throw Unreachable("culvertd closed the connection");
    buffer_.append(chunk, static_cast<size_t>(n));
  }
}

nlohmann::json ControlClient::call(const std::string& method, const nlohmann::json& params) {
  const nlohmann::json request = {
      {"jsonrpc", "2.0"}, {"id", next_id_++}, {"method", method}, {"params", params}};
  const std::string line =
      request.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  for (std::string_view left = line; !left.empty();) {
    const ssize_t n = send(fd_, left.data(), left.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    // It may have refused us already: its sentence is worth more than EPIPE.
    if (n <= 0) break;
    left.remove_prefix(static_cast<size_t>(n));
  }
  const nlohmann::json answer = nlohmann::json::parse(read_line(), nullptr, false);
  if (!answer.is_object()) throw Unreachable("the answer on " + path_ + " is not JSON-RPC");
  if (const auto error = answer.find("error"); error != answer.end())
    throw Refused(error->value("message", "refused without a reason"));
  return answer.value("result", nlohmann::json());
}

}  // namespace culvert
