// How the load tool reaches the network. A driver owns endpoints (a UDP port each, connected to one
// remote or open to all) and moves bursts of datagrams; one thread owns one driver. Only the kernel
// sockets driver is built today; a `dpdk` driver is one more class that make_driver() knows: the
// workers above ask for nothing that a port could not do, and its name is refused with a sentence
// until then, so that options, results and scripts need not change when it comes. Calls are per
// burst, so a virtual call costs nothing.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "dataplane/base/address.h"

namespace culvert::load {

using Endpoint = uint32_t;  // index, given out from 0 upwards and reused after close

struct Destination {
  sockaddr_storage storage{};
  socklen_t size = 0;

  [[nodiscard]] static Destination of(const TransportAddress& address);
};

struct TxItem {
  Endpoint from = 0;
  const Destination* to = nullptr;  // nullptr: the remote that the endpoint is connected to
  const uint8_t* data = nullptr;
  uint32_t size = 0;
  uint16_t segment = 0;  // not 0: GSO, datagrams of this size and a last one of what remains
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
  // Sends in order; what the kernel refuses is counted and lost, as on a wire.
  virtual void send(std::span<const TxItem> items) = 0;
  // What has come, waiting at most `wait_ns` for the first; valid until the next call.
  [[nodiscard]] virtual std::span<const RxItem> receive(uint64_t wait_ns) = 0;
  // Datagrams that came to open endpoints and found no room, since each was opened.
  [[nodiscard]] virtual uint64_t receive_drops() const = 0;
  [[nodiscard]] virtual const DriverCounters& counters() const = 0;
};

// nullptr with a sentence in `error` for a name that is unknown or not built.
[[nodiscard]] std::unique_ptr<Driver> make_driver(const std::string& name, bool coalesce,
                                                  std::string& error);

// The local address from which `remote` is reached; nullopt when there is no route.
[[nodiscard]] std::optional<IpAddress> source_address(const TransportAddress& remote);

}  // namespace culvert::load
