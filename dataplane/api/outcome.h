// The one place where a datagram's fate is named. See outcome.def.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace culvert {

enum class Severity : uint8_t { ok, normal, notice, hostile };

enum class Outcome : uint8_t {
#define X(name, severity, text) k_##name,
#include "dataplane/api/outcome.def"
#undef X
  kCount
};
inline constexpr size_t kOutcomes = static_cast<size_t>(Outcome::kCount);

struct OutcomeInfo {
  std::string_view name;
  Severity severity;
  std::string_view text;
};
inline constexpr OutcomeInfo kOutcomeInfo[kOutcomes] = {
#define X(name, severity, text) {#name, Severity::severity, text},
#include "dataplane/api/outcome.def"
#undef X
};
[[nodiscard]] constexpr const OutcomeInfo& info(Outcome o) {
  return kOutcomeInfo[static_cast<size_t>(o)];
}

}  // namespace culvert
