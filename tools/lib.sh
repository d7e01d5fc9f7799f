# Shared by ./run and ./test (sourced, from the repository root): packages, configuring, building.

die() { echo "${0##*/}: $*" >&2; exit 1; }

# Seconds with one digit since the instant given in milliseconds.
now_ms() { local t=${EPOCHREALTIME/[.,]/}; echo $((t / 1000)); }
since() { local ms=$(($(now_ms) - $1)); printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100)); }

# As many jobs as there are processors, but at least 1.5 GB of memory for each: the HTTP sources need it.
build_jobs() {
  local cores memory_kb=0 name value _
  cores=$(nproc)
  while read -r name value _; do
    [ "$name" = MemAvailable: ] && memory_kb=$value
  done </proc/meminfo
  local by_memory=$((memory_kb / 1500000))
  [ "$memory_kb" -gt 0 ] && [ "$by_memory" -lt "$cores" ] && cores=$by_memory
  echo $((cores > 0 ? cores : 1))
}

# quietly LOG COMMAND…: the output goes to LOG, and to the screen only when the command fails.
quietly() {
  local log=$1; shift
  "$@" >"$log" 2>&1 && return 0
  tail -n 60 "$log" >&2
  echo "failed: $* (all of its output: $log)" >&2
  return 1
}

# configure TREE LOG ARG…: runs cmake. A tree that was configured for another place starts afresh.
configure() {
  local tree=$1 log=$2 fresh=(); shift 2
  if [ -f "$tree/CMakeCache.txt" ] &&
     ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$PWD" "$tree/CMakeCache.txt"; then
    fresh=(--fresh)
  fi
  quietly "$log" cmake -S . -B "$tree" "${fresh[@]}" "$@"
}

# build TREE LOG TARGET…: with the progress line on a terminal, otherwise silent unless it fails.
build() {
  local tree=$1 log=$2; shift 2
  local command=(ninja -C "$tree" -j "$(build_jobs)" "$@")
  if [ -t 1 ]; then "${command[@]}" || return 1; else quietly "$log" "${command[@]}"; fi
}
