// The pcap driver by itself: what it takes from a capture, when, and what it writes to the other
// one. Captures are made with libpcap in the test's own directory.
#include "dataplane/io/pcap/pcap_driver.h"

#include <gtest/gtest.h>
#include <pcap/pcap.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

namespace culvert {
namespace {

using Bytes = std::vector<uint8_t>;
namespace fs = std::filesystem;

constexpr uint64_t kMillisecond = 1'000'000;

TransportAddress at(std::string_view text) {
  return TransportAddress::parse(text).value();
}

struct Frame {
  uint64_t time_ns = 0;
  Bytes bytes;
};

Bytes udp_frame(std::string_view from, std::string_view to, std::string_view payload,
                bool with_checksum = true) {
  Bytes frame(frame::kMaxHeaders + payload.size());
  std::copy(payload.begin(), payload.end(), frame.begin() + frame::kMaxHeaders);
  frame::Outgoing o;
  o.source = at(from);
  o.destination = at(to);
  o.ttl = 61;
  o.tos = 0x28;
  o.dont_fragment = true;
  if (with_checksum) o.body = frame::full_sum(&frame[frame::kMaxHeaders], payload.size());
  const frame::Link link{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 7}, frame::kNoVlan};
  const size_t headers =
      frame::write_headers(frame.data() + frame::kMaxHeaders, payload.size(), link, o);
  frame.erase(frame.begin(), frame.begin() + static_cast<long>(frame::kMaxHeaders - headers));
  return frame;
}

Snapshot two_families() {
  Snapshot s;
  const IpAddress four = IpAddress::parse("192.0.2.1").value();
  const IpAddress six = IpAddress::parse("2001:db8::1").value();
  s.addresses = {{four, four, true}, {six, six, true}};
  s.listeners.resize(2);
  s.listeners[0].address = 0;
  s.listeners[0].port = 3478;
  s.listeners[1].address = 1;
  s.listeners[1].port = 3478;
  s.relay_port_low = 50000;
  s.relay_port_high = 50999;
  return s;
}

class PcapDriverTest : public ::testing::Test {
 protected:
  PcapDriverTest() {
    std::string name = (fs::temp_directory_path() / "culvert-pcap-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "no temporary directory";
    folder_ = name;
    config_.input = (folder_ / "in.pcap").string();
    config_.output = (folder_ / "out.pcap").string();
  }
  ~PcapDriverTest() override { fs::remove_all(folder_); }

  void write_input(const std::vector<Frame>& frames) {
    pcap_t* format =
        pcap_open_dead_with_tstamp_precision(DLT_EN10MB, 65535, PCAP_TSTAMP_PRECISION_NANO);
    pcap_dumper_t* file = pcap_dump_open(format, config_.input.c_str());
    ASSERT_NE(file, nullptr);
    for (const Frame& f : frames) {
      pcap_pkthdr header{};
      header.ts.tv_sec = static_cast<time_t>(f.time_ns / 1'000'000'000);
      header.ts.tv_usec = static_cast<suseconds_t>(f.time_ns % 1'000'000'000);
      header.caplen = header.len = static_cast<uint32_t>(f.bytes.size());
      pcap_dump(reinterpret_cast<u_char*>(file), &header, f.bytes.data());
    }
    pcap_dump_close(file);
    pcap_close(format);
  }

  std::vector<Frame> read_output() {
    std::vector<Frame> out;
    char error[PCAP_ERRBUF_SIZE] = {};
    pcap_t* file = pcap_open_offline_with_tstamp_precision(config_.output.c_str(),
                                                           PCAP_TSTAMP_PRECISION_NANO, error);
    if (file == nullptr) return out;
    pcap_pkthdr* header = nullptr;
    const u_char* data = nullptr;
    while (pcap_next_ex(file, &header, &data) == 1) {
      out.push_back({static_cast<uint64_t>(header->ts.tv_sec) * 1'000'000'000 +
                         static_cast<uint64_t>(header->ts.tv_usec),
                     Bytes(data, data + header->caplen)});
    }
    pcap_close(file);
    return out;
  }

  std::unique_ptr<PcapDriver> open() {
    std::string error;
    auto driver = PcapDriver::open(config_, two_families(), error);
    EXPECT_NE(driver, nullptr) << error;
    return driver;
  }

  // The next non-empty burst.
  static uint32_t next(PcapDriver& driver, std::span<RxDatagram> rx) {
    while (!driver.finished()) {
      const uint32_t n = driver.rx_burst(rx);
      if (n != 0) return n;
    }
    return 0;
  }

  fs::path folder_;
  PcapDriver::Config config_;
  std::array<RxDatagram, kMaxBurst> rx_;
};

TEST_F(PcapDriverTest, a_missing_or_foreign_file_is_refused_with_a_sentence) {
  std::string error;
  EXPECT_EQ(PcapDriver::open(config_, two_families(), error), nullptr);
  EXPECT_NE(error.find("in.pcap"), std::string::npos) << error;
  pcap_t* format = pcap_open_dead(DLT_RAW, 65535);
  pcap_dumper_t* file = pcap_dump_open(format, config_.input.c_str());
  pcap_dump_close(file);
  pcap_close(format);
  error.clear();
  EXPECT_EQ(PcapDriver::open(config_, two_families(), error), nullptr);
  EXPECT_NE(error.find("not an Ethernet capture"), std::string::npos) << error;
}

TEST_F(PcapDriverTest, clients_and_peers_are_told_apart_and_the_rest_is_counted) {
  const uint64_t t = 1'700'000'000'000'000'000;
  Bytes arp(60);
  arp[12] = 8;
  arp[13] = 6;
  write_input({{t, udp_frame("198.51.100.7:4000", "192.0.2.1:3478", "to listener 0")},
               {t, udp_frame("[2001:db8::7]:4000", "[2001:db8::1]:3478", "to listener 1")},
               {t, udp_frame("198.51.100.8:9", "192.0.2.1:50000", "to a relayed port")},
               {t, udp_frame("[2001:db8::8]:9", "[2001:db8::1]:50999", "to a relayed port")},
               {t, udp_frame("198.51.100.8:9", "192.0.2.1:51000", "beyond the range")},
               {t, udp_frame("198.51.100.8:9", "192.0.2.2:3478", "another host")},
               {t, arp}});
  auto driver = open();
  ASSERT_EQ(next(*driver, rx_), 4u);
  EXPECT_EQ(rx_[0].kind, RxKind::kClient);
  EXPECT_EQ(rx_[0].listener, 0);
  EXPECT_EQ(rx_[0].source, at("198.51.100.7:4000"));
  EXPECT_EQ(rx_[0].ttl, 61);
  EXPECT_EQ(rx_[0].tos, 0x28);
  EXPECT_EQ(rx_[0].df, DontFragment::kSet);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(rx_[0].payload), rx_[0].length),
            "to listener 0");
  EXPECT_EQ(rx_[1].kind, RxKind::kClient);
  EXPECT_EQ(rx_[1].listener, 1);
  EXPECT_EQ(rx_[2].kind, RxKind::kPeer);
  EXPECT_EQ(rx_[2].relay.address, 0);
  EXPECT_EQ(rx_[2].relay.port, 50000);
  EXPECT_EQ(rx_[3].kind, RxKind::kPeer);
  EXPECT_EQ(rx_[3].relay.address, 1);
  EXPECT_EQ(rx_[3].relay.port, 50999);
  EXPECT_TRUE(driver->finished());
  EXPECT_EQ(driver->frames(frame::Kind::k_udp), 4u);
  EXPECT_EQ(driver->frames(frame::Kind::k_not_ip), 1u);
  EXPECT_EQ(driver->not_ours(), 2u);
}

TEST_F(PcapDriverTest, an_icmp_error_names_the_relayed_port_and_the_peer) {
  const Bytes lost = udp_frame("192.0.2.1:50001", "198.51.100.8:9", "x");
  Bytes error = udp_frame("203.0.113.1:1", "192.0.2.1:1", std::string(lost.size() - 14, ' '));
  error[23] = frame::kProtocolIcmp;
  error[34] = 3;
  error[35] = 4;
  store_be32(&error[36], 0);
  store_be32(&error[38], 1300);
  std::copy(lost.begin() + 14, lost.end(), error.begin() + 42);
  checksum::store_word(&error[36], 0);
  checksum::store_word(&error[36], checksum::full({&error[34], error.size() - 34}));
  checksum::store_word(&error[24], 0);
  checksum::store_word(&error[24], checksum::full({&error[14], 20}));
  write_input({{1, error}});
  auto driver = open();
  ASSERT_EQ(next(*driver, rx_), 1u);
  EXPECT_EQ(rx_[0].kind, RxKind::kIcmpError);
  EXPECT_EQ(rx_[0].relay.port, 50001);
  EXPECT_EQ(rx_[0].source, at("198.51.100.8:9"));
  EXPECT_EQ(rx_[0].icmp_type, 3);
  EXPECT_EQ(rx_[0].icmp_code, 4);
  EXPECT_EQ(rx_[0].icmp_mtu, 1300u);
}

TEST_F(PcapDriverTest, the_clock_is_the_captures_and_no_burst_spans_two_milliseconds) {
  const Bytes frame = udp_frame("198.51.100.7:4000", "192.0.2.1:3478", "x");
  const uint64_t t = 5 * kMillisecond + 300'000;
  write_input({{t, frame},
               {t + 1, frame},
               {t + kMillisecond - 1, frame},
               {t + kMillisecond, frame},
               {t + 300'000 * kMillisecond, frame}});
  auto driver = open();
  EXPECT_EQ(driver->now(), 0u);
  EXPECT_EQ(driver->rx_burst(rx_), 3u);
  EXPECT_EQ(driver->now(), 0u);
  EXPECT_EQ(driver->rx_burst(rx_), 0u) << "the old millisecond's loop ends first";
  EXPECT_EQ(driver->now(), 1u);
  EXPECT_EQ(driver->rx_burst(rx_), 1u);
  EXPECT_EQ(driver->rx_burst(rx_), 0u);
  EXPECT_EQ(driver->now(), 300'000u);
  EXPECT_EQ(driver->rx_burst(rx_), 1u);
  EXPECT_TRUE(driver->finished());
  driver->advance_to(600'000);
  EXPECT_EQ(driver->now(), 600'000u);
}

TEST_F(PcapDriverTest, a_forwarded_datagram_leaves_at_its_own_time_with_a_derived_checksum) {
  const uint64_t t = 1'700'000'000'000'000'123;
  const std::string channel_data = std::string("\x40\x00\x00\x05hello", 9);
  write_input({{t, udp_frame("198.51.100.7:4000", "192.0.2.1:3478", channel_data)},
               {t + 77, udp_frame("198.51.100.7:4000", "192.0.2.1:3478", channel_data, false)}});
  config_.neighbours.push_back({at("198.51.100.8:9").ip, {2, 0, 0, 0, 0, 8}});
  auto driver = open();
  ASSERT_EQ(next(*driver, rx_), 2u);
  TxBurst tx;
  tx.count = 4;
  for (uint32_t i = 0; i < 4; ++i) {
    TxDatagram& out = tx.items[i];
    out = TxDatagram{};
    const RxDatagram& in = rx_[i / 2];
    out.payload = in.payload + 4;
    out.length = 5;
    out.to = i % 2 == 0 ? at("198.51.100.8:9") : at("[2001:db8::8]:9");
    out.from_address = static_cast<uint16_t>(i % 2);
    out.from_port = 50000;
    out.ttl = 60;
    out.tos = 0x28;
    out.dont_fragment = true;
  }
  EXPECT_EQ(driver->tx_burst(tx), 0u);
  driver.reset();
  const auto out = read_output();
  ASSERT_EQ(out.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(out[i].time_ns, t + 77 * (i / 2));
    frame::Parsed p;
    ASSERT_EQ(frame::parse(out[i].bytes, frame::Verify::kAll, p), frame::Kind::k_udp) << i;
    EXPECT_EQ(p.source.port, 50000);
    EXPECT_EQ(p.destination, i % 2 == 0 ? at("198.51.100.8:9") : at("[2001:db8::8]:9"));
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(p.payload), p.length), "hello");
    EXPECT_EQ(p.ttl, 60);
    EXPECT_EQ(p.sum_known, i != 2) << "no checksum stays none in IPv4 and is made for IPv6";
    const frame::MacAddress to{2, 0, 0, 0, 0, static_cast<uint8_t>(i % 2 == 0 ? 8 : 0xfe)};
    EXPECT_TRUE(std::equal(to.begin(), to.end(), out[i].bytes.begin()));
    const frame::MacAddress from{2, 0, 0, 0, 0, 1};
    EXPECT_TRUE(std::equal(from.begin(), from.end(), out[i].bytes.begin() + 6));
  }
}

TEST_F(PcapDriverTest, an_answer_goes_to_the_ethernet_address_that_asked) {
  write_input({{9, udp_frame("198.51.100.7:4000", "192.0.2.1:3478", "question")}});
  auto driver = open();
  ASSERT_EQ(next(*driver, rx_), 1u);
  const std::string answer = "answer";
  TxBurst tx;
  tx.count = 1;
  tx.items[0] = TxDatagram{};
  tx.items[0].payload = reinterpret_cast<const uint8_t*>(answer.data());
  tx.items[0].length = static_cast<uint16_t>(answer.size());
  tx.items[0].to = rx_[0].source;
  tx.items[0].from_port = 3478;
  EXPECT_EQ(driver->tx_burst(tx), 0u);
  driver.reset();
  const auto out = read_output();
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].bytes[5], 7);
  frame::Parsed p;
  ASSERT_EQ(frame::parse(out[0].bytes, frame::Verify::kAll, p), frame::Kind::k_udp);
  EXPECT_TRUE(p.sum_known);
}

TEST_F(PcapDriverTest, a_relayed_port_opens_once_until_it_is_closed) {
  write_input({});
  auto driver = open();
  EXPECT_TRUE(driver->finished());
  const RelayLeg leg{0, 50000};
  EXPECT_NE(driver->open_relay_port(leg), kNoEgress);
  EXPECT_EQ(driver->open_relay_port(leg), kNoEgress);
  EXPECT_NE(driver->open_relay_port({1, 50000}), kNoEgress);
  driver->close_relay_port(leg);
  EXPECT_NE(driver->open_relay_port(leg), kNoEgress);
}

}  // namespace
}  // namespace culvert
