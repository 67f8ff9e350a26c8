// See pcap_driver.h. libpcap reads and writes the files; everything between is the frame layer.
#include "dataplane/io/pcap/pcap_driver.h"

#include <pcap/pcap.h>

#include <algorithm>
#include <utility>

namespace culvert {
namespace {

static_assert(Driver<PcapDriver>);

constexpr uint64_t kNanosecondsPerTick = 1'000'000;
constexpr uint64_t kNanosecondsPerSecond = 1'000'000'000;
constexpr int kSnapLength = 65535 + static_cast<int>(frame::kMaxHeaders);

uint32_t leg_key(RelayLeg leg) {
  return uint32_t{leg.address} << 16 | leg.port;
}

// All zero where the frame is too short to have one.
frame::MacAddress mac_at(std::span<const uint8_t> frame, size_t offset) {
  frame::MacAddress mac{};
  if (frame.size() >= offset + mac.size()) std::copy_n(&frame[offset], mac.size(), mac.begin());
  return mac;
}

}  // namespace

PcapDriver::PcapDriver(Config config, const Snapshot& snapshot)
    : config_(std::move(config)),
      addresses_(snapshot.addresses),
      listeners_(snapshot.listeners),
      port_low_(snapshot.relay_port_low),
      port_high_(snapshot.relay_port_high) {
  for (const Neighbour& n : config_.neighbours)
    neighbours_[n.ip.bytes] = n.mac;
}

std::unique_ptr<PcapDriver> PcapDriver::open(Config config, const Snapshot& snapshot,
                                             std::string& error) {
  std::unique_ptr<PcapDriver> driver(new PcapDriver(std::move(config), snapshot));
  char message[PCAP_ERRBUF_SIZE] = {};
  driver->input_ = pcap_open_offline_with_tstamp_precision(driver->config_.input.c_str(),
                                                           PCAP_TSTAMP_PRECISION_NANO, message);
  if (driver->input_ == nullptr) {
    error = "cannot read capture: " + std::string(message);
    return nullptr;
  }
  if (pcap_datalink(driver->input_) != DLT_EN10MB) {
    error = driver->config_.input + ": not an Ethernet capture";
    return nullptr;
  }
  if (!driver->config_.output.empty()) {
    driver->format_ =
        pcap_open_dead_with_tstamp_precision(DLT_EN10MB, kSnapLength, PCAP_TSTAMP_PRECISION_NANO);
    driver->output_ = pcap_dump_open(driver->format_, driver->config_.output.c_str());
    if (driver->output_ == nullptr) {
      error = "cannot write capture: " + std::string(pcap_geterr(driver->format_));
      return nullptr;
    }
  }
  driver->read_pending();
  driver->first_ns_ = driver->latest_ns_ = driver->pending_.time_ns;
  return driver;
}

PcapDriver::~PcapDriver() {
  if (output_ != nullptr) pcap_dump_close(output_);
  if (format_ != nullptr) pcap_close(format_);
  if (input_ != nullptr) pcap_close(input_);
}

void PcapDriver::read_pending() {
  pending_.present = false;
  pcap_pkthdr* header = nullptr;
  const uint8_t* data = nullptr;
  const int result = pcap_next_ex(input_, &header, &data);
  if (result == PCAP_ERROR) read_error_ = pcap_geterr(input_);
  if (result != 1) return;
  pending_.present = true;
  // With nanosecond precision libpcap puts nanoseconds in tv_usec.
  pending_.time_ns = static_cast<uint64_t>(header->ts.tv_sec) * kNanosecondsPerSecond +
                     static_cast<uint64_t>(header->ts.tv_usec);
  pending_.bytes.assign(data, data + header->caplen);
}

Ticks PcapDriver::ticks_of(uint64_t time_ns) const {
  // A capture may step back by some microseconds where two queues met; time does not.
  return static_cast<Ticks>((std::max(time_ns, first_ns_) - first_ns_) / kNanosecondsPerTick);
}

uint32_t PcapDriver::rx_burst(std::span<RxDatagram> rx) {
  burst_count_ = 0;
  const size_t room = std::min(rx.size(), kMaxBurst);
  bool took_any = false;
  while (pending_.present && burst_count_ < room) {
    const Ticks at = ticks_of(pending_.time_ns);
    if (!ticks_reached(clock_, at)) {
      // One loop of the core lies between two milliseconds: what is due in the old one is done
      // first.
      if (!took_any) advance_to(at);
      break;
    }
    took_any = true;
    latest_ns_ = std::max(latest_ns_, pending_.time_ns);
    Delivered& slot = burst_[burst_count_];
    slot.time_ns = pending_.time_ns;
    slot.bytes.swap(pending_.bytes);
    read_pending();
    if (deliver(slot, rx[burst_count_])) ++burst_count_;
  }
  return burst_count_;
}

// False: counted.
bool PcapDriver::deliver(Delivered& slot, RxDatagram& rx) {
  slot.kind = frame::parse(slot.bytes, frame::Verify::kAll, slot.parsed);
  slot.reassembled = false;
  const frame::MacAddress to = mac_at(slot.bytes, 0);
  const frame::MacAddress from = mac_at(slot.bytes, 6);
  if (slot.kind == frame::Kind::k_fragment && !put_together(slot)) return false;
  ++frames_[static_cast<size_t>(slot.kind)];
  if (frame::info(slot.kind).disposition != frame::Disposition::path) return false;
  if (!classify(slot.kind, slot.parsed, rx)) {
    --frames_[static_cast<size_t>(slot.kind)];
    ++not_ours_;
    return false;
  }
  if (slot.kind == frame::Kind::k_udp) learn(to, from, slot.parsed.source.ip);
  return true;
}

// A fragment: counted. True: it completes a datagram, which takes the place of the frame's bytes.
bool PcapDriver::put_together(Delivered& slot) {
  if (!fragment_budget_.take(clock_)) {
    count(FrameCounter::k_fragment_budget);
    return false;
  }
  frame::Fragment fragment;
  const bool read = frame::parse_fragment(slot.bytes, fragment);
  const auto ours = [&](const LocalAddress& a) { return a.bound == fragment.destination; };
  if (!read || std::none_of(addresses_.begin(), addresses_.end(), ours)) {
    ++not_ours_;
    return false;
  }
  Reassembler::Handle handle = 0;
  const Reassembler::Result result = fragments_.take(fragment, clock_, handle);
  count(frame_counter(result));
  count_given_up();
  if (result != Reassembler::Result::kComplete) return false;
  slot.kind = fragments_.parse(handle, frame::Verify::kAll, slot.parsed);
  slot.parsed.vlan_tci = fragment.vlan_tci;
  slot.reassembled = true;
  if (slot.kind == frame::Kind::k_udp) {
    slot.bytes.assign(slot.parsed.payload, slot.parsed.payload + slot.parsed.length);
    slot.parsed.payload = slot.bytes.data();
  }
  fragments_.release(handle);
  return true;
}

void PcapDriver::expire_fragments() {
  fragments_.expire(clock_);
  count_given_up();
}

void PcapDriver::count_given_up() {
  const Reassembler::GivenUp given_up = fragments_.given_up();
  count(FrameCounter::k_fragment_timeout, given_up.timeout);
  count(FrameCounter::k_fragment_table_full, given_up.table_full);
  count(FrameCounter::k_fragment_prefix_full, given_up.prefix_full);
}

bool PcapDriver::classify(frame::Kind kind, const frame::Parsed& parsed, RxDatagram& rx) const {
  const bool is_error = kind == frame::Kind::k_icmp_error;
  const TransportAddress& ours = is_error ? parsed.source : parsed.destination;
  rx = RxDatagram{};
  rx.payload = parsed.payload;
  rx.length = parsed.length;
  rx.ttl = parsed.ttl;
  rx.tos = parsed.tos;
  rx.df = parsed.dont_fragment ? DontFragment::kSet : DontFragment::kClear;
  rx.source = is_error ? parsed.destination : parsed.source;
  rx.icmp_type = is_error ? parsed.icmp_type : uint8_t{0};
  rx.icmp_code = is_error ? parsed.icmp_code : uint8_t{0};
  rx.icmp_mtu = is_error ? parsed.icmp_mtu : 0;
  for (size_t i = 0; !is_error && i < listeners_.size(); ++i) {
    if (listeners_[i].port != ours.port || addresses_[listeners_[i].address].bound != ours.ip) {
      continue;
    }
    rx.kind = RxKind::kClient;
    rx.listener = static_cast<uint16_t>(i);
    return true;
  }
  if (ours.port < port_low_ || ours.port > port_high_) return false;
  for (size_t i = 0; i < addresses_.size(); ++i) {
    if (!addresses_[i].relays || addresses_[i].bound != ours.ip) continue;
    rx.kind = is_error ? RxKind::kIcmpError : RxKind::kPeer;
    rx.relay = {static_cast<uint16_t>(i), ours.port};
    return true;
  }
  return false;
}

void PcapDriver::learn(const frame::MacAddress& to, const frame::MacAddress& from,
                       const IpAddress& source) {
  neighbours_[source.bytes] = from;
  if (config_.own_mac == frame::MacAddress{}) config_.own_mac = to;
}

frame::Link PcapDriver::link_to(const IpAddress& ip, uint16_t vlan_tci) const {
  const auto known = neighbours_.find(ip.bytes);
  return {known == neighbours_.end() ? config_.gateway : known->second, config_.own_mac, vlan_tci};
}

const PcapDriver::Delivered* PcapDriver::origin(const uint8_t* at) const {
  for (uint32_t i = 0; at != nullptr && i < burst_count_; ++i) {
    const uint8_t* const first = burst_[i].bytes.data();
    if (!std::less<>{}(at, first) && !std::less<>{}(first + burst_[i].bytes.size(), at)) {
      return &burst_[i];
    }
  }
  return nullptr;
}

bool PcapDriver::send(const TxDatagram& tx) {
  const Delivered* from = origin(tx.payload);
  frame::BodySum rest;
  if (from != nullptr) rest = frame::piece_sum(from->parsed, tx.payload, tx.length);
  // Made by the relay, or an unprotected IPv4 datagram that must leave protected by IPv6.
  const bool unprotected = from != nullptr && from->kind == frame::Kind::k_udp &&
                           !from->parsed.sum_known && tx.to.ip.is_v4();
  if (!rest.known && !unprotected) rest = frame::full_sum(tx.payload, tx.length);

  scratch_.assign(frame::kMaxHeaders + tx.size(), 0);
  uint8_t* const body = scratch_.data() + frame::kMaxHeaders;
  std::copy_n(tx.head.data(), tx.head_length, body);
  if (tx.length != 0) std::copy_n(tx.payload, tx.length, body + tx.head_length);

  frame::Outgoing o;
  o.source = {addresses_[tx.from_address].bound, tx.from_port};
  o.destination = tx.to;
  o.ttl = tx.ttl;
  o.tos = tx.tos;
  o.dont_fragment = tx.dont_fragment;
  // RFC 6864: an atomic datagram's identification means nothing; others count.
  o.identification = tx.dont_fragment || tx.to.ip.is_v6() ? uint16_t{0} : ++identification_;
  o.body = frame::with_head(rest, tx.head.data(), tx.head_length);
  const uint16_t vlan = from != nullptr ? from->parsed.vlan_tci : frame::kNoVlan;
  const frame::Link link = link_to(tx.to.ip, vlan);
  const size_t ip = tx.to.ip.is_v4() ? frame::kIpv4Header : frame::kIpv6Header;
  if (ip + frame::kUdpHeader + tx.size() > config_.mtu) return send_long(tx, from, o, link);
  const size_t headers = frame::write_headers(body, tx.size(), link, o);
  if (headers == 0) return false;
  write(from != nullptr ? from->time_ns : latest_ns_, {body - headers, headers + tx.size()});
  return true;
}

// scratch_ holds the body behind kMaxHeaders bytes.
bool PcapDriver::send_long(const TxDatagram& tx, const Delivered* from, const frame::Outgoing& o,
                           const frame::Link& link) {
  const bool ipv6 = tx.to.ip.is_v6();
  if (tx.dont_fragment || (from != nullptr && from->parsed.dont_fragment)) {
    count(FrameCounter::k_exceeds_mtu);
    if (from != nullptr && tell(*from, frame::IcmpError::kTooBig, told(*from, ipv6)))
      count(FrameCounter::k_too_big_told);
    return false;
  }
  uint8_t* const whole = scratch_.data() + frame::kMaxHeaders - frame::kUdpHeader;
  frame::write_udp_header(whole, tx.size(), o);
  const size_t total = frame::kUdpHeader + tx.size();
  const size_t step = piece_bytes(config_.mtu, ipv6);
  const uint32_t identification =
      ipv6 ? ipv6_identification(SipKey{}, ++cut_over_ipv6_) : o.identification;
  std::vector<uint8_t> piece;
  for (size_t at = 0; at < total; at += step) {
    const size_t length = std::min(step, total - at);
    piece.resize(frame::kMaxPieceHeaders + length);
    uint8_t* const data = piece.data() + frame::kMaxPieceHeaders;
    std::copy_n(whole + at, length, data);
    const size_t headers = frame::write_piece_headers(
        data, length, {at, at + length < total, identification}, link, o);
    write(from != nullptr ? from->time_ns : latest_ns_, {data - headers, headers + length});
  }
  count(FrameCounter::k_cut);
  return true;
}

// What its sender is told would have fitted.
uint32_t PcapDriver::told(const Delivered& from, bool leaves_by_ipv6) const {
  const TransportAddress& ours = from.parsed.destination;
  const auto listens = [&](const Listener& l) {
    return l.port == ours.port && addresses_[l.address].bound == ours.ip;
  };
  const bool from_peer = std::none_of(listeners_.begin(), listeners_.end(), listens);
  return told_mtu(config_.mtu, from.parsed.source.ip.is_v6(), leaves_by_ipv6, from_peer);
}

// False: counted, or it came in fragments and its frame is gone.
bool PcapDriver::tell(const Delivered& from, frame::IcmpError error, uint32_t mtu) {
  if (from.reassembled) return false;
  if (!icmp_error_budget_.take(clock_)) {
    count(FrameCounter::k_icmp_error_budget);
    return false;
  }
  const IpAddress& sender = from.parsed.source.ip;
  const uint16_t vlan = from.parsed.vlan_tci;
  const size_t ethernet = frame::kEthernetHeader + (vlan != frame::kNoVlan ? frame::kVlanTag : 0);
  std::array<uint8_t, frame::kMaxIcmpErrorFrame> frame;
  const size_t bytes =
      frame::write_icmp_error(frame, link_to(sender, vlan), from.parsed.destination.ip, sender,
                              error, mtu, std::span(from.bytes).subspan(ethernet));
  write(from.time_ns, {frame.data(), bytes});
  return true;
}

void PcapDriver::write(uint64_t time_ns, std::span<const uint8_t> frame) {
  ++written_;
  if (output_ == nullptr) return;
  pcap_pkthdr header{};
  header.ts.tv_sec = static_cast<time_t>(time_ns / kNanosecondsPerSecond);
  header.ts.tv_usec = static_cast<suseconds_t>(time_ns % kNanosecondsPerSecond);
  header.caplen = header.len = static_cast<uint32_t>(frame.size());
  pcap_dump(reinterpret_cast<u_char*>(output_), &header, frame.data());
}

uint32_t PcapDriver::tx_burst(TxBurst& tx) {
  uint32_t unsent = 0;
  for (uint32_t i = 0; i < tx.count; ++i) {
    if (!send(tx.items[i])) ++unsent;
  }
  for (uint32_t i = 0; i < tx.expired_count; ++i) {
    const Delivered* from = origin(tx.expired[i]);
    if (from != nullptr && tell(*from, frame::IcmpError::kTimeExceeded, 0))
      count(FrameCounter::k_expiry_told);
  }
  return unsent;
}

Egress PcapDriver::listener_egress(uint16_t listener) const {
  return leg_key({listeners_[listener].address, listeners_[listener].port});
}

Egress PcapDriver::open_relay_port(RelayLeg leg) {
  if (leg.address >= addresses_.size() || !open_ports_.insert(leg_key(leg)).second)
    return kNoEgress;
  return leg_key(leg);
}

void PcapDriver::close_relay_port(RelayLeg leg) {
  open_ports_.erase(leg_key(leg));
}

}  // namespace culvert
