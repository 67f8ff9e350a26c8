// How the load tool reaches the network. A driver owns endpoints (a UDP port each, connected to one
// remote or open to all) and moves bursts of datagrams; one thread owns one driver. There are two:
// the kernel's sockets (socket_driver.cc), and a DPDK port on which the tool is all the hosts
// itself (port_driver.cc). A network makes them, one for each thread. Calls are per burst, so a
// virtual call costs nothing.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "dataplane/base/address.h"

namespace culvert::load {

struct Options;

using Endpoint = uint32_t;  // index, given out from 0 upwards and reused after close
// Sends and receives for addresses that nobody opened: a flood's (see TxItem::source).
inline constexpr Endpoint kForged = UINT32_MAX;

struct Destination {
  sockaddr_storage storage{};
  socklen_t size = 0;
  TransportAddress address;

  [[nodiscard]] static Destination of(const TransportAddress& address);
};

struct TxItem {
  Endpoint from = 0;
  const Destination* to = nullptr;  // nullptr: the remote that the endpoint is connected to
  const uint8_t* data = nullptr;
  uint32_t size = 0;
  uint16_t segment = 0;  // not 0: GSO, datagrams of this size and a last one of what remains
  const TransportAddress* source = nullptr;  // of kForged: the address that is forged
};

struct RxItem {
  Endpoint at = 0;
  const uint8_t* data = nullptr;
  uint32_t size = 0;
  uint16_t segment = 0;  // 0: one datagram; else coalesced ones of this size
};

struct DriverCounters {
  uint64_t send_calls = 0;
  uint64_t receive_calls = 0;
  uint64_t send_refused = 0;  // datagrams the kernel would not take
};

class Driver {
 public:
  virtual ~Driver() = default;

  // `local` port 0 takes any. Fails with a sentence in `error`.
  [[nodiscard]] virtual std::optional<Endpoint> open(const TransportAddress& local,
                                                     const std::optional<TransportAddress>& remote,
                                                     std::string& error) = 0;
  virtual void close(Endpoint endpoint) = 0;
  [[nodiscard]] virtual TransportAddress local(Endpoint endpoint) const = 0;
  // Sends in order; what the kernel or the port refuses is counted and lost, as on a wire.
  virtual void send(std::span<const TxItem> items) = 0;
  // What has come, waiting at most `wait_ns` for the first; valid until the next call.
  [[nodiscard]] virtual std::span<const RxItem> receive(uint64_t wait_ns) = 0;
  // Datagrams that came to open endpoints and found no room, since each was opened.
  [[nodiscard]] virtual uint64_t receive_drops() const = 0;
  [[nodiscard]] virtual const DriverCounters& counters() const = 0;

  // The local address from which `remote` is reached; nullopt when there is no route.
  [[nodiscard]] virtual std::optional<IpAddress> source_address(const IpAddress& remote) const = 0;
  // Where peers are when the caller does not say, for relayed addresses of that family.
  [[nodiscard]] virtual std::optional<IpAddress> peer_address(const IpAddress& server,
                                                              Family relayed) const = 0;
  // After this, what the open endpoints send to `remote` arrives there, and answers come back:
  // link addresses are known on both sides. The kernel sees to that by itself. A sentence when
  // nobody is there.
  [[nodiscard]] virtual std::string settle(const IpAddress& /*remote*/) { return {}; }
  // The server has put this client on the core that owns `relayed_port`.
  virtual void belongs_to(Endpoint /*endpoint*/, uint16_t /*relayed_port*/) {}
  // What a port counted by itself, by name.
  [[nodiscard]] virtual std::vector<std::pair<std::string, uint64_t>> details() const { return {}; }
};

class Network {
 public:
  virtual ~Network() = default;
  // The calling thread's own. nullptr with a sentence in `error`.
  [[nodiscard]] virtual std::unique_ptr<Driver> make_driver(bool coalesce, std::string& error) = 0;
};

// What --driver names; nullptr with a sentence in `error`.
[[nodiscard]] std::unique_ptr<Network> make_network(const Options& options, std::string& error);
// The one on DPDK ports; nullptr with a sentence where they cannot be had, or this build has none.
[[nodiscard]] std::unique_ptr<Network> make_port_network(const Options& options,
                                                         std::string& error);

}  // namespace culvert::load
