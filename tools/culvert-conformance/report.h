// The results for people (a table) and for programs (JSON), and the exit status.
#pragma once

#include <span>
#include <string>

#include <nlohmann/json.hpp>

#include "tools/culvert-conformance/rows.h"

namespace culvert::conformance {

[[nodiscard]] std::string table_line(const Result& result);
[[nodiscard]] std::string summary(std::span<const Result> results);
[[nodiscard]] nlohmann::json to_json(const std::string& server, std::span<const Result> results);
// 0: no row failed; 1: one did.
[[nodiscard]] int exit_status(std::span<const Result> results);
// "T12", "t12" or "12"; 0 when it is none of them.
[[nodiscard]] int row_number(const std::string& text);

}  // namespace culvert::conformance
