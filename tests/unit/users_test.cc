// The table of known users, accounts by name and by hash, and their SQLite file.
#include "control/users.h"

#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <condition_variable>
#include <fstream>
#include <mutex>

#include "control/user_store_sqlite.h"

namespace culvert {
namespace {

StoredAccount account(const char* name, const char* password, const char* realm = "example.org") {
  StoredAccount out;
  EXPECT_TRUE(make_account(name, realm, password, out));
  return out;
}

TEST(Users, ATimedNameIsDigitsAndAnOptionalName) {
  EXPECT_TRUE(parse_timed_name("1767225600").valid);
  EXPECT_EQ(parse_timed_name("1767225600").account, "1767225600");
  EXPECT_EQ(parse_timed_name("1767225600:alice").account, "alice");
  EXPECT_EQ(parse_timed_name("1767225600:alice").expires_unix_seconds, 1767225600u);
  EXPECT_EQ(parse_timed_name("1767225600:").account, "1767225600:");
  for (const char* bad : {"", ":", ":alice", "alice", "12x:alice", "-1:alice", " 12:alice",
                          "99999999999999999999:alice"})
    EXPECT_FALSE(parse_timed_name(bad).valid) << bad;
}

TEST(Users, AnAccountLivesAsLongAsACredentialUsesIt) {
  UserTable users;
  const UserId a = users.obtain(0, "100:zoe", "zoe");
  users[a].has_derived_keys = true;
  const UserId b = users.obtain(0, "200:zoe", "zoe");
  users[b].has_derived_keys = true;
  EXPECT_EQ(users[a].account, users[b].account);
  EXPECT_NE(users[a].account, a);
  EXPECT_EQ(users.size(), 3u);
  EXPECT_EQ(users.obtain(0, "100:zoe", "zoe"), a);
  EXPECT_NE(users.obtain(1, "zoe", "zoe"), users[a].account) << "another realm, another user";
}

TEST(Users, AUserWithoutDerivedKeysIsForgottenWithItsLastReference) {
  UserTable users;
  const UserId a = users.obtain(0, "alice", "alice");
  users.add_reference(a);
  users.add_reference(a);
  users.drop_reference(a);
  EXPECT_EQ(users.find(0, "alice"), a);
  users.drop_reference(a);
  EXPECT_EQ(users.find(0, "alice"), kNoUser);
  EXPECT_EQ(users.size(), 0u);
}

TEST(Users, IdleUsersAreBoundedAndTheLongestIdleLeavesFirst) {
  UserTable users;
  const UserId busy = users.obtain(0, "0:busy", "busy");
  users[busy].has_derived_keys = true;
  users.add_reference(busy);
  for (uint32_t i = 1; i <= kMaxIdleUsers + 10; ++i) {
    const std::string name = std::to_string(i);
    const UserId id = users.obtain(0, name, name);
    users[id].has_derived_keys = true;
  }
  EXPECT_EQ(users.find(0, "1"), kNoUser);
  EXPECT_NE(users.find(0, "11"), kNoUser);
  EXPECT_EQ(users.find(0, "0:busy"), busy);
  EXPECT_EQ(users.size(), kMaxIdleUsers + 2u) << "the bound, the busy one and its account";
}

TEST(Users, ATicketOfAnEntryUsedAnewNamesNobody) {
  UserTable users;
  const UserId a = users.obtain(0, "alice", "alice");
  const uint32_t ticket = users.ticket(a);
  EXPECT_EQ(users.by_ticket(ticket), a);
  users.add_reference(a);
  users.drop_reference(a);
  EXPECT_EQ(users.by_ticket(ticket), kNoUser);
  EXPECT_EQ(users.obtain(0, "bob", "bob"), a) << "the same place";
  EXPECT_EQ(users.by_ticket(ticket), kNoUser);
}

TEST(Accounts, AreFoundByNameAndByHash) {
  const StoredAccounts accounts({account("alice", "wonderland"), account("bob", "builder")});
  ASSERT_NE(accounts.find("bob"), nullptr);
  EXPECT_EQ(accounts.find("bob")->name, "bob");
  EXPECT_EQ(accounts.find(account("alice", "other").userhash)->name, "alice");
  EXPECT_EQ(accounts.find("carol"), nullptr);
}

TEST(Accounts, WhatOpaqueStringForbidsMakesNoAccount) {
  StoredAccount out;
  EXPECT_FALSE(make_account("", "example.org", "x", out));
  EXPECT_FALSE(make_account("alice", "example.org", "", out));
  EXPECT_FALSE(make_account("al\x01ice", "example.org", "x", out));
  EXPECT_FALSE(make_account(std::string(509, 'a'), "example.org", "x", out));
  EXPECT_TRUE(make_account(std::string(508, 'a'), "example.org", "x", out));
}

class Store : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/culvert-users-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
    path_ = folder_ + "/users.db";
  }
  void TearDown() override {
    for (const char* suffix : {"", "-journal", "-wal", "-shm"})
      ::unlink((path_ + suffix).c_str());
    ::rmdir(folder_.c_str());
  }
  std::string folder_;
  std::string path_;
};

TEST_F(Store, AccountsAreAddedListedReplacedAndRemoved) {
  UserStore store(path_, UserStore::Mode::kWrite);
  store.put("example.org", account("bob", "builder"));
  store.put("example.org", account("alice", "wonderland"));
  store.put("example.net", account("alice", "elsewhere", "example.net"));
  store.put("example.org", account("alice", "looking-glass"));
  const auto all = store.load("example.org");
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].name, "alice");
  EXPECT_EQ(all[0].md5_key, account("alice", "looking-glass").md5_key);
  EXPECT_EQ(all[0].sha256_key, account("alice", "looking-glass").sha256_key);
  EXPECT_EQ(all[0].userhash, account("alice", "looking-glass").userhash);
  EXPECT_EQ(store.realms(), (std::vector<std::string>{"example.net", "example.org"}));
  EXPECT_TRUE(store.remove("example.org", "alice"));
  EXPECT_FALSE(store.remove("example.org", "alice"));
  EXPECT_EQ(store.load("example.org").size(), 1u);
  EXPECT_EQ(store.load("example.net").size(), 1u);
}

// T38
TEST_F(Store, TheFileHoldsNoPasswordAndIsReadableByItsOwnerAlone) {
  {
    UserStore store(path_, UserStore::Mode::kWrite);
    store.put("example.org", account("alice", "correct-horse-battery"));
  }
  std::ifstream file(path_, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  EXPECT_NE(bytes.find("alice"), std::string::npos);
  EXPECT_EQ(bytes.find("correct-horse"), std::string::npos);
  struct stat st {};
  ASSERT_EQ(::stat(path_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
}

TEST_F(Store, ANameIsDataAndNeverSql) {
  UserStore store(path_, UserStore::Mode::kWrite);
  const char* name = "x'); DROP TABLE accounts; --";
  store.put("example.org", account(name, "y"));
  ASSERT_EQ(store.load("example.org").size(), 1u);
  EXPECT_EQ(store.load("example.org")[0].name, name);
}

TEST_F(Store, AMissingForeignOrBrokenFileIsASentenceThatNamesIt) {
  const auto message_of = [&](UserStore::Mode mode) {
    try {
      UserStore store(path_, mode);
      return std::string("no error");
    } catch (const std::runtime_error& e) {
      return std::string(e.what());
    }
  };
  EXPECT_NE(message_of(UserStore::Mode::kRead).find(path_), std::string::npos);
  std::ofstream(path_) << std::string(4096, 'x');
  EXPECT_NE(message_of(UserStore::Mode::kWrite).find(path_), std::string::npos);
  ::unlink(path_.c_str());
  sqlite3* other = nullptr;
  ASSERT_EQ(sqlite3_open(path_.c_str(), &other), SQLITE_OK);
  ASSERT_EQ(
      sqlite3_exec(other, "CREATE TABLE t (x); PRAGMA user_version = 7", nullptr, nullptr, nullptr),
      SQLITE_OK);
  sqlite3_close(other);
  EXPECT_NE(message_of(UserStore::Mode::kWrite).find("not made by"), std::string::npos);
}

// Waits for the watcher's word; no sleeping.
class Bell {
 public:
  void ring() {
    const std::lock_guard lock(mutex_);
    ++rings_;
    wake_.notify_all();
  }
  void wait_beyond(int seen) {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(wake_.wait_for(lock, std::chrono::seconds(30), [&] { return rings_ > seen; }));
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  int rings_ = 0;
};

TEST_F(Store, TheWatcherServesTheFirstStateAndEveryChangeOfAnotherProcess) {
  UserStore store(path_, UserStore::Mode::kWrite);
  store.put("example.org", account("alice", "wonderland"));
  Bell bell;
  AccountWatcher watcher({{3, "example.org", path_}}, [&] { bell.ring(); });
  watcher.wait_loaded();
  auto changes = watcher.take_changes();
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].realm, 3);
  ASSERT_TRUE(changes[0].accounts);
  EXPECT_NE(changes[0].accounts->find("alice"), nullptr);
  EXPECT_TRUE(watcher.take_changes().empty());

  store.put("example.org", account("bob", "builder"));
  bell.wait_beyond(1);
  changes = watcher.take_changes();
  ASSERT_EQ(changes.size(), 1u);
  ASSERT_TRUE(changes[0].accounts);
  EXPECT_NE(changes[0].accounts->find("bob"), nullptr);
}

TEST_F(Store, AWatcherWithoutAFileSaysSoOnceAndServesItWhenItAppears) {
  Bell bell;
  AccountWatcher watcher({{0, "example.org", path_}}, [&] { bell.ring(); });
  watcher.wait_loaded();
  auto changes = watcher.take_changes();
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_FALSE(changes[0].accounts);
  EXPECT_NE(changes[0].error.find(path_), std::string::npos);
  {
    UserStore store(path_, UserStore::Mode::kWrite);
    store.put("example.org", account("alice", "wonderland"));
  }
  watcher.reload({{0, "example.org", path_}});
  watcher.wait_loaded();
  changes = watcher.take_changes();
  ASSERT_EQ(changes.size(), 1u);
  ASSERT_TRUE(changes[0].accounts) << changes[0].error;
  EXPECT_NE(changes[0].accounts->find("alice"), nullptr);
}

}  // namespace
}  // namespace culvert
