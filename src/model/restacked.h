#pragma once
// For tests: a checkpoint whose experts lie in another layout.

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "formats/tensor_source.h"
#include "model/spec.h"
#include "model/weights.h"
#include "ops/host_weights.h"
#include "tensor/quantize.h"

namespace mesh::model {

// All tensors of an f32 or bf16 model with separate experts in memory, its experts in `layout`.
class RestackedSource final : public formats::TensorSource {
 public:
  // flat_gate: the gate of the shared expert as a vector. quantized: experts as Q8_0.
  RestackedSource(const ModelSpec& spec, const formats::TensorSource& source, ExpertLayout layout,
                  bool flat_gate = false, bool quantized = false)
      : quantized_(quantized) {
    for (const tensor::TensorInfo& info : source.tensors())
      if (layout == ExpertLayout::kSeparate || !is_expert(info.name))
        put(info, bytes_of(source, info.name));
    for (std::uint32_t layer = 0; layer < spec.layers; ++layer) {
      if (!spec.is_moe(layer)) continue;
      const std::string prefix = fmt::format("model.layers.{}.mlp.", layer);
      if (layout != ExpertLayout::kSeparate) stack(spec.moe, source, prefix + "experts.", layout);
      const auto gate = tensors_.find(prefix + "shared_expert_gate.weight");
      if (flat_gate && gate != tensors_.end()) gate->second.first.shape = {spec.hidden};
    }
    for (const auto& [name, tensor] : tensors_) infos_.push_back(tensor.first);
  }

  const std::vector<tensor::TensorInfo>& tensors() const override { return infos_; }
  std::uint64_t bytes_read() const override { return bytes_read_; }
  Result<void> read_part(const std::string& name, std::uint64_t offset,
                         std::span<std::byte> out) const override {
    const auto checked = formats::check_part(*this, name, offset, out.size());
    if (!checked.ok()) return checked.error();
    if (!out.empty()) std::memcpy(out.data(), tensors_.at(name).second.data() + offset, out.size());
    bytes_read_ += out.size();
    return {};
  }

 private:
  using Bytes = std::vector<std::byte>;

  static bool is_expert(const std::string& name) { return name.find(".experts.") != name.npos; }

  static Bytes bytes_of(const formats::TensorSource& source, const std::string& name) {
    const tensor::HostTensor host = source.read(name).value();
    return {host.bytes.begin(), host.bytes.end()};
  }

  static Bytes to_q8_0(const tensor::TensorInfo& info, const Bytes& bytes) {
    std::vector<float> values(static_cast<std::size_t>(tensor::element_count(info.shape)));
    ops::widen({info, bytes, nullptr}, 0, static_cast<std::int64_t>(values.size()), values.data());
    tensor::TensorInfo blocks = info;
    blocks.dtype = tensor::DType::kQ8_0;
    Bytes out(static_cast<std::size_t>(blocks.bytes()));
    tensor::quantize(blocks.dtype, values.data(), static_cast<std::int64_t>(values.size()),
                     out.data());
    return out;
  }

  void put(tensor::TensorInfo info, Bytes bytes) {
    if (quantized_ && is_expert(info.name)) {
      bytes = to_q8_0(info, bytes);
      info.dtype = tensor::DType::kQ8_0;
    }
    MESH_CHECK(info.bytes() == bytes.size(), "{} bytes of {}", bytes.size(), info.name);
    const std::string name = info.name;
    tensors_[name] = {std::move(info), std::move(bytes)};
  }

  void stack(const MoeSpec& moe, const formats::TensorSource& source, const std::string& prefix,
             ExpertLayout layout) {
    const bool fused = layout == ExpertLayout::kFused;
    const std::vector<std::vector<const char*>> groups =
        fused ? std::vector<std::vector<const char*>>{{"gate_proj", "up_proj"}, {"down_proj"}}
              : std::vector<std::vector<const char*>>{{"gate_proj"}, {"up_proj"}, {"down_proj"}};
    for (const auto& kinds : groups) {
      Bytes bytes;
      tensor::TensorInfo info;
      for (std::uint32_t e = 0; e < moe.experts; ++e)
        for (const char* kind : kinds) {
          const std::string name = fmt::format("{}{}.{}.weight", prefix, e, kind);
          info = *source.find(name);
          const Bytes one = bytes_of(source, name);
          bytes.insert(bytes.end(), one.begin(), one.end());
        }
      info.shape = {moe.experts, info.shape[0] * static_cast<std::int64_t>(kinds.size()),
                    info.shape[1]};
      info.name = !fused              ? fmt::format("{}{}.weight", prefix, kinds[0])
                  : kinds.size() == 2 ? prefix + "gate_up_proj"
                                      : prefix + "down_proj";
      put(std::move(info), std::move(bytes));
    }
  }

  std::map<std::string, std::pair<tensor::TensorInfo, Bytes>> tensors_;
  std::vector<tensor::TensorInfo> infos_;
  bool quantized_ = false;
  mutable std::atomic<std::uint64_t> bytes_read_ = 0;
};

}  // namespace mesh::model
