#!/usr/bin/env bash
# Installs what is missing, builds, and runs the tests. Safe to run again: it does only what is left to do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/packages.sh

usage() {
  cat << 'END'
usage: tests/run.sh [options] [-D<VAR>=<VALUE>...] [-- <ctest options>]
  --no-install      install no packages; name those that are missing and go on
  --backports       Debian 12: add the suite bookworm-backports; take VkFFT 1.3.4 and Mesa 25 from it
  --preset NAME     release (default), debug, asan or tsan (CMakePresets.json)
  --asan            the same as --preset asan
  --build-dir DIR   instead of build/<preset>
  --target NAME     build only this target; may be given several times
  -D...             is given to cmake, e.g. -DRIVERHORSE_WERROR=ON
  -- ...            is given to ctest, e.g. -- -R tokenizer
  --help            this text
END
}

install=1
backports=0
preset=release
build_dir=""
cmake_options=()
ctest_options=()
targets=()
while [ $# -gt 0 ]; do
  case $1 in
    --no-install) install=0 ;;
    --backports) backports=1 ;;
    --asan) preset=asan ;;
    --preset) [ $# -gt 1 ] || die "--preset needs a name"; preset=$2; shift ;;
    --build-dir) [ $# -gt 1 ] || die "--build-dir needs a folder"; build_dir=$2; shift ;;
    --target=?*) targets+=("${1#--target=}") ;;
    --target) [ $# -gt 1 ] || die "--target needs a name"; targets+=("$2"); shift ;;
    -D?*) cmake_options+=("$1") ;;
    --help | -h) usage; exit 0 ;;
    --) shift; ctest_options=("$@"); break ;;
    *) usage >&2; die "unknown option $1" ;;
  esac
  shift
done
build_dir=${build_dir:-build/$preset}

install_packages "$install" "${riverhorse_packages_build[@]}" "${riverhorse_packages_run[@]}" "${riverhorse_packages_test[@]}"
[ "$backports" = 1 ] && use_backports "$install"

say "configuring in $build_dir"
cmake --preset "$preset" -B "$build_dir" ${cmake_options[@]+"${cmake_options[@]}"}

say "building with $(riverhorse_jobs) jobs"
export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS:-pch_defines,time_macros}  # what ccache wants of precompiled headers
started=$SECONDS
cmake --build "$build_dir" --parallel "$(riverhorse_jobs)" ${targets[@]+--target "${targets[@]}"}
say "built in $((SECONDS - started)) s"

# A lost GPU or a hanging driver must not hang the tests: each has its own time limit (tests/CMakeLists.txt).
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-suppressions=$PWD/tests/tsan_suppressions.txt}
log=$build_dir/tests.log
status=0
ctest --test-dir "$build_dir" --output-on-failure --no-tests=error ${ctest_options[@]+"${ctest_options[@]}"} 2>&1 |
  tee "$log" || status=$?

# What was not tested here, and why, is said aloud; ctest's own last word comes last.
details=$build_dir/Testing/Temporary/LastTest.log
if [ -f "$details" ] && grep -q '^\[  SKIPPED \] .*(' "$details"; then
  say "skipped: how many, why, and one of them (all: $details)"
  awk '/^\[  SKIPPED \] .*\(/ {
         reason = previous
         sub(/^[^ ]+ on [a-z]+:[0-9]+: /, "", reason)
         if (!count[reason]++) example[reason] = $4
       }
       { previous = $0 }
       END { for (reason in count) printf "%5d  %s  [%s]\n", count[reason], reason, example[reason] }' "$details" | sort -rn
fi
say "the end of $log"
sed -n '/tests passed, .* tests failed/,$p' "$log"
exit "$status"
