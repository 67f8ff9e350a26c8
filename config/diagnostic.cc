// See diagnostic.h.
#include "config/diagnostic.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace culvert {

namespace {

// A word longer than this is no slip of a key; it bounds the work of the distance.
constexpr size_t kMaxWord = 64;

[[nodiscard]] size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i)
    d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j)
    d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = a[i - 1] == b[j - 1] ? 0 : 1;
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

}  // namespace

std::string Diagnostic::to_string() const {
  std::string out;
  const bool from_flag = line == 0 && !file.empty();
  if (line != 0) out = file + ":" + std::to_string(line) + ": ";
  if (from_flag) out = file + ": ";
  // A flag names its value well enough; the key would only repeat it.
  if (!from_flag && !key.empty()) out += key + ": ";
  out += problem;
  if (!fix.empty()) out += "; " + fix;
  return out;
}

Diagnostic make_diagnostic(const Origin& origin, std::string_view key, std::string problem,
                           std::string fix) {
  return {origin.file,      origin.line,        origin.column,
          std::string(key), std::move(problem), std::move(fix)};
}

void sort_diagnostics(std::vector<Diagnostic>& diagnostics) {
  const auto less = [](const Diagnostic& a, const Diagnostic& b) {
    if ((a.line == 0) != (b.line == 0)) return b.line == 0;
    return std::tie(a.line, a.column, a.file, a.key, a.problem) <
           std::tie(b.line, b.column, b.file, b.key, b.problem);
  };
  const auto same = [](const Diagnostic& a, const Diagnostic& b) {
    return std::tie(a.line, a.column, a.file, a.key, a.problem) ==
           std::tie(b.line, b.column, b.file, b.key, b.problem);
  };
  std::stable_sort(diagnostics.begin(), diagnostics.end(), less);
  diagnostics.erase(std::unique(diagnostics.begin(), diagnostics.end(), same), diagnostics.end());
}

std::string_view closest(std::string_view word, std::span<const std::string_view> candidates) {
  if (word.empty() || word.size() > kMaxWord) return {};
  std::string_view best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string_view candidate : candidates) {
    const size_t distance = edit_distance(word, candidate);
    // Of a word as short as what would change, nothing is left.
    if (distance >= best_distance || distance >= word.size()) continue;
    best = candidate;
    best_distance = distance;
  }
  return best;
}

}  // namespace culvert
