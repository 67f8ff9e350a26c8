// Accounts in an SQLite file: what `culvertctl user add|list|remove` writes and culvertd reads. One
// table `accounts` (realm, name, md5_key, sha256_key, userhash); never a password. The file is
// created with mode 0600, because the keys are as good as passwords for this realm.
//
// UserStore is one connection, used by one thread. AccountWatcher reads in a thread of its own, so
// that the control thread never waits for a disk or a lock, and hands out immutable snapshots.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "control/accounts.h"

struct sqlite3;

namespace culvert {

// How long a writer waits for another one's lock.
inline constexpr int kStoreBusyTimeoutMs = 2000;
// How often the watcher looks for changes made by other processes (one read of the file's header).
inline constexpr uint32_t kStoreWatchMs = 1000;

// Failures are std::runtime_error with a sentence that names the file.
class UserStore {
 public:
  enum class Mode : uint8_t { kRead, kWrite };
  // kWrite creates file and table where they are missing.
  UserStore(const std::string& path, Mode mode);
  ~UserStore();
  UserStore(const UserStore&) = delete;
  UserStore& operator=(const UserStore&) = delete;

  // Adds the account or replaces its keys.
  void put(std::string_view realm, const StoredAccount& account);
  // False: there is no such account.
  bool remove(std::string_view realm, std::string_view name);
  // Accounts of a realm by name.
  [[nodiscard]] std::vector<StoredAccount> load(std::string_view realm) const;
  // Realms that have accounts.
  [[nodiscard]] std::vector<std::string> realms() const;
  // Changes whenever another connection has committed.
  [[nodiscard]] int64_t data_version() const;

 private:
  class Statement;
  void execute(const char* sql) const;
  [[noreturn]] void fail(std::string_view what) const;

  std::string path_;
  sqlite3* db_ = nullptr;
};

// Keeps the accounts of some realms fresh.
class AccountWatcher {
 public:
  struct Source {
    uint16_t realm = 0;  // index, as TurnServer::set_accounts() takes it
    std::string realm_name;
    std::string path;
  };
  struct Change {
    uint16_t realm = 0;
    std::shared_ptr<const StoredAccounts> accounts;  // null: `error` says why; the old ones stay
    std::string error;
  };

  // Starts the thread. `changed` is called there (never at once) whenever take_changes() has
  // something; it must be quick and must not call back into the watcher.
  AccountWatcher(std::vector<Source> sources, std::function<void()> changed);
  ~AccountWatcher();
  AccountWatcher(const AccountWatcher&) = delete;
  AccountWatcher& operator=(const AccountWatcher&) = delete;

  // The newest accounts of every realm that changed since the last call.
  [[nodiscard]] std::vector<Change> take_changes();
  // Reads everything again now, and from now on these sources.
  void reload(std::vector<Source> sources);
  // Blocks until everything was read once since start or the last reload() (culvertd's start).
  void wait_loaded();

 private:
  struct Watched;
  void work();
  void look(Watched& watched);
  void report(Change change);

  std::function<void()> changed_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable loaded_;
  std::vector<Source> sources_;
  std::vector<Change> changes_;
  uint64_t wanted_round_ = 1;  // grows with reload()
  uint64_t done_round_ = 0;
  bool stop_ = false;
  std::thread thread_;  // last: starts when the rest is there
};

}  // namespace culvert
