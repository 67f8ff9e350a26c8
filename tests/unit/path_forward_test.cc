// Forwarding: ChannelData, Send and Data, hairpins, expiry, police, header fields.
#include <gtest/gtest.h>

#include "tests/support/core_fixture.h"

namespace culvert::test {
namespace {

const TransportAddress kClient = at("192.0.2.10:5000");
const TransportAddress kClient6 = at("[2001:db8:c::5]:5000");

TEST(Forward, ChannelDataReachesThePeerFromTheRelayedPort) {
  TestCore core;
  core.allocate(0, kClient, 50000);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  const Bytes in = channel_data(0x4001, bytes_of("hello"));
  const auto sent = core.run(core.from_client(kClient, in));
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0].to, at("192.0.2.99:7000"));
  EXPECT_EQ(sent[0].from_port, 50000);
  EXPECT_EQ(sent[0].egress, 100u);
  EXPECT_EQ(sent[0].payload, bytes_of("hello"));
  EXPECT_EQ(core.outcome(Outcome::k_relayed_channel_to_peer), 1u);
  EXPECT_TRUE(core.conserved());
}

TEST(Forward, BytesAfterTheChannelDataLengthAreIgnored) {  // turn.md row 85
  TestCore core;
  core.allocate(0, kClient, 50000);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  Bytes in = channel_data(0x4001, bytes_of("abc"));
  in.push_back(0);
  EXPECT_EQ(core.run(core.from_client(kClient, in)).at(0).payload, bytes_of("abc"));
}

TEST(Forward, EmptyChannelDataSendsAnEmptyDatagram) {  // row 86
  TestCore core;
  core.allocate(0, kClient, 50000);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  const Bytes in = channel_data(0x4001, {});
  const auto sent = core.run(core.from_client(kClient, in));
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_TRUE(sent[0].payload.empty());
}

TEST(Forward, ChannelDataShorterThanItsLengthIsDropped) {
  TestCore core;
  core.allocate(0, kClient, 50000);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  Bytes in = channel_data(0x4001, bytes_of("abcd"));
  in.pop_back();
  EXPECT_TRUE(core.run(core.from_client(kClient, in)).empty());
  EXPECT_EQ(core.outcome(Outcome::k_channel_data_short), 1u);
}

TEST(Forward, APeerWithAChannelBecomesChannelData) {
  TestCore core;
  core.allocate(0, kClient, 50000);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  const Bytes in = bytes_of("from peer");
  const auto sent = core.run(core.from_peer(at("192.0.2.99:7000"), 50000, in));
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0].to, kClient);
  EXPECT_EQ(sent[0].from_port, 3478);
  EXPECT_EQ(sent[0].payload, channel_data(0x4001, in));
}

TEST(Forward, AnotherPortOfABoundPeerBecomesADataIndication) {  // row 83
  TestCore core;
  core.allocate(0, kClient, 50000);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  const Bytes in = bytes_of("other");
  const auto sent = core.run(core.from_peer(at("192.0.2.99:7001"), 50000, in));
  ASSERT_EQ(sent.size(), 1u);
  stun::Message message;
  ASSERT_EQ(stun::Message::parse(sent[0].payload, message), stun::ParseError::kNone);
  EXPECT_EQ(message.method(), stun::kData);
  EXPECT_EQ(message.message_class(), stun::Class::kIndication);
  EXPECT_EQ(message.xor_address(message.value(stun::AttributeSlot::kXorPeerAddress)),
            at("192.0.2.99:7001"));
  const auto data = message.value(stun::AttributeSlot::kData);
  EXPECT_EQ(Bytes(data.begin(), data.end()), in);
}

TEST(Forward, ASendToAV4MappedAddressDoesNotUseTheIpv4PeersPermission) {
  TestCore core;
  core.allocate(0, kClient, 50000, 50001);
  ASSERT_EQ(core.permit(0, "192.0.2.99"), ApplyError::kNone);
  const Bytes in = send_indication(at("[::ffff:192.0.2.99]:7000"), bytes_of("x"));
  EXPECT_TRUE(core.run(core.from_client(kClient, in)).empty());
  EXPECT_EQ(core.outcome(Outcome::k_no_permission), 1u);
  EXPECT_TRUE(core.conserved());
}

TEST(Forward, SendIndicationsNeedAPermissionAndNothingElse) {
  TestCore core;
  core.allocate(0, kClient, 50000);
  const Bytes in = send_indication(at("192.0.2.99:7000"), bytes_of("x"));
  EXPECT_TRUE(core.run(core.from_client(kClient, in)).empty());
  EXPECT_EQ(core.outcome(Outcome::k_no_permission), 1u);
  ASSERT_EQ(core.permit(0, "192.0.2.99"), ApplyError::kNone);
  const auto sent = core.run(core.from_client(kClient, in));
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0].to, at("192.0.2.99:7000"));
  EXPECT_FALSE(sent[0].dont_fragment);
  const Bytes df = send_indication(at("192.0.2.99:7000"), bytes_of("x"), true);
  EXPECT_TRUE(core.run(core.from_client(kClient, df)).at(0).dont_fragment);
}

TEST(Forward, PermissionsEndAfterExactly300Seconds) {  // row 65
  TestCore core;
  core.allocate(0, kClient, 50000);
  ASSERT_EQ(core.permit(0, "192.0.2.99"), ApplyError::kNone);
  const Bytes in = bytes_of("x");
  EXPECT_EQ(core.run(core.from_peer(at("192.0.2.99:1"), 50000, in), 299'999).size(), 1u);
  EXPECT_EQ(core.run(core.from_peer(at("192.0.2.99:1"), 50000, in), 300'000).size(), 0u);
  EXPECT_EQ(core.outcome(Outcome::k_no_permission), 1u);
}

TEST(Forward, AChannelOutlivesItsPermissionAndComesBackWithIt) {  // row 81
  TestCore core;
  core.allocate(0, kClient, 50000);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  const Bytes in = channel_data(0x4001, bytes_of("x"));
  EXPECT_EQ(core.run(core.from_client(kClient, in), 300'000).size(), 0u);
  EXPECT_EQ(core.outcome(Outcome::k_no_permission), 1u);
  ASSERT_EQ(core.permit(0, "192.0.2.99", 310'000), ApplyError::kNone);
  EXPECT_EQ(core.run(core.from_client(kClient, in), 311'000).size(), 1u);
  EXPECT_EQ(core.run(core.from_client(kClient, in), 599'999).size(), 1u);
  EXPECT_EQ(core.run(core.from_client(kClient, in), 600'000).size(), 0u);
}

TEST(Forward, APeerWhoseChannelEndedGetsDataIndicationsWhileItsPermissionLives) {
  TestCore core;
  core.allocate(0, kClient, 50000, 0, 3'600'000);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  ASSERT_EQ(core.permit(0, "192.0.2.99", 500'000), ApplyError::kNone);
  const Bytes in = bytes_of("x");
  const auto sent = core.run(core.from_peer(at("192.0.2.99:7000"), 50000, in), 700'000);
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(core.outcome(Outcome::k_relayed_peer_to_data), 1u);
}

TEST(Forward, NothingPassesAfterTheAllocationsLifetime) {
  TestCore core;
  core.allocate(0, kClient, 50000, 0, 100'000);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  const Bytes in = channel_data(0x4001, bytes_of("x"));
  EXPECT_EQ(core.run(core.from_client(kClient, in), 99'999).size(), 1u);
  EXPECT_EQ(core.run(core.from_client(kClient, in), 100'000).size(), 0u);
  EXPECT_EQ(core.outcome(Outcome::k_expired_allocation), 1u);
}

TEST(Forward, APeersDatagramThatLeavesNoRoomForAChannelHeaderIsTooBig) {
  TestCore core;
  core.allocate(0, kClient, 50000);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  const Bytes fits(kMaxUdpPayload - kChannelHeaderSize);
  EXPECT_EQ(core.run(core.from_peer(at("192.0.2.99:7000"), 50000, fits)).size(), 1u);
  const Bytes large(fits.size() + 1);
  EXPECT_TRUE(core.run(core.from_peer(at("192.0.2.99:7000"), 50000, large)).empty());
  EXPECT_EQ(core.outcome(Outcome::k_too_big), 1u);
  EXPECT_TRUE(core.conserved());
}

TEST(Forward, TtlIsDecrementedAndTosCopied) {  // rows 89, 91
  TestCore core;
  core.allocate(0, kClient, 50000);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  const Bytes in = channel_data(0x4001, bytes_of("x"));
  RxDatagram rx = core.from_client(kClient, in);
  rx.ttl = 17;
  rx.tos = 0xb9;
  const auto sent = core.run(rx);
  EXPECT_EQ(sent.at(0).ttl, 16);
  EXPECT_EQ(sent.at(0).tos, 0xb9);
  rx.ttl = 1;
  EXPECT_TRUE(core.run(rx).empty());
  EXPECT_EQ(core.outcome(Outcome::k_ttl_exceeded), 1u);
}

TEST(Forward, DontFragmentFollowsTheDatagramBetweenIpv4Sides) {  // row 90
  TestCore core;
  core.allocate(0, kClient, 50000);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  const Bytes in = channel_data(0x4001, bytes_of("x"));
  RxDatagram rx = core.from_client(kClient, in);
  rx.df = DontFragment::kSet;
  EXPECT_TRUE(core.run(rx).at(0).dont_fragment);
  rx.df = DontFragment::kUnknown;
  EXPECT_FALSE(core.run(rx).at(0).dont_fragment);
}

TEST(Forward, CrossFamilyChannelsWorkInBothDirections) {
  TestCore core;
  core.allocate(0, kClient6, 50000, 50001);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  ASSERT_EQ(core.bind(0, 0x4002, "[2001:db8::99]:7000"), ApplyError::kNone);
  const Bytes to4 = channel_data(0x4001, bytes_of("four"));
  const Bytes to6 = channel_data(0x4002, bytes_of("six"));
  const auto sent = core.run({core.from_client(kClient6, to4), core.from_client(kClient6, to6)});
  ASSERT_EQ(sent.size(), 2u);
  EXPECT_EQ(sent[0].to, at("192.0.2.99:7000"));
  EXPECT_EQ(sent[0].from_port, 50000);
  EXPECT_EQ(sent[1].to, at("[2001:db8::99]:7000"));
  EXPECT_EQ(sent[1].from_port, 50001);
  const Bytes back = bytes_of("back");
  EXPECT_EQ(core.run(core.from_peer(at("192.0.2.99:7000"), 50000, back)).at(0).payload,
            channel_data(0x4001, back));
}

TEST(Forward, AnIpv4ClientWithAnIpv6PeerUsesTheWideTable) {
  TestCore core;
  core.allocate(0, kClient, 0, 50001);
  ASSERT_EQ(core.bind(0, 0x4002, "[2001:db8::99]:7000"), ApplyError::kNone);
  const Bytes in = channel_data(0x4002, bytes_of("six"));
  EXPECT_EQ(core.run(core.from_client(kClient, in)).at(0).to, at("[2001:db8::99]:7000"));
}

TEST(Forward, TheRelayPolicesAUsersBandwidth) {
  TestCore core;
  InstallAllocation command;
  command.handle = {0, 1};
  command.client.client = kClient;
  command.ipv4 = {0, 50000};
  command.lifetime_ms = 600'000;
  command.policer = 3;
  core.state->flows.policers[3] = {1000, 100, 100, 0};
  ASSERT_TRUE(core.state->flows.install(command, {1, kNoEgress}, 0, 0));
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  const Bytes in = channel_data(0x4001, Bytes(60, 'x'));
  EXPECT_EQ(core.run(core.from_client(kClient, in)).size(), 1u);
  EXPECT_EQ(core.run(core.from_client(kClient, in)).size(), 0u);
  EXPECT_EQ(core.outcome(Outcome::k_policed), 1u);
  EXPECT_EQ(core.run(core.from_client(kClient, in), 20).size(), 1u);  // 40 left + 20 refilled
}

TEST(Forward, HairpinsArriveAtTheOtherClientInOnePass) {
  TestCore core;
  const TransportAddress other = at("192.0.2.20:6000");
  core.allocate(0, kClient, 50000);
  core.allocate(1, other, 50002);
  // Both know each other by the advertised address.
  ASSERT_EQ(core.bind(0, 0x4001, "203.0.113.9:50002", 0, true), ApplyError::kNone);
  ASSERT_EQ(core.bind(1, 0x4005, "203.0.113.9:50000", 0, true), ApplyError::kNone);
  const Bytes in = channel_data(0x4001, bytes_of("across"));
  const auto sent = core.run(core.from_client(kClient, in));
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0].to, other);
  EXPECT_EQ(sent[0].payload, channel_data(0x4005, bytes_of("across")));
  EXPECT_EQ(core.outcome(Outcome::k_hairpinned), 1u);
  EXPECT_EQ(core.outcome(Outcome::k_relayed_peer_to_channel), 1u);
  EXPECT_TRUE(core.conserved());
}

TEST(Forward, AHairpinToAPortThatIsNotRelayedIsDropped) {
  TestCore core;
  core.allocate(0, kClient, 50000);
  ASSERT_EQ(core.permit(0, "198.51.100.1", 0, true), ApplyError::kNone);
  for (const char* target : {"198.51.100.1:50004", "198.51.100.1:22"}) {
    const Bytes in = send_indication(at(target), bytes_of("x"));
    EXPECT_TRUE(core.run(core.from_client(kClient, in)).empty());
  }
  EXPECT_EQ(core.outcome(Outcome::k_own_port_not_relayed), 2u);
  EXPECT_TRUE(core.conserved());
}

TEST(Forward, AHairpinNeedsTheOtherSidesPermission) {
  TestCore core;
  core.allocate(0, kClient, 50000);
  core.allocate(1, at("192.0.2.20:6000"), 50002);
  ASSERT_EQ(core.permit(0, "198.51.100.1", 0, true), ApplyError::kNone);
  const Bytes in = send_indication(at("198.51.100.1:50002"), bytes_of("x"));
  EXPECT_TRUE(core.run(core.from_client(kClient, in)).empty());
  EXPECT_EQ(core.outcome(Outcome::k_no_permission), 1u);
}

TEST(Forward, AHairpinToAnotherCoresPortGoesOverItsRing) {
  TestCore core(TestCore::small_limits(), 0, 2);
  std::vector<RingSlot> memory(1024);
  SpscRing ring(memory);
  core.state->handoff[1] = &ring;
  core.allocate(0, kClient, 50000);
  ASSERT_EQ(core.permit(0, "198.51.100.1", 0, true), ApplyError::kNone);
  const Bytes in = send_indication(at("198.51.100.1:50002"), bytes_of("cross"));
  EXPECT_TRUE(core.run(core.from_client(kClient, in)).empty());
  EXPECT_EQ(core.outcome(Outcome::k_hairpin_cross), 1u);
  const MessageView view(ring.front());
  EXPECT_EQ(Bytes(view.payload().begin(), view.payload().end()), bytes_of("cross"));
  EXPECT_EQ(view.as<Handoff>().datagram.source, at("203.0.113.9:50000"));
  EXPECT_EQ(core.state->wake_cores, 2u);
}

TEST(Forward, IcmpErrorsBecomeDataIndications) {  // rows 76-78
  TestCore core;
  core.allocate(0, kClient, 50000);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  RxDatagram rx;
  rx.kind = RxKind::kIcmpError;
  rx.relay = {0, 50000};
  rx.source = at("192.0.2.99:7000");
  rx.icmp_type = 3;
  rx.icmp_code = 4;
  rx.icmp_mtu = 1400;
  const auto sent = core.run(rx);
  ASSERT_EQ(sent.size(), 1u);
  stun::Message message;
  ASSERT_EQ(stun::Message::parse(sent[0].payload, message), stun::ParseError::kNone);
  const auto icmp = message.value(stun::AttributeSlot::kIcmp);
  ASSERT_EQ(icmp.size(), 8u);
  EXPECT_EQ(load_be16(icmp.data()), 0);
  EXPECT_EQ(load_be16(icmp.data() + 2), 3 << 9 | 4);
  EXPECT_EQ(load_be32(icmp.data() + 4), 1400u);
  EXPECT_EQ(message.xor_address(message.value(stun::AttributeSlot::kXorPeerAddress)),
            at("192.0.2.99:7000"));
  rx.icmp_type = 5;
  EXPECT_TRUE(core.run(rx).empty());
  rx.icmp_type = 3;
  rx.source = at("192.0.2.98:7000");
  EXPECT_TRUE(core.run(rx).empty());
  EXPECT_EQ(core.outcome(Outcome::k_icmp_type_ignored), 1u);
  EXPECT_EQ(core.outcome(Outcome::k_icmp_unmatched), 1u);
}

// A driver may bring it to any core: the owner of the relayed port decides, as for a peer's
// datagram.
TEST(Forward, AnIcmpErrorThatComesToAnotherCoreIsHandedToTheOwnerOfItsPort) {
  TestCore other(TestCore::small_limits(), 0, 2);  // port 50002 belongs to core 1
  std::vector<RingSlot> memory(256);
  SpscRing ring(memory);
  other.state->handoff[1] = &ring;
  RxDatagram rx;
  rx.kind = RxKind::kIcmpError;
  rx.relay = {0, 50002};
  rx.source = at("192.0.2.99:7000");
  rx.icmp_type = 3;
  rx.icmp_code = 4;
  rx.icmp_mtu = 1400;
  EXPECT_TRUE(other.run(rx).empty());
  EXPECT_EQ(other.outcome(Outcome::k_handoff), 1u);
  ASSERT_NE(ring.front(), nullptr);

  TestCore owner_core(TestCore::small_limits(), 1, 2);
  owner_core.allocate(0, kClient, 50002);
  ASSERT_EQ(owner_core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  rx = MessageView(ring.front()).as<Handoff>().datagram;
  EXPECT_EQ(rx.icmp_mtu, 1400u);
  EXPECT_EQ(owner_core.run(rx).size(), 1u);
  EXPECT_EQ(owner_core.outcome(Outcome::k_relayed_icmp_to_data), 1u);
  // Nobody's port: it is not handed on for ever.
  rx.relay.port = 50004;  // core 0's
  EXPECT_TRUE(owner_core.run(rx).empty());
  EXPECT_EQ(owner_core.outcome(Outcome::k_icmp_unmatched), 1u);
}

TEST(Forward, OrderWithinABurstIsKept) {
  TestCore core;
  core.allocate(0, kClient, 50000);
  ASSERT_EQ(core.bind(0, 0x4001, "192.0.2.99:7000"), ApplyError::kNone);
  std::vector<Bytes> payloads;
  for (uint8_t i = 0; i < 40; ++i)
    payloads.push_back(i % 2 == 0 ? channel_data(0x4001, {i})
                                  : send_indication(at("192.0.2.99:7000"), {i}));
  std::vector<RxDatagram> in;
  for (const Bytes& p : payloads)
    in.push_back(core.from_client(kClient, p));
  const auto sent = core.run(in);
  ASSERT_EQ(sent.size(), 40u);
  for (uint8_t i = 0; i < 40; ++i)
    EXPECT_EQ(sent[i].payload, Bytes{i});
}

}  // namespace
}  // namespace culvert::test
