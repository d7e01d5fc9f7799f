#pragma once
// Runs a parsed template.

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/value.h"

namespace mesh::text::jinja {

// Arguments of a call, filter or test.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Names a callable takes, in order; what it hands out is undefined where nothing was given.
class Bound {
 public:
  // Throws when an argument is unknown, given twice or one too many.
  Bound(std::string_view callable, const Arguments& args,
        std::initializer_list<std::string_view> names);
  bool has(std::size_t i) const { return !values_[i].is_undefined(); }
  const Value& operator[](std::size_t i) const& { return values_[i]; }
  Value operator[](std::size_t i) const&& {
    return values_[i];
  }                                             // by value: the Bound is going away
  const Value& required(std::size_t i) const&;  // throws when missing
  Value required(std::size_t i) const&& { return static_cast<const Bound&>(*this).required(i); }
  std::int64_t integer(std::size_t i, std::int64_t fallback) const;
  bool flag(std::size_t i, bool fallback) const;

 private:
  std::string callable_;
  std::vector<Value> values_;
};

// Variables of one block; inner scopes see outer ones and write only their own.
struct Scope {
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<NameId, Value>> values;
  void set(NameId id, Value value);
  const Value* find(NameId id) const;  // also in the outer scopes
};
using ScopePtr = std::shared_ptr<Scope>;

// A callable value.
struct Function {
  enum class Kind { kGlobal, kMethod, kMacro };
  Kind kind = Kind::kGlobal;
  std::string name;
  Value self;                   // kMethod
  const Stmt* macro = nullptr;  // kMacro: a macro or a call block, in `scope`
  ScopePtr scope;
};

// State of one pass of a for loop, read as `loop`.
struct Loop {
  ListPtr items;
  std::size_t index = 0;
  std::size_t depth = 1;
  const Stmt* recursive = nullptr;  // the loop, if it may call itself
  ScopePtr scope;                   // around the loop
};

// One render. Not shared between threads; the program may be.
class Interpreter {
 public:
  Interpreter(const Program& program, std::int64_t unix_seconds);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  void define(std::string_view name,
              Value value);  // a variable, before run; unused names are dropped
  // The output. Throws TemplateError; line() then tells where.
  MarkedText run();
  int line() const { return line_; }

  // --- for filters, tests and methods ---
  void charge(std::size_t steps);        // throws when limits::kTemplateSteps are used up
  void charge_bytes(std::size_t bytes);  // for every byte of a string that is made
  // For list items before they are made; limits::kTemplateItems bounds the memory of all lists.
  void charge_items(std::size_t items);
  static constexpr std::size_t kTextItems = 4;  // an item that is a new text or list takes as much
  Value make(MarkedText text);                  // a string value, charged
  Value make(std::string text, Origin origin);
  // Items of a list, keys of a dict, characters of a string. The caller keeps the pointer while it
  // walks through them: all but a list's are made here.
  ListPtr iterate(const Value& value);
  MarkedText str(const Value& value);  // what printing shows
  bool same(const Value& a, const Value& b);
  bool less(const Value& a, const Value& b);  // throws when Python could not compare them
  bool contains(const Value& container, const Value& item);
  Value attribute(const Value& object, std::string_view name);  // object.name
  Value item(const Value& object, const Value& key);            // object[key]
  Value path(const Value& object, const Value& attribute);      // "a.b.0" of filters
  Value call(const Value& callee, Arguments args);
  Value filter(std::string_view name, const Value& input, const Arguments& args);
  bool test(std::string_view name, const Value& input, const Arguments& args);
  Value arithmetic(Op op, const Value& a, const Value& b);
  std::int64_t unix_seconds() const { return unix_seconds_; }
  [[noreturn]] void fail(std::string message, Code code = Code::kInvalidArgument) const {
    throw TemplateError{code, std::move(message)};
  }

 private:
  enum class Flow { kNormal, kBreak, kContinue };
  // Counts one level of evaluation while it lives, so that no template exhausts the stack.
  class Depth {
   public:
    explicit Depth(Interpreter& in);
    ~Depth() { --in_.depth_; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;

   private:
    Interpreter& in_;
  };

  Flow execute(const Body& body, const ScopePtr& scope, MarkedText& out);
  Flow execute(const Stmt& stmt, const ScopePtr& scope, MarkedText& out);
  Flow execute_if(const Stmt& stmt, const ScopePtr& scope, MarkedText& out);
  void execute_for(const Stmt& stmt, const ScopePtr& scope, MarkedText& out);
  void run_loop(const Stmt& stmt, const Value& iterable, const ScopePtr& scope, std::size_t depth,
                MarkedText& out);
  void execute_call_block(const Stmt& stmt, const ScopePtr& scope, MarkedText& out);
  Flow execute_with(const Stmt& stmt, const ScopePtr& scope, MarkedText& out);
  void assign(const Target& target, const Value& value, const ScopePtr& scope);
  void write(MarkedText& out, const MarkedText& text);
  Value macro_value(const Stmt& stmt, const ScopePtr& scope);
  Value call_macro(const Function& macro, Arguments args);
  Value call_loop(const Loop& loop, const Arguments& args);
  Value call_global(std::string_view name, const Arguments& args);

  Value evaluate(const Expr& expr, const ScopePtr& scope);
  Value evaluate_name(const Expr& expr, const ScopePtr& scope);
  Value evaluate_compare(const Expr& expr, const ScopePtr& scope);
  Value evaluate_slice(const Expr& expr, const ScopePtr& scope);
  Value evaluate_concat(const Expr& expr, const ScopePtr& scope);
  Value evaluate_collection(const Expr& expr, const ScopePtr& scope);
  Value evaluate_unary(const Expr& expr, const ScopePtr& scope);
  Value evaluate_filter(const Expr& expr, const ScopePtr& scope, const Value* input);
  Arguments evaluate_arguments(const Expr& expr, const ScopePtr& scope);
  bool compare(Comparison op, const Value& a, const Value& b);
  Value slice(const Value& object, const Value& start, const Value& stop, const Value& step);
  Value loop_attribute(const Loop& loop, std::string_view name);
  Value binary_text_or_list(Op op, const Value& a, const Value& b);

  const Program& program_;
  std::int64_t unix_seconds_;
  ScopePtr root_;
  std::size_t steps_ = 0;
  std::size_t bytes_ = 0;
  std::size_t items_ = 0;
  std::size_t depth_ = 0;
  std::size_t calls_ = 0;
  int line_ = 0;
  // Macros and namespaces may point back at what holds them; these are emptied at the end of the
  // render.
  std::vector<ScopePtr> macro_scopes_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

// A method of a string, list or dict. Throws when there is none of that name.
Value call_method(Interpreter& in, const Value& self, std::string_view name, const Arguments& args);
bool has_method(const Value& self, std::string_view name);

// null if there is no such filter or test.
using Filter = Value (*)(Interpreter& in, const Value& input, const Arguments& args);
using Test = bool (*)(Interpreter& in, const Value& input, const Arguments& args);
Filter find_filter(std::string_view name);           // filters.cc
Filter find_sequence_filter(std::string_view name);  // sequence_filters.cc
Test find_test(std::string_view name);               // tests.cc

}  // namespace mesh::text::jinja
