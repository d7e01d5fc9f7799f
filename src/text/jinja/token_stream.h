#pragma once
// What the two halves of the parser share: the tokens, the names, the bound on nesting.

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"

namespace mesh::text::jinja {

class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  int line() const { return current().line; }
  bool at(Token::Kind kind) const { return current().kind == kind; }
  bool at_op(std::string_view op) const {
    return at(Token::Kind::kOperator) && current().text == op;
  }
  bool at_name(std::string_view name) const {
    return at(Token::Kind::kName) && current().text == name;
  }
  Token take() {
    Token token = tokens_[at_];
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool take_op(std::string_view op) {
    if (!at_op(op)) return false;
    take();
    return true;
  }
  bool take_name(std::string_view name) {
    if (!at_name(name)) return false;
    take();
    return true;
  }
  Token expect(Token::Kind kind, std::string_view what);
  void expect_op(std::string_view op);
  [[noreturn]] void fail(std::string message) const {
    throw SyntaxError{std::move(message), line()};
  }
  std::string describe() const;  // the current token, for messages

  std::size_t position() const { return at_; }
  // Whether a token from `from` up to the current one is the name `name`.
  bool mentions(std::string_view name, std::size_t from) const;

  NameId intern(const std::string& name);
  std::vector<std::string>& names() { return names_; }

  // Counts one level of nesting while it lives.
  class Nesting {
   public:
    explicit Nesting(TokenStream& stream);
    ~Nesting() { --stream_.depth_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    TokenStream& stream_;
  };

 private:
  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  std::size_t depth_ = 0;
  std::vector<std::string> names_;
  std::unordered_map<std::string, NameId> ids_;
};

// The grammar of expressions.
class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream& stream) : in_(stream) {}
  ExprPtr expression(bool with_condition = true);
  ExprPtr tuple(bool with_condition = true);  // one expression, or several with commas between
  ExprPtr postfix(ExprPtr node);
  ExprPtr filters(ExprPtr node, bool tests);  // a chain of filters (and tests) behind `node`
  ExprPtr filter(ExprPtr input);              // at the name of a filter
  ExprPtr primary();
  ExprPtr unary(bool with_filters = true);

 private:
  ExprPtr make(Expr::Kind kind, std::vector<ExprPtr> items);
  void deepen(Expr& node) const;
  ExprPtr constant(Value value);
  ExprPtr condition();
  ExprPtr disjunction();
  ExprPtr conjunction();
  ExprPtr negation();
  ExprPtr comparison();
  ExprPtr sum();
  ExprPtr concatenation();
  ExprPtr product();
  ExprPtr power();
  ExprPtr subscript(ExprPtr node);
  ExprPtr test(ExprPtr node);
  ExprPtr number();
  ExprPtr list_literal();
  ExprPtr dict_literal();
  ExprPtr parenthesis();
  void arguments(Expr& call);
  TokenStream& in_;
};

}  // namespace mesh::text::jinja
