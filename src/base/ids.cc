#include "base/ids.h"

#include <algorithm>
#include <charconv>

namespace mesh {
namespace {
constexpr std::string_view kAlphabet = "abcdefghijklmnopqrstuvwxyz234567";
}

std::string PeerId::to_string() const {
  std::string text;
  std::uint32_t window = 0;
  int bits = 0;
  for (std::uint8_t byte : bytes) {
    window = (window << 8) | byte;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      text += kAlphabet[(window >> bits) & 31];
    }
  }
  if (bits > 0) text += kAlphabet[(window << (5 - bits)) & 31];
  return text;
}

Result<PeerId> PeerId::parse(std::string_view text) {
  if (text.size() != 52)
    return Error(Code::kInvalidArgument,
                 fmt::format("a node id has 52 characters, this one has {}", text.size()));
  PeerId id;
  std::uint32_t window = 0;
  int bits = 0;
  std::size_t out = 0;
  for (char c : text) {
    const std::size_t digit = kAlphabet.find(c);
    if (digit == std::string_view::npos)
      return Error(Code::kInvalidArgument, fmt::format("'{}' cannot stand in a node id", c));
    window = (window << 5) | static_cast<std::uint32_t>(digit);
    bits += 5;
    if (bits >= 8) {
      bits -= 8;
      if (out < id.bytes.size()) id.bytes[out++] = static_cast<std::uint8_t>(window >> bits);
    }
  }
  return id;
}

Result<PeerId> PeerId::from_bytes(std::string_view raw) {
  PeerId id;
  if (raw.size() != id.bytes.size())
    return Error(Code::kInvalidArgument, fmt::format("a node id has 32 bytes, got {}", raw.size()));
  std::copy(raw.begin(), raw.end(), id.bytes.begin());
  return id;
}

std::string LayerRange::to_string() const {
  return fmt::format("{}:{}", begin, end);
}

Result<LayerRange> LayerRange::parse(std::string_view text) {
  LayerRange range;
  const std::size_t colon = text.find(':');
  auto number = [](std::string_view digits, std::uint32_t& out) {
    const auto [ptr, ec] = std::from_chars(digits.data(), digits.data() + digits.size(), out);
    return ec == std::errc() && ptr == digits.data() + digits.size() && !digits.empty();
  };
  if (colon == std::string_view::npos || !number(text.substr(0, colon), range.begin) ||
      !number(text.substr(colon + 1), range.end) || range.empty())
    return Error(Code::kInvalidArgument,
                 fmt::format("'{}' is not a layer range; write BEGIN:END with BEGIN < END, "
                             "for example 0:14 for the first fourteen layers",
                             text));
  return range;
}

}  // namespace mesh
