#include "cli/settings.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/check.h"
#include "base/ids.h"
#include "cli/suggest.h"
#include "env/transport.h"

namespace mesh::cli {
namespace {

constexpr std::string_view kPrefix = "TOOLKIT_MESH_";

bool is_list(Kind kind) {
  return kind == Kind::kTexts || kind == Kind::kAddresses;
}

std::optional<bool> parse_switch(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  if (text == "true" || text == "1" || text == "yes" || text == "on") return true;
  if (text == "false" || text == "0" || text == "no" || text == "off") return false;
  return std::nullopt;
}

std::optional<std::uint64_t> parse_whole(const std::string& text) {
  std::uint64_t value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<double> parse_number(const std::string& text) {
  double value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc() || end != text.data() + text.size() || !std::isfinite(value))
    return std::nullopt;
  return value;
}

Error wrong(std::string sentence) {
  return Error(Code::kInvalidArgument, std::move(sentence));
}

std::vector<std::string> split(std::string_view text, std::string_view separators) {
  std::vector<std::string> out;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find_first_of(separators), text.size());
    if (end > 0) out.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

Result<void> check_choice(const Setting& setting, const std::string& text) {
  const std::vector<std::string> words = split(setting.choices, "|");
  if (std::find(words.begin(), words.end(), text) != words.end()) return {};
  std::string sentence = "choose ";
  for (std::size_t i = 0; i < words.size(); ++i)
    sentence += (i == 0 ? "" : i + 1 == words.size() ? " or " : ", ") + words[i];
  return wrong(sentence);
}

// Where a value stands, as its error begins: "--port abc", "TOOLKIT_MESH_PORT=abc", ….
std::string where(const SettingValue& value, std::string_view name, const std::string& text) {
  switch (value.origin) {
    case Origin::kEnvironment:
      return fmt::format("{}={}", value.source, text);
    case Origin::kFile:
      return fmt::format("{}: {} = {}", value.source, name, text);
    case Origin::kModel:
      return fmt::format("{}: {} {}", value.source, name, text);
    default:
      return fmt::format("--{} {}", name, text);
  }
}

Result<void> check_entry(const Setting& setting, const SettingValue& value) {
  if (value.texts.size() > 1 && !is_list(setting.kind))
    return wrong(
        fmt::format("{}: one value, not a list", where(value, setting.name, value.texts.front())));
  for (const std::string& text : value.texts)
    if (const Result<void> ok = check_value(setting, text); !ok.ok())
      return ok.error().with_context(where(value, setting.name, text));
  return {};
}

Result<void> check_keys(const std::vector<ConfigEntry>& file) {
  const std::vector<std::string> keys = config_keys();
  for (const ConfigEntry& entry : file) {
    if (std::find(keys.begin(), keys.end(), entry.key) != keys.end()) continue;
    const std::string close = closest_word(entry.key, keys);
    return wrong(fmt::format("{}: unknown key '{}'{}", entry.place, entry.key,
                             close.empty() ? "; `toolkit-mesh config show` lists the keys"
                                           : fmt::format("; did you mean '{}'?", close)));
  }
  return {};
}

// The strongest source that says anything.
SettingValue pick(const Setting& setting, const Sources& sources) {
  const std::string name(setting.name);
  if (const auto flag = sources.flags.find(name); flag != sources.flags.end())
    return {flag->second, Origin::kFlag, "--" + name};
  if (!setting.only_as_flag) {
    const std::string variable = environment_name(name);
    const std::string text = sources.environment ? sources.environment(variable) : "";
    if (!text.empty())
      return {is_list(setting.kind) ? split(text, ", ") : std::vector<std::string>{text},
              Origin::kEnvironment, variable};
    for (const ConfigEntry& entry : sources.file)
      if (entry.key == name) return {entry.texts, Origin::kFile, entry.place};
    if (const auto model = sources.model.find(name); model != sources.model.end())
      return {{model->second}, Origin::kModel, "the model"};
  }
  if (!setting.fallback.empty())
    return {{std::string(setting.fallback)}, Origin::kBuiltIn, "built in"};
  return {};
}

}  // namespace

const Setting* find_setting(unsigned verb, std::string_view name) {
  for (const Setting& setting : setting_table())
    if ((setting.verbs & verb) != 0 && setting.name == name) return &setting;
  return nullptr;
}

std::vector<std::string> config_keys() {
  std::vector<std::string> keys;
  for (const Setting& setting : setting_table())
    if (!setting.only_as_flag && std::find(keys.begin(), keys.end(), setting.name) == keys.end())
      keys.emplace_back(setting.name);
  return keys;
}

std::string environment_name(std::string_view setting) {
  std::string out(kPrefix);
  for (const char c : setting)
    out += c == '-' ? '_' : c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  return out;
}

Result<std::uint64_t> parse_size(const std::string& text) {
  static constexpr std::pair<std::string_view, double> kUnits[] = {
      {"", 1},     {"K", 1e3},  {"M", 1e6},  {"G", 1e9},  {"T", 1e12},
      {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}};
  const std::size_t end = std::min(text.find_first_not_of("0123456789."), text.size());
  const std::optional<double> value = parse_number(text.substr(0, end));
  for (const auto& [unit, factor] : kUnits)
    if (value.has_value() && text.substr(end) == unit && *value * factor >= 1 &&
        *value * factor <= 1e18)
      return static_cast<std::uint64_t>(*value * factor);
  return wrong("write a size such as 8G or 500M");
}

Result<void> check_value(const Setting& setting, const std::string& text) {
  const auto outside = [&](double value) { return value < setting.least || value > setting.most; };
  switch (setting.kind) {
    case Kind::kText:
    case Kind::kTexts:
      if (text.empty()) return wrong("must not be empty");
      return {};
    case Kind::kSwitch:
      if (!parse_switch(text).has_value()) return wrong("write true or false");
      return {};
    case Kind::kWhole:
      if (const auto value = parse_whole(text);
          !value.has_value() || outside(static_cast<double>(*value)))
        return wrong(
            fmt::format("not a whole number from {:.0f} to {:.0f}", setting.least, setting.most));
      return {};
    case Kind::kNumber:
      if (const auto value = parse_number(text); !value.has_value() || outside(*value))
        return wrong(fmt::format("not a number from {} to {}", setting.least, setting.most));
      return {};
    case Kind::kSize:
      MESH_RETURN_IF_ERROR(parse_size(text));
      return {};
    case Kind::kChoice:
      return check_choice(setting, text);
    case Kind::kAddress:
    case Kind::kAddresses:
      MESH_RETURN_IF_ERROR(env::Address::parse(text));
      return {};
    case Kind::kLayers:
      MESH_RETURN_IF_ERROR(LayerRange::parse(text));
      return {};
  }
  return {};
}

std::string_view origin_name(Origin origin) {
  switch (origin) {
    case Origin::kFlag:
      return "flag";
    case Origin::kEnvironment:
      return "environment";
    case Origin::kFile:
      return "file";
    case Origin::kModel:
      return "model";
    case Origin::kBuiltIn:
      return "built-in";
    case Origin::kUnset:
      break;
  }
  return "unset";
}

const SettingValue& Settings::value(std::string_view name) const {
  const auto found = values_.find(name);
  MESH_CHECK(found != values_.end(), "no setting {} for this verb", name);
  return found->second;
}

std::string Settings::text(std::string_view name) const {
  return maybe_text(name).value_or("");
}

std::optional<std::string> Settings::maybe_text(std::string_view name) const {
  const SettingValue& found = value(name);
  return found.texts.empty() ? std::nullopt : std::optional(found.texts.back());
}

bool Settings::on(std::string_view name) const {
  return parse_switch(text(name)).value_or(false);
}

std::optional<std::uint64_t> Settings::whole(std::string_view name) const {
  return parse_whole(text(name));
}

std::optional<double> Settings::number(std::string_view name) const {
  return parse_number(text(name));
}

std::optional<std::uint64_t> Settings::size(std::string_view name) const {
  if (!has(name)) return std::nullopt;
  const Result<std::uint64_t> bytes = parse_size(text(name));
  return bytes.ok() ? std::optional(*bytes) : std::nullopt;
}

Result<Settings> resolve(unsigned verb, const Sources& sources) {
  MESH_RETURN_IF_ERROR(check_keys(sources.file));
  const bool several = (verb & (verb - 1)) != 0;
  Settings out;
  for (const Setting& setting : setting_table()) {
    if ((setting.verbs & verb) == 0 || (several && setting.only_as_flag)) continue;
    if (out.values_.find(setting.name) != out.values_.end()) continue;
    SettingValue value = pick(setting, sources);
    MESH_RETURN_IF_ERROR(check_entry(setting, value));
    out.values_.emplace(std::string(setting.name), std::move(value));
  }
  return out;
}

std::vector<std::string> unknown_variables(const std::vector<std::string>& names) {
  std::vector<std::string> known = {std::string(kPrefix) + "API_KEY",
                                    std::string(kPrefix) + "CONFIG"};
  for (const std::string& key : config_keys()) known.push_back(environment_name(key));
  std::vector<std::string> out;
  for (const std::string& name : names) {
    if (name.rfind(kPrefix, 0) != 0 || std::find(known.begin(), known.end(), name) != known.end())
      continue;
    std::vector<std::string> ends;
    for (const std::string& word : known) ends.push_back(word.substr(kPrefix.size()));
    const std::string close = closest_word(name.substr(kPrefix.size()), ends);
    out.push_back(close.empty() ? fmt::format("no setting is called {}", name)
                                : fmt::format("no setting is called {}; did you mean {}{}?", name,
                                              kPrefix, close));
  }
  return out;
}

}  // namespace mesh::cli
