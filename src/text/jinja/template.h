#pragma once
// A Jinja template: parsed once, rendered many times.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/jinja/value.h"
#include "text/span.h"

namespace mesh::text::jinja {

struct Program;

// The part of Jinja 3.1 that chat templates use, in the environment of Hugging Face transformers
// (trim_blocks, lstrip_blocks, loop controls, immutable values). Immutable: many threads may render
// at once. Bounds: limits::kTemplateSourceBytes, kTemplateSteps, kTemplateDepth,
// kTemplateOutputBytes.
class Template {
 public:
  using Variables = std::vector<std::pair<std::string, Value>>;

  // Errors: invalid_argument "line N: …" for a syntax error.
  static Result<std::unique_ptr<Template>> parse(std::string_view source);
  ~Template();
  Template(const Template&) = delete;
  Template& operator=(const Template&) = delete;

  // `variables` makes the variables and may throw TemplateError, which becomes the error.
  // strftime_now tells the time `unix_seconds` in UTC. Errors: invalid_argument with the message of
  // raise_exception; invalid_argument "line N: …"; resource_exhausted when a bound is met.
  Result<SpanText> render(const std::function<Variables()>& variables,
                          std::int64_t unix_seconds) const;

 private:
  explicit Template(std::unique_ptr<Program> program);
  std::unique_ptr<Program> program_;
};

}  // namespace mesh::text::jinja
