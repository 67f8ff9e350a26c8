// The configuration of one culvertd as plain data: what the file and the flags said, checked and
// with defaults filled in. No logic here; config/parse.h and config/cli.h make one, config/derive.h
// computes what follows from it, config/reload.h compares two. Every member is one key of
// config/schema.h, which holds its unit, range, and whether a reload may change it. Owned by main,
// read by control; a reload makes a new one.
//
// A Config that config/ hands out has been validated: ranges hold, indices point at existing
// realms.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dataplane/api/limits.h"
#include "dataplane/base/address.h"

namespace culvert {

// RFC 8656's own range; 16384 ports.
inline constexpr uint16_t kDefaultRelayPortLow = 49152;
inline constexpr uint16_t kDefaultRelayPortHigh = 65535;
inline constexpr uint16_t kDefaultListenPort = 3478;

// One relayed port per allocation and family: the default port range on one address carries 16384.
inline constexpr uint32_t kDefaultMaxAllocations = 16384;
// At 1 KiB each, 1 GiB; and 16 relay addresses full of ports.
inline constexpr uint32_t kMaxConfiguredAllocations = 1u << 20;

inline constexpr uint32_t kDefaultNonceLifetimeSeconds = 3600;  // RFC 8489 9.2: at least hourly
inline constexpr uint32_t kDefaultStopGraceSeconds = 10;

// Two: the one in use and the one being rotated in (or out).
inline constexpr size_t kMaxSecretsPerRealm = 2;
inline constexpr size_t kMaxRealms = 64;          // as many as listeners: each serves one realm
inline constexpr size_t kMaxRelayAddresses = 64;  // leaves 192 of kMaxLocalAddresses to listeners
inline constexpr size_t kMaxPeerRules = 4096;     // deny and allow together
inline constexpr size_t kMaxPortAddresses = 256;  // as many as the relay has addresses
inline constexpr size_t kMaxConfiguredNeighbours = 1024;
inline constexpr size_t kMaxUserNameBytes =
    508;                                       // RFC 8489 14.3: USERNAME is shorter than 509 bytes
inline constexpr size_t kMaxRealmBytes = 127;  // RFC 8489 14.9: fewer than 128 characters
inline constexpr size_t kMaxPasswordBytes = 512;
inline constexpr size_t kMaxSecretBytes = 512;
inline constexpr size_t kMaxSoftwareBytes = 127;  // RFC 8489 14.14: fewer than 128 characters

// Reply budget, bytes out minus bytes in, per second. A bucket saves 10 s of it: 1.28 MB per prefix
// pays 10,000 challenges of 96 bytes at once, before any is refunded (docs/limits.md, "Reply
// budget").
inline constexpr uint64_t kDefaultReplyPerPrefix = 128'000;
inline constexpr uint64_t kDefaultReplyTotal = 16'000'000;
inline constexpr uint32_t kDefaultBadNoncePerSecond = 2000;

// A network in CIDR form. Bits of `address` past `prefix_bits` are zero. prefix_bits counts within
// the address's own family: 0 to 32 for IPv4, 0 to 128 for IPv6.
struct Cidr {
  IpAddress address;
  uint8_t prefix_bits = 0;
  friend bool operator==(const Cidr&, const Cidr&) = default;
};

struct ListenConfig {
  TransportAddress address;  // may be a wildcard until expand_wildcards() has run
  uint16_t realm = 0;        // index into Config::realms
  friend bool operator==(const ListenConfig&, const ListenConfig&) = default;
};

// advertised == bound unless the host stands behind a 1:1 NAT.
struct RelayAddressConfig {
  IpAddress bound;
  IpAddress advertised;
  friend bool operator==(const RelayAddressConfig&, const RelayAddressConfig&) = default;
};

struct UserConfig {
  std::string name;
  std::string password;
  friend bool operator==(const UserConfig&, const UserConfig&) = default;
};

// RFC 8489 18.5: the values of PASSWORD-ALGORITHM.
enum class PasswordAlgorithm : uint16_t { kMd5 = 1, kSha256 = 2 };

struct RealmConfig {
  std::string name;
  std::vector<UserConfig> users;
  std::vector<std::string> secrets;  // at most kMaxSecretsPerRealm; the first one mints
  std::string database;              // path of the SQLite accounts; empty: none
  uint32_t user_quota = 0;           // allocations one user may hold at once; 0: unlimited
  uint64_t user_bandwidth = 0;       // bytes per second of one user, both directions; 0: unlimited
  // Offered in PASSWORD-ALGORITHMS, the preferred first; empty: not offered (RFC 5389 clients
  // only).
  std::vector<PasswordAlgorithm> algorithms{PasswordAlgorithm::kSha256, PasswordAlgorithm::kMd5};
  friend bool operator==(const RealmConfig&, const RealmConfig&) = default;
};

struct LimitsConfig {
  uint32_t max_allocations = kDefaultMaxAllocations;  // whole relay, all cores
  uint64_t total_bandwidth = 0;                       // bytes per second relayed; 0: unlimited
  uint32_t max_lifetime_seconds = kMaxAllocationLifetimeSeconds;
  uint32_t default_lifetime_seconds = kDefaultAllocationLifetimeSeconds;  // also the shortest given
  uint32_t nonce_lifetime_seconds = kDefaultNonceLifetimeSeconds;
  friend bool operator==(const LimitsConfig&, const LimitsConfig&) = default;
};

// What unauthenticated replies may cost, whole relay; control divides by the number of cores.
struct ReplyBudgetConfig {
  uint64_t per_prefix = kDefaultReplyPerPrefix;  // bytes per second to one /24 or /56
  uint64_t total = kDefaultReplyTotal;           // bytes per second to everyone
  uint32_t bad_nonce_per_second =
      kDefaultBadNoncePerSecond;  // requests checked without valid nonce
  friend bool operator==(const ReplyBudgetConfig&, const ReplyBudgetConfig&) = default;
};

// Added to control's built-in deny list.
struct PeersConfig {
  bool default_deny = true;  // false: the built-in list is left out (a closed lab only)
  std::vector<Cidr> deny;
  std::vector<Cidr> allow;
  friend bool operator==(const PeersConfig&, const PeersConfig&) = default;
};

struct ControlSocketConfig {
  std::string path = "/run/culvert/control.sock";  // empty: no control socket
  uint32_t mode = 0660;
  std::string group;  // empty: the group the daemon runs as
  friend bool operator==(const ControlSocketConfig&, const ControlSocketConfig&) = default;
};

struct MetricsConfig {
  std::optional<TransportAddress> listen;  // nullopt: off
  friend bool operator==(const MetricsConfig&, const MetricsConfig&) = default;
};

// An address of ours on a port that no kernel serves, with the network it stands in.
struct PortAddressConfig {
  IpAddress ip;
  uint8_t prefix_bits = 0;  // within the address's own family
  uint8_t port = 0;         // in EAL's order
  friend bool operator==(const PortAddressConfig&, const PortAddressConfig&) = default;
};

// A link address that is known beforehand.
struct NeighbourConfig {
  IpAddress ip;
  std::array<uint8_t, 6> mac{};
  uint8_t port = 0;
  friend bool operator==(const NeighbourConfig&, const NeighbourConfig&) = default;
};

enum class IdlePolicy : uint8_t { kAdaptive, kBusy };

// Who does for a DPDK port what a host does besides UDP: ARP, neighbour discovery, ping, TCP.
enum class KernelMode : uint8_t {
  kNone,    // nobody else: the relay itself answers ARP, neighbour discovery and ping
  kAuto,    // kBeside where the port stands on an interface that the kernel keeps, else kTap
  kBeside,  // the kernel, on the interface that the port stands on
  kTap,     // the kernel, on a TAP interface of ours that carries what is not for the relay
};

// Used by the dpdk driver alone.
struct DpdkConfig {
  std::string eal;  // EAL's arguments, but for those about lcores
  std::vector<PortAddressConfig> port_addresses;
  std::vector<NeighbourConfig> neighbours;
  std::vector<IpAddress> gateways;  // at most one of each family
  KernelMode kernel = KernelMode::kNone;
  IdlePolicy idle = IdlePolicy::kAdaptive;
  friend bool operator==(const DpdkConfig&, const DpdkConfig&) = default;
};

enum class LogLevel : uint8_t { kTrace, kDebug, kInfo, kWarning, kError };
enum class LogFormat : uint8_t { kText, kJson };

struct LogConfig {
  LogLevel level = LogLevel::kInfo;
  LogFormat format = LogFormat::kText;
  std::string target = "stderr";  // "stderr", "stdout", or the path of a file to append to
  friend bool operator==(const LogConfig&, const LogConfig&) = default;
};

// Who the daemon becomes after start when it was started as root. Empty user: `culvert` if that
// account exists, else `nobody`. Empty group: the user's own.
struct RunAsConfig {
  std::string user;
  std::string group;
  friend bool operator==(const RunAsConfig&, const RunAsConfig&) = default;
};

struct Config {
  std::string driver = "sockets";
  uint32_t cores = 1;                   // fast cores; 0: one for each CPU the process may use
  std::vector<ListenConfig> listeners;  // empty: 0.0.0.0 and [::] at kDefaultListenPort
  std::vector<RelayAddressConfig> relay_addresses;  // empty: the addresses of the listeners
  uint16_t relay_port_low = kDefaultRelayPortLow;
  uint16_t relay_port_high = kDefaultRelayPortHigh;
  std::vector<RealmConfig>
      realms;  // [0] is the default realm: flags and listeners without one use it
  LimitsConfig limits;
  ReplyBudgetConfig reply_budget;
  PeersConfig peers;
  ControlSocketConfig control_socket;
  MetricsConfig metrics;
  LogConfig log;
  RunAsConfig run_as;
  DpdkConfig dpdk;
  uint32_t stop_grace_seconds = kDefaultStopGraceSeconds;
  std::string software = "Culvert";  // SOFTWARE attribute; empty: not sent
  friend bool operator==(const Config&, const Config&) = default;
};

}  // namespace culvert
