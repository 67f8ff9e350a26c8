// The conformance suite's own logic: its table of rows, its verdicts, how it reads captured
// packets. What it makes of right and of wrong servers is in conformance_faults_test.cc.
#include <gtest/gtest.h>

#include <array>
#include <set>
#include <system_error>

#include "tools/culvert-conformance/capture.h"
#include "tools/culvert-conformance/report.h"

namespace culvert::conformance {
namespace {

const Row& row(int number) {
  static const std::vector<Row> rows = all_rows();
  for (const Row& r : rows)
    if (r.number == number) return r;
  throw std::out_of_range("row");
}

TEST(Conformance, EveryRowOfTheWaveIsThereOnce) {
  std::set<int> numbers;
  for (const Row& r : all_rows())
    EXPECT_TRUE(numbers.insert(r.number).second) << r.number;
  for (int i = 1; i <= 120; ++i) {
    const bool later = i == 22 || i == 23 || (i > 100 && i < 118);
    EXPECT_EQ(numbers.contains(i), !later) << i;
  }
}

TEST(Conformance, ARowThatIsNotJudgedSaysWhyAndOneThatIsHasATest) {
  size_t judged = 0;
  for (const Row& r : all_rows()) {
    const bool tested = r.kind == Kind::kTest || r.kind == Kind::kSlow;
    const bool captured = r.kind == Kind::kCapture;
    EXPECT_EQ(r.run != nullptr, tested || captured) << r.number;
    EXPECT_EQ(std::string(r.reason).empty(), tested) << r.number;
    judged += tested ? 1 : 0;
  }
  EXPECT_GE(judged, 60u);
}

TEST(Conformance, RowNamesAreReadWithAndWithoutTheirLetter) {
  EXPECT_EQ(row_number("T12"), 12);
  EXPECT_EQ(row_number("t7"), 7);
  EXPECT_EQ(row_number("100"), 100);
  for (const char* const wrong : {"", "T", "12x", "T-3", "T1 ", "0"})
    EXPECT_EQ(row_number(wrong), 0) << wrong;
}

TEST(Conformance, TheExitStatusIsOneOnlyWhenARowFailed) {
  std::vector<Result> results{{&row(1), Verdict::kPass, "", 0},
                              {&row(12), Verdict::kNotOffered, "", 0}};
  EXPECT_EQ(exit_status(results), 0);
  EXPECT_EQ(summary(results), "1 pass, 0 fail, 1 not offered, 0 not observable, 0 not run\n");
  results.push_back({&row(2), Verdict::kFail, "why", 0});
  EXPECT_EQ(exit_status(results), 1);
  EXPECT_EQ(to_json("s", results)["totals"]["fail"], 1);
}

TEST(Conformance, RowsThatAreNotTestedKeepTheirVerdict) {
  const Target nowhere{};
  Observations seen;
  EXPECT_EQ(run_row(row(37), nowhere, seen, true).verdict, Verdict::kNotObservable);
  EXPECT_EQ(run_row(row(12), nowhere, seen, true).verdict, Verdict::kNotOffered);
  EXPECT_EQ(run_row(row(90), nowhere, seen, true).verdict, Verdict::kNotObservable);
  EXPECT_EQ(run_row(row(65), nowhere, seen, false).verdict, Verdict::kNotRun);
}

TEST(Conformance, APacketIsReadFromItsHeaders) {
  const std::array<uint8_t, 28> ipv4{0x45, 0xb8, 0,   28, 0, 1, 0x40, 0,    60,   17, 0, 0, 127, 0,
                                     0,    1,    127, 0,  0, 2, 0x0d, 0x96, 0x10, 0,  0, 8, 0,   0};
  const auto four = parse_packet(ipv4);
  ASSERT_TRUE(four);
  EXPECT_EQ(four->from.to_string(), "127.0.0.1:3478");
  EXPECT_EQ(four->to.to_string(), "127.0.0.2:4096");
  EXPECT_EQ(four->tos, 0xb8);
  EXPECT_EQ(four->ttl, 60);
  EXPECT_TRUE(four->dont_fragment);
  EXPECT_FALSE(four->fragment);
  // IPv6 with a Fragment header that begins a datagram, then Packet Too Big with MTU 1280.
  std::vector<uint8_t> ipv6(56, 0);
  ipv6[0] = 0x6b;
  ipv6[1] = 0x8a;
  ipv6[2] = 0xbc;
  ipv6[3] = 0xde;
  ipv6[5] = 16;
  ipv6[6] = 44;
  ipv6[7] = 9;
  ipv6[23] = ipv6[39] = 1;
  ipv6[40] = 17;
  ipv6[43] = 1;
  ipv6[49] = 7;
  const auto six = parse_packet(ipv6);
  ASSERT_TRUE(six);
  EXPECT_TRUE(six->fragment);
  EXPECT_EQ(six->tos, 0xb8);
  EXPECT_EQ(six->flow_label, 0xabcdeu);
  EXPECT_EQ(six->from.to_string(), "[::1]:7");
  ipv6[6] = 58;
  ipv6[40] = 2;
  ipv6[46] = 5;
  ipv6[47] = 0;
  const auto error = parse_packet(ipv6);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->icmp_type, 2);
  EXPECT_EQ(error->icmp_mtu, 1280u);
}

TEST(Conformance, NoPrefixOfAPacketIsReadPastItsEnd) {
  for (const uint8_t first : std::array<uint8_t, 4>{0x45, 0x4f, 0x60, 0x10}) {
    std::vector<uint8_t> packet(64, 44);
    packet[0] = first;
    for (size_t size = 0; size <= packet.size(); ++size) {
      const std::vector<uint8_t> part(packet.begin(),
                                      packet.begin() + static_cast<ptrdiff_t>(size));
      static_cast<void>(parse_packet(part));
    }
  }
}

TEST(Conformance, AnInterfaceThatIsNotThereIsAnError) {
  EXPECT_THROW(Capture("no-such-interface"), std::system_error);
}

}  // namespace
}  // namespace culvert::conformance
