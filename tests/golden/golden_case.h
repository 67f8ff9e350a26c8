// What the golden tests share, whatever driver they run: a case's description, the commands that
// install its allocations (those control sends), captures and their comparison.
#pragma once

#include <gtest/gtest.h>
#include <pcap/pcap.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "dataplane/api/outcome.h"
#include "dataplane/api/stats.h"
#include "dataplane/core/ring_engine.h"
#include "dataplane/flow/state.h"
#include "dataplane/wire/frame.h"
#include "dataplane/wire/stun.h"

namespace culvert::golden {

namespace fs = std::filesystem;
using Json = nlohmann::json;

inline Json read_json(const fs::path& path) {
  std::ifstream file(path);
  return Json::parse(file);
}

inline TransportAddress at(const std::string& text) {
  const auto parsed = TransportAddress::parse(text);
  if (!parsed) throw std::runtime_error("not a transport address: " + text);
  return *parsed;
}
inline IpAddress ip(const std::string& text) {
  const auto parsed = IpAddress::parse(text);
  if (!parsed) throw std::runtime_error("not an address: " + text);
  return *parsed;
}

inline std::unique_ptr<Snapshot> snapshot_of(const Json& relay) {
  auto s = std::make_unique<Snapshot>();
  s->version = 1;
  for (const Json& a : relay["addresses"])
    s->addresses.push_back({ip(a["bound"]), ip(a["advertised"]), true});
  for (const Json& l : relay["listeners"]) {
    Listener listener;
    listener.address = l["address"];
    listener.port = at(l["at"]).port;
    listener.realm = l["realm_index"];
    std::array<uint8_t, 128> buffer;
    const uint8_t no_id[12] = {};
    stun::Builder builder(buffer, stun::Class::kRequest, stun::kBinding, no_id);
    builder.add(stun::Attribute::kRealm, l["realm"].get<std::string>());
    listener.realm_attribute.assign(builder.bytes().begin() + stun::kHeaderSize,
                                    builder.bytes().end());
    s->listeners.push_back(listener);
  }
  s->relay_port_low = relay["relay_ports"][0];
  s->relay_port_high = relay["relay_ports"][1];
  s->nonce_keys.key[0] = {relay["nonce"]["k0"], relay["nonce"]["k1"]};
  s->nonce_keys.now_seconds = relay["nonce"]["now_seconds"];
  const Json& budget = relay["reply_budget"];
  s->reply_budget = {budget["per_prefix_bytes_per_second"], budget["total_bytes_per_second"],
                     budget["bad_nonce_per_second"]};
  return s;
}

// The Ethernet address make_captures.py gives a host.
inline frame::MacAddress mac_of(const IpAddress& host) {
  frame::MacAddress mac{2, 0};
  std::copy_n(host.bytes.begin() + 12, 4, mac.begin() + 2);
  return mac;
}

inline bool is_own(const Snapshot& snapshot, const IpAddress& address) {
  for (const LocalAddress& a : snapshot.addresses) {
    if (a.bound == address || a.advertised == address) return true;
  }
  return false;
}

class Installer {
 public:
  Installer(RingEngine& engine, const Snapshot& snapshot) : engine_(engine), snapshot_(snapshot) {}

  void install(const Json& allocation) {
    InstallAllocation command;
    command.handle = {next_index_, 1};
    command.client.client = at(allocation["client"]);
    command.client.listener = command.client.client.ip.is_v4() ? 0 : 1;
    if (allocation.contains("ipv4")) {
      command.ipv4 = {allocation.value("ipv4_address", uint16_t{0}), allocation["ipv4"]};
    }
    if (allocation.contains("ipv6")) command.ipv6 = {1, allocation["ipv6"]};
    command.lifetime_ms = allocation.value("lifetime_ms", 600'000u);
    if (allocation.contains("rate")) {
      SetPolicer policer;
      policer.policer = command.policer = next_policer_++;
      policer.rate_bytes_per_second = allocation["rate"];
      policer.burst_bytes = allocation["burst"];
      send(policer);
    }
    send(command);
    if (allocation.contains("permissions")) permit(command.handle, allocation["permissions"]);
    const Json channels = allocation.value("channels", Json::object());
    for (const auto& [number, peer] : channels.items()) {
      bind(command.handle, number, peer);
    }
    ++next_index_;
  }

 private:
  void permit(AllocationHandle handle, const Json& peers) {
    CreatePermission command;
    command.handle = handle;
    std::vector<PermissionPeer> list;
    for (const Json& peer : peers) {
      const IpAddress address = ip(peer);
      list.push_back({address, is_own(snapshot_, address), 0});
    }
    command.peer_count = static_cast<uint32_t>(list.size());
    send(command, {reinterpret_cast<const uint8_t*>(list.data()), list.size() * sizeof list[0]});
  }
  void bind(AllocationHandle handle, const std::string& number, const Json& peer) {
    BindChannel command;
    command.handle = handle;
    command.channel = static_cast<uint16_t>(std::stoul(number, nullptr, 0));
    if (peer.is_string()) {
      command.peer = at(peer);
    } else {
      command.peer = at(peer["peer"]);
      command.lifetime_ms = peer.value("lifetime_ms", command.lifetime_ms);
      command.permission_lifetime_ms =
          peer.value("permission_lifetime_ms", command.permission_lifetime_ms);
    }
    command.own_address = is_own(snapshot_, command.peer.ip);
    send(command);
  }
  template <class T>
  void send(T command, std::span<const uint8_t> payload = {}) {
    ASSERT_TRUE(engine_.send(0, command, payload));
  }

  RingEngine& engine_;
  const Snapshot& snapshot_;
  uint32_t next_index_ = 0;
  uint32_t next_policer_ = 1;
};

struct Frame {
  uint64_t time_ns = 0;
  std::vector<uint8_t> bytes;
};

inline std::vector<Frame> read_capture(const fs::path& path) {
  std::vector<Frame> out;
  char error[PCAP_ERRBUF_SIZE] = {};
  pcap_t* file =
      pcap_open_offline_with_tstamp_precision(path.c_str(), PCAP_TSTAMP_PRECISION_NANO, error);
  if (file == nullptr) throw std::runtime_error(error);
  pcap_pkthdr* header = nullptr;
  const u_char* data = nullptr;
  while (pcap_next_ex(file, &header, &data) == 1) {
    out.push_back({static_cast<uint64_t>(header->ts.tv_sec) * 1'000'000'000 +
                       static_cast<uint64_t>(header->ts.tv_usec),
                   {data, data + header->caplen}});
  }
  pcap_close(file);
  return out;
}

inline std::string hex(const std::vector<uint8_t>& bytes) {
  std::string out;
  char two[3];
  for (const uint8_t b : bytes) {
    std::snprintf(two, sizeof two, "%02x", b);
    out += two;
  }
  return out;
}

enum class Times : uint8_t { kCompared, kIgnored };

inline void compare(const std::vector<Frame>& got, const std::vector<Frame>& wanted, Times times) {
  for (size_t i = 0; i < std::min(got.size(), wanted.size()); ++i) {
    if (times == Times::kCompared) {
      EXPECT_EQ(got[i].time_ns, wanted[i].time_ns) << "time of frame " << i;
    }
    EXPECT_EQ(hex(got[i].bytes), hex(wanted[i].bytes)) << "frame " << i;
  }
  EXPECT_EQ(got.size(), wanted.size());
}

inline std::map<std::string, uint64_t> counted(const CoreStats& stats) {
  std::map<std::string, uint64_t> out;
  for (size_t i = 0; i < kOutcomes; ++i) {
    if (stats.outcomes[i].get() != 0)
      out[std::string(kOutcomeInfo[i].name)] = stats.outcomes[i].get();
  }
  return out;
}

inline CoreLimits limits_of(const Snapshot& snapshot) {
  CoreLimits limits;
  limits.allocations = 16;
  limits.permissions = 64;
  limits.narrow_channels = 64;
  limits.wide_channels = 64;
  limits.policers = 16;
  limits.relay_port_low = snapshot.relay_port_low;
  limits.relay_port_high = snapshot.relay_port_high;
  limits.addresses = static_cast<uint16_t>(snapshot.addresses.size());
  return limits;
}

inline std::vector<std::string> case_names(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder / "cases")) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace culvert::golden
