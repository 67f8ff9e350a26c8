// Any bytes as a configuration file: the parser must come back with a Config or with errors that
// can be acted upon, and a Config that is printed must read back equal.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "config/parse.h"
#include "config/print.h"
#include "config/validate.h"
#include "dataplane/base/assert.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const culvert::ParseResult result = culvert::parse_toml(text, "fuzz.toml");
  ENSURE(result.config.has_value() == result.errors.empty());
  for (const culvert::Diagnostic& d : result.errors)
    ENSURE(d.line != 0 && !d.fix.empty());
  if (!result.config) return 0;
  (void)culvert::config_warnings(*result.config, result.origins);
  const culvert::ParseResult again = culvert::parse_toml(to_toml(*result.config, true), "again");
  ENSURE(again.config == result.config);
  return 0;
}
