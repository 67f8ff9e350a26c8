// The conformance suite's own logic: its table of rows, its verdicts, and that rows fail against a
// responder that breaks the rule they test. The responder is a thread with a socket on loopback; it
// knows Binding only, which is enough for the rows that need no allocation.
#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>

#include "tools/culvert-conformance/report.h"

namespace culvert::conformance {
namespace {

std::vector<Row> all_rows() {
  std::vector<Row> out;
  for (const auto rows :
       {stun_rows(), credential_rows(), allocation_rows(), data_rows(), header_rows()})
    out.insert(out.end(), rows.begin(), rows.end());
  return out;
}

const Row& row(int number) {
  static const std::vector<Row> rows = all_rows();
  for (const Row& r : rows)
    if (r.number == number) return r;
  throw std::out_of_range("row");
}

enum class Fault {
  kNone,
  kAnswersAnything,
  kMappedAddressChanges,
  kPaddingNotZero,
  kUnknownNotListed,
  kAnswersBadFingerprint,
  kFromAnotherPort,
};

class Responder {
 public:
  explicit Responder(Fault fault) : fault_(fault), thread_([this] { serve(); }) {}
  ~Responder() {
    ended_ = true;
    thread_.join();
  }
  [[nodiscard]] Target target() const {
    Target t;
    t.server = socket_.address();
    t.account = {"user", "password"};
    t.client_ip = loopback();
    t.peer_ip = loopback();
    t.retransmit = milliseconds(100);
    t.tries = 2;
    t.quiet = milliseconds(20);
    return t;
  }
  [[nodiscard]] static IpAddress loopback() { return *IpAddress::parse("127.0.0.1"); }

 private:
  void serve() {
    while (!ended_)
      if (const auto got = socket_.receive(Clock::now() + milliseconds(10))) answer(*got);
  }

  void answer(const Datagram& got) {
    auto view = MessageView::parse(got.payload);
    const bool request =
        view && view->cls() == Class::kRequest && view->method() == Method::kBinding;
    const bool fingerprint_bad =
        view && view->has(Attr::kFingerprint) && !view->fingerprint_valid();
    if (!request && fault_ != Fault::kAnswersAnything) return;
    if (fingerprint_bad && fault_ != Fault::kAnswersBadFingerprint) return;
    TransactionId id{};
    if (got.payload.size() >= 20) std::copy_n(got.payload.begin() + 8, id.size(), id.begin());
    send(got.from, reply(got.from, id, view ? &*view : nullptr).bytes());
  }

  MessageBuilder reply(const TransportAddress& to, const TransactionId& id,
                       const MessageView* request) {
    std::vector<uint8_t> unknown;
    for (const auto& a :
         request != nullptr ? request->attributes() : std::vector<stun_client::AttributeView>{}) {
      const auto type = static_cast<uint16_t>(a.type);
      if (type >= 0x7000 && type < 0x8000) {
        unknown.push_back(static_cast<uint8_t>(type >> 8));
        unknown.push_back(static_cast<uint8_t>(type));
      }
    }
    MessageBuilder out(Method::kBinding, unknown.empty() ? Class::kSuccess : Class::kError, id);
    if (!unknown.empty()) {
      out.add_u32(Attr::kErrorCode, 4 << 8 | 20);
      if (fault_ != Fault::kUnknownNotListed) out.add(Attr::kUnknownAttributes, unknown);
      return out;
    }
    TransportAddress mapped = to;
    if (fault_ == Fault::kMappedAddressChanges) mapped.port = ++changing_;
    const uint8_t pad = fault_ == Fault::kPaddingNotZero ? 0x5a : 0;
    out.add(Attr::kSoftware, "abcde", pad).add_xor_address(Attr::kXorMappedAddress, mapped);
    return out;
  }

  void send(const TransportAddress& to, Bytes bytes) {
    if (fault_ == Fault::kFromAnotherPort) other_.send(to, bytes);
    socket_.send(to, bytes);
  }

  Fault fault_;
  UdpSocket socket_{loopback()}, other_{loopback()};
  uint16_t changing_ = 1000;
  std::atomic<bool> ended_ = false;
  std::thread thread_;  // last: it uses the others
};

Verdict verdict_of(int number, Fault fault) {
  const Responder responder(fault);
  const Target target = responder.target();
  Observations seen;
  return run_row(row(number), target, seen, false).verdict;
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
    EXPECT_EQ(r.run != nullptr, tested) << r.number;
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
  EXPECT_EQ(run_row(row(65), nowhere, seen, false).verdict, Verdict::kNotRun);
}

TEST(Conformance, ARightResponderPassesTheRowsOfBinding) {
  for (const int number : {1, 2, 13, 14, 15, 118})
    EXPECT_EQ(verdict_of(number, Fault::kNone), Verdict::kPass) << number;
}

TEST(Conformance, AWrongResponderFailsTheRowOfItsFault) {
  EXPECT_EQ(verdict_of(1, Fault::kAnswersAnything), Verdict::kFail);
  EXPECT_EQ(verdict_of(2, Fault::kAnswersAnything), Verdict::kFail);
  EXPECT_EQ(verdict_of(118, Fault::kAnswersAnything), Verdict::kFail);
  EXPECT_EQ(verdict_of(13, Fault::kMappedAddressChanges), Verdict::kFail);
  EXPECT_EQ(verdict_of(15, Fault::kAnswersBadFingerprint), Verdict::kFail);
  EXPECT_EQ(verdict_of(4, Fault::kUnknownNotListed), Verdict::kFail);
}

TEST(Conformance, PaddingThatIsNotZeroAndForeignSourcesAreNoticedInAnyAnswer) {
  for (const Fault fault : {Fault::kPaddingNotZero, Fault::kFromAnotherPort}) {
    const Responder responder(fault);
    const Target target = responder.target();
    Observations seen;
    Session session(target, seen);
    EXPECT_TRUE(session.ask(session.begin(Method::kBinding).bytes()));
    EXPECT_EQ(seen.padding.empty(), fault != Fault::kPaddingNotZero);
    EXPECT_EQ(seen.sources.empty(), fault != Fault::kFromAnotherPort);
  }
}

}  // namespace
}  // namespace culvert::conformance
