#include "dataplane/wire/reassembly.h"

#include <algorithm>
#include <cstring>

namespace culvert {

namespace {

constexpr uint32_t kLongestDatagram = 65535;
constexpr uint8_t kNotEct = 0;
constexpr uint8_t kCongestionExperienced = 3;
static_assert(kLargeReassemblyBytes > kLongestDatagram);

// /24 or /56 with a family bit, never 0.
[[nodiscard]] uint64_t prefix_of(const IpAddress& a) {
  if (a.is_v4()) return uint64_t{a.v4_host() & 0xffffff00u} | 1;
  return (load_be64(a.bytes.data()) & ~uint64_t{0xff}) | 2;
}

}  // namespace

Reassembler::Reassembler(const SipKey& key)
    : key_(key),
      places_(kMaxReassemblies),
      small_memory_(size_t{kMaxReassemblies} * kSmallReassemblyBytes),
      large_memory_(size_t{kMaxLargeReassemblies} * kLargeReassemblyBytes) {
  for (size_t at = 0; at < small_memory_.size(); at += kSmallReassemblyBytes)
    small_free_.push_back(&small_memory_[at]);
  for (size_t at = 0; at < large_memory_.size(); at += kLargeReassemblyBytes)
    large_free_.push_back(&large_memory_[at]);
}

uint64_t Reassembler::hash_of(const frame::Fragment& fragment) const {
  std::array<uint8_t, 38> key;
  std::copy_n(fragment.source.bytes.begin(), 16, key.begin());
  std::copy_n(fragment.destination.bytes.begin(), 16, key.begin() + 16);
  store_be32(&key[32], fragment.identification);
  key[36] = static_cast<uint8_t>(fragment.source.family);
  key[37] = fragment.protocol;
  return siphash24(key_, key.data(), key.size());
}

uint32_t Reassembler::find(const frame::Fragment& fragment, uint64_t hash) const {
  for (uint32_t i = 0; i < kMaxReassemblies; ++i) {
    if (hash_[i] != hash || (state_[i] != State::kGathering && state_[i] != State::kRefused))
      continue;
    const Place& place = places_[i];
    if (place.identification == fragment.identification && place.source == fragment.source &&
        place.destination == fragment.destination)
      return i;
  }
  return kNone;
}

uint32_t Reassembler::oldest(uint64_t prefix, bool large, uint32_t except, uint32_t& count) const {
  uint32_t found = kNone;
  count = 0;
  for (uint32_t i = 0; i < kMaxReassemblies; ++i) {
    if (state_[i] != State::kGathering && state_[i] != State::kRefused) continue;
    if ((prefix != 0 && prefix_[i] != prefix) || (large && !is_large(i)) || i == except) continue;
    ++count;
    if (found == kNone || ticks_reached(begun_[found], begun_[i] + 1)) found = i;
  }
  return found;
}

bool Reassembler::is_large(uint32_t index) const {
  const uint8_t* const buffer = places_[index].buffer;
  return buffer != nullptr && buffer >= large_memory_.data() &&
         buffer < large_memory_.data() + large_memory_.size();
}

// A place for a new datagram; kNone: every one holds a complete datagram.
uint32_t Reassembler::begin(const frame::Fragment& fragment, uint64_t hash, Ticks now) {
  const uint64_t prefix = prefix_of(fragment.source);
  uint32_t count = 0;
  uint32_t victim = oldest(prefix, false, kNone, count);
  if (count >= kMaxReassembliesPerPrefix) {
    ++given_up_.prefix_full;
    drop(victim);
  }
  uint32_t index = 0;
  while (index < kMaxReassemblies && state_[index] != State::kFree)
    ++index;
  if (index == kMaxReassemblies) {
    victim = oldest(0, false, kNone, count);
    if (victim == kNone) return kNone;
    ++given_up_.table_full;
    drop(victim);
    index = victim;
  }
  // There are as many small buffers as places.
  Place& place = places_[index];
  place = Place{};
  place.source = fragment.source;
  place.destination = fragment.destination;
  place.identification = fragment.identification;
  place.buffer = small_free_.back();
  small_free_.pop_back();
  hash_[index] = hash;
  prefix_[index] = prefix;
  begun_[index] = now;
  state_[index] = State::kGathering;
  ++under_way_;
  return index;
}

Reassembler::Result Reassembler::take(const frame::Fragment& fragment, Ticks now, Handle& handle) {
  expire(now);
  if (fragment.protocol != frame::kProtocolUdp) return Result::kNotUdp;
  const size_t length = fragment.data.size();
  if (length == 0 || (fragment.more && length % 8 != 0) ||
      fragment.headers + fragment.offset + length > kLongestDatagram)
    return Result::kMalformed;
  const uint64_t hash = hash_of(fragment);
  uint32_t index = find(fragment, hash);
  if (index != kNone && state_[index] == State::kRefused) return Result::kOverlap;
  if (fragment.more && length < kMinFragmentBytes) return Result::kTiny;
  if (index == kNone) index = begin(fragment, hash, now);
  if (index == kNone) return Result::kFull;
  const Result result = add(index, fragment);
  if (result == Result::kComplete) handle = index;
  return result;
}

Reassembler::Result Reassembler::add(uint32_t index, const frame::Fragment& fragment) {
  Place& place = places_[index];
  const Result stored = place_bytes(index, fragment);
  if (stored != Result::kHeld) {
    if (stored == Result::kOverlap || stored == Result::kTooMany) refuse(index);
    if (stored == Result::kFull) drop(index);
    return stored;
  }
  place.ecn_seen |= static_cast<uint8_t>(1u << (fragment.tos & 3));
  // The header of the whole is that of the first fragment (RFC 8200 section 4.5).
  if (fragment.offset == 0) {
    place.ttl = fragment.ttl;
    place.tos = fragment.tos;
    place.headers = fragment.headers;
  }
  if (place.total == 0 || place.bytes != place.total) return Result::kHeld;
  if (place.headers + place.total > kLongestDatagram) {
    drop(index);
    return Result::kMalformed;
  }
  if ((place.ecn_seen & (1u << kCongestionExperienced)) != 0) {
    if ((place.ecn_seen & (1u << kNotEct)) != 0) {
      drop(index);
      return Result::kEcn;
    }
    place.tos |= kCongestionExperienced;
  }
  state_[index] = State::kComplete;
  --under_way_;
  return Result::kComplete;
}

// kHeld: copied to its place.
Reassembler::Result Reassembler::place_bytes(uint32_t index, const frame::Fragment& fragment) {
  Place& place = places_[index];
  const auto length = static_cast<uint32_t>(fragment.data.size());
  const uint32_t end = fragment.offset + length;
  for (uint32_t i = 0; i < place.count; ++i) {
    const Extent& there = place.extents[i];
    if (end <= there.offset || fragment.offset >= uint32_t{there.offset} + there.length) continue;
    const bool same = there.offset == fragment.offset && there.length == length &&
                      fragment.more == !(place.total != 0 && end == place.total) &&
                      std::memcmp(place.buffer + there.offset, fragment.data.data(), length) == 0;
    return same ? Result::kDuplicate : Result::kOverlap;
  }
  if (!fragment.more && (place.total != 0 || end < place.end)) return Result::kOverlap;
  if (place.total != 0 && end > place.total) return Result::kOverlap;
  if (place.count == kMaxFragments) return Result::kTooMany;
  if (end > kSmallReassemblyBytes && !is_large(index) && !make_room(index, place.end))
    return Result::kFull;
  std::memcpy(place.buffer + fragment.offset, fragment.data.data(), length);
  place.extents[place.count++] = {static_cast<uint16_t>(fragment.offset),
                                  static_cast<uint16_t>(length)};
  place.bytes += length;
  place.end = std::max(place.end, end);
  if (!fragment.more) place.total = end;
  return Result::kHeld;
}

// Moves a datagram to a large buffer; false: they all hold complete datagrams.
bool Reassembler::make_room(uint32_t index, uint32_t end) {
  uint32_t count = 0;
  uint32_t victim = oldest(prefix_[index], true, index, count);
  if (count >= kMaxLargePerPrefix) {
    ++given_up_.prefix_full;
    drop(victim);
  }
  if (large_free_.empty()) {
    victim = oldest(0, true, index, count);
    if (victim == kNone) return false;
    ++given_up_.table_full;
    drop(victim);
  }
  Place& place = places_[index];
  uint8_t* const large = large_free_.back();
  large_free_.pop_back();
  std::memcpy(large, place.buffer, end);
  give_back(index);
  place.buffer = large;
  return true;
}

void Reassembler::give_back(uint32_t index) {
  Place& place = places_[index];
  if (place.buffer == nullptr) return;
  (is_large(index) ? large_free_ : small_free_).push_back(place.buffer);
  place.buffer = nullptr;
}

// RFC 5722: what still comes of this datagram is dropped too.
void Reassembler::refuse(uint32_t index) {
  give_back(index);
  state_[index] = State::kRefused;
}

void Reassembler::drop(uint32_t index) {
  give_back(index);
  state_[index] = State::kFree;
  --under_way_;
}

frame::Kind Reassembler::parse(Handle handle, frame::Verify verify, frame::Parsed& out) const {
  const Place& place = places_[handle];
  out.ttl = place.ttl;
  out.tos = place.tos;
  out.dont_fragment = false;
  out.vlan_tci = frame::kNoVlan;
  out.source.ip = place.source;
  out.destination.ip = place.destination;
  const bool is_v6 = place.source.is_v6();
  const uint8_t* const source = place.source.wire();
  const uint8_t* const destination = place.destination.wire();
  // The length is added by parse_udp(), from the UDP header.
  const uint64_t pseudo = is_v6 ? checksum::pseudo_v6(source, destination, frame::kProtocolUdp, 0)
                                : checksum::pseudo_v4(source, destination, frame::kProtocolUdp, 0);
  return frame::detail::parse_udp(place.buffer, place.total, pseudo, is_v6, verify, out);
}

void Reassembler::release(Handle handle) {
  give_back(handle);
  state_[handle] = State::kFree;
}

bool Reassembler::holds(const uint8_t* at) const {
  const auto in = [&](const std::vector<uint8_t>& memory) {
    return at >= memory.data() && at < memory.data() + memory.size();
  };
  return in(small_memory_) || in(large_memory_);
}

void Reassembler::expire(Ticks now) {
  if (now == expired_at_) return;
  expired_at_ = now;
  for (uint32_t i = 0; under_way_ != 0 && i < kMaxReassemblies; ++i) {
    if (state_[i] != State::kGathering && state_[i] != State::kRefused) continue;
    if (!ticks_reached(now, begun_[i] + kReassemblyLifetimeMs)) continue;
    if (state_[i] == State::kGathering) ++given_up_.timeout;
    drop(i);
  }
}

Reassembler::GivenUp Reassembler::given_up() {
  const GivenUp out = given_up_;
  given_up_ = {};
  return out;
}

}  // namespace culvert
