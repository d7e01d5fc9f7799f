#include "cli/config_file.h"

#include <toml++/toml.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/limits.h"
#include "cli/environment.h"

namespace mesh::cli {
namespace {

std::string place(const std::string& path, const toml::source_position& at) {
  return fmt::format("{}:{}:{}", path, at.line, at.column);
}

Error wrong(const std::string& where, std::string_view what) {
  return Error(Code::kInvalidArgument, fmt::format("{}: {}", where, what));
}

Result<toml::table> parse(std::string_view text, const std::string& path) {
  try {
    return toml::parse(text, path);
  } catch (const toml::parse_error& error) {
    return wrong(place(path, error.source().begin), error.description());
  }
}

Result<std::string> scalar(const toml::node& node, const std::string& where) {
  if (const auto text = node.as_string()) return text->get();
  if (const auto whole = node.as_integer()) return fmt::format("{}", whole->get());
  if (const auto number = node.as_floating_point()) return fmt::format("{}", number->get());
  if (const auto flag = node.as_boolean()) return std::string(flag->get() ? "true" : "false");
  return wrong(where, "a text, a number, true or false, or a list of texts is expected");
}

Result<ConfigEntry> entry_of(const std::string& key, const toml::node& node,
                             const std::string& path) {
  ConfigEntry entry;
  entry.key = key;
  entry.place = place(path, node.source().begin);
  const toml::array* array = node.as_array();
  if (array == nullptr) {
    MESH_ASSIGN_OR_RETURN(std::string text, scalar(node, entry.place));
    entry.texts.push_back(std::move(text));
    return entry;
  }
  entry.list = true;
  for (const toml::node& item : *array) {
    MESH_ASSIGN_OR_RETURN(std::string text, scalar(item, place(path, item.source().begin)));
    entry.texts.push_back(std::move(text));
  }
  return entry;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string out;
  for (const std::string& line : lines) out += line + "\n";
  return out;
}

// " # why" behind a value, with the blanks before it; "" when there is none.
std::string comment_of(const std::string& line) {
  char quote = 0;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quote == '"' && c == '\\') {
      ++i;
    } else if (quote != 0) {
      if (c == quote) quote = 0;
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '#') {
      std::size_t begin = i;
      while (begin > 0 && (line[begin - 1] == ' ' || line[begin - 1] == '\t')) --begin;
      return line.substr(begin);
    }
  }
  return "";
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F)
      out += fmt::format("\\u{:04X}", static_cast<unsigned>(c));
    else
      out += c;
  }
  return out + "\"";
}

std::string toml_value(const Setting& setting, const std::vector<std::string>& values) {
  switch (setting.kind) {
    case Kind::kWhole:
    case Kind::kNumber:
      return values.front();
    case Kind::kSwitch: {
      const std::string& text = values.front();
      const char first = text.empty() ? '0' : text.front();
      const bool off = first == '0' || first == 'f' || first == 'F' || first == 'n' ||
                       first == 'N' || text == "off" || text == "OFF" || text == "Off";
      return off ? "false" : "true";
    }
    case Kind::kTexts:
    case Kind::kAddresses: {
      std::string out = "[";
      for (const std::string& value : values) out += (out.size() > 1 ? ", " : "") + quoted(value);
      return out + "]";
    }
    default:
      return quoted(values.front());
  }
}

// Lines [first, last] that a key's value takes, counted from 0.
struct Lines {
  std::size_t first = 0, last = 0;
};

Result<std::optional<Lines>> find_key(const std::string& text, const std::string& path,
                                      std::string_view key) {
  MESH_ASSIGN_OR_RETURN(const toml::table table, parse(text, path));
  const toml::node* node = table.get(key);
  if (node == nullptr) return std::optional<Lines>();
  const toml::source_region& at = node->source();
  return std::optional(Lines{at.begin.line - 1u, std::max(at.begin.line, at.end.line) - 1u});
}

}  // namespace

Result<std::vector<ConfigEntry>> parse_config_text(std::string_view text, const std::string& path) {
  MESH_ASSIGN_OR_RETURN(const toml::table table, parse(text, path));
  std::vector<ConfigEntry> entries;
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    if (node.is_table())
      return wrong(place(path, key.source().begin),
                   fmt::format("[{}] is a table; write KEY = VALUE lines only", name));
    MESH_ASSIGN_OR_RETURN(ConfigEntry entry, entry_of(name, node, path));
    // A key that is not known is shown where the key stands.
    if (find_setting(kAllVerbs, name) == nullptr) entry.place = place(path, key.source().begin);
    entries.push_back(std::move(entry));
  }
  return entries;
}

Result<std::string> set_config_text(const std::string& text, const std::string& path,
                                    const Setting& setting,
                                    const std::vector<std::string>& values) {
  for (const std::string& value : values)
    if (const Result<void> ok = check_value(setting, value); !ok.ok())
      return ok.error().with_context(fmt::format("{} {}", setting.name, value));
  MESH_ASSIGN_OR_RETURN(const std::optional<Lines> at, find_key(text, path, setting.name));
  std::vector<std::string> lines = lines_of(text);
  std::string line = fmt::format("{} = {}", setting.name, toml_value(setting, values));
  if (!at.has_value()) {
    lines.push_back(std::move(line));
    return joined(lines);
  }
  line += comment_of(lines.at(at->last));
  lines.erase(lines.begin() + static_cast<std::ptrdiff_t>(at->first) + 1,
              lines.begin() + static_cast<std::ptrdiff_t>(at->last) + 1);
  lines[at->first] = std::move(line);
  return joined(lines);
}

Result<std::string> unset_config_text(const std::string& text, const std::string& path,
                                      std::string_view key) {
  MESH_ASSIGN_OR_RETURN(const std::optional<Lines> at, find_key(text, path, key));
  if (!at.has_value()) return text;
  std::vector<std::string> lines = lines_of(text);
  lines.erase(lines.begin() + static_cast<std::ptrdiff_t>(at->first),
              lines.begin() + static_cast<std::ptrdiff_t>(at->last) + 1);
  return joined(lines);
}

Result<std::string> config_path(const std::string& asked) {
  if (!asked.empty()) return asked;
  if (const std::string named = environment("TOOLKIT_MESH_CONFIG"); !named.empty()) return named;
  if (const std::string xdg = environment("XDG_CONFIG_HOME"); !xdg.empty())
    return xdg + "/toolkit-mesh/config.toml";
  if (const std::string home = environment("HOME"); !home.empty())
    return home + "/.config/toolkit-mesh/config.toml";
  return Error(Code::kInvalidArgument, "neither HOME nor XDG_CONFIG_HOME is set; give --config");
}

Result<std::vector<ConfigEntry>> read_config_file(const std::string& asked) {
  const bool named = !asked.empty() || !environment("TOOLKIT_MESH_CONFIG").empty();
  const Result<std::string> path = config_path(asked);
  if (!path.ok()) return std::vector<ConfigEntry>();  // no home: no file
  const Result<std::string> text = read_text_file(*path);
  if (text.ok()) return parse_config_text(*text, *path);
  if (!named && text.error().code == Code::kNotFound) return std::vector<ConfigEntry>();
  return Error(Code::kInvalidArgument, "--config: " + text.error().message);
}

Result<std::string> read_text_file(const std::string& path) {
  std::error_code failed;
  if (!std::filesystem::exists(path, failed))
    return Error(Code::kNotFound, fmt::format("there is no file {}", path));
  std::ifstream file(path, std::ios::binary);
  std::string text(limits::kConfigFileBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad() || (!file && !file.eof()))
    return Error(Code::kUnavailable, fmt::format("cannot read {}", path));
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > limits::kConfigFileBytes)
    return Error(Code::kUnavailable,
                 fmt::format("{} is larger than {} bytes", path, limits::kConfigFileBytes));
  return text;
}

Result<void> write_text_file(const std::string& path, const std::string& text) {
  std::error_code failed;
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  if (!parent.empty()) std::filesystem::create_directories(parent, failed);
  if (failed)
    return Error(Code::kUnavailable,
                 fmt::format("cannot create {}: {}", parent.string(), failed.message()));
  // A link is followed: people keep such files elsewhere.
  const std::filesystem::path real = std::filesystem::weakly_canonical(path, failed);
  const std::string target = failed ? path : real.string();
  const std::string fresh = fmt::format("{}.{}.new", target, ::getpid());
  {
    std::ofstream file(fresh, std::ios::trunc | std::ios::binary);
    file << text;
    file.flush();
    if (!file)
      return Error(Code::kUnavailable,
                   fmt::format("cannot write {}: {}", fresh, std::strerror(errno)));
  }
  std::filesystem::rename(fresh, target, failed);
  if (failed)
    return Error(Code::kUnavailable, fmt::format("cannot write {}: {}", path, failed.message()));
  return {};
}

}  // namespace mesh::cli
