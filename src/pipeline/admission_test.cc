// Plays tests/scenarios/admission/*.txt: commands at the left margin, what follows from them
// indented below. MESH_UPDATE_GOLDEN=1 rewrites the indented lines; the difference is then reviewed
// like code.
//   room N | arrive S | opened S | no_pages S | no_route S | refused S SHARING… | extended S |
//   aside S | back S | ended S | run SECONDS | waiting

#include "pipeline/admission.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "base/random.h"
#include "base/scenario_files.h"

namespace mesh::pipeline {
namespace {

using Kind = AdmissionInput::Kind;

class Scenario {
 public:
  std::vector<std::string> play(const std::string& line) {
    out_.clear();
    std::istringstream words(line);
    std::vector<std::string> w;
    for (std::string word; words >> word;) w.push_back(word);
    static const std::map<std::string, Kind> kinds = {
        {"arrive", Kind::kArrived},   {"opened", Kind::kOpened},
        {"no_pages", Kind::kNoPages}, {"no_route", Kind::kNoRoute},
        {"aside", Kind::kAside},      {"refused", Kind::kExtendRefused},
        {"back", Kind::kBack},        {"extended", Kind::kExtended},
        {"ended", Kind::kEnded}};
    if (w[0] == "room") {
      core_ = Admission(std::stoul(w.at(1)));
    } else if (w[0] == "run") {
      run(Duration(static_cast<std::int64_t>(std::stod(w.at(1)) * 1e9)));
    } else if (w[0] == "waiting") {
      out_.push_back(fmt::format("{} wait", core_.waiting()));
    } else {
      AdmissionInput input{kinds.at(w[0]), id(w.at(1))};
      for (std::size_t i = 2; i < w.size(); ++i) input.sharing.push_back(id(w[i]));
      tell(input);
    }
    return out_;
  }

 private:
  static SequenceId id(const std::string& name) { return SequenceId{std::stoull(name.substr(1))}; }
  void run(Duration time) {
    const Instant end = now_ + time;
    for (auto at = core_.wake_at(); at && *at <= end; at = core_.wake_at()) {
      now_ = std::max(now_, *at);
      tell({});
      if (out_.size() > 100) return;
    }
    now_ = end;
  }
  void tell(const AdmissionInput& input) {
    const AdmissionActions actions = core_.step(now_, input);
    const auto say = [&](const char* what, const std::vector<SequenceId>& ids) {
      for (SequenceId one : ids)
        out_.push_back(
            fmt::format("{:.3f} {} s{}", to_seconds(now_.time_since_epoch()), what, one.value));
    };
    say("preempt", actions.preempt);
    say("extend", actions.extend);
    say("open", actions.open);
    say("full", actions.full);
    say("give up", actions.give_up);
  }

  Admission core_;
  Instant now_;
  std::vector<std::string> out_;
};

TEST(Admission, PlaysItsScenariosAsWritten) {
  const auto all = play_scenarios<Scenario>(
      std::filesystem::path(MESH_TEST_DATA).parent_path() / "scenarios" / "admission",
      std::getenv("MESH_UPDATE_GOLDEN") != nullptr);
  ASSERT_GE(all.size(), 8u);
  for (const PlayedScenario& one : all) EXPECT_EQ(one.written, one.played) << one.file;
}

// Two entries with random sequences on two stages that hold a few of them at a time. Positions are
// pages here; a reply takes two ticks, a token one.
class Model {
 public:
  explicit Model(std::uint64_t seed) : random_(seed) {
    capacity_ = 60 + random_.below(60);
    for (std::size_t& free : free_) free = capacity_;
    max_waiting_ = 5 + random_.below(60);
    entries_.resize(2, Entry{Admission(max_waiting_), {}});
  }

  // "" when every sequence that was taken has ended well and every page is free.
  std::string play() {
    for (int tick = 0; tick < 40'000; ++tick) {
      now_ += kTick;
      for (std::size_t e = 0; e < entries_.size(); ++e) {
        Entry& entry = entries_[e];
        if (submitted_ < kSequences && random_.below(4) == 0) submit(entry);
        const auto wake = entry.core.wake_at();
        if (wake && *wake <= now_) tell(entry, {});
        std::vector<SequenceId> ids;
        for (const auto& [id, one] : entry.all) ids.push_back(id);
        for (SequenceId id : ids)
          if (entry.all.count(id) != 0) advance(entry, id, entry.all.at(id));
        if (entry.core.waiting() > max_waiting_ + entry.all.size()) return "the room overflows";
      }
      if (!problem_.empty()) return problem_;
      if (submitted_ == kSequences && entries_[0].all.empty() && entries_[1].all.empty()) break;
    }
    if (ended_ + full_ != kSequences)
      return fmt::format("{} ended, {} refused of {}; {}", ended_, full_, submitted_, state());
    for (std::size_t free : free_)
      if (free != capacity_) return "pages are lost";
    return "";
  }
  std::size_t preemptions() const { return preemptions_; }
  std::size_t ended() const { return ended_; }

 private:
  std::string state() const {
    std::string out = fmt::format("free {} {} of {};", free_[0], free_[1], capacity_);
    for (const Entry& entry : entries_)
      for (const auto& [id, one] : entry.all)
        out += fmt::format(" {}:{} {}/{} held {}", id.value, static_cast<int>(one.state), one.known,
                           one.end, one.held[0]);
    return out;
  }

  static constexpr std::size_t kSequences = 120;
  static constexpr Duration kTick = milliseconds(5);
  enum class State { kWaiting, kOpening, kRunning, kAside };
  struct One {
    State state = State::kWaiting;
    std::size_t known = 0, end = 0;  // positions
    std::size_t held[2] = {0, 0};    // of each stage
    std::size_t target = 0;          // positions asked for
    bool asking = false, refused = false, rejected = false;
    Instant answer, back;
  };
  struct Entry {
    Admission core;
    std::map<SequenceId, One> all;
  };

  void submit(Entry& entry) {
    One one;
    one.known = 1 + random_.below(20);
    one.end = one.known + 1 + random_.below(capacity_ - one.known - 1);
    if (random_.below(3) != 0) one.end = std::min(one.end, one.known + 10);
    const SequenceId id{++submitted_};
    entry.all[id] = one;
    tell(entry, {Kind::kArrived, id});
  }
  void tell(Entry& entry, const AdmissionInput& input) {
    const AdmissionActions actions = entry.core.step(now_, input);
    for (SequenceId id : actions.preempt) {
      One& one = entry.all.at(id);
      if (one.state != State::kOpening && one.state != State::kRunning)
        problem_ = "preempts what holds nothing";
      preemptions_ += one.state == State::kRunning;
      release(one);
      one.state = State::kWaiting;
    }
    for (SequenceId id : actions.extend) entry.all.at(id).rejected = false;
    for (SequenceId id : actions.open) {
      One& one = entry.all.at(id);
      if (one.state != State::kWaiting) problem_ = "opens what does not wait";
      one.state = State::kOpening;
      ask(one, std::min(one.known + 8, one.end));
    }
    full_ += actions.full.size();
    for (SequenceId id : actions.full) entry.all.erase(id);
    if (!actions.give_up.empty()) problem_ = "gives up for want of pages";
  }
  void ask(One& one, std::size_t target) {
    one.target = target;
    one.asking = true;
    one.refused = false;
    one.answer = now_ + kTick * 2;
    for (std::size_t s = 0; s < 2; ++s) {
      if (one.held[s] >= target) continue;
      if (free_[s] < target - one.held[s]) {
        one.refused = true;
        continue;
      }
      free_[s] -= target - one.held[s];
      one.held[s] = target;
    }
  }
  void release(One& one) {
    for (std::size_t s = 0; s < 2; ++s) free_[s] += std::exchange(one.held[s], 0);
    one.asking = one.rejected = false;
  }
  void advance(Entry& entry, SequenceId id, One& one) {
    if (one.state == State::kAside && now_ >= one.back) {
      one.state = State::kWaiting;
      return tell(entry, {Kind::kBack, id});
    }
    const bool answered = one.asking && now_ >= one.answer;
    if (answered) one.asking = false;
    if (one.state == State::kOpening && answered) {
      if (one.refused) release(one);
      one.state = one.refused ? State::kWaiting : State::kRunning;
      return tell(entry, {one.refused ? Kind::kNoPages : Kind::kOpened, id});
    }
    if (one.state != State::kRunning) return;
    if (answered && !one.refused) return tell(entry, {Kind::kExtended, id});
    if (answered) {
      one.rejected = true;
      AdmissionInput input{Kind::kExtendRefused, id};
      for (const auto& [other, state] : entry.all)
        if (state.state == State::kOpening || state.state == State::kRunning)
          input.sharing.push_back(other);
      return tell(entry, input);
    }
    const std::size_t granted = std::min(one.held[0], one.held[1]);
    if (one.known < granted && ++one.known == one.end) {
      release(one);
      entry.all.erase(id);
      ++ended_;
      return tell(entry, {Kind::kEnded, id});
    }
    if (!one.asking && !one.rejected && granted < one.end && one.known + 2 >= granted)
      return ask(one, std::min(granted + 8, one.end));
    if (readers_pause_ && random_.below(500) == 0) {
      release(one);
      one.state = State::kAside;
      one.back = now_ + milliseconds(static_cast<std::int64_t>(random_.below(1000)));
      tell(entry, {Kind::kAside, id});
    }
  }

  Prng random_;
  bool readers_pause_ = random_.below(2) == 0;
  Instant now_;
  std::size_t capacity_ = 0, max_waiting_ = 0;
  std::size_t free_[2] = {0, 0};
  std::vector<Entry> entries_;
  std::size_t submitted_ = 0, ended_ = 0, full_ = 0, preemptions_ = 0;
  std::string problem_;
};

TEST(Admission, EverySequenceGetsItsTurn) {
  std::size_t preemptions = 0, ended = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    Model model(seed);
    ASSERT_EQ(model.play(), "");
    preemptions += model.preemptions();
    ended += model.ended();
  }
  EXPECT_GT(preemptions, 1000u);
  EXPECT_GT(ended, 10'000u);
}

TEST(Admission, InputsThatDoNotFitChangeNothing) {
  Admission core;
  const Instant now{};
  for (const Kind kind :
       {Kind::kTime, Kind::kOpened, Kind::kNoPages, Kind::kNoRoute, Kind::kExtendRefused,
        Kind::kExtended, Kind::kAside, Kind::kBack, Kind::kEnded})
    EXPECT_TRUE(core.step(now, {kind, SequenceId{1}, {SequenceId{1}}}).preempt.empty());
  EXPECT_EQ(core.waiting(), 0u);
  EXPECT_EQ(core.step(now, {Kind::kArrived, SequenceId{1}}).open.size(), 1u);
  EXPECT_TRUE(core.step(now, {Kind::kArrived, SequenceId{1}}).open.empty());
  EXPECT_TRUE(
      core.step(now, {Kind::kExtendRefused, SequenceId{1}, {SequenceId{1}}}).preempt.empty());
  EXPECT_TRUE(core.step(now, {Kind::kBack, SequenceId{1}}).open.empty());
  EXPECT_EQ(core.waiting(), 0u);
  EXPECT_EQ(core.wake_at(), std::nullopt);
}

}  // namespace
}  // namespace mesh::pipeline
