#!/bin/bash
# Makes a folder with the arm64 headers and libraries of the group `arm64` in tools/packages.txt, for cross builds:
#   tools/arm64_root.sh DIRECTORY      instant when it is complete
# Packages are downloaded and unpacked, never installed: the machine's own packages and architectures stay as they are.
# Needs bash, dpkg and apt, no root. Exits 2 where there is no apt.
set -euo pipefail
[ $# -eq 1 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 64; }
mkdir -p "$1"
root="$(readlink -f "$1")"
list="$(dirname "$(readlink -f "$0")")/packages.txt"
packages=$(sed -n 's/^arm64: *//p' "$list" | tr '\n' ' ')
stamp="$root/.packages"
[ "$(cat "$stamp" 2>/dev/null)" != "$packages" ] || exit 0
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
  { echo "apt and dpkg are missing: put the arm64 files of $packages under $root" >&2; exit 2; }

# A world of its own for apt: the sources and keys of this machine, but another architecture and nothing installed.
apt="$root/.apt"
rm -rf "$apt" "$root/usr"
mkdir -p "$apt"/{state/lists/partial,cache/archives/partial,debs}
: >"$apt/status"
options=(-o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$apt/state"
  -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" -o Acquire::Languages=none
  -o APT::Sandbox::User= -o Acquire::Retries=3)
log="$apt/log"
# shellcheck disable=SC2086  # the list is several words on purpose
if ! { apt-get "${options[@]}" update -q && cd "$apt/debs" && apt-get "${options[@]}" download -q $packages; } \
  </dev/null >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "downloading arm64 packages failed (last lines above): $packages" >&2
  exit 1
fi
for deb in "$apt"/debs/*.deb; do dpkg-deb -x "$deb" "$root"; done
rm -rf "$apt"
printf '%s' "$packages" >"$stamp"
