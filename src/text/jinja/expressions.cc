#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/limits.h"
#include "text/jinja/format.h"
#include "text/jinja/interpreter.h"
#include "text/utf8.h"

namespace mesh::text::jinja {
namespace {

constexpr std::array<std::string_view, 5> kGlobals = {"namespace", "dict", "range",
                                                      "raise_exception", "strftime_now"};

Value function_value(Function::Kind kind, std::string name, Value self) {
  auto function = std::make_shared<Function>();
  function->kind = kind;
  function->name = std::move(name);
  function->self = std::move(self);
  return Value::of(std::shared_ptr<const Function>(std::move(function)));
}

}  // namespace

Value Interpreter::evaluate(const Expr& expr, const ScopePtr& scope) {
  const Depth depth(*this);
  charge(1);
  using Kind = Expr::Kind;
  switch (expr.kind) {
    case Kind::kConst:
      return expr.value;
    case Kind::kName:
      return evaluate_name(expr, scope);
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
      return evaluate_collection(expr, scope);
    case Kind::kNot:
    case Kind::kNeg:
    case Kind::kPos:
      return evaluate_unary(expr, scope);
    case Kind::kBinary: {
      const Value left = evaluate(*expr.items[0], scope);
      return arithmetic(expr.op, left, evaluate(*expr.items[1], scope));
    }
    case Kind::kConcat:
      return evaluate_concat(expr, scope);
    case Kind::kCompare:
      return evaluate_compare(expr, scope);
    case Kind::kAnd:
    case Kind::kOr: {
      Value left = evaluate(*expr.items[0], scope);
      const bool decided = left.truthy() == (expr.kind == Kind::kOr);
      return decided ? left : evaluate(*expr.items[1], scope);
    }
    case Kind::kCond:
      if (evaluate(*expr.items[0], scope).truthy()) return evaluate(*expr.items[1], scope);
      if (expr.items[2] != nullptr) return evaluate(*expr.items[2], scope);
      return Value::undefined(
          "the inline if-expression evaluated to false and no else section was defined");
    case Kind::kAttr:
      return attribute(evaluate(*expr.items[0], scope), expr.name);
    case Kind::kItem: {
      const Value object = evaluate(*expr.items[0], scope);
      return item(object, evaluate(*expr.items[1], scope));
    }
    case Kind::kSlice:
      return evaluate_slice(expr, scope);
    case Kind::kCall: {
      const Value callee = evaluate(*expr.items[0], scope);
      return call(callee, evaluate_arguments(expr, scope));
    }
    case Kind::kFilter:
      return evaluate_filter(expr, scope, nullptr);
    case Kind::kTest: {
      const Value input = evaluate(*expr.items[0], scope);
      return Value::boolean(test(expr.name, input, evaluate_arguments(expr, scope)));
    }
  }
  return Value();
}

Value Interpreter::evaluate_name(const Expr& expr, const ScopePtr& scope) {
  if (const Value* value = scope->find(expr.id)) return *value;
  if (std::find(kGlobals.begin(), kGlobals.end(), expr.name) != kGlobals.end())
    return function_value(Function::Kind::kGlobal, expr.name, Value());
  return Value::undefined(fmt::format("'{}' is undefined", expr.name));
}

Value Interpreter::evaluate_collection(const Expr& expr, const ScopePtr& scope) {
  if (expr.kind != Expr::Kind::kDict) {
    std::vector<Value> items;
    items.reserve(expr.items.size());
    for (const ExprPtr& item_expr : expr.items) items.push_back(evaluate(*item_expr, scope));
    return Value::list(std::move(items), expr.kind == Expr::Kind::kTuple);
  }
  Dict dict;
  for (std::size_t i = 0; i + 1 < expr.items.size(); i += 2) {
    const Value key = evaluate(*expr.items[i], scope);
    if (key.is_dict() || (key.is_list() && !key.as_list().tuple))
      fail(fmt::format("unhashable type: '{}'", key.type_name()));
    dict.set(key, evaluate(*expr.items[i + 1], scope));
  }
  return Value::dict(std::move(dict));
}

Value Interpreter::evaluate_unary(const Expr& expr, const ScopePtr& scope) {
  const Value value = evaluate(*expr.items[0], scope);
  if (expr.kind == Expr::Kind::kNot) return Value::boolean(!value.truthy());
  if (value.is_undefined()) fail(value.hint());
  if (!value.is_number())
    fail(fmt::format("bad operand type for unary -: '{}'", value.type_name()));
  if (value.is_real())
    return Value::real(expr.kind == Expr::Kind::kNeg ? -value.as_real() : value.as_real(),
                       value.scalar_origin());
  if (expr.kind == Expr::Kind::kPos) return Value::integer(value.as_int(), value.scalar_origin());
  return arithmetic(Op::kSub, Value::integer(0), value);
}

Value Interpreter::evaluate_concat(const Expr& expr, const ScopePtr& scope) {
  MarkedText out;
  for (const ExprPtr& part : expr.items) {
    const Value value = evaluate(*part, scope);
    if (value.is_text()) {
      out.append(value.as_text());
    } else {
      out.append(str(value));
    }
    if (out.size() > limits::kTemplateOutputBytes) charge_bytes(out.size());
  }
  return make(std::move(out));
}

Value Interpreter::evaluate_compare(const Expr& expr, const ScopePtr& scope) {
  Value left = evaluate(*expr.items[0], scope);
  for (std::size_t i = 0; i < expr.comparisons.size(); ++i) {
    Value right = evaluate(*expr.items[i + 1], scope);
    if (!compare(expr.comparisons[i], left, right)) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

bool Interpreter::compare(Comparison op, const Value& a, const Value& b) {
  switch (op) {
    case Comparison::kEq:
      return same(a, b);
    case Comparison::kNe:
      return !same(a, b);
    case Comparison::kLt:
      return less(a, b);
    case Comparison::kLe:
      return less(a, b) || same(a, b);
    case Comparison::kGt:
      return less(b, a);
    case Comparison::kGe:
      return less(b, a) || same(a, b);
    case Comparison::kIn:
      return contains(b, a);
    case Comparison::kNotIn:
      return !contains(b, a);
  }
  return false;
}

bool Interpreter::same(const Value& a, const Value& b) {
  std::size_t cost = 0;
  const bool result = equal(a, b, cost);
  charge(cost);
  return result;
}

bool Interpreter::less(const Value& a, const Value& b) {
  charge(1);
  if (a.is_undefined() || b.is_undefined()) fail(a.is_undefined() ? a.hint() : b.hint());
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.as_int() < b.as_int();
    return a.as_real() < b.as_real();
  }
  if (a.is_text() && b.is_text()) {
    charge(std::min(a.as_text().size(), b.as_text().size()) / 256);
    return a.bytes() < b.bytes();  // the order of UTF-8 is that of code points
  }
  if (a.is_list() && b.is_list() && a.as_list().tuple == b.as_list().tuple) {
    const auto& x = a.as_list().items;
    const auto& y = b.as_list().items;
    for (std::size_t i = 0; i < std::min(x.size(), y.size()); ++i)
      if (!same(x[i], y[i])) return less(x[i], y[i]);
    return x.size() < y.size();
  }
  fail(fmt::format("'<' not supported between instances of '{}' and '{}'", a.type_name(),
                   b.type_name()));
}

bool Interpreter::contains(const Value& container, const Value& item_value) {
  if (container.is_text()) {
    if (!item_value.is_text()) {
      fail(item_value.is_undefined()
               ? item_value.hint()
               : fmt::format("'in <string>' requires string as left operand, not {}",
                             item_value.type_name()));
    }
    charge(1 + container.as_text().size() / 64);
    return container.bytes().find(item_value.bytes()) != std::string::npos;
  }
  if (container.is_dict()) return container.as_dict().find(item_value) != nullptr;
  const ListPtr items = iterate(container);
  return std::any_of(items->items.begin(), items->items.end(),
                     [&](const Value& own) { return same(own, item_value); });
}

ListPtr Interpreter::iterate(const Value& value) {
  if (value.is_list()) return value.list_ptr();
  std::vector<Value> items;
  if (value.is_dict()) {
    charge(value.as_dict().entries.size());
    charge_items(value.as_dict().entries.size());
    for (const auto& [key, item_value] : value.as_dict().entries) items.push_back(key);
  } else if (value.is_text()) {
    const MarkedText& text = value.as_text();
    charge(text.size());
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = at + utf8_step(std::string_view(text.bytes()).substr(at)).bytes;
      charge_items(kTextItems);
      items.push_back(Value::text(text.slice(at, end)));
      at = end;
    }
  } else if (!value.is_undefined()) {
    fail(fmt::format("'{}' object is not iterable", value.type_name()));
  }
  return Value::list(std::move(items)).list_ptr();
}

MarkedText Interpreter::str(const Value& value) {
  if (value.is_undefined()) return {};
  if (value.is_text()) return value.as_text();
  Origin origin = Origin::kTemplate;
  std::string text = repr(value, origin);
  charge_bytes(text.size());
  return MarkedText(std::move(text), origin);
}

Arguments Interpreter::evaluate_arguments(const Expr& expr, const ScopePtr& scope) {
  Arguments args;
  for (std::size_t i = 1; i < expr.items.size(); ++i)
    args.positional.push_back(evaluate(*expr.items[i], scope));
  for (const auto& [name, value] : expr.named)
    args.named.emplace_back(name, evaluate(*value, scope));
  return args;
}

Value Interpreter::evaluate_filter(const Expr& expr, const ScopePtr& scope, const Value* input) {
  const Depth depth(*this);
  Value value;
  if (expr.items[0] == nullptr) {
    value = *input;
  } else if (input != nullptr && expr.items[0]->kind == Expr::Kind::kFilter) {
    value = evaluate_filter(*expr.items[0], scope, input);
  } else {
    value = evaluate(*expr.items[0], scope);
  }
  return filter(expr.name, value, evaluate_arguments(expr, scope));
}

Value Interpreter::filter(std::string_view name, const Value& input, const Arguments& args) {
  charge(1);
  Filter function = find_filter(name);
  if (function == nullptr) function = find_sequence_filter(name);
  if (function == nullptr) fail(fmt::format("no filter named '{}'", name));
  return function(*this, input, args);
}

bool Interpreter::test(std::string_view name, const Value& input, const Arguments& args) {
  charge(1);
  const Test function = find_test(name);
  if (function == nullptr) fail(fmt::format("no test named '{}'", name));
  return function(*this, input, args);
}

Value Interpreter::loop_attribute(const Loop& loop, std::string_view name) {
  const auto& items = loop.items->items;
  const auto number = [](std::size_t n) { return Value::integer(static_cast<std::int64_t>(n)); };
  if (name == "index") return number(loop.index + 1);
  if (name == "index0") return number(loop.index);
  if (name == "revindex") return number(items.size() - loop.index);
  if (name == "revindex0") return number(items.size() - loop.index - 1);
  if (name == "first") return Value::boolean(loop.index == 0);
  if (name == "last") return Value::boolean(loop.index + 1 == items.size());
  if (name == "length") return number(items.size());
  if (name == "depth") return number(loop.depth);
  if (name == "depth0") return number(loop.depth - 1);
  if (name == "previtem")
    return loop.index > 0 ? items[loop.index - 1] : Value::undefined("there is no previous item");
  if (name == "nextitem")
    return loop.index + 1 < items.size() ? items[loop.index + 1]
                                         : Value::undefined("there is no next item");
  return Value::undefined(fmt::format("'loop' has no attribute '{}'", name));
}

Value Interpreter::attribute(const Value& object, std::string_view name) {
  charge(1);
  if (object.is_undefined()) fail(object.hint());
  if (object.is_loop()) {
    if (name == "cycle") return function_value(Function::Kind::kMethod, std::string(name), object);
    return loop_attribute(object.as_loop(), name);
  }
  if (object.is_namespace()) {
    if (const Value* value = object.as_namespace().find(name)) return *value;
    return Value::undefined(fmt::format("the namespace has no attribute '{}'", name));
  }
  if (has_method(object, name))
    return function_value(Function::Kind::kMethod, std::string(name), object);
  if (object.is_dict())
    if (const Value* value = object.as_dict().find(name)) return *value;
  return Value::undefined(
      fmt::format("'{} object' has no attribute '{}'", object.type_name(), name));
}

Value Interpreter::item(const Value& object, const Value& key) {
  charge(1);
  if (object.is_undefined()) fail(object.hint());
  if (object.is_dict()) {
    if (const Value* value = object.as_dict().find(key)) return *value;
  } else if (key.is_integral() && object.is_list()) {
    const auto& items = object.as_list().items;
    const auto size = static_cast<std::int64_t>(items.size());
    const std::int64_t at = key.as_int() < 0 ? key.as_int() + size : key.as_int();
    if (at >= 0 && at < size) return items[static_cast<std::size_t>(at)];
    return Value::undefined(
        fmt::format("'{} object' has no element {}", object.type_name(), key.as_int()));
  } else if (key.is_integral() && object.is_text()) {
    const Value one = slice(
        object, key, Value::integer(key.as_int() + (key.as_int() < INT64_MAX ? 1 : 0)), Value());
    const Value last = key.as_int() == -1 ? slice(object, key, Value(), Value()) : one;
    if (!last.as_text().empty()) return last;
    return Value::undefined(fmt::format("'str object' has no element {}", key.as_int()));
  }
  if (key.is_text()) {
    // As jinja2's getitem: an item first, then an attribute.
    if (!object.is_dict() || has_method(object, key.bytes())) return attribute(object, key.bytes());
    return Value::undefined(fmt::format("'dict object' has no attribute '{}'", key.bytes()));
  }
  return Value::undefined(fmt::format("'{} object' has no such element", object.type_name()));
}

Value Interpreter::path(const Value& object, const Value& attribute_path) {
  if (!attribute_path.is_text()) return item(object, attribute_path);
  std::string_view rest = attribute_path.bytes();
  Value value = object;
  while (true) {
    const std::string_view part = rest.substr(0, rest.find('.'));
    const bool number =
        !part.empty() && part.size() < 10 &&
        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    value = item(value, number ? Value::integer(std::stoll(std::string(part)))
                               : Value::text(std::string(part)));
    if (part.size() == rest.size()) return value;
    rest.remove_prefix(part.size() + 1);
  }
}

Value Interpreter::evaluate_slice(const Expr& expr, const ScopePtr& scope) {
  const auto part = [&](std::size_t i) {
    return expr.items[i] == nullptr ? Value() : evaluate(*expr.items[i], scope);
  };
  const Value object = evaluate(*expr.items[0], scope);
  const Value start = part(1);
  const Value stop = part(2);
  return slice(object, start, stop, part(3));
}

namespace {

struct SliceBounds {
  std::int64_t start = 0;
  std::int64_t stop = 0;
  std::int64_t step = 1;
};

// Source: Python's slice.indices.
SliceBounds slice_bounds(const Interpreter& in, const Value& start, const Value& stop,
                         const Value& step, std::int64_t length) {
  const auto number = [&](const Value& v, std::int64_t fallback) {
    if (v.is_undefined() || v.is_none()) return fallback;
    if (!v.is_integral()) in.fail("slice indices must be integers or None");
    return v.as_int();
  };
  SliceBounds out;
  out.step = number(step, 1);
  if (out.step == 0) in.fail("slice step cannot be zero");
  const std::int64_t low = out.step > 0 ? 0 : -1;
  const std::int64_t high = out.step > 0 ? length : length - 1;
  const auto clip = [&](std::int64_t n) { return std::clamp(n < 0 ? n + length : n, low, high); };
  const auto given = [](const Value& v) { return !v.is_undefined() && !v.is_none(); };
  out.start = given(start) ? clip(number(start, 0)) : (out.step > 0 ? low : high);
  out.stop = given(stop) ? clip(number(stop, 0)) : (out.step > 0 ? high : low);
  return out;
}

}  // namespace

Value Interpreter::slice(const Value& object, const Value& start, const Value& stop,
                         const Value& step) {
  if (object.is_undefined()) fail(object.hint());
  if (object.is_list()) {
    const List& list = object.as_list();
    const auto size = static_cast<std::int64_t>(list.items.size());
    const SliceBounds b = slice_bounds(*this, start, stop, step, size);
    std::vector<Value> items;
    for (std::int64_t i = b.start; b.step > 0 ? i < b.stop : i > b.stop;) {
      charge_items(1);
      items.push_back(list.items[static_cast<std::size_t>(i)]);
      if (__builtin_add_overflow(i, b.step, &i)) break;
    }
    charge(items.size() / 8);
    return Value::list(std::move(items), list.tuple);
  }
  if (!object.is_text()) fail(fmt::format("'{}' object is not sliceable", object.type_name()));
  const MarkedText& text = object.as_text();
  charge(1 + (text.ascii() ? 0 : text.size() / 64));
  const std::size_t length = text.ascii() ? text.size() : count_code_points(text.bytes());
  const SliceBounds b = slice_bounds(*this, start, stop, step, static_cast<std::int64_t>(length));
  const auto offset = [&](std::int64_t i) {
    return text.ascii() ? static_cast<std::size_t>(i)
                        : code_point_offset(text.bytes(), static_cast<std::size_t>(i));
  };
  if (b.step == 1)
    return make(b.start < b.stop ? text.slice(offset(b.start), offset(b.stop)) : MarkedText());
  const ListPtr characters = iterate(object);
  MarkedText out;
  for (std::int64_t i = b.start; b.step > 0 ? i < b.stop : i > b.stop;) {
    out.append(characters->items[static_cast<std::size_t>(i)].as_text());
    if (__builtin_add_overflow(i, b.step, &i)) break;
  }
  return make(std::move(out));
}

namespace {

std::int64_t floor_div(std::int64_t a, std::int64_t b) {
  const std::int64_t q = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

const char* symbol(Op op) {
  static constexpr const char* kSymbols[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};
  return kSymbols[static_cast<int>(op)];
}

// False when the result does not fit.
bool integer_arithmetic(Op op, std::int64_t a, std::int64_t b, std::int64_t& out) {
  switch (op) {
    case Op::kAdd:
      return !__builtin_add_overflow(a, b, &out);
    case Op::kSub:
      return !__builtin_sub_overflow(a, b, &out);
    case Op::kMul:
      return !__builtin_mul_overflow(a, b, &out);
    case Op::kFloorDiv:
    case Op::kMod: {
      if (b == -1) {
        if (a == INT64_MIN) return false;
        out = op == Op::kMod ? 0 : -a;
        return true;
      }
      const std::int64_t q = floor_div(a, b);
      out = op == Op::kFloorDiv ? q : a - q * b;
      return true;
    }
    default: {
      out = 1;
      for (std::int64_t i = 0; i < b; ++i) {
        if (__builtin_mul_overflow(out, a, &out)) return false;
        if (out == 0 || (out == 1 && a == 1)) break;
        if (a == -1) {
          out = b % 2 == 0 ? 1 : -1;
          break;
        }
      }
      return true;
    }
  }
}

}  // namespace

Value Interpreter::arithmetic(Op op, const Value& a, const Value& b) {
  if (a.is_undefined() || b.is_undefined()) fail(a.is_undefined() ? a.hint() : b.hint());
  if (!a.is_number() || !b.is_number()) return binary_text_or_list(op, a, b);
  const Origin origin = either(a.scalar_origin(), b.scalar_origin());
  const bool divides = op == Op::kDiv || op == Op::kFloorDiv || op == Op::kMod;
  if (divides && b.as_real() == 0) fail("division by zero");
  const bool integral =
      a.is_integral() && b.is_integral() && op != Op::kDiv && !(op == Op::kPow && b.as_int() < 0);
  if (integral) {
    std::int64_t out = 0;
    if (!integer_arithmetic(op, a.as_int(), b.as_int(), out))
      fail("an integer does not fit 64 bits");
    return Value::integer(out, origin);
  }
  const double x = a.as_real();
  const double y = b.as_real();
  switch (op) {
    case Op::kAdd:
      return Value::real(x + y, origin);
    case Op::kSub:
      return Value::real(x - y, origin);
    case Op::kMul:
      return Value::real(x * y, origin);
    case Op::kDiv:
      return Value::real(x / y, origin);
    case Op::kFloorDiv:
      return Value::real(std::floor(x / y), origin);
    case Op::kMod: {
      const double rest = std::fmod(x, y);
      return Value::real(rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest, origin);
    }
    case Op::kPow:
      break;
  }
  return Value::real(std::pow(x, y), origin);
}

Value Interpreter::binary_text_or_list(Op op, const Value& a, const Value& b) {
  if (op == Op::kAdd && a.is_text() && b.is_text()) {
    charge_bytes(a.as_text().size() + b.as_text().size());
    MarkedText out = a.as_text();
    out.append(b.as_text());
    return Value::text(std::move(out));
  }
  if (op == Op::kAdd && a.is_list() && b.is_list() && a.as_list().tuple == b.as_list().tuple) {
    charge_items(a.as_list().items.size() + b.as_list().items.size());
    std::vector<Value> items = a.as_list().items;
    items.insert(items.end(), b.as_list().items.begin(), b.as_list().items.end());
    return Value::list(std::move(items), a.as_list().tuple);
  }
  if (op == Op::kMul && a.is_integral() && (b.is_text() || b.is_list()))
    return binary_text_or_list(op, b, a);
  if (op == Op::kMul && b.is_integral() && (a.is_text() || a.is_list())) {
    const std::size_t unit = a.is_text() ? a.as_text().size() : a.as_list().items.size();
    const auto times = static_cast<std::size_t>(std::max<std::int64_t>(0, b.as_int()));
    std::size_t total = 0;
    if (__builtin_mul_overflow(unit, times, &total))
      fail("the result is too large", Code::kResourceExhausted);
    a.is_text() ? charge_bytes(total) : charge_items(total);
    MarkedText text;
    std::vector<Value> items;
    for (std::size_t i = 0; unit > 0 && i < times; ++i) {
      if (a.is_text()) {
        text.append(a.as_text());
      } else {
        items.insert(items.end(), a.as_list().items.begin(), a.as_list().items.end());
      }
    }
    return a.is_text() ? Value::text(std::move(text))
                       : Value::list(std::move(items), a.as_list().tuple);
  }
  if (op == Op::kMod && a.is_text()) {
    Origin origin = a.as_text().origin();
    std::string text = format_percent(a.bytes(), b, origin);
    return make(std::move(text), origin);
  }
  if (op == Op::kAdd && a.is_text())
    fail(fmt::format("can only concatenate str (not \"{}\") to str", b.type_name()));
  fail(fmt::format("unsupported operand type(s) for {}: '{}' and '{}'", symbol(op), a.type_name(),
                   b.type_name()));
}

}  // namespace mesh::text::jinja
