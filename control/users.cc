#include "control/users.h"

#include <functional>

#include "crypto/credentials.h"
#include "dataplane/base/assert.h"

namespace culvert {

namespace {

constexpr uint32_t kTicketIndexBits = 24;
constexpr uint32_t kTicketIndexMask = (1u << kTicketIndexBits) - 1;

}  // namespace

TimedName parse_timed_name(std::string_view username) {
  const auto parsed = crypto::parse_rest_username(username);
  if (!parsed) return {};
  return {true, parsed->expiry_unix_seconds, parsed->id.empty() ? username : parsed->id};
}

size_t UserTable::KeyHash::operator()(const Key& key) const {
  // Only names that have authenticated are inserted, so nobody can flood one bucket from outside.
  return std::hash<std::string_view>{}(key.name) ^ (size_t{key.realm} * 0x9e3779b97f4a7c15u);
}

UserId UserTable::find(uint16_t realm, std::string_view name) const {
  const auto at = by_name_.find(Key{realm, name});
  return at == by_name_.end() ? kNoUser : at->second;
}

UserId UserTable::obtain_entry(uint16_t realm, std::string_view name) {
  const UserId known = find(realm, name);
  if (known != kNoUser) return known;
  if (idle_.size() >= kMaxIdleUsers) evict_idle();
  UserId id;
  if (free_.empty()) {
    id = static_cast<UserId>(users_.size());
    ENSURE(id < kTicketIndexMask);
    users_.emplace_back();
  } else {
    id = free_.back();
    free_.pop_back();
  }
  User& user = users_[id];
  const uint32_t generation = user.generation + 1;
  user = User{};
  user.name = name;
  user.realm = realm;
  user.in_use = true;
  user.generation = generation;
  user.account = id;
  user.idle_place = idle_.insert(idle_.end(), id);
  by_name_.emplace(Key{realm, user.name}, id);
  return id;
}

UserId UserTable::obtain(uint16_t realm, std::string_view name, std::string_view account_name) {
  const UserId known = find(realm, name);
  if (known != kNoUser) return known;
  if (name == account_name) return obtain_entry(realm, name);
  const UserId account = obtain_entry(realm, account_name);
  add_reference(account);  // before the next line, which may evict an idle entry
  const UserId id = obtain_entry(realm, name);
  users_[id].account = account;
  return id;
}

void UserTable::add_reference(UserId id) {
  User& user = users_[id];
  ENSURE(user.in_use);
  if (user.references++ == 0) idle_.erase(user.idle_place);
}

void UserTable::drop_reference(UserId id) {
  User& user = users_[id];
  ENSURE(user.in_use && user.references > 0);
  if (--user.references > 0) return;
  user.idle_place = idle_.insert(idle_.end(), id);
  // Nothing worth keeping for a user whose keys are looked up anyway.
  if (!user.has_derived_keys) forget(id);
}

void UserTable::forget(UserId id) {
  User& user = users_[id];
  ENSURE(user.in_use && user.references == 0);
  idle_.erase(user.idle_place);
  by_name_.erase(Key{user.realm, user.name});
  user.in_use = false;
  user.md5_key = {};
  user.sha256_key = {};
  const UserId account = user.account;
  free_.push_back(id);
  if (account != id) drop_reference(account);
}

void UserTable::evict_idle() {
  forget(idle_.front());
}

uint32_t UserTable::ticket(UserId id) const {
  return id | users_[id].generation << kTicketIndexBits;
}

UserId UserTable::by_ticket(uint32_t ticket) const {
  const UserId id = ticket & kTicketIndexMask;
  const bool same = id < users_.size() && users_[id].in_use && this->ticket(id) == ticket;
  return same ? id : kNoUser;
}

}  // namespace culvert
