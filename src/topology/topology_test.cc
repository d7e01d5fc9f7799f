#include "topology/topology.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <numeric>

namespace mesh::topology {
namespace {

namespace fs = std::filesystem;

Domain domain_of(int number, int cores, int threads_per_core) {
  Domain domain{.number = number, .cores = cores};
  domain.processors.resize(static_cast<std::size_t>(cores * threads_per_core));
  std::iota(domain.processors.begin(), domain.processors.end(), number * cores * threads_per_core);
  return domain;
}

TEST(Topology, ThreadsAreCoresWithinWhatIsGranted) {
  const Topology machine{{domain_of(0, 8, 2), domain_of(1, 8, 2)}, "test"};
  EXPECT_EQ(machine.cores(), 16);
  EXPECT_EQ(default_threads(machine, std::nullopt), 16);
  EXPECT_EQ(default_threads(machine, 64.0), 16);
  EXPECT_EQ(default_threads(machine, 4.0), 4);
  EXPECT_EQ(default_threads(machine, 2.5), 2);
  EXPECT_EQ(default_threads(machine, 0.3), 1);
}

TEST(Topology, WorkersAreSpreadByCores) {
  using Places = std::vector<std::size_t>;
  const Topology one{{domain_of(0, 8, 1)}, "test"};
  EXPECT_EQ(place_workers(one, 8), Places{}) << "a single domain leaves it to the system";
  const Topology two{{domain_of(0, 4, 1), domain_of(1, 4, 1)}, "test"};
  EXPECT_EQ(place_workers(two, 4), (Places{0, 0, 1, 1}));
  EXPECT_EQ(place_workers(two, 8), (Places{0, 0, 0, 0, 1, 1, 1, 1}));
  EXPECT_EQ(place_workers(two, 3).size(), 3u);
  const Topology uneven{{domain_of(0, 6, 1), domain_of(1, 2, 1)}, "test"};
  EXPECT_EQ(place_workers(uneven, 4), (Places{0, 0, 0, 1}));
  for (int threads = 1; threads < 40; ++threads)
    EXPECT_EQ(place_workers(uneven, threads).size(), static_cast<std::size_t>(threads));
}

class ControlGroups : public ::testing::Test {
 protected:
  ControlGroups() {
    std::string pattern = (fs::temp_directory_path() / "groups-XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
  }
  ~ControlGroups() override { fs::remove_all(root_); }
  void write(const fs::path& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  std::optional<double> granted() const {
    return granted_processors(root_ / "proc", root_ / "groups");
  }
  fs::path root_;
};

TEST_F(ControlGroups, NothingIsNoLimit) {
  EXPECT_EQ(granted(), std::nullopt);
  write("proc/self/cgroup", "0::/user.slice\n");
  EXPECT_EQ(granted(), std::nullopt);
  write("groups/user.slice/cpu.max", "max 100000\n");
  EXPECT_EQ(granted(), std::nullopt);
}

TEST_F(ControlGroups, TheTightestOfTheGroupsAboveCounts) {
  write("proc/self/cgroup", "0::/a/b\n");
  write("groups/a/b/cpu.max", "800000 100000\n");
  EXPECT_EQ(granted(), 8.0);
  write("groups/a/cpu.max", "250000 100000\n");
  EXPECT_EQ(granted(), 2.5);
  // Inside of a container the own group is the root of what is mounted.
  write("groups/cpu.max", "50000 100000\n");
  EXPECT_EQ(granted(), 0.5);
}

TEST_F(ControlGroups, VersionOne) {
  write("proc/self/cgroup", "7:cpuset:/x\n4:cpu,cpuacct:/box\nbroken\n");
  write("groups/cpu/box/cpu.cfs_quota_us", "300000\n");
  write("groups/cpu/box/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(granted(), 3.0);
  write("groups/cpu/box/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(granted(), std::nullopt);
}

TEST_F(ControlGroups, DamagedFilesAreNoLimit) {
  write("proc/self/cgroup", "0::/\n");
  for (const char* text : {"", "max", "x 100000", "100000 0", "-5 100000", "100000"}) {
    write("groups/cpu.max", text);
    EXPECT_EQ(granted(), std::nullopt) << text;
  }
}

TEST(Topology, ThisMachineHasACore) {
  const Topology machine = read_topology();
  ASSERT_GE(machine.domains.size(), 1u);
  for (const Domain& domain : machine.domains) {
    EXPECT_GE(domain.cores, 1);
    EXPECT_GE(domain.processors.size(), static_cast<std::size_t>(domain.cores));
  }
  EXPECT_GE(default_threads(), 1);
}

#ifdef MESH_HAVE_HWLOC
Topology synthetic(const char* text) {
  ::setenv("HWLOC_SYNTHETIC", text, 1);
  Topology machine = read_topology();
  ::unsetenv("HWLOC_SYNTHETIC");
  return machine;
}

TEST(Topology, TwoSocketsWithTwoThreadsForEachCore) {
  const Topology machine = synthetic("pack:2 [numa] core:4 pu:2");
  ASSERT_EQ(machine.domains.size(), 2u);
  EXPECT_EQ(machine.cores(), 8);
  EXPECT_EQ(machine.domains[0].processors, (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(machine.domains[1].processors, (std::vector<int>{8, 9, 10, 11, 12, 13, 14, 15}));
  EXPECT_EQ(default_threads(machine, std::nullopt), 8);
  EXPECT_EQ(machine.source.rfind("hwloc 2.", 0), 0u) << machine.source;
}

TEST(Topology, SeveralDomainsOfOneSocket) {
  const Topology machine = synthetic("pack:1 numa:4 l3:1 core:6 pu:2");
  ASSERT_EQ(machine.domains.size(), 4u);
  EXPECT_EQ(machine.cores(), 24);
  const auto places = place_workers(machine, 8);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(std::count(places.begin(), places.end(), i), 2);
}

TEST(Topology, OneDomainStaysOne) {
  const Topology machine = synthetic("pack:1 [numa] core:16 pu:1");
  ASSERT_EQ(machine.domains.size(), 1u);
  EXPECT_EQ(machine.cores(), 16);
  EXPECT_TRUE(place_workers(machine, 16).empty());
}

TEST(Topology, FarMemoryBesideTheSameCoresIsOneDomain) {
  const Topology machine = synthetic("[numa] [numa] core:4 pu:1");
  ASSERT_EQ(machine.domains.size(), 1u);
  EXPECT_EQ(machine.cores(), 4);
}
#endif

}  // namespace
}  // namespace mesh::topology
