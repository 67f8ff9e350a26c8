// The JSON of a result, in parts, for the modes that put several trials into one document.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "tools/culvert-load/run.h"

namespace culvert::load {

using Json = nlohmann::ordered_json;

// Tool, version, time, machine, options.
[[nodiscard]] Json head_json(const Options& options);
// What was measured.
[[nodiscard]] Json result_json(const Result& result);
// To a file, or to standard output for "-"; nothing for an empty path. False after printing why
// not.
[[nodiscard]] bool write_json(const std::string& path, const Json& json);

}  // namespace culvert::load
