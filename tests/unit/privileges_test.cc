// Privileges really go. Each test works in a child process, because what is given up does not come
// back.
#include "control/privileges.h"

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/support/needs.h"

namespace culvert {
namespace {

// Runs `body` in a child; its exit status, which is the number of the step that failed or 0.
template <class Body>
int in_child(Body body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Privileges, RootBecomesTheAccountAndCannotGoBack) {
  CULVERT_TEST_NEEDS(geteuid() == 0, "needs root");
  EXPECT_EQ(in_child([] {
              const AccountResult who = resolve_account({"nobody", ""});
              if (!who.error.empty() || who.account.uid == 0) return 1;
              if (!drop_privileges({.account = who.account}).empty()) return 2;
              if (geteuid() != who.account.uid || getegid() != who.account.gid) return 3;
              if (setuid(0) == 0 || setgid(0) == 0 || getgroups(0, nullptr) != 0) return 4;
              if (access("/proc/1/environ", R_OK) == 0) return 5;
              rlimit core{};
              getrlimit(RLIMIT_CORE, &core);
              if (core.rlim_max != 0 || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) return 6;
              return describe_privileges().find("capabilities=none") == std::string::npos ? 7 : 0;
            }),
            0);
}

TEST(Privileges, AnUnprivilegedProcessLosesNothingButTheChance) {
  EXPECT_EQ(in_child([] {
              if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) return 1;
              const AccountResult who = resolve_account({});
              if (!who.error.empty()) return 2;
              if (!drop_privileges({.account = who.account}).empty()) return 3;
              // Without the capability, low ports are an error that says what to do.
              const std::string refused =
                  drop_privileges({.account = who.account, .keep_low_ports = true});
              return refused.find("CAP_NET_BIND_SERVICE") == std::string::npos ? 4 : 0;
            }),
            0);
}

TEST(Privileges, RootAndUnknownAccountsAreRefused) {
  CULVERT_TEST_NEEDS(geteuid() == 0, "needs root");
  EXPECT_NE(resolve_account({"root", ""}).error, "");
  EXPECT_NE(resolve_account({"no-such-user", ""}).error.find("no-such-user"), std::string::npos);
  EXPECT_NE(resolve_account({"nobody", "no-such-group"}).error.find("no-such-group"),
            std::string::npos);
  EXPECT_EQ(in_child([] { return drop_privileges({}).empty() ? 1 : 0; }), 0)
      << "uid 0 is no account";
}

TEST(Privileges, AFileLimitThatCannotBeHadSaysWhatToChange) {
  EXPECT_EQ(in_child([] {
              const rlimit small{64, 64};
              if (setrlimit(RLIMIT_NOFILE, &small) != 0) return 1;
              if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) return 2;
              if (!raise_file_limit(64).empty()) return 3;
              return raise_file_limit(65).find("LimitNOFILE") == std::string::npos ? 4 : 0;
            }),
            0);
}

}  // namespace
}  // namespace culvert
