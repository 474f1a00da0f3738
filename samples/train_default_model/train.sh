#!/usr/bin/env bash
# From Debian packages to the default model: downloads and unpacks them (nothing is installed), makes the corpus,
# learns the vocabulary, trains, and writes samples/models/default. Safe to run again: it does what is left to do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/packages.sh
here=samples/train_default_model
. $here/settings.sh

usage() {
  cat << 'END'
usage: samples/train_default_model/train.sh [options]
  --corpus-only     stop when the corpus, the vocabulary and the token files are written
  --model NAME      hybrid (default), h3 or attention: NAME.json of this folder
  --steps N         steps of training (default 7000, as the model that ships: 15 times through the text)
  --backend NAME    cpu or cuda (default: the best that trains)
  --dtype TYPE      f32 (default), or bf16 or f16 where the device has it; the model that ships took bf16
  --work FOLDER     for packages, corpus, tokens and the training (default build/default_model)
  --output FOLDER   the model folder to write (default samples/models/default)
  --riverhorse P    the program (default build/release/bin/riverhorse)
  --help            this text
END
}

corpus_only=0
model=hybrid
steps=7000
backend=auto
dtype=f32
work=build/default_model
output=samples/models/default
riverhorse=build/release/bin/riverhorse
while [ $# -gt 0 ]; do
  case $1 in
    --corpus-only) corpus_only=1 ;;
    --model | --steps | --backend | --dtype | --work | --output | --riverhorse)
      [ $# -gt 1 ] || die "$1 needs a value"
      printf -v "${1#--}" '%s' "$2"
      shift ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; die "unknown option $1" ;;
  esac
  shift
done
[ -f "$here/$model.json" ] || die "--model $model: there is no $here/$model.json"
[ -x "$riverhorse" ] || die "there is no program $riverhorse: samples/quickstart.sh --set-up-only builds it"
mkdir -p "$work/packages"

unpack() {  # unpack PACKAGE: its files below $work/packages/PACKAGE
  local package=$1 folder=$work/packages/$1
  [ -d "$folder" ] && return 0
  say "$package"
  rm -rf "$folder.download"
  mkdir -p "$folder.download/unpacked"
  (cd "$folder.download" && apt-get -q -o APT::Sandbox::User=root -o Acquire::Retries=3 download "$package") \
    > /dev/null || die "$package cannot be downloaded: Debian 12 has it in main; apt-get update may be needed"
  dpkg -x "$folder.download/"*.deb "$folder.download/unpacked"
  basename "$folder.download/"*.deb > "$folder.download/unpacked/.deb"
  mv "$folder.download/unpacked" "$folder"
  rm -rf "$folder.download"
}

corpus=$work/corpus
if [ ! -f "$corpus/valid.jsonl" ]; then
  for package in $(python3 $here/make_corpus.py --list); do unpack "$package"; done
  say "making the corpus in $corpus"
  python3 $here/make_corpus.py "$work/packages" "$corpus.new"
  mv "$corpus.new" "$corpus"
fi
if [ ! -f "$work/valid.tokens" ]; then
  say "learning $vocabulary tokens"
  "$riverhorse" tokenize --input "$corpus/train.jsonl" --train-bpe "$vocabulary" --output "$work/train.tokens" \
    --output-tokenizer "$work/tokenizer.json"
  "$riverhorse" tokenize --input "$corpus/valid.jsonl" --tokenizer "$work/tokenizer.json" \
    --output "$work/valid.tokens"
fi
[ "$corpus_only" = 1 ] && { say "the corpus is in $work"; exit 0; }

run=$work/$model-$steps
if [ -d "$run" ]; then
  say "going on with $run"
  "$riverhorse" train --resume "$run" --backend "$backend"
else
  say "training $model for $steps steps in $run"
  "$riverhorse" train --config "$here/$model.json" --data "$work/train.tokens" \
    --validation-data "$work/valid.tokens" --tokenizer "$work" --output "$run" --steps "$steps" \
    --backend "$backend" --dtype "$dtype" "${training_options[@]}" \
    --validate-every 500 --validation-tokens 131072 --checkpoint-every 1000
fi
samples/plot_training "$run" --output "$run.html"
say "the curves: $run.html"
$here/export.sh "$riverhorse" "$run/step-$(printf '%08d' "$steps")" "$output"
say "held-out text"
"$riverhorse" eval --model "$output" --data "$work/valid.tokens" --window 1024 --backend "$backend"
