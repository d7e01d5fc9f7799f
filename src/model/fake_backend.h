#pragma once
// For tests: a backend that keeps what it is given and computes nothing.

#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "ops/host_weights.h"
#include "ops/ops.h"

namespace mesh::model::fake {

struct Linear final : ops::Linear {
  std::vector<std::string> names;
  std::int64_t inputs = 0;
  std::int64_t outputs = 0;
  bool has_bias = false;
  std::int64_t in() const override { return inputs; }
  std::int64_t out() const override { return outputs; }
  std::uint64_t bytes() const override { return static_cast<std::uint64_t>(inputs * outputs) * 2; }
};

struct Vec final : ops::Vec {
  std::string name;
  std::int64_t count = 0;
  std::int64_t size() const override { return count; }
  std::uint64_t bytes() const override { return static_cast<std::uint64_t>(count) * 4; }
};

struct Experts final : ops::Experts {
  ops::ExpertsShape shape;
  std::vector<std::string> names;  // gate, up and down of each expert in the order they came
  std::int64_t experts() const override { return shape.experts; }
  std::int64_t hidden() const override { return shape.hidden; }
  std::int64_t intermediate() const override { return shape.intermediate; }
  std::uint64_t bytes() const override {
    return static_cast<std::uint64_t>(shape.experts * shape.hidden * shape.intermediate) * 6;
  }
};

// Writes down each operator with its shapes; values do not exist.
class Step final : public ops::Step {
 public:
  Step(const ops::Batch& batch, std::vector<std::string>& log) : batch_(batch), log_(log) {}
  ops::Tensor embed(const ops::Linear& table) override {
    return note("embed", batch_.rows(), table.in());
  }
  ops::Tensor residual_in() override { return note("residual_in", batch_.rows(), batch_.hidden); }
  ops::Tensor rms_norm(const ops::Tensor& x, const ops::Vec& w, float) override {
    MESH_CHECK(x.cols == w.size(), "{} columns, weight {}", x.cols, w.size());
    return note("rms_norm " + part(dynamic_cast<const Vec&>(w).name), x.rows, x.cols);
  }
  ops::Tensor linear(const ops::Tensor& x, const ops::Linear& w) override {
    MESH_CHECK(x.cols == w.in(), "{} columns, weight {}", x.cols, w.in());
    return note("linear " + part(dynamic_cast<const Linear&>(w).names.front()), x.rows, w.out());
  }
  ops::Tensor attention(const ops::AttentionSpec& spec, const ops::Tensor& qkv) override {
    MESH_CHECK(qkv.cols == (spec.heads + 2 * spec.kv_heads) * spec.head_dim, "{} columns",
               qkv.cols);
    return note(fmt::format("attention{}{}", spec.layer, spec.q_norm != nullptr ? "n" : ""),
                qkv.rows, spec.heads * spec.head_dim);
  }
  ops::Tensor swiglu(const ops::Tensor& gate_up) override {
    return note("swiglu", gate_up.rows, gate_up.cols / 2);
  }
  ops::Tensor experts(const ops::Tensor& x, const ops::Tensor& router_logits,
                      const ops::Experts& weights, const ops::RoutingSpec& routing) override {
    MESH_CHECK(x.cols == weights.hidden() && router_logits.cols == weights.experts() &&
                   x.rows == router_logits.rows,
               "{} columns, {} logits", x.cols, router_logits.cols);
    return note(fmt::format("experts {} of {}{}", routing.top_k, weights.experts(),
                            routing.normalise ? "n" : ""),
                x.rows, x.cols);
  }
  void add_gated(ops::Tensor& y, const ops::Tensor& shared,
                 const ops::Tensor& gate_logit) override {
    MESH_CHECK(y.cols == shared.cols && gate_logit.cols == 1, "{}, {} and {} columns", y.cols,
               shared.cols, gate_logit.cols);
    note("add_gated", y.rows, y.cols);
  }
  void add_residual(ops::Tensor& residual, const ops::Tensor& y) override {
    MESH_CHECK(residual.cols == y.cols, "{} and {} columns", residual.cols, y.cols);
    note("add", residual.rows, residual.cols);
  }
  ops::Tensor take_rows(const ops::Tensor& x, std::span<const std::int32_t> rows) override {
    return note("take", static_cast<std::int64_t>(rows.size()), x.cols);
  }
  std::span<const std::byte> read(const ops::Tensor&) override { return {}; }

 private:
  // "q_proj" of "model.layers.3.self_attn.q_proj.weight".
  static std::string part(const std::string& name) {
    const std::size_t end = name.rfind('.');
    const std::size_t dot = name.rfind('.', end - 1);
    return dot == name.npos ? name.substr(0, end) : name.substr(dot + 1, end - dot - 1);
  }
  template <typename Rows>
  ops::Tensor note(const std::string& op, Rows rows, std::int64_t cols) {
    log_.push_back(fmt::format("{} {}x{}", op, rows, cols));
    ops::Tensor tensor;
    tensor.rows = static_cast<std::int64_t>(rows);
    tensor.cols = cols;
    return tensor;
  }
  const ops::Batch& batch_;
  std::vector<std::string>& log_;
};

class Backend final : public ops::Backend {
 public:
  std::vector<std::string> log;  // operators of all steps
  int linears = 0;               // loaded
  ops::BackendInfo info() const override { return {}; }
  Result<std::unique_ptr<ops::Linear>> load_linear(
      std::span<const ops::LinearSource> fused) override {
    ++linears;
    auto linear = std::make_unique<Linear>();
    for (const ops::LinearSource& source : fused) {
      linear->names.push_back(source.weight.info.name);
      linear->inputs = source.weight.info.shape[1];
      linear->outputs += source.weight.info.shape[0];
      linear->has_bias = source.bias.has_value();
      MESH_RETURN_IF_ERROR(ops::for_windows(source.weight, nothing));
    }
    return std::unique_ptr<ops::Linear>(std::move(linear));
  }
  Result<std::unique_ptr<ops::Vec>> load_vec(const ops::HostTensor& source) override {
    auto vec = std::make_unique<Vec>();
    vec->name = source.info.name;
    vec->count = source.info.shape[0];
    return std::unique_ptr<ops::Vec>(std::move(vec));
  }
  Result<std::unique_ptr<ops::Experts>> load_experts(const ops::ExpertsShape& shape,
                                                     const ops::ExpertReader& read) override {
    auto experts = std::make_unique<Experts>();
    experts->shape = shape;
    for (std::int64_t e = 0; e < shape.experts; ++e) {
      MESH_ASSIGN_OR_RETURN(const ops::ExpertSource source, read(e));
      MESH_CHECK(source.down.info.shape == (tensor::Shape{shape.hidden, shape.intermediate}),
                 "down of {}", tensor::shape_text(source.down.info.shape));
      for (const ops::MatrixSource* matrix : {&source.gate, &source.up, &source.down}) {
        experts->names.push_back(matrix->info.name);
        MESH_RETURN_IF_ERROR(ops::for_windows(*matrix, nothing));
      }
    }
    return std::unique_ptr<ops::Experts>(std::move(experts));
  }
  Result<std::unique_ptr<ops::KvPool>> make_kv(const ops::KvLayout&, std::uint32_t) override {
    return Error(Code::kUnsupported, "no cache");
  }
  std::unique_ptr<ops::Step> begin_step(ops::KvPool*, const ops::Batch& batch) override {
    return std::make_unique<Step>(batch, log);
  }
  std::vector<ops::KernelUse> kernels_used() const override { return {}; }
  std::uint64_t self_test() const override { return 0; }

 private:
  static void nothing(std::int64_t, const ops::HostTensor&) {}
};

}  // namespace mesh::model::fake
