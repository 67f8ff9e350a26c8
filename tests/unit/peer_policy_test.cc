// The peer deny list: every entry, every spelling of an IPv4 address in IPv6, the operator's rules,
// and our own addresses.
#include "control/peer_policy.h"

#include <gtest/gtest.h>

namespace culvert {
namespace {

IpAddress ip(const char* text) {
  const auto out = IpAddress::parse(text);
  EXPECT_TRUE(out) << text;
  return out.value_or(IpAddress{});
}
Cidr cidr(const char* text, uint8_t bits) {
  return {ip(text), bits};
}
bool denied(const PeerPolicy& policy, const char* text) {
  return policy.judge(ip(text)) == PeerVerdict::kDenied;
}

// T69, T120, turn.md 7.2
TEST(PeerPolicy, EveryRangeOfTheDefaultListIsDeniedFromItsFirstToItsLastAddressAndNoFurther) {
  const PeerPolicy policy({}, {});
  const struct {
    const char* first;
    const char* last;
    const char* before;  // allowed, or nullptr where another denied range adjoins
    const char* after;
  } rows[] = {
      {"0.0.0.0", "0.255.255.255", nullptr, "1.0.0.0"},
      {"10.0.0.0", "10.255.255.255", "9.255.255.255", "11.0.0.0"},
      {"100.64.0.0", "100.127.255.255", "100.63.255.255", "100.128.0.0"},
      {"127.0.0.0", "127.255.255.255", "126.255.255.255", "128.0.0.0"},
      {"169.254.0.0", "169.254.255.255", "169.253.255.255", "169.255.0.0"},
      {"172.16.0.0", "172.31.255.255", "172.15.255.255", "172.32.0.0"},
      {"192.0.0.0", "192.0.0.255", "191.255.255.255", "192.0.1.0"},
      {"192.0.2.0", "192.0.2.255", "192.0.1.255", "192.0.3.0"},
      {"192.88.99.0", "192.88.99.255", "192.88.98.255", "192.88.100.0"},
      {"192.168.0.0", "192.168.255.255", "192.167.255.255", "192.169.0.0"},
      {"198.18.0.0", "198.19.255.255", "198.17.255.255", "198.20.0.0"},
      {"198.51.100.0", "198.51.100.255", "198.51.99.255", "198.51.101.0"},
      {"203.0.113.0", "203.0.113.255", "203.0.112.255", "203.0.114.0"},
      {"224.0.0.0", "239.255.255.255", "223.255.255.255", nullptr},
      {"240.0.0.0", "255.255.255.255", nullptr, nullptr},
      {"::", "::ffff:ffff", nullptr, "::1:0:0"},
      {"::ffff:0.0.0.0", "::ffff:255.255.255.255", "::fffe:ffff:ffff", "::1:0:0:0"},
      {"64:ff9b::", "64:ff9b::ffff:ffff", "64:ff9a:ffff:ffff:ffff:ffff:ffff:ffff",
       "64:ff9b::1:0:0"},
      {"64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "64:ff9b:0:ffff::", "64:ff9b:2::"},
      {"100::", "100::ffff:ffff:ffff:ffff", "ff:ffff::", "100:0:0:1::"},
      {"2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", "2000:ffff::", "2001:1::"},
      {"2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db7:ffff::", "2001:db9::"},
      {"2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:ffff::", "2003::"},
      {"fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fbff::", "fe00::"},
      {"fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fe7f::", nullptr},
      {"fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", nullptr, nullptr},
      {"ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", nullptr, nullptr},
  };
  for (const auto& row : rows) {
    EXPECT_TRUE(denied(policy, row.first)) << row.first;
    EXPECT_TRUE(denied(policy, row.last)) << row.last;
    for (const char* outside : {row.before, row.after})
      EXPECT_FALSE(outside != nullptr && denied(policy, outside)) << outside;
  }
  EXPECT_FALSE(denied(policy, "8.8.8.8"));
  EXPECT_FALSE(denied(policy, "2606:4700::1111"));
}

// CVE-2026-27624, CVE-2020-26262
TEST(PeerPolicy, AnAllowedTransitionPrefixStillDeniesTheForbiddenAddressItCarries) {
  PeersConfig config;
  for (const Cidr& c : default_denied_peers()) {
    if (c.address.is_v6()) config.allow.push_back(c);
  }
  const PeerPolicy policy(config, {});
  const struct {
    const char* bad;
    const char* good;
  } rows[] = {
      {"::ffff:127.0.0.1", "::ffff:8.8.8.8"},                        // v4-mapped
      {"::10.0.0.1", "::8.8.8.8"},                                   // v4-compatible
      {"::ffff:0:10.0.0.1", "::ffff:0:8.8.8.8"},                     // IPv4-translated
      {"2002:0a00:0001::", "2002:0808:0808::"},                      // 6to4
      {"64:ff9b::169.254.169.254", "64:ff9b::8.8.8.8"},              // NAT64
      {"64:ff9b:1::192.168.1.1", "64:ff9b:1::8.8.8.8"},              // local NAT64, /96
      {"64:ff9b:1:a00:0:100::", "64:ff9b:1:808:8:800::"},            // local NAT64, /48: 10.0.0.1
      {"64:ff9b:1:000a:0000:0001::", "64:ff9b:1:0008:0008:0808::"},  // /56: 10.0.0.1
      {"64:ff9b:1:0:000a:0000:0100:0", "64:ff9b:1:0:0008:0808:0800:0"},  // /64: 10.0.0.1
      {"2001:0:0808:0808::f5ff:fffe", "2001:0:0808:0808::f7f7:f7f7"},    // Teredo client 10.0.0.1
      {"2001:0:0a00:0001::f7f7:f7f7", "2001:0:0808:0808::f7f7:f7f7"},    // Teredo server 10.0.0.1
  };
  for (const auto& row : rows) {
    EXPECT_TRUE(denied(policy, row.bad)) << row.bad;
    EXPECT_FALSE(denied(policy, row.good)) << row.good;
  }
}

// T120
TEST(PeerPolicy, IsatapAddressesAreDeniedUnlessARuleNamesThem) {
  EXPECT_TRUE(denied(PeerPolicy({}, {}), "2a00:1:2:3:0:5efe:8.8.8.8"));
  EXPECT_TRUE(denied(PeerPolicy({}, {}), "2a00:1:2:3:200:5efe:8.8.8.8"));
  PeersConfig config;
  config.allow.push_back(cidr("2a00:1:2:3::", 64));
  const PeerPolicy policy(config, {});
  EXPECT_FALSE(denied(policy, "2a00:1:2:3:0:5efe:8.8.8.8"));
  EXPECT_TRUE(denied(policy, "2a00:1:2:3:0:5efe:10.0.0.1"));
}

TEST(PeerPolicy, TheLongestPrefixDecidesAndAllowWinsATie) {
  PeersConfig config;
  config.allow = {cidr("10.0.0.0", 8), cidr("10.1.2.3", 32), cidr("0.0.0.0", 0)};
  config.deny = {cidr("10.1.0.0", 16), cidr("8.8.0.0", 16)};
  const PeerPolicy policy(config, {});
  EXPECT_FALSE(denied(policy, "10.0.0.1")) << "same prefix as the built-in rule";
  EXPECT_TRUE(denied(policy, "10.1.0.1")) << "a longer deny inside the allow";
  EXPECT_FALSE(denied(policy, "10.1.2.3")) << "a longer allow inside the deny";
  EXPECT_TRUE(denied(policy, "10.1.2.4"));
  EXPECT_TRUE(denied(policy, "8.8.4.4"));
  EXPECT_FALSE(denied(policy, "8.9.0.1"));
  EXPECT_TRUE(denied(policy, "192.168.0.1")) << "allowing everything does not open private ranges";
}

TEST(PeerPolicy, WithoutTheDefaultListOnlyTheOperatorsRulesCount) {
  PeersConfig config;
  config.default_deny = false;
  config.deny = {cidr("10.0.0.0", 8)};
  const PeerPolicy policy(config, {});
  EXPECT_FALSE(denied(policy, "127.0.0.1"));
  EXPECT_TRUE(denied(policy, "10.2.3.4"));
  EXPECT_TRUE(denied(policy, "::ffff:10.2.3.4")) << "another spelling of a denied address";
}

TEST(PeerPolicy, OwnRelayedAddressesAreGrantedInsideDeniedRangesAndListenersAreRefused) {
  const LocalAddress own[] = {
      {ip("10.0.0.5"), ip("198.51.100.7"), true},
      {ip("fd00::5"), ip("fd00::5"), true},
      {ip("93.184.216.34"), ip("93.184.216.34"), false},
  };
  const PeerPolicy policy({}, own);
  EXPECT_EQ(policy.judge(ip("10.0.0.5")), PeerVerdict::kOwnRelay);
  EXPECT_EQ(policy.judge(ip("198.51.100.7")), PeerVerdict::kOwnRelay) << "the advertised side";
  EXPECT_EQ(policy.judge(ip("fd00::5")), PeerVerdict::kOwnRelay);
  EXPECT_EQ(policy.judge(ip("10.0.0.6")), PeerVerdict::kDenied);
  EXPECT_EQ(policy.judge(ip("93.184.216.34")), PeerVerdict::kDenied) << "a listener, T119";
}

TEST(PeerPolicy, NoAllowRuleReachesAnOwnAddressBySpellingItDifferently) {
  const LocalAddress own[] = {{ip("93.184.216.34"), ip("93.184.216.34"), true},
                              {ip("93.184.216.35"), ip("93.184.216.35"), false}};
  PeersConfig config;
  config.allow = {cidr("::ffff:0:0", 96), cidr("93.184.216.0", 24)};
  const PeerPolicy policy(config, own);
  EXPECT_TRUE(denied(policy, "::ffff:93.184.216.34"));
  EXPECT_TRUE(denied(policy, "::ffff:93.184.216.35"));
  EXPECT_TRUE(denied(policy, "93.184.216.35")) << "a listener, although its network is allowed";
  EXPECT_FALSE(denied(policy, "::ffff:93.184.216.36"));
}

}  // namespace
}  // namespace culvert
