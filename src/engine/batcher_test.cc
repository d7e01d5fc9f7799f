#include "engine/batcher.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include "base/random.h"
#include "base/scenario_files.h"
#include "engine/step_job.h"

namespace mesh::engine {
namespace {

TokenId token_of(std::uint64_t sequence, std::int32_t position) {
  return static_cast<TokenId>(sequence * 100000 + static_cast<std::uint64_t>(position));
}

std::vector<TokenId> tokens_of(std::uint64_t sequence, std::int32_t first, std::size_t count) {
  std::vector<TokenId> out;
  for (std::size_t i = 0; i < count; ++i)
    out.push_back(token_of(sequence, first + static_cast<std::int32_t>(i)));
  return out;
}

// Hidden rows of 12 bytes: sequence, position, and their sum.
constexpr std::size_t kRowBytes = 12;
Buffer hidden_of(std::uint64_t sequence, std::int32_t first, std::size_t count) {
  Buffer rows(count * kRowBytes);
  for (std::size_t i = 0; i < count; ++i) {
    const auto position = static_cast<std::int32_t>(first + static_cast<std::int32_t>(i));
    const std::int32_t row[3] = {static_cast<std::int32_t>(sequence), position,
                                 static_cast<std::int32_t>(sequence) + position};
    std::memcpy(rows.data() + i * kRowBytes, row, kRowBytes);
  }
  return rows;
}

// One line per step: "d2@40 p1@0+3": decode of sequence 2 at position 40, three prompt rows of 1.
std::string text_of(const BatchPlan& plan) {
  std::string text;
  for (const BatchPart& part : plan.parts) {
    text += (text.empty() ? "" : " ") + std::string(part.decode ? "d" : "p") +
            std::to_string(part.sequence.value) + "@" + std::to_string(part.first_position);
    if (!part.decode) text += "+" + std::to_string(part.rows);
  }
  return text;
}

// Plays one command of tests/scenarios/batcher/*.txt and gives the lines that follow from it:
//   options batch=N prompt=N (anew) | prompt S FIRST COUNT | decode S POSITION | drop S
//   step [decode=N] [prompt=N]
class Scenario {
 public:
  std::vector<std::string> play(const std::string& line) {
    std::istringstream text(reply(line));
    std::vector<std::string> out;
    for (std::string one; std::getline(text, one);) out.push_back(one);
    return out;
  }

 private:
  std::string reply(const std::string& line) {
    std::istringstream words(line);
    std::string verb;
    words >> verb;
    if (verb == "options" || verb == "step") return with_limits(verb, words);
    std::uint64_t sequence = 0;
    std::int32_t first = 0;
    std::size_t count = 1;
    words >> sequence >> first;
    if (verb == "drop")
      return "dropped " + std::to_string(batcher_->drop(SequenceId{sequence})) + "\n";
    if (verb != "prompt" && verb != "decode") return "unknown command " + verb + "\n";
    if (verb == "prompt") words >> count;
    const auto added = batcher_->add_rows(SequenceId{sequence}, first,
                                          tokens_of(sequence, first, count), {}, verb == "decode");
    return added.ok() ? "" : "error: " + added.error().message + "\n";
  }

  std::string with_limits(const std::string& verb, std::istringstream& words) {
    BatcherOptions options;
    BatchLimits most;
    for (std::string word; words >> word;) {
      const std::size_t equals = word.find('='), value = std::stoul(word.substr(equals + 1));
      const std::string name = word.substr(0, equals);
      if (name == "batch") options.batch_rows = value;
      if (name == "decode") most.decode_rows = value;
      if (name == "prompt") options.prompt_rows = most.prompt_rows = value;
    }
    if (verb == "options") {
      batcher_.emplace(options);
      return {};
    }
    const auto plan = batcher_->next(most);
    return (plan ? text_of(*plan) : "nothing") + "\n";
  }

  std::optional<Batcher> batcher_ = Batcher(BatcherOptions{});
};

// Commands stand at the left margin, what follows from them is indented below.
// MESH_UPDATE_GOLDEN=1 rewrites the indented lines; the difference is then reviewed like code.
TEST(BatcherScenario, PlaysAsWritten) {
  const auto all = play_scenarios<Scenario>(
      std::filesystem::path(MESH_TEST_DATA).parent_path() / "scenarios" / "batcher",
      std::getenv("MESH_UPDATE_GOLDEN") != nullptr);
  ASSERT_GE(all.size(), 8u);
  for (const PlayedScenario& one : all) EXPECT_EQ(one.written, one.played) << one.file;
}

TEST(Batcher, DefaultLimitsAreTheOptions) {
  Batcher batcher({.batch_rows = 8, .prompt_rows = 4});
  ASSERT_TRUE(batcher.add_rows(SequenceId{1}, 0, tokens_of(1, 0, 6), {}, false).ok());
  ASSERT_TRUE(batcher.add_rows(SequenceId{2}, 9, tokens_of(2, 9, 1), {}, true).ok());
  EXPECT_EQ(batcher.waiting_decodes(), 1u);
  EXPECT_EQ(text_of(*batcher.next()), "d2@9 p1@0+4");
  EXPECT_EQ(text_of(*batcher.next()), "p1@4+2");
  EXPECT_FALSE(batcher.next().has_value());
}

TEST(Batcher, ChecksSizesAndLimits) {
  Batcher batcher({.row_bytes = kRowBytes});
  const auto code = [&](std::span<const TokenId> tokens, std::size_t bytes, bool decode) {
    return batcher.add_rows(SequenceId{1}, 0, tokens, Buffer(bytes), decode).error().code;
  };
  EXPECT_EQ(code({}, kRowBytes + 1, false), Code::kInvalidArgument);
  EXPECT_EQ(code(tokens_of(1, 0, 3), 2 * kRowBytes, false), Code::kInvalidArgument);
  EXPECT_EQ(code({}, 2 * kRowBytes, true), Code::kInvalidArgument);
  for (std::uint64_t s = 0; s < limits::kSequencesPerStage; ++s)
    ASSERT_TRUE(batcher.add_rows(SequenceId{s}, 0, {}, hidden_of(s, 0, 1), true).ok());
  EXPECT_EQ(batcher.add_rows(SequenceId{5000}, 0, {}, hidden_of(0, 0, 1), true).error().code,
            Code::kResourceExhausted);
}

// Every row that went in comes out once, in order, with its own hidden bytes; budgets hold; a
// sequence stands at most once in a plan; decode parts come first; nothing waits forever.
void random_load(std::uint64_t seed) {
  Prng random(seed);
  const bool hidden = random.below(2) == 1;
  BatcherOptions options;
  options.row_bytes = hidden ? kRowBytes : 0;
  options.batch_rows = 2 + random.below(20);
  options.prompt_rows = 1 + random.below(20);
  Batcher batcher(options);
  std::map<std::uint64_t, std::int32_t> added, done;
  std::map<std::uint64_t, int> idle_steps;
  for (int turn = 0; turn < 300; ++turn) {
    const std::uint64_t sequence = random.below(12);
    if (random.below(2) == 0) {
      const std::size_t count = random.below(2) == 0 ? 1 : 1 + random.below(30);
      const std::int32_t first = added[sequence];
      const bool tokens = !hidden || random.below(2) == 0;
      ASSERT_TRUE(batcher
                      .add_rows(SequenceId{sequence}, first,
                                tokens ? tokens_of(sequence, first, count) : std::vector<TokenId>{},
                                hidden ? hidden_of(sequence, first, count) : Buffer(),
                                count == 1 && random.below(2) == 0)
                      .ok());
      added[sequence] += static_cast<std::int32_t>(count);
    } else if (random.below(20) == 0) {
      EXPECT_EQ(batcher.drop(SequenceId{sequence}),
                static_cast<std::size_t>(added[sequence] - done[sequence]));
      done[sequence] = added[sequence];
    } else {
      const BatchLimits most = random.below(2) == 0
                                   ? BatchLimits{options.batch_rows, options.prompt_rows, false}
                                   : BatchLimits{random.below(30), random.below(30), false};
      const std::size_t waited = batcher.waiting_rows();
      auto plan = batcher.next(most);
      ASSERT_EQ(plan.has_value(), waited > 0);
      if (!plan) continue;
      ASSERT_LE(plan->rows(), options.batch_rows);
      ASSERT_EQ(plan->hidden.size(), plan->rows() * options.row_bytes);
      std::set<std::uint64_t> seen;
      std::size_t prompt_rows = 0, decode_rows = 0, offset = 0;
      bool prompts_began = false;
      for (const BatchPart& part : plan->parts) {
        const std::uint64_t id = part.sequence.value;
        ASSERT_TRUE(seen.insert(id).second);
        ASSERT_EQ(part.first_position, done[id]);
        ASSERT_EQ(static_cast<std::size_t>(part.offset), offset);
        ASSERT_GT(part.rows, 0);
        ASSERT_FALSE(part.decode && prompts_began);
        prompts_began = prompts_began || !part.decode;
        decode_rows += part.decode ? 1 : 0;
        prompt_rows += part.decode ? 0 : static_cast<std::size_t>(part.rows);
        for (std::int32_t i = 0; i < part.rows; ++i, ++offset) {
          const TokenId token = plan->tokens[offset];
          ASSERT_TRUE(token == token_of(id, done[id]) || (hidden && token == 0));
          if (hidden) {
            ASSERT_EQ(std::memcmp(plan->hidden.data() + offset * kRowBytes,
                                  hidden_of(id, done[id], 1).data(), kRowBytes),
                      0);
          }
          ++done[id];
        }
      }
      ASSERT_EQ(offset, plan->rows());
      ASSERT_LE(prompt_rows, options.prompt_rows);
      ASSERT_LE(prompt_rows, std::max<std::size_t>(most.prompt_rows, 1));
      ASSERT_LE(decode_rows, std::max<std::size_t>(most.decode_rows, 1));
      for (const auto& [id, count] : added) {
        int& idle = idle_steps[id];
        idle = seen.contains(id) || done[id] == count ? 0 : idle + 1;
        ASSERT_LE(idle, 24) << "sequence " << id << " starves";
      }
    }
    std::size_t waiting = 0;
    for (const auto& [id, count] : added) waiting += static_cast<std::size_t>(count - done[id]);
    ASSERT_EQ(batcher.waiting_rows(), waiting);
  }
  while (auto plan = batcher.next())
    for (const BatchPart& part : plan->parts) done[part.sequence.value] += part.rows;
  for (const auto& [id, count] : added) EXPECT_EQ(done[id], count);
  EXPECT_EQ(batcher.waiting_sequences(), 0u);
}

TEST(Batcher, LosesNothingKeepsOrderAndBudget) {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    random_load(seed);
    if (HasFatalFailure()) return;
  }
}

TEST(StepJob, CarriesPlansAndPagesAndChecksThem) {
  kvcache::PageTables tables(6);
  ASSERT_TRUE(tables.reserve(SequenceId{1}, 70).ok());
  ASSERT_TRUE(tables.reserve(SequenceId{2}, 10).ok());
  Batcher batcher({});
  ASSERT_TRUE(batcher.add_rows(SequenceId{1}, 64, tokens_of(0, 64, 1), {}, true).ok());
  ASSERT_TRUE(batcher.add_rows(SequenceId{2}, 0, tokens_of(0, 0, 3), {}, false).ok());
  std::vector<SampleRows> sample(2);  // the last row of each part
  sample[0].rows.emplace_back(0, SampleSpec{});
  sample[1].rows.emplace_back(2, SampleSpec{});
  const auto job = make_step_job(*batcher.next(), tables, sample);
  ASSERT_TRUE(job.ok());
  EXPECT_EQ(job->positions, (std::vector<std::int32_t>{64, 0, 1, 2}));
  EXPECT_EQ(job->row_start, (std::vector<std::int32_t>{0, 1, 4}));
  EXPECT_EQ(job->kv_length, (std::vector<std::int32_t>{65, 3}));
  EXPECT_EQ(job->page_start, (std::vector<std::int32_t>{0, 2, 3}));
  EXPECT_EQ(job->pages, (std::vector<PageId>{PageId{1}, PageId{2}, PageId{3}}));
  EXPECT_EQ(job->sample_rows, (std::vector<std::int32_t>{0, 3}));
  EXPECT_TRUE(check_step_job(*job, 6, 100, 100, 0).ok());
  EXPECT_FALSE(check_step_job(*job, 3, 100, 100, 0).ok());  // page out of the pool
  EXPECT_FALSE(check_step_job(*job, 6, 64, 100, 0).ok());   // context
  EXPECT_FALSE(check_step_job(*job, 6, 100, 64, 0).ok());   // vocabulary
  EXPECT_FALSE(check_step_job(*job, 6, 100, 100, 8).ok());  // no residual rows
  ASSERT_TRUE(batcher.add_rows(SequenceId{2}, 3, tokens_of(0, 3, 62), {}, false).ok());
  EXPECT_EQ(make_step_job(*batcher.next(), tables, {}).error().message,
            "65 positions need 2 KV pages, the sequence has reserved 1");
}

// A job with one field damaged is refused, never indexes memory.
TEST(StepJob, EveryDamagedFieldIsRefused) {
  const auto good = [] {
    StepJob job;
    job.tokens = {1, 2, 3};
    job.positions = {5, 0, 1};
    job.row_start = {0, 1, 3};
    job.kv_length = {6, 2};
    job.page_start = {0, 1, 2};
    job.pages = {PageId{1}, PageId{2}};
    return job;
  };
  EXPECT_TRUE(check_step_job(good(), 3, 64, 10, 0).ok());
  const std::function<void(StepJob&)> damage[] = {
      [](StepJob& j) { j.tokens.pop_back(); },
      [](StepJob& j) { j.tokens[0] = -1; },
      [](StepJob& j) { j.positions[2] = 3; },
      [](StepJob& j) { j.positions = {}; },
      [](StepJob& j) {
        j.row_start = {0, 3};
      },
      [](StepJob& j) {
        j.row_start = {0, 4, 3};
      },
      [](StepJob& j) {
        j.row_start = {0, 0, 3};
      },
      [](StepJob& j) { j.kv_length[1] = -5; },
      [](StepJob& j) { j.kv_length[0] = 65; },
      [](StepJob& j) {
        j.page_start = {0, 2, 1};
      },
      [](StepJob& j) {
        j.page_start = {0, 0, 2};
      },
      [](StepJob& j) { j.pages[0] = PageId{0}; },
      [](StepJob& j) { j.pages[1] = PageId{3}; },
      [](StepJob& j) { j.sample_rows = {3}; },
      [](StepJob& j) {
        j.sample_rows = {1, 1};
      },
      [](StepJob& j) { j.sampling.resize(1); },
      [](StepJob& j) {
        j.sample_rows = {1};
        j.sampling.resize(2);
      },
      [](StepJob& j) {
        j.sample_rows = {1};
        j.sampling.resize(1);
        j.sampling[0].given = -1;
      },
      [](StepJob& j) {
        SamplingParams params;
        params.temperature = -1;
        j.sample_rows = {1};
        j.sampling.resize(1);
        j.sampling[0].params = std::make_shared<const SamplingParams>(params);
      },
  };
  for (std::size_t i = 0; i < std::size(damage); ++i) {
    StepJob job = good();
    damage[i](job);
    EXPECT_FALSE(check_step_job(job, 3, 64, 10, 0).ok()) << "damage " << i;
  }
}

TEST(StepJob, TakesSeveralSampleRowsOfAPart) {
  kvcache::PageTables tables(6);
  ASSERT_TRUE(tables.reserve(SequenceId{1}, 70).ok());
  ASSERT_TRUE(tables.reserve(SequenceId{2}, 10).ok());
  Batcher batcher({});
  ASSERT_TRUE(batcher.add_rows(SequenceId{1}, 64, tokens_of(0, 64, 1), {}, true).ok());
  ASSERT_TRUE(batcher.add_rows(SequenceId{2}, 0, tokens_of(0, 0, 3), {}, false).ok());
  std::vector<SampleRows> sample(2);
  for (std::int32_t row : {0, 2}) {
    SampleSpec spec;
    spec.position = static_cast<std::uint32_t>(row + 1);
    if (row == 0) spec.given = 9;
    sample[1].rows.emplace_back(row, spec);
  }
  const auto job = make_step_job(*batcher.next(), tables, sample);
  ASSERT_TRUE(job.ok());
  EXPECT_EQ(job->sample_rows, (std::vector<std::int32_t>{1, 3}));
  ASSERT_EQ(job->sampling.size(), 2u);
  EXPECT_EQ(job->sampling[0].given, 9);
  EXPECT_EQ(job->sampling[1].position, 3u);
  EXPECT_TRUE(check_step_job(*job, 6, 100, 100, 0, 10).ok());
  EXPECT_EQ(check_step_job(*job, 6, 100, 100, 0, 9).error().message,
            "token 9 to score is outside the vocabulary of 9");
}

TEST(StepJob, ParametersOutsideTheirRangeAreRefused) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(check_sampling({}).ok());
  const std::function<void(SamplingParams&)> damage[] = {
      [](SamplingParams& p) { p.temperature = -0.5f; },
      [](SamplingParams& p) { p.temperature = kNan; },
      [](SamplingParams& p) { p.temperature = kInf; },
      [](SamplingParams& p) { p.top_p = 0; },
      [](SamplingParams& p) { p.top_p = 1.5f; },
      [](SamplingParams& p) { p.min_p = -1; },
      [](SamplingParams& p) { p.min_p = kNan; },
      [](SamplingParams& p) { p.repetition_penalty = 0; },
      [](SamplingParams& p) { p.repetition_penalty = kInf; },
      [](SamplingParams& p) { p.presence_penalty = 2.5f; },
      [](SamplingParams& p) { p.frequency_penalty = kNan; },
      [](SamplingParams& p) {
        p.logit_bias = {{3, -kInf}};
      },
  };
  for (std::size_t i = 0; i < std::size(damage); ++i) {
    SamplingParams params;
    damage[i](params);
    EXPECT_FALSE(check_sampling(params).ok()) << "damage " << i;
  }
}

TEST(Batcher, PromptsThatHaveToWaitLetDecodesPass) {
  Batcher batcher(BatcherOptions{});
  const std::vector<TokenId> prompt(100, 3), token(1, 4);
  ASSERT_TRUE(batcher.add_rows(SequenceId{1}, 0, prompt, Buffer(), false).ok());
  BatchLimits held;
  held.prompts_wait = true;
  EXPECT_FALSE(batcher.next(held));
  ASSERT_TRUE(batcher.add_rows(SequenceId{2}, 9, token, Buffer(), true).ok());
  const std::optional<BatchPlan> plan = batcher.next(held);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->parts, (std::vector<BatchPart>{{SequenceId{2}, 9, 1, 0, true}}));
  EXPECT_FALSE(batcher.next(held));
  EXPECT_EQ(batcher.next()->rows(), 100u);
}

TEST(Batcher, DecodesThatWaitForOthersLeaveTheStepToPrompts) {
  Batcher batcher({});
  const std::vector<TokenId> prompt(100, 3), token(1, 4);
  ASSERT_TRUE(batcher.add_rows(SequenceId{1}, 9, token, Buffer(), true).ok());
  BatchLimits held;
  held.decodes_wait = true;
  EXPECT_FALSE(batcher.next(held));
  ASSERT_TRUE(batcher.add_rows(SequenceId{2}, 0, prompt, Buffer(), false).ok());
  const std::optional<BatchPlan> plan = batcher.next(held);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->parts, (std::vector<BatchPart>{{SequenceId{2}, 0, 100, 0, false}}));
  EXPECT_FALSE(batcher.next(held));
  held.prompts_wait = true;
  EXPECT_FALSE(batcher.next(held));
  EXPECT_EQ(batcher.next()->rows(), 1u);
}

}  // namespace
}  // namespace mesh::engine
