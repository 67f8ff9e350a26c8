// The control socket: a Unix stream socket that carries JSON-RPC lines (control/rpc.h) for
// operators on this host. Runs on the control thread's io_context and shares the thread with the
// relay's own control work, so everything a client can make it do or hold is bounded:
//   one request of a connection is under way at a time, the next line waits in its buffer (and then
//   in the kernel), so answers come in order and a client that does not read is not read from
//   either; a client that leaves an answer unread for kClientWriteTimeout is disconnected.
// Who may speak: root, the account the daemon runs as, and members of one group, by SO_PEERCRED
// (the socket file's mode is the outer door). Others get one JSON-RPC error and are closed.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <boost/asio/io_context.hpp>

namespace culvert {

class Rpc;
class Logger;

// A request is a method and a few names: the longest legal one (user name 508 bytes, password 512,
// every byte escaped as \u00xx) stays below 8 KiB.
inline constexpr size_t kMaxRequestLine = 64 * 1024;
// Operators, their scripts, and one exporter each: memory is at most 32 * (line + one answer) = 32
// MiB.
inline constexpr size_t kMaxControlClients = 32;
// One page of 500 allocations at 600 bytes each, and room.
inline constexpr size_t kMaxResponseLine = 1024 * 1024;
// A client that reads nothing for this long is gone or stuck.
inline constexpr std::chrono::seconds kClientWriteTimeout{10};
// And one that says nothing for this long gives its place to others.
inline constexpr std::chrono::minutes kClientIdleTimeout{10};

struct ControlSocketOptions {
  std::string path;
  uint32_t mode = 0660;
  std::optional<uid_t> owner;  // whom the file is given to: the account we are about to become
  std::optional<gid_t> group;  // may connect; the socket file belongs to it
};

class ControlSocket {
 public:
  // Listens. Throws std::runtime_error with a sentence: another daemon answers there, the folder is
  // missing, the path is no socket. A stale socket file (nobody answers) is replaced.
  ControlSocket(boost::asio::io_context& io, const ControlSocketOptions& options, const Rpc& rpc,
                Logger& log);
  // Stops listening, drops clients, removes the socket file if it is still ours.
  ~ControlSocket();
  ControlSocket(const ControlSocket&) = delete;
  ControlSocket& operator=(const ControlSocket&) = delete;

  [[nodiscard]] size_t clients() const;

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace culvert
