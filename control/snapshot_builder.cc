#include "control/snapshot_builder.h"

#include <algorithm>

#include "dataplane/api/nonce.h"
#include "dataplane/base/assert.h"
#include "dataplane/base/endian.h"
#include "dataplane/wire/stun.h"

namespace culvert {

namespace {

[[nodiscard]] std::vector<uint8_t> encode_attribute(stun::Attribute type,
                                                    std::span<const uint8_t> value) {
  std::vector<uint8_t> out(4 + (value.size() + 3) / 4 * 4);
  store_be16(out.data(), static_cast<uint16_t>(type));
  store_be16(out.data() + 2, static_cast<uint16_t>(value.size()));
  std::copy(value.begin(), value.end(), out.begin() + 4);
  return out;
}

[[nodiscard]] std::span<const uint8_t> as_bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// A budget that is not zero stays above zero on every core.
template <class T>
[[nodiscard]] T share(T whole, CoreId cores) {
  return whole == 0 ? T{0} : std::max<T>(1, static_cast<T>(whole / cores));
}

}  // namespace

std::vector<LocalAddress> local_addresses(const Config& config) {
  std::vector<LocalAddress> out;
  for (const RelayAddressConfig& relay : config.relay_addresses)
    out.push_back({relay.bound, relay.advertised, true});
  for (const ListenConfig& listen : config.listeners) {
    const IpAddress& ip = listen.address.ip;
    const bool known =
        std::any_of(out.begin(), out.end(), [&](const LocalAddress& a) { return a.bound == ip; });
    if (!known) out.push_back({ip, ip, false});
  }
  return out;
}

uint32_t nonce_features(const RealmConfig& realm) {
  uint32_t features = 0;
  if (!realm.algorithms.empty()) features |= kFeaturePasswordAlgorithms;
  if (realm.secrets.empty()) features |= kFeatureUsernameAnonymity;
  return features;
}

std::vector<uint8_t> realm_attribute(const RealmConfig& realm) {
  return encode_attribute(stun::Attribute::kRealm, as_bytes(realm.name));
}

// RFC 8489 section 14.11: algorithm, length of its parameters (none for MD5 and SHA-256).
std::vector<uint8_t> algorithms_attribute(const RealmConfig& realm) {
  if (realm.algorithms.empty()) return {};
  std::vector<uint8_t> value;
  for (const PasswordAlgorithm algorithm : realm.algorithms) {
    uint8_t entry[4] = {};
    store_be16(entry, static_cast<uint16_t>(algorithm));
    value.insert(value.end(), entry, entry + sizeof entry);
  }
  return encode_attribute(stun::Attribute::kPasswordAlgorithms, value);
}

std::vector<uint8_t> software_attribute(const Config& config) {
  if (config.software.empty()) return {};
  return encode_attribute(stun::Attribute::kSoftware, as_bytes(config.software));
}

std::unique_ptr<Snapshot> build_snapshot(const Config& config, CoreId cores,
                                         const NonceKeys& keys) {
  auto out = std::make_unique<Snapshot>();
  out->addresses = local_addresses(config);
  for (const ListenConfig& listen : config.listeners) {
    ENSURE(listen.realm < config.realms.size());
    const RealmConfig& realm = config.realms[listen.realm];
    const auto at =
        std::find_if(out->addresses.begin(), out->addresses.end(),
                     [&](const LocalAddress& a) { return a.bound == listen.address.ip; });
    Listener l;
    l.address = static_cast<uint16_t>(at - out->addresses.begin());
    l.port = listen.address.port;
    l.realm = listen.realm;
    l.nonce_features = nonce_features(realm);
    l.realm_attribute = realm_attribute(realm);
    l.algorithms_attribute = algorithms_attribute(realm);
    out->listeners.push_back(std::move(l));
  }
  out->cores = cores;
  out->relay_port_low = config.relay_port_low;
  out->relay_port_high = config.relay_port_high;
  out->nonce_keys = keys;
  out->nonce_lifetime_seconds = config.limits.nonce_lifetime_seconds;
  out->reply_budget.per_prefix_bytes_per_second = share(config.reply_budget.per_prefix, cores);
  out->reply_budget.total_bytes_per_second = share(config.reply_budget.total, cores);
  out->reply_budget.bad_nonce_per_second = share(config.reply_budget.bad_nonce_per_second, cores);
  out->software_attribute = software_attribute(config);
  return out;
}

}  // namespace culvert
