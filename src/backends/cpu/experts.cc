#include "backends/cpu/experts.h"

#include <array>
#include <cstring>
#include <utility>

#include "backends/cpu/float_mode.h"
#include "backends/cpu/step.h"
#include "base/check.h"
#include "ops/host_weights.h"

namespace mesh::backends::cpu {
namespace {

// One row's use of one expert.
struct Choice {
  std::int32_t expert = 0;
  float weight = 0;
};

// The top_k largest of p [experts], ties to the lower id, in ascending id. Marks what is taken by
// making it negative; a NaN is never larger than another value, so that ids stay distinct.
void choose(float* p, std::int64_t experts, const ops::RoutingSpec& routing, Choice* out) {
  for (int i = 0; i < routing.top_k; ++i) {
    std::int64_t best = 0;
    while (p[best] < 0) ++best;
    for (std::int64_t e = best + 1; e < experts; ++e)
      if (p[e] > p[best]) best = e;
    int at = i;
    for (; at > 0 && out[at - 1].expert > best; --at) out[at] = out[at - 1];
    out[at] = {static_cast<std::int32_t>(best), p[best]};
    p[best] = -1.0f;
  }
  if (!routing.normalise) return;
  float sum = 0;
  for (int i = 0; i < routing.top_k; ++i) sum = sum + out[i].weight;
  for (int i = 0; i < routing.top_k; ++i) out[i].weight = out[i].weight / sum;
}

// The choices of all rows, [rows][top_k], and by expert: the entries [start[e], start[e + 1]) of
// `entry` are the indices of its choices, rows ascending.
struct Routing {
  std::shared_ptr<void> memory;
  Choice* choices = nullptr;
  std::int32_t* start = nullptr;
  std::int32_t* entry = nullptr;
};

Routing route(CpuStep& step, const ops::Tensor& logits, const ops::RoutingSpec& routing) {
  const std::int64_t rows = logits.rows, experts = logits.cols;
  const std::int64_t uses = rows * routing.top_k;
  Routing r;
  const std::int64_t words = 2 * uses + (experts + 2) + uses + rows * experts;
  r.memory = step.scratch(static_cast<std::uint64_t>(words) * 4);
  r.choices = static_cast<Choice*>(r.memory.get());
  r.start = reinterpret_cast<std::int32_t*>(r.choices + uses);
  r.entry = r.start + experts + 2;
  float* probability = reinterpret_cast<float*>(r.entry + uses);
  step.device().uses->note(Kernel::kSoftmax);
  const auto softmax = step.device().kernels->softmax;
  for_range(*step.device().pool, rows, grain_rows(experts),
            [&](std::int64_t begin, std::int64_t end, int) {
              set_float_mode();
              for (std::int64_t row = begin; row < end; ++row) {
                float* p = probability + row * experts;
                softmax(static_cast<const float*>(logits.data) + row * experts, experts, p);
                choose(p, experts, routing, r.choices + row * routing.top_k);
              }
            });
  // Counting sort: start[e + 2] counts, then start[e + 1] runs from the first entry of e to its
  // last.
  std::memset(r.start, 0, static_cast<std::size_t>(experts + 2) * sizeof(std::int32_t));
  for (std::int64_t i = 0; i < uses; ++i) ++r.start[r.choices[i].expert + 2];
  for (std::int64_t e = 1; e < experts + 2; ++e) r.start[e] += r.start[e - 1];
  for (std::int64_t i = 0; i < uses; ++i)
    r.entry[r.start[r.choices[i].expert + 1]++] = static_cast<std::int32_t>(i);
  return r;
}

// The rows of x that use an expert, side by side; x itself when all do.
ops::Tensor gather(CpuStep& step, const ops::Tensor& x, const Routing& routing, int top_k,
                   std::int32_t begin, std::int32_t end) {
  if (end - begin == x.rows) return x;
  step.device().uses->note(Kernel::kTakeRows);
  ops::Tensor out = step.make(ops::DType::kF32, end - begin, x.cols);
  for_range(*step.device().pool, out.rows, grain_rows(x.cols),
            [&](std::int64_t first, std::int64_t last, int) {
              for (std::int64_t i = first; i < last; ++i)
                std::memcpy(
                    static_cast<float*>(out.data) + i * x.cols,
                    static_cast<const float*>(x.data) + routing.entry[begin + i] / top_k * x.cols,
                    static_cast<std::size_t>(x.cols) * sizeof(float));
            });
  return out;
}

}  // namespace

Result<std::unique_ptr<CpuExperts>> CpuExperts::make(const ops::ExpertsShape& shape,
                                                     const ops::ExpertReader& read,
                                                     ops::Backend& backend) {
  MESH_RETURN_IF_ERROR(ops::check_experts(shape));
  auto experts = std::make_unique<CpuExperts>();
  experts->shape_ = shape;
  for (std::int64_t e = 0; e < shape.experts; ++e) {
    MESH_ASSIGN_OR_RETURN(ops::ExpertSource source, read(e));
    MESH_RETURN_IF_ERROR(ops::check_expert(source, shape));
    const std::array<ops::LinearSource, 2> gate_up{
        {{std::move(source.gate), std::nullopt}, {std::move(source.up), std::nullopt}}};
    const ops::LinearSource down{std::move(source.down), std::nullopt};
    Expert expert;
    MESH_ASSIGN_OR_RETURN(expert.gate_up, backend.load_linear(gate_up));
    MESH_ASSIGN_OR_RETURN(expert.down, backend.load_linear({&down, 1}));
    experts->list_.push_back(std::move(expert));
  }
  return experts;
}

std::uint64_t CpuExperts::bytes() const {
  std::uint64_t bytes = 0;
  for (const Expert& expert : list_) bytes += expert.gate_up->bytes() + expert.down->bytes();
  return bytes;
}

ops::Tensor CpuStep::experts(const ops::Tensor& x, const ops::Tensor& router_logits,
                             const ops::Experts& weights_any, const ops::RoutingSpec& routing) {
  const auto& weights = static_cast<const CpuExperts&>(weights_any);
  MESH_CHECK(x.dtype == ops::DType::kF32 && x.cols == weights.hidden() &&
                 router_logits.dtype == ops::DType::kF32 && router_logits.rows == x.rows &&
                 router_logits.cols == weights.experts(),
             "rows [{}, {}] with logits [{}, {}] for {} experts of {}", x.rows, x.cols,
             router_logits.rows, router_logits.cols, weights.experts(), weights.hidden());
  MESH_CHECK(routing.top_k >= 1 && routing.top_k <= weights.experts(), "{} of {} experts",
             routing.top_k, weights.experts());
  ops::Tensor out = make(ops::DType::kF32, x.rows, x.cols);
  std::memset(out.data, 0, static_cast<std::size_t>(out.rows * out.cols) * sizeof(float));
  const Routing routes = route(*this, router_logits, routing);
  device_.uses->note(Kernel::kAddWeighted);
  const auto add_weighted = device_.kernels->add_weighted;
  // Ascending ids: each row's sum runs in that order whatever rows share the batch.
  for (std::int64_t turn = 0; turn < weights.experts(); ++turn) {
#ifdef MESH_MUTATE_EXPERT_ORDER
    const std::int64_t e = (turn + x.rows) % weights.experts();
#else
    const std::int64_t e = turn;
#endif
    const std::int32_t begin = routes.start[e], end = routes.start[e + 1];
    if (begin == end) continue;
    const ops::Tensor rows = gather(*this, x, routes, routing.top_k, begin, end);
    const ops::Tensor y = linear(swiglu(linear(rows, weights.gate_up(e))), weights.down(e));
    for_range(
        *device_.pool, y.rows, grain_rows(y.cols), [&](std::int64_t first, std::int64_t last, int) {
          set_float_mode();
          for (std::int64_t i = first; i < last; ++i) {
            const std::int32_t use = routes.entry[begin + i];
            add_weighted(routes.choices[use].weight, static_cast<const float*>(y.data) + i * y.cols,
                         y.cols, static_cast<float*>(out.data) + use / routing.top_k * out.cols);
          }
        });
  }
  return out;
}

void CpuStep::add_gated(ops::Tensor& y, const ops::Tensor& shared, const ops::Tensor& gate_logit) {
  MESH_CHECK(y.dtype == ops::DType::kF32 && shared.dtype == ops::DType::kF32 &&
                 gate_logit.dtype == ops::DType::kF32 && y.rows == shared.rows &&
                 y.cols == shared.cols && gate_logit.rows == y.rows && gate_logit.cols == 1,
             "[{}, {}] with gate [{}, {}] added to [{}, {}]", shared.rows, shared.cols,
             gate_logit.rows, gate_logit.cols, y.rows, y.cols);
  device_.uses->note(Kernel::kAddGated);
  forget_rounded(y.data);
  const auto kernel = device_.kernels->add_gated;
  for_range(*device_.pool, y.rows, grain_rows(y.cols),
            [&](std::int64_t begin, std::int64_t end, int) {
              set_float_mode();
              for (std::int64_t row = begin; row < end; ++row)
                kernel(static_cast<const float*>(gate_logit.data)[row],
                       static_cast<const float*>(shared.data) + row * y.cols, y.cols,
                       static_cast<float*>(y.data) + row * y.cols);
            });
}

}  // namespace mesh::backends::cpu
