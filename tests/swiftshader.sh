#!/usr/bin/env bash
# The operation table on SwiftShader, a Vulkan implementation that shares no code with Mesa's: 4 lanes in a subgroup,
# 256 invocations, no 16-bit types, so it runs the safe variants of our shaders. Without VkFFT, whose own error there
# is 5e-4. Where there is no SwiftShader, says so and ends with status 77, which ctest shows as skipped.
set -euo pipefail

usage() {
  cat << 'END'
usage: tests/swiftshader.sh [--fetch] FOLDER [OPS_TEST]
  FOLDER      where SwiftShader is looked for, next to the places of the system
  OPS_TEST    the program ops_test; without it nothing is run
  --fetch     first gets SwiftShader from Debian's package chromium-common into FOLDER, without installing anything
END
}

fetch=0
if [ "${1:-}" = --help ]; then usage; exit 0; fi
if [ "${1:-}" = --fetch ]; then fetch=1; shift; fi
if [ $# -lt 1 ] || [ $# -gt 2 ] || [ "${1#-}" != "$1" ]; then usage >&2; exit 2; fi
folder=$1
ops_test=${2:-}

find_icd() {
  local place
  for place in "$folder/unpacked" /usr/lib/chromium /opt/google/chrome; do
    if [ -d "$place" ]; then find "$place" -name vk_swiftshader_icd.json -print -quit; fi
  done | head -n 1
}

if [ "$fetch" = 1 ] && [ -z "$(find_icd)" ]; then
  mkdir -p "$folder"
  (cd "$folder" && apt-get -q -o APT::Sandbox::User=root download chromium-common) &&
    dpkg -x "$folder"/chromium-common_*.deb "$folder/unpacked" && rm -f "$folder"/chromium-common_*.deb ||
    echo "SwiftShader could not be fetched: apt-get download chromium-common failed"
fi

icd=$(find_icd)
if [ -z "$icd" ]; then
  echo "SKIPPED: no SwiftShader (vk_swiftshader_icd.json) in $folder or /usr/lib/chromium; get it with"
  echo "  tests/swiftshader.sh --fetch $folder"
  exit 77
fi
[ -n "$ops_test" ] || exit 0

icd=$(realpath "$icd")
echo "SwiftShader: $icd"
export VK_DRIVER_FILES=$icd VK_ICD_FILENAMES=$icd
"$ops_test" --gtest_brief=1 --gtest_filter='*.f32.vulkan0_minimal-fft_conv.*:h3_mixer.*fft*' | tee "$folder.log"
# A run in which no case was tried must not look like success.
passed=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' "$folder.log")
rm -f "$folder.log"
if [ "${passed:-0}" -lt 50 ]; then
  echo "only ${passed:-0} cases passed on SwiftShader: the filter finds no tests, or the device was not opened"
  exit 1
fi
