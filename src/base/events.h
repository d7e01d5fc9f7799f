#pragma once
// Structured events: a stable dotted name and fields, no prose with values in it. No prompts or
// tokens above debug.

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mesh {

enum class Level {
  kDebug,
  kInfo,
  kWarn,
  kError
};  // error: a person must look; it fails a simulation

struct Field {
  std::string key;
  std::string value;
  Field(std::string_view k, std::string_view v) : key(k), value(v) {}
  Field(std::string_view k, const char* v) : key(k), value(v) {}
  Field(std::string_view k, const std::string& v) : key(k), value(v) {}
  Field(std::string_view k, bool v) : key(k), value(v ? "true" : "false") {}
  Field(std::string_view k, double v);
  template <typename T>
  requires std::is_integral_v<T> Field(std::string_view k, T v)
      : key(k), value(std::to_string(v)) {}
};

// Sink of events. Implementations may be called from any thread.
class Events {
 public:
  virtual ~Events() = default;
  virtual void emit(Level level, std::string_view name, std::vector<Field> fields) = 0;
  void debug(std::string_view name, std::initializer_list<Field> f = {}) {
    emit(Level::kDebug, name, f);
  }
  void info(std::string_view name, std::initializer_list<Field> f = {}) {
    emit(Level::kInfo, name, f);
  }
  void warn(std::string_view name, std::initializer_list<Field> f = {}) {
    emit(Level::kWarn, name, f);
  }
  void error(std::string_view name, std::initializer_list<Field> f = {}) {
    emit(Level::kError, name, f);
  }
};

// Discards everything.
class NullEvents : public Events {
 public:
  void emit(Level, std::string_view, std::vector<Field>) override {}
};

std::string_view level_name(Level level);
// "stage.joined peer=abc layers=0:4", values quoted when they hold blanks.
std::string format_event(std::string_view name, const std::vector<Field>& fields);

}  // namespace mesh
