// One driver, one worker and one thread for each fast core, whatever the driver.
#pragma once

#include <pthread.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "crypto/random.h"
#include "dataplane/core/ring_engine.h"
#include "dataplane/core/worker.h"
#include "tools/culvertd/cores.h"

namespace culvert {

template <Driver D>
class WorkerThreads {
 public:
  WorkerThreads(RingEngine& engine, const CoreLimits& limits)
      : engine_(engine), limits_(limits), cores_(engine.cores()) {}
  ~WorkerThreads() { stop(); }
  WorkerThreads(const WorkerThreads&) = delete;
  WorkerThreads& operator=(const WorkerThreads&) = delete;

  // `make_driver(engine, core)` gives a unique_ptr; `body(worker, core)` is what the core's thread
  // does, and ends soon after the switchboard's stop.
  template <class MakeDriver, class Body>
  void start(crypto::Random& random, MakeDriver make_driver, Body body) {
    for (CoreId id = 0; id < cores_.size(); ++id) {
      Core& core = cores_[id];
      core.driver = make_driver(engine_, id);
      core.worker = std::make_unique<Worker<D>>(*core.driver, engine_.board(), id, limits_,
                                                draw_seeds(random), engine_.mutable_stats(id));
      engine_.set_policer_bytes(id, core.worker->core().flows.policer_bytes.data());
      engine_.board().cores[id]->waker = {[](void* driver) { static_cast<D*>(driver)->wake(); },
                                          core.driver.get()};
      table_bytes_ += FlowState::table_bytes(limits_);
    }
    for (CoreId id = 0; id < cores_.size(); ++id) {
      Worker<D>* worker = cores_[id].worker.get();
      cores_[id].thread = std::thread([worker, id, body] {
        worker->watch_heap(heap_bytes_of_this_thread());
        body(*worker, id);
      });
      const std::string name = "culvert-core" + std::to_string(id);
      (void)pthread_setname_np(cores_[id].thread.native_handle(), name.c_str());
    }
  }
  void stop() {
    engine_.board().stop.store(true, std::memory_order_relaxed);
    for (Core& core : cores_) {
      if (core.driver) core.driver->wake();
      if (core.thread.joinable()) core.thread.join();
    }
  }
  [[nodiscard]] size_t table_bytes() const { return table_bytes_; }

 private:
  struct Core {
    std::unique_ptr<D> driver;
    std::unique_ptr<Worker<D>> worker;
    std::thread thread;
  };
  RingEngine& engine_;
  CoreLimits limits_;
  std::vector<Core> cores_;
  size_t table_bytes_ = 0;
};

}  // namespace culvert
