#!/bin/bash
# Proves that a bare Debian 12 and a clean checkout are enough: makes a root with mmdebstrap, copies the committed tree
# into it and runs the entry points there.
#   tests/fresh.sh                    ./run --once, then ./test, each in a root of its own
#   tests/fresh.sh --only run|test    one of them
#   tests/fresh.sh --only packages    only tools/install_packages.sh build (the quick check of the package list)
# Needs root or passwordless sudo, git and mmdebstrap. Package sources, proxies and certificates are the host's.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
die() { echo "fresh.sh: $*" >&2; exit 1; }

parts=(run test)
case "${1:-} ${2:-}" in
  " ") ;;
  "--only run" | "--only test" | "--only packages") parts=("$2") ;;
  *) sed -n '2,7s/^# //p' "$0"; exit 64 ;;
esac
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null && sudo -n true 2>/dev/null || die "needs root: a root file system is made and entered"
  exec sudo -n --preserve-env=CI,TMPDIR,http_proxy,https_proxy,no_proxy "$0" "$@"
fi
command -v mmdebstrap >/dev/null || die "mmdebstrap is missing: tools/install_packages.sh full"
git=(git -c "safe.directory=$PWD")
commit=$("${git[@]}" rev-parse --short HEAD) || die "a git checkout is needed: the committed tree is what is tried"
[ -z "$("${git[@]}" status --porcelain)" ] || echo "note: uncommitted changes are not part of this run"

work=$(mktemp -d "${TMPDIR:-/var/tmp}/mesh-fresh.XXXXXX")
mounted=()
cleanup() {
  trap '' INT TERM HUP
  local i
  for ((i = ${#mounted[@]} - 1; i >= 0; --i)); do umount -l "${mounted[i]}" 2>/dev/null || true; done
  # Never delete through a mount that is still there.
  if ! grep -qF " $work/" /proc/mounts; then rm -rf --one-file-system "$work"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

seconds() { local ms=$(((${EPOCHREALTIME/[.,]/} - $1) / 1000)); printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100)); }

# The host's Debian sources: whole deb822 files and single lines that name the suite; other vendors' are left out.
suite=bookworm
collect_sources() {
  local file line
  for file in /etc/apt/sources.list.d/*.sources; do
    [ -f "$file" ] || continue
    grep -qE "^Suites:.*\b$suite([[:space:]]|-updates|-security|\$)" "$file" && cp "$file" "$work/sources/"
  done
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -f "$file" ] || continue
    while read -r line; do
      [[ $line =~ ^deb[[:space:]](\[[^]]*\][[:space:]]+)?[^[:space:]]+[[:space:]]+$suite(-updates|-security)?[[:space:]] ]] &&
        echo "$line"
    done <"$file" >>"$work/sources/host.list" || true
  done
  [ -s "$work/sources/host.list" ] || rm -f "$work/sources/host.list"
  [ -n "$(ls "$work/sources")" ] || echo "deb http://deb.debian.org/debian $suite main" >"$work/sources/host.list"
}

# Proxy and certificate settings that apt has on this host, as a file that apt reads.
collect_apt_settings() {
  apt-config dump --format '%f "%v";%n' |
    grep -E '^Acquire::(http|https|ftp|Retries|ForceIPv4)' >"$work/90host" || true
}

make_root() {  # make_root FOLDER
  local root=$1 start=${EPOCHREALTIME/[.,]/} files=("$work"/sources/*)
  if ! mmdebstrap --quiet --variant=minbase --aptopt="$work/90host" "$suite" "$root" "${files[@]}" \
      >"$work/mmdebstrap.log" 2>&1; then
    cat "$work/mmdebstrap.log" >&2
    die "mmdebstrap failed"
  fi
  cp "$work/90host" "$root/etc/apt/apt.conf.d/90host"
  cp -L /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
  cp -L /etc/hosts "$root/etc/hosts" 2>/dev/null || true
  if [ -d /usr/local/share/ca-certificates ]; then
    mkdir -p "$root/usr/local/share/ca-certificates"
    cp -rL /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
  fi
  mkdir -p "$root/src"
  "${git[@]}" archive HEAD | tar -x -C "$root/src"
  local place
  for place in proc dev; do
    mkdir -p "$root/$place"
    mount --rbind "/$place" "$root/$place"
    mount --make-rslave "$root/$place" 2>/dev/null || true
    mounted+=("$root/$place")
  done
  echo "fresh: bare Debian 12 made in $(seconds "$start"), $(chroot "$root" dpkg-query -W | wc -l) packages, tree $commit"
}

enter() {  # enter FOLDER COMMAND…
  local root=$1; shift
  chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 ${CI:+CI=$CI} \
    ${http_proxy:+http_proxy=$http_proxy} ${https_proxy:+https_proxy=$https_proxy} ${no_proxy:+no_proxy=$no_proxy} \
    bash -c 'cd /src && exec "$@"' bash "$@"
}

mkdir "$work/sources"
collect_sources
collect_apt_settings
for part in "${parts[@]}"; do
  root="$work/$part"
  make_root "$root"
  start=${EPOCHREALTIME/[.,]/}
  status=0
  case $part in
    packages) enter "$root" tools/install_packages.sh build || status=$? ;;
    run) enter "$root" ./run --once || status=$? ;;
    test) enter "$root" ./test || status=$? ;;
  esac
  echo "fresh: $part took $(seconds "$start"), exit $status"
  [ $status -eq 0 ] || exit 1
  if [ "$part" = packages ]; then
    enter "$root" tools/install_packages.sh build || die "a second call should find nothing missing"
  elif [ "$part" = run ]; then
    start=${EPOCHREALTIME/[.,]/}
    enter "$root" ./run --once >/dev/null || die "the second ./run --once failed"
    echo "fresh: a second ./run --once took $(seconds "$start")"
  fi
done
