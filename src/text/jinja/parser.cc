#include "text/jinja/parser.h"

#include <fmt/format.h>

#include <initializer_list>

#include "base/limits.h"
#include "text/jinja/token_stream.h"

namespace mesh::text::jinja {
namespace {

using Kind = Stmt::Kind;
using TokenKind = Token::Kind;
using Ends = std::initializer_list<std::string_view>;

class StatementParser {
 public:
  explicit StatementParser(TokenStream& stream) : in_(stream), expressions_(stream) {}

  Program program() {
    Program out;
    out.loop = in_.intern("loop");
    out.caller = in_.intern("caller");
    out.varargs = in_.intern("varargs");
    out.kwargs = in_.intern("kwargs");
    out.body = body({});
    out.names = in_.names();
    return out;
  }

 private:
  std::unique_ptr<Stmt> make(Kind kind) const {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = in_.line();
    return stmt;
  }

  void end_tag() { in_.expect(TokenKind::kBlockEnd, "'%}'"); }

  // Statements up to a block named in `ends`, whose name is left as the current token; with no
  // ends, up to the end.
  Body body(Ends ends) {
    const TokenStream::Nesting nesting(in_);
    Body out;
    while (!in_.at(TokenKind::kEnd)) {
      if (in_.at(TokenKind::kData)) {
        auto stmt = make(Kind::kData);
        stmt->value = Value::text(in_.take().text);
        out.push_back(std::move(stmt));
      } else if (in_.at(TokenKind::kVariableBegin)) {
        in_.take();
        auto stmt = make(Kind::kPrint);
        stmt->expr = expressions_.tuple();
        in_.expect(TokenKind::kVariableEnd, "'}}'");
        out.push_back(std::move(stmt));
      } else {
        in_.expect(TokenKind::kBlockBegin, "a tag");
        if (!in_.at(TokenKind::kName))
          in_.fail(fmt::format("a tag name expected, got {}", in_.describe()));
        for (const std::string_view end : ends)
          if (in_.at_name(end)) return out;
        out.push_back(statement());
      }
    }
    if (ends.size() != 0) in_.fail(fmt::format("'{}' is missing", *(ends.end() - 1)));
    return out;
  }

  // The rest of the tag, a body, and the tag `end`.
  Body block(std::string_view end) {
    end_tag();
    Body out = body({end});
    in_.take();
    end_tag();
    return out;
  }

  std::unique_ptr<Stmt> statement() {
    const std::string tag = in_.current().text;
    if (tag == "for") return for_statement();
    if (tag == "if") return if_statement();
    if (tag == "set") return set_statement();
    if (tag == "macro") return macro_statement();
    if (tag == "call") return call_statement();
    if (tag == "filter") return filter_statement();
    if (tag == "with") return with_statement();
    if (tag == "break" || tag == "continue") {
      auto stmt = make(tag == "break" ? Kind::kBreak : Kind::kContinue);
      if (loops_ == 0) in_.fail(fmt::format("'{}' outside a loop", tag));
      in_.take();
      end_tag();
      return stmt;
    }
    if (tag == "generation") {
      auto stmt = make(Kind::kScope);
      in_.take();
      stmt->body = block("endgeneration");
      return stmt;
    }
    in_.fail(fmt::format("tag '{}' is unknown or out of place", tag));
  }

  Target target(bool with_attribute) {
    std::vector<Target> items;
    bool tuple = false;
    while (true) {
      if (in_.take_op("(")) {
        const TokenStream::Nesting nesting(in_);
        items.push_back(target(false));
        in_.expect_op(")");
      } else {
        Target one;
        one.id = in_.intern(in_.expect(TokenKind::kName, "a name to assign to").text);
        if (with_attribute && in_.take_op("."))
          one.attribute = in_.expect(TokenKind::kName, "an attribute").text;
        items.push_back(std::move(one));
      }
      if (!in_.take_op(",")) break;
      tuple = true;
      if (!in_.at(TokenKind::kName) && !in_.at_op("(")) break;
      if (in_.at_name("in")) break;
    }
    if (!tuple) return std::move(items.front());
    Target out;
    out.items = std::move(items);
    return out;
  }

  std::unique_ptr<Stmt> for_statement() {
    auto stmt = make(Kind::kFor);
    in_.take();
    stmt->target = target(false);
    if (!in_.take_name("in")) in_.fail(fmt::format("expected 'in', got {}", in_.describe()));
    stmt->expr = expressions_.tuple(false);
    if (in_.take_name("if")) stmt->condition = expressions_.expression();
    stmt->recursive = in_.take_name("recursive");
    end_tag();
    ++loops_;
    stmt->body = body({"else", "endfor"});
    --loops_;
    if (in_.take_name("else")) {
      end_tag();
      stmt->otherwise = body({"endfor"});
    }
    in_.take();
    end_tag();
    return stmt;
  }

  std::unique_ptr<Stmt> if_statement() {
    auto stmt = make(Kind::kIf);
    in_.take();
    while (true) {
      ExprPtr condition = expressions_.tuple(false);
      end_tag();
      Body inner = body({"elif", "else", "endif"});
      stmt->branches.emplace_back(std::move(condition), std::move(inner));
      if (!in_.take_name("elif")) break;
    }
    if (in_.take_name("else")) {
      end_tag();
      stmt->otherwise = body({"endif"});
    }
    in_.take();
    end_tag();
    return stmt;
  }

  std::unique_ptr<Stmt> set_statement() {
    auto stmt = make(Kind::kSet);
    in_.take();
    stmt->target = target(true);
    if (in_.take_op("=")) {
      stmt->expr = expressions_.tuple();
      end_tag();
      return stmt;
    }
    stmt->kind = Kind::kSetBlock;
    if (in_.take_op("|")) stmt->expr = expressions_.filters(expressions_.filter(nullptr), false);
    stmt->body = closed_block("endset");
    return stmt;
  }

  void parameters(Stmt& stmt) {
    in_.expect_op("(");
    while (!in_.at_op(")")) {
      Parameter parameter;
      parameter.name = in_.expect(TokenKind::kName, "a parameter").text;
      parameter.id = in_.intern(parameter.name);
      if (in_.take_op("=")) {
        parameter.fallback = expressions_.expression();
      } else if (!stmt.parameters.empty() && stmt.parameters.back().fallback != nullptr) {
        in_.fail("a parameter without default follows one with a default");
      }
      stmt.parameters.push_back(std::move(parameter));
      if (!in_.take_op(",")) break;
    }
    in_.expect_op(")");
  }

  // A loop around a macro is not the loop that a break in its body would end.
  Body closed_block(std::string_view end) {
    const int outer = loops_;
    loops_ = 0;
    Body out = block(end);
    loops_ = outer;
    return out;
  }

  std::unique_ptr<Stmt> macro_statement() {
    auto stmt = make(Kind::kMacro);
    in_.take();
    stmt->name = in_.expect(TokenKind::kName, "the macro's name").text;
    stmt->id = in_.intern(stmt->name);
    parameters(*stmt);
    const std::size_t begin = in_.position();
    stmt->body = closed_block("endmacro");
    stmt->takes_varargs = in_.mentions("varargs", begin);
    stmt->takes_kwargs = in_.mentions("kwargs", begin);
    return stmt;
  }

  std::unique_ptr<Stmt> call_statement() {
    auto stmt = make(Kind::kCallBlock);
    in_.take();
    stmt->name = "caller";
    if (in_.at_op("(")) parameters(*stmt);
    stmt->expr = expressions_.expression();
    if (stmt->expr->kind != Expr::Kind::kCall) in_.fail("'call' needs a call");
    stmt->body = closed_block("endcall");
    return stmt;
  }

  std::unique_ptr<Stmt> filter_statement() {
    auto stmt = make(Kind::kFilterBlock);
    in_.take();
    stmt->expr = expressions_.filters(expressions_.filter(nullptr), false);
    stmt->body = closed_block("endfilter");
    return stmt;
  }

  std::unique_ptr<Stmt> with_statement() {
    auto stmt = make(Kind::kWith);
    in_.take();
    while (!in_.at(TokenKind::kBlockEnd)) {
      Target one;
      one.id = in_.intern(in_.expect(TokenKind::kName, "a name").text);
      in_.expect_op("=");
      stmt->assignments.emplace_back(std::move(one), expressions_.expression());
      if (!in_.take_op(",")) break;
    }
    stmt->body = block("endwith");
    return stmt;
  }

  TokenStream& in_;
  ExpressionParser expressions_;
  int loops_ = 0;
};

}  // namespace

Program parse_program(std::string_view source) {
  if (source.size() > limits::kTemplateSourceBytes)
    throw SyntaxError{fmt::format("the template has {} bytes, at most {} are allowed",
                                  source.size(), limits::kTemplateSourceBytes),
                      1};
  TokenStream stream(tokenize(source));
  return StatementParser(stream).program();
}

}  // namespace mesh::text::jinja
