#pragma once
// Values of the template language. Strings know which of their bytes come from the caller, scalars
// know whether they do.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"
#include "text/marked_text.h"

namespace mesh::text::jinja {

// How errors of a template unwind inside text/jinja; Template turns them into Error, so none leaves
// this folder.
struct TemplateError {
  Code code = Code::kInvalidArgument;
  std::string message;
  bool raised = false;  // by raise_exception: the message is the template's own
};

class Value;
struct List;
struct Dict;
struct Namespace;
struct Function;
struct Loop;
using TextPtr = std::shared_ptr<const MarkedText>;
using ListPtr = std::shared_ptr<const List>;
using DictPtr = std::shared_ptr<const Dict>;

// Immutable but for namespaces. Cheap to copy. Nesting is bounded (kValueDepth), so recursion over
// values is too.
class Value {
 public:
  struct Undefined {
    std::shared_ptr<const std::string> hint;  // the sentence an error about it says
  };
  struct None {};

  Value() = default;
  static Value undefined(std::string hint);
  static Value none() { return Value(None{}); }
  static Value boolean(bool b, Origin origin = Origin::kTemplate) { return Value(b, origin); }
  static Value integer(std::int64_t i, Origin origin = Origin::kTemplate) {
    return Value(i, origin);
  }
  static Value real(double d, Origin origin = Origin::kTemplate) { return Value(d, origin); }
  static Value text(MarkedText text);
  static Value text(std::string text, Origin origin = Origin::kTemplate);
  static Value list(std::vector<Value> items,
                    bool tuple = false);  // throws TemplateError when nested too deep
  static Value dict(Dict dict);           // throws likewise
  static Value of(std::shared_ptr<Namespace> ns) { return Value(std::move(ns)); }
  static Value of(std::shared_ptr<const Function> f) { return Value(std::move(f)); }
  static Value of(std::shared_ptr<const Loop> l) { return Value(std::move(l)); }

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<std::int64_t>(data_); }
  bool is_real() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_bool() || is_int() || is_real(); }
  bool is_integral() const { return is_bool() || is_int(); }
  bool is_text() const { return std::holds_alternative<TextPtr>(data_); }
  bool is_list() const { return std::holds_alternative<ListPtr>(data_); }
  bool is_dict() const { return std::holds_alternative<DictPtr>(data_); }
  bool is_namespace() const { return std::holds_alternative<std::shared_ptr<Namespace>>(data_); }
  bool is_function() const {
    return std::holds_alternative<std::shared_ptr<const Function>>(data_);
  }
  bool is_loop() const { return std::holds_alternative<std::shared_ptr<const Loop>>(data_); }

  // Each needs its kind; as_int and as_real also take the narrower numbers.
  std::int64_t as_int() const;
  double as_real() const;
  bool as_bool() const { return std::get<bool>(data_); }
  const MarkedText& as_text() const { return *std::get<TextPtr>(data_); }
  const std::string& bytes() const { return as_text().bytes(); }
  const List& as_list() const { return *std::get<ListPtr>(data_); }
  ListPtr list_ptr() const { return std::get<ListPtr>(data_); }
  const Dict& as_dict() const { return *std::get<DictPtr>(data_); }
  Namespace& as_namespace() const { return *std::get<std::shared_ptr<Namespace>>(data_); }
  const Function& as_function() const { return *std::get<std::shared_ptr<const Function>>(data_); }
  const Loop& as_loop() const { return *std::get<std::shared_ptr<const Loop>>(data_); }
  const std::string& hint() const;  // of an undefined value

  Origin scalar_origin() const { return origin_; }  // of numbers, booleans and none
  std::uint32_t depth() const;                      // 0 for scalars
  bool truthy() const;
  const char* type_name() const;  // as Python names it: "str", "int", "dict"…
  const void* identity() const;   // address of what is shared; null for scalars

 private:
  template <typename T>
  explicit Value(T data, Origin origin = Origin::kTemplate)
      : data_(std::move(data)), origin_(origin) {}
  std::variant<Undefined, None, bool, std::int64_t, double, TextPtr, ListPtr, DictPtr,
               std::shared_ptr<Namespace>, std::shared_ptr<const Function>,
               std::shared_ptr<const Loop>>
      data_;
  Origin origin_ = Origin::kTemplate;
};

struct List {
  std::vector<Value> items;
  bool tuple = false;
  std::uint32_t depth = 1;
};

// Insertion order, as in Python. Keys are compared as values; string keys are found by hash.
struct Dict {
  std::vector<std::pair<Value, Value>> entries;
  std::uint32_t depth = 1;

  void set(const Value& key, Value value);
  const Value* find(const Value& key) const;  // null if absent
  const Value* find(std::string_view key) const;

 private:
  std::unordered_map<std::string, std::size_t> by_text_;
};

// The one mutable value: namespace(a=1), `set ns.a = 2`.
struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
  Value* find(std::string_view name);
};

// Joins the origins of two inputs of one result.
inline Origin either(Origin a, Origin b) {
  return a == Origin::kCaller || b == Origin::kCaller ? Origin::kCaller : Origin::kTemplate;
}

// Python's ==. `cost` grows with the work done.
bool equal(const Value& a, const Value& b, std::size_t& cost);

// JSON text to a value whose every scalar and byte has `origin`. Throws TemplateError when it is
// not JSON, nested deeper than limits::kTemplateDepth, or not UTF-8; `name` stands in the message.
Value from_json(std::string_view json, Origin origin, std::string_view name);

}  // namespace mesh::text::jinja
