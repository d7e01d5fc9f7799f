#pragma once
// A string with the origin of every byte, kept as runs; the string type of templates and of the
// tokenizer's front end.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "text/span.h"

namespace mesh::text {

class MarkedText {
 public:
  struct Run {
    std::size_t end = 0;  // byte offset behind the run; runs tile the text
    Origin origin = Origin::kTemplate;
    friend bool operator==(const Run&, const Run&) = default;
  };

  MarkedText() = default;
  MarkedText(std::string bytes, Origin origin);
  static MarkedText from_spans(const SpanText& spans);
  SpanText to_spans() const;

  const std::string& bytes() const { return bytes_; }
  const std::vector<Run>& runs() const { return runs_; }
  std::size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  bool ascii() const { return ascii_; }  // no byte above 0x7F

  // kCaller if any byte of [begin, end) is the caller's. An empty range is the template's.
  Origin origin_of(std::size_t begin, std::size_t end) const;
  Origin origin() const { return origin_of(0, size()); }

  void append(std::string_view bytes, Origin origin);
  void append(const MarkedText& other);
  void append(const MarkedText& other, std::size_t begin, std::size_t end);  // bytes [begin, end)
  MarkedText slice(std::size_t begin, std::size_t end) const;

 private:
  std::size_t run_at(std::size_t offset) const;  // index of the run that holds `offset`

  std::string bytes_;
  std::vector<Run> runs_;
  bool ascii_ = true;
};

}  // namespace mesh::text
