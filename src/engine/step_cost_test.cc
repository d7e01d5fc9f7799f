#include "engine/step_cost.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>

#include "base/random.h"

namespace mesh::engine {
namespace {

Duration microseconds(double n) {
  return Duration(static_cast<Duration::rep>(n * 1e3));
}

// A stage whose steps take base + decode·per_decode + prompt·per_prompt µs, give or take `noise`.
struct Machine {
  double base, per_decode, per_prompt, noise = 0;
  double step_time(std::size_t decode, std::size_t prompt) const {
    return base + per_decode * static_cast<double>(decode) +
           per_prompt * static_cast<double>(prompt);
  }
  // Runs as a stage does: the rows that the cost allows while prompts wait.
  void run(StepCost& cost, Prng& random, int steps, std::size_t decode, bool prompts) const {
    for (int i = 0; i < steps; ++i) {
      const std::size_t prompt = prompts ? cost.prompt_rows(decode, 512) : 0;
      const double factor = random.range(1 - noise, 1 + noise);
      cost.observe(decode, prompt, microseconds(step_time(decode, prompt) * factor));
    }
  }
};

TEST(StepCost, GivesTheWholeChunkUntilItKnows) {
  StepCost cost;
  EXPECT_EQ(cost.prompt_rows(8, 512), 512u);
  EXPECT_EQ(cost.decode_step(8), Duration::zero());
  for (int i = 0; i < 100; ++i) {
    cost.observe(8, 0, Duration::zero());
    cost.observe(8, 512, Duration::zero());
    cost.observe(0, 0, milliseconds(5));
    cost.observe(0, 512, Duration(-5));
  }
  EXPECT_EQ(cost.prompt_rows(8, 512), 512u);
  EXPECT_EQ(cost.prompt_rows(8, 0), 1u);
}

TEST(StepCost, KeepsAMixedStepWithinItsShareOfADecodeStep) {
  const Machine machines[] = {
      {10'000, 100, 200, 0.05},  // a processor: prompts are dear
      {2'000, 5, 10, 0.05},      // an accelerator
      {500, 400, 400, 0.05},     // every row costs the same
      {50'000, 0, 3'000, 0.02},
  };
  for (const Machine& machine : machines) {
    for (std::size_t decode : {1u, 8u, 64u}) {
      Prng random(decode);
      StepCost cost;
      machine.run(cost, random, 3, 0, true);
      machine.run(cost, random, 60, decode, false);
      machine.run(cost, random, 60, decode, true);
      machine.run(cost, random, 20, decode, false);
      const std::size_t rows = cost.prompt_rows(decode, 512);
      const double share = machine.step_time(decode, rows) / machine.step_time(decode, 0);
      std::printf("base %.0f us, decode %.0f, prompt %.0f, %zu streams: %zu rows, share %.2f\n",
                  machine.base, machine.per_decode, machine.per_prompt, decode, rows, share);
      if (rows > 1) {
        EXPECT_LE(share, kMixedStepShare * 1.1);
      }
      const double ideal = 0.8 * machine.step_time(decode, 0) / machine.per_prompt;
      EXPECT_GE(static_cast<double>(rows), std::min(512.0, 0.8 * ideal - 15));
      EXPECT_EQ(cost.prompt_rows(0, 512), 512u);
    }
  }
}

TEST(StepCost, CountsInRowsThatKernelsLike) {
  StepCost cost;
  Prng random(1);
  const Machine machine{10'000, 0, 98};
  machine.run(cost, random, 50, 4, false);
  for (int i = 0; i < 50; ++i) cost.observe(4, 64, microseconds(machine.step_time(4, 64)));
  EXPECT_EQ(cost.prompt_rows(4, 512), 80u);
  EXPECT_EQ(cost.prompt_rows(4, 50), 50u);
  EXPECT_EQ(cost.prompt_rows(4, 1), 1u);
}

TEST(StepCost, KeepsThePriceOfPromptsThroughALongAnswer) {
  StepCost cost;
  Prng random(2);
  const Machine machine{10'000, 100, 200, 0.05};
  machine.run(cost, random, 20, 8, true);
  machine.run(cost, random, 20, 8, false);
  const std::size_t before = cost.prompt_rows(8, 512);
  machine.run(cost, random, 20'000, 8, false);
  const std::size_t after = cost.prompt_rows(8, 512);
  EXPECT_NEAR(static_cast<double>(after), static_cast<double>(before), 16);
}

TEST(StepCost, OneOddStepChangesLittleAndANewPaceIsLearned) {
  StepCost cost;
  Prng random(3);
  const Machine machine{10'000, 100, 200, 0.02};
  machine.run(cost, random, 100, 8, true);
  machine.run(cost, random, 100, 8, false);
  const double before = to_milliseconds(cost.decode_step(8));
  EXPECT_NEAR(before, 10.8, 0.8);
  cost.observe(8, 0, seconds(30));
  EXPECT_NEAR(to_milliseconds(cost.decode_step(8)), before, 0.25 * before);
  machine.run(cost, random, 100, 8, false);
  EXPECT_NEAR(to_milliseconds(cost.decode_step(8)), before, 0.1 * before);
  const Machine slower{40'000, 400, 800, 0.02};
  slower.run(cost, random, 150, 8, false);
  EXPECT_NEAR(to_milliseconds(cost.decode_step(8)), 43.2, 4.5);
}

TEST(StepCost, StaysWithinBoundsWhateverIsMeasured) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Prng random(seed);
    StepCost cost, twin;
    for (int i = 0; i < 300; ++i) {
      const std::size_t decode = random.below(1025), prompt = random.below(1025);
      const Duration took(static_cast<Duration::rep>(random.next() >> (1 + random.below(63))));
      cost.observe(decode, prompt, took);
      twin.observe(decode, prompt, took);
      const std::size_t most = random.below(600), streams = random.below(1025);
      const std::size_t rows = cost.prompt_rows(streams, most);
      ASSERT_GE(rows, 1u);
      ASSERT_LE(rows, std::max<std::size_t>(most, 1));
      ASSERT_LE(rows, cost.prompt_rows(streams, most + 100) + 15);
      ASSERT_EQ(rows, twin.prompt_rows(streams, most));
      ASSERT_GE(cost.decode_step(streams), Duration::zero());
      ASSERT_GE(cost.decode_step(streams + 64), cost.decode_step(streams));
    }
  }
}

}  // namespace
}  // namespace mesh::engine
