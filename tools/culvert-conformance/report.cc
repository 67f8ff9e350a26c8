#include "tools/culvert-conformance/report.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

namespace culvert::conformance {

std::string table_line(const Result& result) {
  char head[64];
  const std::string number = "T" + std::to_string(result.row->number);
  std::snprintf(head, sizeof head, "%-5s %-16s %-15s ", number.c_str(), result.row->section,
                name_of(result.verdict));
  return head + std::string(result.row->title) + "\n" + std::string(38, ' ') + result.evidence +
         "\n";
}

std::string summary(std::span<const Result> results) {
  std::string out;
  for (const Verdict verdict : {Verdict::kPass, Verdict::kFail, Verdict::kNotOffered,
                                Verdict::kNotObservable, Verdict::kNotRun}) {
    const auto count = std::count_if(results.begin(), results.end(),
                                     [&](const Result& r) { return r.verdict == verdict; });
    if (!out.empty()) out += ", ";
    out += std::to_string(count) + " " + name_of(verdict);
  }
  return out + "\n";
}

nlohmann::json to_json(const std::string& server, std::span<const Result> results) {
  nlohmann::json rows = nlohmann::json::array();
  nlohmann::json totals = nlohmann::json::object();
  for (const Result& r : results) {
    rows.push_back({{"row", "T" + std::to_string(r.row->number)},
                    {"rfc", r.row->section},
                    {"title", r.row->title},
                    {"verdict", name_of(r.verdict)},
                    {"evidence", r.evidence},
                    {"seconds", r.seconds}});
    const char* name = name_of(r.verdict);
    totals[name] = totals.value(name, 0) + 1;
  }
  return {{"server", server}, {"rows", rows}, {"totals", totals}};
}

int exit_status(std::span<const Result> results) {
  return std::any_of(results.begin(), results.end(),
                     [](const Result& r) { return r.verdict == Verdict::kFail; })
             ? 1
             : 0;
}

int row_number(const std::string& text) {
  const size_t skip = !text.empty() && (text[0] == 'T' || text[0] == 't') ? 1 : 0;
  int number = 0;
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data() + skip, end, number);
  return error == std::errc{} && at == end && number > 0 ? number : 0;
}

}  // namespace culvert::conformance
