#pragma once
// A checkpoint whose matrices are rounded to a quantised type while they are read: --quantize.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "formats/model_files.h"
#include "formats/tensor_source.h"

namespace mesh::formats {

enum class Quantize { kNone, kQ8, kQ4 };

// "", "q8", "q4". Errors: invalid_argument.
Result<Quantize> parse_quantize(std::string_view text);

// What a conversion does to a model, from the tables alone.
struct QuantizeReport {
  std::size_t matrices = 0;
  std::uint64_t bytes_before = 0;  // of these matrices
  std::uint64_t bytes_after = 0;
  std::size_t left = 0;  // float matrices that stay as they are: rows are no multiple of 32
};
// "148 matrices converted to Q8_0: 1.1 GB became 0.6 GB"
std::string quantize_text(Quantize to, const QuantizeReport& report);

// Replaces files.tensors by a view in which the projections (…_proj), the embedding and the head
// are Q8_0, or with kQ4 the projections Q4_0; only what is f32, bf16 or f16 in `files` changes, and
// never norms, biases and routers. Names are those of the hub. The name of the model gets ":q8" or
// ":q4". kNone changes nothing.
QuantizeReport quantize_model(ModelFiles& files, Quantize to);

}  // namespace mesh::formats
