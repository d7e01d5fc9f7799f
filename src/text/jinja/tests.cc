#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "text/jinja/interpreter.h"

namespace mesh::text::jinja {
namespace {

using Kind = bool (Value::*)() const;

template <Kind kKind>
bool is_kind(Interpreter&, const Value& input, const Arguments&) {
  return (input.*kKind)();
}

bool is_defined(Interpreter&, const Value& input, const Arguments&) {
  return !input.is_undefined();
}
bool is_iterable(Interpreter&, const Value& v, const Arguments&) {
  return v.is_list() || v.is_dict() || v.is_text() || v.is_undefined();
}
bool is_sequence(Interpreter&, const Value& v, const Arguments&) {
  return v.is_list() || v.is_dict() || v.is_text();
}
bool is_true(Interpreter&, const Value& v, const Arguments&) {
  return v.is_bool() && v.as_bool();
}
bool is_false(Interpreter&, const Value& v, const Arguments&) {
  return v.is_bool() && !v.as_bool();
}
bool is_callable(Interpreter&, const Value& v, const Arguments&) {
  return v.is_function() || v.is_loop();
}

const Value& only(Interpreter& in, const Arguments& args) {
  if (args.positional.size() != 1 || !args.named.empty()) in.fail("the test takes one argument");
  return args.positional[0];
}

bool is_equal(Interpreter& in, const Value& a, const Arguments& args) {
  return in.same(a, only(in, args));
}
bool is_unequal(Interpreter& in, const Value& a, const Arguments& args) {
  return !in.same(a, only(in, args));
}
bool is_less(Interpreter& in, const Value& a, const Arguments& args) {
  return in.less(a, only(in, args));
}
bool is_greater(Interpreter& in, const Value& a, const Arguments& args) {
  return in.less(only(in, args), a);
}
bool is_at_most(Interpreter& in, const Value& a, const Arguments& args) {
  return in.less(a, only(in, args)) || in.same(a, only(in, args));
}
bool is_at_least(Interpreter& in, const Value& a, const Arguments& args) {
  return in.less(only(in, args), a) || in.same(a, only(in, args));
}
bool is_in(Interpreter& in, const Value& a, const Arguments& args) {
  return in.contains(only(in, args), a);
}
bool is_same_object(Interpreter& in, const Value& a, const Arguments& args) {
  const Value& b = only(in, args);
  if (a.identity() != nullptr || b.identity() != nullptr) return a.identity() == b.identity();
  return std::string_view(a.type_name()) == b.type_name() && in.same(a, b);
}

std::int64_t modulo(Interpreter& in, const Value& a, std::int64_t by) {
  const Value rest = in.arithmetic(Op::kMod, a, Value::integer(by));
  if (!rest.is_int()) in.fail(fmt::format("'{}' is not an integer", a.type_name()));
  return rest.as_int();
}
bool is_odd(Interpreter& in, const Value& a, const Arguments&) {
  return modulo(in, a, 2) == 1;
}
bool is_even(Interpreter& in, const Value& a, const Arguments&) {
  return modulo(in, a, 2) == 0;
}
bool is_divisible(Interpreter& in, const Value& a, const Arguments& args) {
  const Value& by = only(in, args);
  if (!by.is_integral()) in.fail("divisibleby takes an integer");
  return modulo(in, a, by.as_int()) == 0;
}

template <bool kUpper>
bool is_case(Interpreter& in, const Value& a, const Arguments&) {
  return call_method(in, Value::text(in.str(a)), kUpper ? "isupper" : "islower", {}).as_bool();
}

bool is_filter_name(Interpreter&, const Value& a, const Arguments&) {
  return a.is_text() &&
         (find_filter(a.bytes()) != nullptr || find_sequence_filter(a.bytes()) != nullptr);
}
bool is_test_name(Interpreter&, const Value& a, const Arguments&) {
  return a.is_text() && find_test(a.bytes()) != nullptr;
}

}  // namespace

Test find_test(std::string_view name) {
  static const std::unordered_map<std::string_view, Test> kTable = {
      {"defined", is_defined},
      {"undefined", is_kind<&Value::is_undefined>},
      {"none", is_kind<&Value::is_none>},
      {"string", is_kind<&Value::is_text>},
      {"mapping", is_kind<&Value::is_dict>},
      {"number", is_kind<&Value::is_number>},
      {"integer", is_kind<&Value::is_int>},
      {"float", is_kind<&Value::is_real>},
      {"boolean", is_kind<&Value::is_bool>},
      {"iterable", is_iterable},
      {"sequence", is_sequence},
      {"true", is_true},
      {"false", is_false},
      {"callable", is_callable},
      {"equalto", is_equal},
      {"eq", is_equal},
      {"==", is_equal},
      {"ne", is_unequal},
      {"!=", is_unequal},
      {"lt", is_less},
      {"lessthan", is_less},
      {"<", is_less},
      {"le", is_at_most},
      {"<=", is_at_most},
      {"gt", is_greater},
      {"greaterthan", is_greater},
      {">", is_greater},
      {"ge", is_at_least},
      {">=", is_at_least},
      {"in", is_in},
      {"sameas", is_same_object},
      {"odd", is_odd},
      {"even", is_even},
      {"divisibleby", is_divisible},
      {"upper", is_case<true>},
      {"lower", is_case<false>},
      {"filter", is_filter_name},
      {"test", is_test_name},
  };
  const auto it = kTable.find(name);
  return it == kTable.end() ? nullptr : it->second;
}

}  // namespace mesh::text::jinja
