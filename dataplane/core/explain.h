// "What would happen to this datagram?" without sending it: the same tables, keys and rules as the
// path.
#pragma once

#include "dataplane/api/snapshot.h"
#include "dataplane/path/core_state.h"

namespace culvert {

[[nodiscard]] ExplainReport explain(const CoreState& core, const Snapshot& snapshot,
                                    const Explain& question, Ticks now);

}  // namespace culvert
