#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "text/jinja/interpreter.h"
#include "text/jinja/text_operations.h"
#include "text/utf8.h"

namespace mesh::text::jinja {
namespace {

using Method = Value (*)(Interpreter& in, const Value& self, const Arguments& args);
using Table = std::unordered_map<std::string_view, Method>;

const MarkedText& text_argument(Interpreter& in, const Value& value) {
  if (!value.is_text())
    in.fail(value.is_undefined() ? value.hint()
                                 : fmt::format("must be str, not {}", value.type_name()));
  return value.as_text();
}

template <Side kSide>
Value strip_method(Interpreter& in, const Value& self, const Arguments& args) {
  return in.make(strip(in, self.as_text(), Bound("strip", args, {"chars"})[0], kSide));
}

template <Case kCase>
Value case_method(Interpreter& in, const Value& self, const Arguments& args) {
  const Bound bound("str method", args, {});
  return Value::text(change_case(in, self.as_text(), kCase));
}

template <bool kRight>
Value split_method(Interpreter& in, const Value& self, const Arguments& args) {
  const Bound bound("split", args, {"sep", "maxsplit"});
  return Value::list(split(in, self.as_text(), bound[0], bound.integer(1, -1), kRight));
}

Value splitlines(Interpreter& in, const Value& self, const Arguments& args) {
  return Value::list(
      split_lines(in, self.as_text(), Bound("splitlines", args, {"keepends"}).flag(0, false)));
}

// Python's start and end arguments as bytes; false if they leave nothing to search in.
bool byte_window(Interpreter& in, const MarkedText& text, const Bound& bound, std::size_t& begin,
                 std::size_t& end) {
  in.charge(1 + text.size() / 64);
  const auto length = static_cast<std::int64_t>(count_code_points(text.bytes()));
  const auto place = [&](std::size_t i, std::int64_t fallback) {
    const std::int64_t n = bound.integer(i, fallback);
    return n < 0 ? std::max<std::int64_t>(0, n + length) : n;
  };
  const std::int64_t from = place(1, 0);
  const std::int64_t to = std::min(place(2, length), length);
  if (from > to) return false;
  begin = code_point_offset(text.bytes(), static_cast<std::size_t>(from));
  end = code_point_offset(text.bytes(), static_cast<std::size_t>(to));
  return true;
}

template <bool kEnd>
Value affix_method(Interpreter& in, const Value& self, const Arguments& args) {
  const Bound bound(kEnd ? "endswith" : "startswith", args, {"affix", "start", "end"});
  std::size_t begin = 0;
  std::size_t end = 0;
  const Value& affix = bound.required(0);
  const bool searchable = byte_window(in, self.as_text(), bound, begin, end);
  const auto matches = [&](const Value& one) {
    const std::string& what = text_argument(in, one).bytes();
    if (!searchable || what.size() > end - begin) return false;
    return self.bytes().compare(kEnd ? end - what.size() : begin, what.size(), what) == 0;
  };
  if (!affix.is_list()) return Value::boolean(matches(affix));
  const auto& all = affix.as_list().items;
  in.charge(all.size());
  return Value::boolean(std::any_of(all.begin(), all.end(), matches));
}

template <bool kRight, bool kRaises>
Value find_method(Interpreter& in, const Value& self, const Arguments& args) {
  const Bound bound("find", args, {"sub", "start", "end"});
  const std::string& what = text_argument(in, bound.required(0)).bytes();
  std::size_t begin = 0;
  std::size_t end = 0;
  std::size_t found = std::string_view::npos;
  if (byte_window(in, self.as_text(), bound, begin, end)) {
    const std::string_view window = std::string_view(self.bytes()).substr(begin, end - begin);
    found = kRight ? window.rfind(what) : window.find(what);
  }
  if (found == std::string_view::npos) {
    if (kRaises) in.fail("substring not found");
    return Value::integer(-1);
  }
  const std::string_view before = std::string_view(self.bytes()).substr(0, begin + found);
  return Value::integer(static_cast<std::int64_t>(count_code_points(before)));
}

Value count_method(Interpreter& in, const Value& self, const Arguments& args) {
  const Bound bound("count", args, {"sub", "start", "end"});
  const std::string& what = text_argument(in, bound.required(0)).bytes();
  std::size_t begin = 0;
  std::size_t end = 0;
  if (!byte_window(in, self.as_text(), bound, begin, end)) return Value::integer(0);
  const std::string_view window = std::string_view(self.bytes()).substr(begin, end - begin);
  if (what.empty()) return Value::integer(static_cast<std::int64_t>(count_code_points(window)) + 1);
  std::vector<ByteRange> matches;
  append_literal_matches(window, what, matches);
  return Value::integer(static_cast<std::int64_t>(matches.size()));
}

Value replace_method(Interpreter& in, const Value& self, const Arguments& args) {
  const Bound bound("replace", args, {"old", "new", "count"});
  return in.make(replace(in, self.as_text(), text_argument(in, bound.required(0)),
                         text_argument(in, bound.required(1)), bound.integer(2, -1)));
}

Value join_method(Interpreter& in, const Value& self, const Arguments& args) {
  const Value iterable = Bound("join", args, {"iterable"}).required(0);
  const ListPtr items = in.iterate(iterable);
  MarkedText out;
  for (std::size_t i = 0; i < items->items.size(); ++i) {
    const MarkedText& part = text_argument(in, items->items[i]);
    in.charge(1);
    in.charge_bytes(part.size() + self.as_text().size());
    if (i > 0) out.append(self.as_text());
    out.append(part);
  }
  return in.make(std::move(out));
}

template <bool kRight>
Value partition_method(Interpreter& in, const Value& self, const Arguments& args) {
  const Bound bound("partition", args, {"sep"});
  const MarkedText& text = self.as_text();
  const std::string& cut = text_argument(in, bound.required(0)).bytes();
  if (cut.empty()) in.fail("empty separator");
  in.charge(1 + text.size() / 64);
  in.charge_bytes(text.size());
  const std::size_t at = kRight ? text.bytes().rfind(cut) : text.bytes().find(cut);
  const Value nothing = Value::text(MarkedText());
  if (at == std::string::npos)
    return Value::list(kRight ? std::vector<Value>{nothing, nothing, self}
                              : std::vector<Value>{self, nothing, nothing},
                       true);
  return Value::list({Value::text(text.slice(0, at)), Value::text(text.slice(at, at + cut.size())),
                      Value::text(text.slice(at + cut.size(), text.size()))},
                     true);
}

template <bool kSuffix>
Value remove_method(Interpreter& in, const Value& self, const Arguments& args) {
  const Bound bound("remove affix", args, {"affix"});
  const std::string& affix = text_argument(in, bound.required(0)).bytes();
  const std::string& own = self.bytes();
  if (affix.size() > own.size() ||
      own.compare(kSuffix ? own.size() - affix.size() : 0, affix.size(), affix) != 0)
    return self;
  return in.make(kSuffix ? self.as_text().slice(0, own.size() - affix.size())
                         : self.as_text().slice(affix.size(), own.size()));
}

// True if there is a character and all satisfy `holds`.
template <bool (*kHolds)(char32_t)>
Value all_method(Interpreter& in, const Value& self, const Arguments& args) {
  const Bound bound("str method", args, {});
  in.charge(1 + self.as_text().size() / 16);
  std::string_view rest = self.bytes();
  bool result = !rest.empty();
  while (result && !rest.empty()) {
    const Utf8Step step = utf8_step(rest);
    result = kHolds(step.code_point);
    rest.remove_prefix(step.bytes);
  }
  return Value::boolean(result);
}

bool letter_or_number(char32_t c) {
  return is_letter(c) || is_number(c);
}

template <bool kUpper>
Value is_case(Interpreter& in, const Value& self, const Arguments& args) {
  const Bound bound("str method", args, {});
  in.charge(1 + self.as_text().size() / 16);
  bool seen = false;
  for (std::string_view rest = self.bytes(); !rest.empty();) {
    const Utf8Step step = utf8_step(rest);
    rest.remove_prefix(step.bytes);
    if (is_title(step.code_point) || (kUpper ? is_lower : is_upper)(step.code_point))
      return Value::boolean(false);
    seen = seen || (kUpper ? is_upper : is_lower)(step.code_point);
  }
  return Value::boolean(seen);
}

template <Side kSide>
Value pad_method(Interpreter& in, const Value& self, const Arguments& args) {
  const Bound bound("pad", args, {"width", "fillchar"});
  const MarkedText fill =
      bound.has(1) ? text_argument(in, bound[1]) : MarkedText(" ", Origin::kTemplate);
  bound.required(0);
  return Value::text(pad(in, self.as_text(), bound.integer(0, 0), fill, kSide));
}

Value zfill(Interpreter& in, const Value& self, const Arguments& args) {
  const Bound bound("zfill", args, {"width"});
  const MarkedText& text = self.as_text();
  const bool sign = !text.empty() && (text.bytes().front() == '-' || text.bytes().front() == '+');
  bound.required(0);
  MarkedText out = text.slice(0, sign ? 1 : 0);
  out.append(pad(in, text.slice(sign ? 1 : 0, text.size()), bound.integer(0, 0) - (sign ? 1 : 0),
                 MarkedText("0", Origin::kTemplate), Side::kRight));
  return Value::text(std::move(out));
}

const Table& text_methods() {
  static const Table kTable = {
      {"strip", strip_method<Side::kBoth>},
      {"lstrip", strip_method<Side::kLeft>},
      {"rstrip", strip_method<Side::kRight>},
      {"upper", case_method<Case::kUpper>},
      {"lower", case_method<Case::kLower>},
      {"casefold", case_method<Case::kLower>},
      {"title", case_method<Case::kTitle>},
      {"capitalize", case_method<Case::kCapitalize>},
      {"swapcase", case_method<Case::kSwap>},
      {"split", split_method<false>},
      {"rsplit", split_method<true>},
      {"splitlines", splitlines},
      {"startswith", affix_method<false>},
      {"endswith", affix_method<true>},
      {"find", find_method<false, false>},
      {"rfind", find_method<true, false>},
      {"index", find_method<false, true>},
      {"rindex", find_method<true, true>},
      {"count", count_method},
      {"replace", replace_method},
      {"join", join_method},
      {"partition", partition_method<false>},
      {"rpartition", partition_method<true>},
      {"removeprefix", remove_method<false>},
      {"removesuffix", remove_method<true>},
      {"isdigit", all_method<is_digit>},
      {"isdecimal", all_method<is_digit>},
      {"isnumeric", all_method<is_number>},
      {"isalpha", all_method<is_letter>},
      {"isalnum", all_method<letter_or_number>},
      {"isspace", all_method<is_space>},
      {"isupper", is_case<true>},
      {"islower", is_case<false>},
      {"ljust", pad_method<Side::kLeft>},
      {"rjust", pad_method<Side::kRight>},
      {"center", pad_method<Side::kBoth>},
      {"zfill", zfill},
  };
  return kTable;
}

Value dict_items(Interpreter& in, const Value& self, const Arguments& args) {
  const Bound bound("items", args, {});
  std::vector<Value> out;
  in.charge_items(self.as_dict().entries.size() * Interpreter::kTextItems);
  for (const auto& [key, value] : self.as_dict().entries)
    out.push_back(Value::list({key, value}, true));
  return Value::list(std::move(out));
}

template <bool kKeys>
Value dict_side(Interpreter& in, const Value& self, const Arguments& args) {
  const Bound bound("keys or values", args, {});
  std::vector<Value> out;
  in.charge_items(self.as_dict().entries.size());
  for (const auto& [key, value] : self.as_dict().entries) out.push_back(kKeys ? key : value);
  return Value::list(std::move(out));
}

Value dict_get(Interpreter& in, const Value& self, const Arguments& args) {
  if (args.positional.empty() || args.positional.size() > 2 || !args.named.empty())
    in.fail("get takes a key and a default");
  if (const Value* found = self.as_dict().find(args.positional[0])) return *found;
  return args.positional.size() > 1 ? args.positional[1] : Value::none();
}

Value copy(Interpreter&, const Value& self, const Arguments&) {
  return self;
}

// Templates run where values cannot be changed, as in Hugging Face's ImmutableSandboxedEnvironment.
Value refuse(Interpreter& in, const Value& self, const Arguments&) {
  in.fail(fmt::format("access to a method that changes a '{}' object is unsafe", self.type_name()));
}

const Table& dict_methods() {
  static const Table kTable = {
      {"items", dict_items},
      {"keys", dict_side<true>},
      {"values", dict_side<false>},
      {"get", dict_get},
      {"copy", copy},
      {"pop", refuse},
      {"popitem", refuse},
      {"update", refuse},
      {"setdefault", refuse},
      {"clear", refuse},
  };
  return kTable;
}

Value list_index(Interpreter& in, const Value& self, const Arguments& args) {
  const Value wanted = Bound("index", args, {"value"})[0];
  const auto& items = self.as_list().items;
  for (std::size_t i = 0; i < items.size(); ++i)
    if (in.same(items[i], wanted)) return Value::integer(static_cast<std::int64_t>(i));
  in.fail("the value is not in the list");
}

Value list_count(Interpreter& in, const Value& self, const Arguments& args) {
  const Value wanted = Bound("count", args, {"value"})[0];
  const auto& items = self.as_list().items;
  return Value::integer(std::count_if(items.begin(), items.end(),
                                      [&](const Value& v) { return in.same(v, wanted); }));
}

const Table& list_methods() {
  static const Table kTable = {
      {"index", list_index}, {"count", list_count}, {"copy", copy},    {"append", refuse},
      {"extend", refuse},    {"insert", refuse},    {"pop", refuse},   {"remove", refuse},
      {"reverse", refuse},   {"sort", refuse},      {"clear", refuse},
  };
  return kTable;
}

const Table* methods_of(const Value& self) {
  if (self.is_text()) return &text_methods();
  if (self.is_dict()) return &dict_methods();
  if (self.is_list()) return &list_methods();
  return nullptr;
}

}  // namespace

bool has_method(const Value& self, std::string_view name) {
  const Table* table = methods_of(self);
  return table != nullptr && table->count(name) != 0;
}

Value call_method(Interpreter& in, const Value& self, std::string_view name,
                  const Arguments& args) {
  if (self.is_loop()) {  // loop.cycle
    if (args.positional.empty()) in.fail("no items for cycling given");
    return args.positional[self.as_loop().index % args.positional.size()];
  }
  const Table* table = methods_of(self);
  if (table == nullptr)
    in.fail(fmt::format("'{}' object has no method '{}'", self.type_name(), name));
  const auto it = table->find(name);
  if (it == table->end())
    in.fail(fmt::format("'{}' object has no method '{}'", self.type_name(), name));
  return it->second(in, self, args);
}

}  // namespace mesh::text::jinja
