#include "control/account_worker.h"

#include <exception>
#include <utility>

#include <boost/asio/post.hpp>

#include "control/user_store_sqlite.h"

namespace culvert {

AccountReply change_account_file(const AccountRequest& request, const std::string& realm,
                                 const std::string& path) {
  AccountReply reply;
  try {
    const bool write = request.verb != AccountRequest::Verb::kList;
    UserStore store(path, write ? UserStore::Mode::kWrite : UserStore::Mode::kRead);
    if (request.verb == AccountRequest::Verb::kAdd) {
      StoredAccount account;
      if (make_account(request.name, realm, request.password, account))
        store.put(realm, account);
      else
        reply.error =
            "name or password is empty, too long, or has characters that OpaqueString "
            "(RFC 8265) forbids";
    } else if (request.verb == AccountRequest::Verb::kRemove) {
      reply.not_found = !store.remove(realm, request.name);
      if (reply.not_found) reply.error = "no user \"" + request.name + "\" in realm " + realm;
    } else {
      for (const StoredAccount& a : store.load(realm))
        reply.names.push_back(a.name);
    }
  } catch (const std::exception& e) {
    reply.error = e.what();
  }
  return reply;
}

AccountWorker::AccountWorker(boost::asio::io_context& io) : io_(io), thread_([this] { work(); }) {}

AccountWorker::~AccountWorker() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void AccountWorker::submit(AccountRequest request, std::string realm_name, std::string path,
                           std::function<void(AccountReply)> done) {
  {
    const std::lock_guard lock(mutex_);
    if (jobs_.size() < kMaxAccountRequests) {
      jobs_.push_back(
          {std::move(request), std::move(realm_name), std::move(path), std::move(done)});
      done = nullptr;
    }
  }
  if (done) {
    AccountReply busy;
    busy.error = "too many account changes are waiting: try again";
    return done(std::move(busy));
  }
  wake_.notify_one();
}

void AccountWorker::work() {
  for (;;) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
      if (stop_) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    AccountReply reply = change_account_file(job.request, job.realm, job.path);
    boost::asio::post(io_, [done = std::move(job.done), reply = std::move(reply)]() mutable {
      done(std::move(reply));
    });
  }
}

}  // namespace culvert
