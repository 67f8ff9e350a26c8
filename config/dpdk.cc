// See dpdk.h.
#include "config/dpdk.h"

#include <algorithm>
#include <array>

#include "config/units.h"

namespace culvert {

namespace {

constexpr uint64_t kMaxPort = 255;

// "TEXT@PORT" into both; PORT is 0 when it is not given.
[[nodiscard]] std::optional<uint8_t> take_port(std::string_view& text) {
  const size_t at = text.rfind('@');
  if (at == std::string_view::npos) return uint8_t{0};
  const auto port = parse_whole_number(text.substr(at + 1));
  if (!port || *port > kMaxPort) return std::nullopt;
  text = text.substr(0, at);
  return static_cast<uint8_t>(*port);
}

[[nodiscard]] std::string port_suffix(uint8_t port) {
  return port == 0 ? "" : "@" + std::to_string(port);
}

[[nodiscard]] std::optional<uint8_t> hex_byte(std::string_view text) {
  if (text.size() != 2) return std::nullopt;
  unsigned value = 0;
  for (const char c : text) {
    const bool digit = c >= '0' && c <= '9';
    const char lower = static_cast<char>(c | 0x20);
    if (!digit && (lower < 'a' || lower > 'f')) return std::nullopt;
    value = value * 16 + static_cast<unsigned>(digit ? c - '0' : lower - 'a' + 10);
  }
  return static_cast<uint8_t>(value);
}

}  // namespace

std::optional<PortAddressConfig> parse_port_address(std::string_view text) {
  const auto port = take_port(text);
  const size_t slash = text.find('/');
  if (!port || slash == std::string_view::npos) return std::nullopt;
  const auto ip = IpAddress::parse(text.substr(0, slash));
  const auto bits = parse_whole_number(text.substr(slash + 1));
  if (!ip || !bits || *bits > (ip->is_v4() ? 32u : 128u) || *bits == 0) return std::nullopt;
  return PortAddressConfig{*ip, static_cast<uint8_t>(*bits), *port};
}

std::string format_port_address(const PortAddressConfig& address) {
  return address.ip.to_string() + "/" + std::to_string(address.prefix_bits) +
         port_suffix(address.port);
}

std::optional<NeighbourConfig> parse_neighbour(std::string_view text) {
  const auto port = take_port(text);
  const size_t equals = text.find('=');
  if (!port || equals == std::string_view::npos) return std::nullopt;
  const auto ip = IpAddress::parse(text.substr(0, equals));
  const std::string_view mac = text.substr(equals + 1);
  if (!ip || mac.size() != 17) return std::nullopt;
  NeighbourConfig out{*ip, {}, *port};
  for (size_t i = 0; i < out.mac.size(); ++i) {
    const auto byte = hex_byte(mac.substr(3 * i, 2));
    if (!byte || (i != 5 && mac[3 * i + 2] != ':')) return std::nullopt;
    out.mac[i] = *byte;
  }
  return out;
}

std::string format_mac(const std::array<uint8_t, 6>& mac) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string out;
  for (const uint8_t byte : mac) {
    if (!out.empty()) out += ':';
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

std::string format_neighbour(const NeighbourConfig& neighbour) {
  return neighbour.ip.to_string() + "=" + format_mac(neighbour.mac) + port_suffix(neighbour.port);
}

std::optional<std::vector<std::string>> split_words(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  bool in_word = false;
  char quote = 0;
  for (const char c : text) {
    if (quote != 0) {
      if (c == quote)
        quote = 0;
      else
        word += c;
    } else if (c == '"' || c == '\'') {
      quote = c;
      in_word = true;
    } else if (c == ' ') {
      if (in_word) words.push_back(std::move(word));
      word.clear();
      in_word = false;
    } else {
      word += c;
      in_word = true;
    }
  }
  if (quote != 0) return std::nullopt;
  if (in_word) words.push_back(std::move(word));
  return words;
}

std::string refuse_eal_word(std::string_view word) {
  constexpr std::array<std::string_view, 2> kShort = {"-l", "-c"};
  constexpr std::array<std::string_view, 2> kLong = {"--lcores", "--main-lcore"};
  const auto is_cores = [&](std::string_view option) {
    return word.starts_with(option) &&
           (option.starts_with("--") ? word.size() == option.size() || word[option.size()] == '='
                                     : true);
  };
  if (std::any_of(kShort.begin(), kShort.end(), is_cores) ||
      std::any_of(kLong.begin(), kLong.end(), is_cores))
    return "culvertd writes EAL's lcores itself, from `cores`";
  if (word.starts_with("--proc-type"))
    return "every relay is a process of its own; secondary processes are not supported";
  return "";
}

std::vector<std::string> eal_arguments(const DpdkConfig& config, std::span<const uint32_t> cpus) {
  std::string all;
  for (const uint32_t cpu : cpus)
    all += (all.empty() ? "" : ",") + std::to_string(cpu);
  std::vector<std::string> out = {"--lcores", "0@(" + all + ")"};
  const auto given = split_words(config.eal).value_or(std::vector<std::string>{});
  const auto is_iova = [](const std::string& word) { return word.starts_with("--iova-mode"); };
  // Physical addresses are read from /proc/self/pagemap, which a process that has given up its
  // privileges may not: memory taken after that would fail.
  if (std::none_of(given.begin(), given.end(), is_iova)) out.emplace_back("--iova-mode=va");
  out.insert(out.end(), given.begin(), given.end());
  return out;
}

uint32_t cpu_of_core(uint32_t core, std::span<const uint32_t> cpus) {
  return cpus[cpus.size() - 1 - core % cpus.size()];
}

}  // namespace culvert
