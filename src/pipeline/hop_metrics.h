#pragma once
// What a stage counts of itself.

#include <cstdint>

#include "base/metrics.h"
#include "base/time.h"

namespace mesh::pipeline {

struct HopMetrics {
  explicit HopMetrics(metrics::Registry& registry);

  // One step that has been computed.
  void step(std::size_t decode_rows, std::size_t prompt_rows, Duration compute);
  void pages(std::uint32_t used, std::uint32_t cached, std::uint32_t free);

  metrics::Histogram &step_prefill, &step_decode, &step_mixed;  // seconds
  metrics::Histogram& batch_rows;
  metrics::Histogram& decode_batch_rows;  // of steps that have some
  metrics::Gauge& micro_batches_in_flight;
  metrics::Gauge &pages_used, &pages_cached, &pages_free;
  metrics::Gauge& kv_cache_usage_ratio;
  metrics::Counter &prefix_queries, &prefix_hits;  // tokens
  metrics::Gauge& parked_sequences;
  metrics::Counter &held_by_reader, &held_by_prompt_rows;  // times that rows had to wait
};

}  // namespace mesh::pipeline
