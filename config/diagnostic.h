// What is wrong with a configuration, said so that the reader can mend it: where, which key, what
// is wrong, what to do. Diagnostics are collected, not thrown: one run shows every mistake.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace culvert {

// Where a value came from. line 0: a flag, whose name is in `file` ("--listen"), or the defaults
// (empty).
struct Origin {
  std::string file;
  uint32_t line = 0;
  uint32_t column = 0;
};

// By key with the element of a repeated section: "limits.max_allocations", "realm[1].name".
using Origins = std::map<std::string, Origin, std::less<>>;

struct Diagnostic {
  std::string file;
  uint32_t line = 0;    // 1-based; 0: not from a file
  uint32_t column = 0;  // 1-based
  std::string key;      // "limits.max_allocations"; may be empty
  std::string problem;
  std::string fix;  // what to do instead; may be empty

  // `culvert.toml:12: limits.max_allocation: unknown key; did you mean "max_allocations"?`
  [[nodiscard]] std::string to_string() const;
};

[[nodiscard]] Diagnostic make_diagnostic(const Origin& origin, std::string_view key,
                                         std::string problem, std::string fix);

// By file position, flags last; equal ones once.
void sort_diagnostics(std::vector<Diagnostic>& diagnostics);

// The candidate with the least edit distance (Damerau, restricted) to `word` if that is small
// enough to be a slip: at most 2, or a third of the word. Empty: none. Candidates of a few dozen
// short words.
[[nodiscard]] std::string_view closest(std::string_view word,
                                       std::span<const std::string_view> candidates);

}  // namespace culvert
