#!/usr/bin/env bash
# The whole chain on one machine: a corpus in, a bundle out. Each step is skipped where its result lies there already, and
# one that was stopped goes on from its last checkpoint, so the script can be started again after a stop.
#
#   launch/local.sh CORPUS WORK [SIZE]        SIZE: starter (default), base or large
set -euo pipefail
corpus=$1 work=$2 size=${3:-starter}
mkdir -p "$work"
step() { [ -e "$1" ] || { echo "== ${*:2}" >&2; "${@:2}"; }; }
stopped() { [ -e "$1/latest" ] && echo true || echo false; } # whether a run has something to go on from

step "$work/manifest.jsonl" triptych prepare "$corpus" -o "$work/manifest.jsonl"
step "$work/tokenizers/text" triptych fit text "$work/manifest.jsonl" -o "$work/tokenizers/text"
step "$work/encoder/ctc.json" triptych fit encoder "$work/manifest.jsonl" -o "$work/encoder" --config encoder/starter \
    --text "$work/tokenizers/text" resume="$(stopped "$work/encoder/run")"
step "$work/tokenizers/semantic" triptych fit semantic "$work/manifest.jsonl" -o "$work/tokenizers/semantic" \
    encoder="$work/encoder" layer=3 clusters=512 resume=true
step "$work/tokenizers/acoustic" triptych fit acoustic "$work/manifest.jsonl" -o "$work/tokenizers/acoustic" \
    --config acoustic/starter resume="$(stopped "$work/tokenizers/acoustic.run")"
step "$work/shards/shards.json" triptych tokenize "$work/manifest.jsonl" --tokenizers "$work/tokenizers" -o "$work/shards"
for stage in semantic coarse fine; do
    step "$work/$stage.done" triptych train $stage --config $stage/"$size" shards="$work/shards" run="$work/$stage" \
        resume="$(stopped "$work/$stage")"
    touch "$work/$stage.done"
done
step "$work/bundle" triptych bundle --semantic "$work/semantic" --coarse "$work/coarse" --fine "$work/fine" \
    --tokenizers "$work/tokenizers" -o "$work/bundle"
echo "triptych speak 'Any sentence.' --bundle $work/bundle -o out.wav"
