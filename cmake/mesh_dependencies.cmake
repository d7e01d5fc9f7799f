# Every third-party library, each from a Debian 12 package named in tools/packages.txt.
# Targets: Boost::headers OpenSSL::SSL protobuf::libprotobuf fmt::fmt CLI11::CLI11
#          nlohmann_json::nlohmann_json simdjson::simdjson PkgConfig::{CURL,PCRE2,UTF8PROC,XXHASH} GTest::gtest
find_package(PkgConfig REQUIRED)
find_package(Boost 1.81 REQUIRED)
find_package(OpenSSL 3 REQUIRED)
find_package(Protobuf REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(simdjson REQUIRED)
find_package(CLI11 REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(CURL REQUIRED IMPORTED_TARGET libcurl)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
if(MESH_TESTS OR MESH_FUZZ)
  find_package(GTest REQUIRED)
endif()
