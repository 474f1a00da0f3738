#!/bin/sh
# Compiles the shaders that need a newer glslang than Debian 12 has (GL_KHR_cooperative_matrix: 15) into
# shaders/precompiled/<name>.spv, with the hash of their sources in <name>.sha256. The build compares the hashes and
# refuses SPIR-V that is not of today's sources.
#
#   shaders/precompile.sh [path of a glslangValidator]
#   shaders/precompile.sh --hash STEM "DEFINES"      prints the hash of STEM.comp, what it includes, and the defines
set -eu
cd "$(dirname "$0")"

# The shader and what it includes, each file once.
sources() {
  pending=$1.comp
  seen=
  while [ -n "$pending" ]; do
    next=
    for file in $pending; do
      case " $seen " in *" $file "*) continue ;; esac
      seen="$seen $file"
      next="$next $(sed -n 's/^#include "\(.*\)"$/\1/p' "$file")"
    done
    pending=$(echo $next)
  done
  echo $seen
}

hash() {  # stem, defines separated by semicolons or blanks
  { echo "$2" | tr ';' ' '; cat $(sources "$1"); } | sha256sum | cut -d ' ' -f 1
}

if [ "${1:-}" = --hash ]; then
  hash "$2" "${3:-}"
  exit
fi

compiler=${1:-glslangValidator}
precompile() {  # name, stem, defines
  flags=
  for define in $3; do flags="$flags -D$define"; done
  "$compiler" --quiet --target-env vulkan1.1 $flags -o "precompiled/$1.spv" "$2.comp"
  hash "$2" "$3" > "precompiled/$1.sha256"
  echo "precompiled/$1.spv: $(wc -c < "precompiled/$1.spv") bytes"
}

precompile linear_coopmat linear_coopmat ""
precompile attention_coopmat attention_coopmat ""
precompile h3_mixer_coopmat h3_mixer_coopmat ""
