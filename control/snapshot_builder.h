// Makes the snapshot that fast cores read from a configuration: pure, no randomness, no clock.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "config/config.h"
#include "dataplane/api/snapshot.h"

namespace culvert {

// The addresses of the host that the relay uses: relay addresses first, in the order of the
// configuration, then those that only listen. Snapshot::addresses and RelayLeg::address index it.
[[nodiscard]] std::vector<LocalAddress> local_addresses(const Config& config);

// STUN security features that a realm's nonces announce (RFC 8489 section 18.1). Username anonymity
// only where users can be enumerated: a shared secret admits names that nobody has listed, so their
// hashes cannot be looked up.
[[nodiscard]] uint32_t nonce_features(const RealmConfig& realm);

// Complete encoded attributes, padding included; algorithms_attribute is empty when none is
// offered.
[[nodiscard]] std::vector<uint8_t> realm_attribute(const RealmConfig& realm);
[[nodiscard]] std::vector<uint8_t> algorithms_attribute(const RealmConfig& realm);
[[nodiscard]] std::vector<uint8_t> software_attribute(const Config& config);

// `config`: validated, wildcards expanded. version is left at 0. The reply budget is divided by
// `cores`.
[[nodiscard]] std::unique_ptr<Snapshot> build_snapshot(const Config& config, CoreId cores,
                                                       const NonceKeys& keys);

}  // namespace culvert
