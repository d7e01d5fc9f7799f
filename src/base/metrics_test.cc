#include "base/metrics.h"

#include <gtest/gtest.h>

namespace mesh::metrics {
namespace {

TEST(Metrics, RendersEveryKindAsPrometheusText) {
  Registry registry;
  registry.counter("mesh_requests_total", "Requests ended.", {{"finish_reason", "stop"}}).add();
  registry.counter("mesh_requests_total", "Requests ended.", {{"finish_reason", "a\"b\\c\nd"}})
      .add(2);
  Gauge& pages = registry.gauge("mesh_pages", "Pages.");
  registry.before_render([&] { pages.set(pages.value() + 1.5); });
  Histogram& times = registry.histogram("mesh_time_seconds", "Time.", {0.5, 2}, {{"stage", "0"}});
  times.observe(0.5);
  times.observe(1);
  times.observe(9);
  EXPECT_EQ(registry.render(),
            "# HELP mesh_pages Pages.\n# TYPE mesh_pages gauge\nmesh_pages 1.5\n"
            "# HELP mesh_requests_total Requests ended.\n# TYPE mesh_requests_total counter\n"
            "mesh_requests_total{finish_reason=\"a\\\"b\\\\c\\nd\"} 2\n"
            "mesh_requests_total{finish_reason=\"stop\"} 1\n"
            "# HELP mesh_time_seconds Time.\n# TYPE mesh_time_seconds histogram\n"
            "mesh_time_seconds_bucket{stage=\"0\",le=\"0.5\"} 1\n"
            "mesh_time_seconds_bucket{stage=\"0\",le=\"2\"} 2\n"
            "mesh_time_seconds_bucket{stage=\"0\",le=\"+Inf\"} 3\n"
            "mesh_time_seconds_sum{stage=\"0\"} 10.5\nmesh_time_seconds_count{stage=\"0\"} 3\n");
}

TEST(Metrics, TheSameNameAndLabelsAreTheSameObject) {
  Registry registry;
  Counter& one = registry.counter("mesh_a_total", "A.");
  EXPECT_EQ(&one, &registry.counter("mesh_a_total", "A."));
  EXPECT_NE(&one, &registry.counter("mesh_a_total", "A.", {{"x", "y"}}));
}

}  // namespace
}  // namespace mesh::metrics
