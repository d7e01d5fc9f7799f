#include <fmt/format.h>

#include <functional>
#include <span>
#include <utility>

#include "base/bytes.h"
#include "base/hash.h"
#include "model/weights.h"
#include "ops/host_weights.h"

namespace mesh::model {
namespace {

// Told of bytes that were read in the midst of a layer; an error ends the load.
using Progressed = std::function<Result<void>(std::uint64_t bytes)>;

// Gives roles to the backend one by one, hashing and counting what is read of them. Vectors are
// read whole; of a matrix the backend reads windows of rows.
class Reader {
 public:
  Reader(const formats::TensorSource& source, ops::Backend& backend)
      : source_(source), backend_(backend) {}

  Result<std::unique_ptr<ops::Vec>> vec(const TensorRole& role) {
    MESH_ASSIGN_OR_RETURN(const tensor::HostTensor host, read(role));
    return backend_.load_vec(host);
  }

  Result<std::unique_ptr<ops::Linear>> linear(const LinearRole& role) {
    std::vector<ops::LinearSource> sources;
    for (const TensorRole& weight : role.weights)
      sources.push_back({.weight = matrix(weight), .bias = std::nullopt});
    for (std::size_t i = 0; i < role.biases.size(); ++i) {
      MESH_ASSIGN_OR_RETURN(sources[i].bias, source_.read(role.biases[i].name));
    }
    MESH_ASSIGN_OR_RETURN(auto linear, backend_.load_linear(sources));
    for (const ops::LinearSource& source : sources)  // behind the weights, as LayerRoles::all()
      if (source.bias) take(source.bias->bytes);
    return linear;
  }

  // A matrix of a router or gate, [rows, cols], as f32: choices between experts are not left to
  // the activations' format of some weight type.
  Result<std::unique_ptr<ops::Linear>> linear_f32(const TensorRole& role, std::int64_t cols) {
    MESH_ASSIGN_OR_RETURN(const tensor::HostTensor host, read(role));
    const std::int64_t count = tensor::element_count(host.info.shape);
    std::vector<float> values(static_cast<std::size_t>(count));
    ops::widen(host, 0, count, values.data());
    const ops::LinearSource source{
        .weight =
            tensor::HostTensor{.info = {host.info.name, tensor::DType::kF32, {count / cols, cols}},
                               .bytes = std::as_bytes(std::span(values)),
                               .owner = nullptr},
        .bias = std::nullopt};
    return backend_.load_linear({&source, 1});
  }

  // `progressed` is called after each expert but the last.
  Result<std::unique_ptr<ops::Experts>> experts(const MoeRoles& moe, const Progressed& progressed) {
    return backend_.load_experts(moe.shape, [&](std::int64_t index) -> Result<ops::ExpertSource> {
      if (index > 0) MESH_RETURN_IF_ERROR(progressed(bytes_));
      return expert(moe, index);
    });
  }

  std::uint64_t bytes() const { return bytes_; }
  std::uint64_t hash() const { return hasher_.digest(); }

 private:
  Result<tensor::HostTensor> read(const TensorRole& role) {
    MESH_ASSIGN_OR_RETURN(tensor::HostTensor host, source_.read(role.name));
    take(host.bytes);
    return host;
  }

  void take(std::span<const std::byte> bytes) {
    hasher_.update(bytes);
    bytes_ += bytes.size();
  }

  // Rows of `role`, from byte `offset` of the tensor on, as a matrix.
  ops::MatrixSource matrix(const TensorRole& role, tensor::TensorInfo info, std::uint64_t offset) {
    const std::size_t row = info.row_bytes();
    return {std::move(info),
            [this, name = role.name, row, offset](std::int64_t first, std::span<std::byte> out) {
              return source_.read_part(name, offset + static_cast<std::uint64_t>(first) * row, out);
            },
            [this](std::span<const std::byte> rows) { take(rows); }};
  }
  ops::MatrixSource matrix(const TensorRole& role) {
    return matrix(role, *source_.find(role.name), 0);
  }

  ops::ExpertSource expert(const MoeRoles& moe, std::int64_t index) {
    const auto at = static_cast<std::size_t>(index);
    const auto& roles = moe.experts;
    if (moe.layout == ExpertLayout::kSeparate)
      return {matrix(roles[3 * at]), matrix(roles[3 * at + 1]), matrix(roles[3 * at + 2])};
    const std::int64_t inner = moe.shape.intermediate, hidden = moe.shape.hidden;
    if (moe.layout == ExpertLayout::kStacked)
      return {slice(roles[0], index, inner), slice(roles[1], index, inner),
              slice(roles[2], index, hidden)};
    return {slice(roles[0], 2 * index, inner), slice(roles[0], 2 * index + 1, inner),
            slice(roles[1], index, hidden)};
  }

  // Matrix `index` of `rows` rows each of a stacked tensor [count, out, in].
  ops::MatrixSource slice(const TensorRole& role, std::int64_t index, std::int64_t rows) {
    const tensor::TensorInfo& whole = *source_.find(role.name);
    tensor::TensorInfo info{
        fmt::format("{}[{}]", role.name, index), whole.dtype, {rows, whole.shape.back()}};
    const std::uint64_t offset = info.bytes() * static_cast<std::uint64_t>(index);
    return matrix(role, std::move(info), offset);
  }

  const formats::TensorSource& source_;
  ops::Backend& backend_;
  Hasher hasher_;
  std::uint64_t bytes_ = 0;
};

Result<std::shared_ptr<const LayerWeights>> load_layer(const LayerRoles& roles,
                                                       const formats::TensorSource& source,
                                                       ops::Backend& backend,
                                                       const Progressed& progressed) {
  Reader reader(source, backend);
  auto layer = std::make_shared<LayerWeights>();
  MESH_ASSIGN_OR_RETURN(layer->norm1, reader.vec(roles.norm1));
  MESH_ASSIGN_OR_RETURN(layer->qkv, reader.linear(roles.qkv));
  if (roles.q_norm) {
    MESH_ASSIGN_OR_RETURN(layer->q_norm, reader.vec(*roles.q_norm));
  }
  if (roles.k_norm) {
    MESH_ASSIGN_OR_RETURN(layer->k_norm, reader.vec(*roles.k_norm));
  }
  MESH_ASSIGN_OR_RETURN(layer->o, reader.linear(roles.o));
  MESH_ASSIGN_OR_RETURN(layer->norm2, reader.vec(roles.norm2));
  if (roles.moe) {
    MESH_ASSIGN_OR_RETURN(layer->router,
                          reader.linear_f32(roles.moe->router, roles.moe->shape.hidden));
    MESH_ASSIGN_OR_RETURN(layer->experts, reader.experts(*roles.moe, progressed));
  }
  if (!roles.gate_up.weights.empty()) {
    MESH_ASSIGN_OR_RETURN(layer->gate_up, reader.linear(roles.gate_up));
    MESH_ASSIGN_OR_RETURN(layer->down, reader.linear(roles.down));
  }
  if (roles.moe && roles.moe->shared_gate) {
    MESH_ASSIGN_OR_RETURN(layer->shared_gate,
                          reader.linear_f32(*roles.moe->shared_gate, roles.moe->shape.hidden));
  }
  layer->source_bytes = reader.bytes();
  layer->source_hash = reader.hash();
  return std::shared_ptr<const LayerWeights>(std::move(layer));
}

// One load: what is shared with the old stage, what has been read, and who wants to know.
class Loading {
 public:
  Loading(const ModelSpec& spec, const formats::TensorSource& source, ops::Backend& backend,
          LayerRange range, const LoadOptions& options)
      : spec_(spec), source_(source), backend_(backend), options_(options) {
    stage_.range = range;
  }

  Result<StageWeights> run(const TensorTable& table) {
    plan(table);
    if (table.embedding && !stage_.embedding) {
      MESH_ASSIGN_OR_RETURN(stage_.embedding, read_linear(*table.embedding));
    }
    for (std::uint32_t layer = stage_.range.begin; layer < stage_.range.end; ++layer)
      MESH_RETURN_IF_ERROR(take_layer(layer, table.layers[layer - stage_.range.begin]));
    if (table.final_norm && !stage_.final_norm) {
      MESH_ASSIGN_OR_RETURN(stage_.final_norm, read_vec(*table.final_norm));
    }
    if (table.head && !stage_.head) {
      MESH_ASSIGN_OR_RETURN(stage_.head, read_linear(*table.head));
    }
    return std::move(stage_);
  }

 private:
  std::shared_ptr<const LayerWeights> held_layer(std::uint32_t layer) const {
    const StageWeights* old = options_.reuse;
    return old != nullptr && old->range.contains(layer) ? old->layers[layer - old->range.begin]
                                                        : nullptr;
  }

  // Takes over the ends of the old stage and sums up what is left to read.
  void plan(const TensorTable& table) {
    const StageWeights* old = options_.reuse;
    if (old != nullptr) {
      if (table.embedding) stage_.embedding = old->embedding;
      if (table.final_norm) stage_.final_norm = old->final_norm;
      if (table.head) stage_.head = old->head;
    }
    for (const TensorRole& role : table.all())
      stage_.source_bytes += source_.find(role.name)->bytes();
    total_ = stage_.source_bytes;
    const auto already = [&](const std::optional<TensorRole>& role, bool is_held) {
      if (role && is_held) total_ -= source_.find(role->name)->bytes();
    };
    already(table.embedding, stage_.embedding != nullptr);
    already(table.final_norm, stage_.final_norm != nullptr);
    already(table.head, stage_.head != nullptr);
    for (std::uint32_t layer = stage_.range.begin; layer < stage_.range.end; ++layer)
      if (held_layer(layer) != nullptr) total_ -= layer_bytes(spec_, source_, layer);
  }

  Result<void> take_layer(std::uint32_t layer, const LayerRoles& roles) {
    if (auto held = held_layer(layer)) {
      stage_.layers.push_back(std::move(held));
      return {};
    }
    MESH_RETURN_IF_ERROR(check_cancelled());
    const std::uint64_t before = done_;
    auto loaded = load_layer(roles, source_, backend_, [&](std::uint64_t bytes) {
      report(before + bytes - done_);
      return check_cancelled();
    });
    if (!loaded.ok()) return loaded.error().with_context(fmt::format("loading layer {}", layer));
    report(before + (*loaded)->source_bytes - done_);
    stage_.layers.push_back(std::move(loaded).value());
    return {};
  }

  Result<std::shared_ptr<const ops::Linear>> read_linear(const TensorRole& role) {
    MESH_RETURN_IF_ERROR(check_cancelled());
    Reader reader(source_, backend_);
    auto loaded = reader.linear({.weights = {role}, .biases = {}});
    if (!loaded.ok()) return loaded.error().with_context("loading " + role.name);
    report(reader.bytes());
    return std::shared_ptr<const ops::Linear>(std::move(loaded).value());
  }

  Result<std::shared_ptr<const ops::Vec>> read_vec(const TensorRole& role) {
    Reader reader(source_, backend_);
    auto loaded = reader.vec(role);
    if (!loaded.ok()) return loaded.error().with_context("loading " + role.name);
    report(reader.bytes());
    return std::shared_ptr<const ops::Vec>(std::move(loaded).value());
  }

  Result<void> check_cancelled() const {
    if (options_.cancelled && options_.cancelled())
      return Error(Code::kCancelled, "loading was stopped");
    return {};
  }

  void report(std::uint64_t bytes) {
    done_ += bytes;
    if (options_.progress) options_.progress(done_, total_);
  }

  const ModelSpec& spec_;
  const formats::TensorSource& source_;
  ops::Backend& backend_;
  const LoadOptions& options_;
  StageWeights stage_;
  std::uint64_t done_ = 0;
  std::uint64_t total_ = 0;
};

template <typename T>
std::uint64_t bytes_of(const T& weights) {
  return weights == nullptr ? 0 : weights->bytes();
}

}  // namespace

std::uint64_t LayerWeights::device_bytes() const {
  return bytes_of(norm1) + bytes_of(qkv) + bytes_of(q_norm) + bytes_of(k_norm) + bytes_of(o) +
         bytes_of(norm2) + bytes_of(router) + bytes_of(experts) + bytes_of(gate_up) +
         bytes_of(down) + bytes_of(shared_gate);
}

std::uint64_t StageWeights::device_bytes() const {
  std::uint64_t bytes = bytes_of(embedding) + bytes_of(final_norm) + bytes_of(head);
  for (const auto& layer : layers) bytes += layer->device_bytes();
  return bytes;
}

std::vector<std::uint64_t> StageWeights::layer_hashes() const {
  std::vector<std::uint64_t> hashes;
  for (const auto& layer : layers) hashes.push_back(layer->source_hash);
  return hashes;
}

Result<StageWeights> load_stage(const ModelSpec& spec, const formats::TensorSource& source,
                                ops::Backend& backend, LayerRange range,
                                const LoadOptions& options) {
  MESH_ASSIGN_OR_RETURN(const TensorTable table, tensor_table(spec, source, range));
  return Loading(spec, source, backend, range, options).run(table);
}

}  // namespace mesh::model
