#!/usr/bin/env bash
# usage: mpirun.sh HOSTFILE RANKS [options of riverhorse train]: Open MPI, a line "host slots=8" a host.
set -euo pipefail
[ $# -ge 2 ] || { sed -n 2p "$0" >&2; exit 2; }
exec mpirun --hostfile "$1" -np "$2" --bind-to none -x PATH -x LD_LIBRARY_PATH \
  "$(dirname "${BASH_SOURCE[0]}")/train.sh" "${@:3}"
