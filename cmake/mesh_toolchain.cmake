# Compiler, warnings, sanitizers, ccache and linker choices that hold for every target.
find_program(MESH_CCACHE ccache)
if(MESH_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${MESH_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${MESH_CCACHE})
endif()

add_library(mesh_options INTERFACE)
target_include_directories(mesh_options INTERFACE ${CMAKE_SOURCE_DIR}/src ${CMAKE_BINARY_DIR}/generated)
# -ffp-contract=off: a fused multiply-add stands only where the code says fma (docs/numerics.md).
target_compile_options(mesh_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -ffp-contract=off -fno-math-errno)
# g++ 12 sees overlapping copies inside std::string where there are none (GCC bug 105329).
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  target_compile_options(mesh_options INTERFACE -Wno-restrict)
endif()
if(MESH_WERROR)
  target_compile_options(mesh_options INTERFACE -Werror)
endif()
target_compile_definitions(mesh_options INTERFACE BOOST_ASIO_NO_DEPRECATED)
# g++ cannot model the fence of Asio under TSan; clang 14's UBSan "function" check does not assemble with coroutines.
if(MESH_SANITIZE)
  string(REPLACE ";" "," mesh_sanitizers "${MESH_SANITIZE}")
  target_compile_options(mesh_options INTERFACE -fsanitize=${mesh_sanitizers} -fno-omit-frame-pointer
    -fno-sanitize-recover=all $<$<CXX_COMPILER_ID:Clang>:-gline-tables-only>)
  target_link_options(mesh_options INTERFACE -fsanitize=${mesh_sanitizers})
  if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
    target_compile_options(mesh_options INTERFACE -fno-sanitize=function)
  endif()
  if(mesh_sanitizers MATCHES thread)
    target_compile_definitions(mesh_options INTERFACE BOOST_ASIO_DISABLE_FENCED_BLOCK)
  endif()
endif()
# Edge counters and traced comparisons in every library; only the fuzzers themselves link libFuzzer (fuzz/).
if(MESH_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES Clang)
    message(FATAL_ERROR "MESH_FUZZ needs clang: cmake --preset fuzz")
  endif()
  target_compile_options(mesh_options INTERFACE -fsanitize=fuzzer-no-link)
  target_link_options(mesh_options INTERFACE -fsanitize=fuzzer-no-link)
endif()
find_package(Threads REQUIRED)
target_link_libraries(mesh_options INTERFACE Threads::Threads)
