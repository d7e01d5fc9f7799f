#include "api/page.h"

namespace mesh::api {
namespace {

constexpr std::string_view kIndex =
#include "api/page_index_html.inc"
    ;
constexpr std::string_view kScript =
#include "api/page_app_js.inc"
    ;
constexpr std::string_view kStyle =
#include "api/page_style_css.inc"
    ;

}  // namespace

const std::vector<PageFile>& page_files() {
  static const std::vector<PageFile> kFiles = {
      {"/", "text/html; charset=utf-8", kIndex},
      {"/app.js", "text/javascript; charset=utf-8", kScript},
      {"/style.css", "text/css; charset=utf-8", kStyle},
  };
  return kFiles;
}

}  // namespace mesh::api
