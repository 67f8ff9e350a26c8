#include "control/control_socket.h"

#include <grp.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include <boost/asio/buffer.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>

#include "control/logging.h"
#include "control/rpc.h"

namespace culvert {

namespace asio = boost::asio;
using asio::local::stream_protocol;
using boost::system::error_code;

namespace {

constexpr size_t kReadChunk = 4096;

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw std::runtime_error("control socket " + path + ": " + why);
}

// True when the file is a socket and somebody accepts on it.
[[nodiscard]] bool somebody_answers(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return true;
  const int rc = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const bool answers = rc == 0 || errno == EAGAIN;  // EAGAIN: its backlog is full
  close(fd);
  return answers;
}

void clear_stale_file(const std::string& path) {
  if (path.empty() || path.size() >= sizeof(sockaddr_un{}.sun_path))
    refuse(path, "the path must have 1 to " + std::to_string(sizeof(sockaddr_un{}.sun_path) - 1) +
                     " bytes");
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return;
    refuse(path, std::strerror(errno));
  }
  if (!S_ISSOCK(info.st_mode)) refuse(path, "a file that is no socket is in the way");
  if (somebody_answers(path))
    refuse(path, "another daemon answers there: stop it, or choose another path");
  if (unlink(path.c_str()) != 0) refuse(path, std::strerror(errno));
}

// The peer's gid or one of its account's supplementary groups.
[[nodiscard]] bool is_member(const ucred& peer, gid_t group) {
  if (peer.gid == group) return true;
  const passwd* account = getpwuid(peer.uid);
  if (account == nullptr) return false;
  std::vector<gid_t> groups(64);
  int count = static_cast<int>(groups.size());
  if (getgrouplist(account->pw_name, account->pw_gid, groups.data(), &count) < 0) {
    groups.resize(static_cast<size_t>(count));
    if (getgrouplist(account->pw_name, account->pw_gid, groups.data(), &count) < 0) return false;
  }
  return std::find(groups.begin(), groups.begin() + count, group) != groups.begin() + count;
}

}  // namespace

class ControlSocket::Impl : public std::enable_shared_from_this<Impl> {
 public:
  Impl(asio::io_context& io, const ControlSocketOptions& options, const Rpc& rpc, Logger& log)
      : options_(options), acceptor_(io), rpc_(rpc), log_(log) {}

  void open();
  void accept();
  void close();
  [[nodiscard]] size_t clients() const { return clients_.size(); }

 private:
  class Client;
  friend class Client;

  [[nodiscard]] bool allowed(int fd, uid_t& uid) const;
  void greet(stream_protocol::socket socket);

  ControlSocketOptions options_;
  stream_protocol::acceptor acceptor_;
  const Rpc& rpc_;
  Logger& log_;
  std::unordered_set<std::shared_ptr<Client>> clients_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

// One connection: reading, then answering, never both.
class ControlSocket::Impl::Client : public std::enable_shared_from_this<Client> {
 public:
  Client(Impl& server, stream_protocol::socket socket)
      : server_(&server), socket_(std::move(socket)), timer_(socket_.get_executor()) {}

  void start() { next_request(); }

  // Sends one line and closes.
  void reject(std::string line) {
    closing_ = true;
    send(std::move(line));
  }

  void close() {
    error_code ignored;
    socket_.close(ignored);
    timer_.cancel();
    if (server_ == nullptr) return;
    Impl* server = std::exchange(server_, nullptr);
    server->clients_.erase(shared_from_this());
  }

  // The server goes first: no call back into it.
  void orphan() {
    server_ = nullptr;
    close();
  }

 private:
  void arm(std::chrono::steady_clock::duration after) {
    timer_.expires_after(after);
    timer_.async_wait([self = shared_from_this()](error_code e) {
      if (!e) self->close();
    });
  }

  void next_request() {
    const size_t end = input_.find('\n', scanned_);
    if (end != std::string::npos) {
      std::string line = input_.substr(0, end);
      input_.erase(0, end + 1);
      scanned_ = 0;
      return run(std::move(line));
    }
    scanned_ = input_.size();
    if (input_.size() > kMaxRequestLine)
      return reject(rpc_error_line(
          nullptr, RpcError::kInvalidRequest,
          "a request line is at most " + std::to_string(kMaxRequestLine) + " bytes"));
    read_more();
  }

  void read_more() {
    arm(kClientIdleTimeout);
    socket_.async_read_some(asio::buffer(chunk_),
                            [self = shared_from_this()](error_code e, size_t bytes) {
                              if (e || self->server_ == nullptr) return self->close();
                              self->input_.append(self->chunk_.data(), bytes);
                              self->next_request();
                            });
  }

  void run(std::string line) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    timer_.cancel();
    if (line.size() > kMaxRequestLine)
      return reject(rpc_error_line(
          nullptr, RpcError::kInvalidRequest,
          "a request line is at most " + std::to_string(kMaxRequestLine) + " bytes"));
    // The answer may come now or much later; post, so that a long pipeline is no recursion.
    std::weak_ptr<Client> weak = weak_from_this();
    server_->rpc_.handle(line, [weak](std::string answer) {
      const std::shared_ptr<Client> self = weak.lock();
      if (self == nullptr || self->server_ == nullptr) return;
      asio::post(self->socket_.get_executor(), [self, answer = std::move(answer)]() mutable {
        if (self->server_ == nullptr) return;
        if (answer.size() > kMaxResponseLine)
          answer = rpc_error_line(nullptr, RpcError::kInternal, "the answer is too long");
        if (answer.empty()) return self->next_request();  // a notification
        self->send(std::move(answer));
      });
    });
  }

  void send(std::string line) {
    output_ = std::move(line);
    output_ += '\n';
    arm(kClientWriteTimeout);
    asio::async_write(socket_, asio::buffer(output_),
                      [self = shared_from_this()](error_code e, size_t) {
                        if (e || self->server_ == nullptr || self->closing_) return self->close();
                        self->output_.clear();
                        self->next_request();
                      });
  }

  Impl* server_;
  stream_protocol::socket socket_;
  asio::steady_timer timer_;
  std::array<char, kReadChunk> chunk_{};
  std::string input_;   // at most kMaxRequestLine + kReadChunk bytes
  size_t scanned_ = 0;  // no newline before this
  std::string output_;
  bool closing_ = false;
};

void ControlSocket::Impl::open() {
  clear_stale_file(options_.path);
  try {
    acceptor_.open();
    // Closed to everyone until its owner and mode are set.
    const mode_t before = umask(0177);
    error_code bound;
    acceptor_.bind(stream_protocol::endpoint(options_.path), bound);
    umask(before);
    if (bound)
      refuse(options_.path, bound.message() + " (does its folder exist and may we write?)");
    const uid_t owner = options_.owner.value_or(static_cast<uid_t>(-1));
    const gid_t group = options_.group.value_or(static_cast<gid_t>(-1));
    if ((options_.owner || options_.group) && chown(options_.path.c_str(), owner, group) != 0)
      refuse(options_.path,
             std::string("cannot give it to its owner and group: ") + std::strerror(errno));
    if (chmod(options_.path.c_str(), options_.mode) != 0)
      refuse(options_.path, std::string("chmod: ") + std::strerror(errno));
    acceptor_.listen(static_cast<int>(kMaxControlClients));
  } catch (const boost::system::system_error& e) {
    refuse(options_.path, e.code().message());
  }
  struct stat info {};
  if (lstat(options_.path.c_str(), &info) == 0) {
    device_ = info.st_dev;
    inode_ = info.st_ino;
  }
}

bool ControlSocket::Impl::allowed(int fd, uid_t& uid) const {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  uid = peer.uid;
  if (peer.uid == 0 || peer.uid == geteuid()) return true;
  return options_.group && is_member(peer, *options_.group);
}

void ControlSocket::Impl::greet(stream_protocol::socket socket) {
  uid_t uid = 0;
  const bool ok = allowed(socket.native_handle(), uid);
  const bool room = clients_.size() < kMaxControlClients;
  const auto client = std::make_shared<Client>(*this, std::move(socket));
  if (room) clients_.insert(client);
  if (!ok) {
    log_.limited(LogLevel::kWarning, "control socket: caller refused", {{"uid", uid}});
    if (room)
      client->reject(
          rpc_error_line(nullptr, RpcError::kPermission,
                         "user id " + std::to_string(uid) +
                             " may not use this socket: be root, the daemon's user, or a "
                             "member of control_socket.group"));
    return;
  }
  if (!room) {
    log_.limited(LogLevel::kWarning, "control socket: too many clients",
                 {{"limit", kMaxControlClients}});
    return;
  }
  client->start();
}

void ControlSocket::Impl::accept() {
  acceptor_.async_accept([weak = weak_from_this()](error_code e, stream_protocol::socket socket) {
    const std::shared_ptr<Impl> self = weak.lock();
    if (self == nullptr || !self->acceptor_.is_open()) return;
    if (!e) self->greet(std::move(socket));
    self->accept();
  });
}

void ControlSocket::Impl::close() {
  error_code ignored;
  acceptor_.close(ignored);
  for (const auto& client : std::exchange(clients_, {}))
    client->orphan();
  // Only our own file: a successor may already have put its own there.
  struct stat info {};
  if (inode_ != 0 && lstat(options_.path.c_str(), &info) == 0 && info.st_dev == device_ &&
      info.st_ino == inode_)
    unlink(options_.path.c_str());
}

ControlSocket::ControlSocket(asio::io_context& io, const ControlSocketOptions& options,
                             const Rpc& rpc, Logger& log)
    : impl_(std::make_shared<Impl>(io, options, rpc, log)) {
  impl_->open();
  impl_->accept();
}

ControlSocket::~ControlSocket() {
  impl_->close();
}

size_t ControlSocket::clients() const {
  return impl_->clients();
}

}  // namespace culvert
