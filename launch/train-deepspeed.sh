#!/usr/bin/env bash
# Trains a stage on all hosts of a hostfile. Started on one of them; DeepSpeed reaches the others by pdsh over ssh, which
# must ask for no password. Every host has this folder, the same Python and the same shards and run folder at the same paths.
#
#   launch/train-deepspeed.sh HOSTFILE STAGE RUN training.deepspeed.zero=2 key=value…
#
# HOSTFILE, a host a line with its number of GPUs:
#   node-1 slots=8
#   node-2 slots=8
#
# .deepspeed_env, here or in the home folder, a NAME=VALUE a line, is exported on every host: ssh brings nothing of this
# shell's environment but what begins with PYTHON, NCCL and the like. What is mostly needed:
#   NCCL_SOCKET_IFNAME=eth0        the interface by which hosts reach each other (GLOO_SOCKET_IFNAME on CPUs)
#   NCCL_DEBUG=WARN                INFO tells what nccl found
#   HF_HOME=/shared/hf             a cache that all hosts see
#
# Without pdsh, or where hosts may not ssh to each other: train-deepspeed-no-ssh.sh.
set -euo pipefail
hostfile=$1 stage=$2 run=$3
shift 3
resume=$([ -e "$run/latest" ] && echo true || echo false)

exec deepspeed --hostfile "$hostfile" --master_port "${PORT:-29500}" --no_local_rank \
    --module triptych train "$stage" "$@" run="$run" resume="$resume"
