#pragma once
// For tests: folders of scenario texts. Commands stand at the left margin, what follows from each
// is indented below; empty lines and lines that begin with # are passed over.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace mesh {

struct PlayedScenario {
  std::string file;
  std::string written, played;  // the whole text as it is, and as playing it gives
};

// Plays every .txt file of `folder`, in order of names, each with a new Scenario, whose
// play(command) returns the lines that follow from the command. With `rewrite` the files are
// replaced by what was played; the difference is then reviewed like code.
template <class Scenario>
std::vector<PlayedScenario> play_scenarios(const std::filesystem::path& folder, bool rewrite) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".txt") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<PlayedScenario> out;
  for (const std::filesystem::path& file : files) {
    PlayedScenario one{file.string(), "", ""};
    Scenario scenario;
    std::ifstream in(file);
    for (std::string line; std::getline(in, line);) {
      one.written += line + "\n";
      if (line.rfind("  ", 0) == 0) continue;
      one.played += line + "\n";
      if (line.empty() || line[0] == '#') continue;
      for (const std::string& given : scenario.play(line)) one.played += "  " + given + "\n";
    }
    in.close();
    if (rewrite) {
      std::ofstream(file) << one.played;
      one.written = one.played;
    }
    out.push_back(std::move(one));
  }
  return out;
}

}  // namespace mesh
