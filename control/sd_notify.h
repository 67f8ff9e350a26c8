// What the service manager is told (sd_notify(3)): READY, RELOADING, STOPPING, STATUS and the
// watchdog's heartbeat. Outside systemd (no NOTIFY_SOCKET) every call does nothing. Control thread.
#pragma once

#include <chrono>
#include <optional>
#include <string>

namespace culvert {

class ServiceManager {
 public:
  // Reads NOTIFY_SOCKET and WATCHDOG_USEC from the environment.
  ServiceManager();

  void ready(const std::string& status);
  // Before a reload; ready() must follow, also when the reload was refused.
  void reloading();
  void stopping(const std::string& status);
  void status(const std::string& text);
  void heartbeat();

  // How often heartbeat() must come at least; nullopt: no watchdog was asked for.
  [[nodiscard]] std::optional<std::chrono::microseconds> watchdog_interval() const {
    return watchdog_interval_;
  }

 private:
  std::optional<std::chrono::microseconds> watchdog_interval_;
};

}  // namespace culvert
