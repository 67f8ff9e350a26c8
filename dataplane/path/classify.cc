// Stage 1: one forward pass over the burst. Decides what each datagram is from its first bytes
// (RFC 8656 section 12: 0-3 STUN, 64-79 ChannelData) and builds its look-up key. Reads the first
// cache line of the payload and no table.
#include "dataplane/path/stages.h"
#include "dataplane/wire/channel_data.h"

namespace culvert {

namespace {

constexpr uint8_t kLastStunByte = 3;
constexpr uint8_t kFirstChannelByte = 0x40;
constexpr uint8_t kLastChannelByte = 0x4f;
constexpr uint8_t kLastReservedChannelByte = 0x7f;

// A source nobody can answer: port 0, or a v4-mapped address on an IPv6 packet.
[[nodiscard]] bool is_martian(const TransportAddress& source) {
  return source.port == 0 || source.ip.is_v4_mapped_v6();
}

template <class MakeKey>
void add_key(BurstWork& work, size_t i, const RxDatagram& rx, MakeKey&& make) {
  if (rx.source.ip.is_v6())
    work.wide_keys.add(i, make.template operator()<WideKey>());
  else
    work.narrow.add(i, make.template operator()<NarrowKey>());
}

[[nodiscard]] Step drop(CoreState& core, Outcome outcome) {
  core.count(outcome);
  return Step::kDone;
}

[[nodiscard]] Step classify_client(CoreState& core, const RxDatagram& rx, size_t i,
                                   BurstWork& work) {
  if (rx.length == 0) return drop(core, Outcome::k_not_stun_nor_channel);
  const uint8_t first = rx.payload[0];
  if (first >= kFirstChannelByte && first <= kLastChannelByte) [[likely]] {
    if (rx.length < kChannelHeaderSize) return drop(core, Outcome::k_channel_data_short);
    const uint16_t channel = load_be16(rx.payload);
    const uint16_t length = load_be16(rx.payload + 2);
    if (size_t{length} + kChannelHeaderSize > rx.length)
      return drop(core, Outcome::k_channel_data_short);
    add_key(work, i, rx,
            [&]<class Key>() { return client_key<Key>(rx.source, rx.listener, channel); });
    return Step::kChannelData;
  }
  if (first <= kLastStunByte) {
    ++work.loose;
    return Step::kStun;
  }
  if (first > kLastChannelByte && first <= kLastReservedChannelByte)
    return drop(core, Outcome::k_channel_number_reserved);
  return drop(core, Outcome::k_not_stun_nor_channel);
}

}  // namespace

void classify(CoreState& core, std::span<const RxDatagram> in, BurstWork& work) {
  work.narrow.count = work.wide_keys.count = work.loose = 0;
  for (size_t i = 0; i < in.size(); ++i) {
    const RxDatagram& rx = in[i];
    if (rx.kind == RxKind::kIcmpError) {
      work.step[i] = Step::kIcmpError;
    } else if (is_martian(rx.source)) [[unlikely]] {
      work.step[i] = drop(core, Outcome::k_martian);
    } else if (rx.kind == RxKind::kPeer) {
      add_key(work, i, rx, [&]<class Key>() { return peer_key<Key>(rx.source, rx.relay); });
      work.step[i] = Step::kPeerDatagram;
    } else {
      work.step[i] = classify_client(core, rx, i, work);
    }
  }
}

}  // namespace culvert
