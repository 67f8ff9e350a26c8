// The ChannelData message (RFC 8656 section 12.4): channel number, length of the application data,
// data. Over UDP padding is optional and bytes behind the data are ignored (section 12.5); over a
// stream it is padded to four bytes, which the length does not count. Pure; costs two loads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "dataplane/api/limits.h"
#include "dataplane/base/endian.h"

namespace culvert {

inline constexpr size_t kChannelHeaderSize = 4;

// Whether the first byte of a datagram says ChannelData: the top two bits are 01 (RFC 8656 section
// 12). 0x5000 to 0x7FFF are ChannelData too, with a reserved number, and are dropped as such.
[[nodiscard]] constexpr bool looks_like_channel_data(uint8_t first_byte) {
  return (first_byte & 0xc0) == 0x40;
}

[[nodiscard]] constexpr bool is_channel_number(uint16_t number) {
  return number >= kFirstChannel && number <= kLastChannel;
}

struct ChannelData {
  uint16_t channel = 0;
  std::span<const uint8_t> data;  // without padding; may be empty
};

// A datagram. nullopt: no header, a number outside 0x4000 to 0x4FFF, or a length beyond the
// datagram (section 12.6).
[[nodiscard]] inline std::optional<ChannelData> parse_channel_data(
    std::span<const uint8_t> datagram) {
  if (datagram.size() < kChannelHeaderSize) return std::nullopt;
  const uint16_t channel = load_be16(datagram.data());
  const size_t length = load_be16(datagram.data() + 2);
  if (!is_channel_number(channel) || length > datagram.size() - kChannelHeaderSize)
    return std::nullopt;
  return ChannelData{channel, datagram.subspan(kChannelHeaderSize, length)};
}

inline void write_channel_header(uint8_t* to, uint16_t channel, uint16_t data_length) {
  store_be16(to, channel);
  store_be16(to + 2, data_length);
}

// Header, data and padding as they stand in a stream.
[[nodiscard]] constexpr size_t channel_frame_size(size_t data_length) {
  return kChannelHeaderSize + ((data_length + 3) & ~size_t{3});
}

}  // namespace culvert
