// OpaqueString (RFC 8265 section 4.2) on utf8proc's Unicode tables: RFC 8264's FreeformClass in
// terms of general category, default-ignorable property and combining class, with the exceptions
// and context rules of RFC 5892 that PRECIS keeps. Left out: the joining-type half of the ZERO
// WIDTH NON-JOINER rule, for which utf8proc has no table (a virama before it is still asked for).
#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "crypto/bytes.h"
#include "crypto/credentials.h"

namespace culvert::crypto {

namespace {

using CodePoints = std::vector<utf8proc_int32_t>;

[[nodiscard]] bool in(utf8proc_int32_t c, utf8proc_int32_t low, utf8proc_int32_t high) {
  return c >= low && c <= high;
}

[[nodiscard]] bool old_hangul_jamo(utf8proc_int32_t c) {
  return in(c, 0x1100, 0x11ff) || in(c, 0xa960, 0xa97f) || in(c, 0xd7b0, 0xd7ff);
}

[[nodiscard]] bool noncharacter(utf8proc_int32_t c) {
  return in(c, 0xfdd0, 0xfdef) || (c & 0xfffe) == 0xfffe;
}

// RFC 5892 section 2.6, "DISALLOWED" rows.
[[nodiscard]] bool exception_disallowed(utf8proc_int32_t c) {
  return c == 0x0640 || c == 0x07fa || c == 0x302e || c == 0x302f || in(c, 0x3031, 0x3035) ||
         c == 0x303b;
}

[[nodiscard]] bool kana_or_han(utf8proc_int32_t c) {
  return in(c, 0x3041, 0x3096) || in(c, 0x309d, 0x309f) || in(c, 0x30a1, 0x30fa) ||
         in(c, 0x30fd, 0x30ff) || in(c, 0x31f0, 0x31ff) || c == 0x3005 || c == 0x3007 ||
         in(c, 0x3400, 0x4dbf) || in(c, 0x4e00, 0x9fff) || in(c, 0xf900, 0xfaff) ||
         in(c, 0xff66, 0xff9d) || in(c, 0x20000, 0x323af);
}

[[nodiscard]] bool any_in(const CodePoints& text, utf8proc_int32_t low, utf8proc_int32_t high) {
  return std::any_of(text.begin(), text.end(),
                     [=](utf8proc_int32_t c) { return in(c, low, high); });
}

enum class Rule { kNone, kHolds, kBroken };

// RFC 5892 appendix A.
[[nodiscard]] Rule context_rule(const CodePoints& text, size_t at) {
  const utf8proc_int32_t c = text[at];
  const utf8proc_int32_t before = at > 0 ? text[at - 1] : 0;
  const utf8proc_int32_t after = at + 1 < text.size() ? text[at + 1] : 0;
  const auto is = [](bool holds) { return holds ? Rule::kHolds : Rule::kBroken; };
  constexpr int kVirama = 9;
  switch (c) {
    case 0x200c:
    case 0x200d:
      return is(before != 0 && utf8proc_get_property(before)->combining_class == kVirama);
    case 0x00b7:
      return is(before == 'l' && after == 'l');
    case 0x0375:
      return is(in(after, 0x0370, 0x03ff) || in(after, 0x1f00, 0x1fff));
    case 0x05f3:
    case 0x05f4:
      return is(in(before, 0x0591, 0x05f4));
    case 0x30fb:
      return is(std::any_of(text.begin(), text.end(), kana_or_han));
    default:
      break;
  }
  if (in(c, 0x0660, 0x0669)) return is(!any_in(text, 0x06f0, 0x06f9));
  if (in(c, 0x06f0, 0x06f9)) return is(!any_in(text, 0x0660, 0x0669));
  return Rule::kNone;
}

[[nodiscard]] bool category_allowed(utf8proc_int32_t c) {
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_CN:  // unassigned
    case UTF8PROC_CATEGORY_CC:  // controls
    case UTF8PROC_CATEGORY_CF:  // formats
    case UTF8PROC_CATEGORY_CS:  // surrogates
    case UTF8PROC_CATEGORY_CO:  // private use
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;  // letters, marks, numbers, punctuation, symbols, spaces
  }
}

[[nodiscard]] bool freeform(const CodePoints& text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const utf8proc_int32_t c = text[i];
    const Rule rule = context_rule(text, i);
    if (rule == Rule::kHolds) continue;
    if (rule == Rule::kBroken || exception_disallowed(c) || old_hangul_jamo(c) || noncharacter(c) ||
        utf8proc_get_property(c)->ignorable || !category_allowed(c))
      return false;
  }
  return true;
}

[[nodiscard]] std::optional<CodePoints> decode(std::string_view text) {
  CodePoints out;
  const auto* at = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  auto left = static_cast<utf8proc_ssize_t>(text.size());
  while (left > 0) {
    utf8proc_int32_t c;
    const utf8proc_ssize_t used = utf8proc_iterate(at, left, &c);
    if (used <= 0) return std::nullopt;
    out.push_back(c);
    at += used;
    left -= used;
  }
  return out;
}

[[nodiscard]] std::string encode(const CodePoints& text) {
  std::string out;
  for (const utf8proc_int32_t c : text) {
    utf8proc_uint8_t bytes[4];
    const auto count = static_cast<size_t>(utf8proc_encode_char(c, bytes));
    out.append(reinterpret_cast<const char*>(bytes), count);
  }
  return out;
}

[[nodiscard]] std::optional<std::string> normalise(const std::string& text) {
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owner(mapped, std::free);
  if (length < 0) return std::nullopt;
  std::string out(reinterpret_cast<const char*>(mapped), static_cast<size_t>(length));
  wipe(mapped, static_cast<size_t>(length));  // it may be a password
  return out;
}

}  // namespace

std::optional<std::string> opaque_string(std::string_view text) {
  if (text.empty()) return std::nullopt;
  // Printable ASCII, which is nearly every name and every minted password, is its own OpaqueString.
  if (std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c <= 0x7e; }))
    return std::string(text);

  std::optional<CodePoints> points = decode(text);
  if (!points) return std::nullopt;
  for (utf8proc_int32_t& c : *points)
    if (utf8proc_category(c) == UTF8PROC_CATEGORY_ZS) c = ' ';
  std::optional<std::string> out = normalise(encode(*points));
  if (!out || out->empty()) return std::nullopt;
  const std::optional<CodePoints> result = decode(*out);
  if (!result || !freeform(*result)) return std::nullopt;
  return out;
}

}  // namespace culvert::crypto
