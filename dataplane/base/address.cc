#include "dataplane/base/address.h"

#include <arpa/inet.h>

#include <charconv>

namespace culvert {

std::optional<IpAddress> IpAddress::parse(std::string_view text) {
  char buffer[INET6_ADDRSTRLEN];
  if (text.empty() || text.size() >= sizeof buffer) return std::nullopt;
  std::memcpy(buffer, text.data(), text.size());
  buffer[text.size()] = '\0';
  uint8_t wire[16];
  if (inet_pton(AF_INET, buffer, wire) == 1) return v4_bytes(wire);
  if (inet_pton(AF_INET6, buffer, wire) == 1) return v6_bytes(wire);
  return std::nullopt;
}

std::string IpAddress::to_string() const {
  char buffer[INET6_ADDRSTRLEN] = "-";
  if (is_v4()) inet_ntop(AF_INET, wire(), buffer, sizeof buffer);
  if (is_v6()) inet_ntop(AF_INET6, wire(), buffer, sizeof buffer);
  return buffer;
}

std::optional<TransportAddress> TransportAddress::parse(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  std::string_view host = text.substr(0, colon);
  const std::string_view port_text = text.substr(colon + 1);
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);

  const auto ip = IpAddress::parse(host);
  if (!ip || ip->is_v6() != bracketed) return std::nullopt;
  unsigned port = 0;
  const auto [end, error] =
      std::from_chars(port_text.data(), port_text.data() + port_text.size(), port);
  if (error != std::errc{} || end != port_text.data() + port_text.size()) return std::nullopt;
  if (port > 65535) return std::nullopt;
  return TransportAddress{*ip, static_cast<uint16_t>(port)};
}

std::string TransportAddress::to_string() const {
  const std::string port_text = std::to_string(port);
  if (ip.is_v6()) return "[" + ip.to_string() + "]:" + port_text;
  return ip.to_string() + ":" + port_text;
}

}  // namespace culvert
