#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "base/check.h"
#include "ops/exact_math.h"

namespace mesh::model {
namespace {

constexpr double kTwoPi = 0x1.921fb54442d18p+2;

// Waves longer than the old context are stretched by `factor`, short ones kept, those between are
// mixed.
double llama3_frequency(const RopeSpec& spec, double frequency) {
  const double wavelength = kTwoPi / frequency;
  if (wavelength < spec.original_context / spec.high_freq_factor) return frequency;
  if (wavelength > spec.original_context / spec.low_freq_factor) return frequency / spec.factor;
  const double s = (spec.original_context / wavelength - spec.low_freq_factor) /
                   (spec.high_freq_factor - spec.low_freq_factor);
  return (1.0 - s) * frequency / spec.factor + s * frequency;
}

struct Ramp {
  double low = 0;
  double high = 0;
  double at(double i) const { return std::clamp((i - low) / (high - low), 0.0, 1.0); }
};

// Indices between which YaRN goes from the plain to the stretched frequency.
Ramp yarn_ramp(const RopeSpec& spec) {
  const double dims = spec.dims;
  // Index whose wave turns `rotations` times within the original context.
  const auto index_of = [&](double rotations) {
    return dims * ops::exact_log(spec.original_context / (kTwoPi * rotations)) /
           (2.0 * ops::exact_log(spec.theta));
  };
  Ramp ramp{.low = index_of(spec.beta_fast), .high = index_of(spec.beta_slow)};
  if (spec.truncate) ramp = {.low = std::floor(ramp.low), .high = std::ceil(ramp.high)};
  ramp.low = std::max(ramp.low, 0.0);
  ramp.high = std::min(ramp.high, dims - 1.0);
  if (ramp.low == ramp.high) ramp.high += 0.001;  // the sources' guard against a division by zero
  return ramp;
}

double yarn_mscale(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * ops::exact_log(factor) + 1.0;
}

double yarn_factor(const RopeSpec& spec) {
  if (spec.attention_factor != 0.0) return spec.attention_factor;
  if (spec.mscale != 0.0 && spec.mscale_all_dim != 0.0)
    return yarn_mscale(spec.factor, spec.mscale) / yarn_mscale(spec.factor, spec.mscale_all_dim);
  return yarn_mscale(spec.factor, 1.0);
}

}  // namespace

ops::RopeTable rope_table(const RopeSpec& spec) {
  MESH_CHECK(spec.scaling != RopeScaling::kFactors || spec.factors.size() == spec.dims / 2,
             "{} factors of {} dims", spec.factors.size(), spec.dims);
  MESH_CHECK(spec.dims >= 2 && spec.dims % 2 == 0 && spec.theta > 1.0, "dims {}, theta {}",
             spec.dims, spec.theta);
  const bool is_yarn = spec.scaling == RopeScaling::kYarn;
  const Ramp ramp = is_yarn ? yarn_ramp(spec) : Ramp{};
  ops::RopeTable table;
  table.interleaved = spec.interleaved;
  table.factor = is_yarn ? yarn_factor(spec) : 1.0;
  table.inv_freq.resize(spec.dims / 2);
  for (std::size_t i = 0; i < table.inv_freq.size(); ++i) {
    const double index = static_cast<double>(i);
    double frequency = ops::exact_pow(spec.theta, -2.0 * index / static_cast<double>(spec.dims));
    switch (spec.scaling) {
      case RopeScaling::kNone:
        break;
      case RopeScaling::kLinear:
        frequency /= spec.factor;
        break;
      case RopeScaling::kLlama3:
        frequency = llama3_frequency(spec, frequency);
        break;
      case RopeScaling::kFactors:
        frequency /= spec.factors[i];
        break;
      case RopeScaling::kYarn:
        frequency = ramp.at(index) * frequency / spec.factor + (1.0 - ramp.at(index)) * frequency;
        break;
    }
    table.inv_freq[i] = frequency;
  }
  return table;
}

}  // namespace mesh::model
