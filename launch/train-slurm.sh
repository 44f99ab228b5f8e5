#!/usr/bin/env bash
# Trains a stage under Slurm, one task a GPU, and goes on by itself after the time limit.
#
#   sbatch --nodes=4 launch/train-slurm.sh STAGE RUN --config STAGE/base shards=/shared/shards key=value…
#
# Ten minutes before the limit Slurm sends USR1 to this script alone; it sends TERM to the tasks, which agree on a step,
# write a checkpoint and end, and puts the job back into the queue. A node that fails requeues the job as well, and so does
# a task that is lost, if the run got further since it was started.
#SBATCH --job-name=triptych
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@600
#SBATCH --open-mode=append
#SBATCH --output=triptych-%j.log
set -euo pipefail
stage=$1 run=$2
shift 2
resume=$([ -e "$run/latest" ] && echo true || echo false)
# Slurm has ended this job before it starts it again: a lock that is left is that of a node that failed.
[ "${SLURM_RESTART_COUNT:-0}" = 0 ] || rm -f "$run/lock"

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT
asked=
trap 'asked=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1  # to the tasks: a batch script is left out

# A rank that is lost makes the others end with 75. srun ends with the highest code, that of the lost one: so they say it here.
export LOST=$PWD/triptych-$SLURM_JOB_ID.lost
rm -f "$LOST"
before=$(cat "$run/latest" 2>/dev/null || true)

# shellcheck disable=SC2016  # each task has its own
srun --kill-on-bad-exit=0 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    trap : TERM  # is for triptych
    code=0
    triptych train "$@" || code=$?
    [ "$code" != 75 ] || touch "$LOST"
    exit "$code"' train "$stage" "$@" run="$run" resume="$resume" &
tasks=$!
code=0
while kill -0 "$tasks" 2>/dev/null; do wait "$tasks" && code=0 || code=$?; done  # a signal ends a wait, not the tasks

# Any other failure, and one that comes again before the next checkpoint, is for a person to see.
further=$([ "$(cat "$run/latest" 2>/dev/null || true)" = "$before" ] || echo yes)
if [ -n "$asked" ] || { [ -e "$LOST" ] && [ -n "$further" ]; }; then
    rm -f "$LOST"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
