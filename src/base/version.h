#pragma once
// The engine version: part of HELLO, so that only nodes that compute alike are linked.

#include <string_view>

namespace mesh {

std::string_view engine_version();   // "0.1.0"
constexpr int kProtocolVersion = 1;  // hard break, also in the ALPN name "mesh/1"

}  // namespace mesh
