// Random datagrams of both families, cut at random, written as frames by the sending side, and put
// in front of the reassembler in random order, with copies, losses, forged overlaps and several
// datagrams mixed: each comes out byte for byte, or not at all.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "dataplane/wire/reassembly.h"

namespace culvert {
namespace {

using Bytes = std::vector<uint8_t>;
using Result = Reassembler::Result;

struct Datagram {
  frame::Outgoing header;
  Bytes body;
  bool lost = false;    // a fragment of it
  bool forged = false;  // a fragment of it came with other bytes too
};
struct Piece {
  size_t datagram = 0;
  Bytes frame;
};

class Mix {
 public:
  explicit Mix(uint32_t seed) : random_(seed) {
    for (size_t i = 0; i < 6; ++i)
      make(i);
    std::shuffle(pieces.begin(), pieces.end(), random_);
  }

  std::vector<Datagram> datagrams;
  std::vector<Piece> pieces;

 private:
  [[nodiscard]] size_t below(size_t limit) { return random_() % limit; }
  [[nodiscard]] bool one_in(size_t n) { return below(n) == 0; }

  void make(size_t index) {
    Datagram d;
    const bool v6 = one_in(2);
    const char* const from = v6 ? "2001:db8::10" : "203.0.113.10";
    const char* const to = v6 ? "2001:db8::1" : "192.0.2.1";
    d.header.source = {IpAddress::parse(from).value(), static_cast<uint16_t>(4000 + index)};
    d.header.destination = {IpAddress::parse(to).value(), 3478};
    d.header.tos = 0xb8;
    d.header.ttl = static_cast<uint8_t>(1 + below(255));
    d.body.resize(one_in(4) ? 20000 + below(frame::kMaxBodyIpv4 - 20000) : 600 + below(3000));
    for (uint8_t& byte : d.body)
      byte = static_cast<uint8_t>(random_());
    d.header.body =
        one_in(3) && !v6 ? frame::BodySum{} : frame::full_sum(d.body.data(), d.body.size());
    Bytes whole(frame::kUdpHeader);
    frame::write_udp_header(whole.data(), d.body.size(), d.header);
    whole.insert(whole.end(), d.body.begin(), d.body.end());
    datagrams.push_back(std::move(d));
    cut(index, whole);
  }

  void cut(size_t index, const Bytes& whole) {
    Datagram& d = datagrams[index];
    const size_t least = std::max<size_t>(kMinFragmentBytes, whole.size() / (kMaxFragments - 2));
    for (size_t at = 0; at < whole.size();) {
      size_t length = (least + below(1200) + 7) / 8 * 8;
      if (at == 0) length = std::min(length, (whole.size() - 1) / 8 * 8);  // at least two
      length = std::min(length, whole.size() - at);
      const Bytes bytes(whole.begin() + static_cast<ptrdiff_t>(at),
                        whole.begin() + static_cast<ptrdiff_t>(at + length));
      const bool more = at + length < whole.size();
      const bool lost = one_in(60);
      d.lost |= lost;
      if (!lost) add(index, bytes, at, more);
      if (!lost && one_in(8)) add(index, bytes, at, more);
      if (one_in(150)) {
        Bytes other = bytes;
        other[below(other.size())] ^= 0x40;
        d.forged = true;
        add(index, other, at, more);
      }
      at += length;
    }
  }

  void add(size_t index, const Bytes& bytes, size_t offset, bool more) {
    Bytes frame(frame::kMaxPieceHeaders + bytes.size());
    uint8_t* const data = frame.data() + frame::kMaxPieceHeaders;
    std::copy(bytes.begin(), bytes.end(), data);
    const frame::Link link{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}};
    const auto identification = static_cast<uint32_t>(100 + index);
    const size_t headers = frame::write_piece_headers(
        data, bytes.size(), {offset, more, identification}, link, datagrams[index].header);
    frame.erase(frame.begin(), frame.end() - static_cast<ptrdiff_t>(headers + bytes.size()));
    pieces.push_back({index, std::move(frame)});
  }

  std::mt19937 random_;
};

TEST(ReassemblyProperty, a_datagram_comes_out_as_it_was_or_not_at_all) {
  const uint32_t first_seed = std::random_device{}();
  std::map<std::string, size_t> seen;
  for (uint32_t run = 0; run < 400; ++run) {
    const uint32_t seed = first_seed + run;
    SCOPED_TRACE("seed " + std::to_string(seed));
    Mix mix(seed);
    Reassembler table(SipKey{seed, 9});
    std::vector<int> times(mix.datagrams.size());
    for (const Piece& piece : mix.pieces) {
      frame::Parsed parsed;
      ASSERT_EQ(frame::parse(piece.frame, frame::Verify::kAll, parsed), frame::Kind::k_fragment);
      frame::Fragment fragment;
      ASSERT_TRUE(frame::parse_fragment(piece.frame, fragment));
      Reassembler::Handle handle = 0;
      const Result result = table.take(fragment, 1000, handle);
      if (result == Result::kDuplicate) ++seen["duplicate"];
      if (result == Result::kOverlap) ++seen["overlap"];
      if (result != Result::kComplete) continue;
      const Datagram& d = mix.datagrams[piece.datagram];
      const frame::Kind kind = table.parse(handle, frame::Verify::kAll, parsed);
      // A forged fragment may come first and complete it; the checksum tells, where there is one.
      if (d.forged) {
        ++seen["forged"];
      } else {
        ASSERT_EQ(kind, frame::Kind::k_udp);
        EXPECT_EQ(parsed.source, d.header.source);
        EXPECT_EQ(parsed.destination, d.header.destination);
        EXPECT_EQ(parsed.ttl, d.header.ttl);
        EXPECT_EQ(parsed.tos, d.header.tos);
        EXPECT_EQ(Bytes(parsed.payload, parsed.payload + parsed.length), d.body);
        EXPECT_EQ(parsed.sum_known, d.header.body.known);
        ++times[piece.datagram];
      }
      table.release(handle);
    }
    for (size_t i = 0; i < mix.datagrams.size(); ++i) {
      if (mix.datagrams[i].forged) continue;
      // Twice where every one of its fragments came twice: a network may do that to any datagram.
      if (mix.datagrams[i].lost) {
        EXPECT_EQ(times[i], 0) << "datagram " << i;
      } else {
        EXPECT_TRUE(times[i] == 1 || times[i] == 2) << "datagram " << i << ": " << times[i];
      }
      ++seen[mix.datagrams[i].lost ? "lost" : "whole"];
    }
    EXPECT_EQ(table.given_up().table_full, 0u);
    table.expire(1000 + kReassemblyLifetimeMs);
    EXPECT_TRUE(table.idle());
  }
  for (const char* what : {"duplicate", "overlap", "forged", "lost", "whole"})
    EXPECT_GT(seen[what], 2u) << what;
}

}  // namespace
}  // namespace culvert
