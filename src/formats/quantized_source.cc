#include "formats/quantized_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "tensor/quantize.h"
#include "tensor/quantized.h"

namespace mesh::formats {
namespace {

using tensor::DType;

constexpr std::int64_t kBlock = 32;
constexpr std::uint64_t kWindowBlocks = 1u << 11;  // converted at a time, in a core's caches

bool is_end(std::string_view name) {
  return name == "model.embed_tokens.weight" || name == "lm_head.weight";
}

// The type that a tensor gets; its own when it stays as it is.
DType target(const tensor::TensorInfo& info, Quantize to) {
  const std::string_view name = info.name;
  const bool is_projection =
      name.ends_with("_proj.weight") || (name.ends_with("_proj") && info.shape.size() == 3);
  if (to == Quantize::kNone || info.shape.size() < 2 || !tensor::is_float_weight(info.dtype) ||
      info.shape.back() % kBlock != 0 || (!is_projection && !is_end(name)))
    return info.dtype;
  return to == Quantize::kQ4 && is_projection ? DType::kQ4_0 : DType::kQ8_0;
}

class QuantizedSource final : public TensorSource {
 public:
  QuantizedSource(std::shared_ptr<TensorSource> from, Quantize to) : from_(std::move(from)) {
    for (tensor::TensorInfo info : from_->tensors()) {
      info.dtype = target(info, to);
      tensors_.push_back(std::move(info));
    }
  }

  const std::vector<tensor::TensorInfo>& tensors() const override { return tensors_; }
  std::uint64_t bytes_read() const override { return bytes_read_.load(std::memory_order_relaxed); }

  Result<void> read_part(const std::string& name, std::uint64_t offset,
                         std::span<std::byte> out) const override {
    MESH_ASSIGN_OR_RETURN(const tensor::TensorInfo* info,
                          check_part(*this, name, offset, out.size()));
    const tensor::TensorInfo& original = from_->tensors()[static_cast<std::size_t>(
        info - tensors_.data())];  // the tables are parallel
    bytes_read_.fetch_add(out.size(), std::memory_order_relaxed);
    if (original.dtype == info->dtype) return from_->read_part(name, offset, out);
    const std::size_t width = tensor::block_bytes(info->dtype);
    std::vector<std::byte> blocks;
    while (!out.empty()) {
      const std::uint64_t first = offset / width;
      const std::uint64_t last =
          std::min((offset + out.size() + width - 1) / width, first + kWindowBlocks);
      MESH_RETURN_IF_ERROR(convert(original, info->dtype, first, last, blocks));
      const auto skip = static_cast<std::size_t>(offset - first * width);
      const std::size_t count = std::min(blocks.size() - skip, out.size());
      std::memcpy(out.data(), blocks.data() + skip, count);
      out = out.subspan(count);
      offset += count;
    }
    return {};
  }

 private:
  // Blocks [first, last) of a tensor. Errors: those of reading, corrupt (a value is not finite).
  Result<void> convert(const tensor::TensorInfo& original, DType type, std::uint64_t first,
                       std::uint64_t last, std::vector<std::byte>& blocks) const {
    const std::size_t element = tensor::dtype_bytes(original.dtype);
    const auto count = static_cast<std::size_t>((last - first) * kBlock);
    std::vector<std::byte> source(count * element);
    MESH_RETURN_IF_ERROR(from_->read_part(original.name, first * kBlock * element, source));
    std::vector<float> values(count);
    tensor::dequantize(original.dtype, source.data(), static_cast<std::int64_t>(count),
                       values.data());
    if (!std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); }))
      return Error(Code::kCorrupt,
                   fmt::format("tensor {} holds values that are not finite and cannot be converted",
                               original.name));
    blocks.resize(static_cast<std::size_t>(last - first) * tensor::block_bytes(type));
    tensor::quantize(type, values.data(), static_cast<std::int64_t>(count), blocks.data());
    return {};
  }

  const std::shared_ptr<TensorSource> from_;
  std::vector<tensor::TensorInfo> tensors_;
  mutable std::atomic<std::uint64_t> bytes_read_{0};
};

}  // namespace

Result<Quantize> parse_quantize(std::string_view text) {
  if (text.empty()) return Quantize::kNone;
  if (text == "q8") return Quantize::kQ8;
  if (text == "q4") return Quantize::kQ4;
  return Error(Code::kInvalidArgument, fmt::format("--quantize {}: choose q8 or q4", text));
}

std::string quantize_text(Quantize to, const QuantizeReport& report) {
  const auto size = [](std::uint64_t bytes) {
    const double megabytes = static_cast<double>(bytes) * 1e-6;
    return megabytes < 1000 ? fmt::format("{:.1f} MB", megabytes)
                            : fmt::format("{:.2f} GB", megabytes * 1e-3);
  };
  std::string text = fmt::format("{} matrices converted to {}: {} became {}", report.matrices,
                                 to == Quantize::kQ8 ? "Q8_0" : "Q4_0 (embedding and head: Q8_0)",
                                 size(report.bytes_before), size(report.bytes_after));
  if (report.left > 0)
    text +=
        fmt::format("; {} stay as they are, their rows are no multiple of {}", report.left, kBlock);
  return text;
}

QuantizeReport quantize_model(ModelFiles& files, Quantize to) {
  QuantizeReport report;
  if (to == Quantize::kNone) return report;
  auto view = std::make_shared<QuantizedSource>(files.tensors, to);
  for (std::size_t i = 0; i < view->tensors().size(); ++i) {
    const tensor::TensorInfo& before = files.tensors->tensors()[i];
    const tensor::TensorInfo& after = view->tensors()[i];
    if (before.dtype != after.dtype) {
      ++report.matrices;
      report.bytes_before += before.bytes();
      report.bytes_after += after.bytes();
    } else if (before.shape.size() > 1 && before.shape.back() % kBlock != 0 &&
               tensor::is_float_weight(before.dtype)) {
      ++report.left;
    }
  }
  files.tensors = std::move(view);
  files.name += to == Quantize::kQ8 ? ":q8" : ":q4";
  return report;
}

}  // namespace mesh::formats
