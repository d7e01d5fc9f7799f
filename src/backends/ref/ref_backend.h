#pragma once
// The reference backend: plain loops, sums in f64, one thread. An oracle of values for the
// conformance table.

#include <memory>

#include "ops/ops.h"

namespace mesh::backends::ref {

// Numeric class ref/1: every sum in f64, one rounding to f32 at the end of an operator; residual, K
// and V are rounded where the operator interface says so. Values agree with other classes to
// tolerance, never by bits.
std::unique_ptr<ops::Backend> make_ref_backend();

}  // namespace mesh::backends::ref
