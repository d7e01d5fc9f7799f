// toolkit-mesh config: which settings hold, and from where.

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/config_file.h"
#include "cli/console.h"
#include "cli/environment.h"
#include "cli/options.h"
#include "cli/suggest.h"
#include "formats/model_files.h"

namespace mesh::cli {
namespace {

using Json = nlohmann::ordered_json;

int failed(const Error& why) {
  fmt::print(stderr, "✗ {}\n", why.message);
  return why.code == Code::kInvalidArgument ? kUsage : kFailed;
}

// What the model's own generation_config.json says of the settings of chat.
std::map<std::string, std::string> model_values(const std::string& model) {
  std::map<std::string, std::string> out;
  const Result<formats::ModelFiles> files = formats::open_model(model, hub_environment());
  if (!files.ok()) return out;
  const Json config = Json::parse(files->generation_config_json, nullptr, false);
  if (!config.is_object()) return out;
  const auto sample = config.find("do_sample"), temperature = config.find("temperature");
  if (sample != config.end() && sample->is_boolean() && !sample->get<bool>())
    out["temperature"] = "0";
  else if (temperature != config.end() && temperature->is_number())
    out["temperature"] = fmt::format("{}", temperature->get<double>());
  return out;
}

Result<Settings> effective(const std::string& file) {
  Sources sources;
  sources.environment = [](const std::string& name) { return environment(name.c_str()); };
  MESH_ASSIGN_OR_RETURN(sources.file, read_config_file(file));
  MESH_ASSIGN_OR_RETURN(const Settings first, resolve(kAllVerbs, sources));
  sources.model = model_values(first.text("model"));
  return resolve(kAllVerbs, sources);
}

std::string joined(const std::vector<std::string>& texts) {
  std::string out;
  for (const std::string& text : texts) out += (out.empty() ? "" : ", ") + text;
  return out;
}

int show(const ConfigOptions& options) {
  const Result<Settings> settings = effective(options.file);
  if (!settings.ok()) return failed(settings.error());
  Json out = Json::object();
  for (const std::string& key : config_keys()) {
    const SettingValue& value = settings->value(key);
    const std::string origin(origin_name(value.origin));
    if (options.json) {
      const bool list = find_setting(kAllVerbs, key)->kind == Kind::kTexts ||
                        find_setting(kAllVerbs, key)->kind == Kind::kAddresses;
      Json shown = value.texts.empty() ? Json() : Json(value.texts.front());
      if (list) shown = value.texts;
      out[key] = {{"value", std::move(shown)}, {"origin", origin}, {"source", value.source}};
    } else {
      const bool same = value.source.empty() || value.origin == Origin::kBuiltIn;
      fmt::print("{} {} {}\n", fitted(key, 18),
                 fitted(value.texts.empty() ? "–" : joined(value.texts), 24),
                 same ? origin : value.source);
    }
  }
  if (options.json) {
    fmt::print("{}\n", out.dump(2, ' ', false, Json::error_handler_t::replace));
  } else if (!environment("TOOLKIT_MESH_API_KEY").empty()) {
    fmt::print("{} {} TOOLKIT_MESH_API_KEY\n", fitted("(API key)", 18), fitted("not shown", 24));
  }
  return kDone;
}

int change(const ConfigOptions& options) {
  const std::vector<std::string> keys = config_keys();
  if (std::find(keys.begin(), keys.end(), options.key) == keys.end()) {
    const std::string close = closest_word(options.key, keys);
    return failed(Error(Code::kInvalidArgument,
                        fmt::format("unknown key '{}'{}", options.key,
                                    close.empty() ? "; `toolkit-mesh config show` lists the keys"
                                                  : fmt::format("; did you mean '{}'?", close))));
  }
  const Setting& setting = *find_setting(kAllVerbs, options.key);
  const bool list = setting.kind == Kind::kTexts || setting.kind == Kind::kAddresses;
  if (options.action == ConfigAction::kSet && options.values.size() > 1 && !list)
    return failed(Error(Code::kInvalidArgument, options.key + ": one value, not a list"));
  const Result<std::string> path = config_path(options.file);
  if (!path.ok()) return failed(path.error());
  Result<std::string> text = read_text_file(*path);
  if (!text.ok() && text.error().code == Code::kNotFound) text = std::string();
  if (!text.ok()) return failed(text.error());
  const Result<std::string> changed = options.action == ConfigAction::kSet
                                          ? set_config_text(*text, *path, setting, options.values)
                                          : unset_config_text(*text, *path, options.key);
  if (!changed.ok()) return failed(changed.error());
  if (*changed != *text)
    if (const Result<void> written = write_text_file(*path, *changed); !written.ok())
      return failed(written.error());
  fmt::print("✓ {} {} {}\n", options.key,
             options.action == ConfigAction::kSet ? "set in" : "is not in", *path);
  return kDone;
}

}  // namespace

int run_config(const ConfigOptions& options) {
  switch (options.action) {
    case ConfigAction::kShow:
      return show(options);
    case ConfigAction::kPath: {
      const Result<std::string> path = config_path(options.file);
      if (!path.ok()) return failed(path.error());
      fmt::print("{}\n", *path);
      return kDone;
    }
    case ConfigAction::kSet:
    case ConfigAction::kUnset:
      return change(options);
  }
  return kUsage;
}

}  // namespace mesh::cli
