// Any bytes as a ChannelData datagram: what is accepted lies inside it, and its header is what we
// would write.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "dataplane/base/assert.h"
#include "dataplane/wire/channel_data.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto parsed = culvert::parse_channel_data({data, size});
  if (!parsed) return 0;
  ENSURE(culvert::looks_like_channel_data(data[0]));
  ENSURE(parsed->data.data() == data + culvert::kChannelHeaderSize);
  ENSURE(parsed->data.data() + parsed->data.size() <= data + size);
  ENSURE(culvert::channel_frame_size(parsed->data.size()) % 4 == 0);
  uint8_t header[culvert::kChannelHeaderSize];
  culvert::write_channel_header(header, parsed->channel,
                                static_cast<uint16_t>(parsed->data.size()));
  ENSURE(std::memcmp(header, data, sizeof header) == 0);
  return 0;
}
