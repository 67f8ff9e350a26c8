// See schema.h. A key's line in the table holds everything about it; what reads and writes its
// value is a template over an accessor, so adding a key is adding a line.
#include "config/schema.h"

#include <algorithm>
#include <array>
#include <optional>
#include <type_traits>
#include <utility>

#include "config/dpdk.h"
#include "config/units.h"

namespace culvert {

namespace {

using Errors = std::vector<Diagnostic>;

#ifdef CULVERT_HAVE_DPDK
constexpr std::array<std::string_view, 2> kBuiltDrivers = {"sockets", "dpdk"};
#else
constexpr std::array<std::string_view, 1> kBuiltDrivers = {"sockets"};
#endif
constexpr std::array<std::string_view, 2> kKnownDrivers = {"sockets", "dpdk"};

// A machine does not run more, and the arithmetic of a sum of rates stays far from 2^63.
constexpr uint64_t kMaxRate = 125'000'000'000;  // 1 Tbit/s
constexpr uint64_t kMinRate = 1'000;            // one datagram a second

void complain(Errors& errors, const KeyInfo& key, const Origin& origin, std::string problem,
              std::string fix) {
  errors.push_back(make_diagnostic(origin, key.path(), std::move(problem), std::move(fix)));
}

[[nodiscard]] std::string quoted(std::string_view text) {
  constexpr size_t kMaxQuoted = 80;
  if (text.size() <= kMaxQuoted) return toml_quote(text);
  size_t cut = kMaxQuoted;
  // Not inside a character.
  while (cut > 0 && (static_cast<uint8_t>(text[cut]) & 0xc0) == 0x80)
    --cut;
  return toml_quote(std::string(text.substr(0, cut)) + "...");
}

// ------------------------------------------------------------ strings with rules of their own

[[nodiscard]] bool expect_string(const KeyInfo& key, const Value& value, Errors& errors) {
  if (value.kind == Value::Kind::kString) return true;
  complain(errors, key, value.origin, "must be a string, is " + std::string(value.kind_name()),
           "put it in double quotes");
  return false;
}

// Text that goes on the wire or into a log. `what` names it; `secret` ones are never quoted.
[[nodiscard]] bool check_text(const KeyInfo& key, const Origin& origin, std::string_view what,
                              std::string_view text, size_t max_bytes, Errors& errors) {
  const std::string subject(what);
  if (text.empty()) {
    complain(errors, key, origin, subject + " is empty", "give at least one character");
    return false;
  }
  if (text.size() > max_bytes) {
    complain(errors, key, origin, subject + " is " + std::to_string(text.size()) + " bytes long",
             "the longest is " + std::to_string(max_bytes) + " bytes");
    return false;
  }
  if (!is_utf8(text) || has_control_characters(text)) {
    complain(errors, key, origin, subject + " holds bytes that are no text",
             "use UTF-8 without control characters");
    return false;
  }
  return true;
}

// ------------------------------------------------------------ numbers, durations, rates

enum class NumberKind : uint8_t { kPlain, kDuration, kRate };

[[nodiscard]] NumberKind kind_of(const KeyInfo& key) {
  if (key.type == "duration") return NumberKind::kDuration;
  if (key.type == "rate") return NumberKind::kRate;
  return NumberKind::kPlain;
}

[[nodiscard]] std::string format_number(const KeyInfo& key, uint64_t number) {
  switch (kind_of(key)) {
    case NumberKind::kDuration:
      return format_duration(number);
    case NumberKind::kRate:
      return format_rate(number);
    case NumberKind::kPlain:
      break;
  }
  return std::to_string(number);
}

[[nodiscard]] std::string_view number_help(NumberKind kind) {
  switch (kind) {
    case NumberKind::kDuration:
      return kDurationHelp;
    case NumberKind::kRate:
      return kRateHelp;
    case NumberKind::kPlain:
      break;
  }
  return "give a whole number";
}

[[nodiscard]] std::optional<uint64_t> parse_number_text(NumberKind kind, std::string_view text) {
  switch (kind) {
    case NumberKind::kDuration:
      return parse_duration(text);
    case NumberKind::kRate:
      return parse_rate(text);
    case NumberKind::kPlain:
      break;
  }
  return parse_whole_number(text);
}

// The number in `value`, complaining if it is none or outside the key's range.
[[nodiscard]] std::optional<uint64_t> read_number(const KeyInfo& key, const Value& value,
                                                  Errors& errors) {
  const NumberKind kind = kind_of(key);
  std::optional<uint64_t> number;
  std::string shown;
  if (value.kind == Value::Kind::kInteger) {
    shown = std::to_string(value.integer);
    if (value.integer >= 0) number = static_cast<uint64_t>(value.integer);
  } else if (value.kind == Value::Kind::kString &&
             (kind != NumberKind::kPlain || value.from_flag)) {
    shown = quoted(value.text);
    number = parse_number_text(kind, value.text);
    if (!number) {
      complain(errors, key, value.origin, shown + " is not a " + std::string(key.type),
               std::string(number_help(kind)));
      return std::nullopt;
    }
  } else {
    complain(errors, key, value.origin,
             "must be a " + std::string(key.type) + ", is " + std::string(value.kind_name()),
             std::string(number_help(kind)));
    return std::nullopt;
  }
  const bool zero = number == 0 && !key.zero.empty();
  if (number && (zero || (*number >= key.low && *number <= key.high))) return number;
  complain(errors, key, value.origin, shown + " is out of range", "give " + key.range_text());
  return std::nullopt;
}

template <auto kAt>
struct Number {
  static void read(const KeyInfo& key, const Value& value, Config& config, size_t element,
                   Errors& errors) {
    auto& to = kAt(config, element);
    const auto number = read_number(key, value, errors);
    if (number) to = static_cast<std::remove_reference_t<decltype(to)>>(*number);
  }
  static std::string write(const Config& config, size_t element, bool) {
    return std::to_string(kAt(config, element));
  }
  static std::string write_duration(const Config& config, size_t element, bool) {
    return toml_quote(format_duration(kAt(config, element)));
  }
  static std::string write_rate(const Config& config, size_t element, bool) {
    const uint64_t rate = kAt(config, element);
    return rate == 0 ? "0" : toml_quote(format_rate(rate));
  }
};

template <auto kAt>
struct Boolean {
  static void read(const KeyInfo& key, const Value& value, Config& config, size_t element,
                   Errors& errors) {
    if (value.kind == Value::Kind::kBoolean) {
      kAt(config, element) = value.boolean;
    } else {
      complain(errors, key, value.origin,
               "must be true or false, is " + std::string(value.kind_name()),
               "write true or false without quotes");
    }
  }
  static std::string write(const Config& config, size_t element, bool) {
    return kAt(config, element) ? "true" : "false";
  }
};

// A string that may be any text up to kMax bytes, or empty where kMayBeEmpty.
template <auto kAt, size_t kMax, bool kMayBeEmpty>
struct Text {
  static void read(const KeyInfo& key, const Value& value, Config& config, size_t element,
                   Errors& errors) {
    if (!expect_string(key, value, errors)) return;
    if (!(kMayBeEmpty && value.text.empty()) &&
        !check_text(key, value.origin, "the value", value.text, kMax, errors))
      return;
    kAt(config, element) = value.text;
  }
  static std::string write(const Config& config, size_t element, bool) {
    return toml_quote(kAt(config, element));
  }
};

// One of several words.
template <class T, size_t kCount>
using Words = std::array<std::pair<std::string_view, T>, kCount>;

constexpr Words<LogLevel, 5> kLogLevels = {{{"trace", LogLevel::kTrace},
                                            {"debug", LogLevel::kDebug},
                                            {"info", LogLevel::kInfo},
                                            {"warning", LogLevel::kWarning},
                                            {"error", LogLevel::kError}}};
constexpr Words<LogFormat, 2> kLogFormats = {
    {{"text", LogFormat::kText}, {"json", LogFormat::kJson}}};
constexpr Words<IdlePolicy, 2> kIdlePolicies = {
    {{"adaptive", IdlePolicy::kAdaptive}, {"busy", IdlePolicy::kBusy}}};
constexpr Words<KernelMode, 4> kKernelModes = {{{"none", KernelMode::kNone},
                                                {"auto", KernelMode::kAuto},
                                                {"beside", KernelMode::kBeside},
                                                {"tap", KernelMode::kTap}}};
constexpr Words<PasswordAlgorithm, 2> kAlgorithms = {
    {{"sha256", PasswordAlgorithm::kSha256}, {"md5", PasswordAlgorithm::kMd5}}};

template <class T, size_t kCount>
[[nodiscard]] std::optional<T> find_word(const KeyInfo& key, const Value& value,
                                         const Words<T, kCount>& words, Errors& errors) {
  if (!expect_string(key, value, errors)) return std::nullopt;
  std::array<std::string_view, kCount> names{};
  std::string all;
  for (size_t i = 0; i < kCount; ++i) {
    names[i] = words[i].first;
    if (names[i] == value.text) return words[i].second;
    all += (i == 0 ? "" : ", ") + toml_quote(names[i]);
  }
  const std::string_view near = closest(value.text, names);
  complain(errors, key, value.origin, quoted(value.text) + " is not known",
           near.empty() ? "one of " + all
                        : "did you mean " + toml_quote(near) + "? (one of " + all + ")");
  return std::nullopt;
}

template <class T, size_t kCount>
[[nodiscard]] std::string_view word_of(const Words<T, kCount>& words, T value) {
  for (const auto& [name, word] : words)
    if (word == value) return name;
  return words[0].first;
}

template <auto kAt, const auto& kWords>
struct Word {
  static void read(const KeyInfo& key, const Value& value, Config& config, size_t element,
                   Errors& errors) {
    const auto word = find_word(key, value, kWords, errors);
    if (word) kAt(config, element) = *word;
  }
  static std::string write(const Config& config, size_t element, bool) {
    return toml_quote(word_of(kWords, kAt(config, element)));
  }
};

// ------------------------------------------------------------ lists

[[nodiscard]] bool expect_list(const KeyInfo& key, const Value& value, Errors& errors) {
  if (value.kind == Value::Kind::kList) return true;
  complain(errors, key, value.origin, "must be a list, is " + std::string(value.kind_name()),
           "write [ and ] around it, with commas between its parts");
  return false;
}

template <class List, class Format>
[[nodiscard]] std::string write_list(const List& list, Format format) {
  std::string out = "[";
  for (const auto& item : list)
    out += (out.size() == 1 ? "" : ", ") + toml_quote(format(item));
  return out + "]";
}

template <auto kAt>
struct Networks {
  static void read(const KeyInfo& key, const Value& value, Config& config, size_t element,
                   Errors& errors) {
    if (!expect_list(key, value, errors)) return;
    std::vector<Cidr> networks;
    for (const Value& item : value.items) {
      if (!expect_string(key, item, errors)) continue;
      const CidrParse parsed = parse_cidr(item.text);
      if (parsed.cidr)
        networks.push_back(*parsed.cidr);
      else
        complain(errors, key, item.origin, parsed.problem, parsed.fix);
    }
    kAt(config, element) = std::move(networks);
  }
  static std::string write(const Config& config, size_t element, bool) {
    return write_list(kAt(config, element), format_cidr);
  }
};

void read_relay_addresses(const KeyInfo& key, const Value& value, Config& config, size_t,
                          Errors& errors) {
  if (!expect_list(key, value, errors)) return;
  std::vector<RelayAddressConfig> relays;
  for (const Value& item : value.items) {
    if (!expect_string(key, item, errors)) continue;
    const auto relay = parse_relay_address(item.text);
    if (relay) {
      relays.push_back(*relay);
    } else {
      complain(errors, key, item.origin, quoted(item.text) + " is not a relay address",
               "write \"203.0.113.5\", or \"10.0.0.5=203.0.113.5\" for BOUND=ADVERTISED");
    }
  }
  config.relay_addresses = std::move(relays);
}
std::string write_relay_addresses(const Config& config, size_t, bool) {
  return write_list(config.relay_addresses, format_relay_address);
}

void read_ports(const KeyInfo& key, const Value& value, Config& config, size_t, Errors& errors) {
  if (!expect_string(key, value, errors)) return;
  const auto range = parse_port_range(value.text);
  if (!range) {
    complain(errors, key, value.origin, quoted(value.text) + " is not a range of ports",
             "write \"49152-65535\": the lowest, a dash, the highest, from 1 to 65535");
    return;
  }
  config.relay_port_low = range->first;
  config.relay_port_high = range->second;
}
std::string write_ports(const Config& config, size_t, bool) {
  return toml_quote(std::to_string(config.relay_port_low) + "-" +
                    std::to_string(config.relay_port_high));
}

// ------------------------------------------------------------ DPDK

// A list of texts in one of the small languages of config/dpdk.h.
template <auto kAt, auto kParse, auto kFormat, const auto& kWhat>
struct ParsedList {
  static void read(const KeyInfo& key, const Value& value, Config& config, size_t element,
                   Errors& errors) {
    if (!expect_list(key, value, errors)) return;
    std::remove_reference_t<decltype(kAt(config, element))> list;
    for (const Value& item : value.items) {
      if (!expect_string(key, item, errors)) continue;
      const auto parsed = kParse(item.text);
      if (parsed)
        list.push_back(*parsed);
      else
        complain(errors, key, item.origin, quoted(item.text) + kWhat[0], kWhat[1]);
    }
    kAt(config, element) = std::move(list);
  }
  static std::string write(const Config& config, size_t element, bool) {
    return write_list(kAt(config, element), kFormat);
  }
};

[[nodiscard]] std::string format_ip(const IpAddress& ip) {
  return ip.to_string();
}

constexpr std::array<const char*, 2> kPortAddressHelp = {
    " is not a port's address", "write \"192.0.2.1/24\", or \"192.0.2.1/24@1\" for port 1"};
constexpr std::array<const char*, 2> kNeighbourHelp = {
    " is not a neighbour", "write \"192.0.2.7=02:00:00:00:00:07\", with @1 behind it on port 1"};
constexpr std::array<const char*, 2> kGatewayHelp = {" is not an address", "write \"192.0.2.254\""};

void read_eal(const KeyInfo& key, const Value& value, Config& config, size_t, Errors& errors) {
  if (!expect_string(key, value, errors)) return;
  if (has_control_characters(value.text) || !is_utf8(value.text)) {
    complain(errors, key, value.origin, "the value holds bytes that are no text",
             "separate arguments by blanks");
    return;
  }
  const auto words = split_words(value.text);
  if (!words) {
    complain(errors, key, value.origin, "a quote is not closed", "close it");
    return;
  }
  for (const std::string& word : *words) {
    const std::string reason = refuse_eal_word(word);
    if (!reason.empty())
      complain(errors, key, value.origin, quoted(word) + " is refused: " + reason, "leave it out");
  }
  config.dpdk.eal = value.text;
}

// ------------------------------------------------------------ addresses

[[nodiscard]] std::optional<TransportAddress> read_transport(const KeyInfo& key, const Value& value,
                                                             Errors& errors) {
  if (!expect_string(key, value, errors)) return std::nullopt;
  const auto address = TransportAddress::parse(value.text);
  if (!address) {
    const bool only_ip = IpAddress::parse(value.text).has_value();
    complain(errors, key, value.origin,
             quoted(value.text) + (only_ip ? " has no port" : " is not an address and port"),
             "write \"192.0.2.1:3478\", \"[2001:db8::1]:3478\", \"0.0.0.0:3478\" or \"[::]:3478\"");
    return std::nullopt;
  }
  if (address->port == 0) {
    complain(errors, key, value.origin, "port 0 is no port to listen on",
             "give a port from 1 to 65535; TURN's own is 3478");
    return std::nullopt;
  }
  return address;
}

void read_listen_address(const KeyInfo& key, const Value& value, Config& config, size_t element,
                         Errors& errors) {
  const auto address = read_transport(key, value, errors);
  if (address) config.listeners[element].address = *address;
}
std::string write_listen_address(const Config& config, size_t element, bool) {
  return toml_quote(config.listeners[element].address.to_string());
}

void read_listen_realm(const KeyInfo& key, const Value& value, Config& config, size_t element,
                       Errors& errors) {
  if (!expect_string(key, value, errors)) return;
  std::vector<std::string_view> names;
  for (size_t i = 0; i < config.realms.size(); ++i) {
    if (config.realms[i].name == value.text) {
      config.listeners[element].realm = static_cast<uint16_t>(i);
      return;
    }
    names.emplace_back(config.realms[i].name);
  }
  const std::string_view near = closest(value.text, names);
  complain(errors, key, value.origin, "there is no realm " + quoted(value.text),
           near.empty() ? "add a [[realm]] with that name, or name one that is there"
                        : "did you mean " + toml_quote(near) + "?");
}
std::string write_listen_realm(const Config& config, size_t element, bool) {
  const size_t realm = config.listeners[element].realm;
  return toml_quote(realm < config.realms.size() ? std::string_view(config.realms[realm].name)
                                                 : std::string_view());
}

void read_metrics(const KeyInfo& key, const Value& value, Config& config, size_t, Errors& errors) {
  if (value.kind == Value::Kind::kString && value.text == "off") {
    config.metrics.listen.reset();
    return;
  }
  const auto address = read_transport(key, value, errors);
  if (address) config.metrics.listen = *address;
}
std::string write_metrics(const Config& config, size_t, bool) {
  return toml_quote(config.metrics.listen ? config.metrics.listen->to_string() : "off");
}

// ------------------------------------------------------------ realms

void read_realm_name(const KeyInfo& key, const Value& value, Config& config, size_t element,
                     Errors& errors) {
  if (!expect_string(key, value, errors) ||
      !check_text(key, value.origin, "the realm's name", value.text, kMaxRealmBytes, errors))
    return;
  if (value.text.find_first_of("\"\\:") != std::string::npos) {
    complain(errors, key, value.origin, "a realm's name must not hold \", \\ or :",
             "use the form of a domain name, such as \"example.org\"");
    return;
  }
  config.realms[element].name = value.text;
}
std::string write_realm_name(const Config& config, size_t element, bool) {
  return toml_quote(config.realms[element].name);
}

void read_user(const KeyInfo& key, const std::string& name, const Value& password,
               std::vector<UserConfig>& users, Errors& errors) {
  if (!check_text(key, password.origin, "a user's name", name, kMaxUserNameBytes, errors)) return;
  if (name.find(':') != std::string::npos) {
    complain(errors, key, password.origin, "the user's name " + quoted(name) + " holds a colon",
             "choose one without: the key of a user is made from name:realm:password");
    return;
  }
  if (password.kind != Value::Kind::kString) {
    complain(errors, key, password.origin,
             "the password of " + quoted(name) + " must be a string, is " +
                 std::string(password.kind_name()),
             "put it in double quotes");
    return;
  }
  if (!check_text(key, password.origin, "the password of " + quoted(name), password.text,
                  kMaxPasswordBytes, errors))
    return;
  const auto same = [&](const UserConfig& u) { return u.name == name; };
  if (std::any_of(users.begin(), users.end(), same)) {
    complain(errors, key, password.origin, "the user " + quoted(name) + " is given twice",
             "give each user once");
    return;
  }
  users.push_back({name, password.text});
}

// A table of name = "password"; from flags, a list of NAME:PASSWORD.
void read_users(const KeyInfo& key, const Value& value, Config& config, size_t element,
                Errors& errors) {
  std::vector<UserConfig> users;
  if (value.from_flag) {
    for (const Value& item : value.items) {
      const size_t colon = item.text.find(':');
      if (colon == std::string::npos) {
        complain(errors, key, item.origin, "there is no colon in what was given",
                 "write NAME:PASSWORD");
        continue;
      }
      Value password = item;
      password.text = item.text.substr(colon + 1);
      read_user(key, item.text.substr(0, colon), password, users, errors);
    }
  } else if (value.kind == Value::Kind::kTable) {
    for (size_t i = 0; i < value.items.size(); ++i)
      read_user(key, value.names[i], value.items[i], users, errors);
  } else {
    complain(errors, key, value.origin, "must be a table, is " + std::string(value.kind_name()),
             "write [realm.users] and under it lines such as alice = \"password\"");
  }
  // The order means nothing: sorted, two files that say the same are equal.
  std::sort(users.begin(), users.end(),
            [](const UserConfig& a, const UserConfig& b) { return a.name < b.name; });
  config.realms[element].users = std::move(users);
}
std::string write_users(const Config& config, size_t element, bool show_secrets) {
  const auto& users = config.realms[element].users;
  if (users.empty()) return "{}";
  std::string out = "{ ";
  for (const UserConfig& user : users) {
    out += out.size() == 2 ? "" : ", ";
    out += toml_quote(user.name) + " = " + toml_quote(show_secrets ? user.password : "***");
  }
  return out + " }";
}

void read_secrets(const KeyInfo& key, const Value& value, Config& config, size_t element,
                  Errors& errors) {
  if (!expect_list(key, value, errors)) return;
  std::vector<std::string> secrets;
  for (const Value& item : value.items) {
    if (!expect_string(key, item, errors) ||
        !check_text(key, item.origin, "a shared secret", item.text, kMaxSecretBytes, errors))
      continue;
    if (std::find(secrets.begin(), secrets.end(), item.text) != secrets.end())
      complain(errors, key, item.origin, "the same shared secret is given twice", "remove one");
    else
      secrets.push_back(item.text);
  }
  if (secrets.size() > kMaxSecretsPerRealm) {
    complain(errors, key, value.items.back().origin,
             std::to_string(secrets.size()) + " shared secrets are given",
             "at most 2: the one in use and the one being rotated");
    secrets.resize(kMaxSecretsPerRealm);
  }
  config.realms[element].secrets = std::move(secrets);
}
std::string write_secrets(const Config& config, size_t element, bool show_secrets) {
  return write_list(config.realms[element].secrets, [&](const std::string& secret) {
    return show_secrets ? secret : std::string("***");
  });
}

void read_algorithms(const KeyInfo& key, const Value& value, Config& config, size_t element,
                     Errors& errors) {
  if (!expect_list(key, value, errors)) return;
  std::vector<PasswordAlgorithm> algorithms;
  for (const Value& item : value.items) {
    const auto algorithm = find_word(key, item, kAlgorithms, errors);
    if (!algorithm) continue;
    if (std::find(algorithms.begin(), algorithms.end(), *algorithm) != algorithms.end())
      complain(errors, key, item.origin, quoted(item.text) + " is given twice", "remove one");
    else
      algorithms.push_back(*algorithm);
  }
  config.realms[element].algorithms = std::move(algorithms);
}
std::string write_algorithms(const Config& config, size_t element, bool) {
  return write_list(config.realms[element].algorithms,
                    [](PasswordAlgorithm a) { return word_of(kAlgorithms, a); });
}

// ------------------------------------------------------------ the rest

void read_driver(const KeyInfo& key, const Value& value, Config& config, size_t, Errors& errors) {
  if (!expect_string(key, value, errors)) return;
  std::string built;
  for (const std::string_view name : kBuiltDrivers) {
    if (name == value.text) {
      config.driver = value.text;
      return;
    }
    built += (built.empty() ? "" : ", ") + toml_quote(name);
  }
  const bool known =
      std::find(kKnownDrivers.begin(), kKnownDrivers.end(), value.text) != kKnownDrivers.end();
  complain(errors, key, value.origin,
           "the driver " + quoted(value.text) + (known ? " is not in this build" : " is not known"),
           "this build has: " + built);
}

void read_socket_path(const KeyInfo& key, const Value& value, Config& config, size_t,
                      Errors& errors) {
  // sockaddr_un holds 108 bytes with the closing zero.
  constexpr size_t kMaxSocketPath = 107;
  if (!expect_string(key, value, errors)) return;
  if (value.text == "off") {
    config.control_socket.path.clear();
    return;
  }
  if (!check_text(key, value.origin, "the path", value.text, kMaxSocketPath, errors)) return;
  config.control_socket.path = value.text;
}
std::string write_socket_path(const Config& config, size_t, bool) {
  const std::string& path = config.control_socket.path;
  return toml_quote(path.empty() ? "off" : path);
}

void read_mode(const KeyInfo& key, const Value& value, Config& config, size_t, Errors& errors) {
  if (!expect_string(key, value, errors)) return;
  const bool octal = value.text.size() >= 3 && value.text.size() <= 4 &&
                     value.text.find_first_not_of("01234567") == std::string::npos;
  uint32_t mode = 0;
  if (octal)
    for (const char c : value.text)
      mode = mode * 8 + static_cast<uint32_t>(c - '0');
  if (!octal || mode > 0777) {
    complain(errors, key, value.origin, quoted(value.text) + " is not a file mode",
             "write three octal digits in quotes, such as \"0660\"");
    return;
  }
  if ((mode & 0002) != 0) {
    complain(errors, key, value.origin, "this mode lets everyone on the machine operate the relay",
             "leave out the last digit's write bit: \"0660\", and use control_socket.group");
    return;
  }
  config.control_socket.mode = mode;
}
std::string write_mode(const Config& config, size_t, bool) {
  const uint32_t mode = config.control_socket.mode;
  std::string out = "0";
  for (const uint32_t shift : {6u, 3u, 0u})
    out += static_cast<char>('0' + ((mode >> shift) & 7));
  return toml_quote(out);
}

// ------------------------------------------------------------ the table

#define AT(member)               \
  [](auto& c, size_t) -> auto& { \
    return c.member;             \
  }
#define IN_REALM(member)           \
  [](auto& c, size_t i) -> auto& { \
    return c.realms[i].member;     \
  }

constexpr size_t kMaxPathBytes = 4095;   // PATH_MAX without the closing zero
constexpr size_t kMaxAccountBytes = 32;  // of useradd

using DriverKey = Text<AT(driver), 32, false>;
using CoresKey = Number<AT(cores)>;
using StopGraceKey = Number<AT(stop_grace_seconds)>;
using SoftwareKey = Text<AT(software), kMaxSoftwareBytes, true>;
using DatabaseKey = Text<IN_REALM(database), kMaxPathBytes, true>;
using UserQuotaKey = Number<IN_REALM(user_quota)>;
using UserBandwidthKey = Number<IN_REALM(user_bandwidth)>;
using MaxAllocationsKey = Number<AT(limits.max_allocations)>;
using TotalBandwidthKey = Number<AT(limits.total_bandwidth)>;
using DefaultLifetimeKey = Number<AT(limits.default_lifetime_seconds)>;
using MaxLifetimeKey = Number<AT(limits.max_lifetime_seconds)>;
using NonceLifetimeKey = Number<AT(limits.nonce_lifetime_seconds)>;
using PerPrefixKey = Number<AT(reply_budget.per_prefix)>;
using ReplyTotalKey = Number<AT(reply_budget.total)>;
using BadNonceKey = Number<AT(reply_budget.bad_nonce_per_second)>;
using DefaultDenyKey = Boolean<AT(peers.default_deny)>;
using DenyKey = Networks<AT(peers.deny)>;
using AllowKey = Networks<AT(peers.allow)>;
using SocketGroupKey = Text<AT(control_socket.group), kMaxAccountBytes, true>;
using LogLevelKey = Word<AT(log.level), kLogLevels>;
using LogFormatKey = Word<AT(log.format), kLogFormats>;
using LogTargetKey = Text<AT(log.target), kMaxPathBytes, false>;
using RunUserKey = Text<AT(run_as.user), kMaxAccountBytes, true>;
using EalKey = Text<AT(dpdk.eal), kMaxPathBytes, true>;
using PortAddressesKey =
    ParsedList<AT(dpdk.port_addresses), parse_port_address, format_port_address, kPortAddressHelp>;
using NeighboursKey =
    ParsedList<AT(dpdk.neighbours), parse_neighbour, format_neighbour, kNeighbourHelp>;
using GatewaysKey = ParsedList<AT(dpdk.gateways), IpAddress::parse, format_ip, kGatewayHelp>;
using KernelKey = Word<AT(dpdk.kernel), kKernelModes>;
using IdleKey = Word<AT(dpdk.idle), kIdlePolicies>;
using RunGroupKey = Text<AT(run_as.group), kMaxAccountBytes, true>;

#undef AT
#undef IN_REALM

constexpr std::array kSections = {
    SectionInfo{"", Repeats::kOnce, "The relay as a whole. These keys stand before any section."},
    SectionInfo{"listen", Repeats::kListen,
                "Where clients reach the relay: one [[listen]] for each UDP address and port. With "
                "none, all addresses of the machine at port 3478, IPv4 and IPv6."},
    SectionInfo{"relay", Repeats::kOnce, "Where relayed transport addresses are taken from."},
    SectionInfo{"realm", Repeats::kRealm,
                "Who may use the relay: one [[realm]] for each set of accounts. A listener serves "
                "one realm. The first is the default realm: listeners that name none and the flags "
                "--realm, --user and --secret mean it. Every realm in use needs users, secrets or "
                "a database."},
    SectionInfo{"limits", Repeats::kOnce, "What the relay gives at most."},
    SectionInfo{"reply_budget", Repeats::kOnce,
                "What may be sent to those who have not proven who they are, so that the relay is "
                "no amplifier. Counted in bytes sent minus bytes received, IP and UDP headers "
                "included; clients that complete their request get theirs back. A prefix saves up "
                "10 seconds of its rate, all together one second of the total."},
    SectionInfo{"peers", Repeats::kOnce,
                "Which addresses clients may reach through the relay. A built-in list refuses "
                "loopback, private, link-local, multicast and the other special networks (in "
                "docs/threat_model.md). The longest matching prefix decides; where an allow and a "
                "deny are equally long, allow wins."},
    SectionInfo{"control_socket", Repeats::kOnce, "The Unix socket that culvertctl speaks to."},
    SectionInfo{"metrics", Repeats::kOnce, "Prometheus metrics and /healthz over HTTP."},
    SectionInfo{"log", Repeats::kOnce, "What is logged, how, and where to."},
    SectionInfo{"run_as", Repeats::kOnce,
                "Who the daemon becomes once its sockets are open, when it was started as root."},
    SectionInfo{"dpdk", Repeats::kOnce,
                "Ports that the relay drives by itself, with driver = \"dpdk\". Their "
                "addresses stand here, whoever answers ARP for them. See docs/deployment.md."},
};

constexpr std::array kKeys = {
    KeyInfo{.section = "",
            .name = "driver",
            .type = "string",
            .range = "\"sockets\" or \"dpdk\"",
            .flag = "--driver",
            .reload = Reload::kRestart,
            .doc = "How datagrams get in and out. \"sockets\" uses the kernel's UDP sockets, runs "
                   "anywhere and needs no privileges. \"dpdk\" drives network ports without the "
                   "kernel ([dpdk]), where the build has it.",
            .read = read_driver,
            .write = DriverKey::write},
    KeyInfo{.section = "",
            .name = "cores",
            .type = "number",
            .low = 1,
            .high = kMaxCores,
            .zero = "one for each CPU",
            .flag = "--cores",
            .reload = Reload::kRestart,
            .doc = "Threads that forward datagrams, each with its own table. One serves hundreds "
                   "of thousands of datagrams a second; more than there are CPUs only costs.",
            .read = CoresKey::read,
            .write = CoresKey::write},
    KeyInfo{.section = "",
            .name = "stop_grace",
            .type = "duration",
            .low = 0,
            .high = 3600,
            .reload = Reload::kLive,
            .doc =
                "After SIGTERM or SIGINT live allocations go on for this long, new ones get 508; "
                "then all are closed. A second signal ends at once. Keep it below systemd's "
                "TimeoutStopSec.",
            .read = StopGraceKey::read,
            .write = StopGraceKey::write_duration},
    KeyInfo{.section = "",
            .name = "software",
            .type = "string",
            .range = "at most 127 bytes; \"\" sends none",
            .reload = Reload::kLive,
            .doc = "What responses say in SOFTWARE (RFC 8489 14.14). Never sent to those who have "
                   "not authenticated.",
            .read = SoftwareKey::read,
            .write = SoftwareKey::write},

    KeyInfo{.section = "listen",
            .name = "address",
            .type = "string",
            .range = "an address and port; 0.0.0.0 and [::] mean all of the machine",
            .flag = "--listen",
            .reload = Reload::kRestart,
            .doc =
                "A wildcard is expanded at start to the machine's addresses, without link-local "
                "and loopback ones; to listen on 127.0.0.1 or ::1, name it. Responses must leave "
                "from the address that was asked, so each address gets sockets of its own.",
            .example = "\"0.0.0.0:3478\"",
            .read = read_listen_address,
            .write = write_listen_address},
    KeyInfo{.section = "listen",
            .name = "realm",
            .type = "string",
            .range = "the name of a [[realm]]; the default realm when absent",
            .reload = Reload::kRestart,
            .doc = "The realm whose accounts this listener serves.",
            .example = "\"example.org\"",
            .read = read_listen_realm,
            .write = write_listen_realm},

    KeyInfo{.section = "relay",
            .name = "addresses",
            .type = "list",
            .range = "addresses, or BOUND=ADVERTISED; at most 64",
            .flag = "--relay-address",
            .reload = Reload::kRestart,
            .doc =
                "The addresses peers see. Behind a 1:1 NAT (cloud, container) write the machine's "
                "own address, =, and the public one. Empty: the addresses of the listeners; where "
                "those are wildcards, the one the default route leaves from, of each family.",
            .example = "[\"203.0.113.5\", \"2001:db8::5\"]",
            .read = read_relay_addresses,
            .write = write_relay_addresses},
    KeyInfo{.section = "relay",
            .name = "ports",
            .type = "string",
            .range = "LOW-HIGH within 1-65535, at least two ports for each core",
            .flag = "--relay-ports",
            .reload = Reload::kRestart,
            .doc =
                "Relayed ports of every relay address, both ends included. One allocation takes "
                "one port (two with both families, or with EVEN-PORT). The default is RFC 8656's "
                "dynamic range. Open it in the firewall.",
            .read = read_ports,
            .write = write_ports},

    KeyInfo{.section = "realm",
            .name = "name",
            .type = "string",
            .range = "1 to 127 bytes without \", \\ and :",
            .flag = "--realm",
            .reload = Reload::kRestart,
            .doc =
                "Clients take it from the relay's first answer, so any name works; keep it at 32 "
                "bytes or fewer, or the shortest requests get no challenge (the answer would be "
                "more than 2.5 times the request).",
            .example = "\"example.org\"",
            .read = read_realm_name,
            .write = write_realm_name},
    KeyInfo{.section = "realm",
            .name = "users",
            .type = "table",
            .range = "name = \"password\"; names of 1 to 508 bytes without :",
            .flag = "--user",
            .reload = Reload::kLive,
            .doc = "Static users. The file then holds passwords: make it readable by the daemon "
                   "alone. A database holds keys instead.",
            .example = "{ alice = \"wonderland\" }",
            .read = read_users,
            .write = write_users},
    KeyInfo{.section = "realm",
            .name = "secrets",
            .type = "list",
            .range = "at most 2 strings of 1 to 512 bytes",
            .flag = "--secret",
            .reload = Reload::kLive,
            .doc =
                "Shared secrets for time-limited credentials (the TURN REST convention, SHA-1 and "
                "SHA-256): the user is EXPIRY:NAME, the password base64 of the HMAC. Both are "
                "accepted, the first one mints (culvertctl mint): to rotate, put the new one "
                "first, reload, and drop the old one when its credentials have expired. A realm "
                "with a secret cannot enumerate its users, so it does not offer USERHASH.",
            .example = "[\"a-long-random-string\"]",
            .read = read_secrets,
            .write = write_secrets},
    KeyInfo{.section = "realm",
            .name = "database",
            .type = "string",
            .range = "path of a file; \"\" is none",
            .reload = Reload::kRestart,
            .doc = "SQLite accounts, kept by culvertctl user add|list|remove: it holds keys, never "
                   "passwords. Its contents may change while the relay runs.",
            .example = "\"/var/lib/culvert/accounts.db\"",
            .read = DatabaseKey::read,
            .write = DatabaseKey::write},
    KeyInfo{.section = "realm",
            .name = "user_quota",
            .type = "number",
            .low = 1,
            .high = kMaxConfiguredAllocations,
            .zero = "unlimited",
            .flag = "--user-quota",
            .reload = Reload::kLive,
            .doc = "Allocations one user may hold at once; one more gets 486. By user, not by "
                   "address: many users share one behind a carrier's NAT. Unlimited by default, "
                   "since one account often serves a whole application; with accounts of "
                   "individuals give 10 or so, as a call takes one to four.",
            .example = "12",
            .read = UserQuotaKey::read,
            .write = UserQuotaKey::write},
    KeyInfo{.section = "realm",
            .name = "user_bandwidth",
            .type = "rate",
            .low = kMinRate,
            .high = kMaxRate,
            .zero = "unlimited",
            .reload = Reload::kLive,
            .doc = "What one user may relay in all allocations, both directions together. Data "
                   "beyond it is dropped and counted, the allocation stays.",
            .example = "\"10MB/s\"",
            .read = UserBandwidthKey::read,
            .write = UserBandwidthKey::write_rate},
    KeyInfo{.section = "realm",
            .name = "algorithms",
            .type = "list",
            .range = "\"sha256\" and \"md5\", preferred first; [] offers none",
            .reload = Reload::kLive,
            .doc = "What PASSWORD-ALGORITHMS offers (RFC 8489 14.11). Clients that do not know it "
                   "use MD5 in any case.",
            .example = "[\"sha256\", \"md5\"]",
            .read = read_algorithms,
            .write = write_algorithms},

    KeyInfo{.section = "limits",
            .name = "max_allocations",
            .type = "number",
            .low = 1,
            .high = kMaxConfiguredAllocations,
            .flag = "--max-allocations",
            .reload = Reload::kRestart,
            .doc =
                "Allocations at once; one more gets 508. All their memory is taken at start. The "
                "default is as many as one relay address has ports.",
            .read = MaxAllocationsKey::read,
            .write = MaxAllocationsKey::write},
    KeyInfo{.section = "limits",
            .name = "total_bandwidth",
            .type = "rate",
            .low = kMinRate,
            .high = kMaxRate,
            .zero = "unlimited",
            .reload = Reload::kLive,
            .doc = "What the whole relay may carry, both directions together. Data beyond it is "
                   "dropped and counted.",
            .read = TotalBandwidthKey::read,
            .write = TotalBandwidthKey::write_rate},
    KeyInfo{.section = "limits",
            .name = "default_lifetime",
            .type = "duration",
            .low = 10,
            .high = kMaxAllocationLifetimeSeconds,
            .reload = Reload::kLive,
            .doc =
                "Lifetime of an allocation that asks for none or for less (RFC 8656 7.2; the RFC's "
                "value is 600 s, less is for tests).",
            .read = DefaultLifetimeKey::read,
            .write = DefaultLifetimeKey::write_duration},
    KeyInfo{.section = "limits",
            .name = "max_lifetime",
            .type = "duration",
            .low = 10,
            .high = kMaxAllocationLifetimeSeconds,
            .reload = Reload::kLive,
            .doc = "Longest lifetime given, whatever is asked.",
            .read = MaxLifetimeKey::read,
            .write = MaxLifetimeKey::write_duration},
    KeyInfo{.section = "limits",
            .name = "nonce_lifetime",
            .type = "duration",
            .low = 10,
            .high = kDefaultNonceLifetimeSeconds,
            .reload = Reload::kLive,
            .doc =
                "Age at which a nonce is answered with 438 and a new one (RFC 8489 9.2: at least "
                "once an hour).",
            .read = NonceLifetimeKey::read,
            .write = NonceLifetimeKey::write_duration},

    KeyInfo{.section = "reply_budget",
            .name = "total",
            .type = "rate",
            .low = kMinRate,
            .high = kMaxRate,
            .flag = "--reply-budget",
            .reload = Reload::kLive,
            .doc =
                "To everyone together. The default pays 160,000 challenges of 100 bytes a second "
                "that nobody completes. The flag lowers per_prefix to it where that is more.",
            .read = ReplyTotalKey::read,
            .write = ReplyTotalKey::write_rate},
    KeyInfo{.section = "reply_budget",
            .name = "per_prefix",
            .type = "rate",
            .low = kMinRate,
            .high = kMaxRate,
            .reload = Reload::kLive,
            .doc =
                "To one IPv4 /24 or IPv6 /56. Not more than the total. The default's 10 seconds, "
                "1.28 MB, pay 10,000 challenges at once.",
            .read = PerPrefixKey::read,
            .write = PerPrefixKey::write_rate},
    KeyInfo{.section = "reply_budget",
            .name = "bad_nonces",
            .type = "number",
            .low = 1,
            .high = 1'000'000,
            .reload = Reload::kLive,
            .doc =
                "Requests a second with integrity but without a valid nonce whose user and "
                "integrity are checked (about 5 us each) to tell a client with an old nonce from "
                "a stranger.",
            .read = BadNonceKey::read,
            .write = BadNonceKey::write},

    KeyInfo{.section = "peers",
            .name = "default_deny",
            .type = "boolean",
            .range = "true or false",
            .reload = Reload::kLive,
            .doc =
                "Whether the built-in list is used. Without it clients reach this machine and the "
                "networks behind it: only for closed laboratories.",
            .read = DefaultDenyKey::read,
            .write = DefaultDenyKey::write},
    KeyInfo{.section = "peers",
            .name = "deny",
            .type = "list",
            .range = "networks in CIDR form; at most 4096 with allow",
            .flag = "--deny-peer",
            .reload = Reload::kLive,
            .doc =
                "Refused besides the built-in list. Decided when a permission or channel is made "
                "or refreshed.",
            .example = "[\"198.51.100.0/24\", \"2001:db8:1::/48\"]",
            .read = DenyKey::read,
            .write = DenyKey::write},
    KeyInfo{.section = "peers",
            .name = "allow",
            .type = "list",
            .range = "networks in CIDR form; at most 4096 with deny",
            .flag = "--allow-peer",
            .reload = Reload::kLive,
            .doc = "Allowed although the built-in list refuses them: a private network whose hosts "
                   "clients shall reach.",
            .example = "[\"10.1.0.0/16\"]",
            .read = AllowKey::read,
            .write = AllowKey::write},

    KeyInfo{.section = "control_socket",
            .name = "path",
            .type = "string",
            .range = "at most 107 bytes; \"off\" opens none",
            .flag = "--control-socket",
            .reload = Reload::kRestart,
            .doc = "Its folder must exist (the systemd unit makes /run/culvert).",
            .read = read_socket_path,
            .write = write_socket_path},
    KeyInfo{.section = "control_socket",
            .name = "mode",
            .type = "string",
            .range = "octal digits, not writable by others",
            .reload = Reload::kRestart,
            .doc = "Who can write to the socket can operate the relay.",
            .read = read_mode,
            .write = write_mode},
    KeyInfo{.section = "control_socket",
            .name = "group",
            .type = "string",
            .range = "a group; \"\" is the daemon's own",
            .reload = Reload::kRestart,
            .doc = "The group whose members may use culvertctl.",
            .example = "\"adm\"",
            .read = SocketGroupKey::read,
            .write = SocketGroupKey::write},

    KeyInfo{.section = "metrics",
            .name = "listen",
            .type = "string",
            .range = "an address and port, or \"off\"",
            .flag = "--metrics",
            .reload = Reload::kRestart,
            .doc = "There is no authentication: use a loopback or management address, such as "
                   "127.0.0.1:9641.",
            .example = "\"127.0.0.1:9641\"",
            .read = read_metrics,
            .write = write_metrics},

    KeyInfo{.section = "log",
            .name = "level",
            .type = "string",
            .range = "\"trace\", \"debug\", \"info\", \"warning\" or \"error\"",
            .flag = "--log-level",
            .reload = Reload::kLive,
            .doc = "\"info\" writes a line for each ended allocation; nothing is ever logged for a "
                   "single datagram.",
            .read = LogLevelKey::read,
            .write = LogLevelKey::write},
    KeyInfo{.section = "log",
            .name = "format",
            .type = "string",
            .range = "\"text\" or \"json\"",
            .reload = Reload::kRestart,
            .doc = "Lines for people, or one JSON object a line.",
            .read = LogFormatKey::read,
            .write = LogFormatKey::write},
    KeyInfo{.section = "log",
            .name = "target",
            .type = "string",
            .range = "\"stderr\", \"stdout\", or the path of a file",
            .reload = Reload::kRestart,
            .doc =
                "A file is appended to; it is opened before privileges are dropped. Under systemd "
                "stderr is the journal.",
            .read = LogTargetKey::read,
            .write = LogTargetKey::write},

    KeyInfo{.section = "run_as",
            .name = "user",
            .type = "string",
            .range = "an account; \"\" is culvert if it exists, else nobody",
            .reload = Reload::kRestart,
            .doc = "Without effect when the daemon was not started as root.",
            .example = "\"culvert\"",
            .read = RunUserKey::read,
            .write = RunUserKey::write},
    KeyInfo{.section = "run_as",
            .name = "group",
            .type = "string",
            .range = "a group; \"\" is the account's own",
            .reload = Reload::kRestart,
            .doc = "Without effect when the daemon was not started as root.",
            .example = "\"culvert\"",
            .read = RunGroupKey::read,
            .write = RunGroupKey::write},

    KeyInfo{.section = "dpdk",
            .name = "eal",
            .type = "string",
            .range = "EAL's arguments, separated by blanks",
            .flag = "--eal",
            .reload = Reload::kRestart,
            .doc = "Which ports there are, and which memory: --vdev, -a, --in-memory, --no-huge, "
                   "-m, --file-prefix as DPDK documents them. The lcores come from `cores`, and "
                   "--iova-mode=va is added, without which memory cannot be had once privileges "
                   "are dropped.",
            .example = "\"--in-memory --vdev=net_af_packet0,iface=eth1\"",
            .read = read_eal,
            .write = EalKey::write},
    KeyInfo{.section = "dpdk",
            .name = "port_addresses",
            .type = "list",
            .range = "ADDRESS/LENGTH[@PORT]; at most 256",
            .flag = "--port-address",
            .reload = Reload::kRestart,
            .doc = "The addresses of the ports and the networks they stand in; PORT counts from 0 "
                   "in EAL's order and is 0 when left out. Every listener and every relay address "
                   "must be among them.",
            .example = "[\"192.0.2.1/24\", \"2001:db8::1/64\"]",
            .read = PortAddressesKey::read,
            .write = PortAddressesKey::write},
    KeyInfo{.section = "dpdk",
            .name = "neighbours",
            .type = "list",
            .range = "ADDRESS=MAC[@PORT]; at most 1024",
            .flag = "--neighbour",
            .reload = Reload::kRestart,
            .doc = "Link addresses known beforehand; they are never asked for and never change. "
                   "All others are asked for and learned.",
            .example = "[\"192.0.2.7=02:00:00:00:00:07\"]",
            .read = NeighboursKey::read,
            .write = NeighboursKey::write},
    KeyInfo{.section = "dpdk",
            .name = "gateways",
            .type = "list",
            .range = "at most one address of each family, on a port's network",
            .flag = "--gateway",
            .reload = Reload::kRestart,
            .doc = "Where datagrams to other networks go. Without one, they go back to where their "
                   "addressee was last heard from, which only a laboratory wants.",
            .example = "[\"192.0.2.254\", \"2001:db8::fe\"]",
            .read = GatewaysKey::read,
            .write = GatewaysKey::write},
    KeyInfo{.section = "dpdk",
            .name = "kernel",
            .type = "string",
            .range = "\"none\", \"auto\", \"beside\" or \"tap\"",
            .flag = "--kernel",
            .reload = Reload::kRestart,
            .doc = "Who does what a host does besides relaying. \"none\": nobody else; the relay "
                   "answers ARP, neighbour discovery and ping itself. \"beside\": the kernel, on "
                   "the interface that the port stands on (net_af_xdp, net_af_packet, mlx5); the "
                   "addresses must be that interface's. \"tap\": the kernel, on an interface "
                   "culvertPORT made at start with the port's link address and addresses. "
                   "\"auto\": for each port \"beside\" where it stands on an interface, else "
                   "\"tap\". With a kernel, neighbours and routes are the kernel's.",
            .read = KernelKey::read,
            .write = KernelKey::write},
    KeyInfo{.section = "dpdk",
            .name = "idle",
            .type = "string",
            .range = "\"adaptive\" or \"busy\"",
            .reload = Reload::kRestart,
            .doc = "What a fast core does when nothing arrives: sleep up to 100 us at a time, or "
                   "poll on, which takes its whole CPU and saves those microseconds.",
            .read = IdleKey::read,
            .write = IdleKey::write},
};

}  // namespace

std::string_view reload_name(Reload reload) {
  return reload == Reload::kLive ? "live" : "restart";
}

std::string KeyInfo::range_text() const {
  if (!range.empty()) return std::string(range);
  std::string out = format_number(*this, low) + " to " + format_number(*this, high);
  if (!zero.empty()) out = "0 (" + std::string(zero) + ") or " + out;
  return out;
}

std::span<const SectionInfo> config_sections() {
  return kSections;
}
std::span<const KeyInfo> config_keys() {
  return kKeys;
}
std::span<const std::string_view> built_drivers() {
  return kBuiltDrivers;
}

const KeyInfo* find_key(std::string_view section, std::string_view name) {
  for (const KeyInfo& key : kKeys)
    if (key.section == section && key.name == name) return &key;
  return nullptr;
}

std::string element_path(const KeyInfo& key, size_t element) {
  if (key.section != "listen" && key.section != "realm") return key.path();
  return std::string(key.section) + "[" + std::to_string(element) + "]." + std::string(key.name);
}

}  // namespace culvert
