// Users that control currently knows something about: those with allocations, and those whose keys
// it derived from a shared secret and keeps so that a Refresh costs no derivation. Two roles in one
// table: a *credential* is a username as it stands in requests (what 441 compares), an *account* is
// whose quota and bandwidth it uses. They are the same for ordinary users; for a time-limited
// username "1767225600:alice" the account is "alice", so minting again does not double the quota.
//
// Invariants: an entry with references stays; one without is kept in a list, oldest first, and
// leaves when kMaxIdleUsers are waiting or it is needed. Owned by the control thread. Cost: about
// 200 bytes per user and its name; nothing per allocation.
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "control/accounts.h"
#include "dataplane/api/limits.h"

namespace culvert {

// Users without allocations whose derived keys are kept: 65536 * ~250 bytes = 16 MiB.
inline constexpr uint32_t kMaxIdleUsers = 65536;

using UserId = uint32_t;
inline constexpr UserId kNoUser = 0xffffffff;

// One user's bandwidth on one core.
struct BandwidthShare {
  uint32_t allocations = 0;
  uint64_t rate = 0;        // bytes per second as last sent to that core
  uint64_t seen_bytes = 0;  // Engine::policer_bytes() at the last rebalance
};

struct User {
  std::string name;
  uint16_t realm = 0;
  bool in_use = false;
  uint32_t generation = 0;
  uint32_t references = 0;  // allocations, reservations, and credentials that point here as account
  UserId account = kNoUser;  // itself, unless time-limited

  // Credential: keys derived from a shared secret; static users' keys are looked up each time
  // instead, so that a reload takes effect at once.
  bool has_derived_keys = false;
  uint8_t derived_candidate = 0;  // which secret and hash they are of (Authenticator counts)
  uint32_t secrets_epoch = 0;     // of the realm, when derived
  Md5Key md5_key{};
  Sha256Key sha256_key{};

  // Account
  uint32_t held = 0;                   // allocations and reservations
  uint32_t policer = 0;                // 0: none
  std::vector<BandwidthShare> shares;  // by core; empty while the user has no policer

  std::list<UserId>::iterator idle_place;
};

// What "1767225600:alice" means (TURN REST convention); valid is false for any other form.
struct TimedName {
  bool valid = false;
  uint64_t expires_unix_seconds = 0;
  std::string_view account;  // behind the colon, or the whole name when there is none
};
[[nodiscard]] TimedName parse_timed_name(std::string_view username);

class UserTable {
 public:
  [[nodiscard]] UserId find(uint16_t realm, std::string_view name) const;
  // Finds or makes the credential (and its account). The caller takes a reference or leaves it
  // idle.
  UserId obtain(uint16_t realm, std::string_view name, std::string_view account_name);
  void add_reference(UserId id);
  void drop_reference(UserId id);
  [[nodiscard]] User& operator[](UserId id) { return users_[id]; }
  [[nodiscard]] const User& operator[](UserId id) const { return users_[id]; }
  [[nodiscard]] User& account_of(UserId id) { return users_[users_[id].account]; }

  // A 32-bit name for a user that shows when the entry was reused since: 24 bits of index, 8 of
  // generation.
  [[nodiscard]] uint32_t ticket(UserId id) const;
  [[nodiscard]] UserId by_ticket(uint32_t ticket) const;

  [[nodiscard]] size_t size() const { return by_name_.size(); }
  // Ids run below this; entries with in_use == false are holes.
  [[nodiscard]] UserId id_end() const { return static_cast<UserId>(users_.size()); }

 private:
  struct Key {
    uint16_t realm;
    std::string_view name;  // of the User itself, or of the caller while looking up
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const;
  };
  UserId obtain_entry(uint16_t realm, std::string_view name);
  void forget(UserId id);
  void evict_idle();

  std::deque<User> users_;  // never moves a User: by_name_ holds views of their names
  std::vector<UserId> free_;
  std::list<UserId> idle_;  // references == 0, longest idle first
  std::unordered_map<Key, UserId, KeyHash> by_name_;
};

}  // namespace culvert
