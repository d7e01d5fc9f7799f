#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/limits.h"
#include "text/jinja/token_stream.h"

namespace mesh::text::jinja {
namespace {

using Kind = Expr::Kind;
using TokenKind = Token::Kind;

// Height of one expression's tree; long chains of operators are high too.
constexpr std::uint32_t kExpressionDepth = 5 * limits::kTemplateDepth;

}  // namespace

Token TokenStream::expect(Token::Kind kind, std::string_view what) {
  if (!at(kind)) fail(fmt::format("expected {}, got {}", what, describe()));
  return take();
}

void TokenStream::expect_op(std::string_view op) {
  if (!take_op(op)) fail(fmt::format("expected '{}', got {}", op, describe()));
}

std::string TokenStream::describe() const {
  switch (current().kind) {
    case TokenKind::kEnd:
      return "the end of the template";
    case TokenKind::kBlockEnd:
    case TokenKind::kVariableEnd:
      return fmt::format("the end of the tag '{}'", current().text);
    case TokenKind::kData:
      return "text";
    default:
      return fmt::format("'{}'", current().text);
  }
}

bool TokenStream::mentions(std::string_view name, std::size_t from) const {
  for (std::size_t i = from; i < at_; ++i)
    if (tokens_[i].kind == TokenKind::kName && tokens_[i].text == name) return true;
  return false;
}

NameId TokenStream::intern(const std::string& name) {
  const auto [it, fresh] = ids_.emplace(name, static_cast<NameId>(names_.size()));
  if (fresh) names_.push_back(name);
  return it->second;
}

TokenStream::Nesting::Nesting(TokenStream& stream) : stream_(stream) {
  if (stream_.depth_ >= limits::kTemplateDepth)
    stream_.fail(fmt::format("nested deeper than {}", limits::kTemplateDepth));
  ++stream_.depth_;
}

void ExpressionParser::deepen(Expr& node) const {
  std::uint32_t inner = 0;
  for (const ExprPtr& item : node.items)
    if (item != nullptr) inner = std::max(inner, item->depth);
  for (const auto& [name, item] : node.named) inner = std::max(inner, item->depth);
  if (inner >= kExpressionDepth) in_.fail("an expression is too long");
  node.depth = inner + 1;
}

ExprPtr ExpressionParser::make(Kind kind, std::vector<ExprPtr> items) {
  auto node = std::make_unique<Expr>();
  node->kind = kind;
  node->line = in_.line();
  node->items = std::move(items);
  deepen(*node);
  return node;
}

namespace {

template <typename... Items>
std::vector<ExprPtr> pack(Items... items) {
  std::vector<ExprPtr> out;
  (out.push_back(std::move(items)), ...);
  return out;
}

}  // namespace

ExprPtr ExpressionParser::constant(Value value) {
  ExprPtr node = make(Kind::kConst, {});
  node->value = std::move(value);
  return node;
}

ExprPtr ExpressionParser::expression(bool with_condition) {
  const TokenStream::Nesting nesting(in_);
  return with_condition ? condition() : disjunction();
}

ExprPtr ExpressionParser::tuple(bool with_condition) {
  ExprPtr first = expression(with_condition);
  if (!in_.at_op(",")) return first;
  std::vector<ExprPtr> items = pack(std::move(first));
  while (in_.take_op(",")) {
    if (in_.at(TokenKind::kBlockEnd) || in_.at(TokenKind::kVariableEnd) || in_.at_op(")") ||
        in_.at_op("=") || in_.at_name("in"))
      break;
    items.push_back(expression(with_condition));
  }
  return make(Kind::kTuple, std::move(items));
}

ExprPtr ExpressionParser::condition() {
  ExprPtr node = disjunction();
  while (in_.take_name("if")) {
    ExprPtr test_node = disjunction();
    ExprPtr otherwise;
    if (in_.take_name("else")) otherwise = expression();
    node = make(Kind::kCond, pack(std::move(test_node), std::move(node), std::move(otherwise)));
  }
  return node;
}

ExprPtr ExpressionParser::disjunction() {
  ExprPtr node = conjunction();
  while (in_.take_name("or")) node = make(Kind::kOr, pack(std::move(node), conjunction()));
  return node;
}

ExprPtr ExpressionParser::conjunction() {
  ExprPtr node = negation();
  while (in_.take_name("and")) node = make(Kind::kAnd, pack(std::move(node), negation()));
  return node;
}

ExprPtr ExpressionParser::negation() {
  if (!in_.at_name("not")) return comparison();
  const TokenStream::Nesting nesting(in_);
  in_.take();
  return make(Kind::kNot, pack(negation()));
}

ExprPtr ExpressionParser::comparison() {
  static constexpr std::pair<std::string_view, Comparison> kOps[] = {
      {"==", Comparison::kEq}, {"!=", Comparison::kNe}, {"<", Comparison::kLt},
      {"<=", Comparison::kLe}, {">", Comparison::kGt},  {">=", Comparison::kGe}};
  ExprPtr first = sum();
  std::vector<ExprPtr> items;
  std::vector<Comparison> comparisons;
  while (true) {
    if (in_.at_name("not") && in_.ahead().kind == TokenKind::kName && in_.ahead().text == "in") {
      in_.take();
      in_.take();
      comparisons.push_back(Comparison::kNotIn);
    } else if (in_.take_name("in")) {
      comparisons.push_back(Comparison::kIn);
    } else {
      const auto* op = std::find_if(std::begin(kOps), std::end(kOps),
                                    [&](const auto& o) { return in_.at_op(o.first); });
      if (op == std::end(kOps)) break;
      in_.take();
      comparisons.push_back(op->second);
    }
    items.push_back(sum());
  }
  if (items.empty()) return first;
  items.insert(items.begin(), std::move(first));
  ExprPtr node = make(Kind::kCompare, std::move(items));
  node->comparisons = std::move(comparisons);
  return node;
}

ExprPtr ExpressionParser::sum() {
  ExprPtr node = concatenation();
  while (in_.at_op("+") || in_.at_op("-")) {
    const Op op = in_.take().text == "+" ? Op::kAdd : Op::kSub;
    node = make(Kind::kBinary, pack(std::move(node), concatenation()));
    node->op = op;
  }
  return node;
}

ExprPtr ExpressionParser::concatenation() {
  ExprPtr first = product();
  if (!in_.at_op("~")) return first;
  std::vector<ExprPtr> items = pack(std::move(first));
  while (in_.take_op("~")) items.push_back(product());
  return make(Kind::kConcat, std::move(items));
}

ExprPtr ExpressionParser::product() {
  static constexpr std::pair<std::string_view, Op> kOps[] = {
      {"*", Op::kMul}, {"/", Op::kDiv}, {"//", Op::kFloorDiv}, {"%", Op::kMod}};
  ExprPtr node = power();
  while (true) {
    const auto* op = std::find_if(std::begin(kOps), std::end(kOps),
                                  [&](const auto& o) { return in_.at_op(o.first); });
    if (op == std::end(kOps)) return node;
    in_.take();
    node = make(Kind::kBinary, pack(std::move(node), power()));
    node->op = op->second;
  }
}

ExprPtr ExpressionParser::power() {
  ExprPtr node = unary();
  while (in_.take_op("**")) {
    node = make(Kind::kBinary, pack(std::move(node), unary()));
    node->op = Op::kPow;
  }
  return node;
}

ExprPtr ExpressionParser::unary(bool with_filters) {
  const TokenStream::Nesting nesting(in_);
  ExprPtr node;
  if (in_.take_op("-")) {
    node = make(Kind::kNeg, pack(unary(false)));
  } else if (in_.take_op("+")) {
    node = make(Kind::kPos, pack(unary(false)));
  } else {
    node = primary();
  }
  node = postfix(std::move(node));
  return with_filters ? filters(std::move(node), true) : std::move(node);
}

ExprPtr ExpressionParser::number() {
  const Token token = in_.take();
  const char* begin = token.text.data();
  const char* end = begin + token.text.size();
  if (token.kind == TokenKind::kInteger) {
    std::int64_t value = 0;
    if (std::from_chars(begin, end, value).ec != std::errc()) in_.fail("an integer is too large");
    return constant(Value::integer(value));
  }
  double value = 0;
  if (std::from_chars(begin, end, value).ec != std::errc()) in_.fail("a number is too large");
  return constant(Value::real(value));
}

ExprPtr ExpressionParser::primary() {
  if (in_.at(TokenKind::kName)) {
    const std::string name = in_.take().text;
    if (name == "true" || name == "True") return constant(Value::boolean(true));
    if (name == "false" || name == "False") return constant(Value::boolean(false));
    if (name == "none" || name == "None") return constant(Value::none());
    ExprPtr node = make(Kind::kName, {});
    node->name = name;
    node->id = in_.intern(name);
    return node;
  }
  if (in_.at(TokenKind::kString)) {
    std::string text;
    while (in_.at(TokenKind::kString)) text += in_.take().text;
    return constant(Value::text(std::move(text)));
  }
  if (in_.at(TokenKind::kInteger) || in_.at(TokenKind::kFloat)) return number();
  if (in_.at_op("(")) return parenthesis();
  if (in_.at_op("[")) return list_literal();
  if (in_.at_op("{")) return dict_literal();
  in_.fail(fmt::format("unexpected {}", in_.describe()));
}

ExprPtr ExpressionParser::parenthesis() {
  in_.expect_op("(");
  if (in_.take_op(")")) return make(Kind::kTuple, {});
  ExprPtr node = tuple();
  in_.expect_op(")");
  return node;
}

ExprPtr ExpressionParser::list_literal() {
  in_.expect_op("[");
  std::vector<ExprPtr> items;
  while (!in_.at_op("]")) {
    items.push_back(expression());
    if (!in_.take_op(",")) break;
  }
  in_.expect_op("]");
  return make(Kind::kList, std::move(items));
}

ExprPtr ExpressionParser::dict_literal() {
  in_.expect_op("{");
  std::vector<ExprPtr> items;
  while (!in_.at_op("}")) {
    items.push_back(expression());
    in_.expect_op(":");
    items.push_back(expression());
    if (!in_.take_op(",")) break;
  }
  in_.expect_op("}");
  return make(Kind::kDict, std::move(items));
}

ExprPtr ExpressionParser::postfix(ExprPtr node) {
  while (true) {
    if (in_.take_op(".")) {
      if (in_.at(TokenKind::kInteger)) {
        node = make(Kind::kItem, pack(std::move(node), number()));
        continue;
      }
      std::string name = in_.expect(TokenKind::kName, "a name behind '.'").text;
      node = make(Kind::kAttr, pack(std::move(node)));
      node->name = std::move(name);
    } else if (in_.at_op("[")) {
      node = subscript(std::move(node));
    } else if (in_.at_op("(")) {
      node = make(Kind::kCall, pack(std::move(node)));
      arguments(*node);
    } else {
      return node;
    }
  }
}

ExprPtr ExpressionParser::subscript(ExprPtr node) {
  in_.expect_op("[");
  ExprPtr bounds[3];
  int colons = 0;
  while (!in_.at_op("]")) {
    if (in_.take_op(":")) {
      if (++colons > 2) in_.fail("a slice has too many parts");
    } else if (bounds[colons] == nullptr) {
      bounds[colons] = expression();
    } else {
      in_.fail(fmt::format("expected ']', got {}", in_.describe()));
    }
  }
  in_.expect_op("]");
  if (colons > 0) {
    return make(Kind::kSlice, pack(std::move(node), std::move(bounds[0]), std::move(bounds[1]),
                                   std::move(bounds[2])));
  }
  if (bounds[0] == nullptr) in_.fail("an index is missing");
  return make(Kind::kItem, pack(std::move(node), std::move(bounds[0])));
}

void ExpressionParser::arguments(Expr& call) {
  in_.expect_op("(");
  while (!in_.at_op(")")) {
    if (in_.at_op("*") || in_.at_op("**")) in_.fail("'*' arguments are not supported");
    if (in_.at(TokenKind::kName) && in_.ahead().kind == TokenKind::kOperator &&
        in_.ahead().text == "=") {
      std::string name = in_.take().text;
      in_.take();
      call.named.emplace_back(std::move(name), expression());
    } else {
      if (!call.named.empty()) in_.fail("a positional argument follows a named one");
      call.items.push_back(expression());
    }
    if (!in_.take_op(",")) break;
  }
  in_.expect_op(")");
  deepen(call);
}

ExprPtr ExpressionParser::filter(ExprPtr input) {
  std::string name = in_.expect(TokenKind::kName, "the name of a filter").text;
  while (in_.take_op(".")) name += "." + in_.expect(TokenKind::kName, "a name").text;
  ExprPtr node = make(Kind::kFilter, pack(std::move(input)));
  node->name = std::move(name);
  if (in_.at_op("(")) arguments(*node);
  return node;
}

ExprPtr ExpressionParser::filters(ExprPtr node, bool tests) {
  while (true) {
    if (in_.take_op("|")) {
      node = filter(std::move(node));
    } else if (tests && in_.at_name("is")) {
      node = test(std::move(node));
    } else if (tests && in_.at_op("(")) {
      node = make(Kind::kCall, pack(std::move(node)));
      arguments(*node);
    } else {
      return node;
    }
  }
}

ExprPtr ExpressionParser::test(ExprPtr node) {
  in_.take();
  const bool negated = in_.take_name("not");
  std::string name = in_.expect(TokenKind::kName, "the name of a test").text;
  node = make(Kind::kTest, pack(std::move(node)));
  node->name = std::move(name);
  const bool word = in_.at(TokenKind::kName) && !in_.at_name("else") && !in_.at_name("or") &&
                    !in_.at_name("and") && !in_.at_name("is") && !in_.at_name("if") &&
                    !in_.at_name("in") && !in_.at_name("not");
  if (in_.at_op("(")) {
    arguments(*node);
  } else if (word || in_.at(TokenKind::kString) || in_.at(TokenKind::kInteger) ||
             in_.at(TokenKind::kFloat) || in_.at_op("[") || in_.at_op("{")) {
    node->items.push_back(postfix(primary()));
    deepen(*node);
  }
  return negated ? make(Kind::kNot, pack(std::move(node))) : std::move(node);
}

}  // namespace mesh::text::jinja
