#!/usr/bin/env bash
# Tokenizes a manifest under torchrun: one process a GPU, on one machine or, with the usual torchrun options, on many that
# share a folder. The processes never speak to each other: RANK and WORLD_SIZE alone say which shards are whose.
#
#   launch/tokenize-torchrun.sh MANIFEST TOKENIZERS SHARDS [torchrun options, default --nproc-per-node gpu]
set -euo pipefail
manifest=$1 tokenizers=$2 shards=$3
shift 3
[ $# -gt 0 ] || set -- --nproc-per-node gpu

torchrun "$@" -m triptych tokenize "$manifest" --tokenizers "$tokenizers" -o "$shards"
triptych verify "$shards"
