// See reload.h.
#include "config/reload.h"

#include <algorithm>

namespace culvert {

namespace {

[[nodiscard]] size_t count_of(Repeats repeats, const Config& config) {
  switch (repeats) {
    case Repeats::kListen:
      return config.listeners.size();
    case Repeats::kRealm:
      return config.realms.size();
    case Repeats::kOnce:
      break;
  }
  return 1;
}

}  // namespace

std::vector<Change> diff_for_reload(const Config& running, const Config& wanted) {
  std::vector<Change> changes;
  for (const SectionInfo& section : config_sections()) {
    const size_t before = count_of(section.repeats, running);
    const size_t after = count_of(section.repeats, wanted);
    bool first = true;
    for (const KeyInfo& key : config_keys()) {
      if (key.section != section.name) continue;
      for (size_t i = 0; i < std::min(before, after); ++i)
        if (key.write(running, i, true) != key.write(wanted, i, true))
          changes.push_back({element_path(key, i), key.reload});
      // The first key of a repeated section names its element, and needs a restart.
      if (first && before != after) changes.push_back({key.path(), Reload::kRestart});
      first = false;
    }
  }
  return changes;
}

std::optional<std::string> refuse_reload(const std::vector<Change>& changes) {
  std::string keys;
  size_t count = 0;
  for (const Change& change : changes) {
    if (change.reload == Reload::kLive) continue;
    keys += (count == 0 ? "" : ", ") + change.key;
    ++count;
  }
  if (count == 0) return std::nullopt;
  return keys + (count == 1 ? " needs" : " need") +
         " a restart; nothing was changed. Restart culvertd, or undo " +
         (count == 1 ? "this change" : "these changes") + " and reload again";
}

}  // namespace culvert
