#include "pipeline/hop_metrics.h"

namespace mesh::pipeline {
namespace {

std::vector<double> row_bounds() {
  std::vector<double> bounds;
  for (double rows = 1; rows <= 1024; rows *= 2) bounds.push_back(rows);
  return bounds;
}

constexpr const char* kStepSeconds = "Time of one step of this stage on its device.";
constexpr const char* kPages = "KV pages of this stage.";
constexpr const char* kBackpressure = "Times that rows had to wait for somebody else.";

metrics::Histogram& step_seconds(metrics::Registry& registry, const char* phase) {
  return registry.histogram("mesh_stage_step_seconds", kStepSeconds, metrics::step_bounds(),
                            {{"phase", phase}});
}

metrics::Gauge& pages_gauge(metrics::Registry& registry, const char* state) {
  return registry.gauge("mesh_pages", kPages, {{"state", state}});
}

}  // namespace

HopMetrics::HopMetrics(metrics::Registry& registry)
    : step_prefill(step_seconds(registry, "prefill")),
      step_decode(step_seconds(registry, "decode")),
      step_mixed(step_seconds(registry, "mixed")),
      batch_rows(registry.histogram("mesh_batch_rows", "Rows of one step.", row_bounds())),
      decode_batch_rows(registry.histogram(
          "mesh_decode_batch_rows", "Decode rows of the steps that have some.", row_bounds())),
      micro_batches_in_flight(
          registry.gauge("mesh_micro_batches_in_flight",
                         "Steps of this first stage whose tokens are on their way.")),
      pages_used(pages_gauge(registry, "used")),
      pages_cached(pages_gauge(registry, "cached")),
      pages_free(pages_gauge(registry, "free")),
      kv_cache_usage_ratio(
          registry.gauge("mesh_kv_cache_usage_ratio", "KV pages that sequences use, of all.")),
      prefix_queries(registry.counter("mesh_prefix_cache_queries_total",
                                      "Prompt tokens that were looked for in the prefix cache.")),
      prefix_hits(registry.counter("mesh_prefix_cache_hits_total",
                                   "Prompt tokens that the prefix cache held.")),
      parked_sequences(
          registry.gauge("mesh_parked_sequences", "Sequences that wait for credit or pages.")),
      held_by_reader(
          registry.counter("mesh_backpressure_total", kBackpressure, {{"where", "reader"}})),
      held_by_prompt_rows(
          registry.counter("mesh_backpressure_total", kBackpressure, {{"where", "prompt_rows"}})) {}

void HopMetrics::step(std::size_t decode_rows, std::size_t prompt_rows, Duration compute) {
  metrics::Histogram& phase =
      prompt_rows == 0 ? step_decode : (decode_rows == 0 ? step_prefill : step_mixed);
  phase.observe(to_seconds(compute));
  batch_rows.observe(static_cast<double>(decode_rows + prompt_rows));
  if (decode_rows > 0) decode_batch_rows.observe(static_cast<double>(decode_rows));
}

void HopMetrics::pages(std::uint32_t used, std::uint32_t cached, std::uint32_t free) {
  pages_used.set(used);
  pages_cached.set(cached);
  pages_free.set(free);
  const double total = static_cast<double>(used) + cached + free;
  kv_cache_usage_ratio.set(total > 0 ? used / total : 0);
}

}  // namespace mesh::pipeline
