#!/usr/bin/env bash
# Runs the commands of README.md that stand in a ```sh block after the line <!-- tested -->, in order, in a folder that
# looks like the project's, with the built program in the PATH.
set -euo pipefail
if [ $# != 2 ]; then echo "usage: readme_test.sh PROGRAM_FOLDER WORK_FOLDER" >&2; exit 2; fi
source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program_dir=$(realpath "$1")
mkdir -p "$2"
work=$(realpath "$2")
rm -rf "${work:?}"/*
ln -s "$source_dir/tests" "$source_dir/samples" "$source_dir/LICENSE" "$work"

awk '/^<!-- tested -->/ { wanted = 1; next }
     /^```sh/ && wanted { inside = 1; next }
     /^```/ { inside = 0; wanted = 0; next }
     inside { print }' "$source_dir/README.md" > "$work/commands.sh"
count=$(grep -c '^riverhorse ' "$work/commands.sh" || true)
if [ "$count" -lt 5 ]; then echo "only $count commands found in README.md"; exit 1; fi

cd "$work"
export PATH=$program_dir:$PATH XDG_CACHE_HOME=$work/cache
echo "running $count commands of the README"
bash -euxo pipefail commands.sh
