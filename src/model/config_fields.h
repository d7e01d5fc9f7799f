#pragma once
// Typed, range-checked access to the fields of a config.json; every error names the field.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mesh::model {

// A JSON object. A field that is null counts as absent. Copies share the parsed text.
class ConfigFields {
 public:
  // Errors: corrupt (no JSON object), with `file` in front.
  static Result<ConfigFields> parse(const std::string& text, const std::string& file);

  bool has(std::string_view name) const;
  // Absent fields give `fallback`; without one they are an error. Errors: corrupt (type),
  // invalid_argument (range).
  Result<std::uint32_t> whole(std::string_view name, std::uint32_t min, std::uint32_t max,
                              std::optional<std::uint32_t> fallback = std::nullopt) const;
  // Finite numbers, integers included.
  Result<double> number(std::string_view name, double min, double max,
                        std::optional<double> fallback = std::nullopt) const;
  Result<bool> flag(std::string_view name, bool fallback) const;
  Result<std::string> text(std::string_view name, std::string_view fallback) const;
  // A string or a list of strings; absent: empty.
  Result<std::vector<std::string>> texts(std::string_view name) const;
  // An integer or a list of integers; absent: empty.
  Result<std::vector<std::int64_t>> integers(std::string_view name) const;
  // A list of numbers, each in the range; absent: empty.
  Result<std::vector<double>> numbers(std::string_view name, double min, double max) const;
  // An object within this one; absent: an empty object.
  Result<ConfigFields> object(std::string_view name) const;

 private:
  struct Node;
  explicit ConfigFields(std::shared_ptr<const Node> node);
  Error wrong_type(std::string_view name, std::string_view expected) const;
  std::shared_ptr<const Node> node_;
};

}  // namespace mesh::model
