// IP and transport addresses as every layer sees them.
//
// An IpAddress holds 16 bytes in IPv6 form (IPv4 as ::ffff:a.b.c.d) plus its family, so one compare
// serves both. The family is explicit: an IPv6 packet that really carries a v4-mapped address is
// never mistaken for IPv4. Ports are host order; drivers and codecs convert.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "dataplane/base/endian.h"

namespace culvert {

enum class Family : uint8_t { kNone = 0, kIpv4 = 4, kIpv6 = 6 };

// 16 bytes as two words: GCC 12 calls memcmp for std::array's own comparison.
[[nodiscard]] inline bool same_bytes(const std::array<uint8_t, 16>& a,
                                     const std::array<uint8_t, 16>& b) {
  uint64_t x[2], y[2];
  std::memcpy(x, a.data(), sizeof x);
  std::memcpy(y, b.data(), sizeof y);
  return ((x[0] ^ y[0]) | (x[1] ^ y[1])) == 0;
}

struct IpAddress {
  std::array<uint8_t, 16> bytes{};  // network order; IPv4 in v4-mapped form
  Family family = Family::kNone;

  [[nodiscard]] static IpAddress v4(uint32_t host_order) {
    // Two whole words: byte stores would stall the loads that follow on the packet path.
    IpAddress a;
    const uint64_t low = to_big_endian(uint64_t{0x0000ffff} << 32 | host_order);
    std::memcpy(&a.bytes[8], &low, sizeof low);
    a.family = Family::kIpv4;
    return a;
  }
  // `from`: 4 bytes, network order.
  [[nodiscard]] static IpAddress v4_bytes(const void* from) { return v4(load_be32(from)); }
  // `from`: 16 bytes, network order.
  [[nodiscard]] static IpAddress v6_bytes(const void* from) {
    IpAddress a;
    std::memcpy(a.bytes.data(), from, 16);
    a.family = Family::kIpv6;
    return a;
  }
  // "192.0.2.1" or "2001:db8::1"; no port, no brackets, no zone.
  [[nodiscard]] static std::optional<IpAddress> parse(std::string_view text);

  [[nodiscard]] bool is_v4() const { return family == Family::kIpv4; }
  [[nodiscard]] bool is_v6() const { return family == Family::kIpv6; }
  // An IPv6 address of the form ::ffff:a.b.c.d: the spelling that IPv4 has in here. On the wire it
  // belongs to nobody, and no table may take it.
  [[nodiscard]] bool is_v4_mapped_v6() const {
    return is_v6() && load_be64(bytes.data()) == 0 && load_be32(&bytes[8]) == 0xffff;
  }
  [[nodiscard]] uint32_t v4_host() const { return load_be32(&bytes[12]); }
  [[nodiscard]] size_t size() const { return is_v4() ? 4u : 16u; }
  // The 4 or 16 bytes as they stand on the wire.
  [[nodiscard]] const uint8_t* wire() const { return is_v4() ? &bytes[12] : bytes.data(); }
  [[nodiscard]] std::string to_string() const;

  friend bool operator==(const IpAddress& a, const IpAddress& b) {
    return a.family == b.family && same_bytes(a.bytes, b.bytes);
  }
};
static_assert(sizeof(IpAddress) == 17);

struct TransportAddress {
  IpAddress ip;
  uint16_t port = 0;  // host order

  // "192.0.2.1:3478" or "[2001:db8::1]:3478".
  [[nodiscard]] static std::optional<TransportAddress> parse(std::string_view text);
  [[nodiscard]] std::string to_string() const;

  friend bool operator==(const TransportAddress&, const TransportAddress&) = default;
};
static_assert(sizeof(TransportAddress) == 20);

}  // namespace culvert
