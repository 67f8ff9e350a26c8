// A value as it was written, before anyone asked what it means: what the TOML reader and the flags
// both produce, so that one set of rules reads both. Only config/parse.cc knows the TOML library.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "config/diagnostic.h"

namespace culvert {

struct Value {
  enum class Kind : uint8_t { kInteger, kString, kBoolean, kList, kTable, kOther };

  Kind kind = Kind::kOther;
  Origin origin;  // a table's items have those of their names
  int64_t integer = 0;
  bool boolean = false;
  std::string text;                // kString: the string; kOther: what it is ("a date")
  std::vector<Value> items;        // of a list, or the values of a table, in file order
  std::vector<std::string> names;  // of a table: names[i] belongs to items[i]

  // From a flag: all there is is text, so numbers may be written in it.
  bool from_flag = false;

  [[nodiscard]] static Value flag(std::string_view name, std::string_view text) {
    Value v;
    v.kind = Kind::kString;
    v.origin.file = std::string(name);
    v.text = std::string(text);
    v.from_flag = true;
    return v;
  }
  [[nodiscard]] std::string_view kind_name() const {
    switch (kind) {
      case Kind::kInteger:
        return "a number";
      case Kind::kString:
        return "a string";
      case Kind::kBoolean:
        return "true or false";
      case Kind::kList:
        return "a list";
      case Kind::kTable:
        return "a table";
      case Kind::kOther:
        break;
    }
    return text;
  }
};

}  // namespace culvert
