#pragma once
// The one table that maps an error code to its name, HTTP status and number on the wire.

#include <cstdint>
#include <string_view>

#include "base/result.h"

namespace mesh {

std::string_view code_name(Code code);      // "resource_exhausted"
int http_status(Code code);                 // 429
std::uint32_t wire_code(Code code);         // stable number, never reused
Code code_from_wire(std::uint32_t number);  // unknown numbers become kInternal

}  // namespace mesh
