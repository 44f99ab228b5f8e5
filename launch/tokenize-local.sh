#!/usr/bin/env bash
# Tokenizes a manifest with several processes on this machine. Each has encoder, codec and readers of its own; the cores are
# dealt among them, and GPUs, where there are any.
#
#   launch/tokenize-local.sh MANIFEST TOKENIZERS SHARDS [WORKERS]      WORKERS: default, one for each two cores
#
# Killed or switched off, it is started again with the same line and goes on.
set -euo pipefail
manifest=$1 tokenizers=$2 shards=$3 workers=${4:-$(( ($(nproc) + 1) / 2 ))}

triptych tokenize "$manifest" --tokenizers "$tokenizers" -o "$shards" workers="$workers"
triptych verify "$shards"
