#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <array>

#include "base/limits.h"
#include "text/utf8.h"

namespace mesh::text {
namespace {

constexpr std::size_t kJitStackBytes = 64u << 10;
constexpr std::size_t kJitStackBytesMax = 64u << 20;

struct MatchResources {
  pcre2_match_data* data = nullptr;
  pcre2_match_context* context = nullptr;
  pcre2_jit_stack* stack = nullptr;
  explicit MatchResources(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)),
        context(pcre2_match_context_create(nullptr)),
        stack(pcre2_jit_stack_create(kJitStackBytes, kJitStackBytesMax, nullptr)) {
    MESH_CHECK(data != nullptr && context != nullptr, "out of memory");
    pcre2_set_match_limit(context, limits::kRegexSteps);
    pcre2_set_heap_limit(context, kJitStackBytesMax >> 10);  // KiB
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~MatchResources() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
  MatchResources(const MatchResources&) = delete;
  MatchResources& operator=(const MatchResources&) = delete;
};

std::string pcre_message(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

// Exactly White_Space: PCRE2's \s has U+180E besides, which Unicode took out of it in version 6.3.
constexpr std::string_view kSpaceItems = R"(\t-\r\x{85}\p{Z})";

Error unsupported(std::string_view what, std::size_t at) {
  return Error(Code::kUnsupported, fmt::format("regular expression: {} at byte {}", what, at));
}

// An escape at `at` is copied; a script property is pinned to the Script value, because PCRE2 reads
// \p{Han} as the wider Script_Extensions (which has U+3002 and other shared punctuation). Moves
// `at` behind it.
std::string copy_escape(std::string_view pattern, std::size_t& at) {
  const std::size_t start = at;
  at += 2;
  const bool property = pattern[start + 1] == 'p' || pattern[start + 1] == 'P';
  if (!property || at >= pattern.size() || pattern[at] != '{')
    return std::string(pattern.substr(start, 2));
  const std::size_t close = pattern.find('}', at);
  if (close == std::string_view::npos) return std::string(pattern.substr(start, 2));
  std::string_view name = pattern.substr(at + 1, close - at - 1);
  at = close + 1;
  const bool negated = !name.empty() && name.front() == '^';
  if (negated) name.remove_prefix(1);
  const std::string script =
      fmt::format("{}{{{}sc:{}}}", pattern.substr(start, 2), negated ? "^" : "", name);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(script.data()), script.size(),
                                   PCRE2_UTF, &error, &offset, nullptr);
  const bool is_script = code != nullptr;
  pcre2_code_free(code);
  return is_script ? script : std::string(pattern.substr(start, at - start));
}

// Rewrites one bracket class; `at` stands on '[' and is left behind the closing ']'.
Result<std::string> rewrite_class(std::string_view pattern, std::size_t& at, bool inside = false) {
  const std::size_t start = at++;
  std::string items;
  std::string conditions;
  bool negated = false;
  if (at < pattern.size() && pattern[at] == '^') {
    negated = true;
    ++at;
  }
  bool first = true;
  for (; at < pattern.size(); first = false) {
    const char c = pattern[at];
    if (c == ']' && !first) {
      ++at;
      const std::string own = std::string(negated ? "[^" : "[") + items + "]";
      return conditions.empty() ? own : "(?:" + conditions + own + ")";
    }
    if (c == '\\' && at + 1 < pattern.size()) {
      if (pattern[at + 1] == 's') {
        items += kSpaceItems;
        at += 2;
      } else {
        items += copy_escape(pattern, at);
      }
    } else if (pattern.substr(at, 3) == "&&[") {
      if (negated || inside) return unsupported("intersection in a negated or nested class", at);
      at += 2;
      const bool inner_negated = at + 1 < pattern.size() && pattern[at + 1] == '^';
      std::size_t inner_at = at;
      MESH_ASSIGN_OR_RETURN(std::string inner, rewrite_class(pattern, inner_at, true));
      if (inner_negated) inner.erase(1, 1);
      conditions += (inner_negated ? "(?!" : "(?=") + inner + ")";
      at = inner_at;
      if (at >= pattern.size() || pattern[at] != ']')
        return unsupported("text behind an intersection", at);
    } else if (pattern.substr(at, 2) == "[:") {
      const std::size_t close = pattern.find(":]", at + 2);
      if (close == std::string_view::npos) return unsupported("unclosed POSIX class", at);
      items += pattern.substr(at, close + 2 - at);
      at = close + 2;
    } else if (c == '[' || pattern.substr(at, 2) == "&&") {
      return unsupported("nested class", at);
    } else {
      items += c;
      ++at;
    }
  }
  return unsupported("unclosed class", start);
}

}  // namespace

Result<std::string> rewrite_for_pcre(std::string_view pattern) {
  std::string out;
  for (std::size_t at = 0; at < pattern.size();) {
    if (pattern[at] == '\\' && at + 1 < pattern.size()) {
      const char next = pattern[at + 1];
      if (next == 's' || next == 'S') {
        out += next == 's' ? "[" : "[^";
        out += kSpaceItems;
        out += ']';
        at += 2;
      } else {
        out += copy_escape(pattern, at);
      }
    } else if (pattern[at] == '[') {
      MESH_ASSIGN_OR_RETURN(const std::string part, rewrite_class(pattern, at));
      out += part;
    } else {
      out += pattern[at++];
    }
  }
  return out;
}

void append_literal_matches(std::string_view text, std::string_view literal,
                            std::vector<ByteRange>& matches) {
  if (literal.empty()) return;
  for (std::size_t at = text.find(literal); at != std::string_view::npos;
       at = text.find(literal, at + literal.size()))
    matches.push_back({at, at + literal.size()});
}

struct Regex::State {
  pcre2_code* code = nullptr;
};

Regex::Regex(std::unique_ptr<State> state) : state_(std::move(state)) {}
Regex::~Regex() {
  pcre2_code_free(state_->code);
}

Result<std::unique_ptr<Regex>> Regex::compile(std::string_view pattern) {
  if (pattern.size() > limits::kRegexBytes)
    return unsupported(
        fmt::format("a pattern of {} bytes, the limit is {},", pattern.size(), limits::kRegexBytes),
        0);
  MESH_ASSIGN_OR_RETURN(const std::string rewritten, rewrite_for_pcre(pattern));
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  MESH_CHECK(context != nullptr, "out of memory");
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Multiline: in Oniguruma's default syntax ^ and $ always match at line ends.
  constexpr std::uint32_t kOptions =
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(rewritten.data()), rewritten.size(),
                                   kOptions, &error, &offset, context);
  pcre2_compile_context_free(context);
  if (code == nullptr) return unsupported(pcre_message(error), offset);
  // Without JIT (a platform PCRE2 has no code generator for) the interpreter gives the same
  // matches, slower.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  auto state = std::make_unique<State>();
  state->code = code;
  return std::unique_ptr<Regex>(new Regex(std::move(state)));
}

Result<void> Regex::find_all(std::string_view text, std::vector<ByteRange>& matches) const {
  const MatchResources resources(state_->code);
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  std::size_t at = 0;
  while (at <= text.size()) {
    const int rc = pcre2_match(state_->code, subject, text.size(), at, PCRE2_NO_UTF_CHECK,
                               resources.data, resources.context);
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) {
      return Error(Code::kResourceExhausted,
                   fmt::format("splitting text at byte {}: {}", at, pcre_message(rc)));
    }
    const PCRE2_SIZE* found = pcre2_get_ovector_pointer(resources.data);
    // \K inside a look-around may report an end before its start.
    if (found[1] < found[0] || found[0] < at)
      return Error(Code::kUnsupported, "regular expression moves the start of its match");
    matches.push_back({found[0], found[1]});
    at = found[1];
    if (found[0] == found[1]) {
      if (at == text.size()) break;
      at += utf8_step(text.substr(at)).bytes;
    }
  }
  return {};
}

}  // namespace mesh::text
