#pragma once
// The config file: TOML with one key per setting. Read with places for errors, edited line by line
// so that comments and order stay.

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/settings.h"

namespace mesh::cli {

// `path` is for messages. Errors: invalid_argument as "FILE:LINE:COLUMN: what is wrong".
Result<std::vector<ConfigEntry>> parse_config_text(std::string_view text, const std::string& path);

// `text` with `setting` set to these values; other lines, and a comment behind the value, stay.
// Errors: invalid_argument (the text is no TOML, the value is wrong for the setting).
Result<std::string> set_config_text(const std::string& text, const std::string& path,
                                    const Setting& setting, const std::vector<std::string>& values);
// `text` without the line or lines of `key`; the same text when it is not there.
Result<std::string> unset_config_text(const std::string& text, const std::string& path,
                                      std::string_view key);

// TOOLKIT_MESH_CONFIG, XDG_CONFIG_HOME/toolkit-mesh/config.toml or
// ~/.config/toolkit-mesh/config.toml, unless `asked`. Errors: invalid_argument without a home.
Result<std::string> config_path(const std::string& asked);
// Entries of that file; none when it is missing and was not asked for.
Result<std::vector<ConfigEntry>> read_config_file(const std::string& asked);
// Errors: unavailable, and not_found for a missing file.
Result<std::string> read_text_file(const std::string& path);
// Replaces the file as a whole; makes its directory. Errors: unavailable.
Result<void> write_text_file(const std::string& path, const std::string& text);

}  // namespace mesh::cli
