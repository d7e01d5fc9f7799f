#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "text/jinja/interpreter.h"
#include "text/jinja/text_operations.h"

namespace mesh::text::jinja {
namespace {

// Strings compare without case unless asked otherwise, as jinja2's ignore_case.
Value fold_case(Interpreter& in, const Value& value, bool case_sensitive) {
  if (case_sensitive || !value.is_text()) return value;
  return Value::text(change_case(in, value.as_text(), Case::kLower));
}

struct Keyed {
  Value key;
  Value item;
};

void sort_keyed(Interpreter& in, std::vector<Keyed>& items, bool reverse) {
  // Not std::sort: less() may throw, and a NaN must not break the algorithm; merge sort is safe
  // with both.
  std::stable_sort(items.begin(), items.end(), [&](const Keyed& a, const Keyed& b) {
    return reverse ? in.less(b.key, a.key) : in.less(a.key, b.key);
  });
}

std::vector<Keyed> keyed(Interpreter& in, const Value& input, const Value& attribute,
                         bool case_sensitive) {
  std::vector<Keyed> out;
  const ListPtr items = in.iterate(input);
  for (const Value& item : items->items) {
    in.charge(1);
    in.charge_items(2);
    const Value key =
        attribute.is_undefined() || attribute.is_none() ? item : in.path(item, attribute);
    out.push_back({fold_case(in, key, case_sensitive), item});
  }
  return out;
}

Value items_of(std::vector<Keyed> keyed_items) {
  std::vector<Value> out;
  for (Keyed& k : keyed_items) out.push_back(std::move(k.item));
  return Value::list(std::move(out));
}

Value sort_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const Bound bound("sort", args, {"reverse", "case_sensitive", "attribute"});
  std::vector<Keyed> items = keyed(in, input, Value(), true);
  if (bound.has(2) && bound[2].is_text() && bound[2].bytes().find(',') != std::string::npos) {
    for (Keyed& k : items) {
      std::vector<Value> keys;
      for (const Value& part : split(in, bound[2].as_text(), Value::text(","), -1, false))
        keys.push_back(fold_case(in, in.path(k.item, part), bound.flag(1, false)));
      k.key = Value::list(std::move(keys));
    }
  } else {
    items = keyed(in, input, bound[2], bound.flag(1, false));
  }
  sort_keyed(in, items, bound.flag(0, false));
  return items_of(std::move(items));
}

Value dictsort_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const Bound bound("dictsort", args, {"case_sensitive", "by", "reverse"});
  if (!input.is_dict()) in.fail(fmt::format("dictsort: '{}' is not a mapping", input.type_name()));
  const bool by_value = bound.has(1) && in.str(bound[1]).bytes() == "value";
  std::vector<Keyed> items;
  for (const auto& [key, value] : input.as_dict().entries) {
    in.charge(1);
    items.push_back({fold_case(in, by_value ? value : key, bound.flag(0, false)),
                     Value::list({key, value}, true)});
  }
  sort_keyed(in, items, bound.flag(2, false));
  return items_of(std::move(items));
}

Value unique_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const Bound bound("unique", args, {"case_sensitive", "attribute"});
  std::unordered_set<std::string> texts;
  std::vector<Value> others;
  std::vector<Value> out;
  for (Keyed& k : keyed(in, input, bound[1], bound.flag(0, false))) {
    if (k.key.is_text()) {
      if (texts.insert(k.key.bytes()).second) out.push_back(std::move(k.item));
    } else if (std::none_of(others.begin(), others.end(),
                            [&](const Value& v) { return in.same(v, k.key); })) {
      others.push_back(k.key);
      out.push_back(std::move(k.item));
    }
  }
  return Value::list(std::move(out));
}

Value groupby_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const Bound bound("groupby", args, {"attribute", "default", "case_sensitive"});
  bound.required(0);
  std::vector<Keyed> items;
  const ListPtr ungrouped = in.iterate(input);
  for (const Value& item : ungrouped->items) {
    Value key = in.path(item, bound[0]);
    if (key.is_undefined() && bound.has(1)) key = bound[1];
    items.push_back({fold_case(in, key, bound.flag(2, false)), Value::list({key, item}, true)});
  }
  sort_keyed(in, items, false);
  std::vector<Value> groups;
  for (std::size_t i = 0; i < items.size();) {
    std::vector<Value> members;
    const std::size_t first = i;
    for (; i < items.size() && in.same(items[i].key, items[first].key); ++i)
      members.push_back(items[i].item.as_list().items[1]);
    if (members.empty()) in.fail("groupby: a key is not equal to itself");
    groups.push_back(
        Value::list({items[first].item.as_list().items[0], Value::list(std::move(members))}, true));
  }
  return Value::list(std::move(groups));
}

template <bool kMax>
Value extreme_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const Bound bound("min or max", args, {"case_sensitive", "attribute"});
  const std::vector<Keyed> items = keyed(in, input, bound[1], bound.flag(0, false));
  if (items.empty()) return Value::undefined("no aggregated item, sequence was empty");
  const Keyed* best = &items[0];
  for (const Keyed& k : items)
    if (kMax ? in.less(best->key, k.key) : in.less(k.key, best->key)) best = &k;
  return best->item;
}

Value sum_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const Bound bound("sum", args, {"attribute", "start"});
  Value total = bound.has(1) ? bound[1] : Value::integer(0);
  for (const Keyed& k : keyed(in, input, bound[0], true))
    total = in.arithmetic(Op::kAdd, total, k.key);
  return total;
}

Value list_filter(Interpreter& in, const Value& input, const Arguments&) {
  const ListPtr items = in.iterate(input);
  in.charge_items(items->items.size());
  return Value::list(items->items);
}

Value items_filter(Interpreter& in, const Value& input, const Arguments&) {
  if (input.is_undefined()) return Value::list({});
  if (!input.is_dict()) in.fail("Can only get item pairs from a mapping.");
  return call_method(in, input, "items", {});
}

template <bool kLast>
Value end_filter(Interpreter& in, const Value& input, const Arguments&) {
  const ListPtr items = in.iterate(input);
  if (items->items.empty()) return Value::undefined("no first or last item, sequence was empty");
  return kLast ? items->items.back() : items->items.front();
}

Value reverse_filter(Interpreter& in, const Value& input, const Arguments&) {
  const ListPtr items = in.iterate(input);
  in.charge_items(items->items.size());
  if (input.is_text()) {
    MarkedText out;
    for (auto it = items->items.rbegin(); it != items->items.rend(); ++it)
      out.append(it->as_text());
    return in.make(std::move(out));
  }
  return Value::list(std::vector<Value>(items->items.rbegin(), items->items.rend()));
}

Value join_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const Bound bound("join", args, {"d", "attribute"});
  const MarkedText separator = bound.has(0) ? in.str(bound[0]) : MarkedText();
  const ListPtr items = in.iterate(input);
  MarkedText out;
  bool first = true;
  for (const Value& item : items->items) {
    in.charge(1);
    const MarkedText part = in.str(bound.has(1) ? in.path(item, bound[1]) : item);
    in.charge_bytes(part.size() + separator.size());
    if (!first) out.append(separator);
    first = false;
    out.append(part);
  }
  return in.make(std::move(out));
}

Value batch_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const Bound bound("batch", args, {"linecount", "fill_with"});
  const std::int64_t size = bound.integer(0, 0);
  if (size < 1) in.fail("batch: the size must be positive");
  std::vector<Value> out;
  std::vector<Value> row;
  const ListPtr items = in.iterate(input);
  for (const Value& item : items->items) {
    in.charge(1);
    in.charge_items(row.empty() ? 1 + Interpreter::kTextItems : 1);
    row.push_back(item);
    if (row.size() == static_cast<std::size_t>(size))
      out.push_back(Value::list(std::exchange(row, {})));
  }
  if (!row.empty()) {
    if (bound.has(1) && !bound[1].is_none()) {
      in.charge_items(static_cast<std::size_t>(size));
      row.resize(static_cast<std::size_t>(size), bound[1]);
    }
    out.push_back(Value::list(std::move(row)));
  }
  return Value::list(std::move(out));
}

Arguments without(const Arguments& args, std::size_t count) {
  Arguments rest;
  rest.positional.assign(args.positional.begin() + static_cast<std::ptrdiff_t>(count),
                         args.positional.end());
  rest.named = args.named;
  return rest;
}

Value map_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const ListPtr items = in.iterate(input);
  std::vector<Value> out;
  if (args.positional.empty()) {
    const Bound bound("map", args, {"attribute", "default"});
    for (const Value& item : items->items) {
      in.charge_items(1);
      in.charge(1);
      const Value value = in.path(item, bound.required(0));
      out.push_back(value.is_undefined() && bound.has(1) ? bound[1] : value);
    }
    return Value::list(std::move(out));
  }
  const std::string name = in.str(args.positional[0]).bytes();
  const Arguments rest = without(args, 1);
  for (const Value& item : items->items) {
    in.charge_items(Interpreter::kTextItems);
    out.push_back(in.filter(name, item, rest));
  }
  return Value::list(std::move(out));
}

template <bool kKeep, bool kAttribute>
Value select_filter(Interpreter& in, const Value& input, const Arguments& args) {
  constexpr std::size_t kTestAt = kAttribute ? 1 : 0;
  if (args.positional.size() < kTestAt) in.fail("the filter needs an attribute");
  const bool has_test = args.positional.size() > kTestAt;
  const std::string name = has_test ? in.str(args.positional[kTestAt]).bytes() : "";
  const Arguments rest = without(args, std::min(args.positional.size(), kTestAt + 1));
  const ListPtr items = in.iterate(input);
  std::vector<Value> out;
  for (const Value& item : items->items) {
    in.charge(1);
    const Value value = kAttribute ? in.path(item, args.positional[0]) : item;
    const bool holds = has_test ? in.test(name, value, rest) : value.truthy();
    if (holds != kKeep) continue;
    in.charge_items(1);
    out.push_back(item);
  }
  return Value::list(std::move(out));
}

}  // namespace

Filter find_sequence_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, Filter> kTable = {
      {"sort", sort_filter},
      {"dictsort", dictsort_filter},
      {"unique", unique_filter},
      {"groupby", groupby_filter},
      {"min", extreme_filter<false>},
      {"max", extreme_filter<true>},
      {"sum", sum_filter},
      {"list", list_filter},
      {"items", items_filter},
      {"first", end_filter<false>},
      {"last", end_filter<true>},
      {"reverse", reverse_filter},
      {"join", join_filter},
      {"batch", batch_filter},
      {"map", map_filter},
      {"select", select_filter<true, false>},
      {"reject", select_filter<false, false>},
      {"selectattr", select_filter<true, true>},
      {"rejectattr", select_filter<false, true>},
  };
  const auto it = kTable.find(name);
  return it == kTable.end() ? nullptr : it->second;
}

}  // namespace mesh::text::jinja
