#include "control/accounts.h"

#include <cstring>

#include "config/config.h"
#include "crypto/credentials.h"

namespace culvert {

bool make_account(std::string_view name, std::string_view realm, std::string_view password,
                  StoredAccount& out) {
  const auto prepared_name = crypto::opaque_string(name);
  const auto prepared_realm = crypto::opaque_string(realm);
  const auto prepared_password = crypto::opaque_string(password);
  if (!prepared_name || !prepared_realm || !prepared_password) return false;
  if (prepared_name->size() > kMaxUserNameBytes) return false;
  out.name = *prepared_name;
  out.md5_key = crypto::md5_key(*prepared_name, *prepared_realm, *prepared_password);
  out.sha256_key = crypto::sha256_key(*prepared_name, *prepared_realm, *prepared_password);
  out.userhash = crypto::userhash(*prepared_name, *prepared_realm);
  return true;
}

size_t StoredAccounts::HashOfHash::operator()(const Userhash& h) const {
  size_t out;
  std::memcpy(&out, h.data(), sizeof out);
  return out;
}

StoredAccounts::StoredAccounts(std::vector<StoredAccount> accounts)
    : accounts_(std::move(accounts)) {
  for (uint32_t i = 0; i < accounts_.size(); ++i) {
    by_name_.emplace(accounts_[i].name, i);
    by_userhash_.emplace(accounts_[i].userhash, i);
  }
}

const StoredAccount* StoredAccounts::find(std::string_view name) const {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : &accounts_[at->second];
}

const StoredAccount* StoredAccounts::find(const Userhash& userhash) const {
  const auto at = by_userhash_.find(userhash);
  return at == by_userhash_.end() ? nullptr : &accounts_[at->second];
}

}  // namespace culvert
