// The compiled peer policy against an obvious slow reference: for random rule sets and random
// addresses, look at every rule bit by bit and let the longest match decide.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "control/peer_policy.h"

namespace culvert {
namespace {

constexpr uint64_t kSeed = 20260101;
constexpr int kRuleSets = 300;
constexpr int kAddressesPerSet = 2000;

bool bit(const uint8_t* bytes, unsigned i) {
  return (bytes[i / 8] >> (7 - i % 8) & 1) != 0;
}

bool covers(const Cidr& rule, const IpAddress& address) {
  if (rule.address.family != address.family) return false;
  for (unsigned i = 0; i < rule.prefix_bits; ++i) {
    if (bit(rule.address.wire(), i) != bit(address.wire(), i)) return false;
  }
  return true;
}

// -1: no rule; 0: deny; 1: allow.
int longest(const PeersConfig& config, const IpAddress& address) {
  int best_bits = -1;
  int verdict = -1;
  const auto look = [&](const Cidr& rule, int says) {
    if (!covers(rule, address)) return;
    if (rule.prefix_bits > best_bits || (rule.prefix_bits == best_bits && says == 1)) {
      best_bits = rule.prefix_bits;
      verdict = says;
    }
  };
  if (config.default_deny) {
    for (const Cidr& rule : default_denied_peers())
      look(rule, 0);
  }
  for (const Cidr& rule : config.deny)
    look(rule, 0);
  for (const Cidr& rule : config.allow)
    look(rule, 1);
  return verdict;
}

bool reference_denies(const PeersConfig& config, const IpAddress& address) {
  const int outer = longest(config, address);
  if (outer == 0 || (outer == -1 && is_isatap(address))) return true;
  const Embedded embedded = embedded_ipv4(address);
  for (size_t i = 0; i < embedded.count; ++i) {
    if (longest(config, embedded.address[i]) == 0) return true;
  }
  return false;
}

class Generator {
 public:
  explicit Generator(uint64_t seed) : engine_(seed) {}
  uint32_t below(uint32_t bound) { return static_cast<uint32_t>(engine_() % bound); }

  // Mostly near the rules: boundaries are where mistakes live.
  IpAddress address(const std::vector<Cidr>& rules) {
    if (!rules.empty() && below(4) != 0)
      return near(rules[below(static_cast<uint32_t>(rules.size()))]);
    uint8_t bytes[16];
    for (uint8_t& b : bytes)
      b = static_cast<uint8_t>(engine_());
    return below(2) == 0 ? IpAddress::v4_bytes(bytes) : IpAddress::v6_bytes(bytes);
  }
  Cidr rule(const std::vector<Cidr>& others) {
    IpAddress a = address(others);
    const auto width = static_cast<uint8_t>(a.size() * 8);
    const auto bits = static_cast<uint8_t>(below(width + 1u));
    return {masked(a, bits), bits};
  }

 private:
  static IpAddress masked(const IpAddress& a, unsigned bits) {
    uint8_t bytes[16];
    std::memcpy(bytes, a.wire(), a.size());
    for (unsigned i = bits; i < a.size() * 8; ++i)
      bytes[i / 8] = static_cast<uint8_t>(bytes[i / 8] & ~(0x80u >> (i % 8)));
    return a.is_v4() ? IpAddress::v4_bytes(bytes) : IpAddress::v6_bytes(bytes);
  }
  // First or last address of the rule, one beside it, or one inside.
  IpAddress near(const Cidr& rule) {
    const IpAddress& a = rule.address;
    uint8_t bytes[16];
    std::memcpy(bytes, a.wire(), a.size());
    const uint32_t how = below(4);
    for (unsigned i = rule.prefix_bits; i < a.size() * 8; ++i) {
      const bool one = how == 0 ? false : how == 3 ? below(2) != 0 : true;
      if (one) bytes[i / 8] = static_cast<uint8_t>(bytes[i / 8] | 0x80u >> (i % 8));
    }
    if (how == 2) {  // the one behind the last, wrapping
      for (size_t i = a.size(); i-- > 0;) {
        if (++bytes[i] != 0) break;
      }
    }
    return a.is_v4() ? IpAddress::v4_bytes(bytes) : IpAddress::v6_bytes(bytes);
  }
  std::mt19937_64 engine_;
};

TEST(PeerPolicyProperty, TheCompiledPolicyAgreesWithTheSlowReferenceEverywhere) {
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  Generator random(kSeed);
  int denied = 0;
  for (int set = 0; set < kRuleSets; ++set) {
    PeersConfig config;
    config.default_deny = random.below(3) != 0;
    std::vector<Cidr> all(default_denied_peers().begin(), default_denied_peers().end());
    const uint32_t count = random.below(40);
    for (uint32_t i = 0; i < count; ++i) {
      all.push_back(random.rule(all));
      (random.below(2) == 0 ? config.deny : config.allow).push_back(all.back());
    }
    const PeerPolicy policy(config, {});
    for (int i = 0; i < kAddressesPerSet; ++i) {
      const IpAddress address = random.address(all);
      const bool want = reference_denies(config, address);
      ASSERT_EQ(policy.judge(address) == PeerVerdict::kDenied, want)
          << address.to_string() << " in rule set " << set;
      denied += want ? 1 : 0;
    }
  }
  // Both answers were really tried.
  EXPECT_GT(denied, kRuleSets * kAddressesPerSet / 10);
  EXPECT_LT(denied, kRuleSets * kAddressesPerSet * 9 / 10);
}

}  // namespace
}  // namespace culvert
