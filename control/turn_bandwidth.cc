// A user's bandwidth, and the whole relay's (limits.total_bandwidth), among cores. Each core
// polices its share by itself; every kRebalanceMs the shares follow what each core was asked to
// carry. The shares of one user always sum to its rate at most, so over any time t a user passes at
// most rate * t + cores * burst + rate * d, d being how much longer a core that loses share takes
// to hear of it than one that gains (a command's way, well below 1 ms, or kRebalanceMs when a ring
// is full).
#include <algorithm>

#include "control/turn_impl.h"
#include "dataplane/base/assert.h"

namespace culvert {

namespace {

// A core without traffic keeps a tenth of an equal share, so that what starts there is heard.
constexpr uint64_t kIdleShareDivisor = 10;
// Bursts a core lets through at once: 100 ms of its rate, at least one 64 KiB video key frame.
constexpr uint64_t kBurstsPerSecond = 10;
constexpr uint64_t kMinBurstBytes = 65536;

}  // namespace

bool TurnServer::Impl::send_policer(CoreId core, Shared shared, uint64_t rate) {
  SetPolicer command;
  command.policer = shared.policer;
  command.rate_bytes_per_second = rate;
  command.burst_bytes = rate == 0 ? 0 : std::max(rate / kBurstsPerSecond, kMinBurstBytes);
  if (!engine_.send(core, command)) return false;
  shared.shares[core].rate = rate;
  return true;
}

// Counts the allocation in its account's shares and makes sure that its core polices the account.
// False: the ring is full.
bool TurnServer::Impl::join_bandwidth(uint32_t index) {
  AllocationRecord& record = records_[index];
  const UserId account_id = users_[record.user].account;
  User& account = users_[account_id];
  const uint64_t rate = realms_[account.realm].user_bandwidth;
  if (rate == 0 && account.policer == 0) return true;
  if (account.policer == 0) {
    if (free_policers_.empty()) free_policers_.push_back(++policers_made_);
    account.policer = free_policers_.back();
    free_policers_.pop_back();
    account.shares.assign(cores_, BandwidthShare{});
    limited_.push_back(account_id);
  }
  record.policed = true;
  BandwidthShare& share = account.shares[core_of(index)];
  if (share.allocations++ > 0) return true;
  if (const Counter* bytes = engine_.policer_bytes(core_of(index)))
    share.seen_bytes = bytes[account.policer].get();
  const auto busy = static_cast<uint64_t>(
      std::count_if(account.shares.begin(), account.shares.end(),
                    [](const BandwidthShare& s) { return s.allocations > 0; }));
  // The others give up their part first.
  for (CoreId core = 0; core < cores_; ++core) {
    BandwidthShare& other = account.shares[core];
    if (core != core_of(index) && other.allocations > 0)
      static_cast<void>(
          send_policer(core, {account.policer, account.shares}, std::min(other.rate, rate / busy)));
  }
  return send_policer(core_of(index), {account.policer, account.shares},
                      rate == 0 ? 0 : std::max<uint64_t>(1, rate / busy));
}

// After a reload: allocations made while their account had no limit.
void TurnServer::Impl::want_joins() {
  for (AllocationRecord& record : records_) {
    if (!record.in_use || record.policed || record.join_wanted || record.user == kNoUser) continue;
    if (realms_[users_.account_of(record.user).realm].user_bandwidth == 0) continue;
    record.join_wanted = true;
    ++joins_wanted_;
  }
  retry_joins();
}

// As many as the command rings take now.
void TurnServer::Impl::retry_joins() {
  for (uint32_t i = 0; i < records_.size() && joins_wanted_ != 0; ++i) {
    AllocationRecord& record = records_[i];
    if (!record.in_use || !record.join_wanted) continue;
    if (!record.policed && !join_bandwidth(i)) return;
    JoinPolicer command;
    command.handle = handle_of(i);
    command.policer = users_.account_of(record.user).policer;
    if (!engine_.send(core_of(i), command)) return;
    record.join_wanted = false;
    --joins_wanted_;
  }
}

void TurnServer::Impl::leave_bandwidth(uint32_t index) {
  AllocationRecord& record = records_[index];
  if (!record.policed) return;
  record.policed = false;
  const UserId account_id = users_[record.user].account;
  User& account = users_[account_id];
  ENSURE(account.shares[core_of(index)].allocations > 0);
  --account.shares[core_of(index)].allocations;
  const bool used = std::any_of(account.shares.begin(), account.shares.end(),
                                [](const BandwidthShare& s) { return s.allocations > 0; });
  if (used) return;  // the next rebalance gives its share to the others
  free_policers_.push_back(account.policer);
  account.policer = 0;
  account.shares.clear();
  limited_.erase(std::find(limited_.begin(), limited_.end(), account_id));
}

void TurnServer::Impl::rebalance() {
  for (const UserId id : limited_)
    share_bandwidth({users_[id].policer, users_[id].shares},
                    realms_[users_[id].realm].user_bandwidth);
  if (shares_whole()) share_bandwidth({0, whole_shares_}, config_.limits.total_bandwidth);
}

// Also while cores still have a limit that a reload has taken away.
bool TurnServer::Impl::shares_whole() const {
  return config_.limits.total_bandwidth != 0 ||
         std::any_of(whole_shares_.begin(), whole_shares_.end(),
                     [](const BandwidthShare& s) { return s.rate != 0; });
}

void TurnServer::Impl::share_bandwidth(Shared shared, uint64_t rate) {
  std::array<uint64_t, kMaxCores> weight{};
  uint64_t busy = 0;
  uint64_t asked_total = 0;
  for (CoreId core = 0; core < cores_; ++core) {
    BandwidthShare& share = shared.shares[core];
    if (share.allocations == 0) continue;
    ++busy;
    const Counter* bytes = engine_.policer_bytes(core);
    if (bytes == nullptr) continue;
    const uint64_t now = bytes[shared.policer].get();
    weight[core] = now - share.seen_bytes;
    share.seen_bytes = now;
    asked_total += weight[core];
  }
  // Losers first, then winners: the sum stays below the rate in between.
  for (const bool winners : {false, true}) {
    for (CoreId core = 0; core < cores_; ++core) {
      BandwidthShare& share = shared.shares[core];
      if (share.allocations == 0) continue;
      uint64_t target = 0;
      if (rate != 0) {
        const uint64_t least = rate / busy / kIdleShareDivisor;
        const auto rest = static_cast<double>(rate - least * busy);
        const double part =
            asked_total == 0 ? 1.0 / static_cast<double>(busy)
                             : static_cast<double>(weight[core]) / static_cast<double>(asked_total);
        target = std::max<uint64_t>(1, least + static_cast<uint64_t>(rest * part));
      }
      // Zero means unlimited, the most of all.
      const bool wins = target == 0 || (share.rate != 0 && target > share.rate);
      if (target != share.rate && wins == winners)
        static_cast<void>(send_policer(core, shared, target));
    }
  }
}

}  // namespace culvert
