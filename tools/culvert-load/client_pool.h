// The TURN clients of one generator thread: their sockets and their requests, from the first
// Allocate to the last Refresh. Traffic modes take the datagrams that are not STUN responses. One
// thread owns it with its driver. Set-up keeps a bounded number of requests in flight, so that a
// thousand clients do not overrun the server's receive buffer before anything is measured.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tools/culvert-load/driver.h"
#include "tools/culvert-load/options.h"
#include "tools/stun_client/client.h"

namespace culvert::load {

struct PoolClient {
  Endpoint endpoint = 0;
  stun_client::TurnClient turn;
};

class ClientPool {
 public:
  static constexpr size_t kInFlight = 32;

  ClientPool(const Options& options, Driver& driver, uint64_t seed);

  // Opens `count` sockets connected to the server; a sentence when it cannot.
  [[nodiscard]] std::string open(uint32_t count);

  // Begins `request` for every client, at most kInFlight at once, and waits for all the answers.
  // A sentence at the first that fails, with the server's reason.
  using Request = std::function<void(PoolClient&, size_t index, uint64_t now)>;
  [[nodiscard]] std::string for_all(const char* what, const Request& request);

  [[nodiscard]] std::string allocate_all();
  void release_all();  // best effort: Refresh 0 and one wait for the answers

  // A datagram that came to a client: true when it was a STUN response and is dealt with.
  bool receive(const RxItem& item, uint64_t now);
  // Retransmissions and refreshes of a few clients; call it often, it walks round.
  void maintain(uint64_t now);

  [[nodiscard]] std::vector<PoolClient>& clients() { return clients_; }
  // Requests that were refused or went unanswered, and what was said to the first of them.
  [[nodiscard]] uint64_t failures() const { return failures_; }
  [[nodiscard]] const std::string& first_failure() const { return first_failure_; }

  // Local address of client `index`: --local in turn, else the one that routes to the server.
  [[nodiscard]] static std::optional<TransportAddress> local_address(const Options& options,
                                                                     const Driver& driver,
                                                                     size_t index);
  [[nodiscard]] static stun_client::ClientConfig client_config(const Options& options);
  [[nodiscard]] static stun_client::AllocateOptions allocate_options(const Options& options);

 private:
  void flush(PoolClient& client);
  void take_events(PoolClient& client);

  const Options& options_;
  Driver& driver_;
  stun_client::ClientConfig config_;
  stun_client::Credentials credentials_;
  uint64_t seed_;
  std::vector<PoolClient> clients_;
  std::vector<uint32_t> by_endpoint_;
  size_t next_maintained_ = 0;
  size_t done_ = 0;
  uint64_t failures_ = 0;
  std::string first_failure_;
};

}  // namespace culvert::load
