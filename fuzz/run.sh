#!/bin/bash
# Fuzzes every parser of outside bytes, with clang, AddressSanitizer and UBSan.
#   fuzz/run.sh [SECONDS] [TARGET…]  each target (default: all) for SECONDS (default 60), as many at once as there
#                                    are processors; one line each: executions, edges, inputs in the corpus
#   fuzz/run.sh --planted [TARGET…]  the same until each target found the fault that its build has planted behind a state
#                                    that no seed reaches, for five minutes at most
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

prepare() {  # prepare TARGET
  command -v clang++-14 >/dev/null || die "clang++-14 is missing"
  configure "$tree" "$out/configure.log" --preset fuzz
  build "$tree" "$out/build.log" "$1"
}

# run_program LOG PROGRAM CORPUS SEEDS ARG…: runs one, its new inputs go to CORPUS. Returns what it returned.
run_program() {
  local log=$1 program=$2 corpus=$3 seeds=$4 status=0; shift 4
  mkdir -p "$corpus" "$seeds" "$out/$program"
  ASAN_OPTIONS=quarantine_size_mb=32:detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1 \
    "$tree/bin/fuzz_$program" "$corpus" "$seeds" \
    -timeout="$seconds_max" -rss_limit_mb="$memory_mb" -malloc_limit_mb="$allocation_mb" \
    -artifact_prefix="$out/$program/" -print_final_stats=1 -use_value_profile=1 -reload=0 "$@" \
    >"$log" 2>&1 || status=$?
  return $status
}

# fuzz PROGRAM DICTIONARY SECONDS SEEDS: its log in out/fuzz/PROGRAM.log.
fuzz() {
  local options=("-max_total_time=$3")
  [ "$2" = - ] || options+=("-dict=fuzz/dict/$2.dict")
  run_program "$out/$1.log" "$1" "$tree/corpus/$1" "$4" "${options[@]}"
}

line() {  # line NAME LOG VERDICT
  printf '%-20s %10s executions %7s edges %6s inputs  %s\n' "$1" \
    "$(sed -n 's/^stat::number_of_executed_units: *//p' "$2")" \
    "$(sed -n 's/^#.* cov: \([0-9]*\) .*/\1/p' "$2" | tail -n 1)" \
    "$(sed -n 's/^#.* corp: \([0-9]*\)\/.*/\1/p' "$2" | tail -n 1)" "$3"
}

report() {  # report NAME DICTIONARY SECONDS: fuzzes and prints the line
  local log="$out/$1.log" verdict=ok status=0
  fuzz "$@" "fuzz/corpus/$1" || status=$?
  [ $status = 0 ] || verdict="FAILED: $(sed -n 's/^.*Test unit written to //p' "$log" | tail -n 1) ($log)"
  line "$1" "$log" "$verdict"
  [ $status = 0 ]
}

# report_planted NAME DICTIONARY SECONDS: from the good seeds alone, which must not have the fault, to the fault. The
# others are left out: some take a second each.
report_planted() {
  local program=$1_planted log="$out/$1_planted.log" verdict="found the planted fault" status=0
  local seeds="$tree/corpus/$program.seeds"
  rm -rf "$tree/corpus/$program" "$seeds" "$out/$program"
  mkdir -p "$seeds"
  find "fuzz/corpus/$1" -type f ! -name 'broken_*' ! -name 'found_*' -exec cp -t "$seeds" {} +
  if ! run_program "$out/$program.seeds.log" "$program" "$tree/corpus/$program" "$seeds" -runs=0; then
    echo "$1: a seed already has the planted fault, or another ($out/$program.seeds.log)"
    return 1
  fi
  if fuzz "$program" "$2" "$3" "$seeds"; then verdict="FAILED: the planted fault was not found ($log)"; status=1
  elif ! grep -q 'the planted fault is reached' "$log"; then verdict="FAILED: found something else ($log)"; status=1
  fi
  line "$1" "$log" "$verdict"
  return $status
}

# each COMMAND SECONDS [NAME…]: COMMAND NAME DICTIONARY SECONDS for the targets of that name or for all, side by side
each() {
  local command=$1 seconds=$2 failed=0 name dict; shift 2
  while read -r name dict; do
    [ $# = 0 ] || [[ " $* " = *" $name "* ]] || continue
    while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n || failed=1; done
    "$command" "$name" "$dict" "$seconds" &
  done <"$tree/fuzzers.txt"
  while [ -n "$(jobs -p)" ]; do wait -n || { [ $? = 127 ] && break; failed=1; }; done
  return $failed
}

check_names() {  # check_names NAME…: of targets that exist
  local name
  for name in "$@"; do
    grep -q "^$name " "$tree/fuzzers.txt" ||
      die "no target \"$name\" (there are: $(cut -d' ' -f1 "$tree/fuzzers.txt" | tr '\n' ' '))"
  done
}

if [ "${1:-}" = --planted ]; then
  shift
  prepare mesh_planted_fuzzers
  check_names "$@"
  each report_planted 300 "$@" || die "a target does not find what is wrong in it"
  exit 0
fi

seconds=${1:-60}
[[ "$seconds" =~ ^[1-9][0-9]*$ ]] || die "\"$seconds\" is no number of seconds"
[ $# = 0 ] || shift
prepare mesh_fuzzers
check_names "$@"
each report "$seconds" "$@" ||
  die "findings: reproduce with $tree/bin/fuzz_NAME FILE, then add the file to fuzz/corpus/NAME"
