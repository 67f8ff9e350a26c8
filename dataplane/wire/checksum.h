// Internet checksums (RFC 1071), their incremental update (RFC 1624 equation 3) and the
// pseudo-headers of IPv4 and IPv6. A ones' complement sum is the same whatever byte order its words
// are read in, so everything here works on 16-bit words as they lie in memory ("wire words"): load
// and store them with load_word() and store_word(), never with the big-endian helpers.
//
// Why incremental: a relayed datagram's new UDP checksum is derived from the received one and from
// the bytes that changed. The payload is neither read nor trusted: damage that the sender's
// checksum would have revealed is still revealed at the receiver (architecture.md 5.6 measures 3-5
// cycles).
//
// Sums are kept in 64 bits and folded at the end: 2^32 32-bit words may be added without overflow.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "dataplane/base/address.h"

namespace culvert::checksum {

[[nodiscard]] inline uint16_t load_word(const void* from) {
  uint16_t word;
  std::memcpy(&word, from, sizeof word);
  return word;
}
inline void store_word(void* to, uint16_t word) {
  std::memcpy(to, &word, sizeof word);
}

[[nodiscard]] inline uint32_t load_pair(const void* from) {
  uint32_t pair;
  std::memcpy(&pair, from, sizeof pair);
  return pair;
}

// A number in host order as it would lie in the packet.
[[nodiscard]] constexpr uint16_t wire_word(uint16_t host) {
  return to_big_endian(host);
}

// Reduces a 64-bit sum to 16 bits with end-around carry. 0 only when every word added was 0.
[[nodiscard]] constexpr uint16_t fold(uint64_t sum) {
  sum = (sum & 0xffffffffu) + (sum >> 32);
  sum = (sum & 0xffffffffu) + (sum >> 32);
  sum = (sum & 0xffffu) + (sum >> 16);
  sum = (sum & 0xffffu) + (sum >> 16);
  return static_cast<uint16_t>(sum);
}

// Adds `length` bytes that start at an even offset of what is summed; an odd last byte is padded
// with zero (RFC 1071).
[[nodiscard]] inline uint64_t sum(const void* data, size_t length, uint64_t start = 0) {
  const auto* at = static_cast<const uint8_t*>(data);
  uint64_t total = start;
  for (; length >= 8; at += 8, length -= 8) {
    total += uint64_t{load_pair(at)} + load_pair(at + 4);
  }
  if (length >= 4) {
    total += load_pair(at);
    at += 4;
    length -= 4;
  }
  if (length >= 2) {
    total += load_word(at);
    at += 2;
    length -= 2;
  }
  if (length != 0) {
    const uint8_t last[2] = {*at, 0};
    total += load_word(last);
  }
  return total;
}

// Bytes that start at an odd offset count with their bytes swapped (RFC 1071 section 2.B).
[[nodiscard]] inline uint16_t at_odd_offset(uint16_t folded) {
  return byte_swap(folded);
}

// a - b in ones' complement.
[[nodiscard]] constexpr uint64_t subtract(uint64_t a, uint16_t b) {
  return a + static_cast<uint16_t>(~b);
}

// The checksum field's value over `bytes`, whose own checksum field is zero.
[[nodiscard]] inline uint16_t full(std::span<const uint8_t> bytes) {
  return static_cast<uint16_t>(~fold(sum(bytes.data(), bytes.size())));
}

// RFC 1624 equation 3: HC' = ~(~HC + ~m + m'). Equal to the full computation for every input except
// a header of nothing but zeros, which no IP or UDP header is.
[[nodiscard]] constexpr uint16_t update(uint16_t checksum, uint16_t from, uint16_t to) {
  const uint64_t total =
      uint64_t{static_cast<uint16_t>(~checksum)} + static_cast<uint16_t>(~from) + to;
  return static_cast<uint16_t>(~fold(total));
}
[[nodiscard]] constexpr uint16_t update(uint16_t checksum, uint32_t from, uint32_t to) {
  const uint64_t total = uint64_t{static_cast<uint16_t>(~checksum)} + (~from & 0xffffffffu) + to;
  return static_cast<uint16_t>(~fold(total));
}

// Sum of the pseudo-header (RFC 768, RFC 8200 section 8.1). `length`: upper-layer header and data.
// Both take addresses as they lie on the wire; the IPv6 length field is 32 bits with zero high
// half.
[[nodiscard]] inline uint64_t pseudo_v4(const uint8_t* source, const uint8_t* destination,
                                        uint8_t protocol, uint16_t length) {
  return uint64_t{load_pair(source)} + load_pair(destination) + wire_word(protocol) +
         wire_word(length);
}
[[nodiscard]] inline uint64_t pseudo_v6(const uint8_t* source, const uint8_t* destination,
                                        uint8_t protocol, uint16_t length) {
  return sum(source, 16, sum(destination, 16, uint64_t{wire_word(protocol)} + wire_word(length)));
}

// What a UDP sender puts in the field: a computed 0 is sent as 0xffff, because 0 means "none"
// (RFC 768), which IPv6 forbids (RFC 8200 section 8.1).
[[nodiscard]] constexpr uint16_t udp_field(uint64_t total) {
  const auto value = static_cast<uint16_t>(~fold(total));
  return value == 0 ? uint16_t{0xffff} : value;
}

}  // namespace culvert::checksum
