// The responder's permissions, channels and data (RFC 8656 sections 9 to 12).
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>
// After <time.h>, of which it needs timespec.
#include <linux/errqueue.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <system_error>

#include "dataplane/base/endian.h"
#include "tests/unit/conformance_responder.h"

namespace culvert::conformance {
namespace {

using std::chrono::seconds;

constexpr seconds kPermission{300}, kChannel{600}, kTooLongChannel{900};
// With an MTU of 1500: what a peer sends whole over IPv6, and with a channel's header does not fit.
constexpr size_t kNearlyTooBig = 1400, kLargestWhole = 1500 - 48;
constexpr uint16_t kFirstChannel = 0x4000, kLastChannel = 0x4fff, kOldLastChannel = 0x7fff;

bool starts_with(const IpAddress& ip, std::initializer_list<uint8_t> bytes) {
  return std::equal(bytes.begin(), bytes.end(), ip.bytes.begin());
}

bool is_tunnel(const IpAddress& ip) {
  const bool zeros = load_be64(ip.bytes.data()) == 0;
  const uint32_t third = load_be32(&ip.bytes[8]), last = load_be32(&ip.bytes[12]);
  const bool embedded = zeros && (third == 0xffff || (third == 0 && last > 1));
  return embedded || starts_with(ip, {0x20, 0x02}) || starts_with(ip, {0x20, 0x01, 0, 0}) ||
         starts_with(ip, {0, 0x64, 0xff, 0x9b});
}

TransportAddress address_of(const sockaddr_storage& from) {
  if (from.ss_family == AF_INET) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(&from);
    return {IpAddress::v4_bytes(&in->sin_addr), ntohs(in->sin_port)};
  }
  const auto* in = reinterpret_cast<const sockaddr_in6*>(&from);
  return {IpAddress::v6_bytes(&in->sin6_addr), ntohs(in->sin6_port)};
}

}  // namespace

bool Responder::forbidden(const TransportAddress& peer) const {
  const bool own = peer == listener4_.address() || peer == listener6_.address();
  if (own) return !broken(Fault::kOwnAddressAllowed);
  if (peer.ip.is_v4()) {
    const uint32_t first = peer.ip.v4_host() >> 24;
    return first == 0 || first >= 240 || (first >= 224 && !broken(Fault::kMulticastAllowed));
  }
  const bool unspecified = peer.ip == *IpAddress::parse("::");
  const bool tunnel = is_tunnel(peer.ip) && !broken(Fault::kTunnelsAllowed);
  return unspecified || tunnel || peer.ip.bytes[0] == 0xff;
}

std::string Responder::permission_name(const TransportAddress& peer) const {
  return broken(Fault::kPermissionOfPort) ? peer.to_string() : peer.ip.to_string();
}

void Responder::permit(Allocation& a, const TransportAddress& peer) {
  a.permissions[permission_name(peer)] = now() + kPermission;
}

bool Responder::permitted(Allocation& a, const TransportAddress& peer) const {
  const auto found = a.permissions.find(permission_name(peer));
  return found != a.permissions.end() && now() < found->second;
}

int Responder::judge_peers(const Request& r, const Allocation& a) const {
  const auto peers = r.view->xor_addresses(Attr::kXorPeerAddress);
  const auto there = std::count_if(r.read.begin(), r.read.end(),
                                   [](const auto& x) { return x.type == Attr::kXorPeerAddress; });
  if (peers.empty() || std::ssize(peers) != there) return 400;
  for (const auto& peer : peers) {
    const bool fits = std::any_of(a.relays.begin(), a.relays.end(), [&](const auto& relay) {
      return relay->address().ip.family == peer.ip.family;
    });
    if (!fits) return broken(Fault::kOtherFamilyIs403) ? 403 : 443;
    if (forbidden(peer)) return 403;
  }
  return 0;
}

void Responder::on_permission(const Request& r, const Caller& caller) {
  Allocation* const a = allocation_for(r, caller);
  if (a == nullptr) return;
  const auto peers = r.view->xor_addresses(Attr::kXorPeerAddress);
  if (broken(Fault::kPermissionsNotAtomic))
    for (const auto& peer : peers)
      if (!forbidden(peer)) permit(*a, peer);
  if (const int code = judge_peers(r, *a); code != 0) return refuse(r, code, &caller);
  for (const auto& peer : peers)
    permit(*a, peer);
  if (broken(Fault::kPermissionExtendsAllocation)) a->end = now() + seconds(600);
  auto answer = begin(r, Class::kSuccess);
  finish(r, answer, &caller);
}

int Responder::channel_code(const Allocation& a, uint16_t number,
                            const TransportAddress& peer) const {
  const uint16_t last = broken(Fault::kChannelsTo7fff) ? kOldLastChannel : kLastChannel;
  if (number < kFirstChannel || number > last) return 400;
  bool bound = false;
  for (const Channel& channel : a.channels) {
    if (now() >= channel.end) continue;
    if (channel.number == number && channel.peer != peer) return 400;
    if (channel.number != number && channel.peer == peer && !broken(Fault::kSecondChannelOfPeer))
      return 400;
    bound |= channel.number == number;
  }
  const bool worn = !bound && a.bound_before.contains(number);
  return worn && broken(Fault::kChannelNeverFree) ? 400 : 0;
}

void Responder::on_channel(const Request& r, const Caller& caller) {
  Allocation* const a = allocation_for(r, caller);
  if (a == nullptr) return;
  const auto field = r.u32(Attr::kChannelNumber);
  int code = field ? judge_peers(r, *a) : 400;
  if (code == 0) {
    const auto peer = *r.view->xor_address(Attr::kXorPeerAddress);
    const auto number = static_cast<uint16_t>(*field >> 16);
    code = channel_code(*a, number, peer);
    if (code == 0) {
      std::erase_if(a->channels, [&](const Channel& old) { return old.number == number; });
      const auto life = broken(Fault::kChannelLivesLonger) ? kTooLongChannel : kChannel;
      a->channels.push_back({number, peer, now() + life});
      a->bound_before.insert(number);
      permit(*a, peer);
    }
  }
  if (code != 0) return refuse(r, code, &caller);
  auto answer = begin(r, Class::kSuccess);
  finish(r, answer, &caller);
}

// --- client to peer

void Responder::on_send(const Request& r, const Datagram& got) {
  Allocation* const a = find(r.client);
  if (a == nullptr) return;
  if (!unknown(r).empty() && !broken(Fault::kUnknownIgnoredInIndications)) return;
  const auto peers = r.view->xor_addresses(Attr::kXorPeerAddress);
  const auto* data = r.find(Attr::kData);
  if (peers.empty() || data == nullptr) return;
  if (data->value.empty() && broken(Fault::kEmptyDataDropped)) return;
  const TransportAddress& peer = r.last_counts ? peers.back() : peers.front();
  if (!permitted(*a, peer)) {
    if (broken(Fault::kSendWithoutPermissionAnswered)) refuse(r, 403);
    if (!broken(Fault::kSendNeedsNoPermission)) return;
  }
  if (broken(Fault::kSendRenewsPermission)) permit(*a, peer);
  const bool whole = r.has(Attr::kDontFragment);
  const bool across = r.client.ip.family != peer.ip.family;
  if (whole &&
      broken(across ? Fault::kDontFragmentAcrossFamilies : Fault::kSendWithDontFragmentDropped))
    return;
  to_peer(*a, peer, data->value, got, whole && !across);
}

void Responder::on_channel_data(const TransportAddress& from, const Datagram& got) {
  Allocation* const a = find(from);
  if (a == nullptr || got.payload.size() < stun_client::kChannelDataHeaderSize) return;
  const uint16_t number = load_be16(got.payload.data());
  size_t size = load_be16(&got.payload[2]);
  const Bytes rest = Bytes(got.payload).subspan(stun_client::kChannelDataHeaderSize);
  if (size > rest.size()) {
    if (!broken(Fault::kShortChannelDataSent)) return;
    size = rest.size();
  }
  if (broken(Fault::kPaddingPassedOn)) size = std::min(rest.size(), (size + 3) / 4 * 4);
  if (size == 0 && broken(Fault::kEmptyChannelDataDropped)) return;
  for (const Channel& channel : a->channels) {
    if (channel.number != number || now() >= channel.end) continue;
    if (!permitted(*a, channel.peer)) return;
    if (broken(Fault::kChannelDataRenews)) permit(*a, channel.peer);
    return to_peer(*a, channel.peer, rest.first(size), got, false);
  }
}

void Responder::set_header(UdpSocket& socket, const Datagram& carried) const {
  const bool to_v4 = socket.address().ip.is_v4(), from_v4 = carried.from.ip.is_v4();
  int tos = std::max(carried.tos, 0);
  int ttl = std::max(carried.ttl - 1, 1);
  if (broken(Fault::kTosCleared)) tos = 0;
  if (broken(Fault::kTosInvented)) tos ^= 0x40;
  if (broken(Fault::kTtlFixed)) ttl = 64;
  if (broken(Fault::kTtlCopiedToIpv4) && to_v4 && !from_v4) ttl = carried.ttl;
  socket.set_tos(tos);
  socket.set_ttl(ttl);
  if (to_v4 && carried.options && broken(Fault::kOptionsCopied)) socket.set_no_operation_options();
  if (!to_v4 && !from_v4 && broken(Fault::kFlowLabelCopied))
    socket.set_flow_label(carried.flow_label);
}

void Responder::to_peer(Allocation& a, const TransportAddress& peer, Bytes data,
                        const Datagram& carried, bool dont_fragment) {
  if (peer == listener4_.address() || peer == listener6_.address()) return;
  for (const auto& relay : a.relays) {
    if (relay->address().ip.family != peer.ip.family) continue;
    set_header(*relay, carried);
    if (dont_fragment) relay->set_dont_fragment(true);
    try {
      relay->send(peer, data);
    } catch (const std::system_error&) {  // no way to that peer
    }
    if (dont_fragment) relay->set_dont_fragment(false);
  }
}

// --- peer to client

void Responder::from_peer(Allocation& a, const UdpSocket& relay, const Datagram& got) {
  if (!permitted(a, got.from) && !broken(Fault::kPeerNeedsNoPermission)) return;
  const bool v6 = relay.address().ip.is_v6();
  const size_t size = got.payload.size();
  if (v6 && size > kNearlyTooBig &&
      broken(size <= kLargestWhole ? Fault::kTooBigSwallowed : Fault::kFragmentsSwallowed))
    return;
  for (const Channel& channel : a.channels) {
    const bool same = channel.peer == got.from ||
                      (broken(Fault::kChannelOfAnyPort) && channel.peer.ip == got.from.ip);
    if (!same || now() >= channel.end || broken(Fault::kDataInsteadOfChannelData)) continue;
    const auto head = stun_client::channel_data_header(channel.number, static_cast<uint16_t>(size));
    std::vector<uint8_t> out(head.begin(), head.end());
    out.insert(out.end(), got.payload.begin(), got.payload.end());
    return to_client(a, out, got);
  }
  MessageBuilder out(Method::kData, Class::kIndication, {});
  out.add_xor_address(Attr::kXorPeerAddress, got.from).add(Attr::kData, Bytes(got.payload));
  to_client(a, out.bytes(), got);
}

void Responder::to_client(Allocation& a, Bytes datagram, const Datagram& carried) {
  set_header(*a.listener, carried);
  a.listener->send(a.client, datagram);
  a.listener->set_tos(0);
  a.listener->set_ttl(64);
}

void Responder::from_error_queue(Allocation& a, UdpSocket& relay) {
  for (;;) {
    std::array<uint8_t, 64> payload{};
    alignas(cmsghdr) std::array<uint8_t, 512> control{};
    sockaddr_storage to{};
    iovec part{payload.data(), payload.size()};
    msghdr message{&to, sizeof to, &part, 1, control.data(), control.size(), 0};
    if (recvmsg(relay.fd(), &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) return;
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
      const bool v4 = c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR;
      const bool v6 = c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR;
      if (!v4 && !v6) continue;
      sock_extended_err error{};
      std::memcpy(&error, CMSG_DATA(c), sizeof error);
      if (error.ee_origin != SO_EE_ORIGIN_ICMP && error.ee_origin != SO_EE_ORIGIN_ICMP6) continue;
      sockaddr_storage offender{};
      std::memcpy(&offender, CMSG_DATA(c) + sizeof error,
                  v4 ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
      if (broken(Fault::kIcmpSourceChecked) && !permitted(a, address_of(offender))) continue;
      tell_icmp(a, address_of(to), error.ee_type, error.ee_code, error.ee_info);
    }
  }
}

void Responder::tell_icmp(Allocation& a, const TransportAddress& peer, uint8_t type, uint8_t code,
                          uint32_t info) {
  if (!permitted(a, peer)) return;
  const bool bound = std::any_of(a.channels.begin(), a.channels.end(),
                                 [&](const Channel& channel) { return channel.peer == peer; });
  if (bound && broken(Fault::kNoIcmpWithChannel)) return;
  const bool mtu = peer.ip.is_v4() ? type == 3 && code == 4 : type == 2;
  std::array<uint8_t, 8> value{};
  if (broken(Fault::kIcmpReservedSet)) value[0] = 0xff;
  store_be16(&value[2], static_cast<uint16_t>(type << 9 | code));
  store_be32(&value[4], mtu ? info : 0);
  MessageBuilder out(Method::kData, Class::kIndication, {});
  out.add_xor_address(Attr::kXorPeerAddress, peer).add(Attr::kIcmp, value);
  a.listener->send(a.client, out.bytes());
}

}  // namespace culvert::conformance
