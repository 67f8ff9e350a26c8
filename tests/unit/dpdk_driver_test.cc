// The DPDK driver over a ring in memory (net_ring), which passes buffers on as they are: receive
// flags, frames in several buffers, fragments that come in by different cores' queues, datagrams
// that are cut. What a capture can express is in the golden cases.
#include <gtest/gtest.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/api/stats.h"
#include "dataplane/io/dpdk/dpdk_driver.h"
#include "dataplane/io/dpdk/eal.h"

namespace culvert {
namespace {

using Bytes = std::vector<uint8_t>;
constexpr frame::Link kLink{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}};

// One EAL for all tests: it can be started once in a process. As many rings as lcores.
Eal& eal() {
  static Eal only({"--lcores", "(0,1)@0", "--no-huge", "-m", "128", "--no-pci", "--no-telemetry",
                   "--iova-mode=va", "--log-level", "*:warning", "--file-prefix",
                   "culvert_driver_" + std::to_string(getpid())});
  return only;
}

TransportAddress at(const std::string& text) {
  return TransportAddress::parse(text).value();
}

Snapshot snapshot_of(CoreId cores) {
  Snapshot s;
  s.version = 1;
  s.cores = cores;
  s.addresses.push_back({at("192.0.2.1:0").ip, at("192.0.2.1:0").ip, true});
  s.addresses.push_back({at("[2001:db8::1]:0").ip, at("[2001:db8::1]:0").ip, true});
  Listener listener;
  listener.port = 3478;
  s.listeners.push_back(listener);
  s.relay_port_low = 50000;
  s.relay_port_high = 50999;
  return s;
}

frame::Outgoing from_client(const Bytes& body) {
  frame::Outgoing o;
  o.source = at("203.0.113.10:4000");
  o.destination = at("192.0.2.1:3478");
  o.body = frame::full_sum(body.data(), body.size());
  return o;
}

Bytes frame_of(const frame::Outgoing& o, const Bytes& body) {
  Bytes out(frame::kMaxHeaders + body.size());
  std::copy(body.begin(), body.end(), out.begin() + frame::kMaxHeaders);
  const size_t headers =
      frame::write_headers(out.data() + frame::kMaxHeaders, body.size(), kLink, o);
  out.erase(out.begin(), out.begin() + static_cast<ptrdiff_t>(frame::kMaxHeaders - headers));
  return out;
}

Bytes fragment_of(const frame::Outgoing& o, const Bytes& body, size_t offset, size_t length,
                  uint32_t identification) {
  Bytes whole(frame::kUdpHeader + body.size());
  frame::write_udp_header(whole.data(), body.size(), o);
  std::copy(body.begin(), body.end(), whole.begin() + frame::kUdpHeader);
  length = std::min(length, whole.size() - offset);
  Bytes out(frame::kMaxPieceHeaders + length);
  std::copy_n(whole.begin() + static_cast<ptrdiff_t>(offset), length,
              out.begin() + frame::kMaxPieceHeaders);
  const size_t headers = frame::write_piece_headers(
      out.data() + frame::kMaxPieceHeaders, length,
      {offset, offset + length < whole.size(), identification}, kLink, o);
  out.erase(out.begin(), out.begin() + static_cast<ptrdiff_t>(frame::kMaxPieceHeaders - headers));
  return out;
}

class DpdkDriverTest : public ::testing::Test {
 protected:
  DpdkDriverTest() { eal().attach(device, ""); }
  ~DpdkDriverTest() override {
    drivers.clear();
    ports.reset();
    eal().detach(device);
  }

  void start(CoreId cores) {
    snapshot = snapshot_of(cores);
    PortsOptions options;
    options.cores = cores;
    options.descriptors = 256;
    ports = std::make_unique<DpdkPorts>(options);
    DpdkOptions driver;
    for (const LocalAddress& a : snapshot.addresses)
      driver.addresses.push_back({a.bound, static_cast<uint8_t>(a.bound.is_v4() ? 24 : 64), 0});
    driver.busy = true;
    driver.clock = &clock;
    for (CoreId core = 0; core < cores; ++core) {
      stats.push_back(std::make_unique<CoreStats>());
      drivers.push_back(
          std::make_unique<DpdkDriver>(snapshot, core, *ports, neighbours, driver, *stats.back()));
      (void)drivers.back()->now();
    }
    for (const char* host : {"203.0.113.10:0", "198.51.100.20:0", "[2001:db8:5::20]:0"})
      ASSERT_TRUE(neighbours.learn(at(host).ip, {{2, 0, 0, 0, 0, 9}, 0}, 0,
                                   NeighbourTable::Origin::kConfigured));
  }

  // Into a queue, cut into so many buffers.
  void inject(uint16_t queue, const Bytes& frame, uint64_t flags = 0, size_t buffers = 1) {
    const Port& port = ports->ports()[0];
    rte_mbuf* first = nullptr;
    rte_mbuf* last = nullptr;
    const size_t step = (frame.size() + buffers - 1) / buffers;
    for (size_t from = 0; from < frame.size(); from += step) {
      rte_mbuf* mbuf = rte_pktmbuf_alloc(port.pools[queue]);
      ASSERT_NE(mbuf, nullptr);
      const size_t length = std::min(step, frame.size() - from);
      std::copy_n(frame.begin() + static_cast<ptrdiff_t>(from), length,
                  rte_pktmbuf_mtod(mbuf, uint8_t*));
      mbuf->data_len = static_cast<uint16_t>(length);
      if (first == nullptr) {
        first = mbuf;
      } else {
        last->next = mbuf;
        ++first->nb_segs;
      }
      last = mbuf;
      first->pkt_len += static_cast<uint32_t>(length);
    }
    first->ol_flags = flags;
    ASSERT_EQ(rte_eth_tx_burst(port.id, queue, &first, 1), 1);
  }

  [[nodiscard]] uint32_t receive(CoreId core) {
    return drivers[core]->rx_burst({rx.data(), rx.size()});
  }
  [[nodiscard]] std::vector<Bytes> sent(uint16_t queue) {
    std::vector<Bytes> out;
    rte_mbuf* mbufs[32];
    while (const uint16_t n = rte_eth_rx_burst(ports->ports()[0].id, queue, mbufs, 32)) {
      for (uint16_t i = 0; i < n; ++i) {
        const auto* bytes = rte_pktmbuf_mtod(mbufs[i], const uint8_t*);
        out.emplace_back(bytes, bytes + mbufs[i]->data_len);
        rte_pktmbuf_free(mbufs[i]);
      }
    }
    return out;
  }
  [[nodiscard]] uint64_t counted(CoreId core, FrameCounter counter) const {
    return stats[core]->frames[static_cast<size_t>(counter)].get();
  }
  [[nodiscard]] Bytes payload(uint32_t i) const {
    return {rx[i].payload, rx[i].payload + rx[i].length};
  }
  [[nodiscard]] uint32_t buffers_in_use() const {
    uint32_t used = 0;
    for (const rte_mempool* pool : ports->ports()[0].pools)
      used += rte_mempool_in_use_count(pool);
    return used;
  }

  // A device's rings outlive it: each test has one of a name of its own.
  static inline int devices = 0;
  std::string device = "net_ring_test" + std::to_string(devices++);
  Ticks clock = 10000;
  Snapshot snapshot;
  NeighbourTable neighbours{1, 64};
  std::unique_ptr<DpdkPorts> ports;
  std::vector<std::unique_ptr<CoreStats>> stats;
  std::vector<std::unique_ptr<DpdkDriver>> drivers;
  std::array<RxDatagram, kMaxBurst> rx;
};

// RFC 8489's shortest: looked at, because the relay is its end.
const Bytes kBinding = {0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

TEST_F(DpdkDriverTest, what_the_port_says_of_checksums_is_believed) {
  start(1);
  Bytes good = frame_of(from_client(kBinding), kBinding);
  Bytes wrong = good;
  wrong.back() ^= 1;
  struct Case {
    const Bytes& frame;
    uint64_t flags;
    uint32_t taken;
    FrameCounter counter;  // when not taken
  };
  constexpr auto kBadUdp = FrameCounter::k_bad_udp_checksum;
  for (const Case& c :
       {Case{good, 0, 1, kBadUdp}, Case{wrong, 0, 0, kBadUdp},
        Case{wrong, RTE_MBUF_F_RX_L4_CKSUM_GOOD, 1, kBadUdp},
        Case{wrong, RTE_MBUF_F_RX_L4_CKSUM_NONE, 1, kBadUdp},
        Case{good, RTE_MBUF_F_RX_L4_CKSUM_BAD, 0, kBadUdp},
        Case{good, RTE_MBUF_F_RX_IP_CKSUM_BAD, 0, FrameCounter::k_bad_ip_checksum},
        Case{good, RTE_MBUF_F_RX_IP_CKSUM_GOOD | RTE_MBUF_F_RX_L4_CKSUM_GOOD, 1, kBadUdp}}) {
    const uint64_t before = counted(0, c.counter);
    inject(0, c.frame, c.flags);
    ASSERT_EQ(receive(0), c.taken) << c.flags;
    EXPECT_EQ(counted(0, c.counter) - before, 1 - c.taken) << c.flags;
    // "None" means that the field was never filled in: nothing can be derived from it.
    if (c.taken != 0) {
      EXPECT_EQ(rx[0].sum_state,
                c.flags == RTE_MBUF_F_RX_L4_CKSUM_NONE ? PayloadSum::kUnknown : PayloadSum::kKnown);
    }
  }
  EXPECT_EQ(receive(0), 0u);
  EXPECT_EQ(buffers_in_use(), 0u);
}

TEST_F(DpdkDriverTest, a_frame_in_several_buffers_is_one_datagram_where_one_buffer_holds_it) {
  start(1);
  Bytes body(1400, 0);
  for (size_t i = 0; i < body.size(); ++i)
    body[i] = static_cast<uint8_t>(0x40 + i % 7);
  inject(0, frame_of(from_client(body), body), 0, 3);
  ASSERT_EQ(receive(0), 1u);
  EXPECT_EQ(payload(0), body);
  const Bytes longer(5000, 0x41);
  inject(0, frame_of(from_client(longer), longer), 0, 4);
  EXPECT_EQ(receive(0), 0u);
  EXPECT_EQ(counted(0, FrameCounter::k_segments_too_long), 1u);
  (void)receive(0);
  EXPECT_EQ(buffers_in_use(), 0u);
}

TEST_F(DpdkDriverTest, fragments_that_come_in_by_different_queues_make_one_datagram) {
  start(2);
  Bytes body(1800, 0);
  for (uint32_t turn = 0; turn < 2000; ++turn) {
    for (size_t i = 0; i < body.size(); ++i)
      body[i] = static_cast<uint8_t>(0x40 + (i + turn) % 11);
    const auto first_core = static_cast<CoreId>(turn % 2);
    const auto last_core = static_cast<CoreId>(turn / 2 % 2);
    inject(first_core, fragment_of(from_client(body), body, 0, 1000, turn));
    ASSERT_EQ(receive(first_core), 0u);
    inject(last_core, fragment_of(from_client(body), body, 1000, 2000, turn));
    ASSERT_EQ(receive(last_core), 1u) << turn;
    EXPECT_EQ(payload(0), body);
    EXPECT_EQ(rx[0].kind, RxKind::kClient);
    EXPECT_EQ(rx[0].df, DontFragment::kClear);
    ++clock;
    (void)drivers[0]->now();
    (void)drivers[1]->now();
  }
  EXPECT_EQ(counted(0, FrameCounter::k_reassembled) + counted(1, FrameCounter::k_reassembled),
            2000u);
  // One more half: its core gives it up when its time is over.
  inject(1, fragment_of(from_client(body), body, 0, 1000, 7));
  ASSERT_EQ(receive(1), 0u);
  clock += kReassemblyLifetimeMs;
  for (int turn = 0; turn < 2; ++turn)
    for (CoreId core : {CoreId{0}, CoreId{1}}) {
      (void)drivers[core]->now();
      (void)receive(core);
      clock += kReassemblyLifetimeMs;
    }
  EXPECT_EQ(
      counted(0, FrameCounter::k_fragment_timeout) + counted(1, FrameCounter::k_fragment_timeout),
      1u);
  EXPECT_TRUE(ports->fragments().table.idle());
  EXPECT_EQ(buffers_in_use(), 0u);
}

TEST_F(DpdkDriverTest, a_burst_of_the_longest_datagrams_leaves_in_fragments_to_the_last_one) {
  start(1);
  constexpr uint32_t kDatagrams = 8;
  const Bytes body(60000, 0x5a);
  auto tx = std::make_unique<TxBurst>();
  tx->count = kDatagrams;
  for (uint32_t i = 0; i < kDatagrams; ++i) {
    TxDatagram& t = tx->items[i];
    t = TxDatagram{};
    t.payload = body.data();
    t.length = static_cast<uint16_t>(body.size());
    t.to = at("198.51.100.20:7000");
    t.from_port = 50000;
    t.dont_fragment = false;
  }
  EXPECT_EQ(drivers[0]->tx_burst(*tx), 0u);
  EXPECT_EQ(counted(0, FrameCounter::k_cut), kDatagrams);
  Reassembler table(SipKey{});
  uint32_t whole = 0;
  for (const Bytes& frame : sent(0)) {
    EXPECT_LE(frame.size(), frame::kEthernetHeader + 1500u);
    frame::Fragment fragment;
    ASSERT_TRUE(frame::parse_fragment(frame, fragment));
    Reassembler::Handle handle = 0;
    if (table.take(fragment, 0, handle) != Reassembler::Result::kComplete) continue;
    frame::Parsed parsed;
    ASSERT_EQ(table.parse(handle, frame::Verify::kAll, parsed), frame::Kind::k_udp);
    EXPECT_EQ(Bytes(parsed.payload, parsed.payload + parsed.length), body);
    table.release(handle);
    ++whole;
  }
  EXPECT_EQ(whole, kDatagrams);
  EXPECT_EQ(buffers_in_use(), 0u);
}

TEST_F(DpdkDriverTest, a_datagram_in_pieces_waits_whole_for_its_next_hop_or_not_at_all) {
  start(1);
  const Bytes body(3000, 0x5a);
  const Bytes longest(60000, 0x5b);
  auto tx = std::make_unique<TxBurst>();
  TxDatagram& t = tx->items[0];
  t = TxDatagram{};
  t.to = at("192.0.2.77:7000");  // on our network, and never heard of
  t.from_port = 50000;
  const auto send = [&](const Bytes& payload) {
    tx->count = 1;
    t.payload = payload.data();
    t.length = static_cast<uint16_t>(payload.size());
    return drivers[0]->tx_burst(*tx);
  };
  EXPECT_EQ(send(body), 0u);
  EXPECT_EQ(send(longest), 1u);  // more pieces than may wait for one hop
  EXPECT_EQ(counted(0, FrameCounter::k_no_next_hop), 1u);
  EXPECT_EQ(sent(0).size(), 1u);  // the question
  const frame::MacAddress mac{2, 0, 0, 0, 0, 77};
  ASSERT_TRUE(
      neighbours.learn(at("192.0.2.77:0").ip, {mac, 0}, 10, NeighbourTable::Origin::kAnswer));
  (void)drivers[0]->rx_burst({});  // room for no datagram: what is sent comes back on a ring
  Reassembler table(SipKey{});
  const std::vector<Bytes> pieces = sent(0);
  ASSERT_EQ(pieces.size(), 3u);
  for (size_t i = 0; i < pieces.size(); ++i) {
    EXPECT_TRUE(std::equal(mac.begin(), mac.end(), pieces[i].begin()));
    frame::Fragment fragment;
    ASSERT_TRUE(frame::parse_fragment(pieces[i], fragment));
    Reassembler::Handle handle = 0;
    ASSERT_EQ(table.take(fragment, 0, handle) == Reassembler::Result::kComplete, i == 2);
    if (i != 2) continue;
    frame::Parsed parsed;
    ASSERT_EQ(table.parse(handle, frame::Verify::kAll, parsed), frame::Kind::k_udp);
    EXPECT_EQ(Bytes(parsed.payload, parsed.payload + parsed.length), body);
  }
  EXPECT_EQ(buffers_in_use(), 0u);
}

// A peer's datagram with DF, too long with its framing, sent by the core that received it and by
// one that it was handed to: the peer is told the same, quoting the same.
TEST_F(DpdkDriverTest, a_sender_is_told_what_fits_whichever_core_sends) {
  start(2);
  const Bytes body(1470, 0x33);
  frame::Outgoing o;
  o.source = at("198.51.100.20:7000");
  o.destination = at("192.0.2.1:50000");
  o.dont_fragment = true;
  o.ttl = 9;
  o.tos = 46;
  o.body = frame::full_sum(body.data(), body.size());
  inject(0, frame_of(o, body));
  ASSERT_EQ(receive(0), 1u);
  auto tx = std::make_unique<TxBurst>();
  tx->count = 1;
  TxDatagram& t = tx->items[0];
  t.payload = rx[0].payload;
  t.length = rx[0].length;
  t.head_length = 4;
  t.head.fill(0);
  t.to = at("203.0.113.10:4000");
  t.from_port = 3478;
  t.dont_fragment = true;
  EXPECT_EQ(drivers[0]->tx_burst(*tx), 1u);
  const std::vector<Bytes> told = sent(0);
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(load_be32(&told[0][34]) >> 16, 0x0304u);
  EXPECT_EQ(load_be32(&told[0][38]), 1452u);

  RxDatagram handed = rx[0];
  const Bytes copy = payload(0);
  handed.payload = copy.data();
  handed.handed_over = 1;
  drivers[1]->handed_in({&handed, 1});
  t.payload = copy.data();
  EXPECT_EQ(drivers[1]->tx_burst(*tx), 1u);
  const std::vector<Bytes> told_again = sent(1);
  ASSERT_EQ(told_again.size(), 1u);
  EXPECT_EQ(told_again[0], told[0]);
  EXPECT_EQ(counted(1, FrameCounter::k_too_big_told), 1u);
}

}  // namespace
}  // namespace culvert
