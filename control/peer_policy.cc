#include "control/peer_policy.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "dataplane/base/assert.h"

namespace culvert {

namespace {

using Bytes = std::array<uint8_t, 16>;

struct DeniedText {
  const char* address;
  uint8_t bits;
};
// turn.md 7.2: the union of what careful servers and guides refuse.
constexpr DeniedText kDenied[] = {
    {"0.0.0.0", 8},        // this network
    {"10.0.0.0", 8},       // private
    {"100.64.0.0", 10},    // carrier-grade NAT
    {"127.0.0.0", 8},      // loopback
    {"169.254.0.0", 16},   // link-local, cloud metadata
    {"172.16.0.0", 12},    // private
    {"192.0.0.0", 24},     // IETF protocol assignments
    {"192.0.2.0", 24},     // documentation
    {"192.88.99.0", 24},   // 6to4 relay anycast
    {"192.168.0.0", 16},   // private
    {"198.18.0.0", 15},    // benchmarking
    {"198.51.100.0", 24},  // documentation
    {"203.0.113.0", 24},   // documentation
    {"224.0.0.0", 4},      // multicast
    {"240.0.0.0", 4},      // reserved, broadcast
    {"::", 128},           // unspecified
    {"::1", 128},          // loopback
    {"::ffff:0:0", 96},    // v4-mapped
    {"::", 96},            // v4-compatible
    {"64:ff9b::", 96},     // NAT64
    {"64:ff9b:1::", 48},   // local-use NAT64
    {"100::", 64},         // discard
    {"2001::", 32},        // Teredo
    {"2001:db8::", 32},    // documentation
    {"2002::", 16},        // 6to4
    {"fc00::", 7},         // unique local
    {"fe80::", 10},        // link-local
    {"fec0::", 10},        // site-local
    {"ff00::", 8},         // multicast
};
constexpr size_t kDeniedCount = sizeof kDenied / sizeof kDenied[0];

[[nodiscard]] bool all_zero(const uint8_t* from, size_t count) {
  return std::all_of(from, from + count, [](uint8_t b) { return b == 0; });
}

void add(Embedded& out, uint8_t a, uint8_t b, uint8_t c, uint8_t d) {
  ENSURE(out.count < kMaxEmbedded);
  const uint8_t bytes[4] = {a, b, c, d};
  out.address[out.count++] = IpAddress::v4_bytes(bytes);
}

// RFC 6052 section 2.2 inside 64:ff9b:1::/48 (RFC 8215): the operator may have chosen /48, /56, /64
// or /96. Byte 8 is always zero, and what lies behind the IPv4 address is zero in the shorter
// forms; every form that fits counts.
void add_local_nat64(Embedded& out, const Bytes& b) {
  if (b[8] == 0) {
    if (all_zero(&b[11], 5) && !(all_zero(&b[6], 2) && all_zero(&b[9], 2)))
      add(out, b[6], b[7], b[9], b[10]);
    if (all_zero(&b[12], 4) && !(b[7] == 0 && all_zero(&b[9], 3)))
      add(out, b[7], b[9], b[10], b[11]);
    if (all_zero(&b[13], 3) && !all_zero(&b[9], 4)) add(out, b[9], b[10], b[11], b[12]);
  }
  // An address that fits a shorter form and ends in zeros carries nothing in the /96 form.
  if (out.count == 0 || !all_zero(&b[12], 4)) add(out, b[12], b[13], b[14], b[15]);
}

[[nodiscard]] bool less(const IpAddress& a, const IpAddress& b) {
  if (a.family != b.family) return a.family < b.family;
  return a.bytes < b.bytes;
}

void sort_unique(std::vector<IpAddress>& list) {
  std::sort(list.begin(), list.end(), less);
  list.erase(std::unique(list.begin(), list.end()), list.end());
}

// Adds one; false when it wrapped.
[[nodiscard]] bool increment(Bytes& b) {
  for (size_t i = 16; i-- > 0;) {
    if (++b[i] != 0) return true;
  }
  return false;
}

}  // namespace

std::span<const Cidr> default_denied_peers() {
  // Constant data, made once; not state.
  static const std::vector<Cidr> list = [] {
    std::vector<Cidr> out;
    out.reserve(kDeniedCount);
    for (const DeniedText& d : kDenied) {
      const auto address = IpAddress::parse(d.address);
      ENSURE(address);
      out.push_back({*address, d.bits});
    }
    return out;
  }();
  return list;
}

bool is_isatap(const IpAddress& ip) {
  // RFC 5214 section 6.1: the u bit may be set or not.
  return ip.is_v6() && (ip.bytes[8] & ~0x02) == 0 && ip.bytes[9] == 0 && ip.bytes[10] == 0x5e &&
         ip.bytes[11] == 0xfe;
}

Embedded embedded_ipv4(const IpAddress& ip) {
  Embedded out;
  if (!ip.is_v6()) return out;
  const Bytes& b = ip.bytes;
  const auto last32 = [&] { add(out, b[12], b[13], b[14], b[15]); };
  const bool zero8 = all_zero(b.data(), 8);
  if (zero8 && b[8] == 0 && b[9] == 0 && ((b[10] == 0xff && b[11] == 0xff) || (b[10] | b[11]) == 0))
    last32();  // v4-mapped and v4-compatible
  if (zero8 && b[8] == 0xff && b[9] == 0xff && b[10] == 0 && b[11] == 0)
    last32();  // ::ffff:0:a.b.c.d, "IPv4-translated" (RFC 2765)
  if (b[0] == 0x20 && b[1] == 0x02) add(out, b[2], b[3], b[4], b[5]);  // 6to4
  static constexpr uint8_t kNat64[4] = {0x00, 0x64, 0xff, 0x9b};
  if (std::memcmp(b.data(), kNat64, 4) == 0) {
    if (all_zero(&b[4], 8)) last32();
    if (b[4] == 0 && b[5] == 1) add_local_nat64(out, b);
  }
  if (b[0] == 0x20 && b[1] == 0x01 && b[2] == 0 && b[3] == 0) {  // Teredo, RFC 4380 section 4
    add(out, b[4], b[5], b[6], b[7]);
    const auto flip = [](uint8_t v) { return static_cast<uint8_t>(~v); };
    add(out, flip(b[12]), flip(b[13]), flip(b[14]), flip(b[15]));
  }
  if (is_isatap(ip)) last32();
  return out;
}

// A rule as an inclusive range of 128-bit numbers.
struct PeerPolicy::Entry {
  Bytes first{};
  Bytes last{};
  uint8_t bits = 0;  // within 128
  Rule rule = Rule::kNone;

  static Entry of(const Cidr& cidr, Rule rule) {
    Entry e;
    e.first = e.last = cidr.address.bytes;
    e.bits = static_cast<uint8_t>(cidr.prefix_bits + (cidr.address.is_v4() ? 96 : 0));
    e.rule = rule;
    for (size_t bit = e.bits; bit < 128; ++bit) {
      const auto mask = static_cast<uint8_t>(0x80u >> (bit & 7));
      e.first[bit >> 3] = static_cast<uint8_t>(e.first[bit >> 3] & ~mask);
      e.last[bit >> 3] = static_cast<uint8_t>(e.last[bit >> 3] | mask);
    }
    return e;
  }
};

// Prefixes are nested or apart, never crossing: walking them by first address, outer before inner,
// a stack of the open ones gives at every boundary the innermost rule, which is the longest prefix.
std::vector<PeerPolicy::Interval> PeerPolicy::compile(std::vector<Entry> entries) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    if (a.first != b.first) return a.first < b.first;
    if (a.bits != b.bits) return a.bits < b.bits;
    return a.rule > b.rule;  // of equals, deny first: the allow lies on top of it and wins
  });
  std::vector<Interval> out{{Bytes{}, Rule::kNone}};
  const auto begin_interval = [&out](const Bytes& at, Rule rule) {
    if (out.back().first == at)
      out.back().rule = rule;
    else if (out.back().rule != rule)
      out.push_back({at, rule});
  };
  std::vector<Entry> open;
  const auto close_until = [&](const Bytes* next_first) {
    while (!open.empty() && (next_first == nullptr || open.back().last < *next_first)) {
      Bytes behind = open.back().last;
      open.pop_back();
      if (increment(behind)) begin_interval(behind, open.empty() ? Rule::kNone : open.back().rule);
    }
  };
  for (const Entry& e : entries) {
    close_until(&e.first);
    begin_interval(e.first, e.rule);
    open.push_back(e);
  }
  close_until(nullptr);
  return out;
}

PeerPolicy::PeerPolicy(const PeersConfig& config, std::span<const LocalAddress> own) {
  std::vector<Entry> ipv4;
  std::vector<Entry> ipv6;
  const auto put = [&](std::span<const Cidr> list, Rule rule) {
    for (const Cidr& cidr : list)
      (cidr.address.is_v4() ? ipv4 : ipv6).push_back(Entry::of(cidr, rule));
  };
  if (config.default_deny) put(default_denied_peers(), Rule::kDeny);
  put(config.deny, Rule::kDeny);
  put(config.allow, Rule::kAllow);
  ipv4_ = compile(std::move(ipv4));
  ipv6_ = compile(std::move(ipv6));

  for (const LocalAddress& a : own) {
    auto& list = a.relays ? own_relays_ : own_listeners_;
    list.push_back(a.bound);
    list.push_back(a.advertised);
  }
  sort_unique(own_relays_);
  sort_unique(own_listeners_);
}

PeerPolicy::Rule PeerPolicy::match(const IpAddress& ip) const {
  const std::vector<Interval>& list = ip.is_v4() ? ipv4_ : ipv6_;
  const auto behind = std::upper_bound(
      list.begin(), list.end(), ip.bytes,
      [](const Bytes& value, const Interval& interval) { return value < interval.first; });
  return behind == list.begin() ? Rule::kNone : std::prev(behind)->rule;
}

PeerVerdict PeerPolicy::judge(const IpAddress& ip) const {
  const auto in = [](const std::vector<IpAddress>& list, const IpAddress& a) {
    return std::binary_search(list.begin(), list.end(), a, less);
  };
  if (in(own_relays_, ip)) return PeerVerdict::kOwnRelay;
  if (in(own_listeners_, ip)) return PeerVerdict::kDenied;

  const Rule outer = match(ip);
  if (outer == Rule::kDeny || (outer == Rule::kNone && is_isatap(ip))) return PeerVerdict::kDenied;
  const Embedded embedded = embedded_ipv4(ip);
  for (size_t i = 0; i < embedded.count; ++i) {
    const IpAddress& inner = embedded.address[i];
    // Our own addresses by another spelling are refused: only the plain one is a hairpin.
    if (in(own_relays_, inner) || in(own_listeners_, inner) || match(inner) == Rule::kDeny)
      return PeerVerdict::kDenied;
  }
  return PeerVerdict::kAllowed;
}

}  // namespace culvert
