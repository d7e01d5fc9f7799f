#include "formats/gguf_types.h"

#include <algorithm>

#include "base/limits.h"

namespace mesh::formats::gguf {
namespace {

using tensor::DType;

struct Element {
  std::uint32_t number;
  std::string_view name;
  std::optional<DType> dtype;
};

constexpr Element kElements[] = {
    {0, "F32", DType::kF32},          {1, "F16", DType::kF16},
    {2, "Q4_0", DType::kQ4_0},        {3, "Q4_1", DType::kQ4_1},
    {4, "Q4_2", std::nullopt},        {5, "Q4_3", std::nullopt},
    {6, "Q5_0", DType::kQ5_0},        {7, "Q5_1", DType::kQ5_1},
    {8, "Q8_0", DType::kQ8_0},        {9, "Q8_1", std::nullopt},
    {10, "Q2_K", DType::kQ2_K},       {11, "Q3_K", DType::kQ3_K},
    {12, "Q4_K", DType::kQ4_K},       {13, "Q5_K", DType::kQ5_K},
    {14, "Q6_K", DType::kQ6_K},       {15, "Q8_K", std::nullopt},
    {16, "IQ2_XXS", std::nullopt},    {17, "IQ2_XS", std::nullopt},
    {18, "IQ3_XXS", std::nullopt},    {19, "IQ1_S", std::nullopt},
    {20, "IQ4_NL", DType::kIQ4_NL},   {21, "IQ3_S", std::nullopt},
    {22, "IQ2_S", std::nullopt},      {23, "IQ4_XS", DType::kIQ4_XS},
    {24, "I8", DType::kI8},           {25, "I16", DType::kI16},
    {26, "I32", DType::kI32},         {27, "I64", DType::kI64},
    {28, "F64", DType::kF64},         {29, "IQ1_M", std::nullopt},
    {30, "BF16", DType::kBF16},       {31, "Q4_0_4_4", std::nullopt},
    {32, "Q4_0_4_8", std::nullopt},   {33, "Q4_0_8_8", std::nullopt},
    {34, "TQ1_0", std::nullopt},      {35, "TQ2_0", std::nullopt},
    {36, "IQ4_NL_4_4", std::nullopt}, {37, "IQ4_NL_4_8", std::nullopt},
    {38, "IQ4_NL_8_8", std::nullopt}, {39, "MXFP4", DType::kMXFP4},
    {40, "NVFP4", std::nullopt},
};

const Element* find_element(std::uint32_t number) {
  const auto* at = std::find_if(std::begin(kElements), std::end(kElements),
                                [&](const Element& e) { return e.number == number; });
  return at == std::end(kElements) ? nullptr : at;
}

}  // namespace

std::string_view element_type_name(std::uint32_t number) {
  const Element* element = find_element(number);
  return element == nullptr ? std::string_view() : element->name;
}

std::optional<DType> element_type(std::uint32_t number) {
  const Element* element = find_element(number);
  return element == nullptr ? std::nullopt : element->dtype;
}

std::optional<std::uint32_t> element_number(DType dtype) {
  for (const Element& element : kElements)
    if (element.dtype == dtype) return element.number;
  return std::nullopt;
}

std::string_view name_fault(std::string_view name) {
  if (name.empty()) return "is empty";
  if (name.size() > limits::kGgufNameBytes) return "is too long";
  const auto control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; };
  if (std::any_of(name.begin(), name.end(), control)) return "has control characters";
  return {};
}

std::string printable(std::string_view name) {
  constexpr std::size_t kShown = 100;
  std::string text(name.substr(0, kShown));
  for (char& c : text)
    if (c < 0x20 || c > 0x7E) c = '?';
  if (name.size() > kShown) text += "…";
  return text;
}

}  // namespace mesh::formats::gguf
