#!/usr/bin/env bash
# A sample that takes MODEL and PROMPT, with the model that ships, whose greedy text is known; and what it says about a
# wrong call and a model that is not there.
set -euo pipefail
if [ $# -ne 2 ]; then echo "usage: tests/sample_text.sh PROGRAM MODEL" >&2; exit 2; fi
program=$1
model=$2
prompt="It was late in the evening when"
expected=" the evening was over, and the evening was over."

text=$("$program" "$model" "$prompt")
case $text in
  "$expected"*) ;;
  *) printf 'the text is\n%s\ninstead of one that begins with\n%s\n' "$text" "$expected"; exit 1 ;;
esac

status=0; "$program" 2> /dev/null || status=$?
[ "$status" = 2 ] || { echo "without arguments it ends with status $status, not 2"; exit 1; }
status=0; message=$("$program" /does/not/exist "$prompt" 2>&1) || status=$?
[ "$status" = 1 ] || { echo "without a model it ends with status $status, not 1"; exit 1; }
case $message in
  */does/not/exist*) ;;
  *) echo "it does not say which model is missing: $message"; exit 1 ;;
esac
