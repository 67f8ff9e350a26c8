// Answers of the control socket as text for people: aligned tables, units, nothing else. Pure
// functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace culvert {

// Columns as wide as their widest cell (by UTF-8 characters), two spaces between. Cells marked in
// `right` align right.
class Table {
 public:
  explicit Table(std::vector<std::string> head, std::vector<bool> right);
  void add(std::vector<std::string> row);
  [[nodiscard]] std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
  std::vector<bool> right_;
};

// "1.2 MiB", "640 B"; "1,234,567"; "1h02m", "42s".
[[nodiscard]] std::string with_bytes(uint64_t bytes);
[[nodiscard]] std::string with_commas(uint64_t number);
[[nodiscard]] std::string with_time(double seconds);
// Control characters of foreign text as \xNN: names come from the network, the terminal is ours.
[[nodiscard]] std::string printable(const std::string& text);

[[nodiscard]] std::string render_health(const nlohmann::json& health);
[[nodiscard]] std::string render_status(const nlohmann::json& status);
[[nodiscard]] std::string render_allocations(const nlohmann::json& answer);
// `all`: outcomes that never happened too, and those of severity ok.
[[nodiscard]] std::string render_drops(const nlohmann::json& drops, bool all, bool per_core);
[[nodiscard]] std::string render_cores(const nlohmann::json& cores);
[[nodiscard]] std::string render_explain(const nlohmann::json& report);
// Any object: one "key  value" a line, nested ones indented.
[[nodiscard]] std::string render_object(const nlohmann::json& object);

}  // namespace culvert
