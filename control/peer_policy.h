// Which peers a client may reach (turn.md 7.2; CVE-2018-4058, 2020-26262, 2026-27624). Decided on
// canonical addresses: an IPv6 address that carries an IPv4 one (v4-mapped, v4-compatible, SIIT,
// 6to4, NAT64, Teredo's server and client, ISATAP) is allowed only if it is allowed itself and
// every address it carries is too.
//
// Rules: the built-in deny list, then --deny-peer and --allow-peer. The longest matching prefix
// decides; where an allow and a deny have the same prefix, allow wins. So `--allow-peer 10.0.0.0/8`
// opens exactly what the built-in list closed there, and `--deny-peer 10.1.0.0/16` closes a part of
// it again. An address with an ISATAP interface identifier is refused unless an allow rule names it
// (RFC 8656 section 21.4).
//
// Our own addresses come before the rules: a relayed one is granted even inside a denied range,
// marked so that it is reached only by hairpin; one that only listens is refused (loops, RFC 8656
// section 21.1.7).
//
// Immutable once compiled; a sorted array of intervals per family, so a decision is one binary
// search per address. Asked when a permission or channel is made, never per packet.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "config/config.h"
#include "dataplane/api/snapshot.h"
#include "dataplane/base/address.h"

namespace culvert {

enum class PeerVerdict : uint8_t {
  kAllowed,
  kOwnRelay,  // one of our relayed addresses, bound or advertised: allowed, own_address = 1
  kDenied,
};

// The IPv4 addresses that an IPv6 address carries, at most kMaxEmbedded.
inline constexpr size_t kMaxEmbedded = 6;
struct Embedded {
  size_t count = 0;
  IpAddress address[kMaxEmbedded];
};
[[nodiscard]] Embedded embedded_ipv4(const IpAddress& ip);
[[nodiscard]] bool is_isatap(const IpAddress& ip);

// The built-in deny list, for documentation and tests.
[[nodiscard]] std::span<const Cidr> default_denied_peers();

class PeerPolicy {
 public:
  PeerPolicy() = default;
  PeerPolicy(const PeersConfig& config, std::span<const LocalAddress> own);

  [[nodiscard]] PeerVerdict judge(const IpAddress& ip) const;

 private:
  enum class Rule : uint8_t { kNone, kAllow, kDeny };
  // From `first` up to the next interval's first. IPv4 is kept in its v4-mapped form, in its own
  // array.
  struct Interval {
    std::array<uint8_t, 16> first;
    Rule rule;
  };
  struct Entry;

  [[nodiscard]] static std::vector<Interval> compile(std::vector<Entry> entries);
  [[nodiscard]] Rule match(const IpAddress& ip) const;

  std::vector<Interval> ipv4_;
  std::vector<Interval> ipv6_;
  std::vector<IpAddress> own_relays_;     // sorted
  std::vector<IpAddress> own_listeners_;  // sorted; without the relays
};

}  // namespace culvert
