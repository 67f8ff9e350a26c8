// What control's unit tests share: a client that speaks TURN byte by byte, and a core that applies
// commands the way the contract in dataplane/api/messages.h says, without a data plane.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "control/auth.h"
#include "control/turn_server.h"
#include "crypto/random.h"
#include "dataplane/api/nonce.h"
#include "dataplane/api/recording_engine.h"
#include "dataplane/wire/stun.h"

namespace culvert {

inline constexpr uint64_t kTestUnixSeconds = 1'767'225'600;
inline constexpr char kTestRealm[] = "example.org";

inline IpAddress ip(const char* text) {
  return IpAddress::parse(text).value();
}
inline TransportAddress at(const char* text) {
  return TransportAddress::parse(text).value();
}

inline Config test_config() {
  Config config;
  RealmConfig realm;
  realm.name = kTestRealm;
  realm.users = {{"alice", "wonderland"}, {"bob", "builder"}};
  config.realms = {realm};
  config.listeners = {{at("198.51.100.1:3478"), 0}, {at("[2001:db8::1]:3478"), 0}};
  config.relay_addresses = {{ip("198.51.100.1"), ip("198.51.100.1")},
                            {ip("2001:db8::1"), ip("2001:db8::1")}};
  config.limits.max_allocations = 64;
  config.software.clear();
  return config;
}

// A request under construction.
class ClientRequest {
 public:
  explicit ClientRequest(uint16_t method, uint8_t serial = 1)
      : builder_(buffer_, stun::Class::kRequest, method, transaction(serial).data()) {}
  ClientRequest(const ClientRequest&) = delete;

  static stun::TransactionId transaction(uint8_t serial) {
    stun::TransactionId id{};
    id.fill(serial);
    return id;
  }
  ClientRequest& u32(stun::Attribute type, uint32_t value) {
    builder_.add_u32(type, value);
    return *this;
  }
  ClientRequest& bytes(stun::Attribute type, std::vector<uint8_t> value) {
    builder_.add(type, std::span<const uint8_t>(value));
    return *this;
  }
  ClientRequest& text(stun::Attribute type, std::string_view value) {
    builder_.add(type, value);
    return *this;
  }
  ClientRequest& peer(const char* address) {
    builder_.add_xor_address(stun::Attribute::kXorPeerAddress, at(address));
    return *this;
  }
  ClientRequest& encoded(std::span<const uint8_t> attributes) {
    builder_.add_encoded(attributes);
    return *this;
  }
  ClientRequest& udp() { return u32(stun::Attribute::kRequestedTransport, 17u << 24); }
  stun::Builder& builder() { return builder_; }
  [[nodiscard]] std::vector<uint8_t> done() {
    return {builder_.bytes().begin(), builder_.bytes().end()};
  }

 private:
  std::array<uint8_t, 2048> buffer_;
  stun::Builder builder_;
};

// A response as a client reads it.
struct Response {
  std::vector<uint8_t> bytes;
  stun::Message message;
  uint16_t error = 0;
  std::string text(stun::AttributeSlot slot) const {
    const auto value = message.value(slot);
    return {reinterpret_cast<const char*>(value.data()), value.size()};
  }
  std::vector<TransportAddress> relayed() const;
  uint32_t lifetime() const {
    return load_be32(message.value(stun::AttributeSlot::kLifetime).data());
  }
};

inline std::vector<TransportAddress> Response::relayed() const {
  std::vector<TransportAddress> out;
  for (size_t i = stun::kHeaderSize; i + 4 <= bytes.size();) {
    const uint16_t type = load_be16(&bytes[i]);
    const uint16_t length = load_be16(&bytes[i + 2]);
    if (type == static_cast<uint16_t>(stun::Attribute::kXorRelayedAddress))
      out.push_back(message.xor_address({&bytes[i + 4], length}).value());
    i += 4u + (length + 3u) / 4 * 4;
  }
  return out;
}

// A user as the client knows it.
struct Credential {
  std::string name = "alice";
  std::string password = "wonderland";
  std::string realm = kTestRealm;
  PasswordAlgorithm algorithm = PasswordAlgorithm::kMd5;
  bool announce = false;  // PASSWORD-ALGORITHM and PASSWORD-ALGORITHMS
  bool sha256 = false;    // MESSAGE-INTEGRITY-SHA256 in the request
  bool userhash = false;
  [[nodiscard]] IntegrityKey key() const {
    StoredAccount account;
    EXPECT_TRUE(make_account(name, realm, password, account));
    return integrity_key(account.md5_key, account.sha256_key, algorithm);
  }
};

class TurnTest : public ::testing::Test {
 protected:
  void start(Config config = test_config(), CoreId cores = 1) {
    server_.reset();
    engine_ = std::make_unique<RecordingEngine>(cores, size_t{1} << 14);
    random_ = std::make_unique<crypto::Random>(42);
    config_ = config;
    TurnHooks hooks;
    hooks.allocation_ended = [this](const EndedAllocation& e) {
      ended_.push_back({std::string(e.info.user), std::string(e.info.realm), e});
    };
    hooks.notice = [this](std::string_view line) { notices_.emplace_back(line); };
    server_ = std::make_unique<TurnServer>(config, *engine_, *random_, hooks, now_);
  }
  void SetUp() override { start(); }

  [[nodiscard]] ClientTuple client(const char* address = "93.184.216.34:4000",
                                   uint16_t listener = 0) const {
    ClientTuple out;
    out.client = at(address);
    out.listener = listener;
    return out;
  }
  [[nodiscard]] std::string nonce_for(const ClientTuple& from) const {
    const Snapshot& s = engine_->snapshot();
    const Listener& l = s.listeners[from.listener];
    const Nonce n = make_nonce(s.nonce_keys, l.realm, l.nonce_features, from.client);
    return {n.begin(), n.end()};
  }
  // Adds what authenticates the request and returns its bytes.
  [[nodiscard]] std::vector<uint8_t> sign(ClientRequest& request, const Credential& who,
                                          const ClientTuple& from) const {
    if (who.userhash) {
      StoredAccount account;
      EXPECT_TRUE(make_account(who.name, who.realm, who.password, account));
      request.bytes(stun::Attribute::kUserhash, {account.userhash.begin(), account.userhash.end()});
    } else {
      request.text(stun::Attribute::kUsername, who.name);
    }
    request.text(stun::Attribute::kRealm, who.realm);
    request.text(stun::Attribute::kNonce, nonce_for(from));
    if (who.announce) {
      request.encoded(engine_->snapshot().listeners[from.listener].algorithms_attribute);
      request.u32(stun::Attribute::kPasswordAlgorithm, static_cast<uint32_t>(who.algorithm) << 16);
    }
    add_integrity(request.builder(), {who.key(), who.sha256});
    return request.done();
  }

  // Hands the bytes to the server as a core would, and collects what it commands.
  void inject(const std::vector<uint8_t>& bytes, const ClientTuple& from, CoreId core = 0) {
    Request event;
    event.client = from;
    stun::Message m;
    if (stun::Message::parse(bytes, m) == stun::ParseError::kNone) {
      const Snapshot& s = engine_->snapshot();
      event.nonce_valid =
          check_nonce(s.nonce_keys, s.listeners[from.listener].realm, from.client,
                      m.value(stun::AttributeSlot::kNonce), s.nonce_lifetime_seconds)
                      .state == NonceState::kValid
              ? 1
              : 0;
    }
    ASSERT_TRUE(engine_->inject(core, event, bytes));
    server_->poll(now_);
  }
  // The answer of the commands that wait, applied by a core that never refuses. nullopt: no answer.
  std::optional<Response> collect() {
    std::optional<Response> out;
    while (engine_->waiting() > 0) {
      RecordingEngine::Command c = engine_->take();
      size_t skip = 0;
      if (c.type() == CommandType::kCreatePermission)
        skip = c.as<CreatePermission>().peer_count * sizeof(PermissionPeer);
      if (c.payload.size() > skip) {
        EXPECT_FALSE(out) << "two answers to one request";
        out.emplace();
        out->bytes.assign(c.payload.begin() + static_cast<std::ptrdiff_t>(skip), c.payload.end());
      }
      last_.push_back(std::move(c));
      apply(last_.back());
    }
    if (out) read(*out);
    return out;
  }
  std::optional<Response> exchange(const std::vector<uint8_t>& bytes, const ClientTuple& from,
                                   CoreId core = 0) {
    last_.clear();
    inject(bytes, from, core);
    auto out = collect();
    server_->poll(now_);  // takes what the core said to the commands
    return out;
  }
  std::optional<Response> ask(ClientRequest& request, const ClientTuple& from,
                              const Credential& who = {}, CoreId core = 0) {
    return exchange(sign(request, who, from), from, core);
  }
  // The error code of the answer; 0: success; -1: silence.
  int code(ClientRequest& request, const ClientTuple& from, const Credential& who = {},
           CoreId core = 0) {
    const auto r = ask(request, from, who, core);
    return r ? r->error : -1;
  }
  // An ordinary allocation.
  std::optional<Response> allocate(const ClientTuple& from, const Credential& who = {},
                                   uint8_t serial = 1, CoreId core = 0) {
    ClientRequest r(stun::kAllocate, serial);
    r.udp();
    return ask(r, from, who, core);
  }

  static void read(Response& r) {
    ASSERT_EQ(stun::Message::parse(r.bytes, r.message), stun::ParseError::kNone);
    if (r.message.message_class() != stun::Class::kError) return;
    const auto value = r.message.value(stun::AttributeSlot::kErrorCode);
    ASSERT_GE(value.size(), 4u);
    r.error = static_cast<uint16_t>(value[2] * 100 + value[3]);
  }
  // What a core does with the command, as far as control can tell.
  void apply(const RecordingEngine::Command& c) {
    if (c.type() == CommandType::kInstallAllocation) {
      const auto install = c.as<InstallAllocation>();
      legs_[{c.core, install.handle.index}] = static_cast<uint8_t>(
          (install.ipv4.present() ? kLegIpv4 : 0) | (install.ipv6.present() ? kLegIpv6 : 0));
    }
    if (c.type() != CommandType::kRemoveAllocation) return;
    const auto remove = c.as<RemoveAllocation>();
    uint8_t& legs = legs_[{c.core, remove.handle.index}];
    AllocationEnded ended;
    ended.handle = remove.handle;
    ended.cookie = remove.cookie;
    ended.reason = remove.reason;
    ended.legs = static_cast<uint8_t>(legs & remove.legs);
    legs = static_cast<uint8_t>(legs & ~remove.legs);
    ended.legs_left = legs;
    ended.counters = {1, 100, 2, 200};
    ASSERT_TRUE(engine_->inject(c.core, ended));
  }
  // The answer that a command carried comes back.
  void fail(const RecordingEngine::Command& c, ApplyError error, uint8_t failed_legs = 0) {
    CommandFailed failed;
    failed.command = c.type();
    failed.error = error;
    failed.failed_legs = failed_legs;
    failed.cookie = c.head().cookie;
    std::span<const uint8_t> payload = c.payload;
    if (c.type() == CommandType::kInstallAllocation) {
      failed.handle = c.as<InstallAllocation>().handle;
      failed.client = c.as<InstallAllocation>().client;
    } else if (c.type() == CommandType::kBindChannel) {
      failed.handle = c.as<BindChannel>().handle;
      failed.client = client();
    } else if (c.type() == CommandType::kRefreshAllocation) {
      failed.handle = c.as<RefreshAllocation>().handle;
      failed.client = client();
    } else if (c.type() == CommandType::kCreatePermission) {
      failed.handle = c.as<CreatePermission>().handle;
      failed.client = client();
      payload = payload.subspan(c.as<CreatePermission>().peer_count * sizeof(PermissionPeer));
    }
    ASSERT_TRUE(engine_->inject(c.core, failed, payload));
    server_->poll(now_);
  }
  template <class T>
  [[nodiscard]] std::vector<T> sent() const {
    std::vector<T> out;
    for (const auto& c : last_) {
      if (c.type() == T::kType) out.push_back(c.as<T>());
    }
    return out;
  }
  // Nothing of an allocation is left anywhere.
  void expect_empty() const {
    const TurnStats s = server_->stats();
    EXPECT_EQ(s.allocations, 0u);
    EXPECT_EQ(s.reservations, 0u);
    EXPECT_EQ(s.ports_free, s.ports_total);
  }

  struct Ended {
    std::string user;
    std::string realm;
    EndedAllocation what;
  };
  ControlTime now_{1'000'000, kTestUnixSeconds};
  Config config_;
  std::unique_ptr<RecordingEngine> engine_;
  std::unique_ptr<crypto::Random> random_;
  std::unique_ptr<TurnServer> server_;
  std::vector<RecordingEngine::Command> last_;
  std::map<std::pair<CoreId, uint32_t>, uint8_t> legs_;
  std::vector<Ended> ended_;
  std::vector<std::string> notices_;
};

}  // namespace culvert
