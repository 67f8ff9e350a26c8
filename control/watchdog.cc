#include "control/watchdog.h"

namespace culvert {

CoreWatchdog::Change CoreWatchdog::look(const Engine& engine, Clock::time_point now) {
  Change change;
  for (CoreId core = 0; core < engine.cores(); ++core) {
    Seen& seen = seen_[core];
    const uint64_t bit = uint64_t{1} << core;
    const uint64_t loops = engine.stats(core).loops.get();
    if (loops != seen.loops || seen.at == Clock::time_point{}) {
      seen = {loops, now};
      if ((stalled_ & bit) != 0) change.recovered |= bit;
      stalled_ &= ~bit;
    } else if (now - seen.at >= kCoreStall && (stalled_ & bit) == 0) {
      stalled_ |= bit;
      change.stalled |= bit;
    }
  }
  return change;
}

}  // namespace culvert
