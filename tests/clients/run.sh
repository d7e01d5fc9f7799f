#!/bin/bash
# Runs a real client against real nodes: run.sh npm4|npm6|python|transcripts BINARY SCRATCH
# A client of npm or PyPI is installed below SCRATCH from its lock file; a second run finds it there.
set -euo pipefail
here="$(dirname "$(readlink -f "$0")")"
client=$1 scratch=$3
export MESH_BINARY=$2 MESH_POCKET="$here/../../models/pocket" MESH_SCRATCH="$scratch"
mkdir -p "$scratch"
die() { echo "$*" >&2; exit 1; }

case "$client" in
  npm*)
    command -v node >/dev/null && command -v npm >/dev/null ||
      die "node and npm are missing (Debian: apt-get install nodejs npm)"
    major=$(node -p 'process.versions.node.split(".")[0]')
    if [ "$client" = npm6 ] && [ "$major" -lt 20 ]; then die "openai 6.x needs Node 20 or newer, this is Node $major"; fi
    dir="$scratch/$client"
    mkdir -p "$dir"
    cp "$here/$client/package.json" "$here/$client/package-lock.json" "$here/$client/.npmrc" "$dir/"
    stamp=$(sha256sum <"$dir/package-lock.json")
    if [ "$(cat "$dir/.stamp" 2>/dev/null)" != "$stamp" ]; then
      (cd "$dir" && npm ci --no-audit --no-fund --loglevel=error) || die "npm ci failed in $dir"
      echo "$stamp" >"$dir/.stamp"
    fi
    export MESH_CLIENT_DIR="$dir"
    exec node --test --test-reporter=spec "$here/openai.test.mjs" ;;
  python)
    command -v python3 >/dev/null || die "python3 is missing"
    venv="$scratch/venv"
    if [ "$(cat "$venv/.stamp" 2>/dev/null)" != "$(sha256sum <"$here/python/requirements.txt")" ]; then
      rm -rf "$venv"
      python3 -m venv "$venv" && "$venv/bin/pip" install --quiet -r "$here/python/requirements.txt" ||
        die "the Python client could not be installed"
      sha256sum <"$here/python/requirements.txt" >"$venv/.stamp"
    fi
    exec "$venv/bin/python" "$here/python/openai_test.py" ;;
  transcripts)
    for program in node:nodejs curl:curl wget:wget; do
      command -v "${program%:*}" >/dev/null ||
        die "${program%:*} is missing (Debian: apt-get install ${program#*:})"
    done
    exec node --test --test-reporter=spec "$here/transcript.test.mjs" "$here/transcripts.test.mjs" ;;
  *) die "unknown client $client" ;;
esac
