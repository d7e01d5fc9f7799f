#include "text/jinja/interpreter.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/limits.h"
#include "text/jinja/format.h"

namespace mesh::text::jinja {
namespace {

// Nesting of statements, expressions and calls together; keeps a render within a small stack.
constexpr std::size_t kEvaluationDepth = 10 * limits::kTemplateDepth;
// Cost of what stays in memory until the render ends.
constexpr std::size_t kKeptObjectSteps = 50;
// Bytes of all strings that one render makes.
constexpr std::size_t kWorkBytes = 16 * limits::kTemplateOutputBytes;

}  // namespace

Interpreter::Depth::Depth(Interpreter& in) : in_(in) {
  if (in_.depth_ >= kEvaluationDepth) {
    in_.fail(fmt::format("nested deeper than {}", kEvaluationDepth), Code::kResourceExhausted);
  }
  ++in_.depth_;
}

void Scope::set(NameId id, Value value) {
  for (auto& [own, old] : values) {
    if (own == id) {
      old = std::move(value);
      return;
    }
  }
  values.emplace_back(id, std::move(value));
}

const Value* Scope::find(NameId id) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent.get()) {
    for (const auto& [own, value] : scope->values)
      if (own == id) return &value;
  }
  return nullptr;
}

Bound::Bound(std::string_view callable, const Arguments& args,
             std::initializer_list<std::string_view> names)
    : callable_(callable), values_(names.size()) {
  if (args.positional.size() > names.size()) {
    throw TemplateError{Code::kInvalidArgument,
                        fmt::format("{} takes at most {} arguments, {} given", callable,
                                    names.size(), args.positional.size())};
  }
  std::copy(args.positional.begin(), args.positional.end(), values_.begin());
  for (const auto& [name, value] : args.named) {
    const auto it = std::find(names.begin(), names.end(), name);
    const auto at = static_cast<std::size_t>(it - names.begin());
    if (it == names.end() || at < args.positional.size()) {
      throw TemplateError{Code::kInvalidArgument,
                          fmt::format("{} got an unexpected argument '{}'", callable, name)};
    }
    values_[at] = value;
  }
}

const Value& Bound::required(std::size_t i) const& {
  if (!has(i)) {
    throw TemplateError{Code::kInvalidArgument,
                        values_[i].is_undefined()
                            ? fmt::format("{}: argument {} is missing", callable_, i + 1)
                            : values_[i].hint()};
  }
  return values_[i];
}

std::int64_t Bound::integer(std::size_t i, std::int64_t fallback) const {
  if (!has(i) || values_[i].is_none()) return fallback;
  if (!values_[i].is_integral()) {
    throw TemplateError{Code::kInvalidArgument, fmt::format("{}: '{}' is not an integer", callable_,
                                                            values_[i].type_name())};
  }
  return values_[i].as_int();
}

bool Bound::flag(std::size_t i, bool fallback) const {
  return has(i) ? values_[i].truthy() : fallback;
}

Interpreter::Interpreter(const Program& program, std::int64_t unix_seconds)
    : program_(program), unix_seconds_(unix_seconds), root_(std::make_shared<Scope>()) {}

Interpreter::~Interpreter() {
  for (const auto& ns : namespaces_) ns->attributes.clear();
  for (const ScopePtr& scope : macro_scopes_) {
    scope->values.clear();
    scope->parent.reset();
  }
  root_->values.clear();
}

void Interpreter::define(std::string_view name, Value value) {
  const auto it = std::find(program_.names.begin(), program_.names.end(), name);
  if (it != program_.names.end())
    root_->set(static_cast<NameId>(it - program_.names.begin()), std::move(value));
}

MarkedText Interpreter::run() {
  MarkedText out;
  execute(program_.body, root_, out);
  return out;
}

void Interpreter::charge(std::size_t steps) {
  steps_ += steps;
  if (steps_ > limits::kTemplateSteps)
    fail(fmt::format("the template takes more than {} steps", limits::kTemplateSteps),
         Code::kResourceExhausted);
}

void Interpreter::charge_bytes(std::size_t bytes) {
  bytes_ += bytes;
  if (bytes > limits::kTemplateOutputBytes || bytes_ > kWorkBytes)
    fail(fmt::format("the template makes texts of more than {} bytes", std::min(bytes, kWorkBytes)),
         Code::kResourceExhausted);
}

void Interpreter::charge_items(std::size_t items) {
  charge(items / 8);
  if (items > limits::kTemplateItems - items_)
    fail(fmt::format("the template makes lists of more than {} items", limits::kTemplateItems),
         Code::kResourceExhausted);
  items_ += items;
}

Value Interpreter::make(MarkedText text) {
  charge_bytes(text.size());
  return Value::text(std::move(text));
}

Value Interpreter::make(std::string text, Origin origin) {
  charge_bytes(text.size());
  return Value::text(std::move(text), origin);
}

void Interpreter::write(MarkedText& out, const MarkedText& text) {
  if (out.size() + text.size() > limits::kTemplateOutputBytes)
    fail(fmt::format("the output has more than {} bytes", limits::kTemplateOutputBytes),
         Code::kResourceExhausted);
  charge_bytes(text.size());
  out.append(text);
}

Interpreter::Flow Interpreter::execute(const Body& body, const ScopePtr& scope, MarkedText& out) {
  for (const auto& stmt : body) {
    const Flow flow = execute(*stmt, scope, out);
    if (flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::execute(const Stmt& stmt, const ScopePtr& scope, MarkedText& out) {
  const Depth depth(*this);
  charge(1);
  line_ = stmt.line;
  using Kind = Stmt::Kind;
  switch (stmt.kind) {
    case Kind::kData:
      write(out, stmt.value.as_text());
      break;
    case Kind::kPrint: {
      const Value value = evaluate(*stmt.expr, scope);
      if (value.is_text()) {
        write(out, value.as_text());
      } else {
        write(out, str(value));
      }
      break;
    }
    case Kind::kIf:
      return execute_if(stmt, scope, out);
    case Kind::kFor:
      execute_for(stmt, scope, out);
      break;
    case Kind::kSet:
      assign(stmt.target, evaluate(*stmt.expr, scope), scope);
      break;
    case Kind::kSetBlock:
    case Kind::kFilterBlock: {
      auto inner = std::make_shared<Scope>();
      inner->parent = scope;
      MarkedText text;
      execute(stmt.body, inner, text);
      Value value = Value::text(std::move(text));
      if (stmt.expr != nullptr) value = evaluate_filter(*stmt.expr, scope, &value);
      if (stmt.kind == Kind::kSetBlock) {
        assign(stmt.target, value, scope);
      } else {
        write(out, str(value));
      }
      break;
    }
    case Kind::kMacro:
      scope->set(stmt.id, macro_value(stmt, scope));
      break;
    case Kind::kCallBlock:
      execute_call_block(stmt, scope, out);
      break;
    case Kind::kWith:
      return execute_with(stmt, scope, out);
    case Kind::kScope:
      return execute(stmt.body, scope, out);
    case Kind::kBreak:
      return Flow::kBreak;
    case Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::execute_if(const Stmt& stmt, const ScopePtr& scope,
                                          MarkedText& out) {
  for (const auto& [condition, body] : stmt.branches)
    if (evaluate(*condition, scope).truthy()) return execute(body, scope, out);
  return execute(stmt.otherwise, scope, out);
}

Interpreter::Flow Interpreter::execute_with(const Stmt& stmt, const ScopePtr& scope,
                                            MarkedText& out) {
  auto inner = std::make_shared<Scope>();
  inner->parent = scope;
  for (const auto& [target, expr] : stmt.assignments) assign(target, evaluate(*expr, scope), inner);
  return execute(stmt.body, inner, out);
}

void Interpreter::execute_for(const Stmt& stmt, const ScopePtr& scope, MarkedText& out) {
  run_loop(stmt, evaluate(*stmt.expr, scope), scope, 1, out);
}

void Interpreter::run_loop(const Stmt& stmt, const Value& iterable, const ScopePtr& scope,
                           std::size_t depth, MarkedText& out) {
  ListPtr items = iterate(iterable);
  if (stmt.condition != nullptr) {
    std::vector<Value> kept;
    for (const Value& item : items->items) {
      auto inner = std::make_shared<Scope>();
      inner->parent = scope;
      assign(stmt.target, item, inner);
      if (!evaluate(*stmt.condition, inner).truthy()) continue;
      charge_items(1);
      kept.push_back(item);
    }
    items = Value::list(std::move(kept)).list_ptr();
  }
  if (items->items.empty()) {
    execute(stmt.otherwise, scope, out);
    return;
  }
  for (std::size_t i = 0; i < items->items.size(); ++i) {
    charge(1);
    auto inner = std::make_shared<Scope>();
    inner->parent = scope;
    auto loop = std::make_shared<Loop>();
    loop->items = items;
    loop->index = i;
    loop->depth = depth;
    if (stmt.recursive) {
      loop->recursive = &stmt;
      loop->scope = scope;
    }
    inner->values.emplace_back(program_.loop,
                               Value::of(std::shared_ptr<const Loop>(std::move(loop))));
    assign(stmt.target, items->items[i], inner);
    if (execute(stmt.body, inner, out) == Flow::kBreak) break;
  }
}

void Interpreter::assign(const Target& target, const Value& value, const ScopePtr& scope) {
  charge(1);
  if (!target.items.empty()) {
    const ListPtr items = iterate(value);
    if (items->items.size() != target.items.size()) {
      fail(fmt::format("cannot unpack {} values into {} names", items->items.size(),
                       target.items.size()));
    }
    for (std::size_t i = 0; i < target.items.size(); ++i)
      assign(target.items[i], items->items[i], scope);
    return;
  }
  if (target.attribute.empty()) {
    scope->set(target.id, value);
    return;
  }
  const Value* ns = scope->find(target.id);
  if (ns == nullptr || !ns->is_namespace())
    fail(fmt::format("'{}' is not a namespace, its attributes cannot be set",
                     program_.names[target.id]));
  Namespace& object = ns->as_namespace();
  if (Value* old = object.find(target.attribute)) {
    *old = value;
  } else {
    object.attributes.emplace_back(target.attribute, value);
  }
}

Value Interpreter::macro_value(const Stmt& stmt, const ScopePtr& scope) {
  charge(kKeptObjectSteps);
  auto function = std::make_shared<Function>();
  function->kind = Function::Kind::kMacro;
  function->name = stmt.name;
  function->macro = &stmt;
  function->scope = scope;
  if (macro_scopes_.empty() || macro_scopes_.back() != scope) macro_scopes_.push_back(scope);
  return Value::of(std::shared_ptr<const Function>(std::move(function)));
}

void Interpreter::execute_call_block(const Stmt& stmt, const ScopePtr& scope, MarkedText& out) {
  const Value callee = evaluate(*stmt.expr->items[0], scope);
  Arguments args = evaluate_arguments(*stmt.expr, scope);
  args.named.emplace_back("caller", macro_value(stmt, scope));
  write(out, str(call(callee, std::move(args))));
}

Value Interpreter::call_macro(const Function& macro, Arguments args) {
  const Stmt& stmt = *macro.macro;
  if (calls_ >= limits::kTemplateDepth)
    fail(fmt::format("macros call each other deeper than {}", limits::kTemplateDepth),
         Code::kResourceExhausted);
  auto scope = std::make_shared<Scope>();
  scope->parent = macro.scope;
  const std::size_t count = stmt.parameters.size();
  if (args.positional.size() > count && !stmt.takes_varargs)
    fail(fmt::format("macro '{}' takes not more than {} argument(s)", macro.name, count));
  std::vector<bool> used(args.named.size());
  for (std::size_t i = 0; i < count; ++i) {
    const Parameter& parameter = stmt.parameters[i];
    Value value = Value::undefined(fmt::format("parameter '{}' was not provided", parameter.name));
    bool given = i < args.positional.size();
    if (given) value = args.positional[i];
    for (std::size_t k = 0; k < args.named.size(); ++k) {
      if (args.named[k].first != parameter.name) continue;
      if (given)
        fail(fmt::format("macro '{}' got two values for '{}'", macro.name, parameter.name));
      value = args.named[k].second;
      given = used[k] = true;
    }
    if (!given && parameter.fallback != nullptr) value = evaluate(*parameter.fallback, scope);
    scope->set(parameter.id, std::move(value));
  }
  Dict rest;
  for (std::size_t k = 0; k < args.named.size(); ++k) {
    if (used[k]) continue;
    if (args.named[k].first == "caller") {
      scope->set(program_.caller, args.named[k].second);
    } else if (stmt.takes_kwargs) {
      rest.set(Value::text(args.named[k].first), args.named[k].second);
    } else {
      fail(fmt::format("macro '{}' takes no keyword argument '{}'", macro.name,
                       args.named[k].first));
    }
  }
  if (stmt.takes_kwargs) scope->set(program_.kwargs, Value::dict(std::move(rest)));
  if (stmt.takes_varargs) {
    std::vector<Value> more;
    for (std::size_t i = count; i < args.positional.size(); ++i) more.push_back(args.positional[i]);
    scope->set(program_.varargs, Value::list(std::move(more), true));
  }
  MarkedText out;
  const int line = line_;
  ++calls_;
  execute(stmt.body, scope, out);
  --calls_;
  line_ = line;
  return Value::text(std::move(out));
}

Value Interpreter::call_loop(const Loop& loop, const Arguments& args) {
  if (loop.recursive == nullptr) fail("the loop is not recursive");
  const Bound bound("loop", args, {"iterable"});
  if (calls_ >= limits::kTemplateDepth)
    fail(fmt::format("loops recurse deeper than {}", limits::kTemplateDepth),
         Code::kResourceExhausted);
  MarkedText out;
  ++calls_;
  run_loop(*loop.recursive, bound[0], loop.scope, loop.depth + 1, out);
  --calls_;
  return Value::text(std::move(out));
}

Value Interpreter::call_global(std::string_view name, const Arguments& args) {
  if (name == "raise_exception") {
    const Bound bound(name, args, {"message"});
    throw TemplateError{Code::kInvalidArgument, str(bound[0]).bytes(), true};
  }
  if (name == "strftime_now") {
    const Value format = Bound(name, args, {"format"}).required(0);
    if (!format.is_text()) fail("strftime_now needs a string");
    return make(format_time(format.bytes(), unix_seconds_), format.as_text().origin());
  }
  if (name == "namespace" || name == "dict") {
    auto ns = std::make_shared<Namespace>();
    Dict dict;
    for (const Value& source : args.positional) {
      if (!source.is_dict()) fail(fmt::format("{} takes a dict", name));
      for (const auto& [key, value] : source.as_dict().entries) dict.set(key, value);
    }
    for (const auto& [key, value] : args.named) dict.set(Value::text(key), value);
    if (name == "dict") return Value::dict(std::move(dict));
    for (const auto& [key, value] : dict.entries)
      ns->attributes.emplace_back(str(key).bytes(), value);
    charge(kKeptObjectSteps);
    namespaces_.push_back(ns);
    return Value::of(std::move(ns));
  }
  const Bound bound(name, args, {"start", "stop", "step"});
  std::int64_t start = bound.integer(0, 0);
  std::int64_t stop = bound.integer(1, 0);
  const std::int64_t step = bound.integer(2, 1);
  if (!bound.has(0)) fail("range needs an argument");
  if (!bound.has(1)) std::swap(start, stop);
  if (step == 0) fail("range() arg 3 must not be zero");
  std::vector<Value> items;
  while (step > 0 ? start < stop : start > stop) {
    charge(1);
    charge_items(1);
    items.push_back(Value::integer(start));
    if (__builtin_add_overflow(start, step, &start)) break;
  }
  return Value::list(std::move(items));
}

Value Interpreter::call(const Value& callee, Arguments args) {
  const Depth depth(*this);
  charge(1);
  if (callee.is_undefined()) fail(callee.hint());
  if (callee.is_loop()) return call_loop(callee.as_loop(), args);
  if (!callee.is_function()) fail(fmt::format("'{}' object is not callable", callee.type_name()));
  const Function& function = callee.as_function();
  switch (function.kind) {
    case Function::Kind::kMacro:
      return call_macro(function, std::move(args));
    case Function::Kind::kMethod:
      return call_method(*this, function.self, function.name, args);
    case Function::Kind::kGlobal:
      break;
  }
  return call_global(function.name, args);
}

}  // namespace mesh::text::jinja
