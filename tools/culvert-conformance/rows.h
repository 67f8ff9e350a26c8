// The rows of the suite: one requirement of the RFCs each, numbered T1 to T120. Which rows can be
// judged from outside a server, and why not the others, is fixed here in the table and never
// decided while it runs. To add a row: one function and one line in the table of its file.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "tools/culvert-conformance/session.h"

namespace culvert::conformance {

enum class Verdict : uint8_t { kPass, kFail, kNotOffered, kNotObservable, kNotRun };
[[nodiscard]] const char* name_of(Verdict verdict);

enum class Kind : uint8_t {
  kTest,
  kSlow,           // waits for lifetimes of 300 s and more: only with --slow
  kNotObservable,  // `reason` says why
  kCapture,        // not observable, as `reason` says, but with --capture
  kLater,          // concerns a transport that this suite does not speak yet
};

struct Context {
  const Target& target;
  Observations& seen;
  std::string evidence;

  // Adds to the evidence, "; " between.
  void note(const std::string& text);
  void require(bool held, const std::string& what);  // notes what held, fails with what did not
  void expect(const Answer& answer, int code, const std::string& what);  // 0: success
  void silent(Session& session, Bytes request, const std::string& what);

  // The clock of lifetimes and its waits of minutes; see Target::skipped_ns.
  [[nodiscard]] Clock::time_point now() const;
  void wait_until(Clock::time_point when) const;
};

struct Row {
  int number;
  const char* section;  // "8489 6.3" or "8656 7.2"
  const char* title;
  Kind kind;
  const char* reason;  // of kNotObservable and kLater
  void (*run)(Context&);
};

[[nodiscard]] std::span<const Row> stun_rows();        // T1 to T21
[[nodiscard]] std::span<const Row> credential_rows();  // T24 to T38
[[nodiscard]] std::span<const Row> allocation_rows();  // T39 to T64
[[nodiscard]] std::span<const Row> data_rows();        // T65 to T88
[[nodiscard]] std::span<const Row> header_rows();      // T89 to T100, T118 to T120
[[nodiscard]] std::span<const Row> capture_rows();     // those of T78 to T97 that need a capture
// All of them, by number.
[[nodiscard]] std::vector<Row> all_rows();

struct Result {
  const Row* row;
  Verdict verdict;
  std::string evidence;
  double seconds;
};
[[nodiscard]] Result run_row(const Row& row, const Target& target, Observations& seen, bool slow);

// --- for rows that relay data

// A peer played by the suite, and a relay session with an allocation.
struct Peer {
  explicit Peer(const IpAddress& ip) : socket(ip) {}
  [[nodiscard]] const TransportAddress& address() const { return socket.address(); }
  // The next datagram from `from`'s address; others are ignored.
  [[nodiscard]] std::optional<Datagram> receive(const TransportAddress& from, milliseconds wait);
  UdpSocket socket;
};

// Waits for data that should come, and that should not: the latter after a datagram that must come.
inline constexpr milliseconds kArrival{1500};
inline constexpr milliseconds kAbsence{300};

[[nodiscard]] std::string text_of(const std::vector<uint8_t>& bytes);

}  // namespace culvert::conformance
