#include "control/sd_notify.h"

#include <algorithm>
#include <cinttypes>
#include <ctime>

#include <systemd/sd-daemon.h>

namespace culvert {

namespace {

// A newline would start another assignment of the notify protocol.
[[nodiscard]] std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

}  // namespace

ServiceManager::ServiceManager() {
  uint64_t usec = 0;
  if (sd_watchdog_enabled(0, &usec) > 0) watchdog_interval_ = std::chrono::microseconds(usec);
}

void ServiceManager::ready(const std::string& status) {
  sd_notifyf(0, "READY=1\nSTATUS=%s", one_line(status).c_str());
}

void ServiceManager::reloading() {
  // Type=notify-reload wants the time of the message to tell old READYs from new ones.
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const uint64_t usec =
      static_cast<uint64_t>(now.tv_sec) * 1000000 + static_cast<uint64_t>(now.tv_nsec) / 1000;
  sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, usec);
}

void ServiceManager::stopping(const std::string& status) {
  sd_notifyf(0, "STOPPING=1\nSTATUS=%s", one_line(status).c_str());
}

void ServiceManager::status(const std::string& text) {
  sd_notifyf(0, "STATUS=%s", one_line(text).c_str());
}

void ServiceManager::heartbeat() {
  sd_notify(0, "WATCHDOG=1");
}

}  // namespace culvert
