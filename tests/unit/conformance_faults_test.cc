// The conformance suite against servers that are wrong in one known way: each fault makes exactly
// the rows beside it fail, every row that can be judged has a fault that it catches, and the same
// server without a fault passes them all. Waits of minutes are skipped on both sides, so rows about
// lifetimes are among them. With root each server has a network namespace of its own with a
// loopback of 1500 bytes, where rows that need a capture run too.
#include <gtest/gtest.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>

#include "tests/support/needs.h"
#include "tests/unit/conformance_responder.h"
#include "tools/culvert-conformance/rows.h"

namespace culvert::conformance {
namespace {

using Rows = std::set<int>;
using Families = Responder::Families;

struct Case {
  const char* name;
  Fault fault;
  std::array<int, 7> numbers;  // of the rows that must fail, and no others; 0: none more
  [[nodiscard]] Rows rows() const;
};

// Every row that cannot be judged without an allocation.
Rows rows_of_allocations() {
  const Rows others{1, 2, 3, 4, 13, 14, 15, 18, 19, 20, 24, 25, 26, 27, 28, 29, 31, 60, 62, 118};
  Rows out;
  for (const Row& row : all_rows())
    if (row.run != nullptr && !others.contains(row.number)) out.insert(row.number);
  return out;
}

#define FAULT(name) #name, Fault::name
constexpr Case kCases[] = {
    {FAULT(kAnswersWithoutCookie), {1}},
    {FAULT(kAnswersUnknownMethods), {2, 118}},
    {FAULT(kUnknownBeforeAuthentication), {3}},
    {FAULT(kUnknownNamedTwice), {4}},
    {FAULT(kUnknownIgnoredInIndications), {5}},
    {FAULT(kOptionalIsRequired), {6}},
    {FAULT(kLastDuplicateCounts), {7}},
    {FAULT(kPaddingNotZero), {8}},
    {FAULT(kReadsAfterIntegrity), {9}},
    {FAULT(kAnswersFromTwoPorts), {10}},
    {FAULT(kRetransmissionRefused), {11}},
    {FAULT(kMappedAddressChanges), {13}},
    {FAULT(kBindingCarriesNonce), {14}},
    {FAULT(kBindingNeedsCredentials), {4, 6, 8, 10, 13, 14, 15}},
    {FAULT(kFingerprintUnchecked), {15}},
    {FAULT(kIntegrityCoversFingerprint), {9, 16}},
    {FAULT(kTruncatedSha256Accepted), {17}},
    {FAULT(kReasonPadded), {18}},
    {FAULT(kNonceTooLong), {19}},
    {FAULT(kLongUserRefused), {20}},
    {FAULT(kNoSoftware), {21}},
    {FAULT(kChallengeNamesUser), {24}},
    {FAULT(kNonceForEveryone), {25}},
    {FAULT(kMissingUserIs401), {26}},
    {FAULT(kNonceFirst), {27}},
    {FAULT(kOtherRealmIs400), {28}},
    {FAULT(kWrongIntegrityIs400), {3, 27, 29, 33, 40}},
    {FAULT(kStaleWithoutNonce), {30}},
    {FAULT(kNoCookieInNonce), {31}},
    {FAULT(kBidDownAccepted), {32}},
    {FAULT(kSha1Preferred), {33}},
    {FAULT(kErrorsUnsigned), {34}},
    {FAULT(kMd5WithSha256Refused), {35}},
    {FAULT(kUserhashUnknown), {36}},
    {FAULT(kNoAllocations), {}},
    {FAULT(kOccupiedBeforeAuthentication), {34, 40}},
    {FAULT(kSecondAllocateAccepted), {34, 41}},
    {FAULT(kRetransmittedAllocateIs437), {42}},
    {FAULT(kOtherTransportIs400), {43}},
    {FAULT(kDontFragmentIs400), {44}},
    {FAULT(kTokenWithFamilyIs508), {45}},
    {FAULT(kUnknownTokenIs404), {46}},
    {FAULT(kBothFamiliesAccepted), {47}},
    {FAULT(kUnknownFamilyIsIpv4), {48}},
    {FAULT(kEvenPortWithBothAccepted), {49}},
    {FAULT(kTokenGivesAnyPort), {50}},
    {FAULT(kAdditionalIpv4Accepted), {51}},
    {FAULT(kPortsInSequence), {53}},
    {FAULT(kSeventhPortReused), {54}},
    {FAULT(kLifetimeAsAsked), {55}},
    {FAULT(kNoLifetime), {55, 56}},
    {FAULT(kNoMappedAddress), {56}},
    {FAULT(kRefreshZeroAlways), {57}},
    {FAULT(kRefreshOfAnyFamily), {58}},
    {FAULT(kPermissionExtendsAllocation), {59}},
    {FAULT(kNoAllocationIs400), {60}},
    {FAULT(kOtherUserAccepted), {61}},
    {FAULT(kNonceNeverChanges), {62}},
    {FAULT(kTupleHeldAfterRelease), {64}},
    {FAULT(kSendRenewsPermission), {65}},
    {FAULT(kPermissionOfPort), {66, 83}},
    {FAULT(kPermissionsNotAtomic), {67, 69}},
    {FAULT(kOtherFamilyIs403), {68}},
    {FAULT(kMulticastAllowed), {69}},
    {FAULT(kEmptyDataDropped), {71}},
    {FAULT(kSendNeedsNoPermission), {65, 67, 69, 72}},
    {FAULT(kSendWithoutPermissionAnswered), {69, 72, 119}},
    {FAULT(kSendWithDontFragmentDropped), {73}},
    {FAULT(kPeerNeedsNoPermission), {65, 74}},
    {FAULT(kDataInsteadOfChannelData), {75, 83, 86, 93, 94, 95}},
    {FAULT(kNoIcmpWithChannel), {76, 78}},
    {FAULT(kIcmpReservedSet), {77}},
    {FAULT(kChannelsTo7fff), {79}},
    {FAULT(kSecondChannelOfPeer), {80}},
    {FAULT(kChannelLivesLonger), {81}},
    {FAULT(kChannelNeverFree), {82}},
    {FAULT(kChannelOfAnyPort), {83}},
    {FAULT(kPaddingPassedOn), {84, 85}},
    {FAULT(kShortChannelDataSent), {85}},
    {FAULT(kEmptyChannelDataDropped), {86}},
    {FAULT(kChannelDataRenews), {81, 87}},
    {FAULT(kRetransmittedBindIs400), {88}},
    {FAULT(kTosCleared), {89}},
    {FAULT(kTtlFixed), {91}},
    {FAULT(kDontFragmentAcrossFamilies), {96}},
    {FAULT(kOptionsCopied), {100}},
    {FAULT(kAnyFirstByte), {118}},
    {FAULT(kOwnAddressAllowed), {119}},
    {FAULT(kTunnelsAllowed), {120}},
    {FAULT(kIcmpSourceChecked), {78}},
    {FAULT(kDontFragmentAlways), {90}},
    {FAULT(kFlowLabelCopied), {92}},
    {FAULT(kTooBigSwallowed), {93}},
    {FAULT(kFragmentsSwallowed), {94}},
    {FAULT(kTtlCopiedToIpv4), {95}},
    {FAULT(kTosInvented), {89, 95, 97}},
};
#undef FAULT

Rows Case::rows() const {
  if (fault == Fault::kNoAllocations) return rows_of_allocations();
  Rows out(numbers.begin(), numbers.end());
  out.erase(0);
  return out;
}

// The calling thread, and those that it starts, in a network of its own. False without root.
bool enter_own_network() {
  if (unshare(CLONE_NEWNET) != 0) return false;
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ifreq loopback{};
  loopback.ifr_name[0] = 'l';
  loopback.ifr_name[1] = 'o';
  loopback.ifr_mtu = 1500;
  bool done = fd >= 0 && ioctl(fd, SIOCSIFMTU, &loopback) == 0;
  loopback.ifr_flags = IFF_UP | IFF_RUNNING;
  done = done && ioctl(fd, SIOCSIFFLAGS, &loopback) == 0;
  close(fd);
  if (!done) throw std::system_error(errno, std::generic_category(), "loopback of a namespace");
  return true;
}

// All rows against one server: verdict and evidence by number.
std::map<int, Result> judge(Fault fault, Families families, const IpAddress& ip) {
  static const std::vector<Row> kRows = all_rows();
  const bool alone = enter_own_network();
  Responder responder(fault, ip, families);
  Target target = responder.target();
  if (alone) target.capture = "lo";
  Observations seen;
  std::map<int, Result> out;
  for (const Row& row : kRows)
    out.emplace(row.number, run_row(row, target, seen, true));
  return out;
}

// In a thread of its own, which takes its network with it.
std::map<int, Result> judge_apart(Fault fault, Families families, unsigned number) {
  std::map<int, Result> out;
  const IpAddress ip = IpAddress::v4(0x7f010000u + number);
  std::thread([&] { out = judge(fault, families, ip); }).join();
  return out;
}

std::string with_evidence(const std::map<int, Result>& results, const Rows& rows) {
  std::string out;
  for (const int number : rows)
    out += "  T" + std::to_string(number) + " " + results.at(number).evidence + "\n";
  return out;
}

Rows with_verdict(const std::map<int, Result>& results, Verdict verdict) {
  Rows out;
  for (const auto& [number, result] : results)
    if (result.verdict == verdict) out.insert(number);
  return out;
}

bool can_capture() {
  bool can = false;
  std::thread([&] { can = enter_own_network(); }).join();
  return can;
}

TEST(ConformanceFaults, EveryRowThatCanBeJudgedHasAFault) {
  Rows covered;
  std::set<Fault> used;
  for (const Case& each : kCases) {
    covered.merge(each.rows());
    EXPECT_TRUE(used.insert(each.fault).second) << each.name;
  }
  EXPECT_EQ(used.size() + 1, static_cast<size_t>(Fault::kCount)) << "a fault is in no case";
  for (const Row& row : all_rows())
    EXPECT_TRUE(row.run == nullptr || covered.contains(row.number)) << "T" << row.number;
}

TEST(ConformanceFaults, AServerWithoutFaultsPassesEveryRow) {
  const auto results = judge_apart(Fault::kNone, {}, 1);
  const Rows later{12, 98, 99};
  Rows missing = later;
  for (const Row& row : all_rows())
    if (row.kind == Kind::kNotObservable || (row.kind == Kind::kCapture && !can_capture()))
      missing.insert(row.number);
  for (const auto& [number, result] : results)
    EXPECT_TRUE(missing.contains(number) || result.verdict == Verdict::kPass)
        << "T" << number << ": " << result.evidence;
  EXPECT_EQ(with_verdict(results, Verdict::kNotOffered), later);
}

TEST(ConformanceFaults, AServerOfOneFamilyFailsNoRow) {
  for (const Families families : {Families{true, false}, Families{false, true}}) {
    const auto results = judge_apart(Fault::kNone, families, 2);
    const Rows failed = with_verdict(results, Verdict::kFail);
    EXPECT_TRUE(failed.empty()) << "IPv4 " << families.ipv4 << "\n"
                                << with_evidence(results, failed);
    // What is left to judge is most of it.
    EXPECT_GE(with_verdict(results, Verdict::kPass).size(), 75u) << "IPv4 " << families.ipv4;
  }
}

TEST(ConformanceFaults, AFaultMakesItsRowsFailAndNoOthers) {
  constexpr unsigned kThreads = 24;  // they wait more than they work
  std::vector<std::map<int, Result>> results(std::size(kCases));
  std::atomic<size_t> next = 0;
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; ++i)
    threads.emplace_back([&] {
      for (size_t n = next++; n < std::size(kCases); n = next++)
        results[n] = judge_apart(kCases[n].fault, {}, static_cast<unsigned>(n) + 10);
    });
  for (auto& thread : threads)
    thread.join();
  for (size_t n = 0; n < std::size(kCases); ++n) {
    Rows expected;
    for (const int number : kCases[n].rows())
      if (results[n].at(number).verdict != Verdict::kNotObservable) expected.insert(number);
    const Rows failed = with_verdict(results[n], Verdict::kFail);
    EXPECT_EQ(failed, expected) << kCases[n].name << "\n" << with_evidence(results[n], failed);
  }
}

TEST(ConformanceFaults, RowsThatNeedACaptureRun) {
  CULVERT_TEST_NEEDS(can_capture(), "root, for network namespaces and captures");
  const auto results = judge_apart(Fault::kNone, {}, 3);
  EXPECT_TRUE(with_verdict(results, Verdict::kNotObservable) == (Rows{37, 38, 52, 63, 70}));
}

}  // namespace
}  // namespace culvert::conformance
