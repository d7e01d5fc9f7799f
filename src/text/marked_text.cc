#include "text/marked_text.h"

#include <algorithm>

#include "text/utf8.h"

namespace mesh::text {

MarkedText::MarkedText(std::string bytes, Origin origin) : bytes_(std::move(bytes)) {
  if (!bytes_.empty()) runs_.push_back({bytes_.size(), origin});
  ascii_ = is_ascii(bytes_);
}

MarkedText MarkedText::from_spans(const SpanText& spans) {
  MarkedText out;
  std::size_t size = 0;
  for (const Span& span : spans) size += span.text.size();
  out.bytes_.reserve(size);
  for (const Span& span : spans) out.append(span.text, span.origin);
  return out;
}

SpanText MarkedText::to_spans() const {
  SpanText spans;
  std::size_t begin = 0;
  for (const Run& run : runs_) {
    append_span(spans, bytes_.substr(begin, run.end - begin), run.origin);
    begin = run.end;
  }
  return spans;
}

std::size_t MarkedText::run_at(std::size_t offset) const {
  const auto it = std::upper_bound(runs_.begin(), runs_.end(), offset,
                                   [](std::size_t at, const Run& run) { return at < run.end; });
  return static_cast<std::size_t>(it - runs_.begin());
}

Origin MarkedText::origin_of(std::size_t begin, std::size_t end) const {
  if (begin >= end) return Origin::kTemplate;
  for (std::size_t i = run_at(begin); i < runs_.size(); ++i) {
    if (runs_[i].origin == Origin::kCaller) return Origin::kCaller;
    if (runs_[i].end >= end) break;
  }
  return Origin::kTemplate;
}

void MarkedText::append(std::string_view bytes, Origin origin) {
  if (bytes.empty()) return;
  ascii_ = ascii_ && is_ascii(bytes);
  bytes_.append(bytes);
  if (!runs_.empty() && runs_.back().origin == origin) {
    runs_.back().end = bytes_.size();
  } else {
    runs_.push_back({bytes_.size(), origin});
  }
}

void MarkedText::append(const MarkedText& other) {
  append(other, 0, other.size());
}

void MarkedText::append(const MarkedText& other, std::size_t begin, std::size_t end) {
  const std::string_view view(other.bytes_);
  for (std::size_t i = begin < end ? other.run_at(begin) : 0; begin < end; ++i) {
    const std::size_t stop = std::min(end, other.runs_[i].end);
    append(view.substr(begin, stop - begin), other.runs_[i].origin);
    begin = stop;
  }
}

MarkedText MarkedText::slice(std::size_t begin, std::size_t end) const {
  MarkedText out;
  if (begin < end) out.bytes_.reserve(end - begin);
  out.append(*this, begin, end);
  return out;
}

}  // namespace mesh::text
