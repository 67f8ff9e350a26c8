// The XDP program's verdicts, by BPF_PROG_TEST_RUN in the kernel over frames made by hand: each
// class of frame, cut at every length, and with random bytes, where the driver's own parser judges.
#include "dataplane/io/dpdk/xdp_program.h"

#include <bpf/bpf.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <vector>

#include "dataplane/wire/checksum.h"
#include "dataplane/wire/frame.h"
#include "tests/support/needs.h"

namespace culvert {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr uint16_t kListenPort = 3478;
constexpr uint16_t kRelayLow = 49152;
constexpr uint16_t kRelayHigh = 49300;
constexpr uint8_t kUdp = 17;
constexpr uint8_t kTcp = 6;

const IpAddress kOurs4 = *IpAddress::parse("192.0.2.1");
const IpAddress kOurs6 = *IpAddress::parse("2001:db8::1");
const IpAddress kOnlyListens = *IpAddress::parse("192.0.2.2");
const IpAddress kOther4 = *IpAddress::parse("192.0.2.3");
const IpAddress kPeer4 = *IpAddress::parse("198.51.100.7");
const IpAddress kPeer6 = *IpAddress::parse("2001:db8:1::7");

Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Bytes be16(size_t value) {
  return {static_cast<uint8_t>(value >> 8), static_cast<uint8_t>(value)};
}

Bytes wire(const IpAddress& ip) {
  return Bytes(ip.wire(), ip.wire() + (ip.is_v4() ? 4 : 16));
}

void put16(Bytes& at, size_t offset, size_t value) {
  at[offset] = static_cast<uint8_t>(value >> 8);
  at[offset + 1] = static_cast<uint8_t>(value);
}

// The checksum field at `offset`, over `from` to the end of what is summed.
void put_checksum(Bytes& bytes, size_t offset, size_t from, size_t length, uint64_t start) {
  put16(bytes, offset, 0);
  const uint16_t sum =
      static_cast<uint16_t>(~checksum::fold(checksum::sum(bytes.data() + from, length, start)));
  std::memcpy(&bytes[offset], &sum, sizeof sum);
}

Bytes udp(uint16_t source, uint16_t destination, size_t payload = 20) {
  // A sum of its own: over IPv6 none would not do, and the program does not look.
  return be16(source) + be16(destination) + be16(8 + payload) + Bytes{0x12, 0x34} +
         Bytes(payload, 0xab);
}

struct Ip {
  IpAddress from;
  IpAddress to;
  uint8_t protocol = kUdp;
  uint16_t fragment = 0;  // IPv4: flags and offset
  uint16_t id = 7;
  Bytes options = {};  // IPv4: a multiple of four bytes
  Bytes extension_headers = {};
  uint8_t first_extension = kUdp;
};

Bytes packet(const Ip& ip, const Bytes& upper) {
  if (ip.to.is_v4()) {
    Bytes out = Bytes{static_cast<uint8_t>(0x45 + ip.options.size() / 4), 0} +
                be16(20 + ip.options.size() + upper.size()) + be16(ip.id) + be16(ip.fragment) +
                Bytes{64, ip.protocol, 0, 0} + wire(ip.from) + wire(ip.to) + ip.options;
    put_checksum(out, 10, 0, out.size(), 0);
    return out + upper;
  }
  const uint8_t next = ip.extension_headers.empty() ? ip.protocol : ip.first_extension;
  return Bytes{0x60, 0, 0, 0} + be16(ip.extension_headers.size() + upper.size()) + Bytes{next, 64} +
         wire(ip.from) + wire(ip.to) + ip.extension_headers + upper;
}

Bytes frame_of(const Bytes& packet, uint16_t type, uint8_t first_byte = 2) {
  return Bytes{first_byte, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2} + be16(type) + packet;
}

Bytes frame_of(const Ip& ip, const Bytes& upper) {
  return frame_of(packet(ip, upper), ip.to.is_v4() ? frame::kEtherIpv4 : frame::kEtherIpv6);
}

// An error of that type about a datagram that `ip.to` sent.
Bytes icmp_error(Ip ip, uint8_t type, const Bytes& quoted) {
  ip.protocol = ip.to.is_v4() ? frame::kProtocolIcmp : frame::kProtocolIcmpv6;
  Bytes icmp = Bytes{type, 0, 0, 0, 0, 0, 0, 0} + quoted;
  const uint64_t start =
      ip.to.is_v4() ? 0
                    : checksum::pseudo_v6(ip.from.wire(), ip.to.wire(), frame::kProtocolIcmpv6,
                                          static_cast<uint16_t>(icmp.size()));
  put_checksum(icmp, 2, 0, icmp.size(), start);
  return frame_of(ip, icmp);
}

Bytes fragment_header(uint16_t offset_and_more, uint8_t id, uint8_t next = kUdp) {
  return Bytes{next, 0} + be16(offset_and_more) + Bytes{0, 0, 0, id};
}

Snapshot snapshot() {
  Snapshot s;
  s.addresses = {{kOurs4, kOurs4, true}, {kOurs6, kOurs6, true}, {kOnlyListens, {}, false}};
  s.relay_port_low = kRelayLow;
  s.relay_port_high = kRelayHigh;
  for (uint16_t address = 0; address < 3; ++address) {
    Listener listener;
    listener.address = address;
    listener.port = kListenPort;
    s.listeners.push_back(listener);
  }
  return s;
}

class XdpVerdict : public testing::Test {
 protected:
  void SetUp() override {
    CULVERT_TEST_NEEDS(geteuid() == 0, "root, to load an XDP program");
    program_ = std::make_unique<XdpProgram>(snapshot());
    // A socket that is bound to nothing stands for the relay's: test runs come by queue 0.
    socket_ = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
    ASSERT_GE(socket_, 0) << std::strerror(errno);
    serve_queue();
  }
  void TearDown() override {
    if (socket_ >= 0) close(socket_);
  }
  void serve_queue() {
    const uint32_t queue = 0;
    ASSERT_EQ(bpf_map_update_elem(program_->sockets_fd(), &queue, &socket_, BPF_ANY), 0);
  }

  // One frame's verdict, which must agree with what happened to it: redirected, or passed.
  relay_verdict verdict(const Bytes& frame) {
    const XdpProgram::Counts before = program_->counts();
    bpf_test_run_opts run{};
    run.sz = sizeof run;
    run.data_in = frame.data();
    run.data_size_in = static_cast<uint32_t>(frame.size());
    run.repeat = 1;
    EXPECT_EQ(bpf_prog_test_run_opts(program_->program_fd(), &run), 0) << std::strerror(errno);
    const XdpProgram::Counts after = program_->counts();
    int found = -1;
    for (size_t i = 0; i < after.size(); ++i) {
      if (after[i] == before[i]) continue;
      EXPECT_EQ(after[i], before[i] + 1);
      EXPECT_EQ(found, -1) << "a frame is counted once";
      found = static_cast<int>(i);
    }
    EXPECT_NE(found, -1) << "a frame is counted";
    EXPECT_EQ(run.retval, to_us(found) ? XDP_REDIRECT : XDP_PASS) << "verdict " << found;
    return static_cast<relay_verdict>(found);
  }
  static bool to_us(int verdict) {
    constexpr bool kToUs[] = {
#define X(name, to_us, text) to_us != 0,
        RELAY_XDP_VERDICTS(X)
#undef X
    };
    return kToUs[verdict];
  }

  std::unique_ptr<XdpProgram> program_;
  int socket_ = -1;
};

const Ip kIn4{kPeer4, kOurs4};
const Ip kIn6{kPeer6, kOurs6};

TEST_F(XdpVerdict, UdpToListenersAndRelayedPortsIsOurs) {
  for (const Ip& ip : {kIn4, kIn6})
    for (const uint16_t port : {kListenPort, kRelayLow, uint16_t{49199}, kRelayHigh})
      EXPECT_EQ(verdict(frame_of(ip, udp(5000, port))), RELAY_XDP_udp) << port;
  EXPECT_EQ(verdict(frame_of({kPeer4, kOnlyListens}, udp(5000, kListenPort))), RELAY_XDP_udp);
  EXPECT_EQ(verdict(frame_of(kIn4, udp(5000, kListenPort, 0))), RELAY_XDP_udp);
  EXPECT_EQ(verdict(frame_of(kIn4, udp(5000, kListenPort)) + Bytes(18, 0)), RELAY_XDP_udp)
      << "with Ethernet's padding";
}

TEST_F(XdpVerdict, UdpToOtherPortsAndAddressesIsTheKernels) {
  for (const Ip& ip : {kIn4, kIn6})
    for (const int port : {0, 53, 3477, 3479, kRelayLow - 1, kRelayHigh + 1, 65535})
      EXPECT_EQ(verdict(frame_of(ip, udp(kListenPort, static_cast<uint16_t>(port)))),
                RELAY_XDP_other)
          << port;
  EXPECT_EQ(verdict(frame_of({kPeer4, kOnlyListens}, udp(5000, kRelayLow))), RELAY_XDP_other);
  EXPECT_EQ(verdict(frame_of({kPeer4, kOther4}, udp(5000, kListenPort))), RELAY_XDP_other);
  EXPECT_EQ(verdict(frame_of({kPeer6, kPeer6}, udp(5000, kListenPort))), RELAY_XDP_other);
}

TEST_F(XdpVerdict, WhatIsNotUdpIsTheKernels) {
  const auto as = [](Ip ip, uint8_t protocol) {
    ip.protocol = protocol;
    return ip;
  };
  // To the listener's port number, so that a parser that forgets the protocol is found out.
  const Bytes body = udp(kListenPort, kListenPort, 40);
  for (const Ip& ip : {kIn4, kIn6})
    for (const uint8_t protocol : {uint8_t{2}, kTcp, uint8_t{50}, uint8_t{132}})
      EXPECT_EQ(verdict(frame_of(as(ip, protocol), body)), RELAY_XDP_other) << int{protocol};
  // Echo, neighbour solicitation and advertisement.
  for (const uint8_t type : {uint8_t{0}, uint8_t{8}, uint8_t{5}})
    EXPECT_EQ(verdict(icmp_error(kIn4, type, body)), RELAY_XDP_other) << int{type};
  for (const uint8_t type : {uint8_t{128}, uint8_t{129}, uint8_t{135}, uint8_t{136}, uint8_t{0}})
    EXPECT_EQ(verdict(icmp_error(kIn6, type, body)), RELAY_XDP_other) << int{type};
  EXPECT_EQ(verdict(frame_of(Bytes(28, 0), 0x0806)), RELAY_XDP_other) << "ARP";
  EXPECT_EQ(verdict(frame_of(Bytes(46, 0), 0x88cc)), RELAY_XDP_other) << "LLDP";
}

TEST_F(XdpVerdict, GroupsAndVlansAreTheKernels) {
  const Bytes inner = packet(kIn4, udp(5000, kListenPort));
  EXPECT_EQ(verdict(frame_of(inner, frame::kEtherIpv4)), RELAY_XDP_udp);
  EXPECT_EQ(verdict(frame_of(inner, frame::kEtherIpv4, 0xff)), RELAY_XDP_other);
  EXPECT_EQ(verdict(frame_of(inner, frame::kEtherIpv4, 0x01)), RELAY_XDP_other);
  EXPECT_EQ(verdict(frame_of(be16(5) + be16(frame::kEtherIpv4) + inner, frame::kEtherVlan)),
            RELAY_XDP_other);
}

TEST_F(XdpVerdict, OptionsAndExtensionHeadersAreStepped) {
  Ip v4 = kIn4;
  for (const size_t words : {size_t{1}, size_t{10}}) {
    v4.options = Bytes(4 * words, 1);
    EXPECT_EQ(verdict(frame_of(v4, udp(5000, kListenPort))), RELAY_XDP_udp);
    EXPECT_EQ(verdict(frame_of(v4, udp(kListenPort, 53))), RELAY_XDP_other);
  }
  const auto options = [](uint8_t next, size_t eights) {
    return Bytes{next, static_cast<uint8_t>(eights - 1), 1, 0} + Bytes(8 * eights - 4, 0);
  };
  Ip v6 = kIn6;
  v6.first_extension = 0;
  v6.extension_headers = options(43, 1) + options(60, 2) + options(kUdp, 3);
  EXPECT_EQ(verdict(frame_of(v6, udp(5000, kListenPort))), RELAY_XDP_udp);
  EXPECT_EQ(verdict(frame_of(v6, udp(kListenPort, 53))), RELAY_XDP_other);
  v6.first_extension = 60;
  v6.extension_headers = fragment_header(0, 9);
  v6.first_extension = 44;
  EXPECT_EQ(verdict(frame_of(v6, udp(5000, kListenPort))), RELAY_XDP_udp) << "atomic fragment";
  // More of them, or longer ones, than the relay itself takes.
  v6.first_extension = 60;
  v6.extension_headers = options(60, 1) + options(60, 1) + options(60, 1) + options(60, 1) +
                         options(60, 1) + options(kUdp, 1);
  EXPECT_EQ(verdict(frame_of(v6, udp(5000, kListenPort))), RELAY_XDP_malformed);
  v6.extension_headers = options(kUdp, 33);
  EXPECT_EQ(verdict(frame_of(v6, udp(5000, kListenPort))), RELAY_XDP_malformed);
  v6.extension_headers = options(kUdp, 32);
  EXPECT_EQ(verdict(frame_of(v6, udp(5000, kListenPort))), RELAY_XDP_udp);
}

TEST_F(XdpVerdict, ErrorsAboutOurDatagramsAreOurs) {
  const Ip out4{kOurs4, kPeer4};
  const Ip out6{kOurs6, kPeer6};
  for (const uint16_t port : {kListenPort, kRelayLow, kRelayHigh}) {
    for (const uint8_t type : {uint8_t{3}, uint8_t{4}, uint8_t{11}, uint8_t{12}})
      EXPECT_EQ(verdict(icmp_error(kIn4, type, packet(out4, udp(port, 9)))), RELAY_XDP_icmp_error);
    for (const uint8_t type : {uint8_t{1}, uint8_t{2}, uint8_t{3}, uint8_t{4}})
      EXPECT_EQ(verdict(icmp_error(kIn6, type, packet(out6, udp(port, 9)))), RELAY_XDP_icmp_error);
  }
  // A router on the way sends it, and quotes no more than it must.
  Bytes quoted = packet(out4, udp(kRelayLow, 9, 1000));
  quoted.resize(28);
  EXPECT_EQ(verdict(icmp_error({kOther4, kOurs4}, 3, quoted)), RELAY_XDP_icmp_error);
  Ip optioned = out4;
  optioned.options = Bytes(8, 1);
  EXPECT_EQ(verdict(icmp_error(kIn4, 3, packet(optioned, udp(kRelayLow, 9)))),
            RELAY_XDP_icmp_error);
}

TEST_F(XdpVerdict, ErrorsAboutOthersDatagramsAreTheKernels) {
  const Ip out4{kOurs4, kPeer4};
  const Ip out6{kOurs6, kPeer6};
  EXPECT_EQ(verdict(icmp_error(kIn4, 3, packet(out4, udp(53, kRelayLow)))), RELAY_XDP_other);
  EXPECT_EQ(verdict(icmp_error(kIn6, 1, packet(out6, udp(53, kRelayLow)))), RELAY_XDP_other);
  Ip tcp4 = out4;
  Ip tcp6 = out6;
  tcp4.protocol = tcp6.protocol = kTcp;
  EXPECT_EQ(verdict(icmp_error(kIn4, 3, packet(tcp4, udp(kRelayLow, 9)))), RELAY_XDP_other);
  EXPECT_EQ(verdict(icmp_error(kIn6, 1, packet(tcp6, udp(kRelayLow, 9)))), RELAY_XDP_other);
  EXPECT_EQ(verdict(icmp_error(kIn4, 3, packet({kOnlyListens, kPeer4}, udp(kListenPort, 9)))),
            RELAY_XDP_other)
      << "quotes another sender than it goes to";
  Ip later = out4;
  later.fragment = 100;
  EXPECT_EQ(verdict(icmp_error(kIn4, 3, packet(later, udp(kRelayLow, 9)))), RELAY_XDP_other)
      << "a later fragment holds no ports";
  Ip in_pieces = kIn4;
  in_pieces.fragment = 0x2000;
  EXPECT_EQ(verdict(icmp_error(in_pieces, 3, packet(out4, udp(kRelayLow, 9)))), RELAY_XDP_other);
  Bytes quoted = packet(out4, udp(kRelayLow, 9));
  quoted.resize(27);
  EXPECT_EQ(verdict(icmp_error(kIn4, 3, quoted)), RELAY_XDP_malformed);
  EXPECT_EQ(verdict(icmp_error(kIn4, 3, quoted) + Bytes(18, 0)), RELAY_XDP_malformed)
      << "padding is no part of it";
  quoted = packet(out6, udp(kRelayLow, 9));
  quoted.resize(47);
  EXPECT_EQ(verdict(icmp_error(kIn6, 1, quoted)), RELAY_XDP_malformed);
  EXPECT_EQ(verdict(icmp_error(kIn6, 1, quoted) + Bytes(18, 0)), RELAY_XDP_malformed);
}

TEST_F(XdpVerdict, LaterFragmentsFollowTheirFirstOne) {
  const Bytes rest(64, 0x55);
  Ip first4 = kIn4;
  first4.fragment = 0x2000;
  Ip later4 = kIn4;
  later4.fragment = 0x0007;
  const auto v6 = [](uint16_t offset_and_more, uint8_t id) {
    Ip ip = kIn6;
    ip.first_extension = 44;
    ip.extension_headers = fragment_header(offset_and_more, id);
    return ip;
  };
  const Bytes head = udp(5000, kListenPort, 1992);  // more than the fragment holds
  const Bytes cut(head.begin(), head.begin() + 56);

  EXPECT_EQ(verdict(frame_of(later4, rest)), RELAY_XDP_other) << "ahead of its first one";
  EXPECT_EQ(verdict(frame_of(first4, cut)), RELAY_XDP_first_fragment);
  EXPECT_EQ(verdict(frame_of(later4, rest)), RELAY_XDP_later_fragment);
  later4.fragment = 0x2009;
  EXPECT_EQ(verdict(frame_of(later4, rest)), RELAY_XDP_later_fragment);
  Ip other_id = later4;
  other_id.id = 8;
  Ip other_source = later4;
  other_source.from = kOther4;
  Ip other_destination = later4;
  other_destination.to = kOnlyListens;
  for (const Ip& other : {other_id, other_source, other_destination})
    EXPECT_EQ(verdict(frame_of(other, rest)), RELAY_XDP_other);

  EXPECT_EQ(verdict(frame_of(v6(0x0038, 9), rest)), RELAY_XDP_other);
  EXPECT_EQ(verdict(frame_of(v6(0x0001, 9), cut)), RELAY_XDP_first_fragment);
  EXPECT_EQ(verdict(frame_of(v6(0x0038, 9), rest)), RELAY_XDP_later_fragment);
  EXPECT_EQ(verdict(frame_of(v6(0x0038, 10), rest)), RELAY_XDP_other);

  // The same identification, now for a port of the kernel's.
  Bytes theirs = cut;
  put16(theirs, 2, 53);
  EXPECT_EQ(verdict(frame_of(first4, theirs)), RELAY_XDP_other);
  EXPECT_EQ(verdict(frame_of(later4, rest)), RELAY_XDP_other);
  EXPECT_EQ(verdict(frame_of(v6(0x0001, 9), theirs)), RELAY_XDP_other);
  EXPECT_EQ(verdict(frame_of(v6(0x0038, 9), rest)), RELAY_XDP_other);
}

TEST_F(XdpVerdict, WhatDoesNotAddUpIsTheKernels) {
  const Bytes good = frame_of(kIn4, udp(5000, kListenPort));
  for (const auto& [offset, value] :
       std::initializer_list<std::pair<size_t, uint8_t>>{{14, 0x44},
                                                         {14, 0x65},
                                                         {14, 0x4f},
                                                         {17, 19},
                                                         {17, 27},
                                                         {17, 49},
                                                         {16, 1},
                                                         {14 + 20 + 4, 1},
                                                         {14 + 20 + 5, 7},
                                                         {14 + 20 + 5, 29}}) {
    Bytes bad = good;
    bad[offset] = value;
    EXPECT_EQ(verdict(bad), RELAY_XDP_malformed) << offset << " = " << int{value};
  }
  const Bytes good6 = frame_of(kIn6, udp(5000, kListenPort));
  for (const auto& [offset, value] : std::initializer_list<std::pair<size_t, uint8_t>>{
           {14, 0x40}, {19, 7}, {19, 27}, {19, 29}, {18, 1}, {14 + 40 + 5, 7}}) {
    Bytes bad = good6;
    bad[offset] = value;
    EXPECT_EQ(verdict(bad), RELAY_XDP_malformed) << offset << " = " << int{value};
  }
}

TEST_F(XdpVerdict, AQueueWithoutASocketIsTheKernelsAndCounted) {
  const uint32_t queue = 0;
  ASSERT_EQ(bpf_map_delete_elem(program_->sockets_fd(), &queue), 0);
  EXPECT_EQ(verdict(frame_of(kIn4, udp(5000, kListenPort))), RELAY_XDP_no_socket);
  serve_queue();
  EXPECT_EQ(verdict(frame_of(kIn4, udp(5000, kListenPort))), RELAY_XDP_udp);
}

// Frames that are ours, one of each kind.
std::vector<Bytes> ours() {
  Ip optioned = kIn4;
  optioned.options = Bytes(8, 1);
  Ip extended = kIn6;
  extended.first_extension = 0;
  extended.extension_headers = Bytes{60, 0, 1, 4, 0, 0, 0, 0} + Bytes{kUdp, 0, 1, 4, 0, 0, 0, 0};
  Ip first4 = kIn4;
  first4.fragment = 0x2000;
  Ip first6 = kIn6;
  first6.first_extension = 44;
  first6.extension_headers = fragment_header(0x0001, 9);
  return {frame_of(kIn4, udp(5000, kListenPort)),
          frame_of(kIn6, udp(5000, kRelayLow)),
          frame_of(optioned, udp(5000, kRelayHigh)),
          frame_of(extended, udp(5000, kListenPort)),
          frame_of(first4, udp(5000, kListenPort, 24)),
          frame_of(first6, udp(5000, kListenPort, 24)),
          icmp_error(kIn4, 3, packet({kOurs4, kPeer4}, udp(kRelayLow, 9))),
          icmp_error(kIn6, 2, packet({kOurs6, kPeer6}, udp(kRelayLow, 9)))};
}

constexpr size_t kShortestRun = 14;  // the kernel's: a whole Ethernet header

TEST_F(XdpVerdict, AFrameCutShortIsNeverOurs) {
  for (const Bytes& whole : ours()) {
    EXPECT_TRUE(to_us(verdict(whole)));
    for (size_t length = kShortestRun; length < whole.size(); ++length)
      EXPECT_EQ(verdict(Bytes(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(length))),
                RELAY_XDP_malformed)
          << length << " of " << whole.size();
  }
}

TEST_F(XdpVerdict, APacketThatSaysItIsShorterIsOursOnlyWithAllItsHeaders) {
  // Bytes before the payload; what follows may be cut, of UDP only with its own length.
  const size_t headers[] = {42, 62, 50, 78, 42, 70, 70, 110};
  const std::vector<Bytes> frames = ours();
  for (size_t i = 0; i < frames.size(); ++i) {
    const bool v6 = frames[i][12] == 0x86;
    const bool is_udp = i < 4;
    for (size_t length = 14 + (v6 ? 40 : 20); length < frames[i].size(); ++length) {
      Bytes cut(frames[i].begin(), frames[i].begin() + static_cast<ptrdiff_t>(length));
      put16(cut, v6 ? 18 : 16, v6 ? length - 54 : length - 14);
      const int got = verdict(cut);
      EXPECT_EQ(to_us(got), length >= headers[i] && !is_udp) << i << ", " << length << ": " << got;
      // A fragment's remains would be found again.
      if (length >= headers[i] && is_udp) {
        put16(cut, headers[i] - 4, length - headers[i] + 8);
        EXPECT_EQ(verdict(cut), RELAY_XDP_udp) << i << ", " << length;
      }
    }
  }
}

// What the program sends us, the driver's parser must take for what it says, or refuse for a reason
// that the program does not look at; what the parser takes and is to our ports, it must send.
class XdpAgainstParser : public XdpVerdict {
 protected:
  static bool is_ours(const TransportAddress& a) {
    const bool relays = a.ip == kOurs4 || a.ip == kOurs6;
    return ((relays || a.ip == kOnlyListens) && a.port == kListenPort) ||
           (relays && a.port >= kRelayLow && a.port <= kRelayHigh);
  }
  void judge(const Bytes& bytes) {
    frame::Parsed parsed;
    const frame::Kind kind = frame::parse(bytes, frame::Verify::kHeaders, parsed);
    const relay_verdict got = verdict(bytes);
    using Kind = frame::Kind;
    const bool plain = (bytes[0] & 1) == 0 && parsed.vlan_tci == frame::kNoVlan;
    if (kind == Kind::k_udp && plain && is_ours(parsed.destination)) {
      EXPECT_EQ(got, RELAY_XDP_udp);
      ++agreed_;
    } else if (got == RELAY_XDP_udp) {
      EXPECT_TRUE(kind == Kind::k_bad_ip_checksum || kind == Kind::k_source_routed ||
                  kind == Kind::k_bad_ip_header || kind == Kind::k_zero_udp_checksum ||
                  kind == Kind::k_bad_extension_headers)
          << frame::info(kind).name;
    } else if (got == RELAY_XDP_icmp_error) {
      EXPECT_TRUE((kind == Kind::k_icmp_error && is_ours(parsed.source)) ||
                  kind == Kind::k_bad_icmp || kind == Kind::k_bad_ip_checksum ||
                  kind == Kind::k_source_routed || kind == Kind::k_bad_ip_header ||
                  kind == Kind::k_bad_extension_headers)
          << frame::info(kind).name;
      agreed_ += kind == Kind::k_icmp_error ? 1u : 0u;
    } else if (got == RELAY_XDP_first_fragment || got == RELAY_XDP_later_fragment) {
      EXPECT_TRUE(kind == Kind::k_fragment || kind == Kind::k_bad_ip_checksum ||
                  kind == Kind::k_source_routed || kind == Kind::k_bad_ip_header ||
                  kind == Kind::k_bad_extension_headers)
          << frame::info(kind).name;
    }
  }
  uint32_t agreed_ = 0;
};

TEST_F(XdpAgainstParser, ChangedBytesNeverMakeThemDisagree) {
  constexpr int kFrames = 40000;
  const uint64_t seed = std::random_device{}();
  RecordProperty("seed", std::to_string(seed));
  std::mt19937_64 random(seed);
  const std::vector<Bytes> frames = ours();
  for (int i = 0; i < kFrames && !HasFailure(); ++i) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", frame " + std::to_string(i));
    Bytes frame = frames[random() % frames.size()];
    for (uint64_t changes = random() % 4; changes > 0; --changes)
      frame[random() % std::min<size_t>(frame.size(), 90)] =
          static_cast<uint8_t>(random() % 2 == 0 ? random() : 1u << random() % 8);
    if (random() % 4 == 0) frame.resize(kShortestRun + random() % (frame.size() - kShortestRun));
    const size_t header = frame.size() > 14 ? (frame[14] & 0x0fu) * size_t{4} : 0;
    if (frame[12] == 0x08 && header >= 20 && frame.size() >= 14 + header && random() % 4 != 0)
      put_checksum(frame, 24, 14, header, 0);
    judge(frame);
  }
  EXPECT_GT(agreed_, kFrames / 20u) << "too few frames were still ours";
}

TEST_F(XdpAgainstParser, RandomBytesNeverMakeThemDisagree) {
  constexpr int kFrames = 20000;
  const uint64_t seed = std::random_device{}();
  std::mt19937_64 random(seed);
  for (int i = 0; i < kFrames && !HasFailure(); ++i) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", frame " + std::to_string(i));
    Bytes frame(kShortestRun + random() % 120);
    for (uint8_t& byte : frame)
      byte = static_cast<uint8_t>(random());
    if (random() % 2 == 0 && frame.size() > 14) {
      put16(frame, 12, random() % 2 == 0 ? frame::kEtherIpv4 : frame::kEtherIpv6);
      frame[14] = frame[12] == 0x08 ? 0x45 : 0x60;
      frame[0] = 2;
    }
    judge(frame);
  }
}

}  // namespace
}  // namespace culvert
