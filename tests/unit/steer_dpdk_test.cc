// What a NIC would do with our keys and tables, computed by DPDK's own Toeplitz hash; and ports
// that refuse rules, which every port on this machine does in one way or another.
#include <gtest/gtest.h>
#include <rte_thash.h>
#include <sched.h>
#include <unistd.h>

#include <iostream>
#include <random>

#include "dataplane/io/dpdk/eal.h"
#include "dataplane/io/dpdk/ports.h"
#include "dataplane/steer/plan.h"
#include "tests/support/needs.h"

namespace culvert::test {
namespace {

class Tuples {
 public:
  Tuples() : seed_(std::random_device()()), random_(seed_) {
    std::cout << "seed " << seed_ << "\n";
  }
  RssKey key() {
    RssKey key;
    for (uint8_t& byte : key)
      byte = static_cast<uint8_t>(random_());
    return key;
  }
  TransportAddress address(Family family) {
    std::array<uint8_t, 16> bytes;
    for (uint8_t& byte : bytes)
      byte = static_cast<uint8_t>(random_());
    return {family == Family::kIpv4 ? IpAddress::v4_bytes(bytes.data())
                                    : IpAddress::v6_bytes(bytes.data()),
            static_cast<uint16_t>(random_())};
  }

 private:
  uint32_t seed_;
  std::mt19937 random_;
};

// The tuple as rte_softrss takes it: words in host order.
uint32_t dpdk_hash(const RssKey& key, const TransportAddress& source,
                   const TransportAddress& destination) {
  std::vector<uint32_t> words;
  for (const TransportAddress* end : {&source, &destination})
    for (size_t at = 0; at < end->ip.size(); at += 4)
      words.push_back(load_be32(end->ip.wire() + at));
  words.push_back(uint32_t{source.port} << 16 | destination.port);
  return rte_softrss(words.data(), static_cast<uint32_t>(words.size()), key.data());
}

constexpr std::array kFamilies = {Family::kIpv4, Family::kIpv6};

TEST(SteerDpdk, OurHashIsTheOneThatDpdkComputes) {
  Tuples tuples;
  for (int round = 0; round < 2000; ++round) {
    const RssKey key = tuples.key();
    for (const Family family : kFamilies) {
      const TransportAddress from = tuples.address(family), to = tuples.address(family);
      ASSERT_EQ(rss_hash(key, from, to), dpdk_hash(key, from, to));
      // By the table that is written to the port (RETA index: the hash's low bits).
      for (const CoreId cores : {CoreId{2}, CoreId{3}, CoreId{4}})
        ASSERT_EQ(client_owner(key, from, to, cores),
                  redirection(dpdk_hash(key, from, to) & (kRedirectionEntries - 1), cores));
    }
  }
}

TEST(SteerDpdk, TheDestinationPortKeyBringsEveryPortToItsOwnerWhateverElseStandsInTheTuple) {
  Tuples tuples;
  for (const Family family : kFamilies) {
    const RssKey key = destination_port_key(family);
    for (uint32_t port = 0; port < 65536; ++port) {
      TransportAddress to = tuples.address(family);
      to.port = static_cast<uint16_t>(port);
      const uint32_t entry = dpdk_hash(key, tuples.address(family), to) & (kRedirectionEntries - 1);
      for (const CoreId cores : {CoreId{1}, CoreId{2}, CoreId{3}, CoreId{4}, CoreId{12}})
        ASSERT_EQ(destination_port_redirection(entry, cores), owner(to.port, cores)) << port;
    }
  }
}

// One EAL for all tests: it can be started once in a process.
Eal& eal() {
  static Eal only({"--lcores", "0@0", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry",
                   "--iova-mode=va", "--log-level", "*:error", "--file-prefix",
                   "culvert_steer_" + std::to_string(getpid())});
  return only;
}

void expect_no_rules(const std::string& device, const std::string& arguments) {
  eal().attach(device, arguments);
  {
    PortsOptions options;
    options.cores = 2;
    options.descriptors = 256;
    options.relays = {IpAddress::parse("198.51.100.1").value(),
                      IpAddress::parse("2001:db8::1").value()};
    const DpdkPorts ports(options);
    const Port& port = ports.ports().at(0);
    ASSERT_EQ(port.rx_queues, 2);
    EXPECT_EQ(port.rules.method(), FlowRules::Method::kNone);
    EXPECT_EQ(port.rules.count(), 0u);
    EXPECT_NE(port.rules.why(), "");
    EXPECT_NE(port.rules.why(), "nothing to steer");  // it was asked
  }
  eal().detach(device);
}

TEST(SteerDpdk, APortWithoutFlowRulesIsLeftWithNoneAndSaysWhy) {
  expect_no_rules("net_null_steer", "");
}

// It finds the rules good and then cannot make them.
TEST(SteerDpdk, APortThatTakesRulesAndCannotMakeThemIsLeftWithNone) {
  CULVERT_TEST_NEEDS(geteuid() == 0, "root, for a TAP device");
  ASSERT_EQ(unshare(CLONE_NEWNET), 0) << "a network namespace of the test's own";
  expect_no_rules("net_tap_steer", "iface=steer0");
}

}  // namespace
}  // namespace culvert::test
