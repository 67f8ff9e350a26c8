// The driver that reads a capture file and writes another: golden tests, and the replay of a
// captured incident through the very path that met it. The clock is the capture's: now() is the
// time of the frames being delivered, in milliseconds since the first one, so a replay gives the
// same bytes every time and lifetimes expire as they did.
//
// Invariants: frames are delivered in file order; a burst never spans two milliseconds; every frame
// of the input is counted once, in frames(kind) or, when it is good but for none of our addresses
// and ports, in not_ours(); what became of fragments is in counted(). A frame made from a received
// datagram carries that frame's exact timestamp, any other frame the latest delivered one's. Owned
// and used by one thread; may allocate (it is a tool, not a NIC).
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "dataplane/api/frame_counter.h"
#include "dataplane/api/snapshot.h"
#include "dataplane/base/ticks.h"
#include "dataplane/io/driver.h"
#include "dataplane/io/frames.h"
#include "dataplane/path/datagram.h"
#include "dataplane/wire/frame.h"
#include "dataplane/wire/icmp.h"
#include "dataplane/wire/reassembly.h"

struct pcap;
struct pcap_dumper;

namespace culvert {

class PcapDriver {
 public:
  struct Neighbour {
    IpAddress ip;
    frame::MacAddress mac{};
  };
  struct Config {
    std::string input;   // classic pcap or pcapng, Ethernet
    std::string output;  // nanosecond pcap; empty: frames are counted and forgotten
    // The relay's own Ethernet address; all zero: the destination of the first frame for us.
    frame::MacAddress own_mac{};
    // Before any learning. Every received frame teaches its sender's address.
    std::vector<Neighbour> neighbours;
    frame::MacAddress gateway{2, 0, 0, 0, 0, 0xfe};  // for whom nobody is known
    // Of the link: longer datagrams are cut, or their senders told (io/frames.h).
    uint16_t mtu = 65535;
  };

  // nullptr: a file cannot be opened or is not Ethernet; `error` is a sentence.
  [[nodiscard]] static std::unique_ptr<PcapDriver> open(Config config, const Snapshot& snapshot,
                                                        std::string& error);
  ~PcapDriver();
  PcapDriver(const PcapDriver&) = delete;
  PcapDriver& operator=(const PcapDriver&) = delete;

  // 0 when the clock has moved to the next frame's millisecond, or at the end: see finished().
  [[nodiscard]] uint32_t rx_burst(std::span<RxDatagram> rx);
  [[nodiscard]] uint32_t tx_burst(TxBurst& tx);
  [[nodiscard]] Egress listener_egress(uint16_t listener) const;
  [[nodiscard]] Egress open_relay_port(RelayLeg leg);
  void close_relay_port(RelayLeg leg);
  [[nodiscard]] Ticks now() const { return clock_; }
  void wait(uint32_t /*wait_us*/) {}
  void wake() {}

  // Nothing is left to deliver. The clock may then be moved on, to see lifetimes end.
  [[nodiscard]] bool finished() const { return !pending_.present; }
  void advance_to(Ticks at) {
    clock_ = ticks_later(clock_, at);
    expire_fragments();
  }

  [[nodiscard]] uint64_t frames(frame::Kind kind) const {
    return frames_[static_cast<size_t>(kind)];
  }
  [[nodiscard]] uint64_t not_ours() const { return not_ours_; }
  // Of fragments and of what was sent; the same names as a DPDK port's.
  [[nodiscard]] uint64_t counted(FrameCounter counter) const {
    return counted_[static_cast<size_t>(counter)];
  }
  [[nodiscard]] uint64_t written() const { return written_; }
  // A sentence when reading ended early because the file is damaged; else empty.
  [[nodiscard]] const std::string& read_error() const { return read_error_; }

 private:
  struct Captured {
    bool present = false;
    uint64_t time_ns = 0;
    std::vector<uint8_t> bytes;
  };
  // A frame of the current burst.
  struct Delivered {
    uint64_t time_ns = 0;
    std::vector<uint8_t> bytes;
    frame::Kind kind = frame::Kind::k_not_ip;
    frame::Parsed parsed;
    bool reassembled = false;  // then bytes are the payload's
  };

  PcapDriver(Config config, const Snapshot& snapshot);
  void read_pending();
  [[nodiscard]] bool deliver(Delivered& slot, RxDatagram& rx);
  [[nodiscard]] bool put_together(Delivered& slot);
  void expire_fragments();
  void count_given_up();
  void count(FrameCounter counter, uint64_t n = 1) { counted_[static_cast<size_t>(counter)] += n; }
  [[nodiscard]] Ticks ticks_of(uint64_t time_ns) const;
  [[nodiscard]] bool classify(frame::Kind kind, const frame::Parsed& parsed, RxDatagram& rx) const;
  void learn(const frame::MacAddress& to, const frame::MacAddress& from, const IpAddress& source);
  [[nodiscard]] const Delivered* origin(const uint8_t* payload) const;
  [[nodiscard]] bool send(const TxDatagram& tx);
  [[nodiscard]] bool send_long(const TxDatagram& tx, const Delivered* from,
                               const frame::Outgoing& o, const frame::Link& link);
  [[nodiscard]] uint32_t told(const Delivered& from, bool leaves_by_ipv6) const;
  [[nodiscard]] bool tell(const Delivered& from, frame::IcmpError error, uint32_t mtu);
  void write(uint64_t time_ns, std::span<const uint8_t> frame);
  [[nodiscard]] frame::Link link_to(const IpAddress& ip, uint16_t vlan_tci) const;

  Config config_;
  std::vector<LocalAddress> addresses_;
  std::vector<Listener> listeners_;
  uint16_t port_low_;
  uint16_t port_high_;
  pcap* input_ = nullptr;
  pcap* format_ = nullptr;  // describes the output
  pcap_dumper* output_ = nullptr;

  Captured pending_;  // the next frame, read ahead to know its time
  std::array<Delivered, kMaxBurst> burst_;
  uint32_t burst_count_ = 0;
  uint64_t first_ns_ = 0;
  uint64_t latest_ns_ = 0;
  Ticks clock_ = 0;
  uint16_t identification_ = 0;
  std::map<std::array<uint8_t, 16>, frame::MacAddress> neighbours_;
  std::set<uint32_t> open_ports_;  // address << 16 | port
  std::vector<uint8_t> scratch_;

  Reassembler fragments_{SipKey{}};
  FragmentBudget fragment_budget_;
  IcmpErrorBudget icmp_error_budget_;
  uint64_t cut_over_ipv6_ = 0;
  std::array<uint64_t, frame::kKinds> frames_{};
  std::array<uint64_t, kFrameCounters> counted_{};
  uint64_t not_ours_ = 0;
  uint64_t written_ = 0;
  std::string read_error_;
};

}  // namespace culvert
