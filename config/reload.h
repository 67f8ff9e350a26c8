// What changed between the running configuration and a new one, key by key, and whether a reload
// may bring it about. Compare configurations as they were loaded, before wildcards are expanded:
// what the machine's interfaces do in between is no change of the configuration.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "config/schema.h"

namespace culvert {

struct Change {
  std::string key;  // "limits.max_allocations", "realm[1].secrets"
  Reload reload = Reload::kRestart;
  friend bool operator==(const Change&, const Change&) = default;
};

// In the order of the key table. Realms and listeners are compared place by place; one more or
// fewer is a change of `realm.name` or `listen.address`.
[[nodiscard]] std::vector<Change> diff_for_reload(const Config& running, const Config& wanted);

// The sentence that refuses a reload, naming every key that needs a restart; nullopt: all are live.
[[nodiscard]] std::optional<std::string> refuse_reload(const std::vector<Change>& changes);

}  // namespace culvert
