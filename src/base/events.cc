#include "base/events.h"

#include <fmt/core.h>

namespace mesh {

Field::Field(std::string_view k, double v) : key(k), value(fmt::format("{:.6g}", v)) {}

std::string_view level_name(Level level) {
  switch (level) {
    case Level::kDebug:
      return "debug";
    case Level::kInfo:
      return "info";
    case Level::kWarn:
      return "warn";
    case Level::kError:
      return "error";
  }
  return "?";
}

std::string format_event(std::string_view name, const std::vector<Field>& fields) {
  std::string line(name);
  for (const Field& field : fields) {
    const bool quote =
        field.value.empty() || field.value.find_first_of(" \"\n=") != std::string::npos;
    line += ' ' + field.key + '=';
    if (!quote) {
      line += field.value;
      continue;
    }
    line += '"';
    for (char c : field.value) {
      if (c == '"' || c == '\\') line += '\\';
      line += c == '\n' ? ' ' : c;
    }
    line += '"';
  }
  return line;
}

}  // namespace mesh
