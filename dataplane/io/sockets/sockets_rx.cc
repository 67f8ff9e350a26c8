// Receiving: readiness, reading messages and errors, and handing out their datagrams.
#include <linux/udp.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

#include "dataplane/io/sockets/sockets_state.h"

namespace culvert {

namespace {

// Header fields of a message and, from the error queue, the error.
struct Control {
  uint8_t ttl = 64;
  uint8_t tos = 0;
  uint32_t segment = 0;  // 0: one datagram
  bool has_error = false;
  sock_extended_err error;
};

template <class T>
[[nodiscard]] T control_value(const cmsghdr* message) {
  T value;
  std::memcpy(&value, CMSG_DATA(message), sizeof value);
  return value;
}

void read_control(msghdr& header, Control& out) {
  for (cmsghdr* m = CMSG_FIRSTHDR(&header); m != nullptr; m = CMSG_NXTHDR(&header, m)) {
    if (m->cmsg_level == IPPROTO_IP) {
      if (m->cmsg_type == IP_TTL) out.ttl = static_cast<uint8_t>(control_value<int>(m));
      if (m->cmsg_type == IP_TOS) out.tos = control_value<uint8_t>(m);
    } else if (m->cmsg_level == IPPROTO_IPV6) {
      if (m->cmsg_type == IPV6_HOPLIMIT) out.ttl = static_cast<uint8_t>(control_value<int>(m));
      if (m->cmsg_type == IPV6_TCLASS) out.tos = static_cast<uint8_t>(control_value<int>(m));
    } else if (m->cmsg_level == IPPROTO_UDP && m->cmsg_type == UDP_GRO) {
      out.segment = static_cast<uint32_t>(control_value<int>(m));
    }
    if ((m->cmsg_level == IPPROTO_IP && m->cmsg_type == IP_RECVERR) ||
        (m->cmsg_level == IPPROTO_IPV6 && m->cmsg_type == IPV6_RECVERR)) {
      out.has_error = true;
      out.error = control_value<sock_extended_err>(m);
    }
  }
}

// ICMPv4 3/4 and ICMPv6 2 carry the next hop's MTU (RFC 8656 section 18.13).
[[nodiscard]] uint32_t mtu_of(const sock_extended_err& error) {
  const bool v4 = error.ee_origin == SO_EE_ORIGIN_ICMP && error.ee_type == ICMP_DEST_UNREACH &&
                  error.ee_code == ICMP_FRAG_NEEDED;
  const bool v6 = error.ee_origin == SO_EE_ORIGIN_ICMP6 && error.ee_type == ICMP6_PACKET_TOO_BIG;
  return v4 || v6 ? error.ee_info : 0;
}

}  // namespace

// wait_us: 0 asks, more sleeps. Edge-triggered: each socket reported here goes into a ready queue
// and stays there until it has been read empty.
void SocketsDriver::collect_ready(int64_t wait_us) {
  std::array<epoll_event, kMaxBurst> events;
  int count;
  if (wait_us == 0) {
    count = epoll_wait(epoll_fd_, events.data(), static_cast<int>(events.size()), 0);
  } else {
    const timespec limit{static_cast<time_t>(wait_us / 1000000), wait_us % 1000000 * 1000};
    count =
        epoll_pwait2(epoll_fd_, events.data(), static_cast<int>(events.size()), &limit, nullptr);
    if (count < 0 && errno != EINTR) {  // older than Linux 5.11, or kept away by a sandbox
      count = epoll_wait(epoll_fd_, events.data(), static_cast<int>(events.size()),
                         static_cast<int>((wait_us + 999) / 1000));
    }
  }
  collected_ = count > 0;
  for (int i = 0; i < count; ++i) {
    const uint32_t slot = events[static_cast<size_t>(i)].data.u32;
    if (slot == kWakeSlot) continue;
    Socket& socket = sockets_[slot];
    if ((events[static_cast<size_t>(i)].events & EPOLLERR) != 0) socket.errors = true;
    if (socket.queued) continue;
    socket.queued = true;
    (slot < listener_count_ ? ready_listeners_ : ready_relays_)->push(slot);
  }
}

// Listeners may use half of a burst while relayed ports wait, so that neither direction starves the
// other; what one side leaves goes to the other.
uint32_t SocketsDriver::rx_burst(std::span<RxDatagram> rx) {
  if (pending_head_ == pending_count_) {
    pending_head_ = pending_count_ = buffers_used_ = 0;
    // epoll is asked once per turn: not when wait() has just asked it, and not when everything
    // known has been read since, because then the caller will wait and that asks. A caller that
    // does not wait is served by its next call.
    const bool idle = ready_relays_->empty() && ready_listeners_->empty();
    if (collected_ && idle) {
      collected_ = false;
      return 0;
    }
    if (!collected_ || !fresh_) collect_ready(0);
    fresh_ = false;
    read_ready(static_cast<uint32_t>(std::min(rx.size(), kMaxBurst)));
  }
  return hand_out(rx);
}

void SocketsDriver::read_ready(uint32_t budget) {
  uint32_t used = 0;
  const uint32_t share = ready_relays_->empty() ? budget : budget / 2;
  for (uint32_t turns = ready_listeners_->size(); turns > 0 && used < share; --turns) {
    const uint32_t slot = ready_listeners_->pop();
    used += read_socket(slot, kRxMessages, share - used);
  }
  for (uint32_t turns = ready_relays_->size(); turns > 0 && used < budget; --turns) {
    const uint32_t slot = ready_relays_->pop();
    used += read_socket(slot, kRelayQuota, budget - used);
  }
}

// Reads messages of about `budget` datagrams, at most `limit` messages. Returns the datagrams read.
// A socket that may have more goes back to the end of its queue.
uint32_t SocketsDriver::read_socket(uint32_t slot, uint32_t limit, uint32_t budget) {
  Socket& socket = sockets_[slot];
  socket.queued = false;
  if (socket.fd < 0) return 0;  // closed while it waited here
  const uint32_t messages_before = pending_count_;
  if (socket.errors) read_errors(slot);
  // A socket that delivers runs gets fewer messages per turn, so that a burst stays in the cache.
  uint32_t want = std::max(1u, budget / socket.run_length);
  want = std::min({want, limit, kRxMessages - buffers_used_});
  bool more = true;
  uint32_t datagrams = pending_count_ - messages_before;
  if (want > 0) {
    mmsghdr* first = &rx_->headers[buffers_used_];
    for (uint32_t i = 0; i < want; ++i) {
      first[i].msg_hdr.msg_namelen = sizeof(SocketName);
      first[i].msg_hdr.msg_controllen = kRxControlBytes;
    }
    const int got = recvmmsg(socket.fd, first, want, MSG_DONTWAIT, nullptr);
    if (got < 0) {
      more = errno != EAGAIN;
      if (more) {  // an ICMP error stood before the datagrams; its report is in the error queue
        ++stats_.receive_errors;
        socket.errors = socket.kind == RxKind::kPeer;
      }
    } else {
      ++stats_.reads;
      for (int i = 0; i < got; ++i) {
        take_message(buffers_used_++, socket);
        Pending& message = pending_[pending_count_ - 1];
        message.slot = slot;
        datagrams += socket.run_length = static_cast<uint16_t>(
            message.segment == 0 ? 1 : (message.left + message.segment - 1) / message.segment);
      }
      more = static_cast<uint32_t>(got) == want;
    }
  }
  if ((more || socket.errors) && !socket.queued) {
    socket.queued = true;
    (slot < listener_count_ ? ready_listeners_ : ready_relays_)->push(slot);
  }
  return datagrams;
}

void SocketsDriver::take_message(uint32_t index, const Socket& socket) {
  mmsghdr& message = rx_->headers[index];
  Control control;
  read_control(message.msg_hdr, control);
  Pending& pending = pending_[pending_count_++];
  pending = Pending{};
  pending.left = message.msg_len;
  pending.segment = control.segment < message.msg_len ? control.segment : 0;
  if (pending.segment != 0) ++stats_.runs;
  RxDatagram& d = pending.next;
  d.payload = rx_->buffers + index * kRxStride;
  d.kind = socket.kind;
  d.ttl = control.ttl;
  d.tos = control.tos;
  d.listener = socket.listener;
  d.relay = socket.leg;
  d.source = from_socket_name(rx_->names[index]);
}

// Reports what the socket's error queue holds (RFC 8656 section 11.5): the peer is the destination
// of the datagram that was lost, whoever sent the ICMP error.
void SocketsDriver::read_errors(uint32_t slot) {
  Socket& socket = sockets_[slot];
  for (uint32_t i = 0; i < kErrorQuota && buffers_used_ < kRxMessages; ++i) {
    const uint32_t index = buffers_used_;
    msghdr header{};
    header.msg_name = &rx_->names[index];
    header.msg_namelen = sizeof(SocketName);
    header.msg_iov = &rx_->pieces[index];
    header.msg_iovlen = 1;
    header.msg_control = rx_->error_control.data();
    header.msg_controllen = rx_->error_control.size();
    const ssize_t length = recvmsg(socket.fd, &header, MSG_ERRQUEUE | MSG_DONTWAIT);
    if (length < 0) {
      socket.errors = false;
      return;
    }
    Control control;
    read_control(header, control);
    if (!control.has_error || header.msg_namelen == 0 ||
        (control.error.ee_origin != SO_EE_ORIGIN_ICMP &&
         control.error.ee_origin != SO_EE_ORIGIN_ICMP6)) {
      ++stats_.icmp_ignored;
      continue;
    }
    ++stats_.icmp_errors;
    ++buffers_used_;
    Pending& pending = pending_[pending_count_++];
    pending = Pending{};
    pending.slot = slot;
    pending.left = static_cast<uint32_t>(length);
    RxDatagram& d = pending.next;
    d.payload = rx_->buffers + index * kRxStride;
    d.kind = RxKind::kIcmpError;
    d.ttl = control.ttl;
    d.tos = control.tos;
    d.relay = socket.leg;
    d.source = from_socket_name(rx_->names[index]);
    d.icmp_type = control.error.ee_type;
    d.icmp_code = control.error.ee_code;
    d.icmp_mtu = mtu_of(control.error);
  }
}

// Cuts runs into datagrams, in place.
uint32_t SocketsDriver::hand_out(std::span<RxDatagram> rx) {
  uint32_t count = 0;
  while (count < rx.size() && pending_head_ < pending_count_) {
    Pending& message = pending_[pending_head_];
    if (message.done) {
      ++pending_head_;
      continue;
    }
    const uint32_t length =
        message.segment == 0 || message.left < message.segment ? message.left : message.segment;
    RxDatagram& d = rx[count++];
    d = message.next;
    d.length = static_cast<uint16_t>(length);
    message.next.payload += length;
    message.left -= length;
    if (message.left == 0) ++pending_head_;
  }
  return count;
}

}  // namespace culvert
