# 64-bit ARM Linux from another Debian machine (g++-aarch64-linux-gnu):
#   tools/arm64_root.sh build-aarch64-root
#   cmake -B build-aarch64 -DCMAKE_TOOLCHAIN_FILE=cmake/toolchains/aarch64-linux-gnu.cmake \
#     -DMESH_ARM64_ROOT=$PWD/build-aarch64-root -DMESH_ENGINE_ONLY=ON
# Programs run with qemu-aarch64 -L /usr/aarch64-linux-gnu.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)

set(MESH_ARM64_ROOT "" CACHE PATH "Folder with the arm64 libraries (tools/arm64_root.sh)")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES MESH_ARM64_ROOT)
set(CMAKE_FIND_ROOT_PATH ${MESH_ARM64_ROOT} /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
# The headers of OpenSSL's configuration have a folder of their own; nothing of the host's /usr/include may be seen.
set(CMAKE_CXX_FLAGS_INIT "-isystem ${MESH_ARM64_ROOT}/usr/include/aarch64-linux-gnu")
set(ENV{PKG_CONFIG_LIBDIR} "${MESH_ARM64_ROOT}/usr/lib/aarch64-linux-gnu/pkgconfig:${MESH_ARM64_ROOT}/usr/share/pkgconfig")
set(ENV{PKG_CONFIG_SYSROOT_DIR} "${MESH_ARM64_ROOT}")
