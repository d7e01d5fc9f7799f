#include "backends/ref/ref_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <set>

#include "base/check.h"
#include "base/hash.h"
#include "ops/exact_math.h"
#include "ops/host_weights.h"

namespace mesh::backends::ref {
namespace {

using ops::DType;
using ops::Tensor;

class RefLinear final : public ops::Linear {
 public:
  RefLinear(std::span<const ops::LinearSource> sources, const ops::StackedShape& shape)
      : in_(shape.in), out_(shape.out), bias(ops::stacked_bias(sources, shape.out)) {
    weight.resize(static_cast<std::size_t>(in_ * out_));
  }
  // Errors: those of reading.
  static Result<RefLinear> load(std::span<const ops::LinearSource> sources) {
    MESH_ASSIGN_OR_RETURN(const ops::StackedShape shape, ops::check_sources(sources));
    RefLinear linear(sources, shape);
    float* at = linear.weight.data();
    for (const ops::LinearSource& source : sources) {
      MESH_RETURN_IF_ERROR(
          ops::for_windows(source.weight, [&](std::int64_t, const ops::HostTensor& rows) {
            const std::int64_t count = rows.info.shape[0] * shape.in;
            ops::widen(rows, 0, count, at);
            at += count;
          }));
    }
    return linear;
  }
  std::int64_t in() const override { return in_; }
  std::int64_t out() const override { return out_; }
  std::uint64_t bytes() const override { return (weight.size() + bias.size()) * sizeof(float); }

 private:
  std::int64_t in_, out_;

 public:
  std::vector<float> weight;  // [out, in]
  std::vector<float> bias;    // [out] or empty
};

class RefVec final : public ops::Vec {
 public:
  explicit RefVec(const ops::HostTensor& source)
      : values(static_cast<std::size_t>(source.info.shape[0])) {
    ops::widen(source, 0, source.info.shape[0], values.data());
  }
  std::int64_t size() const override { return static_cast<std::int64_t>(values.size()); }
  std::uint64_t bytes() const override { return values.size() * sizeof(float); }
  std::vector<float> values;
};

class RefExperts final : public ops::Experts {
 public:
  explicit RefExperts(const ops::ExpertsShape& shape) : shape_(shape) {}
  std::int64_t experts() const override { return shape_.experts; }
  std::int64_t hidden() const override { return shape_.hidden; }
  std::int64_t intermediate() const override { return shape_.intermediate; }
  std::uint64_t bytes() const override {
    std::uint64_t sum = 0;
    for (const Expert& e : list) sum += e.gate.bytes() + e.up.bytes() + e.down.bytes();
    return sum;
  }
  struct Expert {
    RefLinear gate, up, down;
  };
  std::vector<Expert> list;

 private:
  ops::ExpertsShape shape_;
};

// K and V as f32 [page][layer][kv head][slot][2][head_dim], rounded to the cache's type when
// written.
class RefKvPool final : public ops::KvPool {
 public:
  RefKvPool(const ops::KvLayout& layout, std::uint32_t pages, std::vector<float> memory)
      : layout_(layout), pages_(pages), memory_(std::move(memory)) {}
  static std::uint64_t floats_per_page(const ops::KvLayout& layout) {
    return std::uint64_t{2} * ops::kPageTokens * layout.layers * layout.kv_heads * layout.head_dim;
  }
  std::uint32_t pages() const override { return pages_; }
  std::uint64_t bytes_per_page() const override { return floats_per_page(layout_) * sizeof(float); }
  void fill_with_nan() override {
    std::fill(memory_.begin(), memory_.end(), std::numeric_limits<float>::quiet_NaN());
  }
  float* k(PageId page, int layer, int head, int slot) {
    const std::uint64_t at =
        (std::uint64_t{page.value} * layout_.layers + static_cast<std::uint64_t>(layer)) *
        layout_.kv_heads;
    return memory_.data() + ((at + static_cast<std::uint64_t>(head)) * ops::kPageTokens +
                             static_cast<std::uint64_t>(slot)) *
                                2 * layout_.head_dim;
  }
  float* v(PageId page, int layer, int head, int slot) {
    return k(page, layer, head, slot) + layout_.head_dim;
  }
  const ops::KvLayout& layout() const { return layout_; }

 private:
  ops::KvLayout layout_;
  std::uint32_t pages_;
  std::vector<float> memory_;
};

float at(const Tensor& x, std::int64_t row, std::int64_t col) {
  const std::int64_t index = row * x.cols + col;
  return x.dtype == DType::kBF16
             ? tensor::bf16_to_f32(static_cast<const std::uint16_t*>(x.data)[index])
             : static_cast<const float*>(x.data)[index];
}

void put(Tensor& x, std::int64_t row, std::int64_t col, float value) {
  const std::int64_t index = row * x.cols + col;
  if (x.dtype == DType::kBF16)
    static_cast<std::uint16_t*>(x.data)[index] = tensor::f32_to_bf16(value);
  else
    static_cast<float*>(x.data)[index] = value;
}

Tensor make(DType dtype, std::int64_t rows, std::int64_t cols) {
  auto bytes = std::make_shared<std::vector<float>>(static_cast<std::size_t>(rows * cols));
  Tensor tensor;
  tensor.dtype = dtype;
  tensor.rows = rows;
  tensor.cols = cols;
  tensor.data = bytes->data();
  tensor.node = std::move(bytes);
  return tensor;
}

std::size_t byte_size(const Tensor& x) {
  return static_cast<std::size_t>(x.rows * x.cols) * tensor::dtype_bytes(x.dtype);
}

// (x / rms) · w over n values, in f64.
void normalise(double* x, std::int64_t n, const std::vector<float>& w, double eps) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  const double inverse = 1.0 / std::sqrt(sum / static_cast<double>(n) + eps);
  for (std::int64_t i = 0; i < n; ++i)
    x[i] = x[i] * inverse * static_cast<double>(w[static_cast<std::size_t>(i)]);
}

void rotate(double* x, const ops::RopeTable& rope, double position) {
  const int pairs = rope.dims() / 2;
  for (int i = 0; i < pairs; ++i) {
    const ops::SinCos angle =
        ops::exact_sincos(position * rope.inv_freq[static_cast<std::size_t>(i)]);
    double& x0 = x[rope.interleaved ? 2 * i : i];
    double& x1 = x[rope.interleaved ? 2 * i + 1 : i + pairs];
    const double a = x0, b = x1;
    x0 = (a * angle.cos - b * angle.sin) * rope.factor;
    x1 = (b * angle.cos + a * angle.sin) * rope.factor;
  }
}

// One output of a product, without bias.
double dot(const RefLinear& w, std::int64_t out, const double* x) {
  const float* weight = w.weight.data() + out * w.in();
  double sum = 0;
  for (std::int64_t k = 0; k < w.in(); ++k) sum += x[k] * static_cast<double>(weight[k]);
  return sum;
}

double sigmoid(double x) {
  return 1.0 / (1.0 + ops::exact_exp(-x));
}

// Weight of each expert for one row of logits, 0 where it is not chosen.
std::vector<double> expert_weights(const std::vector<double>& logits,
                                   const ops::RoutingSpec& routing) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  std::vector<double> p;
  double sum = 0;
  for (const double logit : logits) {
    p.push_back(ops::exact_exp(logit - largest));
    sum += p.back();
  }
  std::vector<std::size_t> order(p.size());
  for (std::size_t e = 0; e < order.size(); ++e) order[e] = e;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return p[a] > p[b]; });
  const auto chosen = static_cast<std::size_t>(routing.top_k);
  if (routing.normalise) {
    sum = 0;
    for (std::size_t i = 0; i < chosen; ++i) sum += p[order[i]];
  }
  std::vector<double> weights(p.size(), 0.0);
  for (std::size_t i = 0; i < chosen; ++i) weights[order[i]] = p[order[i]] / sum;
  return weights;
}

class RefStep final : public ops::Step {
 public:
  RefStep(RefKvPool* kv, const ops::Batch& batch, std::set<ops::KernelUse>& uses)
      : kv_(kv), batch_(batch), uses_(uses) {}

  Tensor embed(const ops::Linear& table) override {
    note("embed");
    const auto& w = static_cast<const RefLinear&>(table);
    MESH_CHECK(w.in() == batch_.hidden, "embedding of {} for hidden {}", w.in(), batch_.hidden);
    Tensor out = make(batch_.residual, static_cast<std::int64_t>(batch_.rows()), w.in());
    for (std::int64_t row = 0; row < out.rows; ++row) {
      const TokenId token = batch_.tokens[static_cast<std::size_t>(row)];
      MESH_CHECK(token >= 0 && token < w.out(), "token {} of {}", token, w.out());
      for (std::int64_t k = 0; k < w.in(); ++k)
        put(out, row, k, w.weight[static_cast<std::size_t>(token * w.in() + k)]);
    }
    return out;
  }

  Tensor residual_in() override {
    Tensor out = make(batch_.residual, static_cast<std::int64_t>(batch_.rows()), batch_.hidden);
    MESH_CHECK(batch_.residual_in.size() == byte_size(out), "{} bytes of residual",
               batch_.residual_in.size());
    std::memcpy(out.data, batch_.residual_in.data(), byte_size(out));
    return out;
  }

  Tensor rms_norm(const Tensor& x, const ops::Vec& w, float eps) override {
    note("rms_norm");
    MESH_CHECK(w.size() == x.cols, "norm of {} over rows of {}", w.size(), x.cols);
    Tensor out = make(DType::kF32, x.rows, x.cols);
    std::vector<double> row(static_cast<std::size_t>(x.cols));
    for (std::int64_t r = 0; r < x.rows; ++r) {
      for (std::int64_t k = 0; k < x.cols; ++k) row[static_cast<std::size_t>(k)] = at(x, r, k);
      normalise(row.data(), x.cols, static_cast<const RefVec&>(w).values, eps);
      for (std::int64_t k = 0; k < x.cols; ++k)
        put(out, r, k, static_cast<float>(row[static_cast<std::size_t>(k)]));
    }
    return out;
  }

  Tensor linear(const Tensor& x, const ops::Linear& w_any) override {
    note("linear");
    const auto& w = static_cast<const RefLinear&>(w_any);
    MESH_CHECK(w.in() == x.cols, "product of [{}, {}] with [{}, {}]", x.rows, x.cols, w.out(),
               w.in());
    Tensor out = make(DType::kF32, x.rows, w.out());
    for (std::int64_t r = 0; r < x.rows; ++r)
      for (std::int64_t o = 0; o < w.out(); ++o) {
        const float* weight = w.weight.data() + o * w.in();
        double sum = 0;
        for (std::int64_t k = 0; k < w.in(); ++k)
          sum += static_cast<double>(at(x, r, k)) * static_cast<double>(weight[k]);
        if (!w.bias.empty()) sum += static_cast<double>(w.bias[static_cast<std::size_t>(o)]);
        put(out, r, o, static_cast<float>(sum));
      }
    return out;
  }

  Tensor attention(const ops::AttentionSpec& spec, const Tensor& qkv) override {
    note("attention");
    MESH_CHECK(kv_ != nullptr, "attention without a KV pool");
    MESH_CHECK(qkv.cols == (std::int64_t{spec.heads} + 2 * spec.kv_heads) * spec.head_dim,
               "qkv of {} columns", qkv.cols);
    Tensor out = make(DType::kF32, qkv.rows, std::int64_t{spec.heads} * spec.head_dim);
    for (std::size_t s = 0; s < batch_.sequences(); ++s)
      for (std::int32_t row = batch_.row_start[s]; row < batch_.row_start[s + 1]; ++row)
        write_row(spec, qkv, s, row);
    for (std::size_t s = 0; s < batch_.sequences(); ++s)
      for (std::int32_t row = batch_.row_start[s]; row < batch_.row_start[s + 1]; ++row)
        for (int head = 0; head < spec.heads; ++head) attend(spec, qkv, s, row, head, out);
    return out;
  }

  Tensor swiglu(const Tensor& gate_up) override {
    note("swiglu");
    const std::int64_t n = gate_up.cols / 2;
    Tensor out = make(DType::kF32, gate_up.rows, n);
    for (std::int64_t r = 0; r < gate_up.rows; ++r)
      for (std::int64_t k = 0; k < n; ++k) {
        const double gate = at(gate_up, r, k);
        put(out, r, k,
            static_cast<float>(gate / (1.0 + ops::exact_exp(-gate)) *
                               static_cast<double>(at(gate_up, r, n + k))));
      }
    return out;
  }

  Tensor experts(const Tensor& x, const Tensor& router_logits, const ops::Experts& weights,
                 const ops::RoutingSpec& routing) override {
    note("experts");
    const auto& experts = static_cast<const RefExperts&>(weights);
    MESH_CHECK(x.cols == weights.hidden() && router_logits.rows == x.rows &&
                   router_logits.cols == weights.experts() && routing.top_k >= 1 &&
                   routing.top_k <= weights.experts(),
               "rows [{}, {}] with logits [{}, {}], {} of {} experts of {}", x.rows, x.cols,
               router_logits.rows, router_logits.cols, routing.top_k, weights.experts(),
               weights.hidden());
    Tensor out = make(DType::kF32, x.rows, x.cols);
    std::vector<double> row(static_cast<std::size_t>(x.cols)), logits(experts.list.size());
    std::vector<double> inner(static_cast<std::size_t>(weights.intermediate()));
    for (std::int64_t r = 0; r < x.rows; ++r) {
      for (std::int64_t k = 0; k < x.cols; ++k) row[static_cast<std::size_t>(k)] = at(x, r, k);
      for (std::size_t e = 0; e < logits.size(); ++e)
        logits[e] = at(router_logits, r, static_cast<std::int64_t>(e));
      const std::vector<double> share = expert_weights(logits, routing);
      std::vector<double> sum(row.size(), 0.0);
      for (std::size_t e = 0; e < logits.size(); ++e) {
        if (share[e] == 0) continue;
        const RefExperts::Expert& expert = experts.list[e];
        for (std::size_t i = 0; i < inner.size(); ++i) {
          const double gate = dot(expert.gate, static_cast<std::int64_t>(i), row.data());
          inner[i] =
              gate * sigmoid(gate) * dot(expert.up, static_cast<std::int64_t>(i), row.data());
        }
        for (std::size_t k = 0; k < sum.size(); ++k)
          sum[k] += share[e] * dot(expert.down, static_cast<std::int64_t>(k), inner.data());
      }
      for (std::int64_t k = 0; k < x.cols; ++k)
        put(out, r, k, static_cast<float>(sum[static_cast<std::size_t>(k)]));
    }
    return out;
  }

  void add_gated(Tensor& y, const Tensor& shared, const Tensor& gate_logit) override {
    note("add_gated");
    MESH_CHECK(y.rows == shared.rows && y.cols == shared.cols && gate_logit.rows == y.rows &&
                   gate_logit.cols == 1,
               "[{}, {}] with gate [{}, {}] added to [{}, {}]", shared.rows, shared.cols,
               gate_logit.rows, gate_logit.cols, y.rows, y.cols);
    for (std::int64_t r = 0; r < y.rows; ++r) {
      const double gate = sigmoid(at(gate_logit, r, 0));
      for (std::int64_t k = 0; k < y.cols; ++k)
        put(y, r, k,
            static_cast<float>(static_cast<double>(at(y, r, k)) +
                               gate * static_cast<double>(at(shared, r, k))));
    }
  }

  void add_residual(Tensor& residual, const Tensor& y) override {
    note("add_residual");
    MESH_CHECK(residual.rows == y.rows && residual.cols == y.cols, "[{}, {}] added to [{}, {}]",
               y.rows, y.cols, residual.rows, residual.cols);
    for (std::int64_t r = 0; r < y.rows; ++r)
      for (std::int64_t k = 0; k < y.cols; ++k)
        put(residual, r, k, at(residual, r, k) + at(y, r, k));
  }

  Tensor take_rows(const Tensor& x, std::span<const std::int32_t> rows) override {
    note("take_rows");
    Tensor out = make(x.dtype, static_cast<std::int64_t>(rows.size()), x.cols);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      MESH_CHECK(rows[i] >= 0 && rows[i] < x.rows, "row {} of {}", rows[i], x.rows);
      for (std::int64_t k = 0; k < x.cols; ++k)
        put(out, static_cast<std::int64_t>(i), k, at(x, rows[i], k));
    }
    return out;
  }

  std::span<const std::byte> read(const Tensor& x) override {
    read_.push_back(x.node);
    return {static_cast<const std::byte*>(x.data), byte_size(x)};
  }

 private:
  void note(const char* op) { uses_.insert({op, "ref", ""}); }

  PageId page_of(std::size_t sequence, std::int32_t position) const {
    return batch_
        .pages[static_cast<std::size_t>(batch_.page_start[sequence] + position / ops::kPageTokens)];
  }

  // One head of a row after norm and rotation.
  std::vector<double> head_values(const ops::AttentionSpec& spec, const Tensor& qkv,
                                  std::int32_t row, int head, const ops::Vec* norm) const {
    std::vector<double> x(static_cast<std::size_t>(spec.head_dim));
    for (int d = 0; d < spec.head_dim; ++d)
      x[static_cast<std::size_t>(d)] = at(qkv, row, std::int64_t{head} * spec.head_dim + d);
    if (norm != nullptr)
      normalise(x.data(), spec.head_dim, static_cast<const RefVec*>(norm)->values, spec.eps);
    if (spec.rope != nullptr)
      rotate(x.data(), *spec.rope, batch_.positions[static_cast<std::size_t>(row)]);
    return x;
  }

  void write_row(const ops::AttentionSpec& spec, const Tensor& qkv, std::size_t sequence,
                 std::int32_t row) {
    const std::int32_t position = batch_.positions[static_cast<std::size_t>(row)];
    const PageId page = page_of(sequence, position);
    const int slot = position % ops::kPageTokens;
    for (int h = 0; h < spec.kv_heads; ++h) {
      const std::vector<double> k = head_values(spec, qkv, row, spec.heads + h, spec.k_norm);
      float* k_out = kv_->k(page, spec.layer, h, slot);
      float* v_out = kv_->v(page, spec.layer, h, slot);
      const std::int64_t v_col = (std::int64_t{spec.heads} + spec.kv_heads + h) * spec.head_dim;
      for (int d = 0; d < spec.head_dim; ++d) {
        k_out[d] = static_cast<float>(k[static_cast<std::size_t>(d)]);
        v_out[d] = at(qkv, row, v_col + d);
      }
      const auto head_dim = static_cast<std::size_t>(spec.head_dim);
      ops::round_to_kv(kv_->layout().store, {k_out, head_dim});
      ops::round_to_kv(kv_->layout().store, {v_out, head_dim});
    }
  }

  void attend(const ops::AttentionSpec& spec, const Tensor& qkv, std::size_t sequence,
              std::int32_t row, int head, Tensor& out) {
    const std::vector<double> q = head_values(spec, qkv, row, head, spec.q_norm);
    const int kv_head = head / (spec.heads / spec.kv_heads);
    const std::int32_t position = batch_.positions[static_cast<std::size_t>(row)];
    const std::int32_t first = spec.window > 0 ? std::max(0, position - spec.window + 1) : 0;
    std::vector<double> scores;
    const double* sink = nullptr;
    double sink_value = 0;
    if (spec.sinks != nullptr) {
      sink_value = static_cast<const RefVec*>(spec.sinks)->values[static_cast<std::size_t>(head)];
      sink = &sink_value;
    }
    double best = sink == nullptr ? -std::numeric_limits<double>::infinity() : *sink;
    for (std::int32_t p = first; p <= position; ++p) {
      const float* k = kv_->k(page_of(sequence, p), spec.layer, kv_head, p % ops::kPageTokens);
      double score = 0;
      for (int d = 0; d < spec.head_dim; ++d)
        score += q[static_cast<std::size_t>(d)] * static_cast<double>(k[d]);
      scores.push_back(score * static_cast<double>(spec.scale));
      best = std::max(best, scores.back());
    }
    double sum = sink == nullptr ? 0 : ops::exact_exp(*sink - best);
    std::vector<double> o(static_cast<std::size_t>(spec.head_dim), 0.0);
    for (std::int32_t p = first; p <= position; ++p) {
      const float* v = kv_->v(page_of(sequence, p), spec.layer, kv_head, p % ops::kPageTokens);
      const double weight = ops::exact_exp(scores[static_cast<std::size_t>(p - first)] - best);
      sum += weight;
      for (int d = 0; d < spec.head_dim; ++d)
        o[static_cast<std::size_t>(d)] += weight * static_cast<double>(v[d]);
    }
    for (int d = 0; d < spec.head_dim; ++d)
      put(out, row, std::int64_t{head} * spec.head_dim + d,
          static_cast<float>(o[static_cast<std::size_t>(d)] / sum));
  }

  RefKvPool* kv_;
  const ops::Batch& batch_;
  std::set<ops::KernelUse>& uses_;
  std::vector<std::shared_ptr<void>> read_;
};

class RefBackend final : public ops::Backend {
 public:
  ops::BackendInfo info() const override { return {"ref", "ref/1", "", 1, "reference, f64"}; }

  Result<std::unique_ptr<ops::Linear>> load_linear(
      std::span<const ops::LinearSource> fused) override {
    MESH_ASSIGN_OR_RETURN(RefLinear linear, RefLinear::load(fused));
    return std::unique_ptr<ops::Linear>(std::make_unique<RefLinear>(std::move(linear)));
  }
  Result<std::unique_ptr<ops::Vec>> load_vec(const ops::HostTensor& source) override {
    MESH_RETURN_IF_ERROR(ops::check_vector(source, -1));
    return std::unique_ptr<ops::Vec>(std::make_unique<RefVec>(source));
  }
  Result<std::unique_ptr<ops::Experts>> load_experts(const ops::ExpertsShape& shape,
                                                     const ops::ExpertReader& read) override {
    MESH_RETURN_IF_ERROR(ops::check_experts(shape));
    auto experts = std::make_unique<RefExperts>(shape);
    const auto matrix = [](const ops::MatrixSource& host) {
      const ops::LinearSource source{host, std::nullopt};
      return RefLinear::load({&source, 1});
    };
    for (std::int64_t e = 0; e < shape.experts; ++e) {
      MESH_ASSIGN_OR_RETURN(const ops::ExpertSource source, read(e));
      MESH_RETURN_IF_ERROR(ops::check_expert(source, shape));
      MESH_ASSIGN_OR_RETURN(RefLinear gate, matrix(source.gate));
      MESH_ASSIGN_OR_RETURN(RefLinear up, matrix(source.up));
      MESH_ASSIGN_OR_RETURN(RefLinear down, matrix(source.down));
      experts->list.push_back({std::move(gate), std::move(up), std::move(down)});
    }
    return std::unique_ptr<ops::Experts>(std::move(experts));
  }
  Result<std::unique_ptr<ops::KvPool>> make_kv(const ops::KvLayout& layout,
                                               std::uint32_t pages) override {
    if (!ops::is_kv_type(layout.store) || layout.layers == 0 || layout.kv_heads == 0 ||
        layout.head_dim == 0 || pages == 0)
      return Error(Code::kInvalidArgument,
                   fmt::format("KV layout of {} layers, {} heads of {}, {} pages", layout.layers,
                               layout.kv_heads, layout.head_dim, pages));
    const double wanted =
        8.0 * ops::kPageTokens * layout.layers * layout.kv_heads * layout.head_dim * pages;
    constexpr double kBytesMax = 0x1p+36;  // an oracle serves tests; more is a mistake
    if (wanted <= kBytesMax) {
      try {
        std::vector<float> memory(RefKvPool::floats_per_page(layout) * pages);
        return std::unique_ptr<ops::KvPool>(
            std::make_unique<RefKvPool>(layout, pages, std::move(memory)));
      } catch (const std::bad_alloc&) {  // falls through to the error below
      }
    }
    return Error(Code::kResourceExhausted,
                 fmt::format("no memory for {} KV pages: {:.0f} bytes wanted", pages, wanted));
  }
  std::unique_ptr<ops::Step> begin_step(ops::KvPool* kv, const ops::Batch& batch) override {
    return std::make_unique<RefStep>(static_cast<RefKvPool*>(kv), batch, uses_);
  }
  std::vector<ops::KernelUse> kernels_used() const override { return {uses_.begin(), uses_.end()}; }

  // The oracle has one implementation: the elementary functions are what could differ between
  // builds.
  std::uint64_t self_test() const override {
    Hasher hasher;
    for (int i = -700; i <= 700; i += 3) {
      hasher.update_value(ops::exact_exp(i * 0.5));
      hasher.update_value(ops::exact_sin(i * 1234.5));
    }
    return hasher.digest();
  }

 private:
  std::set<ops::KernelUse> uses_;
};

}  // namespace

std::unique_ptr<ops::Backend> make_ref_backend() {
  return std::make_unique<RefBackend>();
}

}  // namespace mesh::backends::ref
