#include "tests/unit/conformance_responder.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <random>
#include <system_error>

#include "dataplane/base/endian.h"

namespace culvert::conformance {
namespace {

using std::chrono::seconds;
using stun_client::AttributeView;

constexpr const char* kRealm = "responder.test";
constexpr std::array<uint8_t, 8> kOffered{0, 2, 0, 0, 0, 1, 0, 0};  // SHA-256, MD5
constexpr const char* kCookie = "obMatJos2wAAA";                    // both features
constexpr uint32_t kDefaultLifetime = 600, kMaximumLifetime = 3600;
constexpr uint16_t kFirstPort = 49'152;
constexpr milliseconds kHeld{500};

IpAddress ipv6_loopback() {
  return *IpAddress::parse("::1");
}

bool known(uint16_t type) {
  static const std::set<uint16_t> kTypes{0x0006, 0x0008, 0x0009, 0x000a, 0x000c, 0x000d, 0x0012,
                                         0x0013, 0x0014, 0x0015, 0x0016, 0x0017, 0x0018, 0x0019,
                                         0x001a, 0x001c, 0x001d, 0x001e, 0x0020, 0x0022};
  return type >= 0x8000 || kTypes.contains(type);
}

bool is_turn(Method method) {
  return method == Method::kAllocate || method == Method::kRefresh ||
         method == Method::kCreatePermission || method == Method::kChannelBind;
}

uint8_t first_byte(const AttributeView* attribute) {
  return attribute == nullptr || attribute->value.empty() ? uint8_t{0} : attribute->value[0];
}

}  // namespace

// --- reading

const AttributeView* Responder::Request::find(Attr type) const {
  const AttributeView* out = nullptr;
  for (const auto& a : read)
    if (a.type == type && (out == nullptr || last_counts)) out = &a;
  return out;
}

std::string Responder::Request::text(Attr type) const {
  const auto* a = find(type);
  return a == nullptr ? std::string() : std::string(a->value.begin(), a->value.end());
}

std::optional<uint32_t> Responder::Request::u32(Attr type) const {
  const auto* a = find(type);
  if (a == nullptr || a->value.size() != 4) return std::nullopt;
  return load_be32(a->value.data());
}

Responder::Request Responder::read(const MessageView& view, UdpSocket& listener,
                                   const TransportAddress& from) const {
  Request out{&view, {}, &listener, from, broken(Fault::kLastDuplicateCounts)};
  bool signed1 = false, signed256 = false;
  for (const auto& a : view.attributes()) {
    const bool behind = (signed1 || signed256) && a.type != Attr::kFingerprint &&
                        (signed256 || a.type != Attr::kMessageIntegritySha256);
    if (!behind || broken(Fault::kReadsAfterIntegrity)) out.read.push_back(a);
    signed1 |= a.type == Attr::kMessageIntegrity;
    signed256 |= a.type == Attr::kMessageIntegritySha256;
  }
  return out;
}

std::vector<uint16_t> Responder::unknown(const Request& r) const {
  std::vector<uint16_t> out;
  for (const auto& a : r.read) {
    const auto type = static_cast<uint16_t>(a.type);
    const bool strange =
        !known(type) || (broken(Fault::kOptionalIsRequired) && type >= 0xc000 && type != 0xffff);
    if (!strange) continue;
    if (std::find(out.begin(), out.end(), type) == out.end() || broken(Fault::kUnknownNamedTwice))
      out.push_back(type);
  }
  return out;
}

// --- the server

Responder::Responder(Fault fault, const IpAddress& ip, Families families)
    : fault_(fault),
      ip_(ip),
      families_(families),
      listener4_(ip),
      listener6_(ipv6_loopback()),
      other_port_(ip) {
  listener4_.set_dont_fragment(broken(Fault::kDontFragmentAlways));
  listener6_.set_dont_fragment(false);
  thread_ = std::thread([this] { serve(); });
}

Responder::~Responder() {
  ended_ = true;
  thread_.join();
}

Target Responder::target() {
  Target t;
  t.server = listener4_.address();
  t.server6 = listener6_.address();
  t.account = {kResponderUser, kResponderPassword};
  t.other = Account{kResponderOther, kResponderPassword};
  t.client_ip = *IpAddress::parse("127.0.0.1");
  t.peer_ip = t.client_ip;
  t.peer_ip6 = ipv6_loopback();
  t.relay = families_.ipv4 ? Family::kIpv4 : Family::kIpv6;
  t.tries = 2;
  t.quiet = milliseconds(20);
  t.skipped_ns = &skipped_ns_;
  return t;
}

Clock::time_point Responder::now() const {
  return Clock::now() + std::chrono::nanoseconds(skipped_ns_.load());
}

void Responder::expire() {
  std::erase_if(allocations_, [this](const auto& a) { return a->end <= now(); });
}

void Responder::serve() {
  while (!ended_) {
    expire();
    std::vector<pollfd> waiting{{listener4_.fd(), POLLIN, 0}, {listener6_.fd(), POLLIN, 0}};
    std::vector<std::pair<Allocation*, UdpSocket*>> relays;
    for (const auto& a : allocations_)
      for (const auto& relay : a->relays) {
        waiting.push_back({relay->fd(), POLLIN, 0});
        relays.emplace_back(a.get(), relay.get());
      }
    if (poll(waiting.data(), waiting.size(), 10) <= 0) continue;
    // Relays first: requests may end an allocation.
    for (size_t i = 0; i < relays.size(); ++i) {
      const auto [a, relay] = relays[i];
      if (waiting[i + 2].revents & POLLERR) from_error_queue(*a, *relay);
      if (waiting[i + 2].revents & POLLIN)
        if (const auto got = relay->receive(Clock::now())) from_peer(*a, *relay, *got);
    }
    for (size_t i = 0; i < 2; ++i) {
      UdpSocket& listener = i == 0 ? listener4_ : listener6_;
      if (waiting[i].revents == 0) continue;
      if (const auto got = listener.receive(Clock::now())) on_datagram(listener, *got);
    }
  }
}

void Responder::on_datagram(UdpSocket& listener, const Datagram& got) {
  expire();
  std::vector<uint8_t> bytes = got.payload;
  if (bytes.empty()) return;
  if (bytes[0] >= 0x40 && bytes[0] < 0x80) return on_channel_data(got.from, got);
  if (bytes.size() >= stun_client::kHeaderSize) {
    if (broken(Fault::kAnswersWithoutCookie)) store_be32(&bytes[4], stun_client::kMagicCookie);
    if (broken(Fault::kAnyFirstByte) && bytes[0] < 0x40) bytes[0] &= 3;
  }
  on_message(listener, got.from, bytes, got);
}

void Responder::on_message(UdpSocket& listener, const TransportAddress& from, Bytes bytes,
                           const Datagram& got) {
  const auto view = MessageView::parse(bytes);
  if (!view) return;
  const Request r = read(*view, listener, from);
  if (!fingerprint_good(r)) return;
  if (view->cls() == Class::kIndication && view->method() == Method::kSend) on_send(r, got);
  if (view->cls() == Class::kRequest) on_request(r);
}

bool Responder::fingerprint_good(const Request& r) const {
  return !r.view->has(Attr::kFingerprint) || r.view->fingerprint_valid() ||
         broken(Fault::kFingerprintUnchecked);
}

void Responder::on_request(const Request& r) {
  const Method method = r.view->method();
  const auto strange = unknown(r);
  if (method == Method::kBinding) {
    if (broken(Fault::kBindingNeedsCredentials)) return challenge(r, 401);
    return strange.empty() ? on_binding(r) : refuse_unknown(r, strange, nullptr);
  }
  if (!is_turn(method)) {
    if (broken(Fault::kAnswersUnknownMethods)) refuse(r, 400);
    return;
  }
  if (broken(Fault::kUnknownBeforeAuthentication) && !strange.empty())
    return refuse_unknown(r, strange, nullptr);
  const Allocation* const old = find(r.client);
  if (broken(Fault::kOccupiedBeforeAuthentication) && method == Method::kAllocate &&
      old != nullptr && old->id != r.view->transaction_id())
    return refuse(r, 437);
  const auto caller = authenticate(r);
  if (!caller) return;
  if (!strange.empty()) return refuse_unknown(r, strange, &*caller);
  if (method == Method::kAllocate) on_allocate(r, *caller);
  if (method == Method::kRefresh) on_refresh(r, *caller);
  if (method == Method::kCreatePermission) on_permission(r, *caller);
  if (method == Method::kChannelBind) on_channel(r, *caller);
}

void Responder::on_binding(const Request& r) {
  auto answer = begin(r, Class::kSuccess);
  TransportAddress mapped = r.client;
  if (broken(Fault::kMappedAddressChanges)) mapped.port = ++changing_;
  answer.add_xor_address(Attr::kXorMappedAddress, mapped);
  if (broken(Fault::kBindingCarriesNonce)) answer.add(Attr::kNonce, new_nonce(r.client));
  finish(r, answer, nullptr);
}

// --- answering

MessageBuilder Responder::begin(const Request& r, Class cls) const {
  MessageBuilder out(r.view->method(), cls, r.view->transaction_id());
  if (!broken(Fault::kNoSoftware))
    out.add(Attr::kSoftware, "responder",
            broken(Fault::kPaddingNotZero) ? uint8_t{0x5a} : uint8_t{0});
  return out;
}

MessageBuilder Responder::error(const Request& r, int code) const {
  auto out = begin(r, Class::kError);
  std::vector<uint8_t> value{0, 0, static_cast<uint8_t>(code / 100),
                             static_cast<uint8_t>(code % 100)};
  for (const char letter : std::string_view("refused"))
    value.push_back(static_cast<uint8_t>(letter));
  if (broken(Fault::kReasonPadded)) value.push_back(0);
  return std::move(out.add(Attr::kErrorCode, value));
}

void Responder::refuse(const Request& r, int code, const Caller* caller) {
  auto answer = error(r, code);
  finish(r, answer, broken(Fault::kErrorsUnsigned) ? nullptr : caller);
}

void Responder::refuse_unknown(const Request& r, const std::vector<uint16_t>& types,
                               const Caller* caller) {
  auto answer = error(r, 420);
  std::vector<uint8_t> list(types.size() * 2);
  for (size_t i = 0; i < types.size(); ++i)
    store_be16(&list[2 * i], types[i]);
  answer.add(Attr::kUnknownAttributes, list);
  finish(r, answer, caller);
}

void Responder::finish(const Request& r, MessageBuilder& answer, const Caller* caller) {
  if (caller != nullptr && caller->sha256) answer.add_integrity_sha256(caller->key);
  if (caller != nullptr && !caller->sha256) answer.add_integrity(caller->key);
  send_answer(*r.listener, r.client, answer.bytes());
}

void Responder::send_answer(UdpSocket& listener, const TransportAddress& to, Bytes bytes) {
  if (broken(Fault::kAnswersFromTwoPorts) && to.ip.is_v4()) other_port_.send(to, bytes);
  listener.send(to, bytes);
}

// --- credentials

std::string Responder::new_nonce(const TransportAddress& client) {
  const std::string name = client.to_string();
  const unsigned count = broken(Fault::kNonceNeverChanges) ? 0 : challenges_[name];
  const auto digest = stun_client::userhash(broken(Fault::kNonceForEveryone) ? "everyone" : name,
                                            std::to_string(count));
  std::string nonce = broken(Fault::kNoCookieInNonce) ? "" : kCookie;
  nonce += hex(digest, 16).substr(0, 32);
  if (broken(Fault::kNonceTooLong)) nonce += std::string(128, 'x');
  nonces_[nonce] = name;
  return nonce;
}

bool Responder::nonce_good(const Request& r) const {
  const auto found = nonces_.find(r.text(Attr::kNonce));
  return found != nonces_.end() &&
         (found->second == r.client.to_string() || broken(Fault::kNonceForEveryone));
}

void Responder::challenge(const Request& r, int code) {
  // A retransmission is not another challenge.
  if (transactions_.insert(r.view->transaction_id()).second) ++challenges_[r.client.to_string()];
  auto answer = error(r, code);
  answer.add(Attr::kRealm, kRealm);
  if (code != 438 || !broken(Fault::kStaleWithoutNonce))
    answer.add(Attr::kNonce, new_nonce(r.client));
  answer.add(Attr::kPasswordAlgorithms, kOffered);
  if (broken(Fault::kChallengeNamesUser)) answer.add(Attr::kUsername, kResponderUser);
  finish(r, answer, nullptr);
}

std::optional<std::string> Responder::user_of(const Request& r) const {
  const std::string name = r.text(Attr::kUsername), hash = r.text(Attr::kUserhash);
  for (const char* const user : {kResponderUser, kResponderOther}) {
    const auto digest = stun_client::userhash(user, kRealm);
    if (name == user) return user;
    if (hash == std::string(digest.begin(), digest.end()) && !broken(Fault::kUserhashUnknown))
      return user;
  }
  return std::nullopt;
}

bool Responder::algorithms_good(const Request& r) const {
  const auto* list = r.find(Attr::kPasswordAlgorithms);
  const auto* one = r.find(Attr::kPasswordAlgorithm);
  if (list == nullptr && one == nullptr) return true;
  if (list == nullptr || one == nullptr || one->value.size() < 4) return false;
  const uint16_t algorithm = load_be16(one->value.data());
  const bool same =
      std::equal(list->value.begin(), list->value.end(), kOffered.begin(), kOffered.end());
  return (algorithm == 1 || algorithm == 2) && (same || broken(Fault::kBidDownAccepted));
}

bool Responder::integrity_good(const Request& r, Caller& caller) const {
  const auto* one = r.find(Attr::kPasswordAlgorithm);
  const bool sha256_key = one != nullptr && load_be16(one->value.data()) == 2;
  const auto algorithm = sha256_key ? PasswordAlgorithm::kSha256 : PasswordAlgorithm::kMd5;
  caller.key = stun_client::long_term_key(algorithm, caller.user, kRealm, kResponderPassword);
  const auto* sha256 = r.find(Attr::kMessageIntegritySha256);
  const auto* sha1 = r.find(Attr::kMessageIntegrity);
  caller.sha256 = sha256 != nullptr && !(sha1 != nullptr && broken(Fault::kSha1Preferred));
  if (caller.sha256) {
    if (broken(Fault::kMd5WithSha256Refused) && !sha256_key) return false;
    if (sha256->value.size() != 32 && !broken(Fault::kTruncatedSha256Accepted)) return false;
    return r.view->integrity_sha256_valid(caller.key);
  }
  if (!broken(Fault::kIntegrityCoversFingerprint)) return r.view->integrity_valid(caller.key);
  // With the length field as it stands, whatever follows.
  const auto whole = MessageView::parse(r.view->bytes());
  const auto mac = stun_client::hmac_sha1(caller.key, {whole->bytes().first(sha1->offset)});
  return std::equal(mac.begin(), mac.end(), sha1->value.begin(), sha1->value.end());
}

bool Responder::realm_and_user_good(const Request& r, Caller& caller) {
  if (r.text(Attr::kRealm) != kRealm) {
    if (broken(Fault::kOtherRealmIs400))
      refuse(r, 400);
    else
      challenge(r, 401);
    return false;
  }
  if (broken(Fault::kLongUserRefused) && r.text(Attr::kUsername).size() > 508) {
    refuse(r, 400);
    return false;
  }
  const auto user = user_of(r);
  if (!user) {
    challenge(r, 401);
    return false;
  }
  caller.user = *user;
  return true;
}

std::optional<Responder::Caller> Responder::authenticate(const Request& r) {
  Caller caller;
  if (!r.has(Attr::kMessageIntegrity) && !r.has(Attr::kMessageIntegritySha256)) {
    challenge(r, 401);
    return std::nullopt;
  }
  if (!r.has(Attr::kUsername) && !r.has(Attr::kUserhash)) {
    if (broken(Fault::kMissingUserIs401))
      challenge(r, 401);
    else
      refuse(r, 400);
    return std::nullopt;
  }
  if (!r.has(Attr::kRealm) || !r.has(Attr::kNonce)) {
    refuse(r, 400);
    return std::nullopt;
  }
  if (broken(Fault::kNonceFirst) && !nonce_good(r)) {
    challenge(r, 438);
    return std::nullopt;
  }
  if (!algorithms_good(r)) {
    refuse(r, 400);
    return std::nullopt;
  }
  if (!realm_and_user_good(r, caller)) return std::nullopt;
  if (!integrity_good(r, caller)) {
    if (broken(Fault::kWrongIntegrityIs400))
      refuse(r, 400);
    else
      challenge(r, 401);
    return std::nullopt;
  }
  if (!nonce_good(r)) {
    challenge(r, 438);
    return std::nullopt;
  }
  return caller;
}

// --- Allocate and Refresh

Responder::Allocation* Responder::find(const TransportAddress& client) {
  for (const auto& a : allocations_)
    if (a->client == client) return a.get();
  return nullptr;
}

uint32_t Responder::lifetime(const Request& r) const {
  const uint32_t wanted = r.u32(Attr::kLifetime).value_or(kDefaultLifetime);
  if (broken(Fault::kLifetimeAsAsked)) return std::min(wanted, kMaximumLifetime);
  return std::clamp(wanted, kDefaultLifetime, kMaximumLifetime);
}

// What of the families is asked for and can be had; an error code or 0 (RFC 8656 section 7.2).
int Responder::plan_families(const Request& r, Plan& out) const {
  const auto* one = r.find(Attr::kRequestedAddressFamily);
  const auto* both = r.find(Attr::kAdditionalAddressFamily);
  const bool reserve = (first_byte(r.find(Attr::kEvenPort)) & 0x80) != 0;
  if (one != nullptr && both != nullptr && !broken(Fault::kBothFamiliesAccepted)) return 400;
  if (both != nullptr) {
    if (first_byte(both) != 2 && !broken(Fault::kAdditionalIpv4Accepted)) return 400;
    if (reserve && !broken(Fault::kEvenPortWithBothAccepted)) return 400;
    out.ipv6 = true;
    out.refused_family = !families_.ipv4 ? 1 : !families_.ipv6 ? 2 : 0;
    out.ipv4 = families_.ipv4;
    out.ipv6 = families_.ipv6;
    return 0;
  }
  if (one != nullptr) {
    const uint8_t code = first_byte(one);
    out.ipv6 = code == 2;
    out.ipv4 = code == 1 || (code != 2 && broken(Fault::kUnknownFamilyIsIpv4));
  }
  const bool had = (out.ipv4 && families_.ipv4) || (out.ipv6 && families_.ipv6);
  return had ? 0 : 440;
}

int Responder::plan(const Request& r, Plan& out) const {
  if (broken(Fault::kNoAllocations)) return 403;
  const auto* transport = r.find(Attr::kRequestedTransport);
  if (transport == nullptr || transport->value.size() != 4) return 400;
  if (transport->value[0] != 17) return broken(Fault::kOtherTransportIs400) ? 400 : 442;
  if (r.has(Attr::kDontFragment) && broken(Fault::kDontFragmentIs400)) return 400;
  if (r.has(Attr::kReservationToken)) {
    out.token = r.text(Attr::kReservationToken);
    if (r.has(Attr::kRequestedAddressFamily) && broken(Fault::kTokenWithFamilyIs508)) return 508;
    if (r.has(Attr::kEvenPort) || r.has(Attr::kRequestedAddressFamily) ||
        r.has(Attr::kAdditionalAddressFamily))
      return 400;
    if (!reserved_.contains(out.token)) return broken(Fault::kUnknownTokenIs404) ? 404 : 508;
    return 0;
  }
  out.even = r.has(Attr::kEvenPort);
  out.reserve = (first_byte(r.find(Attr::kEvenPort)) & 0x80) != 0;
  return plan_families(r, out);
}

std::unique_ptr<UdpSocket> Responder::open_port(const IpAddress& ip, bool even) {
  static thread_local std::mt19937 random{std::random_device{}()};
  for (;;) {
    uint32_t port = kFirstPort + random() % (65'536 - kFirstPort);
    if (even) port &= ~1u;
    if (broken(Fault::kPortsInSequence)) port = next_port_ += 2;
    try {
      return std::make_unique<UdpSocket>(ip, static_cast<uint16_t>(port));
    } catch (const std::system_error&) {  // in use: another
    }
  }
}

std::vector<std::unique_ptr<UdpSocket>> Responder::open(const Plan& plan, std::string& token) {
  std::vector<std::unique_ptr<UdpSocket>> out;
  if (!plan.token.empty()) {
    auto reserved = reserved_.extract(plan.token);
    out.push_back(std::move(reserved.mapped()));
    if (broken(Fault::kTokenGivesAnyPort)) out[0] = open_port(ip_, false);
  } else {
    if (plan.ipv4) out.push_back(open_port(ip_, plan.even));
    if (plan.ipv6) out.push_back(open_port(ipv6_loopback(), plan.even));
  }
  while (plan.reserve) {
    const auto& first = out[0]->address();
    try {
      token = std::to_string(10'000'000 + ++changing_);
      reserved_[token] =
          std::make_unique<UdpSocket>(first.ip, static_cast<uint16_t>(first.port + 1));
      break;
    } catch (const std::system_error&) {
      reserved_.erase(token);
      out[0] = open_port(first.ip, true);
    }
  }
  for (const auto& socket : out) {
    const int on = 1;
    const bool v4 = socket->address().ip.is_v4();
    socket->set_dont_fragment(v4 && broken(Fault::kDontFragmentAlways));
    if (setsockopt(socket->fd(), v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_RECVERR : IPV6_RECVERR,
                   &on, sizeof on) != 0)
      throw std::system_error(errno, std::generic_category(), "IP_RECVERR");
  }
  return out;
}

void Responder::on_allocate(const Request& r, const Caller& caller) {
  const TransactionId id = r.view->transaction_id();
  if (Allocation* const old = find(r.client)) {
    if (old->id == id && !broken(Fault::kRetransmittedAllocateIs437))
      return send_answer(*r.listener, r.client, old->answer);
    if (old->id == id || !broken(Fault::kSecondAllocateAccepted)) return refuse(r, 437, &caller);
    std::erase_if(allocations_, [&](const auto& a) { return a.get() == old; });
  }
  const auto released = released_.find(r.client.to_string());
  if (broken(Fault::kTupleHeldAfterRelease) && released != released_.end() &&
      Clock::now() < released->second + kHeld)
    return refuse(r, 437, &caller);
  Plan wanted;
  if (const int code = plan(r, wanted); code != 0) return refuse(r, code, &caller);
  std::string token;
  auto a = std::make_unique<Allocation>();
  a->listener = r.listener;
  a->client = r.client;
  a->user = caller.user;
  a->id = id;
  a->relays = open(wanted, token);
  a->end = now() + seconds(lifetime(r));
  allocations_.push_back(std::move(a));
  answer_allocate(r, caller, wanted, *allocations_.back(), token);
}

void Responder::answer_allocate(const Request& r, const Caller& caller, const Plan& plan,
                                Allocation& a, const std::string& token) {
  auto answer = begin(r, Class::kSuccess);
  const bool reused = broken(Fault::kSeventhPortReused) && allocations_.size() >= 7;
  for (const auto& relay : reused ? allocations_[0]->relays : a.relays)
    answer.add_xor_address(Attr::kXorRelayedAddress, relay->address());
  if (!broken(Fault::kNoLifetime)) answer.add_u32(Attr::kLifetime, lifetime(r));
  if (!token.empty()) answer.add(Attr::kReservationToken, token);
  if (!broken(Fault::kNoMappedAddress)) answer.add_xor_address(Attr::kXorMappedAddress, r.client);
  if (plan.refused_family != 0) {
    const std::array<uint8_t, 4> value{static_cast<uint8_t>(plan.refused_family), 0, 4, 40};
    answer.add(Attr::kAddressErrorCode, value);
  }
  if (caller.sha256)
    answer.add_integrity_sha256(caller.key);
  else
    answer.add_integrity(caller.key);
  a.answer = answer.bytes();
  send_answer(*r.listener, r.client, a.answer);
}

Responder::Allocation* Responder::allocation_for(const Request& r, const Caller& caller) {
  const bool repeated = !transactions_.insert(r.view->transaction_id()).second;
  const bool binding = r.view->method() == Method::kChannelBind;
  if (repeated &&
      broken(binding ? Fault::kRetransmittedBindIs400 : Fault::kRetransmissionRefused)) {
    refuse(r, 400, &caller);
    return nullptr;
  }
  Allocation* const a = find(r.client);
  if (a == nullptr) {
    const bool other_code =
        broken(Fault::kNoAllocationIs400) && r.view->method() == Method::kCreatePermission;
    refuse(r, other_code ? 400 : 437, &caller);
    return nullptr;
  }
  if (a->user != caller.user && !broken(Fault::kOtherUserAccepted)) {
    refuse(r, 441, &caller);
    return nullptr;
  }
  return a;
}

void Responder::on_refresh(const Request& r, const Caller& caller) {
  const bool zero = r.u32(Attr::kLifetime) == 0u;
  const auto succeed = [&](uint32_t seconds_left) {
    auto answer = begin(r, Class::kSuccess);
    answer.add_u32(Attr::kLifetime, seconds_left);
    finish(r, answer, &caller);
  };
  if (broken(Fault::kRefreshZeroAlways) && zero && find(r.client) == nullptr) return succeed(0);
  Allocation* const a = allocation_for(r, caller);
  if (a == nullptr) return;
  const auto* family = r.find(Attr::kRequestedAddressFamily);
  const auto meant = [&](const UdpSocket& relay) {
    return family == nullptr ||
           stun_client::family_code(relay.address().ip.family) == first_byte(family);
  };
  const bool any = std::any_of(a->relays.begin(), a->relays.end(),
                               [&](const auto& relay) { return meant(*relay); });
  if (!any && !broken(Fault::kRefreshOfAnyFamily)) return refuse(r, 443, &caller);
  if (!zero) {
    a->end = now() + seconds(lifetime(r));
    return succeed(lifetime(r));
  }
  std::erase_if(a->relays, [&](const auto& relay) { return meant(*relay); });
  if (a->relays.empty()) {
    released_[r.client.to_string()] = Clock::now();
    std::erase_if(allocations_, [&](const auto& each) { return each.get() == a; });
  }
  succeed(0);
}

}  // namespace culvert::conformance
