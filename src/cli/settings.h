#pragma once
// Every setting of run, join, serve, chat and status in one table, and where each value comes from:
// flag, then environment, then config file, then what the model itself says, then the built-in
// default. Pure: files and variables are handed in.

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mesh::cli {

// Bits, so that a setting can belong to several verbs.
inline constexpr unsigned kRunVerb = 1, kJoinVerb = 2, kServeVerb = 4, kChatVerb = 8,
                          kStatusVerb = 16;
inline constexpr unsigned kNodeVerbs = kRunVerb | kJoinVerb | kServeVerb;
inline constexpr unsigned kMeshVerbs = kRunVerb | kJoinVerb;
inline constexpr unsigned kClientVerbs = kChatVerb | kStatusVerb;
inline constexpr unsigned kAllVerbs = kNodeVerbs | kClientVerbs;

enum class Kind {
  kText,
  kTexts,  // may be given several times
  kSwitch,
  kWhole,
  kNumber,
  kSize,    // bytes: 8G, 500M
  kChoice,  // one of `choices`
  kAddress,
  kAddresses,
  kLayers,  // BEGIN:END
};

struct Setting {
  std::string_view name = "";  // of the flag without dashes, and the key in the config file
  unsigned verbs = 0;
  Kind kind = Kind::kText;
  std::string_view fallback = "";     // built-in default; "": none
  std::string_view placeholder = "";  // "PORT" in the help
  std::string_view help = "";
  double least = 0, most = 0;     // kWhole, kNumber
  std::string_view choices = "";  // "cpu|ref"
  char letter = 0;                // of -m
  bool only_as_flag = false;      // says what this one call is to do: not in environment or file
};

std::span<const Setting> setting_table();
// The entry of that name for a verb (any of its bits); null when there is none.
const Setting* find_setting(unsigned verb, std::string_view name);
// Names that a config file may hold, each once.
std::vector<std::string> config_keys();
// "max-queue" → "TOOLKIT_MESH_MAX_QUEUE".
std::string environment_name(std::string_view setting);
// What is wrong with `text` as the value of this setting, as a sentence without the name.
// Errors: invalid_argument.
Result<void> check_value(const Setting& setting, const std::string& text);
// "8G" → 8'000'000'000. Errors: invalid_argument.
Result<std::uint64_t> parse_size(const std::string& text);

enum class Origin { kFlag, kEnvironment, kFile, kModel, kBuiltIn, kUnset };

// "flag", "environment", …
std::string_view origin_name(Origin origin);

struct SettingValue {
  std::vector<std::string> texts;  // several for lists only; empty: unset
  Origin origin = Origin::kUnset;
  std::string source;  // "--port", "TOOLKIT_MESH_PORT", "config.toml:3:8", …
};

// One line of a config file.
struct ConfigEntry {
  std::string key;
  std::vector<std::string> texts;
  bool list = false;
  std::string place;  // FILE:LINE:COLUMN
};

struct Sources {
  std::map<std::string, std::vector<std::string>> flags;  // by setting name, as they were typed
  std::function<std::string(const std::string& variable)> environment;  // "": unset
  std::vector<ConfigEntry> file;
  std::map<std::string, std::string> model;  // values that the model's own files name
};

class Settings {
 public:
  // Values of one verb; every name asked for must be in the table.
  const SettingValue& value(std::string_view name) const;
  bool has(std::string_view name) const { return !value(name).texts.empty(); }
  std::string text(std::string_view name) const;  // "" when unset
  std::optional<std::string> maybe_text(std::string_view name) const;
  const std::vector<std::string>& texts(std::string_view name) const { return value(name).texts; }
  bool on(std::string_view name) const;
  std::optional<std::uint64_t> whole(std::string_view name) const;
  std::optional<double> number(std::string_view name) const;
  std::optional<std::uint64_t> size(std::string_view name) const;
  const std::map<std::string, SettingValue, std::less<>>& all() const { return values_; }

 private:
  friend Result<Settings> resolve(unsigned verb, const Sources& sources);
  std::map<std::string, SettingValue, std::less<>> values_;
};

// Merges the sources for a verb (for several bits: every setting of any of them that may stand in a
// file). Errors: invalid_argument naming the flag, variable or place in the file, and for an
// unknown key of the file what could have been meant.
Result<Settings> resolve(unsigned verb, const Sources& sources);

// Sentences about variables TOOLKIT_MESH_… that no setting has but that look like one.
std::vector<std::string> unknown_variables(const std::vector<std::string>& names);

}  // namespace mesh::cli
