#include "model/config_fields.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

namespace mesh::model {

using Json = nlohmann::json;

struct ConfigFields::Node {
  std::shared_ptr<const Json> document;  // owns *object
  const Json* object = nullptr;
  std::string file;  // "config.json" or "config.json: rope_parameters"

  const Json* find(std::string_view name) const {
    const auto at = object->find(std::string(name));
    return at == object->end() || at->is_null() ? nullptr : &*at;
  }
};

ConfigFields::ConfigFields(std::shared_ptr<const Node> node) : node_(std::move(node)) {}

Result<ConfigFields> ConfigFields::parse(const std::string& text, const std::string& file) {
  auto document = std::make_shared<Json>(Json::parse(text, nullptr, /*allow_exceptions=*/false));
  if (document->is_discarded()) return Error(Code::kCorrupt, file + " is not valid JSON");
  if (!document->is_object()) return Error(Code::kCorrupt, file + " is not a JSON object");
  auto node = std::make_shared<Node>();
  node->object = document.get();
  node->document = std::move(document);
  node->file = file;
  return ConfigFields(std::move(node));
}

Error ConfigFields::wrong_type(std::string_view name, std::string_view expected) const {
  const Json* value = node_->find(name);
  if (value == nullptr)
    return Error(Code::kCorrupt,
                 fmt::format("{}: {} is missing, it must be {}", node_->file, name, expected));
  constexpr std::size_t kShown = 40;
  std::string text = value->dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kShown) text = text.substr(0, kShown) + "…";
  return Error(Code::kCorrupt,
               fmt::format("{}: {} is {}, it must be {}", node_->file, name, text, expected));
}

bool ConfigFields::has(std::string_view name) const {
  return node_->find(name) != nullptr;
}

Result<std::uint32_t> ConfigFields::whole(std::string_view name, std::uint32_t min,
                                          std::uint32_t max,
                                          std::optional<std::uint32_t> fallback) const {
  const Json* value = node_->find(name);
  if (value == nullptr && fallback) return *fallback;
  if (value == nullptr || !value->is_number_integer()) return wrong_type(name, "an integer");
  const bool fits = value->is_number_unsigned() && value->get<std::uint64_t>() >= min &&
                    value->get<std::uint64_t>() <= max;
  if (!fits)
    return Error(Code::kInvalidArgument, fmt::format("{}: {} is {}, it must be in {}..{}",
                                                     node_->file, name, value->dump(), min, max));
  return static_cast<std::uint32_t>(value->get<std::uint64_t>());
}

Result<double> ConfigFields::number(std::string_view name, double min, double max,
                                    std::optional<double> fallback) const {
  const Json* value = node_->find(name);
  if (value == nullptr && fallback) return *fallback;
  if (value == nullptr || !value->is_number()) return wrong_type(name, "a number");
  const double number = value->get<double>();
  if (!(number >= min && number <= max))
    return Error(Code::kInvalidArgument, fmt::format("{}: {} is {}, it must be in {}..{}",
                                                     node_->file, name, number, min, max));
  return number;
}

Result<bool> ConfigFields::flag(std::string_view name, bool fallback) const {
  const Json* value = node_->find(name);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return wrong_type(name, "true or false");
  return value->get<bool>();
}

Result<std::string> ConfigFields::text(std::string_view name, std::string_view fallback) const {
  const Json* value = node_->find(name);
  if (value == nullptr) return std::string(fallback);
  if (!value->is_string()) return wrong_type(name, "a string");
  return value->get<std::string>();
}

Result<std::vector<std::string>> ConfigFields::texts(std::string_view name) const {
  std::vector<std::string> list;
  const Json* value = node_->find(name);
  if (value == nullptr) return list;
  if (value->is_string()) return std::vector<std::string>{value->get<std::string>()};
  if (!value->is_array()) return wrong_type(name, "a list of strings");
  for (const Json& entry : *value) {
    if (!entry.is_string()) return wrong_type(name, "a list of strings");
    list.push_back(entry.get<std::string>());
  }
  return list;
}

Result<std::vector<std::int64_t>> ConfigFields::integers(std::string_view name) const {
  std::vector<std::int64_t> list;
  const Json* value = node_->find(name);
  if (value == nullptr) return list;
  if (value->is_number_integer()) return std::vector<std::int64_t>{value->get<std::int64_t>()};
  if (!value->is_array()) return wrong_type(name, "an integer or a list of integers");
  for (const Json& entry : *value) {
    if (!entry.is_number_integer()) return wrong_type(name, "an integer or a list of integers");
    list.push_back(entry.get<std::int64_t>());
  }
  return list;
}

Result<std::vector<double>> ConfigFields::numbers(std::string_view name, double min,
                                                  double max) const {
  std::vector<double> list;
  const Json* value = node_->find(name);
  if (value == nullptr) return list;
  if (!value->is_array()) return wrong_type(name, "a list of numbers");
  for (const Json& entry : *value) {
    if (!entry.is_number()) return wrong_type(name, "a list of numbers");
    list.push_back(entry.get<double>());
    if (!(list.back() >= min && list.back() <= max))
      return Error(Code::kInvalidArgument, fmt::format("{}: {} holds {}, it must be in {}..{}",
                                                       node_->file, name, list.back(), min, max));
  }
  return list;
}

Result<ConfigFields> ConfigFields::object(std::string_view name) const {
  static const Json kEmpty = Json::object();
  const Json* value = node_->find(name);
  if (value != nullptr && !value->is_object()) return wrong_type(name, "an object");
  auto node = std::make_shared<Node>();
  node->document = node_->document;
  node->object = value == nullptr ? &kEmpty : value;
  node->file = fmt::format("{}: {}", node_->file, name);
  return ConfigFields(std::move(node));
}

}  // namespace mesh::model
