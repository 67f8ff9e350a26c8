#include "dataplane/io/dpdk/host.h"

#include <algorithm>

#include "dataplane/wire/checksum.h"

namespace culvert::host {

namespace {

using frame::MacAddress;

constexpr uint16_t kEtherArp = 0x0806;
constexpr size_t kEthernet = frame::kEthernetHeader;
constexpr size_t kArpBody = 28;
constexpr uint16_t kArpRequest = 1;
constexpr uint16_t kArpReply = 2;
constexpr uint8_t kEchoRequestV4 = 8;
constexpr uint8_t kEchoReplyV4 = 0;
constexpr uint8_t kEchoRequestV6 = 128;
constexpr uint8_t kEchoReplyV6 = 129;
constexpr uint8_t kSolicitation = 135;
constexpr uint8_t kAdvertisement = 136;
constexpr size_t kNeighbourMessage = 24;  // type to target, without options
constexpr size_t kLinkOption = 8;
constexpr uint8_t kSourceLinkAddress = 1;
constexpr uint8_t kTargetLinkAddress = 2;
constexpr uint8_t kNeighbourHopLimit = 255;  // proves that no router passed it on
constexpr uint8_t kSolicitedFlag = 0x40;
constexpr uint8_t kOverrideFlag = 0x20;
constexpr uint8_t kAnswerHops = 64;
constexpr MacAddress kBroadcast = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

[[nodiscard]] bool is_ours(const Port& port, const IpAddress& ip) {
  return std::find(port.addresses.begin(), port.addresses.end(), ip) != port.addresses.end();
}

[[nodiscard]] MacAddress mac_at(const uint8_t* from) {
  MacAddress mac;
  std::memcpy(mac.data(), from, mac.size());
  return mac;
}
[[nodiscard]] bool is_group(const MacAddress& mac) {
  return (mac[0] & 1) != 0;
}
[[nodiscard]] bool is_zero(const uint8_t* from, size_t bytes) {
  return std::all_of(from, from + bytes, [](uint8_t b) { return b == 0; });
}

void write_ethernet(uint8_t* to, const MacAddress& destination, const MacAddress& source,
                    uint16_t type) {
  std::memcpy(to, destination.data(), 6);
  std::memcpy(to + 6, source.data(), 6);
  store_be16(to + 12, type);
}

// Sender and target of an ARP body, RFC 826's ar$sha, ar$spa, ar$tha, ar$tpa.
void write_arp(uint8_t* to, uint16_t operation, const MacAddress& sender, const uint8_t* sender_ip,
               const MacAddress& target, const uint8_t* target_ip) {
  store_be16(to, 1);
  store_be16(to + 2, frame::kEtherIpv4);
  to[4] = 6;
  to[5] = 4;
  store_be16(to + 6, operation);
  std::memcpy(to + 8, sender.data(), 6);
  std::memcpy(to + 14, sender_ip, 4);
  std::memcpy(to + 18, target.data(), 6);
  std::memcpy(to + 24, target_ip, 4);
}

Reaction arp(std::span<const uint8_t> frame, const Port& port, std::span<uint8_t> reply) {
  Reaction out;
  if (frame.size() < kEthernet + kArpBody) return out;
  const uint8_t* body = &frame[kEthernet];
  if (load_be16(body) != 1 || load_be16(body + 2) != frame::kEtherIpv4 || body[4] != 6 ||
      body[5] != 4)
    return out;
  const uint16_t operation = load_be16(body + 6);
  const MacAddress sender = mac_at(body + 8);
  const IpAddress sender_ip = IpAddress::v4_bytes(body + 14);
  const IpAddress target_ip = IpAddress::v4_bytes(body + 24);
  const bool gratuitous = sender_ip == target_ip;
  const bool for_us = is_ours(port, target_ip);
  if (!for_us && !gratuitous) return out;
  // Who claims an address of ours is not believed.
  out.learned = !is_group(sender) && !is_zero(body + 14, 4) && !is_ours(port, sender_ip);
  out.only_update = gratuitous;
  out.learned_ip = sender_ip;
  out.learned_mac = sender;
  if (operation == kArpReply || !for_us) {
    out.kind = Reaction::Kind::kTold;
    out.count = FrameCounter::k_neighbour_told;
    return out;
  }
  if (operation != kArpRequest) return Reaction{};
  std::memset(reply.data(), 0, kArpFrame);
  write_ethernet(reply.data(), sender, port.mac, kEtherArp);
  write_arp(&reply[kEthernet], kArpReply, port.mac, body + 24, sender, body + 14);
  out.kind = Reaction::Kind::kReply;
  out.count = FrameCounter::k_arp_answered;
  out.reply_bytes = kArpFrame;
  return out;
}

// The answer is the request with its ends exchanged: the data is the asker's.
void turn_around(std::span<const uint8_t> frame, const Port& port, uint8_t* reply) {
  std::memcpy(reply, frame.data(), frame.size());
  write_ethernet(reply, mac_at(&frame[6]), port.mac, load_be16(&frame[12]));
}

void change_type(uint8_t* icmp, uint8_t type) {
  const uint16_t before = checksum::load_word(icmp);
  icmp[0] = type;
  checksum::store_word(
      icmp + 2, checksum::update(checksum::load_word(icmp + 2), before, checksum::load_word(icmp)));
}

Reaction echo_v4(std::span<const uint8_t> frame, const Port& port, std::span<uint8_t> reply) {
  Reaction out;
  const uint8_t* ip = &frame[kEthernet];
  const size_t header = (ip[0] & 0x0fu) * size_t{4};
  const size_t total = load_be16(ip + 2);
  if (ip[9] != frame::kProtocolIcmp || header != frame::kIpv4Header || total < header + 8 ||
      kEthernet + total > frame.size())
    return out;
  const uint8_t* icmp = ip + header;
  if (icmp[0] != kEchoRequestV4 || icmp[1] != 0) return out;
  if (!is_ours(port, IpAddress::v4_bytes(ip + 16)) || is_group(mac_at(frame.data()))) return out;
  if (checksum::fold(checksum::sum(icmp, total - header)) != 0xffff) return out;
  frame = frame.first(kEthernet + total);
  turn_around(frame, port, reply.data());
  uint8_t* to = &reply[kEthernet];
  std::memcpy(to + 12, ip + 16, 4);
  std::memcpy(to + 16, ip + 12, 4);
  to[8] = kAnswerHops;
  store_be16(to + 4, 0);
  store_be16(to + 6, 0x4000);
  store_be16(to + 10, 0);
  checksum::store_word(to + 10, checksum::full({to, frame::kIpv4Header}));
  change_type(to + header, kEchoReplyV4);
  out.kind = Reaction::Kind::kReply;
  out.count = FrameCounter::k_echo_answered;
  out.reply_bytes = frame.size();
  return out;
}

// The link address in the first option of that type, or nothing.
const uint8_t* find_option(std::span<const uint8_t> options, uint8_t type) {
  while (options.size() >= kLinkOption) {
    const size_t bytes = size_t{options[1]} * 8;
    if (bytes == 0 || bytes > options.size()) return nullptr;
    if (options[0] == type && bytes == kLinkOption) return &options[2];
    options = options.subspan(bytes);
  }
  return nullptr;
}

// IPv6 header and ICMPv6 message with its checksum; `icmp` bytes from type on, checksum field zero.
void finish_v6(uint8_t* ip, const uint8_t* source, const uint8_t* destination, uint16_t icmp_bytes,
               uint8_t hops) {
  store_be32(ip, 0x60000000u);
  store_be16(ip + 4, icmp_bytes);
  ip[6] = frame::kProtocolIcmpv6;
  ip[7] = hops;
  std::memmove(ip + 8, source, 16);
  std::memmove(ip + 24, destination, 16);
  uint8_t* icmp = ip + frame::kIpv6Header;
  const uint64_t pseudo = checksum::pseudo_v6(ip + 8, ip + 24, frame::kProtocolIcmpv6, icmp_bytes);
  checksum::store_word(
      icmp + 2, static_cast<uint16_t>(~checksum::fold(checksum::sum(icmp, icmp_bytes, pseudo))));
}

void write_link_option(uint8_t* to, uint8_t type, const MacAddress& mac) {
  to[0] = type;
  to[1] = 1;
  std::memcpy(to + 2, mac.data(), 6);
}

Reaction solicitation(std::span<const uint8_t> frame, const uint8_t* ip,
                      std::span<const uint8_t> icmp, const Port& port, std::span<uint8_t> reply) {
  Reaction out;
  const IpAddress target = IpAddress::v6_bytes(&icmp[8]);
  if (!is_ours(port, target)) return out;
  const bool duplicate_check = is_zero(ip + 8, 16);  // the asker has no address yet
  const uint8_t* option = find_option(icmp.subspan(kNeighbourMessage), kSourceLinkAddress);
  if (duplicate_check && option != nullptr) return out;
  const MacAddress asker = mac_at(option != nullptr ? option : &frame[6]);
  if (is_group(asker)) return out;
  constexpr uint8_t kAllNodes[16] = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  constexpr MacAddress kAllNodesMac = {0x33, 0x33, 0, 0, 0, 1};
  std::memset(reply.data(), 0, kSolicitationFrame);
  write_ethernet(reply.data(), duplicate_check ? kAllNodesMac : asker, port.mac, frame::kEtherIpv6);
  uint8_t* to = &reply[kEthernet];
  uint8_t* message = to + frame::kIpv6Header;
  message[0] = kAdvertisement;
  message[4] = static_cast<uint8_t>(kOverrideFlag | (duplicate_check ? 0 : kSolicitedFlag));
  std::memcpy(message + 8, target.bytes.data(), 16);
  write_link_option(message + kNeighbourMessage, kTargetLinkAddress, port.mac);
  finish_v6(to, target.bytes.data(), duplicate_check ? kAllNodes : ip + 8,
            kNeighbourMessage + kLinkOption, kNeighbourHopLimit);
  out.kind = Reaction::Kind::kReply;
  out.count = FrameCounter::k_nd_answered;
  out.reply_bytes = kSolicitationFrame;
  out.learned = !duplicate_check && option != nullptr;
  out.learned_ip = IpAddress::v6_bytes(ip + 8);
  out.learned_mac = asker;
  return out;
}

Reaction advertisement(std::span<const uint8_t> icmp, const Port& port) {
  Reaction out;
  const uint8_t* option = find_option(icmp.subspan(kNeighbourMessage), kTargetLinkAddress);
  const IpAddress target = IpAddress::v6_bytes(&icmp[8]);
  if (option == nullptr || is_ours(port, target) || is_group(mac_at(option))) return out;
  out.kind = Reaction::Kind::kTold;
  out.count = FrameCounter::k_neighbour_told;
  out.learned = true;
  out.only_update = (icmp[4] & kSolicitedFlag) == 0;
  out.learned_ip = target;
  out.learned_mac = mac_at(option);
  return out;
}

Reaction icmp_v6(std::span<const uint8_t> frame, const Port& port, std::span<uint8_t> reply) {
  Reaction out;
  const uint8_t* ip = &frame[kEthernet];
  const size_t length = load_be16(ip + 4);
  if (ip[0] >> 4 != 6 || ip[6] != frame::kProtocolIcmpv6 || length < 8 ||
      kEthernet + frame::kIpv6Header + length > frame.size())
    return out;
  const std::span<const uint8_t> icmp{ip + frame::kIpv6Header, length};
  const uint64_t pseudo =
      checksum::pseudo_v6(ip + 8, ip + 24, frame::kProtocolIcmpv6, static_cast<uint16_t>(length));
  if (icmp[1] != 0 || checksum::fold(checksum::sum(icmp.data(), length, pseudo)) != 0xffff)
    return out;
  if (icmp[0] == kEchoRequestV6) {
    if (!is_ours(port, IpAddress::v6_bytes(ip + 24)) || is_group(mac_at(frame.data()))) return out;
    frame = frame.first(kEthernet + frame::kIpv6Header + length);
    turn_around(frame, port, reply.data());
    uint8_t* to = &reply[kEthernet];
    std::memcpy(to + 8, ip + 24, 16);
    std::memcpy(to + 24, ip + 8, 16);
    to[7] = kAnswerHops;
    change_type(to + frame::kIpv6Header, kEchoReplyV6);
    out.kind = Reaction::Kind::kReply;
    out.count = FrameCounter::k_echo_answered;
    out.reply_bytes = frame.size();
    return out;
  }
  if (ip[7] != kNeighbourHopLimit || length < kNeighbourMessage) return out;
  if (icmp[0] == kSolicitation) return solicitation(frame, ip, icmp, port, reply);
  if (icmp[0] == kAdvertisement) return advertisement(icmp, port);
  return out;
}

}  // namespace

Reaction react(std::span<const uint8_t> frame, const Port& port, std::span<uint8_t> reply) {
  if (frame.size() < kEthernet || reply.size() < frame.size() || reply.size() < kSolicitationFrame)
    return {};
  switch (load_be16(&frame[12])) {
    case kEtherArp:
      return arp(frame, port, reply);
    case frame::kEtherIpv4:
      if (frame.size() < kEthernet + frame::kIpv4Header) return {};
      return echo_v4(frame, port, reply);
    case frame::kEtherIpv6:
      if (frame.size() < kEthernet + frame::kIpv6Header) return {};
      return icmp_v6(frame, port, reply);
    default:
      return {};
  }
}

size_t ask(std::span<uint8_t> to, const Port& port, const IpAddress& own, const IpAddress& target) {
  std::memset(to.data(), 0, kSolicitationFrame);
  if (target.is_v4()) {
    write_ethernet(to.data(), kBroadcast, port.mac, kEtherArp);
    write_arp(&to[kEthernet], kArpRequest, port.mac, own.wire(), {}, target.wire());
    return kArpFrame;
  }
  // RFC 4291 section 2.7.1: the solicited-node group is the address's last three bytes.
  const uint8_t* last = &target.bytes[13];
  const uint8_t group[16] = {0xff, 2, 0, 0, 0,    0,       0,       0,
                             0,    0, 0, 1, 0xff, last[0], last[1], last[2]};
  const MacAddress group_mac = {0x33, 0x33, 0xff, last[0], last[1], last[2]};
  write_ethernet(to.data(), group_mac, port.mac, frame::kEtherIpv6);
  uint8_t* ip = &to[kEthernet];
  uint8_t* message = ip + frame::kIpv6Header;
  message[0] = kSolicitation;
  std::memcpy(message + 8, target.bytes.data(), 16);
  write_link_option(message + kNeighbourMessage, kSourceLinkAddress, port.mac);
  finish_v6(ip, own.bytes.data(), group, kNeighbourMessage + kLinkOption, kNeighbourHopLimit);
  return kSolicitationFrame;
}

}  // namespace culvert::host
