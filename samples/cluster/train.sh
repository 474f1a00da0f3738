#!/usr/bin/env bash
# The training that the other scripts start, once a process; their arguments are added. Edit, or set the variables.
set -euo pipefail
program=${RIVERHORSE:-riverhorse}
run=${RUN:-runs/cluster}
data=${DATA:-data.tokens}
preset=${PRESET:-125m}
if compgen -G "$run/step-*" > /dev/null; then
  exec "$program" train --resume "$run" "$@"
fi
exec "$program" train --preset "$preset" --data "$data" --output "$run" --batch "${BATCH:-256}" --length "${LENGTH:-1024}" \
  --steps "${STEPS:-10000}" --dtype "${DTYPE:-bf16}" --checkpoint-every 500 "$@"
