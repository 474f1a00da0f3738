#!/bin/sh
# Compiles the shaders that need a newer glslang than Debian 12 has (GL_KHR_cooperative_matrix: 14 or later) into
# shaders/precompiled/<name>.spv, and records the hashes of the sources in <name>.sha256. The build verifies the hashes
# and refuses SPIR-V that is older than its sources.
#
#   shaders/precompile.sh [path of a glslangValidator]
set -eu
cd "$(dirname "$0")"
compiler=${1:-glslangValidator}

# name, then its sources: the shader first, then what it includes
precompile() {
  name=$1
  shift
  "$compiler" -V --quiet --target-env vulkan1.1 -I. "$1" -o "precompiled/$name.spv"
  sha256sum "$@" > "precompiled/$name.sha256"
  echo "precompiled/$name.spv: $(wc -c < "precompiled/$name.spv") bytes"
}

precompile linear_coopmat linear_coopmat.comp linear_storage.glsl
