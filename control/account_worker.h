// Changes to account databases that operators order over the control socket, done in a thread of
// its own because SQLite waits for disks and locks. Requests wait in a queue of
// kMaxAccountRequests; answers are posted back to the control thread. AccountWatcher then notices
// the change and serves it.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include <boost/asio/io_context.hpp>

#include "control/operations.h"

namespace culvert {

// One for each client of the control socket.
inline constexpr size_t kMaxAccountRequests = 32;

class AccountWorker {
 public:
  // Call after privileges were dropped: the file must be writable by the account we run as.
  explicit AccountWorker(boost::asio::io_context& io);
  // Finishes what is under way; what is queued is given up.
  ~AccountWorker();
  AccountWorker(const AccountWorker&) = delete;
  AccountWorker& operator=(const AccountWorker&) = delete;

  // `realm_name` and `path` of the request's realm. `done` runs on the io_context.
  void submit(AccountRequest request, std::string realm_name, std::string path,
              std::function<void(AccountReply)> done);

 private:
  struct Job {
    AccountRequest request;
    std::string realm;
    std::string path;
    std::function<void(AccountReply)> done;
  };
  void work();

  boost::asio::io_context& io_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  bool stop_ = false;
  std::thread thread_;  // last: starts when the rest is there
};

// The change itself, at once, in the calling thread (culvertctl without a daemon).
[[nodiscard]] AccountReply change_account_file(const AccountRequest& request,
                                               const std::string& realm, const std::string& path);

}  // namespace culvert
