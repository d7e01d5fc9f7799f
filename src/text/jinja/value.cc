#include "text/jinja/value.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "text/jinja/interpreter.h"

namespace mesh::text::jinja {
namespace {

// Values that a template wraps around the caller's, whose depth from_json bounds.
constexpr std::uint32_t kValueDepth = 2 * limits::kTemplateDepth;

std::uint32_t checked_depth(std::uint32_t inner) {
  if (inner >= kValueDepth)
    throw TemplateError{Code::kResourceExhausted,
                        fmt::format("values are nested deeper than {}", kValueDepth)};
  return inner + 1;
}

}  // namespace

Value Value::undefined(std::string hint) {
  return Value(Undefined{std::make_shared<const std::string>(std::move(hint))});
}

Value Value::text(MarkedText text) {
  return Value(std::make_shared<const MarkedText>(std::move(text)));
}

Value Value::text(std::string text, Origin origin) {
  return Value(std::make_shared<const MarkedText>(std::move(text), origin));
}

Value Value::list(std::vector<Value> items, bool tuple) {
  std::uint32_t inner = 0;
  for (const Value& item : items) inner = std::max(inner, item.depth());
  return Value(std::make_shared<const List>(List{std::move(items), tuple, checked_depth(inner)}));
}

Value Value::dict(Dict dict) {
  std::uint32_t inner = 0;
  for (const auto& [key, value] : dict.entries)
    inner = std::max({inner, key.depth(), value.depth()});
  dict.depth = checked_depth(inner);
  return Value(std::make_shared<const Dict>(std::move(dict)));
}

std::int64_t Value::as_int() const {
  return is_bool() ? as_bool() : std::get<std::int64_t>(data_);
}

double Value::as_real() const {
  return is_real() ? std::get<double>(data_) : static_cast<double>(as_int());
}

const std::string& Value::hint() const {
  static const std::string kPlain = "value is undefined";
  const auto& hint = std::get<Undefined>(data_).hint;
  return hint == nullptr ? kPlain : *hint;
}

std::uint32_t Value::depth() const {
  if (is_list()) return as_list().depth;
  if (is_dict()) return as_dict().depth;
  if (is_function()) return as_function().self.depth() + 1;
  if (is_loop()) return as_loop().items->depth + 1;
  return 0;
}

bool Value::truthy() const {
  if (is_undefined() || is_none()) return false;
  if (is_integral()) return as_int() != 0;
  if (is_real()) return as_real() != 0;
  if (is_text()) return !as_text().empty();
  if (is_list()) return !as_list().items.empty();
  if (is_dict()) return !as_dict().entries.empty();
  return true;
}

const char* Value::type_name() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (is_int()) return "int";
  if (is_real()) return "float";
  if (is_text()) return "str";
  if (is_list()) return as_list().tuple ? "tuple" : "list";
  if (is_dict()) return "dict";
  if (is_namespace()) return "Namespace";
  return is_loop() ? "LoopContext" : "function";
}

const void* Value::identity() const {
  if (is_text()) return &as_text();
  if (is_list()) return &as_list();
  if (is_dict()) return &as_dict();
  if (is_namespace()) return &as_namespace();
  if (is_function()) return &as_function();
  if (is_loop()) return &as_loop();
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  const auto it = by_text_.find(std::string(key));
  return it == by_text_.end() ? nullptr : &entries[it->second].second;
}

const Value* Dict::find(const Value& key) const {
  if (key.is_text()) return find(std::string_view(key.bytes()));
  std::size_t cost = 0;
  for (const auto& [own, value] : entries)
    if (!own.is_text() && equal(own, key, cost)) return &value;
  return nullptr;
}

void Dict::set(const Value& key, Value value) {
  if (key.is_text()) {
    const auto [it, fresh] = by_text_.emplace(key.bytes(), entries.size());
    if (!fresh) {
      entries[it->second].second = std::move(value);
      return;
    }
  } else if (const Value* old = find(key)) {
    const_cast<Value&>(*old) = std::move(value);  // our own entry, found through the const overload
    return;
  }
  entries.emplace_back(key, std::move(value));
}

Value* Namespace::find(std::string_view name) {
  for (auto& [key, value] : attributes)
    if (key == name) return &value;
  return nullptr;
}

bool equal(const Value& a, const Value& b, std::size_t& cost) {
  ++cost;
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.as_int() == b.as_int();
    return a.as_real() == b.as_real();
  }
  if (a.is_text() && b.is_text()) {
    cost += std::min(a.as_text().size(), b.as_text().size()) / 256;
    return a.bytes() == b.bytes();
  }
  if (a.is_undefined() || b.is_undefined()) return a.is_undefined() && b.is_undefined();
  if (a.is_none() || b.is_none()) return a.is_none() && b.is_none();
  if (a.is_list() && b.is_list()) {
    const List& x = a.as_list();
    const List& y = b.as_list();
    if (x.tuple != y.tuple || x.items.size() != y.items.size()) return false;
    for (std::size_t i = 0; i < x.items.size(); ++i)
      if (!equal(x.items[i], y.items[i], cost)) return false;
    return true;
  }
  if (a.is_dict() && b.is_dict()) {
    if (a.as_dict().entries.size() != b.as_dict().entries.size()) return false;
    for (const auto& [key, value] : a.as_dict().entries) {
      const Value* other = b.as_dict().find(key);
      if (other == nullptr || !equal(value, *other, cost)) return false;
    }
    return true;
  }
  return a.identity() != nullptr && a.identity() == b.identity();
}

namespace {

// Builds the value while nlohmann's parser, which does not recurse, reads; the depth is checked at
// each bracket.
class JsonBuilder {
 public:
  explicit JsonBuilder(Origin origin) : origin_(origin) {}
  std::string error;
  Value result;

  bool null() { return put(Value::none()); }
  bool boolean(bool b) { return put(Value::boolean(b, origin_)); }
  bool number_integer(std::int64_t i) { return put(Value::integer(i, origin_)); }
  bool number_unsigned(std::uint64_t u) {
    if (u <= static_cast<std::uint64_t>(INT64_MAX))
      return put(Value::integer(static_cast<std::int64_t>(u), origin_));
    return put(Value::real(static_cast<double>(u), origin_));
  }
  bool number_float(double d, const std::string&) { return put(Value::real(d, origin_)); }
  bool string(std::string& s) { return put(Value::text(std::move(s), origin_)); }
  bool binary(nlohmann::json::binary_t&) { return false; }
  bool start_object(std::size_t) { return open(true); }
  bool start_array(std::size_t) { return open(false); }
  bool key(std::string& name) {
    stack_.back().keys.push_back(Value::text(std::move(name), origin_));
    return true;
  }
  bool end_array() {
    std::vector<Value> items = std::move(stack_.back().items);
    stack_.pop_back();
    return put(Value::list(std::move(items)));
  }
  bool end_object() {
    Level level = std::move(stack_.back());
    stack_.pop_back();
    Dict dict;
    for (std::size_t i = 0; i < level.keys.size(); ++i)
      dict.set(level.keys[i], std::move(level.items[i]));
    return put(Value::dict(std::move(dict)));
  }
  bool parse_error(std::size_t at, const std::string&, const nlohmann::detail::exception&) {
    if (error.empty()) error = fmt::format("not JSON at byte {}", at);
    return false;
  }

 private:
  struct Level {
    bool object = false;
    std::vector<Value> keys;
    std::vector<Value> items;
  };
  bool open(bool object) {
    if (stack_.size() >= limits::kTemplateDepth) {
      error = fmt::format("JSON nested deeper than {}", limits::kTemplateDepth);
      return false;
    }
    stack_.emplace_back();
    stack_.back().object = object;
    return true;
  }
  bool put(Value value) {
    if (stack_.empty()) {
      result = std::move(value);
    } else {
      stack_.back().items.push_back(std::move(value));
    }
    return true;
  }
  Origin origin_;
  std::vector<Level> stack_;
};

}  // namespace

Value from_json(std::string_view json, Origin origin, std::string_view name) {
  JsonBuilder builder(origin);
  const bool ok = nlohmann::json::sax_parse(json.begin(), json.end(), &builder);
  if (!ok || !builder.error.empty()) {
    throw TemplateError{
        Code::kInvalidArgument,
        fmt::format("{}: {}", name, builder.error.empty() ? "not JSON" : builder.error)};
  }
  return std::move(builder.result);
}

}  // namespace mesh::text::jinja
