// The ChannelData message (RFC 8656 section 12.4): channel number, length of the application data, data.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dataplane/base/endian.h"

namespace culvert {

inline constexpr size_t kChannelHeaderSize = 4;

}  // namespace culvert
