#include "control/privileges.h"

#include <grp.h>
#include <pwd.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

namespace culvert {

namespace {

struct CapFree {
  void operator()(std::remove_pointer_t<cap_t>* caps) const { cap_free(caps); }
};
using Caps = std::unique_ptr<std::remove_pointer_t<cap_t>, CapFree>;

[[nodiscard]] std::string failed(const std::string& what) {
  return what + ": " + std::strerror(errno);
}

[[nodiscard]] std::string account_name(uid_t uid) {
  const passwd* entry = getpwuid(uid);
  return entry != nullptr ? entry->pw_name : std::to_string(uid);
}

[[nodiscard]] bool apply_group(const RunAsConfig& run_as, AccountResult& result) {
  if (run_as.group.empty()) return true;
  const GroupResult group = resolve_group(run_as.group);
  result.error = group.error;
  result.account.gid = group.gid;
  return group.error.empty();
}

// The capability sets this process shall have: permitted and effective equal, nothing inheritable.
[[nodiscard]] std::string set_capabilities(bool keep_low_ports) {
  const Caps caps(cap_init());
  if (caps == nullptr) return failed("cap_init");
  if (keep_low_ports) {
    const cap_value_t keep[] = {CAP_NET_BIND_SERVICE};
    if (cap_set_flag(caps.get(), CAP_PERMITTED, 1, keep, CAP_SET) != 0 ||
        cap_set_flag(caps.get(), CAP_EFFECTIVE, 1, keep, CAP_SET) != 0)
      return failed("cap_set_flag");
  }
  return cap_set_proc(caps.get()) == 0 ? "" : failed("capset");
}

[[nodiscard]] bool holds(cap_t caps, cap_value_t which, cap_flag_t set) {
  cap_flag_value_t value = CAP_CLEAR;
  return cap_get_flag(caps, which, set, &value) == 0 && value == CAP_SET;
}

[[nodiscard]] std::string verify_capabilities(bool keep_low_ports) {
  const Caps caps(cap_get_proc());
  if (caps == nullptr) return failed("capget");
  for (cap_value_t c = 0; c <= cap_max_bits() - 1; ++c) {
    const bool allowed = keep_low_ports && c == CAP_NET_BIND_SERVICE;
    for (const cap_flag_t set : {CAP_PERMITTED, CAP_EFFECTIVE, CAP_INHERITABLE}) {
      if (!allowed && holds(caps.get(), c, set))
        return "capability " + std::to_string(c) + " is still held after dropping privileges";
    }
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, c, 0, 0) == 1)
      return "ambient capability " + std::to_string(c) + " is still held";
  }
  if (keep_low_ports && !holds(caps.get(), CAP_NET_BIND_SERVICE, CAP_EFFECTIVE))
    return "CAP_NET_BIND_SERVICE is needed for ports below 1024 and is not held: start as root, or "
           "set AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit, or use higher ports";
  return "";
}

[[nodiscard]] std::string change_account(const PrivilegePlan& plan) {
  // Needs CAP_SETPCAP, so it comes before the user id goes.
  for (cap_value_t c = 0; prctl(PR_CAPBSET_READ, c, 0, 0, 0) >= 0; ++c) {
    const bool keep = plan.keep_low_ports && c == CAP_NET_BIND_SERVICE;
    if (!keep && prctl(PR_CAPBSET_READ, c, 0, 0, 0) == 1 &&
        prctl(PR_CAPBSET_DROP, c, 0, 0, 0) != 0 && errno != EPERM)
      return failed("PR_CAPBSET_DROP");
  }
  if (prctl(PR_SET_KEEPCAPS, plan.keep_low_ports ? 1L : 0L, 0, 0, 0) != 0)
    return failed("PR_SET_KEEPCAPS");
  if (setgroups(0, nullptr) != 0) return failed("setgroups");
  if (setresgid(plan.account.gid, plan.account.gid, plan.account.gid) != 0) return failed("setgid");
  if (setresuid(plan.account.uid, plan.account.uid, plan.account.uid) != 0) return failed("setuid");
  return "";
}

[[nodiscard]] std::string verify_account(const Account& account) {
  uid_t uid[3];
  gid_t gid[3];
  if (getresuid(&uid[0], &uid[1], &uid[2]) != 0) return failed("getresuid");
  if (getresgid(&gid[0], &gid[1], &gid[2]) != 0) return failed("getresgid");
  for (int i = 0; i < 3; ++i) {
    if (uid[i] != account.uid || gid[i] != account.gid)
      return "user or group id did not change to " + account.user;
  }
  if (setuid(0) == 0 || seteuid(0) == 0)
    return "root could be taken back after dropping privileges";
  return "";
}

}  // namespace

GroupResult resolve_group(const std::string& name) {
  if (const group* entry = getgrnam(name.c_str()); entry != nullptr) return {entry->gr_gid, ""};
  gid_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error == std::errc() && end == name.data() + name.size()) return {number, ""};
  return {0, "group \"" + name + "\" does not exist"};
}

AccountResult resolve_account(const RunAsConfig& run_as) {
  AccountResult result;
  if (geteuid() != 0) {
    result.account = {account_name(geteuid()), geteuid(), getegid()};
    if (!run_as.user.empty() && run_as.user != result.account.user &&
        run_as.user != std::to_string(geteuid()))
      result.error = "run_as.user is \"" + run_as.user + "\" but the process was started as \"" +
                     result.account.user + "\": start it as root or as that user";
    return result;
  }
  const passwd* entry = nullptr;
  if (!run_as.user.empty()) {
    entry = getpwnam(run_as.user.c_str());
    if (entry == nullptr) {
      result.error = "run_as.user \"" + run_as.user +
                     "\" does not exist: create it (useradd --system) or choose another";
      return result;
    }
  } else {
    entry = getpwnam(kDefaultAccount);
    if (entry == nullptr) entry = getpwnam(kFallbackAccount);
    if (entry == nullptr) {
      result.error = "neither \"culvert\" nor \"nobody\" exists: set run_as.user";
      return result;
    }
  }
  result.account = {entry->pw_name, entry->pw_uid, entry->pw_gid};
  if (!apply_group(run_as, result)) return result;
  if (result.account.uid == 0) result.error = "run_as.user is root: choose an unprivileged account";
  return result;
}

std::string raise_file_limit(uint64_t wanted) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return failed("getrlimit");
  if (limit.rlim_cur >= wanted) return "";
  const rlim_t hard_before = limit.rlim_max;
  limit.rlim_cur = wanted;
  if (limit.rlim_max < wanted) limit.rlim_max = wanted;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
    return "needs " + std::to_string(wanted) + " file descriptors but the hard limit is " +
           std::to_string(hard_before) +
           ": raise LimitNOFILE= in the unit (or ulimit -Hn), or lower limits.max_allocations";
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur < wanted)
    return "RLIMIT_NOFILE did not rise to " + std::to_string(wanted);
  return "";
}

std::string make_runtime_folder(const std::string& file, const Account& account) {
  const size_t slash = file.rfind('/');
  if (slash == std::string::npos || slash == 0) return "";
  const std::string folder = file.substr(0, slash);
  struct stat info {};
  if (stat(folder.c_str(), &info) == 0) return "";
  const mode_t before = umask(0022);
  const bool made = mkdir(folder.c_str(), 0755) == 0;
  umask(before);
  if (!made) return failed("cannot make " + folder);
  if (geteuid() == 0 && chown(folder.c_str(), account.uid, account.gid) != 0)
    return failed("cannot give " + folder + " to " + account.user);
  return "";
}

std::string drop_privileges(const PrivilegePlan& plan) {
  umask(0077);
  if (geteuid() == 0) {
    if (plan.account.uid == 0) return "refusing to keep running as root";
    if (std::string e = change_account(plan); !e.empty()) return e;
  }
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0)
    return failed("PR_CAP_AMBIENT");
  const Caps before(cap_get_proc());
  const bool had_low_ports =
      before != nullptr && holds(before.get(), CAP_NET_BIND_SERVICE, CAP_PERMITTED);
  const bool keep = plan.keep_low_ports && had_low_ports;
  if (std::string e = set_capabilities(keep); !e.empty()) return e;
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return failed("PR_SET_NO_NEW_PRIVS");

  // Changing user ids made the process undumpable; a wanted core file needs that undone.
  if (!plan.allow_core_dumps) {
    const rlimit none{0, 0};
    if (setrlimit(RLIMIT_CORE, &none) != 0) return failed("RLIMIT_CORE");
  }
  if (prctl(PR_SET_DUMPABLE, plan.allow_core_dumps ? 1L : 0L, 0, 0, 0) != 0)
    return failed("PR_SET_DUMPABLE");

  if (std::string e = verify_account(plan.account); !e.empty()) return e;
  if (std::string e = verify_capabilities(plan.keep_low_ports); !e.empty()) return e;
  if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) return "no_new_privs is not set";
  return "";
}

std::string describe_privileges() {
  const Caps caps(cap_get_proc());
  char* text = caps != nullptr ? cap_to_text(caps.get(), nullptr) : nullptr;
  std::string held = text != nullptr ? text : "?";
  cap_free(text);
  if (held.empty() || held == "=") held = "none";
  return "user=" + account_name(geteuid()) + " uid=" + std::to_string(geteuid()) +
         " gid=" + std::to_string(getegid()) + " capabilities=" + held +
         " no_new_privs=" + std::to_string(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
}

}  // namespace culvert
