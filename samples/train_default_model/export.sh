#!/usr/bin/env bash
# usage: export.sh PROGRAM CHECKPOINT OUTPUT
# Writes a checkpoint as the model that ships: fp16 matrices, and beside them what it says greedily on the cpu.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
. "$here/../../tests/packages.sh"
. "$here/settings.sh"
[ $# = 3 ] || die "usage: export.sh PROGRAM CHECKPOINT OUTPUT"
riverhorse=$1 checkpoint=$2 output=$3

"$riverhorse" convert --input "$checkpoint" --output "$output" --dtype f16 --check-finite
size=$(cat "$output"/*.json "$output"/*.safetensors | wc -c)
[ "$size" -le 24000000 ] || die "$output has $size bytes; the model that ships has at most 24000000"
ids=$("$riverhorse" generate --model "$output" --prompt "$greedy_prompt" --max-tokens "$greedy_tokens" --greedy \
  --ignore-end --output-ids --backend cpu)
printf '{"prompt": "%s", "greedy_ids": [%s]}\n' "$greedy_prompt" "$ids" > "$output/greedy.json"
say "$output has $size bytes; its greedy text on the cpu is in $output/greedy.json"
