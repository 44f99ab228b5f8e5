#!/usr/bin/env bash
# As train-deepspeed.sh, where hosts may not ssh to each other: started on every host, by hand or by a scheduler, with the
# same line but for NODE_RANK, the number of its line in the hostfile from 0.
#
#   MASTER=node-1 NODE_RANK=0 launch/train-deepspeed-no-ssh.sh HOSTFILE STAGE RUN training.deepspeed.zero=2 key=value…
#
# The environment is this shell's own: .deepspeed_env is not read.
set -euo pipefail
hostfile=$1 stage=$2 run=$3
shift 3
resume=$([ -e "$run/latest" ] && echo true || echo false)

exec deepspeed --hostfile "$hostfile" --no_ssh --node_rank "$NODE_RANK" \
    --master_addr "$MASTER" --master_port "${PORT:-29500}" --no_local_rank \
    --module triptych train "$stage" "$@" run="$run" resume="$resume"
