// Any rows in the SQLite file of accounts, as another program or a broken disk would leave them:
// values of any type and length. They load as accounts with keys of the right length that are found
// again by name and userhash, or fail with a sentence that names the file; and what we put in
// ourselves comes out.
#include <sqlite3.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "control/user_store_sqlite.h"
#include "dataplane/base/assert.h"
#include "tests/fuzz/reader.h"

namespace {

using namespace culvert;

// One file for the whole run, and a second connection to it that ignores the table's CHECKs.
struct File {
  File() {
    const bool memory = access("/dev/shm", W_OK) == 0;
    folder = std::string(memory ? "/dev/shm" : "/tmp") + "/culvert_fuzz_XXXXXX";
    ENSURE(mkdtemp(folder.data()) != nullptr);
    path = folder + "/accounts.db";
    store = std::make_unique<UserStore>(path, UserStore::Mode::kWrite);
    ENSURE(sqlite3_open(path.c_str(), &raw) == SQLITE_OK);
    run("PRAGMA ignore_check_constraints = 1");
    run("PRAGMA synchronous = OFF");
    run("PRAGMA journal_mode = MEMORY");
  }
  ~File() {
    sqlite3_close(raw);
    store.reset();
    std::filesystem::remove_all(folder);
  }
  void run(const char* sql) const {
    ENSURE(sqlite3_exec(raw, sql, nullptr, nullptr, nullptr) == SQLITE_OK);
  }
  std::string folder;
  std::string path;
  std::unique_ptr<UserStore> store;
  sqlite3* raw = nullptr;
};

// A value of the type and length that the input says: mostly a blob of the right length.
void bind_value(sqlite3_stmt* statement, int place, fuzz::Reader& in, size_t right) {
  const uint32_t kind = in.below(8);
  const size_t length = kind < 5 ? right : in.below(64);
  std::vector<uint8_t> bytes(length);
  const auto given = in.bytes(kind < 5 ? std::min<size_t>(length, 4) : length);
  std::copy(given.begin(), given.end(), bytes.begin());
  const auto size = static_cast<int>(bytes.size());
  if (kind == 7)
    sqlite3_bind_int64(statement, place, static_cast<int64_t>(length) << 32);
  else if (kind == 6)
    sqlite3_bind_text(statement, place, reinterpret_cast<const char*>(bytes.data()), size,
                      SQLITE_TRANSIENT);
  else
    sqlite3_bind_blob(statement, place, bytes.data(), size, SQLITE_TRANSIENT);
}

void insert_row(const File& file, fuzz::Reader& in) {
  sqlite3_stmt* statement = nullptr;
  ENSURE(sqlite3_prepare_v2(file.raw, "INSERT OR IGNORE INTO accounts VALUES (?, ?, ?, ?, ?)", -1,
                            &statement, nullptr) == SQLITE_OK);
  sqlite3_bind_text(statement, 1, in.below(4) == 3 ? "other" : "realm", -1, SQLITE_STATIC);
  const auto name = in.bytes(in.below(12));
  if (in.flag())
    sqlite3_bind_text(statement, 2, reinterpret_cast<const char*>(name.data()),
                      static_cast<int>(name.size()), SQLITE_TRANSIENT);
  else
    sqlite3_bind_blob(statement, 2, name.data(), static_cast<int>(name.size()), SQLITE_TRANSIENT);
  bind_value(statement, 3, in, 16);
  bind_value(statement, 4, in, 32);
  bind_value(statement, 5, in, 32);
  (void)sqlite3_step(statement);  // NOT NULL may refuse it
  sqlite3_finalize(statement);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const File file;
  fuzz::Reader in(data, size);
  file.run("BEGIN; DELETE FROM accounts");
  for (int rows = 0; rows < 8 && !in.empty(); ++rows)
    insert_row(file, in);
  file.run("COMMIT");

  try {
    const UserStore reader(file.path, UserStore::Mode::kRead);
    const StoredAccounts accounts(reader.load("realm"));
    for (const StoredAccount& a : accounts.all()) {
      const StoredAccount* by_name = accounts.find(a.name);
      ENSURE(by_name != nullptr && by_name->name == a.name);
      const StoredAccount* by_hash = accounts.find(a.userhash);
      ENSURE(by_hash != nullptr && by_hash->userhash == a.userhash);
    }
    ENSURE(reader.load("nobody's").empty());
  } catch (const std::runtime_error& e) {
    ENSURE(std::string(e.what()).find(file.path) != std::string::npos);
  }

  StoredAccount mine;
  mine.name = "mine";
  mine.md5_key.fill(static_cast<uint8_t>(size));
  file.store->put("ours", mine);
  const auto back = file.store->load("ours");
  ENSURE(back.size() == 1 && back[0].name == mine.name && back[0].md5_key == mine.md5_key);
  ENSURE(file.store->remove("ours", "mine") && !file.store->remove("ours", "mine"));
  return 0;
}
