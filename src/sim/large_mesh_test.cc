#include <gtest/gtest.h>

#include "sim/control_mesh.h"

namespace mesh::sim {
namespace {

TEST(LargeMesh, AHundredNodesAgreeOnAPlan) {
  const std::uint64_t seed = 7;
  SCOPED_TRACE(seed);
  ControlMesh mesh(seed);
  for (std::uint32_t n = 1; n <= 100; ++n) {
    mesh.define(ControlMesh::uniform(n, 80));
    mesh.start(fmt::format("n{:04}", n));
  }
  for (int i = 0; i < 300 && !mesh.converged(); ++i) mesh.world().run_for(milliseconds(100));
  ASSERT_TRUE(mesh.converged()) << mesh.state();
  EXPECT_EQ(mesh.node("n0050").route()->size(), 64u);
}

}  // namespace
}  // namespace mesh::sim
