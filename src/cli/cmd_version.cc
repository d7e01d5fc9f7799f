// toolkit-mesh version: what two nodes compare before they link.

#include <cstdio>
#include <nlohmann/json.hpp>

#include "backends/backends.h"
#include "base/bytes.h"
#include "base/version.h"
#include "cli/options.h"

namespace mesh::cli {

int run_version(const VersionOptions& options) {
  const Result<std::unique_ptr<ops::Backend>> backend = backends::make_backend("cpu", {});
  if (!backend.ok()) {
    fmt::print(stderr, "✗ {}\n", backend.error().message);
    return kFailed;
  }
  const ops::BackendInfo info = (*backend)->info();
  const std::string self_test = to_hex((*backend)->self_test());
  if (options.json) {
    const nlohmann::ordered_json out = {
        {"version", engine_version()}, {"protocol", kProtocolVersion},
        {"backend", info.name},        {"numeric_class", info.numeric_class},
        {"self_test", self_test},      {"isa", info.isa},
        {"device", info.device}};
    fmt::print("{}\n", out.dump(2));
  } else {
    fmt::print("toolkit-mesh {}, protocol mesh/{}\n{} ({}), numeric class {}, self-test {}\n",
               engine_version(), kProtocolVersion, info.device, info.isa, info.numeric_class,
               self_test);
  }
  return kDone;
}

}  // namespace mesh::cli
