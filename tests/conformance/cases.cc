// The conformance table: every operator, element type and awkward shape, once.
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "harness.h"

namespace mesh::conformance {
namespace {

std::string type_text(DType dtype) {
  return std::string(tensor::dtype_name(dtype));
}

Case linear_case(DType weight, int rows, std::int64_t in, std::int64_t out, bool bias) {
  const std::string name = "linear " + type_text(weight) + " rows " + std::to_string(rows) + " [" +
                           std::to_string(out) + ", " + std::to_string(in) + "]" +
                           (bias ? " bias" : "");
  return {name, [=](ops::Backend& backend) {
            ops::LinearSource source{random_tensor(1, weight, {out, in}, 0.1), std::nullopt};
            if (bias) source.bias = random_tensor(2, weight, {out});
            const auto w = backend.load_linear({&source, 1}).value();
            const RowBatch rows_in(rows, in, DType::kF32, random_bytes(3, DType::kF32, rows * in));
            const auto step = backend.begin_step(nullptr, rows_in.batch);
            return output_of(*step, step->linear(step->residual_in(), *w));
          }};
}

// q, k and v stacked, of different types and with one bias missing.
Case fused_case(DType first, DType second) {
  return {"fused " + type_text(first) + " " + type_text(second), [=](ops::Backend& backend) {
            const std::vector<ops::LinearSource> sources{
                {random_tensor(1, first, {70, 300}), random_tensor(2, DType::kF32, {70})},
                {random_tensor(3, second, {33, 300}), std::nullopt},
                {random_tensor(4, first, {9, 300}), random_tensor(5, DType::kBF16, {9})}};
            const auto w = backend.load_linear(sources).value();
            const RowBatch rows_in(4, 300, DType::kF32, random_bytes(6, DType::kF32, 4 * 300));
            const auto step = backend.begin_step(nullptr, rows_in.batch);
            return output_of(*step, step->linear(step->residual_in(), *w));
          }};
}

Case norm_case(DType x, int rows, std::int64_t n) {
  return {"rms_norm " + type_text(x) + " " + std::to_string(n), [=](ops::Backend& backend) {
            const auto w = backend.load_vec(random_tensor(1, DType::kBF16, {n})).value();
            const RowBatch rows_in(rows, n, x, random_bytes(2, x, rows * n));
            const auto step = backend.begin_step(nullptr, rows_in.batch);
            return output_of(*step, step->rms_norm(step->residual_in(), *w, 1e-5f));
          }};
}

Case swiglu_case(int rows, std::int64_t n) {
  return {"swiglu " + std::to_string(n), [=](ops::Backend& backend) {
            const RowBatch rows_in(rows, 2 * n, DType::kF32,
                                   random_bytes(1, DType::kF32, rows * 2 * n, 20.0));
            const auto step = backend.begin_step(nullptr, rows_in.batch);
            return output_of(*step, step->swiglu(step->residual_in()));
          }};
}

Case add_case(DType residual, int rows, std::int64_t n) {
  return {"add_residual " + type_text(residual) + " " + std::to_string(n),
          [=](ops::Backend& backend) {
            const auto ones = backend.load_vec(random_tensor(1, DType::kF32, {n})).value();
            const RowBatch rows_in(rows, n, residual, random_bytes(2, residual, rows * n));
            const auto step = backend.begin_step(nullptr, rows_in.batch);
            ops::Tensor r = step->residual_in();
            const ops::Tensor y = step->rms_norm(r, *ones, 1e-5f);
            step->add_residual(r, y);
            return output_of(*step, r);
          }};
}

// Where the router's logits come from. Random ones are far apart; whole numbers give many ties.
enum class Logits { kRandom, kTies, kOneExpert };

ops::HostTensor router_logits(Logits kind, int rows, std::int64_t experts) {
  ops::HostTensor logits = random_tensor(31, DType::kF32, {rows, experts}, 4.0);
  if (kind == Logits::kRandom) return logits;
  auto bytes = std::make_shared<std::vector<std::byte>>(logits.bytes.size());
  for (std::int64_t i = 0; i < rows * experts; ++i) {
    // Of every four experts two are equal; or the last one is far ahead of equal others.
    const float value = kind == Logits::kTies ? static_cast<float>((i / 2 * 7 + i / experts) % 3)
                                              : (i % experts == experts - 1 ? 3.0f : 0.0f);
    std::memcpy(bytes->data() + 4 * i, &value, 4);
  }
  logits.bytes = *bytes;
  logits.owner = std::move(bytes);
  return logits;
}

const char* logits_name(Logits kind) {
  return kind == Logits::kRandom ? "" : kind == Logits::kTies ? " ties" : " one expert";
}

// Logits come from a step of their own, since a batch has one residual.
Case experts_case(const ExpertsSetup& setup, const ops::RoutingSpec& routing, int rows,
                  Logits kind) {
  const std::string name = "experts " + type_text(setup.gate_up) + " " + type_text(setup.down) +
                           " " + std::to_string(routing.top_k) + " of " +
                           std::to_string(setup.experts) +
                           (routing.normalise ? " normalised" : "") + " rows " +
                           std::to_string(rows) + logits_name(kind);
  return {name, [=](ops::Backend& backend) {
            const auto experts = load_random_experts(backend, setup);
            const RowBatch x_rows(rows, setup.hidden, DType::kF32,
                                  random_bytes(30, DType::kF32, rows * setup.hidden));
            const ops::HostTensor logits = router_logits(kind, rows, setup.experts);
            const RowBatch logit_rows(rows, setup.experts, DType::kF32,
                                      {logits.bytes.begin(), logits.bytes.end()});
            const auto logit_step = backend.begin_step(nullptr, logit_rows.batch);
            const auto step = backend.begin_step(nullptr, x_rows.batch);
            return output_of(*step, step->experts(step->residual_in(), logit_step->residual_in(),
                                                  *experts, routing));
          }};
}

Case gated_case(int rows, std::int64_t n) {
  return {"add_gated " + std::to_string(n), [=](ops::Backend& backend) {
            const ops::LinearSource gate_source{
                random_tensor(1, DType::kF32, {1, n}, 3.0 / std::sqrt(static_cast<double>(n))),
                std::nullopt};
            const auto gate = backend.load_linear({&gate_source, 1}).value();
            const auto ones = backend.load_vec(random_tensor(2, DType::kF32, {n})).value();
            const RowBatch rows_in(rows, n, DType::kF32, random_bytes(3, DType::kF32, rows * n));
            const auto step = backend.begin_step(nullptr, rows_in.batch);
            const ops::Tensor x = step->residual_in();
            ops::Tensor y = step->rms_norm(x, *ones, 1e-5f);
            step->add_gated(y, x, step->linear(x, *gate));
            return output_of(*step, y);
          }};
}

void add_experts_cases(std::vector<Case>& cases) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16})
    for (const int rows : {1, 2, 3, 17, 40})
      cases.push_back(
          experts_case({.hidden = 83, .intermediate = 35, .gate_up = type, .down = type},
                       {.top_k = 2, .normalise = rows % 2 == 1}, rows, Logits::kRandom));
  const ExpertsSetup mixed{.experts = 19,
                           .hidden = 300,
                           .intermediate = 70,
                           .gate_up = DType::kF16,
                           .down = DType::kF32};
  for (const int top_k : {1, 4, 19})
    for (const Logits kind : {Logits::kRandom, Logits::kTies, Logits::kOneExpert})
      cases.push_back(experts_case(mixed, {.top_k = top_k, .normalise = top_k == 4}, 9, kind));
  cases.push_back(
      experts_case({.experts = 1, .hidden = 16, .intermediate = 1}, {}, 5, Logits::kRandom));
  cases.push_back(experts_case({.experts = 128, .hidden = 48, .intermediate = 16},
                               {.top_k = 8, .normalise = true}, 193, Logits::kRandom));
  for (const int n : {1, 15, 16, 17, 611}) cases.push_back(gated_case(7, n));
}

Case embed_case(DType table, DType residual) {
  return {"embed " + type_text(table) + " to " + type_text(residual), [=](ops::Backend& backend) {
            const ops::LinearSource source{random_tensor(1, table, {69, 130}), std::nullopt};
            const auto w = backend.load_linear({&source, 1}).value();
            RowBatch rows_in(6, 130, residual, {});
            rows_in.tokens = {0, 68, 63, 64, 0, 17};
            rows_in.batch.tokens = rows_in.tokens;
            const auto step = backend.begin_step(nullptr, rows_in.batch);
            const std::vector<std::int32_t> order{5, 0, 0, 3};
            return output_of(*step, step->take_rows(step->embed(*w), order));
          }};
}

Case attention_case(const std::string& name, const AttentionSetup& setup, const Plan& plan) {
  return {"attention " + name,
          [=](ops::Backend& backend) {
            Output all;
            for (const Output& one : run_attention(backend, setup, plan)) {
              all.cols = one.cols;
              all.rows += one.rows;
              all.bytes.insert(all.bytes.end(), one.bytes.begin(), one.bytes.end());
            }
            return all;
          },
          setup.store != DType::kF32 && (setup.rope || setup.norm)};
}

}  // namespace

std::vector<Case> operator_cases() {
  std::vector<Case> cases;
  for (const DType weight : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int rows : {1, 2, 6, 7, 16, 17, 40})
      for (const auto& [in, out] : {std::pair{257, 65}, std::pair{611, 130}})
        cases.push_back(linear_case(weight, rows, in, out, rows % 2 == 1));
    for (const auto& [in, out] :
         {std::pair{1, 1}, std::pair{3, 17}, std::pair{255, 15}, std::pair{256, 64},
          std::pair{513, 48}, std::pair{2840, 129}, std::pair{37, 32769}})
      for (const int rows : {1, 3}) cases.push_back(linear_case(weight, rows, in, out, true));
    cases.push_back(linear_case(weight, 193, 300, 70, true));
    for (const DType residual : {DType::kF32, DType::kBF16})
      cases.push_back(embed_case(weight, residual));
  }
  cases.push_back(fused_case(DType::kBF16, DType::kBF16));
  cases.push_back(fused_case(DType::kF16, DType::kBF16));
  for (const DType x : {DType::kF32, DType::kBF16})
    for (const int n : {1, 15, 16, 17, 64, 611, 1024}) {
      cases.push_back(norm_case(x, 5, n));
      cases.push_back(add_case(x, 5, n));
    }
  for (const int n : {1, 15, 16, 17, 611}) cases.push_back(swiglu_case(9, n));
  add_experts_cases(cases);
  return cases;
}

std::vector<Case> attention_cases() {
  std::vector<Case> cases;
  const Plan mixed{
      {{0, 70}, {1, 1}, {2, 513}}, {{0, 1}, {1, 1}, {2, 1}}, {{1, 9}, {2, 1}, {0, 64}}};
  for (const DType store : {DType::kF32, DType::kBF16, DType::kI8}) {
    const std::string type = type_text(store) + " ";
    cases.push_back(attention_case(type + "plain", {.store = store}, mixed));
    cases.push_back(attention_case(
        type + "rope and norm",
        {.heads = 4, .kv_heads = 2, .head_dim = 40, .store = store, .rope = true, .norm = true},
        mixed));
    cases.push_back(attention_case(type + "interleaved, odd head",
                                   {.heads = 3,
                                    .kv_heads = 3,
                                    .head_dim = 18,
                                    .store = store,
                                    .rope = true,
                                    .interleaved = true},
                                   mixed));
    cases.push_back(attention_case(
        type + "window and sinks",
        {.heads = 6, .kv_heads = 2, .head_dim = 16, .store = store, .sinks = true, .window = 67},
        mixed));
    cases.push_back(
        attention_case(type + "30 heads on one",
                       {.heads = 30, .kv_heads = 1, .head_dim = 64, .store = store, .norm = true},
                       {{{0, 20}}, {{0, 1}}}));
    cases.push_back(attention_case(type + "third segment",
                                   {.heads = 1, .kv_heads = 1, .head_dim = 16, .store = store},
                                   {{{0, 1023}}, {{0, 1}}, {{0, 1}}, {{0, 1}}}));
  }
  return cases;
}

}  // namespace mesh::conformance
