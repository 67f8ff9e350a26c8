// Accounts as they are stored: long-term keys and userhash, never a password (RFC 8656 section 6,
// RFC 8489 sections 14.4 and 18.5). An immutable table that a worker reads from a database and the
// control thread then serves from; also what the static users of the configuration become.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace culvert {

using Md5Key = std::array<uint8_t, 16>;
using Sha256Key = std::array<uint8_t, 32>;
using Userhash = std::array<uint8_t, 32>;

struct StoredAccount {
  std::string name;        // after OpaqueString (RFC 8265)
  Md5Key md5_key{};        // MD5(name ":" realm ":" password)
  Sha256Key sha256_key{};  // SHA-256(name ":" realm ":" password)
  Userhash userhash{};     // SHA-256(name ":" realm)
};

// The account of a password: keys and userhash. False: name, realm or password contains what
// OpaqueString forbids (or is empty, or longer than the protocol carries).
[[nodiscard]] bool make_account(std::string_view name, std::string_view realm,
                                std::string_view password, StoredAccount& out);

// Look-ups by name and by userhash. Built once, then only read.
class StoredAccounts {
 public:
  StoredAccounts() = default;
  explicit StoredAccounts(std::vector<StoredAccount> accounts);
  // The index points into accounts_: neither copied nor moved.
  StoredAccounts(const StoredAccounts&) = delete;
  StoredAccounts& operator=(const StoredAccounts&) = delete;

  [[nodiscard]] const StoredAccount* find(std::string_view name) const;
  [[nodiscard]] const StoredAccount* find(const Userhash& userhash) const;
  [[nodiscard]] const std::vector<StoredAccount>& all() const { return accounts_; }

 private:
  struct HashOfHash {
    // A SHA-256 is its own hash; nobody can choose one without searching for it.
    size_t operator()(const Userhash& h) const;
  };
  std::vector<StoredAccount> accounts_;
  std::unordered_map<std::string_view, uint32_t> by_name_;
  std::unordered_map<Userhash, uint32_t, HashOfHash> by_userhash_;
};

}  // namespace culvert
