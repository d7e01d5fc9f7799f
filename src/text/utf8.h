#pragma once
// UTF-8: stepping over valid and invalid bytes, and the character classes that tokenizers and
// templates ask for.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace mesh::text {

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// What stands at the front of some bytes.
struct Utf8Step {
  enum class Kind : std::uint8_t {
    kValid,       // one character
    kInvalid,     // a maximal part of an ill-formed sequence: becomes one U+FFFD
    kIncomplete,  // the bytes end inside a sequence that may still become valid
  };
  Kind kind = Kind::kInvalid;
  std::size_t bytes = 0;    // length of the step, at least 1
  char32_t code_point = 0;  // kValid only
};

// Looks at the front of `bytes`, which must not be empty. Source: Unicode 15, table 3-7 and
// section 3.9 (U+FFFD substitution of maximal subparts), the rule Hugging Face's decoder follows
// too.
Utf8Step utf8_step(std::string_view bytes);

bool is_ascii(std::string_view bytes);
bool is_utf8(std::string_view bytes);
std::string to_valid_utf8(
    std::string_view bytes);  // ill-formed parts become U+FFFD, also a cut one at the end
void append_utf8(std::string& out,
                 char32_t code_point);  // surrogates and values above U+10FFFF become U+FFFD
std::size_t count_code_points(std::string_view valid);
// Byte offset of code point `index`, or the size if there are fewer.
std::size_t code_point_offset(std::string_view valid, std::size_t index);

bool is_space(char32_t c);         // White_Space, and U+001C–1F as in Python's str.isspace
bool is_word(char32_t c);          // \w: letters, marks, decimal and letter numbers, connectors
bool is_letter(char32_t c);        // category L
bool is_upper(char32_t c);         // category Lu
bool is_lower(char32_t c);         // category Ll
bool is_title(char32_t c);         // category Lt
bool is_number(char32_t c);        // category N
bool is_digit(char32_t c);         // category Nd
std::string to_upper(char32_t c);  // one character may become two ("ß" → "SS")
std::string to_title(char32_t c);
std::string to_lower(char32_t c);

}  // namespace mesh::text
