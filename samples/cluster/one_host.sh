#!/usr/bin/env bash
# All GPUs of this host, or as many as the first argument says.
set -euo pipefail
gpus=${1:-$(nvidia-smi --list-gpus | wc -l)}
exec "$(dirname "${BASH_SOURCE[0]}")/train.sh" --gpus "$gpus" "${@:2}"
