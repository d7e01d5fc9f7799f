#!/bin/bash
# Fuzzes every parser of outside bytes, with clang, AddressSanitizer and UBSan.
#   fuzz/run.sh [SECONDS] [TARGET…]  each target (default: all) for SECONDS (default 60), as many at once as there
#                                    are processors; one line each: executions, edges, inputs in the corpus
#   fuzz/run.sh --planted            only checks that a planted fault is found within a minute
# Exits 1 when a target crashed, took too long or too much memory; the input that did it is in out/fuzz/.
# The corpus grows in build-fuzz/corpus/; fuzz/corpus/ holds the seeds and what once was a finding.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. tools/lib.sh

# A plain build takes a fraction of these: instrumented code is five times slower, and ASan's quarantine is memory.
seconds_max=25
memory_mb=1024
allocation_mb=512
tree=build-fuzz
out="$PWD/out/fuzz"
mkdir -p "$out"

prepare() {  # prepare TARGET CMAKE_ARG…
  local target=$1; shift
  command -v clang++-14 >/dev/null || die "clang++-14 is missing"
  configure "$tree" "$out/configure.log" --preset fuzz "$@"
  build "$tree" "$out/build.log" "$target"
}

# fuzz NAME DICTIONARY SECONDS: one run, its log in out/fuzz/NAME.log. Returns what the fuzzer returned.
fuzz() {
  local name=$1 dict=$2 seconds=$3 status=0 options=()
  [ "$dict" = - ] || options+=("-dict=fuzz/dict/$dict.dict")
  mkdir -p "$tree/corpus/$name" "$out/$name"
  ASAN_OPTIONS=quarantine_size_mb=32:detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1 \
    "$tree/bin/fuzz_$name" "$tree/corpus/$name" $([ ! -d "fuzz/corpus/$name" ] || echo "fuzz/corpus/$name") \
    "${options[@]}" -max_total_time="$seconds" -timeout="$seconds_max" -rss_limit_mb="$memory_mb" \
    -malloc_limit_mb="$allocation_mb" -artifact_prefix="$out/$name/" -print_final_stats=1 -use_value_profile=1 \
    -reload=0 >"$out/$name.log" 2>&1 || status=$?
  return $status
}

report() {  # report NAME DICTIONARY SECONDS: fuzzes and prints the line
  local name=$1 log="$out/$1.log" verdict=ok status=0
  fuzz "$@" || status=$?
  [ $status = 0 ] || verdict="FAILED: $(sed -n 's/^.*Test unit written to //p' "$log" | tail -n 1) ($log)"
  printf '%-20s %10s executions %7s edges %6s inputs  %s\n' "$name" \
    "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" \
    "$(sed -n 's/^#.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)" \
    "$(sed -n 's/^#.* corp: \([0-9]*\)\/.*/\1/p' "$log" | tail -n 1)" "$verdict"
  [ $status = 0 ]
}

if [ "${1:-}" = --planted ]; then
  prepare fuzz_planted -DMESH_FUZZ_PLANTED=ON
  rm -rf "$tree/corpus/planted" "$out/planted"
  if fuzz planted - 60; then die "the planted fault was not found (log: $out/planted.log)"; fi
  grep -q 'heap-buffer-overflow' "$out/planted.log" || die "found something else than the planted fault: $out/planted.log"
  echo "the planted fault was found after $(sed -n 's/^stat::number_of_executed_units: *//p' "$out/planted.log") executions"
  exit 0
fi

seconds=${1:-60}
[[ "$seconds" =~ ^[1-9][0-9]*$ ]] || die "\"$seconds\" is no number of seconds"
[ $# = 0 ] || shift
prepare mesh_fuzzers -DMESH_FUZZ_PLANTED=OFF

targets=$(cat "$tree/fuzzers.txt")
for name in "$@"; do grep -q "^$name " <<<"$targets" || die "no target \"$name\" (there are: $(cut -d' ' -f1 <<<"$targets" | tr '\n' ' '))"; done
failed=0
while read -r name dict; do
  [ $# = 0 ] || [[ " $* " = *" $name "* ]] || continue
  while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n || failed=1; done
  report "$name" "$dict" "$seconds" &
done <<<"$targets"
while [ -n "$(jobs -p)" ]; do wait -n || { [ $? = 127 ] && break; failed=1; }; done
[ $failed = 0 ] || die "findings: reproduce with $tree/bin/fuzz_NAME FILE, then add the file to fuzz/corpus/NAME"
