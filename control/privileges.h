// Giving up what root gave. main calls raise_file_limit(), opens what needs privileges (listeners
// below port 1024, the log file, the control socket's folder), then drop_privileges(), and only
// then starts threads: capabilities and no_new_privs belong to a thread, and children inherit them.
//
// Every step is read back: a drop that did not take is an error, never a warning.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "config/config.h"

namespace culvert {

// The accounts tried when configuration names none.
inline constexpr const char* kDefaultAccount = "culvert";
inline constexpr const char* kFallbackAccount = "nobody";

struct Account {
  std::string user;
  uid_t uid = 0;
  gid_t gid = 0;
};

// Who to become. When not root: the account we already are (run_as.user then must be empty or the
// same). Empty `error` means success.
struct AccountResult {
  Account account;
  std::string error;
};
[[nodiscard]] AccountResult resolve_account(const RunAsConfig& run_as);

// The gid of a group, by name or number; `error` says which one is missing.
struct GroupResult {
  gid_t gid = 0;
  std::string error;
};
[[nodiscard]] GroupResult resolve_group(const std::string& name);

// Raises RLIMIT_NOFILE to `wanted` descriptors (config/derive tells how many). As root the hard
// limit goes up as well. Empty: done; else what to change.
[[nodiscard]] std::string raise_file_limit(uint64_t wanted);

// Makes the folder of a socket or state file (one level, mode 0755) if it is missing, and gives a
// folder made here to `account`, so that the file can be removed after the drop. Empty: done.
[[nodiscard]] std::string make_runtime_folder(const std::string& file, const Account& account);

struct PrivilegePlan {
  Account account;
  // Relay or listening ports below 1024 are opened after start as well: CAP_NET_BIND_SERVICE stays.
  bool keep_low_ports = false;
  // Memory holds secrets, so a core file is written only on request.
  bool allow_core_dumps = false;
};

// umask 0077, no core dumps, no_new_privs, bounding set emptied, supplementary groups gone, uid and
// gid of the account, only the capabilities of the plan. Empty: done and verified.
[[nodiscard]] std::string drop_privileges(const PrivilegePlan& plan);

// One line about what this process may do now, for the log: "uid=.. gid=.. capabilities=.. ...".
[[nodiscard]] std::string describe_privileges();

}  // namespace culvert
