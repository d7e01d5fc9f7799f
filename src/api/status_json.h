#pragma once
// The JSON of the routes that show the mesh rather than use it.

#include <cstdint>
#include <string>

#include "node/gateway.h"

namespace mesh::api {

std::string mesh_status_json(const node::MeshStatus& status);                   // GET /mesh/status
std::string ready_json(const node::MeshStatus& status);                         // GET /ready
std::string version_json(const node::MeshStatus& status);                       // GET /version
std::string models_json(const node::MeshStatus& status, std::int64_t created);  // GET /v1/models
std::string model_json(const node::MeshStatus& status, std::int64_t created);

}  // namespace mesh::api
