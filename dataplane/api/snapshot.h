// What every fast core may read and none may write: one immutable object, swapped by pointer by
// control and reclaimed once every core has announced a loop since (QSBR; Engine::publish).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "dataplane/api/limits.h"
#include "dataplane/base/address.h"
#include "dataplane/base/siphash.h"

namespace culvert {

// An address of this host that the relay uses. advertised != bound behind a 1:1 NAT.
struct LocalAddress {
  IpAddress bound;
  IpAddress advertised;
  bool relays = false;  // allocations may be made on it
};

// One UDP listening transport address, and what its unauthenticated answers need. The two attribute
// blocks are complete encoded STUN attributes (padding included), ready to be copied.
struct Listener {
  uint16_t address = 0;  // index into addresses
  uint16_t port = 0;
  uint16_t realm = 0;                         // control's realm index
  uint32_t nonce_features = 0;                // 24 STUN security feature bits of the nonce cookie
  std::vector<uint8_t> realm_attribute;       // REALM
  std::vector<uint8_t> algorithms_attribute;  // PASSWORD-ALGORITHMS; empty: not offered
};

// Two keys so that rotation does not invalidate nonces in use. A nonce carries the low bit of the
// key epoch it was made with.
struct NonceKeys {
  SipKey key[2];
  uint32_t current = 0;      // epoch; key[current & 1] makes new nonces
  uint32_t now_seconds = 0;  // coarse wall-free clock, advanced by control at each publication
};

struct ReplyBudget {
  // Bytes out minus bytes in that unauthenticated replies may cost, per second.
  uint64_t per_prefix_bytes_per_second = 0;
  uint64_t total_bytes_per_second = 0;
  // Requests per second with integrity but without a valid nonce that reach control.
  uint32_t bad_nonce_per_second = 0;
};

// Which core a client belongs to. Kernel sockets decide by where the datagram arrives; a port that
// we poll decides by a hash over client and listener, which the port's RSS computes too where it
// has one. Then any datagram may arrive on any core, and is handed over.
struct ClientSteering {
  bool by_hash = false;
  std::array<uint8_t, 40> key{};  // Toeplitz
};

struct Snapshot {
  uint64_t version = 0;
  std::vector<LocalAddress> addresses;
  std::vector<Listener> listeners;
  uint16_t cores = 1;
  ClientSteering steering;
  uint16_t relay_port_low = 49152;
  uint16_t relay_port_high = 65535;
  NonceKeys nonce_keys;
  uint32_t nonce_lifetime_seconds = 3600;
  ReplyBudget reply_budget;  // of one core: control has divided by the number of cores
  std::vector<uint8_t> software_attribute;  // SOFTWARE, or empty; only where the budget allows
};

}  // namespace culvert
