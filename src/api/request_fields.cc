#include "api/request_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "api/json_text.h"
#include "base/limits.h"

namespace mesh::api {
namespace {

using Json = nlohmann::json;

std::string describe_value(const Json& value) {
  constexpr std::size_t kShown = 40;
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return fmt::format("a list of {}", value.size());
    default: {
      std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
      if (text.size() > kShown) text = text.substr(0, kShown) + "…";
      return text;
    }
  }
}

// JSON has no integers beyond 64 bits here: the parser makes floating point numbers of them.
bool fits_int64(const Json& value) {
  if (!value.is_number_integer()) return false;
  return !value.is_number_unsigned() ||
         value.get<std::uint64_t>() <=
             static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
}

bool is_token_id(const Json& value) {
  return value.is_number_unsigned() && value.get<std::uint64_t>() < limits::kVocabulary;
}

// Decimal and canonical, so that two keys never mean one token.
std::optional<TokenId> token_key(const std::string& key) {
  constexpr std::size_t kDigits = 7;  // of limits::kVocabulary
  if (key.empty() || key.size() > kDigits || (key.size() > 1 && key[0] == '0')) return std::nullopt;
  std::uint32_t id = 0;
  for (char c : key) {
    if (c < '0' || c > '9') return std::nullopt;
    id = id * 10 + static_cast<std::uint32_t>(c - '0');
  }
  if (id >= limits::kVocabulary) return std::nullopt;
  return static_cast<TokenId>(id);
}

std::string range_text(const NumberRange& range) {
  return range.above_low ? fmt::format("above {} and at most {}", range.low, range.high)
                         : fmt::format("from {} to {}", range.low, range.high);
}

bool within(const NumberRange& range, float value) {
  const double v = value;
  return (range.above_low ? v > range.low : v >= range.low) && v <= range.high;
}

// What a wrong value should have been, by the kind of its neutral one.
struct Judgement {
  bool type_ok = true;
  bool neutral = true;
  std::string_view wanted;
};

Judgement judge(const RequestFields::NotOffered& row, const Json& v) {
  using Neutral = RequestFields::Neutral;
  const bool string = v.is_string();
  switch (row.neutral) {
    case Neutral::kNumber:
      return {v.is_number(), v.is_number() && v.get<double>() == row.value, "a number"};
    case Neutral::kFalse:
      return {v.is_boolean(), v == false, "true or false"};
    case Neutral::kTrue:
      return {v.is_boolean(), v == true, "true or false"};
    case Neutral::kEmpty:
      return {v.is_structured() || string, v.empty() || (string && v == ""),
              "a string, a list or an object"};
    case Neutral::kNull:
      return {true, false, ""};
    case Neutral::kName:
      return {string || v.is_object(), string && v == row.name, "a string or an object"};
    case Neutral::kTypeName:
      return {v.is_object() && v.contains("type") && v["type"].is_string(),
              v.is_object() && v.contains("type") && v["type"] == row.name,
              "an object with a \"type\""};
    case Neutral::kNameOrNot:
      return {string, string && (v == row.name || v == "none"), "a string"};
  }
  return {};
}

std::string neutral_text(const RequestFields::NotOffered& row) {
  using Neutral = RequestFields::Neutral;
  switch (row.neutral) {
    case Neutral::kNumber:
      return fmt::format("{} other than {} is", row.param, row.value);
    case Neutral::kTypeName:
    case Neutral::kName:
      return fmt::format("{} other than \"{}\" is", row.param, row.name);
    case Neutral::kTrue:
      return fmt::format("{} false is", row.param);
    default:
      return fmt::format("{} is", row.param);
  }
}

}  // namespace

struct RequestFields::Document {
  Json json;
  std::map<std::string, std::string_view> raw;

  const Json& at(std::string_view name) const { return *json.find(name); }
  static void take_ids(RequestFields& fields, std::string_view param, const std::string& where,
                       const Json& list, std::vector<TokenId>& out) {
    out.reserve(list.size());
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (!is_token_id(list[i]))
        return fields.refuse(param, fmt::format("{}[{}] must be a token id; got {}.", where, i,
                                                describe_value(list[i])));
      out.push_back(static_cast<TokenId>(list[i].get<std::uint32_t>()));
    }
  }
};

std::string describe_json(std::string_view raw) {
  const Json value = Json::parse(raw, nullptr, false);
  return value.is_discarded() ? "broken JSON" : describe_value(value);
}

RequestFields::RequestFields(std::string_view body, std::string_view wanted)
    : document_(std::make_unique<Document>()) {
  parse(body, wanted);
}

RequestFields::~RequestFields() = default;

void RequestFields::parse(std::string_view body, std::string_view wanted) {
  if (json_deeper_than(body, limits::kRequestJsonDepth))
    return refuse(
        "", fmt::format("The JSON body nests deeper than {} levels.", limits::kRequestJsonDepth));
  if (body.empty())
    return refuse("", fmt::format("The body is empty; send a JSON object with {}.", wanted));
  try {
    document_->json = Json::parse(body);
  } catch (const Json::parse_error& error) {
    return refuse("", fmt::format("The body is not valid JSON in UTF-8: see byte {} of {}.",
                                  std::min(error.byte, body.size()), body.size()));
  } catch (const Json::out_of_range& error) {
    return refuse("", fmt::format("The body has a number that is too large: {}.", error.what()));
  }
  if (!document_->json.is_object())
    return refuse("", fmt::format("The body must be a JSON object; got {}.",
                                  describe_value(document_->json)));
  document_->raw = json_members(body);
}

void RequestFields::refuse(std::string_view param, std::string message) {
  if (!problem_) problem_ = bad_request(param, std::move(message));
}

void RequestFields::refuse_type(std::string_view name, std::string_view wanted) {
  refuse(name, fmt::format("{} must be {}; got {}.", name, wanted, describe(name)));
}

bool RequestFields::has(std::string_view name) const {
  if (!document_->json.is_object()) return false;
  const auto at = document_->json.find(name);
  return at != document_->json.end() && !at->is_null();
}

bool RequestFields::ready(std::string_view name) const {
  return ok() && has(name);
}

std::string RequestFields::describe(std::string_view name) const {
  return has(name) ? describe_value(document_->at(name)) : "null";
}

std::string_view RequestFields::raw(std::string_view name) const {
  if (!has(name)) return {};
  const auto at = document_->raw.find(std::string(name));
  return at == document_->raw.end() ? std::string_view() : at->second;
}

bool RequestFields::is_string(std::string_view name) const {
  return has(name) && document_->at(name).is_string();
}

void RequestFields::boolean(std::string_view name, bool& out) {
  if (!ready(name)) return;
  const Json& value = document_->at(name);
  if (!value.is_boolean()) return refuse_type(name, "true or false");
  out = value.get<bool>();
}

void RequestFields::number(std::string_view name, NumberRange range, std::optional<float>& out) {
  if (!ready(name)) return;
  const Json& value = document_->at(name);
  if (!value.is_number()) return refuse_type(name, "a number " + range_text(range));
  const auto single = static_cast<float>(std::clamp(value.get<double>(), -1e9, 1e9));
  if (!within(range, single)) return refuse_type(name, range_text(range));
  out = single;
}

void RequestFields::integer(std::string_view name, std::int64_t low, std::int64_t high,
                            std::optional<std::int64_t>& out) {
  if (!ready(name)) return;
  constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  const std::string range = low == kMin && high == kMax ? "of 64 bits"
                            : high == kMax              ? fmt::format("of at least {}", low)
                                                        : fmt::format("from {} to {}", low, high);
  const Json& value = document_->at(name);
  if (!fits_int64(value) || value.get<std::int64_t>() < low || value.get<std::int64_t>() > high)
    return refuse_type(name, "an integer " + range);
  out = value.get<std::int64_t>();
}

void RequestFields::count(std::string_view name, std::uint32_t low,
                          std::optional<std::uint32_t>& out) {
  if (!ready(name)) return;
  const Json& value = document_->at(name);
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() < low)
    return refuse_type(name, fmt::format("an integer of at least {}", low));
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint32_t>::max();
  out = static_cast<std::uint32_t>(std::min(value.get<std::uint64_t>(), kMost));
}

void RequestFields::text(std::string_view name, std::string& out) {
  if (!ready(name)) return;
  if (!document_->at(name).is_string()) return refuse_type(name, "a string");
  out = document_->at(name).get<std::string>();
}

void RequestFields::texts(std::string_view name, std::size_t entries, std::size_t bytes,
                          std::vector<std::string>& out) {
  if (!ready(name)) return;
  const Json& value = document_->at(name);
  if (!value.is_string() && !value.is_array())
    return refuse_type(name, fmt::format("a string or a list of at most {} strings", entries));
  if (value.is_array() && value.size() > entries)
    return refuse_type(name, fmt::format("a list of at most {} strings", entries));
  const auto take = [&](const std::string& where, const Json& entry) {
    if (!entry.is_string())
      return refuse(name,
                    fmt::format("{} must be a string; got {}.", where, describe_value(entry)));
    std::string text = entry.get<std::string>();
    if (text.empty()) return refuse(name, where + " must not be an empty string.");
    if (text.size() > bytes)
      return refuse(
          name, fmt::format("{} has {} bytes, at most {} are taken.", where, text.size(), bytes));
    out.push_back(std::move(text));
  };
  if (value.is_string()) return take(std::string(name), value);
  for (std::size_t i = 0; i < value.size() && ok(); ++i)
    take(fmt::format("{}[{}]", name, i), value[i]);
}

void RequestFields::token_ids(std::string_view name, std::size_t entries, bool empty_allowed,
                              std::vector<TokenId>& out) {
  if (!ready(name)) return;
  const Json& value = document_->at(name);
  if (!value.is_array() || value.size() > entries)
    return refuse_type(name, fmt::format("a list of at most {} token ids", entries));
  if (value.empty() && !empty_allowed)
    return refuse(name, fmt::format("{} must not be empty.", name));
  Document::take_ids(*this, name, std::string(name), value, out);
}

void RequestFields::token_numbers(std::string_view name, std::size_t entries, NumberRange range,
                                  std::vector<std::pair<TokenId, float>>& out) {
  if (!ready(name)) return;
  const Json& value = document_->at(name);
  if (!value.is_object()) return refuse_type(name, "an object of token ids and numbers");
  if (value.size() > entries)
    return refuse(
        name, fmt::format("{} has {} entries, at most {} are taken.", name, value.size(), entries));
  for (const auto& [key, entry] : value.items()) {
    const std::optional<TokenId> id = token_key(key);
    if (!id)
      return refuse(name, fmt::format("{} has the key {}, which is no token id.", name,
                                      describe_value(Json(key))));
    if (!entry.is_number() ||
        !within(range, static_cast<float>(std::clamp(entry.get<double>(), -1e9, 1e9))))
      return refuse(name, fmt::format("{}[\"{}\"] must be a number {}; got {}.", name, key,
                                      range_text(range), describe_value(entry)));
    out.emplace_back(*id, entry.get<float>());
  }
  std::sort(out.begin(), out.end());
}

void RequestFields::object(std::string_view name, std::string& out) {
  if (!ready(name)) return;
  if (!document_->at(name).is_object()) return refuse_type(name, "an object");
  out = std::string(raw(name));
}

void RequestFields::member_boolean(std::string_view name, std::string_view member, bool& out) {
  if (!ready(name)) return;
  const Json& object = document_->at(name);
  if (!object.is_object()) return refuse_type(name, "an object");
  const auto at = object.find(member);
  if (at == object.end() || at->is_null()) return;
  const std::string param = fmt::format("{}.{}", name, member);
  if (!at->is_boolean())
    return refuse(param,
                  fmt::format("{} must be true or false; got {}.", param, describe_value(*at)));
  out = at->get<bool>();
}

void RequestFields::prompts(std::string_view name, std::size_t entries,
                            std::vector<node::PromptInput>& out) {
  if (!ready(name)) return;
  const Json& value = document_->at(name);
  if (value.is_string()) {
    out.emplace_back(value.get<std::string>());
    return;
  }
  if (!value.is_array())
    return refuse_type(name, "a string, a list of strings, token ids or a list of lists of them");
  if (value.empty()) return refuse(name, fmt::format("{} must not be empty.", name));
  if (value[0].is_number()) {
    std::vector<TokenId> ids;
    Document::take_ids(*this, name, std::string(name), value, ids);
    out.emplace_back(std::move(ids));
    return;
  }
  if (value.size() > entries)
    return refuse(
        name, fmt::format("{} has {} entries, at most {} are taken.", name, value.size(), entries));
  const bool texts = value[0].is_string();
  for (std::size_t i = 0; i < value.size() && ok(); ++i) {
    const std::string where = fmt::format("{}[{}]", name, i);
    if (texts && value[i].is_string()) {
      out.emplace_back(value[i].get<std::string>());
    } else if (!texts && value[i].is_array()) {
      if (value[i].empty()) return refuse(name, where + " must not be empty.");
      std::vector<TokenId> ids;
      Document::take_ids(*this, name, where, value[i], ids);
      out.emplace_back(std::move(ids));
    } else {
      return refuse(
          name, fmt::format("{} must be {}; got {}.", where,
                            texts ? "a string" : "a list of token ids", describe_value(value[i])));
    }
  }
}

void RequestFields::not_offered(const NotOffered& row) {
  if (!ready(row.param)) return;
  const Json& value = document_->at(row.param);
  const Judgement verdict = judge(row, value);
  if (!verdict.type_ok) return refuse_type(row.param, verdict.wanted);
  if (!verdict.neutral)
    refuse(row.param, fmt::format("{} not built yet in this server; leave it out. Got {}.",
                                  neutral_text(row), describe_value(value)));
}

}  // namespace mesh::api
