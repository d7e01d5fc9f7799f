#include "formats/gguf_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>
#include <vector>

#include "base/limits.h"

namespace mesh::formats {
namespace {

using namespace gguf_architecture;

constexpr unsigned kMoe = kQwen2Moe | kQwen3Moe;
constexpr unsigned kNormed = kQwen3 | kQwen3Moe;
constexpr unsigned kAll = kLlama | kQwen2 | kQwen3 | kMoe;
constexpr std::string_view kFrequencies = "rope_freqs.weight";

struct Name {
  std::string_view file, hub;
  unsigned architectures = kAll;
};

constexpr Name kModelNames[] = {
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
};

// Behind "blk.N." and "model.layers.N.".
constexpr Name kLayerNames[] = {
    {"attn_norm.weight", "input_layernorm.weight"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_q.bias", "self_attn.q_proj.bias"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_k.bias", "self_attn.k_proj.bias"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_v.bias", "self_attn.v_proj.bias"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"attn_output.bias", "self_attn.o_proj.bias", kLlama | kNormed},
    {"attn_q_norm.weight", "self_attn.q_norm.weight", kNormed},
    {"attn_k_norm.weight", "self_attn.k_norm.weight", kNormed},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
    {"ffn_gate_inp.weight", "mlp.gate.weight", kMoe},
    {"ffn_gate_exps.weight", "mlp.experts.gate_proj.weight", kMoe},
    {"ffn_up_exps.weight", "mlp.experts.up_proj.weight", kMoe},
    {"ffn_down_exps.weight", "mlp.experts.down_proj.weight", kMoe},
    {"ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight", kQwen2Moe},
    {"ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight", kQwen2Moe},
    {"ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight", kQwen2Moe},
    {"ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight", kQwen2Moe},
};

std::string_view find_name(std::span<const Name> names, std::string_view file,
                           unsigned architecture) {
  for (const Name& name : names)
    if (name.file == file && (name.architectures & architecture) != 0) return name.hub;
  return {};
}

// The number in "blk.N." and what follows it; a number is empty if the name has not that form.
struct LayerName {
  std::string_view number, rest;
};

LayerName split_layer(std::string_view name) {
  constexpr std::string_view kPrefix = "blk.";
  constexpr std::size_t kDigits = 4;  // of limits::kLayers
  if (name.substr(0, kPrefix.size()) != kPrefix) return {};
  name.remove_prefix(kPrefix.size());
  const std::size_t dot = name.find('.');
  if (dot == name.npos) return {};
  const std::string_view number = name.substr(0, dot);
  const bool is_number =
      !number.empty() && number.size() <= kDigits && (number == "0" || number.front() != '0') &&
      std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!is_number) return {};
  return {number, name.substr(dot + 1)};
}

bool has_paired_rows(std::string_view name) {
  const std::string_view rest = split_layer(name).rest;
  return rest == "attn_q.weight" || rest == "attn_q.bias" || rest == "attn_k.weight" ||
         rest == "attn_k.bias";
}

class HubTensors final : public TensorSource {
 public:
  HubTensors(std::shared_ptr<TensorSource> file, std::uint64_t head_dim)
      : file_(std::move(file)), head_dim_(head_dim) {}

  Result<void> add(const tensor::TensorInfo& info, std::string hub, bool paired) {
    Entry entry{.info = info, .file_name = info.name, .row_bytes = 0};
    entry.info.name = std::move(hub);
    if (split_layer(info.name).rest == "ffn_gate_inp_shexp.weight" && info.shape.size() == 1)
      entry.info.shape.insert(entry.info.shape.begin(), 1);
    if (paired) {
      const std::int64_t rows = info.shape.empty() ? 0 : info.shape.front();
      if (rows <= 0 || static_cast<std::uint64_t>(rows) % head_dim_ != 0)
        return Error(Code::kCorrupt,
                     fmt::format("{} is {}: its rows are not whole heads of {}", info.name,
                                 tensor::shape_text(info.shape), head_dim_));
      entry.row_bytes = info.bytes() / static_cast<std::uint64_t>(rows);
    }
    entries_.push_back(std::move(entry));
    return {};
  }

  void finish() {
    std::sort(entries_.begin(), entries_.end(),
              [](const Entry& a, const Entry& b) { return a.info.name < b.info.name; });
    for (const Entry& entry : entries_) infos_.push_back(entry.info);
  }

  const std::vector<tensor::TensorInfo>& tensors() const override { return infos_; }
  std::uint64_t bytes_read() const override { return bytes_read_; }

  Result<void> read_part(const std::string& name, std::uint64_t offset,
                         std::span<std::byte> out) const override {
    MESH_ASSIGN_OR_RETURN(const tensor::TensorInfo* info,
                          check_part(*this, name, offset, out.size()));
    const Entry& entry = entries_[static_cast<std::size_t>(info - infos_.data())];
    if (entry.row_bytes == 0) {
      MESH_RETURN_IF_ERROR(file_->read_part(entry.file_name, offset, out));
    } else {
      MESH_RETURN_IF_ERROR(read_paired(entry, offset, out));
    }
    bytes_read_ += out.size();
    return {};
  }

 private:
  struct Entry {
    tensor::TensorInfo info;  // as the hub has it
    std::string file_name;
    std::uint64_t row_bytes = 0;  // of q and k in the file's order; 0: the hub's order
  };

  // Where row `row` of the hub's order lies in the file.
  std::uint64_t row_in_file(std::uint64_t row) const {
    const std::uint64_t in_head = row % head_dim_;
    const std::uint64_t half = head_dim_ / 2;
    return row - in_head + 2 * (in_head % half) + in_head / half;
  }

  Result<void> read_paired(const Entry& entry, std::uint64_t offset,
                           std::span<std::byte> out) const {
    // Up to so many rows of a head are read one by one: samples of a large tensor stay cheap.
    constexpr std::uint64_t kFewRows = 4;
    const std::uint64_t width = entry.row_bytes;
    std::vector<std::byte> run;
    while (!out.empty()) {
      const std::uint64_t head = offset / (head_dim_ * width) * head_dim_;
      const std::uint64_t count =
          std::min<std::uint64_t>(out.size(), (head + head_dim_) * width - offset);
      // Rows of one half of a head are every second row of a run; those of both are the head.
      const std::uint64_t first = offset / width, last = (offset + count - 1) / width;
      const std::uint64_t half = head + head_dim_ / 2;
      const bool is_one_half = (first < half) == (last < half);
      const std::uint64_t run_begin = is_one_half ? row_in_file(first) : head;
      const std::uint64_t run_end = is_one_half ? row_in_file(last) + 1 : head + head_dim_;
      const bool few = count <= kFewRows * width;
      if (!few) {
        run.resize(static_cast<std::size_t>((run_end - run_begin) * width));
        MESH_RETURN_IF_ERROR(file_->read_part(entry.file_name, run_begin * width, run));
      }
      for (const std::uint64_t end = offset + count; offset < end;) {
        const std::uint64_t row = offset / entry.row_bytes;
        const std::uint64_t in_row = offset % entry.row_bytes;
        const auto part =
            out.first(static_cast<std::size_t>(std::min(end - offset, entry.row_bytes - in_row)));
        const std::uint64_t from = row_in_file(row) * entry.row_bytes + in_row;
        if (few) {
          MESH_RETURN_IF_ERROR(file_->read_part(entry.file_name, from, part));
        } else {
          std::memcpy(part.data(), run.data() + (from - run_begin * width), part.size());
        }
        out = out.subspan(part.size());
        offset += part.size();
      }
    }
    return {};
  }

  std::shared_ptr<TensorSource> file_;
  std::uint64_t head_dim_;
  std::vector<Entry> entries_;
  std::vector<tensor::TensorInfo> infos_;  // of the entries, in their order
  mutable std::atomic<std::uint64_t> bytes_read_ = 0;
};

}  // namespace

std::string gguf_hub_name(std::string_view name, unsigned architecture) {
  if (const auto hub = find_name(kModelNames, name, architecture); !hub.empty())
    return std::string(hub);
  const LayerName layer = split_layer(name);
  if (layer.number.empty()) return {};
  const std::string_view hub = find_name(kLayerNames, layer.rest, architecture);
  return hub.empty() ? std::string() : fmt::format("model.layers.{}.{}", layer.number, hub);
}

Result<std::shared_ptr<TensorSource>> gguf_hub_tensors(std::shared_ptr<TensorSource> file,
                                                       unsigned architecture,
                                                       std::uint64_t head_dim) {
  const std::vector<tensor::TensorInfo>& table = file->tensors();
  auto hub = std::make_shared<HubTensors>(file, head_dim);
  for (const tensor::TensorInfo& info : table) {
    if (info.name == kFrequencies && architecture == kLlama) continue;
    std::string name = gguf_hub_name(info.name, architecture);
    if (name.empty())
      return Error(
          Code::kUnsupported,
          fmt::format("tensor {} is not one that this architecture is known to have", info.name));
    MESH_RETURN_IF_ERROR(
        hub->add(info, std::move(name), architecture == kLlama && has_paired_rows(info.name)));
  }
  hub->finish();
  return std::shared_ptr<TensorSource>(std::move(hub));
}

}  // namespace mesh::formats
