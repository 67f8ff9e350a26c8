// Any text as each of the small values of the configuration and the command line: addresses,
// networks, durations, rates, port ranges, base64, credentials. What is understood reads back the
// same from what we would write, and what is not is refused as a whole.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "config/units.h"
#include "crypto/bytes.h"
#include "crypto/credentials.h"
#include "dataplane/api/nonce.h"
#include "dataplane/base/address.h"
#include "dataplane/base/assert.h"

namespace {

using namespace culvert;

void addresses(std::string_view text) {
  if (const auto ip = IpAddress::parse(text)) ENSURE(IpAddress::parse(ip->to_string()) == ip);
  if (const auto at = TransportAddress::parse(text))
    ENSURE(TransportAddress::parse(at->to_string()) == at);
  const CidrParse network = parse_cidr(text);
  ENSURE(network.cidr.has_value() == network.problem.empty());
  if (network.cidr) {
    const CidrParse again = parse_cidr(format_cidr(*network.cidr));
    ENSURE(again.cidr && format_cidr(*again.cidr) == format_cidr(*network.cidr));
  } else {
    ENSURE(!network.fix.empty());
  }
  if (const auto relay = parse_relay_address(text)) {
    const auto again = parse_relay_address(format_relay_address(*relay));
    ENSURE(again && again->bound == relay->bound && again->advertised == relay->advertised);
  }
}

void numbers(std::string_view text) {
  if (const auto seconds = parse_duration(text))
    ENSURE(parse_duration(format_duration(*seconds)) == seconds);
  if (const auto rate = parse_rate(text)) ENSURE(parse_rate(format_rate(*rate)) == rate);
  if (const auto range = parse_port_range(text))
    ENSURE(range->first != 0 && range->first <= range->second);
  if (const auto number = parse_whole_number(text))
    ENSURE(parse_whole_number(std::to_string(*number)) == number && !format_bytes(*number).empty());
}

void credentials(std::string_view text) {
  if (const auto bytes = crypto::base64_decode(text)) ENSURE(crypto::base64_encode(*bytes) == text);
  ENSURE(crypto::base64_decode(crypto::base64_encode(crypto::as_bytes(text)))->size() ==
         text.size());
  if (const auto name = crypto::parse_rest_username(text)) {
    ENSURE(name->id.size() < text.size() && text.ends_with(name->id));
    ENSURE(name->expiry_unix_seconds <= uint64_t{1} << 63);
  }
  // OpaqueString is stable: what it gives it takes and leaves as it is (RFC 8264 section 7).
  if (const auto opaque = crypto::opaque_string(text)) {
    ENSURE(!opaque->empty() && is_utf8(*opaque) && is_utf8(text));
    ENSURE(crypto::opaque_string(*opaque) == opaque);
  }
}

// A nonce that we did not make is never ours, and one that we did is, for that client alone.
void nonces(std::string_view text) {
  const NonceKeys keys{{{1, 2}, {3, 4}}, 1, 100'000};
  TransportAddress client{IpAddress::v4(0xc0000201), 4000};
  const Nonce ours = make_nonce(keys, 0, kFeaturePasswordAlgorithms, client);
  const std::string_view own(ours.data(), ours.size());
  const auto check = [&](std::string_view nonce) {
    return check_nonce(keys, 0, client, crypto::as_bytes(nonce), 600).state;
  };
  ENSURE(check(own) == NonceState::kValid);
  ENSURE(check(text) == NonceState::kForeign || text == own);
  std::string changed(own);
  for (size_t i = 0; i < text.size() && i < changed.size(); ++i)
    changed[i] = static_cast<char>(changed[i] ^ text[i]);
  ENSURE((check(changed) == NonceState::kForeign) == (changed != own));
  client.port = static_cast<uint16_t>(client.port + text.size() % 1000 + 1);
  ENSURE(check(own) == NonceState::kForeign);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  addresses(text);
  numbers(text);
  credentials(text);
  nonces(text);
  ENSURE(!has_control_characters(toml_quote(text)));
  return 0;
}
