#include "tests/sim/coverage.h"

#include <cstdio>
#include <string_view>

namespace culvert::sim_test {

namespace {

template <class T, size_t N>
void add_each(std::array<T, N>& to, const std::array<T, N>& from) {
  for (size_t i = 0; i < N; ++i)
    to[i] += from[i];
}

// Outcomes that no datagram can end in here, with the reason. None at present: what was thought out
// of reach turned out not to be.
std::string_view unreachable(Outcome outcome) {
  static_cast<void>(outcome);
  return {};
}

std::string transform_name(size_t t) {
  return std::string("client ") + ((t & 8) != 0 ? "IPv6" : "IPv4") + ", peer " +
         ((t & 4) != 0 ? "IPv6" : "IPv4") + ", " + ((t & 2) != 0 ? "to peer" : "to client") + ", " +
         ((t & 1) != 0 ? "ChannelData" : "indication");
}

}  // namespace

void Coverage::add(const Coverage& other) {
  add_each(outcomes, other.outcomes);
  add_each(transforms, other.transforms);
  add_each(faults, other.faults);
  add_each(expiries, other.expiries);
  add_each(nat_events, other.nat_events);
  for (size_t side = 0; side < nats.size(); ++side)
    add_each(nats[side], other.nats[side]);
  add_each(answers, other.answers);
  packets += other.packets;
  seeds += other.seeds;
  virtual_us += other.virtual_us;
  timeouts += other.timeouts;
}

std::vector<Floor> floors(const Coverage& c) {
  std::vector<Floor> out;
  // Rare ones are asked for once in so many seeds, and at least once; common ones in each seed.
  const auto add = [&](const char* kind, std::string name, uint64_t reached, uint64_t in_seeds,
                       std::string_view why_not = {}) {
    Floor floor{kind, std::move(name), reached, std::max<uint64_t>(1, c.seeds / in_seeds),
                std::string(why_not)};
    if (!floor.unreachable.empty()) floor.least = 0;
    out.push_back(std::move(floor));
  };
  for (size_t o = 0; o < kOutcomes; ++o) {
    // Seen only between an end and the turn of the wheel that sweeps it.
    const bool brief = static_cast<Outcome>(o) == Outcome::k_expired_allocation;
    add("outcome", std::string(kOutcomeInfo[o].name), c.outcomes[o], brief ? 500 : 50,
        unreachable(static_cast<Outcome>(o)));
  }
  for (size_t t = 0; t < kTransforms; ++t)
    add("transform", transform_name(t), c.transforms[t], 2);
  for (size_t side = 0; side < 2; ++side) {
    for (size_t n = 0; n < kNatKinds * kNatKinds; ++n) {
      add("nat",
          std::string(side == 0 ? "clients' " : "peers' ") + kNatNames[n / kNatKinds] +
              " mapping, " + kNatNames[n % kNatKinds] + " filtering",
          c.nats[side][n], 2);
    }
  }
  for (size_t e = 0; e < kNatEventNames.size(); ++e)
    add("nat event", kNatEventNames[e], c.nat_events[e], 10);
  for (size_t f = 0; f < kFaults; ++f)
    add("fault", kFaultNames[f], c.faults[f], 10);
  for (size_t e = 0; e < kExpiryNames.size(); ++e)
    add("expiry", kExpiryNames[e], c.expiries[e], 10);
  for (const int code : {0, 400, 401, 403, 420, 437, 438, 441, 442, 443, 486, 508}) {
    // Who takes another user's 5-tuple or asks for what no extension offers is rare.
    add("answer", code == 0 ? "success" : std::to_string(code),
        c.answers[static_cast<size_t>(code)], 50);
  }
  return out;
}

std::string print_floors(const std::vector<Floor>& table, bool all) {
  std::string out;
  char line[256];
  for (const Floor& f : table) {
    if (!all && f.met()) continue;
    std::snprintf(line, sizeof line, "%-10s %-52s %14llu  floor %6llu  %s", f.kind.c_str(),
                  f.name.c_str(), static_cast<unsigned long long>(f.reached),
                  static_cast<unsigned long long>(f.least), f.met() ? "met" : "BELOW");
    out += line;
    if (!f.unreachable.empty()) out += "  (out of reach: " + f.unreachable + ")";
    out += "\n";
  }
  return out;
}

}  // namespace culvert::sim_test
