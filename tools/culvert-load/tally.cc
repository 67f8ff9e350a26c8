#include "tools/culvert-load/tally.h"

namespace culvert::load {
namespace {

constexpr size_t kErrorKinds = 16;

}  // namespace

void SecondTally::merge(const SecondTally& other) {
  sent += other.sent;
  unique += other.unique;
  latency.merge(other.latency);
}

SecondTally& Tally::second_of(uint64_t due) {
  const size_t index = (due - trial.measure_from) / kSecond;
  if (index >= seconds.size()) seconds.resize(index + 1);
  return seconds[index];
}

void Tally::count_sent(size_t direction, uint64_t due, uint64_t count) {
  if (!trial.within(due)) return;
  flows[direction].sent += count;
  second_of(due).sent += count;
}

void Tally::count_arrival(size_t direction, uint64_t due, uint64_t now) {
  if (!trial.within(due)) return;
  const uint64_t latency = now > due ? now - due : 0;
  ++flows[direction].unique;
  flows[direction].latency.record(latency);
  SecondTally& second = second_of(due);
  ++second.unique;
  second.latency.record(latency);
}

void Tally::count_error(const std::string& kind) {
  ++errors;
  for (auto& [name, count] : error_kinds) {
    if (name != kind) continue;
    ++count;
    return;
  }
  if (error_kinds.size() < kErrorKinds) error_kinds.emplace_back(kind, 1);
}

void Tally::merge(const Tally& other) {
  for (size_t i = 0; i < flows.size(); ++i) {
    flows[i].sent += other.flows[i].sent;
    flows[i].unique += other.flows[i].unique;
    flows[i].duplicates += other.flows[i].duplicates;
    flows[i].reordered += other.flows[i].reordered;
    flows[i].latency.merge(other.flows[i].latency);
  }
  if (seconds.size() < other.seconds.size()) seconds.resize(other.seconds.size());
  for (size_t i = 0; i < other.seconds.size(); ++i)
    seconds[i].merge(other.seconds[i]);
  lateness.merge(other.lateness);
  for (const auto& [name, count] : other.error_kinds) {
    count_error(name);
    for (auto& kind : error_kinds)
      if (kind.first == name) kind.second += count - 1;
  }
  for (auto field : {&FloodTally::due, &FloodTally::sent, &FloodTally::request_bytes,
                     &FloodTally::responses, &FloodTally::response_bytes})
    flood.*field += other.flood.*field;
  port.insert(port.end(), other.port.begin(), other.port.end());
  errors += other.errors - other.error_kinds.size();
  for (auto field : {&Tally::scheduled, &Tally::corrupt, &Tally::strange, &Tally::send_refused,
                     &Tally::receive_drops, &Tally::tx_ns, &Tally::rx_ns, &Tally::tx_datagrams,
                     &Tally::rx_datagrams, &Tally::idle_ns, &Tally::request_bytes,
                     &Tally::response_bytes, &Tally::responses})
    this->*field += other.*field;
}

}  // namespace culvert::load
