#!/bin/sh
# Installs the engines to compare with into a scratch directory and builds their drivers there.
#   setup.sh [SCRATCH] [llama.cpp] [ik] [ik-avx2]      default: build/bench-peers, llama.cpp and ik
# llama.cpp is the release that npm distributes, with one library per CPU generation. Its headers
# come from a Python source distribution of the same version; the driver checks at run time that
# they agree. ik_llama.cpp is built from its Python source distribution for this machine, ik-avx2
# for any machine with AVX2. Nothing of it is part of this project's build.
set -eu

llama_npm=3.22.1
llama_headers=0.3.36
ik_source=0.1.5

here=$(cd "$(dirname "$0")" && pwd)
scratch=${1:-$here/../../build/bench-peers}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- llama.cpp ik
mkdir -p "$scratch"
cd "$scratch"
scratch=$PWD

say() { printf '%s\n' "$*"; }

# Unpacks the source distribution NAME of VERSION to src/NAME-VERSION.
source_distribution() {
  [ -d "src/$1-$2" ] && return
  mkdir -p sdist src
  package=$(printf '%s' "$1" | tr _ -)
  python3 -m pip download --quiet --no-deps --no-binary "$package" "$package==$2" -d sdist
  tar xzf "sdist/$1-$2.tar.gz" -C src
}

# Builds the driver NAME against the engine's source ROOT, LIBRARIES; DEFINITIONS and its VERSION.
driver() {
  cmake -S "$here" -B "driver-$1" -DPEER_DRIVER="$1" -DPEER_DEFINITIONS="$4" -DPEER_VERSION="$5" \
    -DPEER_INCLUDE="$scratch/$2/include;$scratch/$2/ggml/include" -DPEER_LIBRARIES="$3" \
    >"driver-$1.log"
  cmake --build "driver-$1" >>"driver-$1.log"
  cp "driver-$1/$1" "$1"
}

install_llama() {
  if [ ! -d npm/package ]; then
    npm pack --silent "@node-llama-cpp/linux-x64@$llama_npm" >/dev/null
    mkdir -p npm
    tar xzf "node-llama-cpp-linux-x64-$llama_npm.tgz" -C npm
  fi
  source_distribution llama_cpp_python "$llama_headers"
  libraries=$scratch/npm/package/bins/linux-x64
  headers=src/llama_cpp_python-$llama_headers/vendor/llama.cpp
  release=$(sed -n 's/.*"release":"\([^"]*\)".*/\1/p' "$libraries/_nlcBuildMetadata.json")
  list=$(ls "$libraries"/libllama.*.so "$libraries"/libggml.*.so "$libraries/libggml-base.so")
  driver llama_direct "$headers" "$(printf '%s' "$list" | tr '\n' ';')" "" \
    "$release (npm $llama_npm)"
  say "llama.cpp $release: npm @node-llama-cpp/linux-x64 $llama_npm, headers of llama-cpp-python" \
    "$llama_headers"
}

# BUILD DRIVER and the options of its instruction set
install_ik() {
  build=$1
  name=$2
  shift 2
  source_distribution ik_llama_cpp_python "$ik_source"
  root=src/ik_llama_cpp_python-$ik_source/vendor/ik_llama.cpp
  generator=$(command -v ninja >/dev/null && echo Ninja || echo "Unix Makefiles")
  # Without the attention kernels of quantised caches, which the comparison does not use.
  cmake -G "$generator" -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_CURL=OFF \
    -DGGML_IQK_FA_ALL_QUANTS=OFF "$@" >"$build.log" 2>&1
  cmake --build "$build" --target llama ggml -j "${JOBS:-2}" >>"$build.log" 2>&1
  driver "$name" "$root" \
    "$scratch/$build/src/libllama.so;$scratch/$build/ggml/src/libggml.so" MESH_BENCH_IK \
    "ik-llama-cpp-python $ik_source"
  say "ik_llama.cpp: source of ik-llama-cpp-python $ik_source, $*"
}

for part in "$@"; do
  case $part in
    llama.cpp) install_llama ;;
    ik) install_ik ik-build ik_direct -DGGML_NATIVE=ON ;;
    ik-avx2)
      install_ik ik-build-avx2 ik_direct_avx2 -DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON \
        -DGGML_FMA=ON -DGGML_F16C=ON
      ;;
    *)
      say "no part $part: llama.cpp, ik, ik-avx2" >&2
      exit 2
      ;;
  esac
done
