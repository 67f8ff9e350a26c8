// See print.h.
#include "config/print.h"

#include <string_view>

#include "config/parse.h"
#include "config/schema.h"

namespace culvert {

namespace {

// `text` in lines of "# ..." of at most 100 columns.
void append_comment(std::string& out, std::string_view text) {
  constexpr size_t kColumns = 98;
  while (!text.empty()) {
    size_t cut = text.size();
    if (cut > kColumns) {
      cut = text.rfind(' ', kColumns);
      if (cut == std::string_view::npos) cut = kColumns;
    }
    out += "# " + std::string(text.substr(0, cut)) + "\n";
    text.remove_prefix(cut);
    while (text.starts_with(' '))
      text.remove_prefix(1);
  }
}

[[nodiscard]] size_t element_count(const SectionInfo& section, const Config& config) {
  switch (section.repeats) {
    case Repeats::kListen:
      return config.listeners.size();
    case Repeats::kRealm:
      return config.realms.size();
    case Repeats::kOnce:
      break;
  }
  return 1;
}

[[nodiscard]] std::string header(const SectionInfo& section) {
  if (section.name.empty()) return {};
  const std::string name(section.name);
  return section.repeats == Repeats::kOnce ? "[" + name + "]\n" : "[[" + name + "]]\n";
}

// The defaults, with one listener and one realm so that their keys have defaults to show.
[[nodiscard]] Config sample_config() {
  Config config;
  config.listeners.resize(1);
  config.realms.resize(1);
  config.realms[0].name = kDefaultRealm;
  config.listeners[0].address = {IpAddress::v4(0), kDefaultListenPort};
  return config;
}

[[nodiscard]] bool has_default(const KeyInfo& key) {
  return key.section != "listen" || key.name != "address";
}

// The default in words where the value itself says little.
[[nodiscard]] std::string default_of(const KeyInfo& key, const Config& sample) {
  if (!has_default(key)) return "none, must be given";
  if (key.section == "listen" && key.name == "realm") return "the first realm";
  return key.write(sample, 0, true);
}

void append_key_comment(std::string& out, const KeyInfo& key, const Config& sample) {
  append_comment(out, key.doc);
  append_comment(out, std::string(key.type) + ": " + key.range_text() + ". Default " +
                          default_of(key, sample) + ". " +
                          (key.reload == Reload::kLive ? "Live: a reload changes it."
                                                       : "Restart: a reload must not change it.") +
                          (key.flag.empty() ? "" : " Flag " + std::string(key.flag) + "."));
}

[[nodiscard]] std::string table_cell(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

}  // namespace

std::string to_toml(const Config& config, bool show_secrets) {
  std::string out;
  for (const SectionInfo& section : config_sections()) {
    for (size_t element = 0; element < element_count(section, config); ++element) {
      if (!out.empty()) out += "\n";
      out += header(section);
      for (const KeyInfo& key : config_keys())
        if (key.section == section.name)
          out += std::string(key.name) + " = " + key.write(config, element, show_secrets) + "\n";
    }
  }
  return out;
}

std::string default_config_text() {
  const Config sample = sample_config();
  std::string out;
  append_comment(
      out,
      "The configuration of culvertd. Every key stands here with its default; lines that "
      "begin with # and no space are examples. Check a file with: culvertd check-config "
      "--config FILE");
  append_comment(
      out,
      "Durations are whole seconds or \"30s\", \"10m\", \"1h\". Rates are bytes per second "
      "or \"500kB/s\", \"10MB/s\", \"1MiB/s\", \"80Mbit/s\".");
  for (const SectionInfo& section : config_sections()) {
    const bool example = section.repeats != Repeats::kOnce;
    out += "\n";
    append_comment(out, section.doc);
    if (!section.name.empty()) out += (example ? "#" : "") + header(section);
    for (const KeyInfo& key : config_keys()) {
      if (key.section != section.name) continue;
      out += "\n";
      append_key_comment(out, key, sample);
      const std::string name(key.name);
      if (!key.example.empty()) out += "#" + name + " = " + std::string(key.example) + "\n";
      if (!example) out += name + " = " + key.write(sample, 0, true) + "\n";
    }
  }
  return out;
}

std::string key_reference_markdown() {
  const Config sample = sample_config();
  std::string out;
  for (const SectionInfo& section : config_sections()) {
    const std::string name(section.name);
    out += "### " +
           (section.name.empty()                ? std::string("Before any section")
            : section.repeats == Repeats::kOnce ? "`[" + name + "]`"
                                                : "`[[" + name + "]]`") +
           "\n\n" + std::string(section.doc) +
           "\n\n| Key | Type and range | Default | Change | Flag | What and why |\n"
           "|---|---|---|---|---|---|\n";
    for (const KeyInfo& key : config_keys()) {
      if (key.section != section.name) continue;
      const std::string value = default_of(key, sample);
      const bool words = !has_default(key) || value == "the first realm";
      out += "| `" + key.path() + "` | " + std::string(key.type) + ": " +
             table_cell(key.range_text()) + " | " + (words ? value : "`" + value + "`") + " | " +
             std::string(reload_name(key.reload)) + " | " +
             (key.flag.empty() ? std::string() : "`" + std::string(key.flag) + "`") + " | " +
             table_cell(key.doc) + " |\n";
    }
    out += "\n";
  }
  return out;
}

}  // namespace culvert
