#!/bin/bash
# Installs the Debian packages of the named groups (tools/packages.txt) that are missing.
#   tools/install_packages.sh build test test-asan   silent and instant when nothing is missing
# As root or with passwordless sudo it installs; otherwise it prints the command to run and exits 2.
# Needs only bash, coreutils, dpkg and apt, so that it works on a bare Debian 12.
set -euo pipefail
list="$(dirname "$(readlink -f "$0")")/packages.txt"
usage() { echo "usage: tools/install_packages.sh GROUP…   (groups are in tools/packages.txt)" >&2; exit 64; }
[ $# -gt 0 ] || usage

wanted=()
for group in "$@"; do
  found=no
  while read -r name packages; do
    [ "$name" = "$group:" ] || continue
    found=yes
    read -ra names <<<"$packages"
    wanted+=("${names[@]}")
  done <"$list"
  [ $found = yes ] || { echo "tools/packages.txt has no group \"$group\"" >&2; usage; }
done

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "This is not a Debian system: dpkg and apt-get are missing. Install the equivalents of:" >&2
  echo "  ${wanted[*]}" >&2
  exit 2
fi

# One query for all packages; an unknown one is a line on standard error and a status that does not matter here.
declare -A installed=()
while read -r package status; do
  [ "$status" = installed ] && installed[$package]=1
done < <(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "${wanted[@]}" 2>/dev/null || true)
missing=()
for package in "${wanted[@]}"; do
  [ -n "${installed[$package]:-}" ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

install="apt-get install --no-install-recommends -y ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
  else
    { echo "${#missing[@]} Debian packages are missing, and installing them needs root. Run this, then start again:"
      echo
      echo "  sudo apt-get update && sudo $install"
      echo; } >&2
    exit 2
  fi
fi
echo "installing ${#missing[@]} Debian packages: ${missing[*]}"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
# Another apt may be at work: wait for it rather than fail.
wait_for_lock="-o DPkg::Lock::Timeout=300"
if ! { "${as_root[@]}" apt-get update -q &&
       "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive $install $wait_for_lock; } </dev/null >"$log" 2>&1; then
  tail -n 30 "$log" >&2
  echo "apt-get failed (its last lines are above). The command was: $install" >&2
  exit 1
fi
