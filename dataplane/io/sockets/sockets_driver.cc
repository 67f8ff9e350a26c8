#include "dataplane/io/sockets/sockets_driver.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <string>
#include <system_error>

#include "dataplane/io/sockets/sockets_state.h"

namespace culvert {

namespace {

constexpr uint16_t kNoRow = 0xffff;

[[nodiscard]] size_t relaying(const Snapshot& snapshot) {
  size_t count = 0;
  for (const LocalAddress& address : snapshot.addresses)
    count += address.relays ? 1 : 0;
  return count;
}

[[nodiscard]] size_t port_count(const Snapshot& snapshot) {
  if (snapshot.relay_port_high < snapshot.relay_port_low) {
    throw std::runtime_error(
        "the relay port range is empty: its low end must not pass its high end");
  }
  return size_t{snapshot.relay_port_high} - snapshot.relay_port_low + 1;
}

}  // namespace

SocketsDriver::SocketsDriver(const Snapshot& snapshot, CoreId core, ListenerSockets& listeners,
                             const SocketsOptions& options)
    : arena_([&] {
        const size_t slots = snapshot.listeners.size() + 1 + options.max_relay_ports;
        // Each table below, and a line of alignment for each of the ten.
        return slots * (sizeof(Socket) + 2 * sizeof(uint32_t)) +
               relaying(snapshot) * port_count(snapshot) * sizeof(uint32_t) +
               snapshot.addresses.size() * (sizeof(uint16_t) + sizeof(IpAddress)) +
               sizeof(RxSlots) + sizeof(TxSlots) + 2 * sizeof(SlotQueue) +
               kRxMessages * (sizeof(Pending) + kRxStride) + 16 * kCacheLine;
      }()),
      options_(options) {
  listener_count_ = static_cast<uint32_t>(snapshot.listeners.size());
  const size_t slots = size_t{listener_count_} + 1 + options.max_relay_ports;
  port_low_ = snapshot.relay_port_low;
  port_count_ = static_cast<uint32_t>(port_count(snapshot));
  sockets_ = arena_.make<Socket>(slots);
  ports_ = arena_.make<uint32_t>(relaying(snapshot) * port_count_);
  address_row_ = arena_.make<uint16_t>(snapshot.addresses.size());
  addresses_ = arena_.make<IpAddress>(snapshot.addresses.size());
  uint16_t row = 0;
  for (size_t i = 0; i < snapshot.addresses.size(); ++i) {
    addresses_[i] = snapshot.addresses[i].bound;
    address_row_[i] = snapshot.addresses[i].relays ? row++ : kNoRow;
  }
  rx_ = arena_.make<RxSlots>(1).data();
  tx_ = arena_.make<TxSlots>(1).data();
  ready_listeners_ = arena_.make<SlotQueue>(1).data();
  ready_relays_ = arena_.make<SlotQueue>(1).data();
  ready_listeners_->use(arena_.make<uint32_t>(slots));
  ready_relays_->use(arena_.make<uint32_t>(slots));
  pending_ = arena_.make<Pending>(kRxMessages);
  rx_->buffers = arena_.make<uint8_t>(kRxMessages * kRxStride).data();
  arena_.seal();
  for (size_t i = 0; i < kRxMessages; ++i) {
    rx_->pieces[i] = {rx_->buffers + i * kRxStride, kRxBufferBytes};
    msghdr& header = rx_->headers[i].msg_hdr;
    header.msg_name = &rx_->names[i];
    header.msg_iov = &rx_->pieces[i];
    header.msg_iovlen = 1;
    header.msg_control = rx_->control[i].data();
  }
  // Slot listener_count_ stays unused so that 0 can mean "none" even without listeners.
  for (size_t i = slots - 1; i > listener_count_; --i) {
    sockets_[i].next_free = free_slot_;
    free_slot_ = static_cast<uint32_t>(i);
  }
  epoll_fd_ = epoll_create1(EPOLL_CLOEXEC);
  wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  epoll_event event{EPOLLIN | EPOLLET, {.u32 = kWakeSlot}};
  if (epoll_fd_ < 0 || wake_fd_ < 0 || epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, wake_fd_, &event) != 0) {
    const int error = errno;
    if (epoll_fd_ >= 0) close(epoll_fd_);
    if (wake_fd_ >= 0) close(wake_fd_);
    throw std::system_error(error, std::generic_category(),
                            "cannot make the event queue of core " + std::to_string(core) +
                                ": raise the limit of open files (LimitNOFILE= or ulimit -n)");
  }
  adopt_listeners(snapshot, core, listeners);
}

void SocketsDriver::adopt_listeners(const Snapshot& snapshot, CoreId core,
                                    ListenerSockets& listeners) {
  for (uint32_t i = 0; i < listener_count_; ++i) {
    Socket& socket = sockets_[i];
    socket.fd = listeners.take(core, i);
    ENSURE(socket.fd >= 0);
    socket.family = snapshot.addresses[snapshot.listeners[i].address].bound.family;
    socket.kind = RxKind::kClient;
    socket.listener = static_cast<uint16_t>(i);
    ENSURE(watch(i));
  }
}

SocketsDriver::~SocketsDriver() {
  for (Socket& socket : sockets_) {
    if (socket.fd >= 0) close(socket.fd);
  }
  close(wake_fd_);
  close(epoll_fd_);
}

bool SocketsDriver::watch(uint32_t slot) {
  epoll_event event{EPOLLIN | EPOLLET, {.u32 = slot}};
  return epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, sockets_[slot].fd, &event) == 0;
}

uint32_t* SocketsDriver::port_slot(RelayLeg leg) {
  if (leg.address >= address_row_.size() || address_row_[leg.address] == kNoRow) return nullptr;
  const uint32_t offset = uint32_t{leg.port} - port_low_;
  if (offset >= port_count_) return nullptr;
  return &ports_[size_t{address_row_[leg.address]} * port_count_ + offset];
}

Egress SocketsDriver::open_relay_port(RelayLeg leg) {
  uint32_t* at = port_slot(leg);
  if (at == nullptr || *at != 0 || free_slot_ == 0) return kNoEgress;
  UdpSocketSpec spec;
  spec.bind_to = {addresses_[leg.address], leg.port};
  spec.report_errors = true;
  spec.receive_bytes = options_.relay_receive_bytes;
  spec.send_bytes = options_.relay_send_bytes;
  const UdpSocketResult opened = open_udp_socket(spec);
  if (opened.fd < 0) return kNoEgress;
  const uint32_t slot = free_slot_;
  Socket& socket = sockets_[slot];
  const uint32_t next_free = socket.next_free;
  const bool queued = socket.queued;  // an earlier owner may still stand in the ready queue
  socket = Socket{};
  socket.fd = opened.fd;
  socket.family = spec.bind_to.ip.family;
  socket.leg = leg;
  socket.queued = queued;
  if (!watch(slot)) {
    close(opened.fd);
    socket.fd = -1;
    socket.next_free = next_free;
    return kNoEgress;
  }
  free_slot_ = next_free;
  *at = slot;
  ++open_ports_;
  return slot;
}

void SocketsDriver::close_relay_port(RelayLeg leg) {
  uint32_t* at = port_slot(leg);
  if (at == nullptr || *at == 0) return;
  const uint32_t slot = *at;
  *at = 0;
  close(sockets_[slot].fd);  // leaves epoll by itself: nobody else holds this descriptor
  sockets_[slot].fd = -1;
  sockets_[slot].next_free = free_slot_;
  free_slot_ = slot;
  --open_ports_;
  // The port may be another allocation's before the next burst: what was read for this one goes.
  for (uint32_t i = 0; i < pending_count_; ++i) {
    if (pending_[i].slot == slot) pending_[i].done = true;
  }
}

Ticks SocketsDriver::now() const {
  // Not the coarse clock: it runs up to 4 ms behind control's, and a lifetime that begins by the
  // one and is told by the other would end that much early. 46 cycles a loop instead of 12.
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<Ticks>(static_cast<uint64_t>(time.tv_sec) * 1000 +
                            static_cast<uint64_t>(time.tv_nsec) / 1000000);
}

// The two flags are each written by one side and read by the other with sequential consistency, so
// either the sleeper sees the request or the waker sees the sleeper.
void SocketsDriver::wait(uint32_t wait_us) {
  if (pending_head_ != pending_count_ || !ready_relays_->empty() || !ready_listeners_->empty()) {
    return;
  }
  sleeping_.store(true);
  if (!wake_asked_.load()) {
    collect_ready(wait_us);
    fresh_ = collected_;
  }
  sleeping_.store(false);
  (void)wake_asked_.exchange(false);  // acquires what the waker wrote before
}

void SocketsDriver::wake() {
  wake_asked_.store(true);
  if (!sleeping_.load()) return;
  const uint64_t one = 1;
  // A full counter (after 2^64 wakes) would mean the event is already there.
  (void)!write(wake_fd_, &one, sizeof one);
}

}  // namespace culvert
