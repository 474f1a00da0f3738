#!/usr/bin/env bash
# A sample of the synthetic tasks with every option: the table and the curves of three models, and bad usage refused.
#   synthetic_samples.sh PROGRAM
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
die() {
  echo "$*" >&2
  exit 1
}
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

"$1" --epochs 1 --examples 40 --seed 3 --backend cpu --out "$folder/curves.svg" > "$folder/table"
cat "$folder/table"
for model in H3 attention S4D; do
  grep -q "^$model  *[0-9.]*  *[0-9.]*  *[0-9.]*  *[0-9]*$" "$folder/table"
  grep -q ">$model<" "$folder/curves.svg"
done
"$1" --epochs 1 --examples 40 --model S4D --out "$folder/one.svg" > "$folder/table"
if grep -q H3 "$folder/one.svg"; then die "--model S4D trained H3"; fi
"$1" --help | grep -q -- --epochs

for bad in "--epochs 0" "--model LSTM" "--seed x" "--out" "--no-such-option 1"; do
  status=0
  # shellcheck disable=SC2086  # two words
  "$1" $bad > "$folder/table" 2>&1 || status=$?
  [ "$status" = 2 ] || die "$bad: exit status $status"
  grep -q usage "$folder/table"
done
if "$1" --epochs 1 --examples 40 --backend abacus 2> "$folder/table"; then die "a backend that is none"; fi
grep -q abacus "$folder/table"
