#!/usr/bin/env bash
# From a fresh machine to generated text: installs what is missing, builds, trains a tiny model for a minute, and
# generates with the model that ships on the Vulkan device that is there. Safe to run again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/packages.sh

usage() {
  cat << 'END'
usage: samples/quickstart.sh [options]
  --no-install      install no packages; name those that are missing and go on
  --set-up-only     install and build, and stop there
  --steps N         steps of the training that is shown (default 600; 0: none)
  --backports       Debian 12: add the suite bookworm-backports; take VkFFT 1.3.4 and Mesa 25 from it
  --help            this text
END
}

install=1
backports=0
set_up_only=0
steps=600
while [ $# -gt 0 ]; do
  case $1 in
    --no-install) install=0 ;;
    --set-up-only) set_up_only=1 ;;
    --steps)
      [[ ${2:-} =~ ^[0-9]+$ ]] || die "--steps needs a number"
      steps=$2
      shift ;;
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
# CUDA kernels take minutes: where there is no NVIDIA GPU to run them, they are left to a full build.
targets=(riverhorse_program)
if command -v nvidia-smi > /dev/null; then export CUDAARCHS=${CUDAARCHS:-native}; fi
cmake --preset release -DRIVERHORSE_BUILD_TESTS="${tests:-OFF}" > "$build_dir.configure.log" 2>&1 || {
  cat "$build_dir.configure.log" >&2
  die "configuring failed"
}
grep '^-- riverhorse' "$build_dir.configure.log" || true
if command -v nvidia-smi > /dev/null && grep -q '^-- riverhorse.*cuda yes' "$build_dir.configure.log"; then
  targets+=(riverhorse_cuda)
fi
cmake --build "$build_dir" --parallel "$(riverhorse_jobs)" --target "${targets[@]}"
riverhorse=$build_dir/bin/riverhorse

say "devices"
"$riverhorse" devices
if [ "$set_up_only" = 1 ]; then
  say "set up; the program is $riverhorse"
  exit 0
fi

# A small model learns the bytes of one book and is tested on another; far too short to write well.
if [ "$steps" != 0 ]; then
  run=build/quickstart-training
  say "training a tiny model on samples/data for $steps steps (about a minute on a CPU)"
  rm -rf "$run"
  "$riverhorse" train --preset tiny-hybrid --data samples/data/sherlock_holmes.txt \
    --validation-data samples/data/tom_sawyer.txt --validation-tokens 4096 --output "$run" --steps "$steps" \
    --batch 4 --length 128 --learning-rate 5e-3 --warmup 5 --validate-every 100
  samples/plot_training "$run" --output "$run.html"
  say "the curve of the loss: $PWD/$run.html, for a browser"
fi

# The model that ships; what it says greedily was written down on the cpu when it was trained.
model=samples/models/default
prompt=$(sed -n 's/.*"prompt": "\([^"]*\)".*/\1/p' $model/greedy.json)
expected=$(sed -n 's/.*"greedy_ids": \[\([0-9,]*\)\].*/\1/p' $model/greedy.json)
say "generating from $model on Vulkan"
"$riverhorse" generate --model $model --backend vulkan --prompt "$prompt" --echo --max-tokens 64 \
  --temperature 0.8 --top-k 40
count=$(tr -dc , <<< "$expected" | wc -c)
ids=$("$riverhorse" generate --model $model --backend vulkan --prompt "$prompt" --max-tokens $((count + 1)) --greedy \
  --ignore-end --output-ids)
if [ "$ids" = "$expected" ]; then
  say "its greedy text is, token for token, that of the cpu"
else
  die "greedily it should give the tokens $expected"
fi
