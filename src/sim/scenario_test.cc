// Plays tests/scenarios/*.txt: commands at the left margin, what follows from them indented below.
// MESH_UPDATE_GOLDEN=1 rewrites the indented lines; the difference is then reviewed like code.
//   node NAME id=N [model=NAME:HEX] [memory=BYTES] [pinned=A:B] [seeds=NAME,…] [min_nodes=N]
//   start NAME | crash NAME | silence NAME (crash without a word) | cut A B | heal A B | run
//   SECONDS members NAME | plan NAME | route NAME | waiting NAME

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "base/scenario_files.h"
#include "sim/control_mesh.h"

namespace mesh::sim {
namespace {

class Scenario {
 public:
  Scenario() : mesh_(1) { mesh_.network().set_quality({milliseconds(1), 0.0, 1e12}); }

  // The lines that the command gives.
  std::vector<std::string> play(const std::string& line) {
    out_.clear();
    std::istringstream words(line);
    std::vector<std::string> w;
    for (std::string word; words >> word;) w.push_back(word);
    if (w[0] == "node") {
      define(w);
    } else if (w[0] == "start") {
      const std::string name = w.at(1);
      mesh_.start(name, [this, name](const membership::Change& c) { changed(name, c); });
    } else if (w[0] == "crash" || w[0] == "silence") {
      mesh_.crash(w.at(1), w[0] == "silence");
    } else if (w[0] == "cut") {
      mesh_.network().cut(id(w.at(1)), id(w.at(2)));
    } else if (w[0] == "heal") {
      mesh_.network().heal(id(w.at(1)), id(w.at(2)));
    } else if (w[0] == "run") {
      mesh_.world().run_for(Duration(static_cast<std::int64_t>(std::stod(w.at(1)) * 1e9)));
    } else {
      ask(w[0], mesh_.node(w.at(1)));
    }
    return out_;
  }

 private:
  void define(const std::vector<std::string>& w) {
    std::map<std::string, std::string> options;
    for (std::size_t i = 2; i < w.size(); ++i) {
      const std::size_t equals = w[i].find('=');
      options[w[i].substr(0, equals)] = w[i].substr(equals + 1);
    }
    ControlConfig config =
        ControlMesh::uniform(static_cast<std::uint32_t>(std::stoul(options.at("id"))));
    config.name = w[1];
    config.seeds.clear();
    names_[config.id] = config.name;
    if (options.count("model") != 0) {
      const std::string& model = options["model"];
      const std::size_t colon = model.find(':');
      config.model->name = model.substr(0, colon);
      config.model->fingerprint = std::stoull(model.substr(colon + 1), nullptr, 16);
    }
    if (options.count("memory") != 0) config.memory = std::stoull(options["memory"]);
    if (options.count("min_nodes") != 0)
      config.min_nodes = static_cast<std::uint32_t>(std::stoul(options["min_nodes"]));
    if (options.count("pinned") != 0) config.pinned = *LayerRange::parse(options["pinned"]);
    std::istringstream seeds(options["seeds"]);
    for (std::string seed; std::getline(seeds, seed, ',');)
      config.seeds.push_back(
          ControlMesh::uniform(static_cast<std::uint32_t>(std::stoul(seed))).address);
    mesh_.define(config);
  }

  PeerId id(const std::string& name) { return mesh_.config(name).id; }
  std::string name(PeerId peer) const {
    const auto it = names_.find(peer);
    return it == names_.end() ? peer.short_name() : it->second;
  }
  std::string stages(const std::vector<wire::StageAssignment>& list) const {
    std::string text;
    for (const auto& stage : list)
      text += fmt::format(" {}={}", name(stage.node), stage.layers.to_string());
    return text;
  }

  void changed(const std::string& self, const membership::Change& change) {
    using Kind = membership::Change::Kind;
    if (change.kind == Kind::kRecordChanged) return;
    std::string text;
    if (change.kind == Kind::kMemberUp) text = "up " + name(change.peer);
    if (change.kind == Kind::kMemberDown)
      text = fmt::format("down {} ({})", name(change.peer), change.sentence);
    if (change.kind == Kind::kRefused) text = "refused: " + change.sentence;
    if (change.kind == Kind::kForgotten) text = "forgot " + name(change.peer);
    if (change.kind == Kind::kPlanChanged) text = "plan by " + name(change.peer);
    out_.push_back(fmt::format("{:.3f} {}: {}", to_seconds(mesh_.world().now().time_since_epoch()),
                               self, text));
  }

  void ask(const std::string& what, const ControlNode& node) {
    const auto& core = node.membership();
    if (what == "members") {
      for (const auto& [peer, member] : core.members())
        out_.push_back(fmt::format("{} {} {}", name(peer), member.alive ? "alive" : "lost",
                                   scheduler::state_name(member.record.state)));
    } else if (what == "plan") {
      out_.push_back(fmt::format("epoch {} by {}{}", core.plan().epoch.value,
                                 name(core.plan().planner), stages(core.plan().stages)));
    } else if (what == "route") {
      const auto route = node.route();
      out_.push_back(route.ok() ? "route" + stages(*route) : route.error().message);
    } else if (what == "waiting") {
      out_.push_back(node.planner().waiting_for());
    } else {
      out_.push_back("unknown command " + what);
    }
  }

  ControlMesh mesh_;
  std::map<PeerId, std::string> names_;
  std::vector<std::string> out_;
};

TEST(Scenarios, PlayAsWritten) {
  const auto all =
      play_scenarios<Scenario>(std::filesystem::path(MESH_TEST_DATA).parent_path() / "scenarios",
                               std::getenv("MESH_UPDATE_GOLDEN") != nullptr);
  ASSERT_GE(all.size(), 6u);
  for (const PlayedScenario& one : all) EXPECT_EQ(one.written, one.played) << one.file;
}

}  // namespace
}  // namespace mesh::sim
