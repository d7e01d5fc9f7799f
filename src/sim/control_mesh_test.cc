#include "sim/control_mesh.h"

#include <gtest/gtest.h>

namespace mesh::sim {
namespace {

std::unique_ptr<ControlMesh> mesh_of(std::uint32_t nodes, std::uint64_t seed,
                                     std::uint32_t layers = 6) {
  auto mesh = std::make_unique<ControlMesh>(seed);
  for (std::uint32_t n = 1; n <= nodes; ++n) {
    mesh->define(ControlMesh::uniform(n, layers));
    mesh->start(fmt::format("n{:04}", n));
  }
  return mesh;
}

// Converged for a second on end: a plan that waits to be replaced does not count.
bool converges(ControlMesh& mesh, Duration within) {
  const Instant limit = mesh.world().now() + within;
  int steady = 0;
  while (mesh.world().now() < limit && steady < 10) {
    mesh.world().run_for(milliseconds(100));
    steady = mesh.converged() ? steady + 1 : 0;
  }
  return steady == 10;
}

TEST(ControlMesh, OneNodeServesAlone) {
  auto mesh = mesh_of(1, 1);
  EXPECT_TRUE(converges(*mesh, seconds(2))) << mesh->state();
}

TEST(ControlMesh, ThreeNodesAgreeOnAPlan) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    auto mesh = mesh_of(3, seed);
    ASSERT_TRUE(converges(*mesh, seconds(10))) << mesh->state();
    EXPECT_EQ(mesh->node("n0002").route()->size(), 3u);
    EXPECT_TRUE(mesh->node("n0001").planner().is_planner());
  }
}

TEST(ControlMesh, TenNodesAgreeOnAPlan) {
  auto mesh = mesh_of(10, 5, 24);
  ASSERT_TRUE(converges(*mesh, seconds(10))) << mesh->state();
  EXPECT_EQ(mesh->node("n0007").route()->size(), 10u);
}

TEST(ControlMesh, SameSeedSameTrace) {
  const auto run = [](std::uint64_t seed) {
    auto mesh = mesh_of(5, seed);
    mesh->world().run_for(seconds(5));
    mesh->crash("n0001");
    mesh->world().run_for(seconds(10));
    mesh->start("n0001");
    mesh->world().run_for(seconds(5));
    return mesh->world().trace_hash();
  };
  EXPECT_EQ(run(3), run(3));
  EXPECT_NE(run(3), run(4));
}

TEST(ControlMesh, AnotherPlannerTakesOver) {
  for (const bool silent : {false, true}) {
    SCOPED_TRACE(silent ? "silent" : "reset");
    auto mesh = mesh_of(4, 11);
    ASSERT_TRUE(converges(*mesh, seconds(10))) << mesh->state();
    const std::uint64_t epoch = mesh->node("n0002").membership().plan().epoch.value;
    mesh->crash("n0001", silent);
    ASSERT_TRUE(converges(*mesh, seconds(6))) << mesh->state();
    const wire::Plan& plan = mesh->node("n0003").membership().plan();
    EXPECT_GT(plan.epoch.value, epoch);
    EXPECT_EQ(plan.planner, ControlMesh::id(2));
    EXPECT_EQ(plan.stages.size(), 3u);
  }
}

TEST(ControlMesh, ARestartedNodeComesBack) {
  auto mesh = mesh_of(3, 12);
  ASSERT_TRUE(converges(*mesh, seconds(10))) << mesh->state();
  mesh->crash("n0002");
  ASSERT_TRUE(converges(*mesh, seconds(6))) << mesh->state();
  mesh->start("n0002");
  ASSERT_TRUE(converges(*mesh, seconds(10))) << mesh->state();
  EXPECT_EQ(mesh->node("n0001").route()->size(), 3u);
}

TEST(ControlMesh, APartitionHeals) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    auto mesh = mesh_of(6, seed);
    ASSERT_TRUE(converges(*mesh, seconds(10))) << mesh->state();
    std::map<PeerId, int> groups;
    for (std::uint32_t n = 4; n <= 6; ++n) groups[ControlMesh::id(n)] = 1;
    mesh->network().partition(groups);
    mesh->world().run_for(seconds(20));
    // Each side serves by itself.
    for (const char* name : {"n0001", "n0005"}) {
      const auto route = mesh->node(name).route();
      ASSERT_TRUE(route.ok()) << name << " " << route.error().message;
      EXPECT_EQ(route->size(), 3u) << name;
    }
    mesh->network().heal_all();
    ASSERT_TRUE(converges(*mesh, seconds(60))) << mesh->state();
    EXPECT_EQ(mesh->node("n0001").route()->size(), 6u);
  }
}

TEST(ControlMesh, EpochsNeverFall) {
  const std::uint64_t seed = 77;
  SCOPED_TRACE(seed);
  auto mesh = mesh_of(8, seed, 16);
  std::map<std::string, std::uint64_t> newest;
  Prng random(seed);
  for (int step = 0; step < 60; ++step) {
    const std::string name = fmt::format("n{:04}", 1 + random.below(8));
    if (mesh->running(name) && random.below(3) == 0) {
      mesh->crash(name, random.below(2) == 0);
      newest.erase(name);
    } else if (!mesh->running(name)) {
      mesh->start(name);
    }
    mesh->world().run_for(milliseconds(static_cast<std::int64_t>(random.below(2000))));
    for (const std::string& each : mesh->names()) {
      if (!mesh->running(each)) continue;
      const std::uint64_t epoch = mesh->node(each).membership().plan().epoch.value;
      ASSERT_GE(epoch, newest[each]) << each;
      newest[each] = epoch;
    }
  }
  for (const std::string& each : mesh->names())
    if (!mesh->running(each)) mesh->start(each);
  ASSERT_TRUE(converges(*mesh, seconds(60))) << mesh->state();
}

}  // namespace
}  // namespace mesh::sim
