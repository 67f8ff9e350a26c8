// See parse.h. The only file that knows the TOML library: it turns the document into Values, walks
// the key table over them, and leaves meaning to schema.cc and validate.cc.
#include "config/parse.h"

#include <toml++/toml.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "config/schema.h"
#include "config/units.h"
#include "config/validate.h"
#include "config/value.h"

namespace culvert {

namespace {

[[nodiscard]] Origin origin_of(const toml::source_region& source, std::string_view filename) {
  return {std::string(filename), source.begin.line, source.begin.column};
}

[[nodiscard]] Value to_value(const toml::node& node, std::string_view filename) {
  Value value;
  value.origin = origin_of(node.source(), filename);
  if (const auto* integer = node.as_integer()) {
    value.kind = Value::Kind::kInteger;
    value.integer = integer->get();
  } else if (const auto* text = node.as_string()) {
    value.kind = Value::Kind::kString;
    value.text = text->get();
  } else if (const auto* boolean = node.as_boolean()) {
    value.kind = Value::Kind::kBoolean;
    value.boolean = boolean->get();
  } else if (const auto* list = node.as_array()) {
    value.kind = Value::Kind::kList;
    for (const toml::node& item : *list)
      value.items.push_back(to_value(item, filename));
  } else if (const auto* table = node.as_table()) {
    value.kind = Value::Kind::kTable;
    for (const auto& [name, item] : *table) {
      value.names.emplace_back(name.str());
      value.items.push_back(to_value(item, filename));
      // What is wrong with an entry is shown where its name stands.
      value.items.back().origin = origin_of(name.source(), filename);
    }
  } else {
    value.text = node.is_floating_point() ? "a number with a fraction" : "a date or time";
  }
  return value;
}

// Walks the document; one per parse.
class Reader {
 public:
  explicit Reader(ParseResult& result) : result_(result), config_(*result.config) {}

  void read(const Value& document) {
    count_elements(document);
    // Realms before listeners, which name them; otherwise order means nothing.
    for (const Repeats pass : {Repeats::kRealm, Repeats::kOnce, Repeats::kListen})
      for (const SectionInfo& section : config_sections())
        if (section.repeats == pass) read_section(section, document);
    for (size_t i = 0; i < document.items.size(); ++i)
      if (!is_section(document.names[i]) && find_key("", document.names[i]) == nullptr)
        unknown_key("", document.names[i], document.items[i].origin);
  }

 private:
  void complain(const Origin& origin, std::string_view key, std::string problem, std::string fix) {
    result_.errors.push_back(make_diagnostic(origin, key, std::move(problem), std::move(fix)));
  }

  [[nodiscard]] static bool is_section(std::string_view name) {
    for (const SectionInfo& section : config_sections())
      if (!section.name.empty() && section.name == name) return true;
    return false;
  }
  [[nodiscard]] static const Value* find(const Value& table, std::string_view name) {
    for (size_t i = 0; i < table.items.size(); ++i)
      if (table.names[i] == name) return &table.items[i];
    return nullptr;
  }

  void count_elements(const Value& document) {
    const Value* listeners = find(document, "listen");
    const Value* realms = find(document, "realm");
    const auto count = [](const Value* v) {
      return v != nullptr && v->kind == Value::Kind::kList ? v->items.size() : 0;
    };
    config_.listeners.resize(count(listeners));
    config_.realms.resize(std::max<size_t>(count(realms), 1));
    for (RealmConfig& realm : config_.realms)
      realm.name = kDefaultRealm;
  }

  void read_section(const SectionInfo& section, const Value& document) {
    if (section.name.empty()) {
      read_keys(section.name, document, 0, /*report_unknown=*/false);
      return;
    }
    const Value* value = find(document, section.name);
    if (value == nullptr) return;
    if (section.repeats == Repeats::kOnce) {
      if (value->kind == Value::Kind::kTable)
        read_keys(section.name, *value, 0, true);
      else
        complain(value->origin, section.name,
                 "must be a section, is " + std::string(value->kind_name()),
                 "write [" + std::string(section.name) + "] and its keys under it");
      return;
    }
    const bool tables = value->kind == Value::Kind::kList &&
                        std::all_of(value->items.begin(), value->items.end(),
                                    [](const Value& v) { return v.kind == Value::Kind::kTable; });
    if (!tables) {
      complain(value->origin, section.name, "may be given several times and is a list of tables",
               "write [[" + std::string(section.name) + "]] with two brackets");
      return;
    }
    for (size_t i = 0; i < value->items.size(); ++i)
      read_keys(section.name, value->items[i], i, true);
    if (section.repeats == Repeats::kListen) require_addresses(*value);
  }

  void require_addresses(const Value& listeners) {
    for (const Value& listener : listeners.items)
      if (find(listener, "address") == nullptr)
        complain(listener.origin, "listen.address", "is missing from this [[listen]]",
                 "add address = \"0.0.0.0:3478\"");
  }

  void read_keys(std::string_view section, const Value& table, size_t element,
                 bool report_unknown) {
    for (size_t i = 0; i < table.items.size(); ++i) {
      const KeyInfo* key = find_key(section, table.names[i]);
      const Value& value = table.items[i];
      if (key != nullptr) {
        result_.origins[element_path(*key, element)] = value.origin;
        key->read(*key, value, config_, element, result_.errors);
      } else if (report_unknown) {
        unknown_key(section, table.names[i], value.origin);
      }
    }
  }

  void unknown_key(std::string_view section, const std::string& name, const Origin& origin) {
    std::vector<std::string_view> here;
    std::string_view elsewhere;
    bool is_elsewhere = false;
    for (const KeyInfo& key : config_keys()) {
      if (key.section == section) {
        here.push_back(key.name);
      } else if (key.name == name) {
        elsewhere = key.section;
        is_elsewhere = true;
      }
    }
    if (section.empty())
      for (const SectionInfo& info : config_sections())
        if (!info.name.empty()) here.push_back(info.name);
    const std::string path = section.empty() ? name : std::string(section) + "." + name;
    std::string fix = "culvertd default-config lists all keys";
    if (const std::string_view near = closest(name, here); !near.empty())
      fix = "did you mean " + toml_quote(near) + "?";
    else if (is_elsewhere && elsewhere.empty())
      fix = "it belongs before the first [section]";
    else if (is_elsewhere)
      fix = "it belongs under [" + std::string(elsewhere) + "]";
    complain(origin, path, "unknown key", std::move(fix));
  }

  ParseResult& result_;
  Config& config_;
};

[[nodiscard]] ParseResult failed(std::string_view filename, std::string problem, std::string fix) {
  ParseResult result;
  result.errors.push_back({std::string(filename), 0, 0, {}, std::move(problem), std::move(fix)});
  return result;
}

}  // namespace

ParseResult parse_toml(std::string_view text, std::string_view filename) {
  ParseResult result;
  Value document;
  try {
    const toml::table table = toml::parse(text, filename);
    document = to_value(table, filename);
  } catch (const toml::parse_error& error) {
    result.errors.push_back(make_diagnostic(
        origin_of(error.source(), filename), {}, "not TOML: " + std::string(error.description()),
        "strings stand in double quotes, sections in [ ], comments after #"));
    return result;
  }
  result.config.emplace();
  Reader(result).read(document);
  // The rules between keys say nothing useful about keys that could not be read.
  if (result.errors.empty()) result.errors = validate(*result.config, result.origins);
  if (!result.errors.empty()) result.config.reset();
  sort_diagnostics(result.errors);
  return result;
}

ParseResult parse_toml_file(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "re"),
                                                             &std::fclose);
  if (!file)
    return failed(path, std::string("cannot be opened: ") + std::strerror(errno),
                  "check the path, and that this user may read it");
  std::string text;
  std::string chunk(64u << 10, '\0');
  for (size_t got = 0; (got = std::fread(chunk.data(), 1, chunk.size(), file.get())) != 0;) {
    text.append(chunk, 0, got);
    if (text.size() > kMaxConfigBytes)
      return failed(path, "is longer than 16 MiB", "keep that many users in a database");
  }
  if (std::ferror(file.get()) != 0)
    return failed(path, std::string("cannot be read: ") + std::strerror(errno),
                  "give the path of a file");
  return parse_toml(text, path);
}

}  // namespace culvert
