#!/usr/bin/env bash
# A bundle that speaks in a voice of which there are a few minutes. Each step is skipped where its result lies there
# already, so the script can be started again after a stop.
#
#   finetune.sh RECORDINGS NAME OUT [KEY=VALUE …]       the keys go to both trainings, such as training.max_steps=100
#
#   BUNDLE=…           the bundle to begin with (default: the starter)
#   STAGES=coarse      what learns; "semantic coarse" learns the rhythm too, and needs texts and far more than minutes
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
recordings=$1 name=$2 out=$3
stages=${STAGES:-coarse}
python=${PYTHON:-python}
bundle=${BUNDLE:-$("$python" -c 'from triptych.stages.cascade import find_bundle; print(find_bundle(None))')}
triptych() { "$python" -m triptych "$@"; }
step() { [ -e "$1" ] || { echo "== ${*:2}" >&2; "${@:2}"; }; }

# 1  what there is: recordings → manifest, a tenth held out
step "$out/recordings.jsonl" "$python" "$here/recordings.py" "$recordings" "$name" "$out"
step "$out/manifest.jsonl" triptych prepare "$out/recordings.jsonl" -o "$out/manifest.jsonl"

# 2  tokens, by the bundle's own tokenizers, which stay as they are
step "$out/shards/shards.json" triptych tokenize "$out/manifest.jsonl" --tokenizers "$bundle/tokenizers" -o "$out/shards"

# 3  the stages go on learning
tuned=()
for stage in $stages; do
    step "$out/$stage.done" triptych train "$stage" --config "$here/$stage.yaml" init="$bundle" shards="$out/shards" \
        run="$out/$stage" resume="$([ -e "$out/$stage/latest" ] && echo true || echo false)" "${@:4}"
    touch "$out/$stage.done"
    tuned+=("--$stage" "$out/$stage")
done

# 4  the bundle, with what did not learn taken from the old one; the new voice comes first
step "$out/bundle/bundle.json" triptych bundle --from "$bundle" "${tuned[@]}" --voices "$out/voices.jsonl" -o "$out/bundle"

# 5  heard
triptych speak "The bird that sings before the rain is seldom seen." --bundle "$out/bundle" -o "$out/after.wav" --force
echo "triptych speak 'Any sentence.' --bundle $out/bundle -o said.wav"
