#pragma once
// Text that remembers who wrote it: control tokens are recognised only in what the model's template
// wrote.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace mesh::text {

// Who wrote a piece of a prompt: the template that came with the model, or the caller of the API.
enum class Origin : std::uint8_t { kTemplate, kCaller };

struct Span {
  std::string text;
  Origin origin = Origin::kCaller;
  friend bool operator==(const Span&, const Span&) = default;
};

// Neighbouring spans have different origins and no span is empty when it was built with
// append_span.
using SpanText = std::vector<Span>;

// Appends `text`, merging it into the last span if the origins agree.
inline void append_span(SpanText& spans, std::string text, Origin origin) {
  if (text.empty()) return;
  if (!spans.empty() && spans.back().origin == origin) {
    spans.back().text += text;
  } else {
    spans.push_back(Span{std::move(text), origin});
  }
}

// The text without its origins.
inline std::string concatenate(const SpanText& spans) {
  std::size_t size = 0;
  for (const Span& span : spans) size += span.text.size();
  std::string out;
  out.reserve(size);
  for (const Span& span : spans) out += span.text;
  return out;
}

}  // namespace mesh::text
