#pragma once
// Typed readers of the JSON body of a request. What is wrong is said once, in a sentence that names
// the field, what it must be and what came.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/api_error.h"
#include "base/ids.h"
#include "node/gateway.h"

namespace mesh::api {

// "a list of 3", "\"abc\"", "0.7": a JSON value in few words; `raw` as it was sent.
std::string describe_json(std::string_view raw);

// Numbers from `low` (or just above it) to `high`, compared as the floats that the mesh takes.
struct NumberRange {
  double low = 0, high = 0;
  bool above_low = false;
};

// A parsed body. The first problem found is kept and ends all reading after it, so that callers
// read field after field and ask for it once. Absent and null fields leave their target as it is.
// Never throws, whatever the bytes.
class RequestFields {
 public:
  // `body` must live as long as the fields. `wanted` completes "The body is empty; send a JSON
  // object with …".
  RequestFields(std::string_view body, std::string_view wanted);
  ~RequestFields();
  RequestFields(const RequestFields&) = delete;
  RequestFields& operator=(const RequestFields&) = delete;

  const std::optional<ApiError>& problem() const { return problem_; }
  bool ok() const { return !problem_; }
  // Keeps this problem unless there is one already.
  void refuse(std::string_view param, std::string message);
  // "NAME must be WANTED; got …."
  void refuse_type(std::string_view name, std::string_view wanted);

  bool has(std::string_view name) const;              // present and not null
  std::string describe(std::string_view name) const;  // the value in few words
  // The member's text as it was sent; of repeated ones the last. "" where has() is false.
  std::string_view raw(std::string_view name) const;
  bool is_string(std::string_view name) const;

  void boolean(std::string_view name, bool& out);
  void number(std::string_view name, NumberRange range, std::optional<float>& out);
  // Integers beyond `high` are refused, so are those beyond 64 bits.
  void integer(std::string_view name, std::int64_t low, std::int64_t high,
               std::optional<std::int64_t>& out);
  // An integer of at least `low`; what exceeds 32 bits counts as the largest.
  void count(std::string_view name, std::uint32_t low, std::optional<std::uint32_t>& out);
  void text(std::string_view name, std::string& out);
  // A string or a list of at most `entries` strings, none of them empty or beyond `bytes`.
  void texts(std::string_view name, std::size_t entries, std::size_t bytes,
             std::vector<std::string>& out);
  // A list of at most `entries` token ids; `empty_allowed` says whether it may have none.
  void token_ids(std::string_view name, std::size_t entries, bool empty_allowed,
                 std::vector<TokenId>& out);
  // {"ID": number, …}, at most `entries`; ascending by id.
  void token_numbers(std::string_view name, std::size_t entries, NumberRange range,
                     std::vector<std::pair<TokenId, float>>& out);
  // An object as it was sent.
  void object(std::string_view name, std::string& out);

  // A member of the object `name`, as "name.member"; for booleans only, which is all that exist.
  void member_boolean(std::string_view name, std::string_view member, bool& out);

  // A text, a list of texts, a list of token ids, or a list of such lists; at most `entries`
  // prompts, none of them without ids.
  void prompts(std::string_view name, std::size_t entries, std::vector<node::PromptInput>& out);

  // Fields whose neutral values are accepted and whose others would change the answer in a way
  // which the server does not offer.
  enum class Neutral {
    kNumber,  // the number in `value`
    kFalse,
    kTrue,
    kEmpty,      // "", [] or {}
    kNull,       // only null
    kName,       // the string in `name` (or null)
    kTypeName,   // {"type": name}
    kNameOrNot,  // `name` or "none"
  };
  struct NotOffered {
    std::string_view param;
    Neutral neutral;
    double value = 0;
    std::string_view name = {};
  };
  void not_offered(const NotOffered& row);

 private:
  struct Document;
  void parse(std::string_view body, std::string_view wanted);
  bool ready(std::string_view name) const;  // no problem yet and has(name)

  std::unique_ptr<Document> document_;
  std::optional<ApiError> problem_;
};

}  // namespace mesh::api
