// See interfaces.h.
#include "config/interfaces.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <system_error>

namespace culvert {

namespace {

[[nodiscard]] std::optional<IpAddress> from_sockaddr(const sockaddr_storage& storage) {
  if (storage.ss_family == AF_INET) {
    sockaddr_in v4{};
    std::memcpy(&v4, &storage, sizeof v4);
    return IpAddress::v4_bytes(&v4.sin_addr);
  }
  if (storage.ss_family == AF_INET6) {
    sockaddr_in6 v6{};
    std::memcpy(&v6, &storage, sizeof v6);
    return IpAddress::v6_bytes(&v6.sin6_addr);
  }
  return std::nullopt;
}

// Connecting a UDP socket sends nothing, but makes the kernel choose a route and a source address.
// The destinations are from the documentation networks, which are on no local network.
[[nodiscard]] std::optional<IpAddress> route_source(Family family) {
  const bool v4 = family == Family::kIpv4;
  const int fd = ::socket(v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return std::nullopt;
  const auto to = IpAddress::parse(v4 ? "192.0.2.1" : "2001:db8::1");
  sockaddr_storage address{};
  socklen_t length = 0;
  if (v4) {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(9);
    std::memcpy(&in.sin_addr, &to->bytes[12], 4);
    std::memcpy(&address, &in, sizeof in);
    length = sizeof in;
  } else {
    sockaddr_in6 in{};
    in.sin6_family = AF_INET6;
    in.sin6_port = htons(9);
    std::memcpy(&in.sin6_addr, to->bytes.data(), 16);
    std::memcpy(&address, &in, sizeof in);
    length = sizeof in;
  }
  std::optional<IpAddress> source;
  if (::connect(fd, static_cast<const sockaddr*>(static_cast<const void*>(&address)), length) ==
      0) {
    sockaddr_storage own{};
    length = sizeof own;
    if (::getsockname(fd, static_cast<sockaddr*>(static_cast<void*>(&own)), &length) == 0)
      source = from_sockaddr(own);
  }
  ::close(fd);
  return source;
}

[[nodiscard]] bool is_wildcard(const IpAddress& ip) {
  return ip == IpAddress::v4(0) || (ip.is_v6() && std::all_of(ip.bytes.begin(), ip.bytes.end(),
                                                              [](uint8_t b) { return b == 0; }));
}

[[nodiscard]] bool listens(const Config& config, const TransportAddress& address) {
  return std::any_of(config.listeners.begin(), config.listeners.end(),
                     [&](const ListenConfig& l) { return l.address == address; });
}

// Adds the relay addresses of one family (interfaces.h has the order of preference).
void add_relays(Config& config, Family family, const std::vector<ListenConfig>& explicit_listeners,
                const std::optional<IpAddress>& preferred) {
  std::vector<IpAddress> chosen;
  for (const ListenConfig& listener : explicit_listeners) {
    const IpAddress& ip = listener.address.ip;
    if (ip.family == family && std::find(chosen.begin(), chosen.end(), ip) == chosen.end())
      chosen.push_back(ip);
  }
  if (chosen.empty()) {
    std::optional<IpAddress> first;
    bool preferred_listens = false;
    for (const ListenConfig& listener : config.listeners) {
      if (listener.address.ip.family != family) continue;
      if (!first) first = listener.address.ip;
      preferred_listens = preferred_listens || preferred == listener.address.ip;
    }
    if (preferred_listens) first = preferred;
    if (first) chosen.push_back(*first);
  }
  for (const IpAddress& ip : chosen)
    config.relay_addresses.push_back({ip, ip});
}

}  // namespace

MachineAddresses read_machine_addresses() {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0)
    throw std::system_error(errno, std::generic_category(), "the machine's addresses");
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(list, &::freeifaddrs);
  MachineAddresses machine;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || (entry->ifa_flags & IFF_UP) == 0) continue;
    const int family = entry->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    sockaddr_storage storage{};
    std::memcpy(&storage, entry->ifa_addr,
                family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
    const auto ip = from_sockaddr(storage);
    if (ip && std::find(machine.addresses.begin(), machine.addresses.end(), *ip) ==
                  machine.addresses.end())
      machine.addresses.push_back(*ip);
  }
  machine.default_v4 = route_source(Family::kIpv4);
  machine.default_v6 = route_source(Family::kIpv6);
  return machine;
}

MachineAddresses read_machine_addresses(const Config& config) {
  if (config.driver != "dpdk") return read_machine_addresses();
  MachineAddresses machine;
  for (const PortAddressConfig& address : config.dpdk.port_addresses) {
    machine.addresses.push_back(address.ip);
    auto& first = address.ip.is_v4() ? machine.default_v4 : machine.default_v6;
    if (!first) first = address.ip;
  }
  return machine;
}

bool wildcard_covers(const IpAddress& ip) {
  if (is_wildcard(ip)) return false;
  const uint8_t* b = ip.wire();
  if (ip.is_v4()) return b[0] != 0 && b[0] != 127 && b[0] < 224 && !(b[0] == 169 && b[1] == 254);
  const bool loopback = std::all_of(b, b + 15, [](uint8_t x) { return x == 0; }) && b[15] == 1;
  return !loopback && !(b[0] == 0xfe && (b[1] & 0xc0) == 0x80) && b[0] != 0xff;
}

Expanded expand_wildcards(const Config& config, const MachineAddresses& machine) {
  Config out = config;
  std::vector<ListenConfig> wanted = config.listeners;
  if (wanted.empty()) {
    wanted.push_back({{IpAddress::v4(0), kDefaultListenPort}, 0});
    const std::array<uint8_t, 16> any{};
    wanted.push_back({{IpAddress::v6_bytes(any.data()), kDefaultListenPort}, 0});
  }
  out.listeners.clear();
  std::string wildcards;
  for (const ListenConfig& listener : wanted) {
    if (!is_wildcard(listener.address.ip)) out.listeners.push_back(listener);
  }
  const std::vector<ListenConfig> explicit_listeners = out.listeners;
  for (const ListenConfig& listener : wanted) {
    if (!is_wildcard(listener.address.ip)) continue;
    wildcards += (wildcards.empty() ? "" : " and ") + listener.address.to_string();
    for (const IpAddress& ip : machine.addresses) {
      const TransportAddress address{ip, listener.address.port};
      if (ip.family == listener.address.ip.family && wildcard_covers(ip) && !listens(out, address))
        out.listeners.push_back({address, listener.realm});
    }
  }
  Expanded result;
  const auto fail = [&](std::string problem, std::string fix) {
    result.errors.push_back({{}, 0, 0, "listen.address", std::move(problem), std::move(fix)});
  };
  if (out.listeners.empty())
    fail("this machine has no address for " + wildcards +
             " but loopback and link-local ones, which a wildcard leaves out",
         "name one, such as --listen 127.0.0.1:3478 to try the relay on this machine alone");
  if (out.listeners.size() > kMaxListeners)
    fail("this machine's addresses make " + std::to_string(out.listeners.size()) + " listeners",
         "name those you want instead of a wildcard; at most " + std::to_string(kMaxListeners));
  if (!result.errors.empty()) return result;
  if (out.relay_addresses.empty()) {
    add_relays(out, Family::kIpv4, explicit_listeners, machine.default_v4);
    add_relays(out, Family::kIpv6, explicit_listeners, machine.default_v6);
  }
  result.config = std::move(out);
  return result;
}

}  // namespace culvert
