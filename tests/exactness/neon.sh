#!/bin/bash
# Cross-builds the engine for 64-bit ARM and runs its kernels under qemu-user against the hashes that x86 committed:
# scalar, neon and neon_dotprod, and a processor without dot products of bytes. Says nothing about speed.
#
#   tests/exactness/neon.sh [BUILD_DIRECTORY]
#
# Needs g++-aarch64-linux-gnu, qemu-user, CMake, Ninja and, the first time, Debian's package servers. What is missing is
# a failure with CI=true, else the exit status is 77 (skipped).
set -uo pipefail
source_dir="$(readlink -f "$(dirname "$0")/../..")"
build="${1:-$source_dir/build-aarch64}"
root="$build-root"
mkdir -p "$build"

missing() {
  echo "SKIPPED: $1"
  [ "${CI:-}" != true ] || exit 1
  exit 77
}
for tool in aarch64-linux-gnu-g++ qemu-aarch64 cmake ninja; do
  command -v "$tool" >/dev/null || missing "$tool is not installed: tools/install_packages.sh build full"
done
"$source_dir/tools/arm64_root.sh" "$root" || missing "the arm64 libraries are not there: tools/arm64_root.sh $root"

log="$build/build.log"
if ! { cmake -G Ninja -S "$source_dir" -B "$build" -DCMAKE_BUILD_TYPE=Release -DMESH_WERROR=ON -DMESH_ENGINE_ONLY=ON \
         -DCMAKE_TOOLCHAIN_FILE="$source_dir/cmake/toolchains/aarch64-linux-gnu.cmake" -DMESH_ARM64_ROOT="$root" &&
       ninja -C "$build" backends_cpu_test conformance_test exactness_test; } >"$log" 2>&1; then
  tail -n 40 "$log"
  echo "FAIL the build for aarch64"
  exit 1
fi

failures=0
emulated() {  # emulated PROCESSOR PROGRAM ARGUMENT…
  local processor=$1 program=$2
  shift 2
  qemu-aarch64 -cpu "$processor" -L /usr/aarch64-linux-gnu "$build/bin/$program" "$@" 2>&1
}
check() {  # check TITLE PROCESSOR PROGRAM ARGUMENT…
  local title=$1 start=$SECONDS output
  shift
  if output=$(emulated "$@"); then
    echo "ok   $title: $(tail -n 1 <<<"$output") ($((SECONDS - start)) s)"
  else
    tail -n 20 <<<"$output"
    echo "FAIL $title"
    failures=$((failures + 1))
  fi
}

# An old core has no dot products: asking for them is refused by name, and the best of the rest is chosen.
refused=$(emulated cortex-a53 exactness_test --references --isa neon_dotprod --only pocket)
if [[ $refused == *"'neon_dotprod' was asked for, but ARM Cortex-A53 has only: scalar, neon"* ]]; then
  echo "ok   cortex-a53 refuses neon_dotprod"
else
  echo "$refused"
  echo "FAIL cortex-a53 refuses neon_dotprod"
  failures=$((failures + 1))
fi
chosen=$(emulated cortex-a53 exactness_test --references --only qwen3-q8_0.gguf)
if [[ $? -eq 0 && $chosen == *"references on neon:"* ]]; then
  echo "ok   cortex-a53 chooses neon"
else
  echo "$chosen"
  echo "FAIL cortex-a53 chooses neon"
  failures=$((failures + 1))
fi

check "hash of the class, exp" max conformance_test --gtest_brief=1 --gtest_filter=NumericClass.*
check "256-blocks by their definition" max backends_cpu_test --gtest_brief=1
check "committed hashes, neon_dotprod" max exactness_test --references --isa neon_dotprod
check "committed hashes, neon" cortex-a53 exactness_test --references --isa neon
# Slower than the others; the hash of the class holds for scalar, too, and covers every type.
check "committed hashes, scalar" cortex-a53 exactness_test --references --isa scalar --only qwen3 --only qwen3-bf16 \
  --only qwen3-q4_k_m.gguf --only qwen3-q8_0.gguf --only random-MXFP4
[ "$failures" -eq 0 ]
