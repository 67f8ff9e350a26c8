// See units.h.
#include "config/units.h"

#include <array>
#include <charconv>
#include <cstdio>
#include <limits>

namespace culvert {

namespace {

struct Unit {
  std::string_view name;
  uint64_t multiply;
  uint64_t divide;
};

constexpr std::array kDurationUnits = {
    Unit{"", 1, 1}, Unit{"s", 1, 1}, Unit{"m", 60, 1}, Unit{"h", 3600, 1}, Unit{"d", 86400, 1},
};
constexpr uint64_t kKilo = 1000;
constexpr uint64_t kKibi = 1024;
constexpr std::array kRateUnits = {
    Unit{"", 1, 1},
    Unit{"B", 1, 1},
    Unit{"kB", kKilo, 1},
    Unit{"MB", kKilo* kKilo, 1},
    Unit{"GB", kKilo* kKilo* kKilo, 1},
    Unit{"KiB", kKibi, 1},
    Unit{"MiB", kKibi* kKibi, 1},
    Unit{"GiB", kKibi* kKibi* kKibi, 1},
    Unit{"bit", 1, 8},
    Unit{"kbit", kKilo, 8},
    Unit{"Mbit", kKilo* kKilo, 8},
    Unit{"Gbit", kKilo* kKilo* kKilo, 8},
};

template <size_t kCount>
[[nodiscard]] std::optional<uint64_t> parse_with_unit(std::string_view text,
                                                      const std::array<Unit, kCount>& units) {
  uint64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc{}) return std::nullopt;
  std::string_view name(rest, static_cast<size_t>(end - rest));
  if (name.starts_with(' ')) name.remove_prefix(1);
  for (const Unit& unit : units) {
    if (unit.name != name) continue;
    if (number > std::numeric_limits<uint64_t>::max() / unit.multiply) return std::nullopt;
    return number * unit.multiply / unit.divide;
  }
  return std::nullopt;
}

// Bits past the prefix, in the 16-byte form.
[[nodiscard]] IpAddress masked(IpAddress ip, unsigned prefix_bits) {
  const unsigned keep = prefix_bits + (ip.is_v4() ? 96 : 0);
  for (unsigned bit = keep; bit < 128; ++bit)
    ip.bytes[bit / 8] = static_cast<uint8_t>(ip.bytes[bit / 8] & ~(0x80u >> (bit % 8)));
  return ip;
}

[[nodiscard]] std::optional<IpAddress> parse_ip_with_or_without_brackets(std::string_view text) {
  if (text.size() > 2 && text.front() == '[' && text.back() == ']')
    text = text.substr(1, text.size() - 2);
  return IpAddress::parse(text);
}

// Length of the well-formed UTF-8 sequence at the start (RFC 3629), or 0.
[[nodiscard]] size_t utf8_sequence(std::string_view text) {
  const auto at = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = at(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((at(i) & 0xc0) != 0x80) return 0;
  // Overlong forms, surrogates, and what lies past U+10FFFF show in the second byte.
  if ((first == 0xe0 && at(1) < 0xa0) || (first == 0xed && at(1) > 0x9f)) return 0;
  if ((first == 0xf0 && at(1) < 0x90) || (first == 0xf4 && at(1) > 0x8f)) return 0;
  return length;
}

}  // namespace

std::optional<uint64_t> parse_whole_number(std::string_view text) {
  uint64_t number = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || rest != text.data() + text.size()) return std::nullopt;
  return number;
}

std::optional<uint64_t> parse_duration(std::string_view text) {
  return parse_with_unit(text, kDurationUnits);
}

std::optional<uint64_t> parse_rate(std::string_view text) {
  if (text.ends_with("/s")) text.remove_suffix(2);
  return parse_with_unit(text, kRateUnits);
}

CidrParse parse_cidr(std::string_view text) {
  const size_t slash = text.find('/');
  const auto ip = parse_ip_with_or_without_brackets(text.substr(0, slash));
  const std::string quoted = "\"" + std::string(text) + "\"";
  if (!ip) {
    return {std::nullopt, quoted + " is not a network",
            "write it as \"10.0.0.0/8\" or \"fd00::/8\", or give one address"};
  }
  const unsigned bits = ip->is_v4() ? 32 : 128;
  unsigned prefix = bits;
  if (slash != std::string_view::npos) {
    const auto number = parse_whole_number(text.substr(slash + 1));
    if (!number || *number > bits) {
      return {std::nullopt,
              quoted + " has no prefix length of an IPv" +
                  (ip->is_v4() ? std::string("4") : std::string("6")) + " network",
              "a number from 0 to " + std::to_string(bits) + " stands after the slash"};
    }
    prefix = static_cast<unsigned>(*number);
  }
  const Cidr cidr{masked(*ip, prefix), static_cast<uint8_t>(prefix)};
  if (cidr.address != *ip) {
    return {std::nullopt, quoted + " has bits set past its prefix length",
            "write \"" + format_cidr(cidr) + "\" for the network, or give the address alone"};
  }
  return {cidr, {}, {}};
}

std::string format_cidr(const Cidr& cidr) {
  return cidr.address.to_string() + "/" + std::to_string(cidr.prefix_bits);
}

std::optional<std::pair<uint16_t, uint16_t>> parse_port_range(std::string_view text) {
  const size_t dash = text.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  const auto low = parse_whole_number(text.substr(0, dash));
  const auto high = parse_whole_number(text.substr(dash + 1));
  if (!low || !high || *low == 0 || *low > *high || *high > 65535) return std::nullopt;
  return std::pair(static_cast<uint16_t>(*low), static_cast<uint16_t>(*high));
}

std::optional<RelayAddressConfig> parse_relay_address(std::string_view text) {
  const size_t equals = text.find('=');
  const auto bound = parse_ip_with_or_without_brackets(text.substr(0, equals));
  if (!bound) return std::nullopt;
  if (equals == std::string_view::npos) return RelayAddressConfig{*bound, *bound};
  const auto advertised = parse_ip_with_or_without_brackets(text.substr(equals + 1));
  if (!advertised) return std::nullopt;
  return RelayAddressConfig{*bound, *advertised};
}

std::string format_relay_address(const RelayAddressConfig& relay) {
  if (relay.bound == relay.advertised) return relay.bound.to_string();
  return relay.bound.to_string() + "=" + relay.advertised.to_string();
}

std::string format_duration(uint64_t seconds) {
  if (seconds != 0 && seconds % 3600 == 0) return std::to_string(seconds / 3600) + "h";
  if (seconds != 0 && seconds % 60 == 0) return std::to_string(seconds / 60) + "m";
  return std::to_string(seconds) + "s";
}

std::string format_rate(uint64_t rate) {
  if (rate == 0) return "0B/s";
  if (rate % (kKilo * kKilo * kKilo) == 0)
    return std::to_string(rate / (kKilo * kKilo * kKilo)) + "GB/s";
  if (rate % (kKilo * kKilo) == 0) return std::to_string(rate / (kKilo * kKilo)) + "MB/s";
  if (rate % kKilo == 0) return std::to_string(rate / kKilo) + "kB/s";
  return std::to_string(rate) + "B/s";
}

std::string format_bytes(uint64_t bytes) {
  constexpr std::array kNames = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kNames.size()) {
    value /= 1024;
    ++unit;
  }
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.1f %s", value, kNames[unit]);
  return text.data();
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = utf8_sequence(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

bool has_control_characters(std::string_view text) {
  for (const char c : text)
    if (static_cast<uint8_t>(c) < 0x20 || c == 0x7f) return true;
  return false;
}

std::string toml_quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      std::array<char, 8> escape{};
      std::snprintf(escape.data(), escape.size(), "\\u%04X", static_cast<unsigned>(byte));
      out += escape.data();
    } else {
      out += c;
    }
  }
  return out + "\"";
}

}  // namespace culvert
