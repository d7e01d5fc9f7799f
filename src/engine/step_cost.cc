#include "engine/step_cost.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace mesh::engine {
namespace {

constexpr double kRowScale = 64;  // so that the three parameters are of one magnitude
constexpr double kRidge = 1e-4;   // decides what steps of one size leave open
constexpr double kLongest = 60;   // seconds; nothing longer is a step
constexpr std::size_t kSize = 3;

using Vector = std::array<double, kSize>;

// Normal equations of a least-squares fit.
struct Equations {
  std::array<Vector, kSize> left{};
  Vector right{};

  void add(const Vector& x, double y, double weight) {
    for (std::size_t i = 0; i < kSize; ++i) {
      for (std::size_t j = 0; j < kSize; ++j) left[i][j] += weight * x[i] * x[j];
      right[i] += weight * x[i] * y;
    }
  }

  // The solution over the parameters in use, the others 0: Gaussian elimination. The matrix is
  // positive definite because of the ridge.
  Vector solve(const std::array<bool, kSize>& used) const {
    std::array<Vector, kSize> a = left;
    Vector y = right;
    for (std::size_t i = 0; i < kSize; ++i) {
      a[i][i] += kRidge * left[i][i] + 1e-300;
      if (used[i]) continue;
      for (std::size_t j = 0; j < kSize; ++j) a[i][j] = a[j][i] = 0;
      a[i][i] = 1;
      y[i] = 0;
    }
    for (std::size_t i = 0; i < kSize; ++i)
      for (std::size_t row = i + 1; row < kSize; ++row) {
        const double factor = a[row][i] / a[i][i];
        for (std::size_t j = i; j < kSize; ++j) a[row][j] -= factor * a[i][j];
        y[row] -= factor * y[i];
      }
    for (std::size_t i = kSize; i > 0; --i) {
      for (std::size_t j = i; j < kSize; ++j) y[i - 1] -= a[i - 1][j] * y[j];
      y[i - 1] /= a[i - 1][i - 1];
    }
    return y;
  }
};

}  // namespace

void StepCost::observe(std::size_t decode_rows, std::size_t prompt_rows, Duration took) {
  if (took <= Duration::zero() || decode_rows + prompt_rows == 0) return;
  Window& window = prompt_rows > 0 ? mixed_ : plain_;
  window.samples[window.seen++ % kKept] = {{1.0, static_cast<double>(decode_rows) / kRowScale,
                                            static_cast<double>(prompt_rows) / kRowScale},
                                           std::min(to_seconds(took), kLongest)};
  knows_decode_ = knows_decode_ || decode_rows > 0;
  fit();
}

void StepCost::fit() {
  Equations equations;
  for (const Window* window : {&plain_, &mixed_}) {
    std::array<double, kKept> taken{};
    const std::size_t size = window->size();
    if (size == 0) continue;
    for (std::size_t i = 0; i < size; ++i) taken[i] = window->samples[i].taken;
    std::nth_element(taken.begin(), taken.begin() + size / 2, taken.begin() + size);
    // A step that ends at once (an error) must not weigh more than all others together.
    const double least = taken[size / 2] / 2;
    for (std::size_t i = 0; i < size; ++i) {
      const Sample& sample = window->samples[i];
      const double unit = std::max(sample.taken, least);
      equations.add(sample.x, sample.taken, 1 / (unit * unit));
    }
  }
  std::array<bool, kParameters> used{true, true, true};
  for (std::size_t round = 0; round < kParameters; ++round) {
    cost_ = equations.solve(used);
    const auto worst = std::min_element(cost_.begin(), cost_.end());
    if (*worst >= 0) break;
    used[static_cast<std::size_t>(worst - cost_.begin())] = false;
  }
  for (double& cost : cost_) cost = std::isfinite(cost) ? std::max(cost, 0.0) : 0.0;
}

double StepCost::decode_seconds(std::size_t decode_rows) const {
  return cost_[0] + cost_[1] * static_cast<double>(decode_rows) / kRowScale;
}

Duration StepCost::decode_step(std::size_t decode_rows) const {
  if (!knows_decode_) return Duration::zero();
  return Duration(static_cast<Duration::rep>(decode_seconds(decode_rows) * 1e9));
}

std::size_t StepCost::prompt_rows(std::size_t decode_rows, std::size_t most) const {
  most = std::max<std::size_t>(most, 1);
  if (decode_rows == 0 || !knows_decode_ || mixed_.seen == 0) return most;
  const double budget = (kMixedStepShare - 1) * decode_seconds(decode_rows);
  const double row = cost_[2] / kRowScale;
  if (row * static_cast<double>(most) <= budget) return most;
  const auto rows = static_cast<std::size_t>(budget / row);  // < most
  if (rows >= 16) return rows / 16 * 16;
  if (rows >= 8) return 8;
  return std::max<std::size_t>(rows, 1);
}

}  // namespace mesh::engine
