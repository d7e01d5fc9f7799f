#include "text/jinja/template.h"

#include <fmt/format.h>

#include "text/jinja/interpreter.h"
#include "text/jinja/parser.h"
#include "text/utf8.h"

namespace mesh::text::jinja {

Template::Template(std::unique_ptr<Program> program) : program_(std::move(program)) {}
Template::~Template() = default;

Result<std::unique_ptr<Template>> Template::parse(std::string_view source) {
  try {
    const std::string valid = to_valid_utf8(source);
    auto program = std::make_unique<Program>(parse_program(valid));
    return std::unique_ptr<Template>(new Template(std::move(program)));
  } catch (const SyntaxError& e) {
    return Error(Code::kInvalidArgument, fmt::format("line {}: {}", e.line, e.message));
  } catch (const TemplateError& e) {
    return Error(e.code, e.message);
  }
}

Result<SpanText> Template::render(const std::function<Variables()>& variables,
                                  std::int64_t unix_seconds) const {
  Interpreter interpreter(*program_, unix_seconds);
  try {
    for (auto& [name, value] : variables()) interpreter.define(name, std::move(value));
    return interpreter.run().to_spans();
  } catch (const TemplateError& e) {
    if (e.raised || interpreter.line() == 0) return Error(e.code, e.message);
    return Error(e.code, fmt::format("line {}: {}", interpreter.line(), e.message));
  }
}

}  // namespace mesh::text::jinja
