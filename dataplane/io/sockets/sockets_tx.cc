// Sending: from a grouped burst to messages, and what to do when the kernel refuses one.
#include <linux/udp.h>
#include <netinet/in.h>

#include <algorithm>
#include <cerrno>

#include "dataplane/io/sockets/sockets_state.h"

namespace culvert {

namespace {

constexpr std::array<uint8_t, 4> kPadding{};
constexpr int kSendFlags = MSG_DONTWAIT | MSG_NOSIGNAL;

// Writes control messages one after another.
class ControlWriter {
 public:
  explicit ControlWriter(uint8_t* at) : first_(at), at_(at) {}

  template <class T>
  void add(int level, int type, T value) {
    cmsghdr head;
    head.cmsg_len = CMSG_LEN(sizeof value);
    head.cmsg_level = level;
    head.cmsg_type = type;
    std::memcpy(at_, &head, sizeof head);
    std::memcpy(at_ + CMSG_LEN(0), &value, sizeof value);
    at_ += CMSG_SPACE(sizeof value);
  }
  [[nodiscard]] size_t length() const { return static_cast<size_t>(at_ - first_); }

 private:
  uint8_t* first_;
  uint8_t* at_;
};

// What an ICMP error about an earlier datagram makes the next call on the socket return. A send of
// ours may fail with one of them for its own sake too; then the repeats fail as well and it is
// dropped.
[[nodiscard]] bool may_be_pending_error(int error) {
  switch (error) {
    case ECONNREFUSED:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EHOSTDOWN:
    case ENONET:
    case ENOPROTOOPT:
    case EOPNOTSUPP:
    case EPROTO:
    case EACCES:
    case EMSGSIZE:
      return true;
    default:
      return false;
  }
}

[[nodiscard]] uint32_t attempts_for(int error) {
  if (may_be_pending_error(error)) return kErrorAttempts;
  if (error == EAGAIN || error == ENOBUFS || error == ENOMEM) return kRoomAttempts;
  return 1;
}

// The kernel or the route cannot cut this run: a segment above the MTU, a device without checksums.
[[nodiscard]] bool refuses_segments(int error) {
  return error == EINVAL || error == EMSGSIZE || error == EIO || error == EOPNOTSUPP;
}

// 1 or -1, as sendmmsg. The plain form spares the kernel reading a message header and its pieces.
[[nodiscard]] int send_one(int fd, const msghdr& message) {
  const bool plain = message.msg_iovlen == 1 && message.msg_controllen == 0;
  const ssize_t sent =
      plain ? sendto(fd, message.msg_iov->iov_base, message.msg_iov->iov_len, kSendFlags,
                     static_cast<const sockaddr*>(message.msg_name), message.msg_namelen)
            : sendmsg(fd, &message, kSendFlags);
  return sent < 0 ? -1 : 1;
}

void note_departure(int16_t value, int16_t& other, uint16_t& misses) {
  misses = other == value ? static_cast<uint16_t>(misses + 1) : uint16_t{1};
  other = value;
}

}  // namespace

uint32_t SocketsDriver::tx_burst(TxBurst& tx) {
  groups_.build(tx, options_.segment);
  uint32_t failed = 0;
  Egress current = kNoEgress;
  for (uint32_t i = 0; i < groups_.count(); ++i) {
    const TxGroups::Group& group = groups_.group(i);
    const TxDatagram& d = tx.items[group.first];
    if (d.egress >= sockets_.size() || sockets_[d.egress].fd < 0 ||
        sockets_[d.egress].family != d.to.ip.family) {
      failed += group.segments;
      stats_.send_failed += group.segments;
      continue;
    }
    Socket& socket = sockets_[d.egress];
    if (current != d.egress || socket.dont_fragment != d.dont_fragment) {
      if (current != kNoEgress) failed += flush(tx, sockets_[current]);
      current = d.egress;
      if (socket.dont_fragment != d.dont_fragment) set_dont_fragment(socket, d.dont_fragment);
    }
    if (group.segments > 1 && !socket.segment) {
      failed += flush(tx, socket);
      failed += send_singly(tx, group, socket);
      continue;
    }
    add_message(tx, group, socket);
  }
  if (current != kNoEgress) failed += flush(tx, sockets_[current]);
  return failed;
}

void SocketsDriver::add_message(const TxBurst& tx, const TxGroups::Group& group, Socket& socket) {
  TxSlots& t = *tx_;
  const TxDatagram& d = tx.items[group.first];
  const uint32_t m = t.messages++;
  t.groups[m] = group;
  msghdr& header = t.headers[m].msg_hdr;
  header.msg_name = &t.names[m];
  header.msg_namelen = to_socket_name(d.to, t.names[m]);
  header.msg_iov = &t.pieces[t.pieces_used];
  uint32_t left = group.segments;
  for (uint8_t item = group.first; left > 0; item = groups_.next(item), --left) {
    const TxDatagram& s = tx.items[item];
    // sendmsg only reads the pieces; iovec has no const form.
    if (s.head_length != 0) {
      t.pieces[t.pieces_used++] = {const_cast<uint8_t*>(s.head.data()), s.head_length};
    }
    if (s.length != 0) t.pieces[t.pieces_used++] = {const_cast<uint8_t*>(s.payload), s.length};
    if (s.pad_length != 0) {
      t.pieces[t.pieces_used++] = {const_cast<uint8_t*>(kPadding.data()), s.pad_length};
    }
  }
  header.msg_iovlen = static_cast<size_t>(&t.pieces[t.pieces_used] - header.msg_iov);
  header.msg_flags = 0;
  const bool v4 = socket.family == Family::kIpv4;
  ControlWriter control(t.control[m].data());
  if (socket.ttl != d.ttl) {
    control.add<int>(v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TTL : IPV6_HOPLIMIT, d.ttl);
    note_departure(d.ttl, socket.other_ttl, socket.ttl_misses);
  } else {
    socket.ttl_misses = 0;
  }
  if (socket.tos != d.tos) {
    control.add<int>(v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TOS : IPV6_TCLASS, d.tos);
    note_departure(d.tos, socket.other_tos, socket.tos_misses);
  } else {
    socket.tos_misses = 0;
  }
  if (group.segments > 1) {
    control.add<uint16_t>(IPPROTO_UDP, UDP_SEGMENT, static_cast<uint16_t>(d.size()));
  }
  header.msg_controllen = control.length();
  header.msg_control = header.msg_controllen != 0 ? t.control[m].data() : nullptr;
}

// Sends the batch in order. Returns the datagrams given up.
uint32_t SocketsDriver::flush(const TxBurst& tx, Socket& socket) {
  TxSlots& t = *tx_;
  uint32_t failed = 0;
  uint32_t attempts = 0;
  for (uint32_t at = 0; at < t.messages;) {
    const uint32_t left = t.messages - at;
    const int sent = left == 1 ? send_one(socket.fd, t.headers[at].msg_hdr)
                               : sendmmsg(socket.fd, &t.headers[at], left, kSendFlags);
    if (sent > 0) {
      at += static_cast<uint32_t>(sent);
      stats_.messages += static_cast<uint32_t>(sent);
      attempts = 0;
      continue;
    }
    // sendmmsg reports an error only when its first message met it; a later one ends the call early
    // and is met again here, or was another's pending error and is gone.
    const int error = errno;
    if (error == EINTR) continue;
    const TxGroups::Group group = t.groups[at];
    if (group.segments > 1 && refuses_segments(error)) {
      ++stats_.segment_refused;
      if (error == EIO) socket.segment = false;  // the device will not learn to checksum
      // send_singly builds messages in the same slots: finish the rest from copies of the groups.
      std::array<TxGroups::Group, kMaxBurst> rest;
      const uint32_t rest_count = left - 1;
      std::copy_n(t.groups.begin() + at + 1, rest_count, rest.begin());
      t.messages = t.pieces_used = 0;
      failed += send_singly(tx, group, socket);
      for (uint32_t i = 0; i < rest_count; ++i)
        add_message(tx, rest[i], socket);
      at = attempts = 0;
      continue;
    }
    if (++attempts < attempts_for(error)) {
      ++stats_.send_retried;
      continue;
    }
    failed += group.segments;
    stats_.send_failed += group.segments;
    ++at;
    attempts = 0;
  }
  t.messages = t.pieces_used = 0;
  if (socket.ttl_misses >= kSettleAfter || socket.tos_misses >= kSettleAfter) {
    settle_options(socket);
  }
  return failed;
}

// Expects an empty batch and leaves one.
uint32_t SocketsDriver::send_singly(const TxBurst& tx, const TxGroups::Group& group,
                                    Socket& socket) {
  uint8_t item = group.first;
  for (uint32_t i = 0; i < group.segments; ++i, item = groups_.next(item)) {
    add_message(tx, TxGroups::Group{item, item, 1, false, 0}, socket);
  }
  return flush(tx, socket);
}

void SocketsDriver::set_dont_fragment(Socket& socket, bool on) {
  // PROBE: DF set, and the size is judged by the interface alone, so that every too large datagram
  // meets the router whose ICMP error the client is waiting for.
  const bool v4 = socket.family == Family::kIpv4;
  const int off = v4 ? IP_PMTUDISC_OMIT : IPV6_PMTUDISC_DONT;
  const int value = on ? (v4 ? IP_PMTUDISC_PROBE : IPV6_PMTUDISC_PROBE) : off;
  (void)setsockopt(socket.fd, v4 ? IPPROTO_IP : IPPROTO_IPV6,
                   v4 ? IP_MTU_DISCOVER : IPV6_MTU_DISCOVER, &value, sizeof value);
  socket.dont_fragment = on;
  ++stats_.option_changes;
}

// Only between batches: messages built before rely on the socket's old values.
void SocketsDriver::settle_options(Socket& socket) {
  const bool v4 = socket.family == Family::kIpv4;
  const int level = v4 ? IPPROTO_IP : IPPROTO_IPV6;
  if (socket.ttl_misses >= kSettleAfter) {
    const int value = socket.other_ttl;
    if (setsockopt(socket.fd, level, v4 ? IP_TTL : IPV6_UNICAST_HOPS, &value, sizeof value) == 0) {
      socket.ttl = socket.other_ttl;
    }
    socket.ttl_misses = 0;
    ++stats_.option_changes;
  }
  if (socket.tos_misses >= kSettleAfter) {
    const int value = socket.other_tos;
    if (setsockopt(socket.fd, level, v4 ? IP_TOS : IPV6_TCLASS, &value, sizeof value) == 0) {
      socket.tos = socket.other_tos;
    }
    socket.tos_misses = 0;
    ++stats_.option_changes;
  }
}

}  // namespace culvert
