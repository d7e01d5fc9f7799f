#pragma once
// The table of model families. Adding one: a file in families/ and a line in registry.cc.

#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "model/config_fields.h"
#include "model/spec.h"

namespace mesh::model {

struct Family {
  std::string_view model_type;    // config.json "model_type"
  std::string_view architecture;  // config.json "architectures"[0]
  // Everything but stop ids and residual type, which are found alike in all families.
  Result<ModelSpec> (*parse)(const ConfigFields& config);
};

std::span<const Family> families();  // ascending by model_type

// By model_type, else by architectures[0]. Errors: unsupported, listing what is supported.
Result<const Family*> find_family(const ConfigFields& config);

}  // namespace mesh::model
