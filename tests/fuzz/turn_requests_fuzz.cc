// Authenticated TURN requests with whatever attributes to control, over a core that takes the
// commands or fails them: what an attacker with an account can say. Each request has one answer at
// most, for that transaction; a success travels inside the command that makes it true and nowhere
// else; who does not sign rightly moves nothing; and when all allocations have ended every port,
// quota and record has come back.
//
// Input: requests. Who from, method, how signed, then attributes: type of the known ones, length,
// bytes. Then how the core answers.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "control/auth.h"
#include "control/turn_server.h"
#include "crypto/random.h"
#include "dataplane/api/nonce.h"
#include "dataplane/api/recording_engine.h"
#include "tests/fuzz/reader.h"

namespace {

using namespace culvert;
using stun::Attribute;
using stun::AttributeSlot;

constexpr uint64_t kUnixSeconds = 1'767'225'600;
constexpr char kRealm[] = "example.org";
constexpr uint32_t kMaxRequests = 24;

constexpr Attribute kTypes[] = {
#define X(name, type) Attribute::k##name,
    CULVERT_STUN_ATTRIBUTES(X)
#undef X
};
constexpr uint16_t kMethods[] = {
    stun::kAllocate,    stun::kAllocate, stun::kRefresh, stun::kCreatePermission,
    stun::kChannelBind, stun::kConnect,  stun::kBinding, 0x0fff};

[[nodiscard]] TransportAddress at(const char* text) {
  return TransportAddress::parse(text).value();
}

[[nodiscard]] Config make_config() {
  Config config;
  RealmConfig realm;
  realm.name = kRealm;
  realm.users = {{"alice", "wonderland"}, {"bob", "builder"}};
  realm.secrets = {"north"};
  realm.user_quota = 4;
  config.realms = {realm};
  config.listeners = {{at("198.51.100.1:3478"), 0}, {at("[2001:db8::1]:3478"), 0}};
  config.relay_addresses = {{at("198.51.100.1:1").ip, at("198.51.100.1:1").ip},
                            {at("[2001:db8::1]:1").ip, at("[2001:db8::1]:1").ip}};
  config.limits.max_allocations = 6;

  return config;
}

// Deriving keys is slow, and the same for every input.
struct Keys {
  Keys() {
    for (size_t i = 0; i < 2; ++i) {
      StoredAccount account;
      ENSURE(make_account(names[i], kRealm, i == 0 ? "wonderland" : "builder", account));
      for (const auto algorithm : {PasswordAlgorithm::kMd5, PasswordAlgorithm::kSha256})
        keys[i][algorithm == PasswordAlgorithm::kMd5 ? 0 : 1] =
            integrity_key(account.md5_key, account.sha256_key, algorithm);
    }
  }
  const char* names[2] = {"alice", "bob"};
  IntegrityKey keys[2][2];
};

class Run {
 public:
  Run(const uint8_t* data, size_t size) : in_(data, size) {}

  void all() {
    for (uint32_t i = 0; i < kMaxRequests && !in_.empty(); ++i)
      one();
    end();
  }

 private:
  struct Asked {
    std::vector<uint8_t> bytes;
    uint16_t method = 0;
    bool signed_rightly = false;
    IntegrityKey key;
  };

  [[nodiscard]] ClientTuple client() {
    const uint32_t n = in_.below(6);
    ClientTuple out;
    out.client = at(n % 2 == 0 ? "93.184.216.34:4000" : "[2606:4700::5]:4000");
    out.client.port = static_cast<uint16_t>(4000 + n);
    out.listener = static_cast<uint16_t>(n % 2);
    return out;
  }

  [[nodiscard]] Asked ask(const ClientTuple& from) {
    static const Keys keys;
    Asked out;
    out.method = kMethods[in_.below(std::size(kMethods))];
    const uint32_t how = in_.u8();
    const size_t user = how & 1;
    const bool sha256 = (how & 2) != 0;
    std::array<uint8_t, 2048> buffer;
    stun::TransactionId id{};
    id[0] = in_.u8();
    stun::Builder builder(buffer, stun::Class::kRequest, out.method, id.data());
    if (out.method == stun::kAllocate && (how & 4) == 0)
      builder.add_u32(Attribute::kRequestedTransport, 17u << 24);
    const uint32_t count = in_.below(8);
    bool touches_credentials = false;
    for (uint32_t i = 0; i < count; ++i) {
      const Attribute type = kTypes[in_.below(std::size(kTypes))];
      touches_credentials |=
          type == Attribute::kUsername || type == Attribute::kUserhash ||
          type == Attribute::kRealm || type == Attribute::kNonce ||
          type == Attribute::kMessageIntegrity || type == Attribute::kMessageIntegritySha256 ||
          type == Attribute::kPasswordAlgorithm || type == Attribute::kPasswordAlgorithms;
      add(builder, type);
    }
    const Snapshot& s = engine_.snapshot();
    const Listener& l = s.listeners[from.listener];
    const Nonce nonce = make_nonce(s.nonce_keys, l.realm, l.nonce_features, from.client);
    builder.add(Attribute::kUsername, std::string_view(keys.names[user]));
    builder.add(Attribute::kRealm, std::string_view(kRealm));
    builder.add(Attribute::kNonce, std::string_view(nonce.data(), nonce.size()));
    if (sha256) {
      builder.add_encoded(l.algorithms_attribute);
      builder.add_u32(Attribute::kPasswordAlgorithm, 2u << 16);
    }
    out.key = keys.keys[user][sha256 ? 1 : 0];
    out.signed_rightly = (how & 0x70) != 0x70 && !touches_credentials;
    if ((how & 0x70) == 0x70) out.key.bytes[0] ^= 1;
    add_integrity(builder, {out.key, sha256});
    ENSURE(builder.ok());
    out.bytes.assign(builder.bytes().begin(), builder.bytes().end());
    return out;
  }
  // Mostly something that makes sense for the type, so that requests get far.
  void add(stun::Builder& builder, Attribute type) {
    const uint32_t kind = in_.below(4);
    if (kind == 0) return builder.add(type, in_.bytes(in_.below(48)));
    switch (type) {
      case Attribute::kXorPeerAddress: {
        TransportAddress peer = at((kind & 1) != 0 ? "93.184.216.1:7000" : "[2606:4700::9]:7000");
        peer.ip.bytes[15] = in_.u8();
        if (kind == 3) peer.ip = engine_.snapshot().addresses[0].advertised;
        return builder.add_xor_address(type, peer);
      }
      case Attribute::kChannelNumber:
        return builder.add_u32(type, uint32_t{0x4000u + in_.below(4)} << 16);
      case Attribute::kLifetime:
        return builder.add_u32(type, kind == 1 ? 0 : in_.u16());
      case Attribute::kRequestedAddressFamily:
      case Attribute::kAdditionalAddressFamily:
        return builder.add_u32(type, kind << 24);
      case Attribute::kEvenPort: {
        const uint8_t value[1] = {static_cast<uint8_t>(kind << 7)};
        return builder.add(type, std::span<const uint8_t>(value));
      }
      case Attribute::kReservationToken:
        return builder.add(type, std::span<const uint8_t>(token_));
      default:
        return builder.add(type, in_.bytes(in_.below(16)));
    }
  }

  void one() {
    const ClientTuple from = client();
    const Asked asked = ask(from);
    stun::Message request;
    if (stun::Message::parse(asked.bytes, request) != stun::ParseError::kNone) return;
    Request event;
    event.client = from;
    const Snapshot& s = engine_.snapshot();
    event.nonce_valid = check_nonce(s.nonce_keys, s.listeners[from.listener].realm, from.client,
                                    request.value(AttributeSlot::kNonce), s.nonce_lifetime_seconds)
                                    .state == NonceState::kValid
                            ? 1
                            : 0;
    ENSURE(engine_.inject(0, event, asked.bytes));
    now_.ms += in_.u8() * 40u;
    server_.poll(now_);
    const uint32_t refuse = in_.u8();
    uint32_t answers = 0;
    while (engine_.waiting() > 0)
      answers += command(engine_.take(), asked, request, refuse) ? 1 : 0;
    ENSURE(answers <= 1);
    server_.poll(now_);
    // The answers to what the core refused.
    while (engine_.waiting() > 0)
      (void)command(engine_.take(), asked, request, 0);
    check();
  }

  // Plays the core for one command. True: it carried an answer to the client.
  bool command(const RecordingEngine::Command& c, const Asked& asked, const stun::Message& request,
               uint32_t refuse) {
    std::span<const uint8_t> payload = c.payload;
    if (c.type() == CommandType::kCreatePermission) {
      const size_t list = c.as<CreatePermission>().peer_count * sizeof(PermissionPeer);
      ENSURE(list != 0 && list <= payload.size());
      payload = payload.subspan(list);
    }
    const bool moves = c.type() == CommandType::kInstallAllocation ||
                       c.type() == CommandType::kRefreshAllocation ||
                       c.type() == CommandType::kCreatePermission ||
                       c.type() == CommandType::kBindChannel;
    if (!payload.empty()) answer(c, payload, asked, request, moves);
    // One in four is not taken.
    if (moves && !payload.empty() && (refuse & 3) == 3)
      fail(c, payload, static_cast<ApplyError>(1 + (refuse >> 2) % 5));
    else
      apply(c);
    return !payload.empty();
  }

  void answer(const RecordingEngine::Command& c, std::span<const uint8_t> payload,
              const Asked& asked, const stun::Message& request, bool moves) {
    stun::Message m;
    ENSURE(stun::Message::parse(payload, m) == stun::ParseError::kNone);
    ENSURE(m.method() == asked.method);
    ENSURE(std::equal(m.transaction_id(), m.transaction_id() + 12, request.transaction_id()));
    const bool success = m.message_class() == stun::Class::kSuccess;
    ENSURE(success || m.message_class() == stun::Class::kError);
    ENSURE(success == m.value(AttributeSlot::kErrorCode).empty());
    if (success) {
      ENSURE(moves || c.type() == CommandType::kRemoveAllocation);
      ENSURE(m.has_integrity());
    } else {
      ENSURE(c.type() == CommandType::kSendReply);
    }
    // Integrity of answers is made with the key that the request was signed with.
    if (asked.signed_rightly && m.has_integrity()) ENSURE(integrity_holds(m, asked.key));
    if (asked.signed_rightly && success) ENSURE(m.has_integrity());
    if (const auto token = m.value(AttributeSlot::kReservationToken); token.size() == 8)
      std::copy(token.begin(), token.end(), token_.begin());
  }

  void fail(const RecordingEngine::Command& c, std::span<const uint8_t> payload, ApplyError error) {
    CommandFailed failed;
    failed.command = c.type();
    failed.error = error;
    failed.cookie = c.head().cookie;
    if (c.type() == CommandType::kInstallAllocation) {
      const auto install = c.as<InstallAllocation>();
      // The only two ways in which an installation fails.
      failed.error = error == ApplyError::kTableFull ? error : ApplyError::kPortInUse;
      if (failed.error == ApplyError::kPortInUse)
        failed.failed_legs = install.ipv4.present() ? kLegIpv4 : kLegIpv6;
      failed.handle = install.handle;
      failed.client = install.client;
    } else if (c.type() == CommandType::kBindChannel) {
      failed.handle = c.as<BindChannel>().handle;
    } else if (c.type() == CommandType::kRefreshAllocation) {
      failed.handle = c.as<RefreshAllocation>().handle;
      failed.error = ApplyError::kNoSuchAllocation;
    } else {
      failed.handle = c.as<CreatePermission>().handle;
    }
    if (failed.error == ApplyError::kNoSuchAllocation) {
      // It has ended a moment before: that is said first.
      end_allocation(failed.handle, kLegIpv4 | kLegIpv6, EndReason::kExpired, 0);
    } else if (const auto known = live_.find(failed.handle.index); known != live_.end()) {
      failed.client = known->second.client;
    }
    ENSURE(engine_.inject(0, failed, payload));
  }

  void apply(const RecordingEngine::Command& c) {
    if (c.type() == CommandType::kInstallAllocation) {
      const auto install = c.as<InstallAllocation>();
      const auto legs = static_cast<uint8_t>((install.ipv4.present() ? kLegIpv4 : 0) |
                                             (install.ipv6.present() ? kLegIpv6 : 0));
      ENSURE(legs != 0);
      ENSURE(live_
                 .emplace(install.handle.index,
                          Live{install.handle, install.client, install.cookie, legs})
                 .second);  // never two allocations on one index
    } else if (c.type() == CommandType::kRemoveAllocation) {
      const auto remove = c.as<RemoveAllocation>();
      end_allocation(remove.handle, remove.legs, remove.reason, remove.cookie);
    }
  }

  void end_allocation(AllocationHandle handle, uint8_t legs, EndReason reason, uint32_t cookie) {
    const auto known = live_.find(handle.index);
    if (known == live_.end() || known->second.handle != handle) return;
    AllocationEnded ended;
    ended.handle = handle;
    ended.cookie = cookie != 0 ? cookie : known->second.cookie;
    ended.reason = reason;
    ended.legs = static_cast<uint8_t>(known->second.legs & legs);
    known->second.legs = static_cast<uint8_t>(known->second.legs & ~legs);
    ended.legs_left = known->second.legs;
    if (ended.legs_left == 0) live_.erase(known);
    ENSURE(engine_.inject(0, ended));
  }

  void check() const {
    const TurnStats s = server_.stats();
    ENSURE(s.allocations + s.reservations <= 6 && s.malformed == 0);
    ENSURE(s.ports_free <= s.ports_total);
  }

  void end() {
    while (!live_.empty())
      end_allocation(live_.begin()->second.handle, kLegIpv4 | kLegIpv6, EndReason::kExpired, 0);
    for (int i = 0; i < 4; ++i) {
      now_.ms += 31'000;
      server_.poll(now_);
      engine_.clear();
    }
    const TurnStats s = server_.stats();
    ENSURE(s.allocations == 0 && s.reservations == 0 && s.ports_free == s.ports_total);
  }

  struct Live {
    AllocationHandle handle;
    ClientTuple client;
    uint32_t cookie = 0;
    uint8_t legs = 0;
  };
  fuzz::Reader in_;
  ControlTime now_{1'000'000, kUnixSeconds};
  RecordingEngine engine_{1, 1024};
  crypto::Random random_{42};
  TurnServer server_{make_config(), engine_, random_, {}, now_};
  std::map<uint32_t, Live> live_;
  std::array<uint8_t, 8> token_{};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto run = std::make_unique<Run>(data, size);
  run->all();
  return 0;
}
