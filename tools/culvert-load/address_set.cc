#include "tools/culvert-load/address_set.h"

#include <charconv>

namespace culvert::load {
namespace {

struct Number {
  uint64_t high = 0;
  uint64_t low = 0;
};

Number number_of(const IpAddress& ip) {
  return {load_be64(&ip.bytes[0]), load_be64(&ip.bytes[8])};
}

IpAddress plus(IpAddress ip, uint64_t add) {
  Number n = number_of(ip);
  n.low += add;
  if (n.low < add) ++n.high;
  store_be64(&ip.bytes[0], n.high);
  store_be64(&ip.bytes[8], n.low);
  return ip;
}

// to - from; nullopt: below 0, or beyond what a range may hold.
std::optional<uint64_t> distance(const IpAddress& from, const IpAddress& to) {
  if (from.family != to.family) return std::nullopt;
  const Number a = number_of(from);
  const Number b = number_of(to);
  const uint64_t low = b.low - a.low;
  const uint64_t high = b.high - a.high - (b.low < a.low ? 1 : 0);
  if (high != 0 || low >= kMaxRangeAddresses) return std::nullopt;
  return low;
}

std::optional<AddressRange> parse_network(const IpAddress& ip, std::string_view length) {
  unsigned bits = 0;
  const auto [end, error] = std::from_chars(length.data(), length.data() + length.size(), bits);
  const unsigned all = ip.is_v4() ? 32 : 128;
  if (error != std::errc() || end != length.data() + length.size() || bits > all)
    return std::nullopt;
  const unsigned host_bits = all - bits;
  if (host_bits > 63 || uint64_t{1} << host_bits > kMaxRangeAddresses) return std::nullopt;
  const uint64_t count = uint64_t{1} << host_bits;
  IpAddress network = ip;
  store_be64(&network.bytes[8], load_be64(&network.bytes[8]) & ~(count - 1));
  if (ip.is_v4() && host_bits >= 2) return AddressRange{plus(network, 1), count - 2};
  if (ip.is_v6() && host_bits >= 1) return AddressRange{plus(network, 1), count - 1};
  return AddressRange{network, count};
}

}  // namespace

std::optional<AddressRange> AddressRange::parse(std::string_view text) {
  const size_t cut = text.find_first_of("/-");
  const auto first = IpAddress::parse(text.substr(0, cut));
  if (!first) return std::nullopt;
  if (cut == std::string_view::npos) return AddressRange{*first, 1};
  const std::string_view rest = text.substr(cut + 1);
  if (text[cut] == '/') return parse_network(*first, rest);
  const auto last = IpAddress::parse(rest);
  const auto more = last ? distance(*first, *last) : std::nullopt;
  if (!more) return std::nullopt;
  return AddressRange{*first, *more + 1};
}

IpAddress AddressRange::at(uint64_t index) const {
  return plus(first, index);
}

bool AddressRange::contains(const IpAddress& ip) const {
  const auto offset = distance(first, ip);
  return offset && *offset < count;
}

IpAddress AddressSet::at(uint64_t index) const {
  index %= size_;
  for (const AddressRange& range : ranges_) {
    if (index < range.count) return range.at(index);
    index -= range.count;
  }
  return ranges_[0].first;
}

bool AddressSet::overlaps(const AddressSet& other) const {
  for (const AddressRange& a : ranges_)
    for (const AddressRange& b : other.ranges_)
      if (a.contains(b.first) || b.contains(a.first)) return true;
  return false;
}

bool AddressSet::contains(const IpAddress& ip) const {
  for (const AddressRange& range : ranges_)
    if (range.contains(ip)) return true;
  return false;
}

}  // namespace culvert::load
