#pragma once
// How long a step takes, learned from the steps of this stage, and how many prompt rows may
// therefore ride with running generations. Pure: durations in, row counts out; no clock.

#include <array>
#include <cstddef>

#include "base/time.h"

namespace mesh::engine {

// A step with prompt rows may take so many times what its decode rows alone would take: the longest
// gap between two tokens of a stream while somebody else's prompt is read.
inline constexpr double kMixedStepShare = 1.8;

// Fits t = c + d·decode_rows + b·prompt_rows, none below zero, to the last kKept steps without and
// the last kKept with prompt rows by least squares of the relative error: so it follows a new pace
// within kKept steps, one endless step weighs nothing, and what a row of a prompt costs is not
// forgotten through any number of steps without one. Not thread-safe: it belongs to the control
// loop.
class StepCost {
 public:
  // A step that has been measured. Durations of zero (a simulated engine) teach nothing.
  void observe(std::size_t decode_rows, std::size_t prompt_rows, Duration took);
  // Prompt rows of the next step beside `decode_rows` running generations, 1 to max(1, most):
  // `most` without generations or while either cost is unknown; else so many that the step takes
  // kMixedStepShare of a decode-only one, from 8 rows on as 8 or a multiple of 16.
  std::size_t prompt_rows(std::size_t decode_rows, std::size_t most) const;
  // Expected time of a step of generations only; zero while unknown.
  Duration decode_step(std::size_t decode_rows) const;

 private:
  static constexpr std::size_t kKept = 64, kParameters = 3;
  using Vector = std::array<double, kParameters>;
  struct Sample {
    Vector x;          // 1, decode rows and prompt rows, in units of kRowScale
    double taken = 0;  // seconds
  };
  // The newest kKept samples.
  struct Window {
    std::array<Sample, kKept> samples;
    std::size_t seen = 0;
    std::size_t size() const { return seen < kKept ? seen : kKept; }
  };

  void fit();
  double decode_seconds(std::size_t decode_rows) const;

  Window plain_, mixed_;  // steps without and with prompt rows
  bool knows_decode_ = false;
  Vector cost_{};  // seconds per step, per kRowScale decode rows and per kRowScale prompt rows
};

}  // namespace mesh::engine
