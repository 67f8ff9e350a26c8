// The HTTP/1.1 listener for machines that watch: GET /metrics, /healthz, /readyz; HEAD too; nothing
// that changes anything. Runs on the control thread's io_context. Bounded: kMaxHttpConnections,
// kMaxHttpHeader, no bodies, a deadline for each request and answer.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <boost/asio/io_context.hpp>

#include "dataplane/base/address.h"

namespace culvert {

class Logger;

// A Prometheus pair, a load balancer's probes and a person.
inline constexpr size_t kMaxHttpConnections = 16;
inline constexpr uint32_t kMaxHttpHeader = 8192;
// From the first wait for a request to the last byte of its answer.
inline constexpr std::chrono::seconds kHttpTimeout{10};

struct HealthHooks {
  std::function<std::string()> metrics;  // text format 0.0.4
  std::function<bool()> healthy;         // false: a core stands still
  std::function<bool()> ready;           // false: starting, draining or stopping
};

class HealthListener {
 public:
  // Throws std::runtime_error with a sentence when the address cannot be had.
  HealthListener(boost::asio::io_context& io, const TransportAddress& listen, HealthHooks hooks,
                 Logger& log);
  ~HealthListener();
  HealthListener(const HealthListener&) = delete;
  HealthListener& operator=(const HealthListener&) = delete;

  // Where it listens (the port, when configured as 0).
  [[nodiscard]] TransportAddress address() const;

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace culvert
