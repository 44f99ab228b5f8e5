#!/usr/bin/env bash
# Trains a stage on one machine or many with torchrun: one process a GPU. Started on every node with the same line, but for
# NODE_RANK; the run and the shards lie in folders that all nodes see.
#
#   launch/train-torchrun.sh STAGE RUN key=value…                                               all GPUs of this machine
#   NODES=4 NODE_RANK=0 MASTER=node-1 launch/train-torchrun.sh STAGE RUN --config STAGE/base …   on node-1; 1, 2, 3 on the others
#
# PER_NODE: processes a node (default: its GPUs). PORT: a free one on MASTER. Where RUN has a checkpoint, the run goes on,
# with any number of ranks. A node that is lost ends the others with exit code 75 and its name: start the same line again.
set -euo pipefail
stage=$1 run=$2
shift 2
resume=$([ -e "$run/latest" ] && echo true || echo false)

exec torchrun --nnodes "${NODES:-1}" --node-rank "${NODE_RANK:-0}" --nproc-per-node "${PER_NODE:-gpu}" \
    --master-addr "${MASTER:-127.0.0.1}" --master-port "${PORT:-29500}" \
    -m triptych train "$stage" "$@" run="$run" resume="$resume"
