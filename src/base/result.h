#pragma once
// Errors of the world (peer, file, user, timeout) travel as Result<T>; our own bugs are MESH_CHECK
// (base/check.h).

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "base/check.h"

namespace mesh {

// Kind of failure. One table (error_table.h) maps a code to its name, HTTP status and wire number.
enum class Code {
  kInvalidArgument,
  kNotFound,
  kUnavailable,
  kResourceExhausted,
  kDeadlineExceeded,
  kCancelled,
  kCorrupt,
  kUnsupported,
  kPermissionDenied,
  kInternal,
};

// One failure: a code and one sentence with the actual values, to which callers add context on the
// way up.
struct Error {
  Code code = Code::kInternal;
  std::string message;
  bool retryable = false;  // only pipeline/driver retries, and only when this says so

  Error(Code c, std::string m, bool r = false) : code(c), message(std::move(m)), retryable(r) {}

  // The same error with "context: " in front of its message.
  [[nodiscard]] Error with_context(std::string_view context) const {
    return Error(code, std::string(context) + ": " + message, retryable);
  }
  friend bool operator==(const Error&, const Error&) = default;
};

// A value or an Error. Dropping one is a compiler warning; reading the wrong side is a MESH_CHECK.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value)
      : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT: implicit by design
  Result(Error error)
      : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit by design

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  const T& value() const& {
    require_value();
    return std::get<0>(state_);
  }
  T& value() & {
    require_value();
    return std::get<0>(state_);
  }
  T&& value() && {
    require_value();
    return std::get<0>(std::move(state_));
  }
  const Error& error() const {
    MESH_CHECK(!ok(), "error() of a Result that holds a value");
    return std::get<1>(state_);
  }
  const T& operator*() const& { return value(); }
  T& operator*() & { return value(); }
  const T* operator->() const { return &value(); }
  T* operator->() { return &value(); }

 private:
  void require_value() const {
    if (!ok()) check_failed(__FILE__, __LINE__, "Result::ok()", std::get<1>(state_).message);
  }
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT: implicit by design
  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  const Error& error() const {
    MESH_CHECK(!ok(), "error() of a successful Result<void>");
    return *error_;
  }
  // Asserts success; for callers that have checked or cannot fail.
  void value() const {
    if (!ok()) check_failed(__FILE__, __LINE__, "Result::ok()", error_->message);
  }

 private:
  std::optional<Error> error_;
};

}  // namespace mesh

#define MESH_CONCAT_INNER(a, b) a##b
#define MESH_CONCAT(a, b) MESH_CONCAT_INNER(a, b)

// Returns the error of `expr` (a Result<void>) from the enclosing function, if there is one.
#define MESH_RETURN_IF_ERROR(expr)                     \
  do {                                                 \
    auto mesh_status = (expr);                         \
    if (!mesh_status.ok()) return mesh_status.error(); \
  } while (false)

// MESH_ASSIGN_OR_RETURN(auto x, f()); — one per line.
#define MESH_ASSIGN_OR_RETURN(decl, expr) \
  MESH_ASSIGN_OR_RETURN_INNER(MESH_CONCAT(mesh_result_, __LINE__), decl, expr)
#define MESH_ASSIGN_OR_RETURN_INNER(tmp, decl, expr) \
  auto tmp = (expr);                                 \
  if (!tmp.ok()) return tmp.error();                 \
  decl = std::move(tmp).value()
