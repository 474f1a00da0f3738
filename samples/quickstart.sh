#!/usr/bin/env bash
# From a fresh machine to generated text: installs what is missing, builds, and generates with a small model on the
# Vulkan device that is there. Safe to run again: it does only what is left to do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/packages.sh

usage() {
  cat << 'END'
usage: samples/quickstart.sh [options]
  --no-install      install no packages; name those that are missing and go on
  --set-up-only     install and build, and stop there
  --backports       Debian 12: add the suite bookworm-backports; take VkFFT 1.3.4 and Mesa 25 from it
  --help            this text
END
}

install=1
backports=0
set_up_only=0
while [ $# -gt 0 ]; do
  case $1 in
    --no-install) install=0 ;;
    --set-up-only) set_up_only=1 ;;
    --backports) backports=1 ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; die "unknown option $1" ;;
  esac
  shift
done

install_packages "$install" "${riverhorse_packages_build[@]}" "${riverhorse_packages_run[@]}"
[ "$backports" = 1 ] && use_backports "$install"

# The same folder as tests/run.sh: whichever runs second has little left to build.
build_dir=build/release
say "building in $build_dir"
tests=OFF
[ -f "$build_dir/CMakeCache.txt" ] && tests=$(sed -n 's/^RIVERHORSE_BUILD_TESTS:BOOL=//p' "$build_dir/CMakeCache.txt")
cmake --preset release -DRIVERHORSE_BUILD_TESTS="${tests:-OFF}" > "$build_dir.configure.log" 2>&1 || {
  cat "$build_dir.configure.log" >&2
  die "configuring failed"
}
grep '^-- riverhorse' "$build_dir.configure.log" || true
cmake --build "$build_dir" --parallel "$(riverhorse_jobs)" --target riverhorse_program
riverhorse=$build_dir/bin/riverhorse

say "devices"
"$riverhorse" devices
if [ "$set_up_only" = 1 ]; then
  say "set up; the program is $riverhorse"
  exit 0
fi

# No trained model ships yet. This one has the original's architecture, random weights and 509 made-up tokens: what it
# "says" are numbers, and the right ones are known, computed by the original H3 implementation.
golden=tests/golden/lm/h3-hybrid
model=build/quickstart-model
prompt=404,213,188,151,446,322,145,291,334,53,485,55,482,354,429,119
expected=288,373,373,373,373,373,373,373,191,191,360,497,113,113,113,79,79,79,79,79,142,80,90,34
say "converting the test checkpoint $golden (there is no trained model in this version)"
rm -rf "$model"
"$riverhorse" convert --input "$golden/model.pt" --config "$golden/config.json" --output "$model"
say "generating 24 tokens from 16 on Vulkan, greedily"
output=$("$riverhorse" generate --model "$model" --backend vulkan --prompt-ids "$prompt" --max-tokens 24 --greedy --output-ids)
printf '%s\n' "$output"
ids=$(printf '%s' "$output" | tr -cs '0-9' ',' | sed 's/^,//; s/,$//')
if [ "$ids" = "$expected" ]; then
  say "these are the 24 tokens that the original implementation generates"
else
  die "the original implementation generates $expected"
fi
