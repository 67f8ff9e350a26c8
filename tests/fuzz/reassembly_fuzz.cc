// Fragments as the input says, a few datagrams of two hosts, over time: nothing outside the given
// bytes is read, what is complete is exactly what was accepted, piece by piece without a gap, and
// the table keeps its bounds. Every other input is one frame's bytes instead, whatever they are.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "dataplane/base/assert.h"
#include "dataplane/wire/reassembly.h"
#include "tests/fuzz/reader.h"

namespace {

using culvert::IpAddress;
using culvert::Reassembler;
using culvert::frame::Fragment;
using Result = Reassembler::Result;
using Bytes = std::vector<uint8_t>;

constexpr uint8_t kIdentifications = 8;

// What was accepted of one datagram: bytes by where they begin.
using Accepted = std::map<uint32_t, Bytes>;

// One for all inputs, emptied by time: its memory is 3 MiB.
struct Shared {
  Reassembler table{{1, 2}};
  culvert::Ticks now = 0;
};
Shared& emptied() {
  static Shared shared;
  shared.now += culvert::kReassemblyLifetimeMs;
  shared.table.expire(shared.now);
  ENSURE(shared.table.idle());
  (void)shared.table.given_up();
  return shared;
}

void parse_frame(const uint8_t* data, size_t size) {
  const Bytes frame(data, data + size);  // exact, for the sanitizer
  Fragment fragment;
  if (!culvert::frame::parse_fragment(frame, fragment)) return;
  ENSURE(fragment.data.data() >= frame.data());
  ENSURE(fragment.data.data() + fragment.data.size() <= frame.data() + frame.size());
  Reassembler::Handle handle = 0;
  Shared& shared = emptied();
  ENSURE(shared.table.take(fragment, shared.now, handle) != Result::kComplete);
}

void check(const Reassembler& table, Reassembler::Handle handle, const Accepted& accepted) {
  Bytes whole;
  for (const auto& [offset, bytes] : accepted) {
    ENSURE(offset == whole.size());
    whole.insert(whole.end(), bytes.begin(), bytes.end());
  }
  culvert::frame::Parsed parsed;
  const auto kind = table.parse(handle, culvert::frame::Verify::kHeaders, parsed);
  if (kind != culvert::frame::Kind::k_udp) return;
  ENSURE(parsed.length + culvert::frame::kUdpHeader <= whole.size());
  ENSURE(std::equal(parsed.payload, parsed.payload + parsed.length,
                    whole.begin() + culvert::frame::kUdpHeader));
}

class Session {
 public:
  void step(culvert::fuzz::Reader& input) {
    if (input.below(16) == 0) {
      now_ += 1 + input.below(200) * 16;
      table_.expire(now_);
      forget_old();
      return;
    }
    const uint8_t which = static_cast<uint8_t>(input.below(2 * kIdentifications));
    const Bytes bytes = piece(input);
    Fragment f;
    const bool v6 = which < kIdentifications;
    f.source = v6 ? IpAddress::parse("2001:db8::1").value() : IpAddress::v4(0x0a000001);
    f.destination = v6 ? IpAddress::parse("2001:db8::2").value() : IpAddress::v4(0x0a000002);
    f.identification = which % kIdentifications;
    f.offset = input.u8() * 64u;
    if (input.below(8) == 0) f.offset = (input.u16() & 0x1fffu) * 8u;
    f.more = input.below(4) != 0;
    f.protocol = input.below(32) == 0 ? 1 : culvert::frame::kProtocolUdp;
    f.tos = static_cast<uint8_t>(input.below(4));
    f.headers = v6 ? 0 : 20;
    f.data = bytes;
    give(which, f, bytes);
    ENSURE(table_.under_way() <= 2 * kIdentifications);
  }

 private:
  [[nodiscard]] static Bytes piece(culvert::fuzz::Reader& input) {
    Bytes bytes(input.u8() * size_t{8} + (input.below(8) == 0 ? input.below(8) : 0));
    // A datagram's length field decides what is read of it.
    const uint8_t fill = input.u8();
    for (size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = static_cast<uint8_t>(fill + i / 256);
    return bytes;
  }

  void give(uint8_t which, const Fragment& f, const Bytes& bytes) {
    Accepted& accepted = accepted_[which];
    if (accepted.empty()) begun_[which] = now_;
    Reassembler::Handle handle = 0;
    const Result result = table_.take(f, now_, handle);
    if (result == Result::kHeld || result == Result::kComplete || result == Result::kEcn)
      ENSURE(accepted.emplace(f.offset, bytes).second);
    if (result == Result::kComplete) {
      check(table_, handle, accepted);
      table_.release(handle);
    }
    if (result != Result::kHeld && result != Result::kDuplicate && result != Result::kMalformed &&
        result != Result::kTiny && result != Result::kNotUdp)
      accepted.clear();
    // Large buffers are 8 to a prefix, as many as there are datagrams of one here.
    ENSURE(result != Result::kFull);
    const auto given_up = table_.given_up();
    ENSURE(given_up.table_full == 0 && given_up.prefix_full == 0);
  }

  void forget_old() {
    for (size_t i = 0; i < accepted_.size(); ++i)
      if (now_ - begun_[i] >= culvert::kReassemblyLifetimeMs) accepted_[i].clear();
  }

  Shared& shared_ = emptied();
  Reassembler& table_ = shared_.table;
  culvert::Ticks& now_ = shared_.now;
  std::array<Accepted, 2 * kIdentifications> accepted_;
  std::array<culvert::Ticks, 2 * kIdentifications> begun_{};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  if ((data[0] & 1) != 0) {
    parse_frame(data + 1, size - 1);
    return 0;
  }
  culvert::fuzz::Reader input(data + 1, size - 1);
  Session session;
  while (!input.empty())
    session.step(input);
  return 0;
}
