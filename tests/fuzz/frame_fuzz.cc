// Any bytes as an Ethernet frame: nothing outside it is read, what is accepted lies inside it, and
// what we write of it again reads back the same, with a derived checksum that equals a computed
// one.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "dataplane/base/assert.h"
#include "dataplane/wire/frame.h"

namespace {

using culvert::frame::BodySum;
using culvert::frame::Disposition;
using culvert::frame::Kind;
using culvert::frame::Outgoing;
using culvert::frame::Parsed;
using culvert::frame::Verify;

// Writes the payload without its first `skip` bytes as a new frame.
std::vector<uint8_t> write_again(const Parsed& p, size_t skip, BodySum sum) {
  const size_t length = p.length - skip;
  std::vector<uint8_t> buffer(culvert::frame::kMaxHeaders + length);
  uint8_t* body = buffer.data() + culvert::frame::kMaxHeaders;
  std::copy_n(p.payload + skip, length, body);
  Outgoing o;
  o.source = p.source;
  o.destination = p.destination;
  o.ttl = p.ttl;
  o.tos = p.tos;
  o.dont_fragment = p.dont_fragment;
  o.body = sum;
  const culvert::frame::Link link{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}, p.vlan_tci};
  const size_t headers = culvert::frame::write_headers(body, length, link, o);
  ENSURE(headers != 0);
  return {body - headers, body + length};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // An exact allocation, so that the sanitizer sees a read of one byte too many.
  const std::vector<uint8_t> frame(data, data + size);
  Parsed lax;
  Parsed strict;
  const Kind kind = culvert::frame::parse(frame, Verify::kHeaders, lax);
  const Kind verified = culvert::frame::parse(frame, Verify::kAll, strict);
  ENSURE(verified == kind || (kind == Kind::k_udp && verified == Kind::k_bad_udp_checksum));
  if (culvert::frame::info(verified).disposition != Disposition::path) return 0;
  ENSURE(strict.payload >= frame.data());
  ENSURE(strict.payload + strict.length <= frame.data() + frame.size());
  ENSURE(strict.source.ip.family == strict.destination.ip.family);
  if (verified != Kind::k_udp || !strict.sum_known) return 0;

  const size_t skip = std::min<size_t>(strict.length, size % 7);
  const uint8_t* rest = strict.payload + skip;
  const size_t length = strict.length - skip;
  const auto derived = write_again(strict, skip, culvert::frame::piece_sum(strict, rest, length));
  ENSURE(derived == write_again(strict, skip, culvert::frame::full_sum(rest, length)));
  Parsed again;
  ENSURE(culvert::frame::parse(derived, Verify::kAll, again) == Kind::k_udp);
  ENSURE(again.source == strict.source && again.destination == strict.destination);
  ENSURE(again.ttl == strict.ttl && again.tos == strict.tos && again.vlan_tci == strict.vlan_tci);
  ENSURE(again.length == length && std::equal(rest, rest + length, again.payload));
  return 0;
}
