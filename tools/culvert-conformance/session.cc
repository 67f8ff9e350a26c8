#include "tools/culvert-conformance/session.h"

#include <sys/random.h>

#include <algorithm>

#include "dataplane/base/endian.h"

namespace culvert::conformance {
namespace {

constexpr uint8_t kUdp = 17;
constexpr uint8_t kIpv6Code = stun_client::family_code(Family::kIpv6);

TransactionId id_of(Bytes message) {
  TransactionId id{};
  if (message.size() >= stun_client::kHeaderSize)
    std::copy_n(message.begin() + 8, id.size(), id.begin());
  return id;
}

}  // namespace

IpAddress Target::peer(Family family) const {
  const auto& ip = family == Family::kIpv6 ? peer_ip6 : peer_ip;
  if (!ip)
    throw NotOffered{family == Family::kIpv6 ? "no IPv6 peer was given (--peer6)"
                                             : "no IPv4 peer was given (--peer)"};
  return *ip;
}

Target Target::over(Family family) const {
  if (server.ip.family == family) return *this;
  if (family == Family::kIpv4) throw NotOffered{"the row needs a client over IPv4"};
  if (!server6) throw NotOffered{"the row needs the server over IPv6 (--server6)"};
  Target out = *this;
  out.server = *server6;
  out.client_ip = source_towards(*server6);
  return out;
}

Family find_relay_family(const Target& target, Observations& seen) {
  try {
    Session s(target, seen);
    const auto usual = s.allocate();
    if (usual.code() == 0 && !s.relayed().empty()) return s.relayed()[0].ip.family;
    if (usual.code() != 440) return Family::kIpv4;
    const auto six =
        s.allocate([](auto& m) { m.add_u8(Attr::kRequestedAddressFamily, kIpv6Code); });
    return six.code() == 0 ? Family::kIpv6 : Family::kIpv4;
  } catch (const Failed&) {  // then the rows will say what is wrong
    return Family::kIpv4;
  }
}

std::string hex(Bytes bytes, size_t limit) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (size_t i = 0; i < std::min(limit, bytes.size()); ++i) {
    out += kDigits[bytes[i] >> 4];
    out += kDigits[bytes[i] & 15];
  }
  return bytes.size() > limit ? out + ".." : out;
}

Bytes bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

int Answer::code() const {
  if (view_.cls() == Class::kSuccess) return 0;
  const auto error = view_.error();
  return error ? error->code : -1;
}

std::string Answer::describe() const {
  const int c = code();
  return c == 0 ? "success" : c < 0 ? "an error without ERROR-CODE" : std::to_string(c);
}

Signing Signing::rfc8489() {
  Signing how;
  how.list = true;
  how.algorithm = static_cast<uint16_t>(PasswordAlgorithm::kSha256);
  how.key = PasswordAlgorithm::kSha256;
  how.sha1_integrity = false;
  how.sha256_integrity = true;
  return how;
}

Session::Session(const Target& target, Observations& seen)
    : target_(target), seen_(seen), socket_(target.client_ip) {}

Session::~Session() {
  if (!allocated_) return;
  try {
    static_cast<void>(refresh([](auto& m) { m.add_u32(Attr::kLifetime, 0); }));
  } catch (...) {  // the row's verdict stands; the server will let the allocation expire
  }
}

TransactionId Session::new_id() {
  TransactionId id{};
  if (getrandom(id.data(), id.size(), 0) != static_cast<ssize_t>(id.size()))
    throw std::runtime_error("no random bytes from the kernel");
  return id;
}

MessageBuilder Session::begin(Method method, Class cls) {
  return {method, cls, new_id()};
}

// Padding, ERROR-CODE's form: what any answer shows.
void Session::observe(const MessageView& answer) {
  ++seen_.answers;
  const Bytes all = answer.bytes();
  for (const auto& a : answer.attributes()) {
    const size_t end = a.offset + 4 + a.value.size();
    for (size_t i = end; i % 4 != 0; ++i)
      if (all[i] != 0) seen_.padding.push_back(hex(all.subspan(a.offset, i + 1 - a.offset)));
    if (a.type != Attr::kErrorCode) continue;
    if (a.value.size() < 4 || a.value[0] != 0 || a.value[1] != 0 || (a.value[2] & 7) < 3 ||
        (a.value[2] & 7) > 6 || a.value[3] > 99 || a.value.size() > 4 + 763)
      seen_.error_codes.push_back(hex(a.value));
    if (std::find(a.value.begin() + std::min<ptrdiff_t>(4, std::ssize(a.value)), a.value.end(),
                  0) != a.value.end())
      seen_.error_codes.push_back("a NUL in the reason: " + hex(a.value, 40));
  }
}

std::optional<Answer> Session::await(const TransactionId& id, Clock::time_point deadline) {
  while (auto got = socket_.receive(deadline)) {
    const auto view = MessageView::parse(got->payload);
    const bool answer = view && view->transaction_id() == id &&
                        (view->cls() == Class::kSuccess || view->cls() == Class::kError);
    if (got->from != target_.server) {
      if (answer) seen_.sources.push_back(got->from.to_string());
      continue;
    }
    if (answer) {
      observe(*view);
      return Answer(std::move(got->payload), *view);
    }
    if (!view || !late(*view)) pending_.push_back(std::move(got->payload));
  }
  return std::nullopt;
}

bool Session::late(const MessageView& message) const {
  return (message.cls() == Class::kSuccess || message.cls() == Class::kError) &&
         asked_.contains(message.transaction_id());
}

std::optional<Answer> Session::ask(Bytes request) {
  auto wait = target_.retransmit;
  asked_.insert(id_of(request));
  for (unsigned i = 0; i < target_.tries; ++i) {
    send(request);
    if (auto answer = await(id_of(request), Clock::now() + wait)) return answer;
    wait *= 2;
  }
  return std::nullopt;
}

Answer Session::must_answer(Bytes request) {
  auto answer = ask(request);
  if (!answer) throw Failed{"no answer to " + hex(request)};
  return std::move(*answer);
}

bool Session::stays_silent(Bytes request) {
  send(request);
  const auto id = id_of(request);
  const auto fence = begin(Method::kBinding);
  const size_t before = pending_.size();
  static_cast<void>(must_answer(fence.bytes()));
  if (await(id, Clock::now() + target_.quiet)) return false;
  const auto is_answer = [&](const std::vector<uint8_t>& d) {
    // Anything that is not data from a peer: it may be an answer in a form that does not parse.
    const bool data = stun_client::looks_like_channel_data(d) ||
                      stun_client::parse_data_indication(d).has_value();
    return !data;
  };
  return std::none_of(pending_.begin() + static_cast<ptrdiff_t>(before), pending_.end(), is_answer);
}

std::optional<std::vector<uint8_t>> Session::next(milliseconds patience) {
  if (!pending_.empty()) {
    auto out = std::move(pending_.front());
    pending_.erase(pending_.begin());
    return out;
  }
  const auto deadline = Clock::now() + patience;
  while (auto got = socket_.receive(deadline)) {
    const auto view = MessageView::parse(got->payload);
    const bool stale = view && late(*view);
    if (got->from == target_.server && !stale) return std::move(got->payload);
  }
  return std::nullopt;
}

Answer Session::challenge() {
  auto request = begin(Method::kAllocate);
  // As long as a usual first Allocate, so that servers that bound their amplification say all.
  request.add(Attr::kSoftware, "culvert-conformance").add_u8(Attr::kRequestedTransport, kUdp);
  auto answer = must_answer(request.bytes());
  if (answer.code() != 401)
    throw Failed{"an Allocate without integrity was answered with " + answer.describe() +
                 " instead of 401"};
  take_nonce(answer);
  return answer;
}

void Session::take_nonce(const Answer& answer) {
  const auto realm = answer->text(Attr::kRealm);
  const auto nonce = answer->text(Attr::kNonce);
  if (!realm || !nonce) throw Failed{answer.describe() + " without REALM or NONCE"};
  realm_ = target_.realm.empty() ? std::string(*realm) : target_.realm;
  nonce_ = *nonce;
  const auto* list = answer->find(Attr::kPasswordAlgorithms);
  offered_.clear();
  if (list != nullptr) offered_.assign(list->value.begin(), list->value.end());
}

bool Session::offers(PasswordAlgorithm algorithm) const {
  for (size_t i = 0; i + 4 <= offered_.size(); i += 4 + (load_be16(&offered_[i + 2]) + 3u) / 4 * 4)
    if (load_be16(&offered_[i]) == static_cast<uint16_t>(algorithm)) return true;
  return false;
}

stun_client::Key Session::key(PasswordAlgorithm algorithm, const Signing& how) const {
  return stun_client::long_term_key(algorithm, how.user.value_or(target_.account.user),
                                    how.realm.value_or(realm_),
                                    how.password.value_or(target_.account.password));
}

void Session::sign(MessageBuilder& message, const Signing& how) {
  const std::string user = how.user.value_or(target_.account.user);
  const std::string realm = how.realm.value_or(realm_);
  if (!how.leave_out_username) {
    if (how.userhash)
      message.add(Attr::kUserhash, stun_client::userhash(user, realm));
    else
      message.add(Attr::kUsername, user);
  }
  if (!how.leave_out_realm) message.add(Attr::kRealm, realm);
  if (!how.leave_out_nonce) message.add(Attr::kNonce, how.nonce.value_or(nonce_));
  if (how.other_list)
    message.add(Attr::kPasswordAlgorithms, *how.other_list);
  else if (how.list)
    message.add(Attr::kPasswordAlgorithms, offered_);
  if (how.algorithm) message.add_u32(Attr::kPasswordAlgorithm, uint32_t{*how.algorithm} << 16);
  auto right = key(how.key, how);
  auto wrong = right;
  wrong[0] ^= 1;
  if (how.sha1_integrity) message.add_integrity(how.spoil_sha1 ? wrong : right);
  if (how.sha256_integrity)
    message.add_integrity_sha256(how.spoil_sha256 ? wrong : right, how.sha256_length);
}

Answer Session::call(Method method, const Fill& fill, const Signing& how) {
  if (nonce_.empty()) challenge();
  for (int round = 0;; ++round) {
    auto request = begin(method);
    if (fill) fill(request);
    sign(request, how);
    auto answer = must_answer(request.bytes());
    if (answer.code() != 438 || round != 0 || how.nonce) return answer;
    take_nonce(answer);
  }
}

Answer Session::allocate(const Fill& options, const Signing& how) {
  auto answer = call(
      Method::kAllocate, [&](MessageBuilder& m) { fill_allocate(m, options); }, how);
  if (answer.code() == 0) {
    allocated_ = true;
    relayed_ = answer->xor_addresses(Attr::kXorRelayedAddress);
  }
  return answer;
}

void Session::fill_allocate(MessageBuilder& message, const Fill& options) const {
  message.add_u8(Attr::kRequestedTransport, kUdp);
  if (options) options(message);
  if (target_.relay != Family::kIpv6) return;
  const auto so_far = MessageView::parse(message.bytes());
  const auto names_one = [&](Attr type) { return so_far && so_far->has(type); };
  if (!names_one(Attr::kRequestedAddressFamily) && !names_one(Attr::kAdditionalAddressFamily) &&
      !names_one(Attr::kReservationToken))
    message.add_u8(Attr::kRequestedAddressFamily, target_.relay_code());
}

void Session::must_allocate(const Fill& options) {
  const auto answer = allocate(options);
  if (answer.code() == 440) throw NotOffered{"no relayed addresses of the row's family: 440"};
  must(answer, "Allocate");
  if (relayed_.empty()) throw Failed{"an Allocate success without XOR-RELAYED-ADDRESS"};
}

Answer Session::refresh(const Fill& options) {
  return call(Method::kRefresh, options);
}

Answer Session::permit(const std::vector<TransportAddress>& peers) {
  return call(Method::kCreatePermission, [&](MessageBuilder& m) {
    for (const auto& peer : peers)
      m.add_xor_address(Attr::kXorPeerAddress, peer);
  });
}

Answer Session::bind(uint16_t channel, const TransportAddress& peer) {
  return call(Method::kChannelBind, [&](MessageBuilder& m) {
    m.add_channel(channel).add_xor_address(Attr::kXorPeerAddress, peer);
  });
}

void Session::must(const Answer& answer, const char* what) {
  if (answer.code() != 0)
    throw Failed{std::string(what) + " was answered with " + answer.describe()};
}

void Session::send_indication(const TransportAddress& peer, Bytes data, const Fill& more) {
  auto message = begin(Method::kSend, Class::kIndication);
  message.add_xor_address(Attr::kXorPeerAddress, peer).add(Attr::kData, data);
  if (more) more(message);
  send(message.bytes());
}

void Session::send_channel(uint16_t channel, Bytes data) {
  const auto header = stun_client::channel_data_header(channel, static_cast<uint16_t>(data.size()));
  std::vector<uint8_t> datagram(header.begin(), header.end());
  datagram.insert(datagram.end(), data.begin(), data.end());
  send(datagram);
}

TransportAddress Session::relayed(Family family) const {
  for (const auto& address : relayed_)
    if (address.ip.family == family) return address;
  // Row T48 is about a server that gives another family than it was asked for.
  throw NotOffered{family == Family::kIpv4 ? "no IPv4 relayed address although one was asked for"
                                           : "no IPv6 relayed address although one was asked for"};
}

}  // namespace culvert::conformance
