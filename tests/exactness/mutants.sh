#!/bin/sh
# Builds known mistakes into the cpu backend and the sampler (MESH_MUTATE_*) and requires that a named
# check finds each of them: tests that cannot fail prove nothing.
#
#   tests/exactness/mutants.sh [BUILD_DIRECTORY] [NAME …]
#
# One line per mutant; exit status 1 if one survives. Needs CMake and Ninja; CXX is respected.
set -u
source_dir=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-$source_dir/build-mutants}
[ $# -gt 0 ] && shift
chosen=${*:-K_SPLIT_BY_THREADS SWAP_ROWS FRESH_KV MUL_ADD DROP_RESCALE STALE_SLOT EXPERT_ORDER
  KEY_WITHOUT_POSITION DRAWS_IN_ORDER}

# Which program must fail, on which arguments, and what it must say.
check_of() {
  case $1 in
    K_SPLIT_BY_THREADS) echo 'exactness_test --pairwise --fail-fast --only random-4x1024|FAIL rows' ;;
    SWAP_ROWS) echo 'exactness_test --pairwise --fail-fast --only qwen3|FAIL rows' ;;
    FRESH_KV) echo 'exactness_test --pairwise --fail-fast --only qwen3-bf16|FAIL (rows|long)' ;;
    MUL_ADD) echo 'exactness_test --pairwise --fail-fast --only llama|FAIL (rows|long)' ;;
    DROP_RESCALE) echo 'exactness_test --pairwise --only pocket|FAIL committed pocket' ;;
    STALE_SLOT) echo 'exactness_test --pairwise --fail-fast --only llama|FAIL (rows|long).*not finite' ;;
    EXPERT_ORDER) echo 'exactness_test --pairwise --fail-fast --only random-experts|FAIL rows' ;;
    KEY_WITHOUT_POSITION) echo 'exactness_test --pairwise --only pocket|FAIL committed pocket sampling' ;;
    DRAWS_IN_ORDER) echo 'exactness_test --pairwise --only pocket|FAIL sampling pocket' ;;
    *) return 1 ;;
  esac
}

run_mutant() {
  check=$(check_of "$1") || { echo "unknown mutant $1"; return 1; }
  command=${check%%|*}
  pattern=${check#*|}
  cmake -G Ninja -S "$source_dir" -B "$build" -DMESH_MUTATE="$1" >"$build.log" 2>&1 &&
    ninja -C "$build" exactness_test conformance_test >>"$build.log" 2>&1 ||
    { tail -30 "$build.log"; echo "mutant $1 does not build"; return 1; }
  # shellcheck disable=SC2086  # the command is several words on purpose
  "$build"/bin/$command >"$build.log" 2>&1
  status=$?
  if [ $status -ne 1 ] || ! grep -Eq "$pattern" "$build.log"; then
    tail -5 "$build.log"
    echo "mutant $1 SURVIVED: $command ended with $status without '$pattern'"
    return 1
  fi
  echo "mutant $1 found: $(grep -Em1 "$pattern" "$build.log")"
  if "$build"/bin/conformance_test --gtest_brief=1 >"$build.log" 2>&1; then
    echo "  (conformance passes)"
  else
    echo "  (conformance finds it too: $(grep -Ec '^\[  FAILED  \] .*[0-9)]$' "$build.log") tests)"
  fi
}

failures=0
for name in $chosen; do
  run_mutant "$name" || failures=$((failures + 1))
done
rm -f "$build.log"
[ "$failures" -eq 0 ]
