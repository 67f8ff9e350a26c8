#include "control/user_store_sqlite.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <utility>

namespace culvert {

namespace {

// "Culv" in ASCII, so that a wrong file is recognised.
constexpr int kApplicationId = 0x43756c76;
constexpr int kSchemaVersion = 1;

constexpr const char* kCreate = R"(
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS accounts (
  realm      TEXT NOT NULL,
  name       TEXT NOT NULL,
  md5_key    BLOB NOT NULL CHECK (length(md5_key) = 16),
  sha256_key BLOB NOT NULL CHECK (length(sha256_key) = 32),
  userhash   BLOB NOT NULL CHECK (length(userhash) = 32),
  PRIMARY KEY (realm, name)
) WITHOUT ROWID;
PRAGMA application_id = 1131768950;
PRAGMA user_version = 1;
COMMIT;
)";
static_assert(kApplicationId == 1131768950 && kSchemaVersion == 1);

// Makes the file where it is missing: SQLite would make it readable by everyone. Made by root it is
// given to its folder's owner (the daemon's account, of /var/lib/culvert), who has to read it.
void make_file(const std::string& path) {
  const auto failed = [&] {
    return std::runtime_error("user database " + path +
                              " cannot be opened: " + std::string(std::strerror(errno)));
  };
  int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0 && errno == EEXIST) {
    fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) throw failed();
    ::close(fd);
    return;
  }
  if (fd < 0) throw failed();
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  struct stat info {};
  const bool given = geteuid() != 0 || (stat(folder.c_str(), &info) == 0 &&
                                        ::fchown(fd, info.st_uid, info.st_gid) == 0);
  const auto error = failed();
  ::close(fd);
  if (!given) throw error;
}

}  // namespace

// A prepared statement; resets nothing, lives for one use.
class UserStore::Statement {
 public:
  Statement(const UserStore& store, const char* sql) : store_(store) {
    if (sqlite3_prepare_v2(store.db_, sql, -1, &statement_, nullptr) != SQLITE_OK)
      store.fail("cannot be read as a user database");
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  void bind_text(int place, std::string_view text) {
    check(
        sqlite3_bind_text(statement_, place, text.data(), static_cast<int>(text.size()), nullptr));
  }
  template <size_t N>
  void bind_blob(int place, const std::array<uint8_t, N>& blob) {
    check(sqlite3_bind_blob(statement_, place, blob.data(), static_cast<int>(N), nullptr));
  }
  // True: there is a row.
  bool step() {
    const int rc = sqlite3_step(statement_);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) store_.fail("refused an operation");
    return rc == SQLITE_ROW;
  }
  [[nodiscard]] std::string text(int column) const {
    const void* from = sqlite3_column_blob(statement_, column);
    const auto size = static_cast<size_t>(sqlite3_column_bytes(statement_, column));
    return from == nullptr ? std::string{} : std::string(static_cast<const char*>(from), size);
  }
  template <size_t N>
  [[nodiscard]] bool blob(int column, std::array<uint8_t, N>& out) const {
    const void* from = sqlite3_column_blob(statement_, column);
    if (from == nullptr || sqlite3_column_bytes(statement_, column) != static_cast<int>(N))
      return false;
    std::memcpy(out.data(), from, N);
    return true;
  }
  [[nodiscard]] int64_t integer(int column) const {
    return sqlite3_column_int64(statement_, column);
  }

 private:
  void check(int rc) const {
    if (rc != SQLITE_OK) store_.fail("refused a value");
  }
  const UserStore& store_;
  sqlite3_stmt* statement_ = nullptr;
};

void UserStore::fail(std::string_view what) const {
  const char* why = db_ == nullptr ? "out of memory" : sqlite3_errmsg(db_);
  throw std::runtime_error("user database " + path_ + " " + std::string(what) + ": " + why);
}

void UserStore::execute(const char* sql) const {
  if (sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) fail("refused an operation");
}

UserStore::UserStore(const std::string& path, Mode mode) : path_(path) {
  if (mode == Mode::kWrite) {
    make_file(path);
  } else if (::access(path.c_str(), F_OK) != 0 && errno == ENOENT) {
    throw std::runtime_error("user database " + path +
                             " does not exist yet: `culvertctl user add` makes it");
  }
  const int flags = mode == Mode::kWrite ? SQLITE_OPEN_READWRITE : SQLITE_OPEN_READONLY;
  const int rc = sqlite3_open_v2(path.c_str(), &db_, flags | SQLITE_OPEN_NOMUTEX, nullptr);
  try {
    if (rc != SQLITE_OK) fail("cannot be opened");
    sqlite3_busy_timeout(db_, kStoreBusyTimeoutMs);
    Statement id(*this, "PRAGMA application_id");
    Statement version(*this, "PRAGMA user_version");
    static_cast<void>(id.step());
    static_cast<void>(version.step());
    const bool empty = id.integer(0) == 0 && version.integer(0) == 0;
    const bool ours = id.integer(0) == kApplicationId && version.integer(0) == kSchemaVersion;
    if (!ours && !(empty && mode == Mode::kWrite))
      throw std::runtime_error("user database " + path +
                               " was not made by `culvertctl user add`, or by another version");
  } catch (...) {
    sqlite3_close(db_);
    throw;
  }
  if (mode != Mode::kWrite) return;
  try {
    execute(kCreate);
  } catch (...) {
    sqlite3_close(db_);
    throw;
  }
}

UserStore::~UserStore() {
  sqlite3_close(db_);
}

void UserStore::put(std::string_view realm, const StoredAccount& account) {
  Statement s(*this,
              "INSERT OR REPLACE INTO accounts (realm, name, md5_key, sha256_key, userhash) "
              "VALUES (?1, ?2, ?3, ?4, ?5)");
  s.bind_text(1, realm);
  s.bind_text(2, account.name);
  s.bind_blob(3, account.md5_key);
  s.bind_blob(4, account.sha256_key);
  s.bind_blob(5, account.userhash);
  static_cast<void>(s.step());
}

bool UserStore::remove(std::string_view realm, std::string_view name) {
  Statement s(*this, "DELETE FROM accounts WHERE realm = ?1 AND name = ?2");
  s.bind_text(1, realm);
  s.bind_text(2, name);
  static_cast<void>(s.step());
  return sqlite3_changes(db_) > 0;
}

std::vector<StoredAccount> UserStore::load(std::string_view realm) const {
  Statement s(*this,
              "SELECT name, md5_key, sha256_key, userhash FROM accounts WHERE realm = ?1 "
              "ORDER BY name");
  s.bind_text(1, realm);
  std::vector<StoredAccount> out;
  while (s.step()) {
    StoredAccount account;
    account.name = s.text(0);
    if (!s.blob(1, account.md5_key) || !s.blob(2, account.sha256_key) ||
        !s.blob(3, account.userhash))
      throw std::runtime_error("user database " + path_ + ": the keys of '" + account.name +
                               "' have a wrong length");
    out.push_back(std::move(account));
  }
  return out;
}

std::vector<std::string> UserStore::realms() const {
  Statement s(*this, "SELECT DISTINCT realm FROM accounts ORDER BY realm");
  std::vector<std::string> out;
  while (s.step())
    out.push_back(s.text(0));
  return out;
}

int64_t UserStore::data_version() const {
  Statement s(*this, "PRAGMA data_version");
  static_cast<void>(s.step());
  return s.integer(0);
}

// ---------------------------------------------------------------- watching

// One source with its connection. A file that was replaced by another is seen at the next reload().
struct AccountWatcher::Watched {
  Source source;
  std::unique_ptr<UserStore> store;
  int64_t seen_version = -1;
  std::string error;
};

AccountWatcher::AccountWatcher(std::vector<Source> sources, std::function<void()> changed)
    : changed_(std::move(changed)), sources_(std::move(sources)), thread_([this] { work(); }) {}

AccountWatcher::~AccountWatcher() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void AccountWatcher::report(Change change) {
  {
    const std::lock_guard lock(mutex_);
    const auto same = std::find_if(changes_.begin(), changes_.end(),
                                   [&](const Change& c) { return c.realm == change.realm; });
    if (same != changes_.end())
      *same = std::move(change);
    else
      changes_.push_back(std::move(change));
  }
  if (changed_) changed_();
}

void AccountWatcher::look(Watched& watched) {
  Change change;
  change.realm = watched.source.realm;
  try {
    if (!watched.store) {
      watched.store = std::make_unique<UserStore>(watched.source.path, UserStore::Mode::kRead);
      watched.seen_version = -1;
    }
    const int64_t version = watched.store->data_version();
    if (version == watched.seen_version) return;
    change.accounts =
        std::make_shared<const StoredAccounts>(watched.store->load(watched.source.realm_name));
    watched.seen_version = version;
    watched.error.clear();
  } catch (const std::exception& e) {
    watched.store.reset();                  // tried anew next time
    if (watched.error == e.what()) return;  // said once
    watched.error = change.error = e.what();
  }
  report(std::move(change));
}

void AccountWatcher::work() {
  std::vector<Watched> watched;
  uint64_t round = 0;
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (round != wanted_round_) {
      round = wanted_round_;
      watched.clear();
      for (const Source& source : sources_)
        watched.push_back({source, nullptr, -1, {}});
    }
    lock.unlock();
    for (Watched& w : watched)
      look(w);
    lock.lock();
    done_round_ = round;
    loaded_.notify_all();
    wake_.wait_for(lock, std::chrono::milliseconds(kStoreWatchMs),
                   [&] { return stop_ || round != wanted_round_; });
  }
}

std::vector<AccountWatcher::Change> AccountWatcher::take_changes() {
  const std::lock_guard lock(mutex_);
  return std::exchange(changes_, {});
}

void AccountWatcher::reload(std::vector<Source> sources) {
  {
    const std::lock_guard lock(mutex_);
    sources_ = std::move(sources);
    ++wanted_round_;
  }
  wake_.notify_all();
}

void AccountWatcher::wait_loaded() {
  std::unique_lock lock(mutex_);
  loaded_.wait(lock, [&] { return done_round_ == wanted_round_; });
}

}  // namespace culvert
