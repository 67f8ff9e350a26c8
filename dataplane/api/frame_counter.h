// The one place where a frame's fate before or after the path is named. See frame_counter.def.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "dataplane/api/outcome.h"

namespace culvert {

enum class FrameCounter : uint8_t {
#define X(name, severity, text) k_##name,
#include "dataplane/api/frame_counter.def"
#undef X
  kCount
};
inline constexpr size_t kFrameCounters = static_cast<size_t>(FrameCounter::kCount);

struct FrameCounterInfo {
  std::string_view name;
  Severity severity;
  std::string_view text;
};
inline constexpr FrameCounterInfo kFrameCounterInfo[kFrameCounters] = {
#define X(name, severity, text) {#name, Severity::severity, text},
#include "dataplane/api/frame_counter.def"
#undef X
};

}  // namespace culvert
