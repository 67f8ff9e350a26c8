// The command line of culvert-load, checked: after `parse_options` every value is in range and the
// combination makes sense, so the modes need not ask again.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "dataplane/base/address.h"
#include "tools/culvert-load/address_set.h"

namespace culvert::load {

enum class Mode : uint8_t { kRelay, kSearch, kChurn, kIdle, kBinding, kHostile, kCalibrate };
enum class Direction : uint8_t { kToPeer, kToClient, kBoth };
enum class Topology : uint8_t { kClientToPeer, kClientToClient };
enum class Encoding : uint8_t { kChannel, kSend };
enum class FamilyChoice : uint8_t { kIpv4, kIpv6, kCross };
// Which of the port's queues a datagram leaves by, where the far end gives each of its cores one:
// that of the core that owns the allocation, another one, or by a hash of its addresses.
enum class QueueOf : uint8_t { kHash, kOwner, kOther };
enum class Attack : uint8_t { kAllocate, kBinding, kMalformed };

// Sequence number, time and flow of each datagram stand in its payload.
inline constexpr uint32_t kMinPayload = 24;
inline constexpr uint32_t kMaxPayload = 1472 - 4;  // one Ethernet frame with the channel's header
inline constexpr uint32_t kMaxGsoSegments = 64;    // UDP_MAX_SEGMENTS of kernels before 6.9
inline constexpr double kMaxFloodRate = 20e6;      // 64-byte frames of a 10 GbE port, and a third
inline constexpr uint32_t kMaxGsoBytes = 65'000;   // a UDP datagram's 65,507 and some room

// The zero-loss search (search.h); times in seconds.
struct SearchOptions {
  double min_rate = 1000;
  double max_rate = 1'000'000;
  std::vector<double> loss_ratios;  // one goal each, ascending
  double exceed_ratio = 0.5;
  double width = 0.02;
  double initial_trial_s = 0.5;
  double final_trial_s = 2;
  double duration_sum_s = 10;
  double max_time_s = 600;
};

struct Options {
  Mode mode = Mode::kRelay;
  TransportAddress server;
  std::string user;
  std::string password;
  std::string realm;
  bool rfc5389 = false;
  std::string driver = "sockets";
  std::string transport = "udp";
  uint32_t clients = 100;
  uint32_t peers = 8;
  uint32_t threads = 1;
  uint32_t size = 200;
  double rate = 0;       // 0: unpaced
  double rate_to = 0;    // of a ramp, at the window's end; 0: the rate is steady
  bool sleep = false;    // between what is due, instead of spinning
  uint64_t tick_us = 0;  // 0: events are due when the rate says, not at whole ticks
  uint32_t run_length = 1;
  bool gso = false;
  bool coalesce = true;  // receive by UDP_GRO
  double duration_s = 5;
  double warm_up_s = 1;
  FamilyChoice family = FamilyChoice::kIpv4;
  Direction direction = Direction::kBoth;
  Topology topology = Topology::kClientToPeer;
  Encoding encoding = Encoding::kChannel;
  uint32_t permissions = 0;  // idle mode: beside the channels
  uint32_t channels = 1;
  Attack attack = Attack::kAllocate;
  std::optional<Attack> flood;  // beside the traffic, from addresses of `spoof`
  double flood_rate = 0;
  AddressSet spoof;    // forged sources: of the flood, or of hostile mode
  uint64_t count = 0;  // hostile mode: datagrams to send; 0: until the time is over
  AddressSet local;
  AddressSet peer_address;
  DpdkConfig dpdk;      // eal, port_addresses, gateways
  uint32_t queues = 1;  // of the port, both ways
  QueueOf queue_of = QueueOf::kHash;
  // The server is the bare loop of bench/macro/kernel_bound: no TURN; the first relayed port.
  std::optional<TransportAddress> bare;
  // The server sends every frame back as it came, addresses swapped (testpmd's 5tswap or macswap):
  // no TURN, and each client is its own peer.
  bool reflector = false;
  SearchOptions search;
  uint64_t seed = 0;
  int server_pid = 0;
  std::string json;
  bool quiet = false;
};

// nullopt: stop now with `exit_code` (help was printed, or an error with its remedy).
[[nodiscard]] std::optional<Options> parse_options(int argc, char** argv, int& exit_code);

[[nodiscard]] const char* name_of(Mode mode);
[[nodiscard]] const char* name_of(Direction direction);
[[nodiscard]] const char* name_of(Topology topology);
[[nodiscard]] const char* name_of(Encoding encoding);
[[nodiscard]] const char* name_of(FamilyChoice family);
[[nodiscard]] const char* name_of(Attack attack);
[[nodiscard]] const char* name_of(QueueOf queue_of);

}  // namespace culvert::load
