#include "text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>

#include "text/utf8.h"

namespace mesh::text {
namespace {

using Kind = NormalizerStep::Kind;

// utf8proc sorts combining marks by insertion, which takes quadratic time on a long run of them; so
// characters are decomposed one by one, sorted here, and only composed by the library.
std::string unicode_form(std::string_view cluster, Kind kind) {
  const bool compat = kind == Kind::kNfkc || kind == Kind::kNfkd;
  const bool compose = kind == Kind::kNfc || kind == Kind::kNfkc;
  const auto decompose_options = static_cast<utf8proc_option_t>(
      UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> code_points;
  for (std::string_view rest = cluster; !rest.empty();) {
    const Utf8Step step = utf8_step(rest);
    rest.remove_prefix(step.bytes);
    std::array<utf8proc_int32_t, 64> parts{};  // the longest decomposition of Unicode has 18
    int boundary = 0;
    const auto count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(step.code_point), parts.data(),
                                parts.size(), decompose_options, &boundary);
    if (count <= 0 || count > static_cast<utf8proc_ssize_t>(parts.size())) {
      code_points.push_back(static_cast<utf8proc_int32_t>(step.code_point));
    } else {
      code_points.insert(code_points.end(), parts.begin(), parts.begin() + count);
    }
  }
  const auto combining = [](utf8proc_int32_t c) {
    return utf8proc_get_property(c)->combining_class;
  };
  for (auto begin = code_points.begin(); begin != code_points.end();) {
    if (combining(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, code_points.end(),
                                  [&](utf8proc_int32_t c) { return combining(c) == 0; });
    std::stable_sort(begin, end, [&](utf8proc_int32_t a, utf8proc_int32_t b) {
      return combining(a) < combining(b);
    });
    begin = end;
  }
  auto size = static_cast<utf8proc_ssize_t>(code_points.size());
  if (compose) {
    size = utf8proc_normalize_utf32(
        code_points.data(), size,
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    MESH_CHECK(size >= 0, "utf8proc: {}", utf8proc_errmsg(size));
  }
  std::string out;
  for (utf8proc_ssize_t i = 0; i < size; ++i)
    append_utf8(out, static_cast<char32_t>(code_points[static_cast<std::size_t>(i)]));
  return out;
}

// An ASCII character neither joins what stands before it nor decomposes, so text may be cut before
// each.
MarkedText unicode_form(const MarkedText& text, Kind kind) {
  if (text.ascii()) return text;
  const std::string_view bytes = text.bytes();
  const auto ascii_at = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]) < 0x80; };
  MarkedText out;
  std::size_t plain = 0;  // ASCII before a cluster is copied as it is
  for (std::size_t at = 0; at < bytes.size();) {
    if (ascii_at(at) && (at + 1 == bytes.size() || ascii_at(at + 1))) {
      ++at;
      continue;
    }
    out.append(text, plain, at);
    std::size_t end = at + 1;
    while (end < bytes.size() && !ascii_at(end)) ++end;
    const std::string_view cluster = bytes.substr(at, end - at);
    const std::string formed = unicode_form(cluster, kind);
    if (formed == cluster) {
      out.append(text, at, end);
    } else {
      out.append(formed, text.origin_of(at, end));
    }
    at = plain = end;
  }
  out.append(text, plain, bytes.size());
  return out;
}

MarkedText lowercase(const MarkedText& text) {
  MarkedText out;
  std::size_t at = 0;
  for (const MarkedText::Run& run : text.runs()) {
    std::string lowered;
    while (at < run.end) {
      const Utf8Step step = utf8_step(std::string_view(text.bytes()).substr(at));
      lowered += to_lower(step.code_point);
      at += step.bytes;
    }
    out.append(lowered, run.origin);
  }
  return out;
}

MarkedText replace_ranges(const MarkedText& text, const std::vector<ByteRange>& ranges,
                          std::string_view content) {
  MarkedText out;
  std::size_t at = 0;
  for (const ByteRange& range : ranges) {
    out.append(text, at, range.begin);
    out.append(content, text.origin_of(range.begin, range.end));
    at = range.end;
  }
  out.append(text, at, text.size());
  return out;
}

MarkedText strip(const MarkedText& text, const NormalizerStep& step) {
  std::size_t begin = 0;
  std::size_t end = text.size();
  const std::string_view bytes = text.bytes();
  while (step.left && begin < end) {
    const Utf8Step c = utf8_step(bytes.substr(begin));
    if (!is_space(c.code_point)) break;
    begin += c.bytes;
  }
  while (step.right && begin < end) {
    std::size_t last = end - 1;
    while (last > begin && (static_cast<unsigned char>(bytes[last]) & 0xC0) == 0x80) --last;
    if (!is_space(utf8_step(bytes.substr(last)).code_point)) break;
    end = last;
  }
  return text.slice(begin, end);
}

}  // namespace

Result<std::unique_ptr<Normalizer>> Normalizer::build(std::vector<NormalizerStep> steps) {
  auto normalizer = std::make_unique<Normalizer>();
  for (const NormalizerStep& step : steps) {
    std::unique_ptr<Regex> regex;
    if (step.kind == Kind::kReplace && step.regex) {
      MESH_ASSIGN_OR_RETURN(regex, Regex::compile(step.text));
    }
    normalizer->regexes_.push_back(std::move(regex));
  }
  normalizer->steps_ = std::move(steps);
  return normalizer;
}

Result<MarkedText> Normalizer::apply(MarkedText text) const {
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    const NormalizerStep& step = steps_[i];
    switch (step.kind) {
      case Kind::kNfc:
      case Kind::kNfd:
      case Kind::kNfkc:
      case Kind::kNfkd:
        text = unicode_form(text, step.kind);
        break;
      case Kind::kLowercase:
        text = lowercase(text);
        break;
      case Kind::kStrip:
        text = strip(text, step);
        break;
      case Kind::kPrepend:
        if (!text.empty()) {
          MarkedText longer(step.text, text.runs().front().origin);
          longer.append(text);
          text = std::move(longer);
        }
        break;
      case Kind::kReplace: {
        std::vector<ByteRange> ranges;
        if (regexes_[i] != nullptr) {
          MESH_RETURN_IF_ERROR(regexes_[i]->find_all(text.bytes(), ranges));
        } else {
          append_literal_matches(text.bytes(), step.text, ranges);
        }
        text = replace_ranges(text, ranges, step.content);
        break;
      }
    }
  }
  return text;
}

}  // namespace mesh::text
