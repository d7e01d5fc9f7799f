#pragma once
// The built-in page: three files compiled into the program.

#include <string_view>
#include <vector>

namespace mesh::api {

struct PageFile {
  std::string_view path;  // "/app.js"
  std::string_view type;
  std::string_view text;
};

const std::vector<PageFile>& page_files();

}  // namespace mesh::api
