#pragma once
// Frequencies of rotary embedding, the same bits on every machine.

#include "model/spec.h"
#include "ops/ops.h"

namespace mesh::model {

// inv_freq [dims / 2] in f64 by exact arithmetic, scaled as configured, and the factor of cos and
// sin. `spec` comes from parse_config(), which checked its ranges. Source: Su et al. 2021 (RoPE);
// Peng et al. 2023 (YaRN); transformers, modeling_rope_utils.py.
ops::RopeTable rope_table(const RopeSpec& spec);

}  // namespace mesh::model
