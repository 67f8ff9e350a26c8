#include "tools/culvert-load/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>
#include <random>
#include <sstream>

#include "config/dpdk.h"
#include "tools/stun_client/message.h"

namespace culvert::load {
namespace {

const char* const kRangeExamples = "192.0.2.7, 192.0.2.1-192.0.2.99 or 192.0.2.0/24";

const char* const kAbout =
    "culvert-load: measures TURN and STUN servers.\n"
    "\n"
    "It plays the clients and, behind the server, their peers. Datagrams carry a number and a "
    "time,\n"
    "so loss, reordering, duplication and latency are counted, not guessed. Paced sending is open\n"
    "loop: a datagram is due at a time fixed beforehand, and its latency counts from then, so a\n"
    "server that stalls cannot hide it. With --server-pid the server's CPU time is read as well,\n"
    "and packets per CPU-second of the whole server are printed.\n"
    "\n"
    "Begin here (a server on this machine, user alice, password secret):\n"
    "  culvert-load calibrate\n"
    "      what this machine's generator itself can do: know it before you believe any figure\n"
    "  culvert-load relay --server 127.0.0.1:3478 --user alice --password secret --rate 20000\n"
    "      loss and latency of 100 allocations at 20,000 datagrams a second\n"
    "  culvert-load relay ... --unpaced --clients 1000 --size 1200 --server-pid $(pidof culvertd)\n"
    "      the most that it relays, and what that costs it\n"
    "  culvert-load search ...     the highest rate without loss, found by bisection\n"
    "  culvert-load churn ...      complete allocations a second (401, Allocate, Refresh 0)\n"
    "  culvert-load relay ... --driver dpdk --eal ARGS --port-address 10.9.0.2/16 --local "
    "10.9.16.0/20\n"
    "      on a NIC, AF_XDP or memif, as thousands of hosts; --flood adds an attack\n"
    "\n"
    "The server must permit peers on this machine's addresses: coturn --allow-loopback-peers,\n"
    "culvertd --allow-peer 127.0.0.0/8.\n";

template <class E>
std::string names_of(const std::map<std::string, E>& values) {
  std::string out;
  for (const auto& [name, value] : values)
    out += (out.empty() ? "" : "|") + name;
  return out;
}

// `value`: an E, or one that may be missing.
template <class E, class Value>
void add_choice(CLI::App* app, const std::string& flag, Value& value,
                const std::map<std::string, E>& values, const std::string& help) {
  app->add_option_function<std::string>(
         flag, [&value, values](const std::string& name) { value = values.at(name); },
         help + " (" + names_of(values) + ")")
      ->check(CLI::IsMember([&] {
        std::vector<std::string> names;
        for (const auto& [name, unused] : values)
          names.push_back(name);
        return names;
      }()));
}

const std::map<std::string, Direction> kDirections{{"to-peer", Direction::kToPeer},
                                                   {"to-client", Direction::kToClient},
                                                   {"both", Direction::kBoth}};
const std::map<std::string, Topology> kTopologies{{"client-peer", Topology::kClientToPeer},
                                                  {"client-client", Topology::kClientToClient}};
const std::map<std::string, Encoding> kEncodings{{"channel", Encoding::kChannel},
                                                 {"send", Encoding::kSend}};
const std::map<std::string, FamilyChoice> kFamilies{
    {"4", FamilyChoice::kIpv4}, {"6", FamilyChoice::kIpv6}, {"cross", FamilyChoice::kCross}};
const std::map<std::string, QueueOf> kQueuesOf{
    {"hash", QueueOf::kHash}, {"owner", QueueOf::kOwner}, {"other", QueueOf::kOther}};
const std::map<std::string, Attack> kAttacks{{"allocate", Attack::kAllocate},
                                             {"binding", Attack::kBinding},
                                             {"malformed", Attack::kMalformed}};

template <class E>
const char* find_name(const std::map<std::string, E>& values, E value) {
  for (const auto& [name, one] : values)
    if (one == value) return name.c_str();
  return "?";
}

struct Raw {
  std::string server;
  std::string ramp;
  std::vector<std::string> local;
  std::string peer_address;
  std::string bare;
  std::vector<std::string> spoof;
  std::vector<std::string> port_addresses;
  std::vector<std::string> gateways;
  bool unpaced = false;
  bool no_gro = false;
};

// Everywhere, as culvertd spells them.
void add_dpdk(CLI::App* app, Options& o, Raw& raw) {
  app->add_option("--eal", o.dpdk.eal, "dpdk: EAL's arguments: memory, and the port")
      ->type_name("ARGS");
  app->add_option("--port-address", raw.port_addresses,
                  "dpdk: an address of the tool on a port, and its network: ADDR/LEN[@PORT]")
      ->type_name("ADDR/LEN");
  app->add_option("--gateway", raw.gateways, "dpdk: the way to other networks")
      ->type_name("ADDRESS");
  app->add_option("--queues", o.queues, "dpdk: queues of a port, as many as the server has cores")
      ->check(CLI::Range(1u, uint32_t{kMaxCores}))
      ->capture_default_str();
  add_choice(app, "--queue-of", o.queue_of, kQueuesOf,
             "dpdk: the queue each datagram leaves by: its hash's, or the core's that owns the "
             "allocation, or another core's");
}

void add_common(CLI::App* app, Options& o, Raw& raw) {
  if (o.mode != Mode::kCalibrate) {
    app->add_option("--server", raw.server, "the server's ADDRESS:PORT ([v6]:port)")->required();
    app->add_option("--server-pid", o.server_pid, "sample this process: CPU time, memory");
  }
  app->add_option("--local", raw.local,
                  "addresses of the clients, which take turns: ADDRESS, FIRST-LAST or NETWORK/LEN; "
                  "may be repeated")
      ->type_name("RANGE");
  app->add_option("--driver", o.driver,
                  "how to reach the network: sockets, or dpdk, where the tool is the hosts itself")
      ->capture_default_str();
  if (o.mode != Mode::kSearch)
    app->add_option("--duration", o.duration_s, "seconds measured")->capture_default_str();
  app->add_option("--warm-up", o.warm_up_s, "seconds of traffic before that, not counted")
      ->capture_default_str();
  app->add_option("--threads", o.threads, "generator threads; each spins on a CPU")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  add_dpdk(app, o, raw);
  app->add_option("--seed", o.seed, "of the flows' order and the payload; 0 draws one");
  app->add_option("--json", o.json, "write the whole result to FILE, or to standard output: -")
      ->type_name("FILE");
  app->add_flag("--quiet", o.quiet, "no progress line and no summary");
}

// Forged addresses need a port of one's own, and a bound on what goes out by it.
void add_spoof(CLI::App* app, Raw& raw) {
  app->add_option("--spoof", raw.spoof,
                  "dpdk: forged source addresses, drawn at random; may be repeated. Only in a lab "
                  "of your own")
      ->type_name("RANGE");
}

void add_flood(CLI::App* app, Options& o, Raw& raw) {
  add_choice(app, "--flood", o.flood, kAttacks,
             "dpdk: beside the traffic, send these from forged addresses (--spoof)");
  app->add_option("--flood-rate", o.flood_rate, "datagrams of the flood a second")
      ->check(CLI::Range(1.0, kMaxFloodRate));
  add_spoof(app, raw);
}

void add_credentials(CLI::App* app, Options& o) {
  app->add_option("--user", o.user, "long-term credential");
  app->add_option("--password", o.password, "its password");
  app->add_option("--realm", o.realm, "refuse any other realm than this");
  app->add_flag("--rfc5389", o.rfc5389,
                "be an older client: MD5 and SHA-1 even where more is offered");
  app->add_option("--transport", o.transport, "to the server: udp")->capture_default_str();
  add_choice(app, "--family", o.family, kFamilies,
             "of server and relayed address: both 4, both 6, or the relayed one the other");
}

// `rate`: whether the rate is the caller's to choose.
void add_traffic(CLI::App* app, Options& o, Raw& raw, bool rate) {
  app->add_option("--size", o.size, "payload bytes of a datagram")->capture_default_str();
  if (rate) {
    auto* steady = app->add_option("--rate", o.rate, "datagrams offered a second, over all flows")
                       ->check(CLI::PositiveNumber);
    auto* ramp =
        app->add_option("--ramp", raw.ramp, "a rate that goes evenly from A to B while measured")
            ->type_name("A:B")
            ->excludes(steady);
    app->add_flag("--unpaced", raw.unpaced, "as fast as the generator can (what no --rate means)")
        ->excludes(steady)
        ->excludes(ramp);
  }
  app->add_option("--tick-us", o.tick_us,
                  "send at whole ticks only, as tools with a millisecond clock do (1000)")
      ->check(CLI::Range(0u, 1'000'000u));
  app->add_flag("--sleep", o.sleep,
                "wait in the kernel until something is due: for a CPU that the server shares");
  app->add_option("--run-length", o.run_length, "datagrams of one flow sent back to back")
      ->check(CLI::Range(1u, kMaxGsoSegments))
      ->capture_default_str();
  app->add_flag("--gso", o.gso, "send each run as one GSO packet, as an offloading NIC has them");
  app->add_flag("--no-gro", raw.no_gro, "receive without UDP_GRO");
}

void add_relayed(CLI::App* app, Options& o, Raw& raw, bool rate) {
  add_common(app, o, raw);
  add_credentials(app, o);
  add_traffic(app, o, raw, rate);
  app->add_option("--clients", o.clients, "allocations; each is a socket of its own")
      ->check(CLI::Range(1u, 60000u))
      ->capture_default_str();
  app->add_option("--peers", o.peers, "peer sockets they share")
      ->check(CLI::Range(1u, 60000u))
      ->capture_default_str();
  app->add_option("--channels", o.channels, "channels of each client, to a peer each")
      ->check(CLI::Range(1u, 64u))
      ->capture_default_str();
  app->add_option("--peer-address", raw.peer_address,
                  "where the peers are, in turn; on loopback 127.0.0.2")
      ->type_name("RANGE");
  app->add_option(
      "--bare", raw.bare,
      "the server is kernel_bound, a loop without TURN: its first relayed ADDRESS:PORT");
  app->add_flag("--reflector", o.reflector,
                "dpdk: the server sends every frame back with its addresses swapped (testpmd's "
                "5tswap or macswap): no TURN, clients get back what they send");
  add_choice(app, "--direction", o.direction, kDirections, "of the datagrams");
  add_choice(app, "--topology", o.topology, kTopologies, "who talks with whom");
  add_choice(app, "--encoding", o.encoding, kEncodings, "ChannelData, or Send indications");
  add_flood(app, o, raw);
}

void add_relay(CLI::App* app, Options& o, Raw& raw) {
  add_relayed(app, o, raw, true);
}

void add_search(CLI::App* app, Options& o, Raw& raw) {
  add_relayed(app, o, raw, false);
  auto& s = o.search;
  app->add_option("--min-rate", s.min_rate, "the lowest rate tried")->capture_default_str();
  app->add_option("--max-rate", s.max_rate, "the highest rate tried")->capture_default_str();
  app->add_option("--loss", s.loss_ratios, "loss ratio allowed; may be repeated (default: 0)")
      ->check(CLI::Range(0.0, 0.99))
      ->type_name("RATIO");
  app->add_option("--exceed", s.exceed_ratio, "share of the time in which more may be lost")
      ->check(CLI::Range(0.0, 0.95))
      ->capture_default_str();
  app->add_option("--width", s.width, "how far apart the two bounds may be, relative")
      ->check(CLI::Range(0.0001, 0.5))
      ->capture_default_str();
  app->add_option("--initial-trial", s.initial_trial_s, "seconds of the first, short trials")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  app->add_option("--final-trial", s.final_trial_s, "seconds of the trials that decide")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  app->add_option("--duration-sum", s.duration_sum_s, "seconds of trials that decide on one rate")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  app->add_option("--max-time", s.max_time_s, "seconds after which the search gives what it has")
      ->check(CLI::Range(1.0, 86400.0))
      ->capture_default_str();
}

void add_idle(CLI::App* app, Options& o, Raw& raw) {
  add_common(app, o, raw);
  add_credentials(app, o);
  app->add_option("--clients", o.clients, "allocations held for the duration")
      ->check(CLI::Range(1u, 60000u))
      ->capture_default_str();
  app->add_option("--channels", o.channels, "channels of each")->check(CLI::Range(0u, 64u));
  app->add_option("--peer-address", raw.peer_address,
                  "their peers are at the addresses after this one; nothing is sent there")
      ->type_name("ADDRESS");
  app->add_option("--permissions", o.permissions, "further permissions of each")
      ->check(CLI::Range(0u, 64u));
}

void add_churn(CLI::App* app, Options& o, Raw& raw) {
  add_common(app, o, raw);
  add_credentials(app, o);
  app->add_option("--clients", o.clients, "allocations in progress at once")
      ->check(CLI::Range(1u, 60000u))
      ->capture_default_str();
  app->add_option("--rate", o.rate, "allocations begun a second; else as fast as they complete")
      ->check(CLI::PositiveNumber);
  add_flood(app, o, raw);
}

void add_binding(CLI::App* app, Options& o, Raw& raw) {
  add_common(app, o, raw);
  app->add_option("--clients", o.clients, "client ports")->check(CLI::Range(1u, 60000u));
  app->add_option("--rate", o.rate, "requests a second; else as fast as the generator can")
      ->check(CLI::PositiveNumber);
}

void add_hostile(CLI::App* app, Options& o, Raw& raw) {
  add_common(app, o, raw);
  add_choice(app, "--attack", o.attack, kAttacks, "what to send, each from a port of its own");
  app->add_option("--count", o.count, "datagrams in all, each from another address and port");
  app->add_option("--rate", o.rate, "datagrams a second")->check(CLI::PositiveNumber);
  add_spoof(app, raw);
}

void add_calibrate(CLI::App* app, Options& o, Raw& raw) {
  add_common(app, o, raw);
  add_traffic(app, o, raw, true);
  app->add_option("--clients", o.clients, "client sockets")->check(CLI::Range(1u, 60000u));
}

std::optional<std::string> check_shapes(Options& o) {
  if (o.transport != "udp") {
    for (const char* later : {"tcp", "tls", "dtls", "derp"})
      if (o.transport == later)
        return "the transport '" + o.transport +
               "' is not built into this culvert-load yet; use --transport udp";
    return "there is no transport '" + o.transport + "'; this culvert-load has: udp";
  }
  if (o.size < kMinPayload || o.size > kMaxPayload)
    return "--size must be between " + std::to_string(kMinPayload) +
           " (sequence number, time and flow) and " + std::to_string(kMaxPayload);
  if (o.gso && o.run_length < 2) return "--gso sends runs: give --run-length 2 or more";
  if (o.gso && uint64_t{o.run_length} * (o.size + 64) > kMaxGsoBytes)
    return "--run-length times --size is more than one GSO packet holds (" +
           std::to_string(kMaxGsoBytes) + " bytes)";
  if (o.duration_s < 0.1) return "--duration must be at least 0.1 seconds";
  if (o.warm_up_s < 0) return "--warm-up must not be negative";
  if (o.threads > o.clients) o.threads = o.clients;
  if (o.topology == Topology::kClientToClient && o.clients < 2 * o.threads)
    return "client-client needs at least two clients in each thread";
  const bool relays = o.mode == Mode::kRelay || o.mode == Mode::kSearch;
  if (relays && o.channels > 1 && o.topology == Topology::kClientToClient)
    return "--channels above 1 needs --topology client-peer";
  if (o.topology == Topology::kClientToClient && o.family == FamilyChoice::kCross)
    return "client-client relays between relayed addresses: use --family 4 or 6";
  return std::nullopt;
}

std::optional<std::string> check_rates(Options& o, const Raw& raw) {
  if (raw.unpaced) o.rate = 0;
  if (!raw.ramp.empty()) {
    char colon = 0;
    std::istringstream text(raw.ramp);
    if (!(text >> o.rate >> colon >> o.rate_to) || colon != ':' || o.rate <= 0 || o.rate_to <= 0 ||
        !text.eof())
      return "--ramp: '" + raw.ramp + "' is not two rates, as 1000:50000";
  }
  if (o.tick_us != 0 && o.rate <= 0 && o.mode != Mode::kSearch)
    return "--tick-us rounds what is due: give --rate or --ramp";
  if (o.sleep && o.rate <= 0 && o.mode != Mode::kSearch)
    return "--sleep waits for what is due: give --rate or --ramp";
  auto& s = o.search;
  if (s.min_rate <= 0 || s.max_rate < s.min_rate)
    return "--min-rate must be above 0 and at most --max-rate";
  if (s.initial_trial_s > s.final_trial_s || s.final_trial_s > s.duration_sum_s)
    return "trials grow: --initial-trial <= --final-trial <= --duration-sum";
  if (s.loss_ratios.empty()) s.loss_ratios = {0};
  std::sort(s.loss_ratios.begin(), s.loss_ratios.end());
  return std::nullopt;
}

std::optional<std::string> check_bare(Options& o, const Raw& raw) {
  const bool turn = o.mode == Mode::kRelay || o.mode == Mode::kSearch || o.mode == Mode::kChurn ||
                    o.mode == Mode::kIdle;
  if (o.reflector && (o.driver != "dpdk" || !raw.bare.empty() || o.encoding != Encoding::kChannel ||
                      o.direction != Direction::kToPeer || o.flood))
    return "--reflector needs --driver dpdk and --direction to-peer, and knows neither --bare nor "
           "--flood nor --encoding send";
  if (raw.bare.empty()) {
    if (turn && !o.reflector && (o.user.empty() || o.password.empty()))
      return "--user and --password are needed: TURN servers authenticate";
    return std::nullopt;
  }
  o.bare = TransportAddress::parse(raw.bare);
  if (!o.bare) return "--bare: '" + raw.bare + "' is not an ADDRESS:PORT";
  if (o.threads != 1 || o.channels != 1 || o.topology != Topology::kClientToPeer ||
      o.encoding != Encoding::kChannel)
    return "--bare knows one thread, --channels 1, --topology client-peer and --encoding channel";
  if (o.clients > stun_client::kChannelLast - stun_client::kChannelFirst + 1u)
    return "--bare tells clients apart by channel number: at most 4096 --clients";
  return std::nullopt;
}

std::optional<std::string> check_port_addresses(Options& o, const Raw& raw) {
  for (const auto& text : raw.port_addresses) {
    const auto address = parse_port_address(text);
    if (!address)
      return "--port-address: '" + text + "' is not an address and its network, as 192.0.2.2/24";
    o.dpdk.port_addresses.push_back(*address);
  }
  for (const auto& text : raw.gateways) {
    const auto ip = IpAddress::parse(text);
    if (!ip) return "--gateway: '" + text + "' is not an address";
    o.dpdk.gateways.push_back(*ip);
  }
  return std::nullopt;
}

std::optional<std::string> check_eal(const Options& o) {
  const auto words = split_words(o.dpdk.eal);
  if (!words) return "--eal: a quote is not closed";
  for (const auto& word : *words)
    if (!refuse_eal_word(word).empty())
      return "--eal: '" + word + "' is not for the caller: culvert-load sets EAL's lcores itself";
  return std::nullopt;
}

// An address that is both the tool's and the server's would answer for the server.
std::optional<std::string> check_apart(const Options& o, const char* flag, const AddressSet& set) {
  const auto also = [&](const IpAddress& ip, const char* what) -> std::optional<std::string> {
    if (!set.contains(ip)) return std::nullopt;
    return std::string(flag) + " holds " + ip.to_string() + ", which is " + what +
           "'s: give a range beside it";
  };
  if (auto problem = also(o.server.ip, "the server")) return problem;
  for (const IpAddress& gateway : o.dpdk.gateways)
    if (auto problem = also(gateway, "the gateway")) return problem;
  return std::nullopt;
}

std::optional<std::string> check_spoof(Options& o, const Raw& raw) {
  for (const auto& text : raw.spoof) {
    const auto range = AddressRange::parse(text);
    if (!range || range->first.family != o.server.ip.family)
      return "--spoof: '" + text + "' is not an address or range of the server's family, as " +
             kRangeExamples;
    o.spoof.add(*range);
  }
  AddressSet own;
  for (const PortAddressConfig& a : o.dpdk.port_addresses)
    own.add({a.ip, 1});
  if (o.spoof.overlaps(own) || o.spoof.overlaps(o.local) || o.spoof.overlaps(o.peer_address))
    return "--spoof holds addresses that are not forged: those of --port-address, --local and "
           "--peer-address must lie apart from it";
  const bool hostile = o.mode == Mode::kHostile && !o.spoof.empty();
  if (hostile && o.rate <= 0 && o.count == 0) return "--spoof is bounded: give --rate, or --count";
  if (o.flood && (o.spoof.empty() || o.flood_rate <= 0))
    return "--flood comes from forged addresses and is bounded: give --spoof and --flood-rate";
  if (!o.flood && !hostile && (!o.spoof.empty() || o.flood_rate > 0))
    return "--spoof and --flood-rate need --flood";
  return check_apart(o, "--spoof", o.spoof);
}

// Both ends are the tool's own.
std::optional<std::string> check_calibrated_port(Options& o, const Raw& raw) {
  if (o.dpdk.eal.find("-a ") != std::string::npos || o.dpdk.eal.find("--vdev") != std::string::npos)
    return "calibrate makes a memif of its own: --eal may say which memory to take, as --in-memory";
  if (!raw.port_addresses.empty() || !raw.gateways.empty() || !raw.local.empty() || o.queues != 1)
    return "calibrate has one queue, and addresses of its own on it";
  if (o.dpdk.eal.empty()) o.dpdk.eal = "--no-huge -m 256";
  o.dpdk.eal += " --no-pci --no-telemetry";
  return std::nullopt;
}

std::optional<std::string> check_driver(Options& o, const Raw& raw) {
  if (o.driver != "sockets" && o.driver != "dpdk")
    return "there is no driver '" + o.driver + "'; this culvert-load has: sockets, dpdk";
  const bool dpdk = o.driver == "dpdk";
  if (!dpdk) {
    if (!o.dpdk.eal.empty() || !raw.port_addresses.empty() || !raw.gateways.empty() ||
        o.queues != 1 || o.queue_of != QueueOf::kHash || o.flood || !raw.spoof.empty())
      return "--eal, --port-address, --gateway, --queues, --queue-of, --flood and --spoof need "
             "--driver dpdk";
    return std::nullopt;
  }
  if (o.threads != 1) return "--driver dpdk has one thread: leave --threads at 1";
  if (auto problem = check_eal(o)) return problem;
  if (auto problem = check_port_addresses(o, raw)) return problem;
  if (o.mode == Mode::kCalibrate) return check_calibrated_port(o, raw);
  if (o.dpdk.eal.empty())
    return "--driver dpdk needs a port: --eal '--in-memory --no-pci "
           "--vdev=net_memif0,role=client,socket=/run/lab.sock,socket-abstract=no'";
  if (o.dpdk.port_addresses.empty())
    return "--driver dpdk needs an address there: --port-address 192.0.2.2/24";
  if (auto problem = check_apart(o, "--local", o.local)) return problem;
  if (auto problem = check_apart(o, "--peer-address", o.peer_address)) return problem;
  return check_spoof(o, raw);
}

std::optional<std::string> check_addresses(Options& o, const Raw& raw) {
  if (o.mode == Mode::kCalibrate) {
    o.server = *TransportAddress::parse("127.0.0.1:0");
  } else {
    const auto server = TransportAddress::parse(raw.server);
    if (!server || server->port == 0)
      return "--server: '" + raw.server +
             "' is not an ADDRESS:PORT; give numbers, as 192.0.2.1:3478";
    o.server = *server;
  }
  const bool wants_v6 = o.family == FamilyChoice::kIpv6;
  if (o.family != FamilyChoice::kCross && o.server.ip.is_v6() != wants_v6)
    return std::string("--server is an IPv") + (o.server.ip.is_v6() ? "6" : "4") +
           " address: say --family " + (o.server.ip.is_v6() ? "6" : "4") + " or cross";
  for (const auto& text : raw.local) {
    const auto range = AddressRange::parse(text);
    if (!range || range->first.family != o.server.ip.family)
      return "--local: '" + text + "' is not an address or range of the server's family, as " +
             kRangeExamples;
    o.local.add(*range);
  }
  if (!raw.peer_address.empty()) {
    const auto range = AddressRange::parse(raw.peer_address);
    if (!range)
      return "--peer-address: '" + raw.peer_address + "' is not an address or range, as " +
             kRangeExamples;
    o.peer_address.add(*range);
  }
  return std::nullopt;
}

}  // namespace

std::optional<Options> parse_options(int argc, char** argv, int& exit_code) {
  Options o;
  Raw raw;
  CLI::App app(kAbout, "culvert-load");
  app.set_version_flag("--version", CULVERT_VERSION);
  app.require_subcommand(1);
  struct Sub {
    Mode mode;
    const char* help;
    void (*add)(CLI::App*, Options&, Raw&);
  };
  for (const Sub& sub : {Sub{Mode::kRelay, "relay datagrams between clients and peers", add_relay},
                         Sub{Mode::kSearch, "the highest rate without loss", add_search},
                         Sub{Mode::kChurn, "complete allocations as fast as they go", add_churn},
                         Sub{Mode::kIdle, "hold allocations that do nothing: memory", add_idle},
                         Sub{Mode::kBinding, "STUN Binding requests", add_binding},
                         Sub{Mode::kHostile, "requests that nobody authenticated", add_hostile},
                         Sub{Mode::kCalibrate, "this generator's own ceiling", add_calibrate}}) {
    auto* command = app.add_subcommand(name_of(sub.mode), sub.help);
    o.mode = sub.mode;  // decides which options exist
    sub.add(command, o, raw);
    command->callback([&o, mode = sub.mode] { o.mode = mode; });
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    exit_code = app.exit(error) == 0 ? 0 : 2;
    return std::nullopt;
  }
  if (o.seed == 0) o.seed = std::random_device{}();
  o.coalesce = !raw.no_gro;
  auto problem = check_shapes(o);
  if (!problem) problem = check_rates(o, raw);
  if (!problem) problem = check_addresses(o, raw);
  if (!problem) problem = check_driver(o, raw);
  if (!problem) problem = check_bare(o, raw);
  if (problem) {
    std::fprintf(stderr, "culvert-load: %s\n", problem->c_str());
    exit_code = 2;
    return std::nullopt;
  }
  return o;
}

const char* name_of(Mode mode) {
  switch (mode) {
    case Mode::kRelay:
      return "relay";
    case Mode::kSearch:
      return "search";
    case Mode::kChurn:
      return "churn";
    case Mode::kIdle:
      return "idle";
    case Mode::kBinding:
      return "binding";
    case Mode::kHostile:
      return "hostile";
    case Mode::kCalibrate:
      return "calibrate";
  }
  return "?";
}
const char* name_of(Direction direction) {
  return find_name(kDirections, direction);
}
const char* name_of(Topology topology) {
  return find_name(kTopologies, topology);
}
const char* name_of(Encoding encoding) {
  return find_name(kEncodings, encoding);
}
const char* name_of(FamilyChoice family) {
  return find_name(kFamilies, family);
}
const char* name_of(Attack attack) {
  return find_name(kAttacks, attack);
}
const char* name_of(QueueOf queue_of) {
  return find_name(kQueuesOf, queue_of);
}

}  // namespace culvert::load
