// Whatever line comes over the control socket: exactly one answer, valid JSON of one line, or none
// for a notification. Also the two small languages inside it: explain's datagrams and allocation
// ids.
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string_view>

#include "control/operations.h"
#include "control/rpc.h"
#include "dataplane/base/assert.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using culvert::RpcAnswer;
  using nlohmann::json;
  const std::string_view line(reinterpret_cast<const char*>(data), size);
  static const culvert::Rpc rpc({
      {"echo",
       "gives its parameters back",
       json{{"text", {{"type", "string"}, {"maxLength", 100}}},
            {"number", {{"type", "integer"}, {"minimum", -3}, {"maximum", 500}}},
            {"flag", {{"type", "boolean"}}},
            {"hash", {{"type", "string"}, {"enum", {"sha1", "sha256"}}}}},
       {"text"},
       [](const json& params, const RpcAnswer& answer) { answer.result(params); }},
      {"throw",
       "fails",
       json::object(),
       {},
       [](const json&, const RpcAnswer&) { throw std::runtime_error("\xff"); }},
  });
  int answers = 0;
  rpc.handle(line, [&](std::string answer) {
    ++answers;
    if (answer.empty()) return;
    ENSURE(answer.find('\n') == std::string::npos);
    const json parsed = json::parse(answer, nullptr, false);
    ENSURE(parsed.is_object() && parsed.contains("error") != parsed.contains("result"));
  });
  ENSURE(answers == 1);
  const culvert::ExplainText explain = culvert::parse_explain(line);
  ENSURE(!explain.error.empty() || explain.query.channel == 0 ||
         (explain.query.channel >= culvert::kFirstChannel &&
          explain.query.channel <= culvert::kLastChannel));
  if (const auto id = culvert::parse_allocation_id(line))
    ENSURE(culvert::parse_allocation_id(culvert::format_allocation_id(*id)) == id);
  return 0;
}
