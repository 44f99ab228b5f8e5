#!/usr/bin/env bash
# Tokenizes a manifest as a Slurm array, task i of 64 making the shards i, i + 64, … in a folder that all nodes see.
#
#   sbatch launch/tokenize-slurm.sh MANIFEST TOKENIZERS SHARDS
#
# --stop-after ends each task in order before Slurm's own limit. Submit the same line again until the shards are all
# there: `triptych verify SHARDS` names those that are missing. The array may have another size then.
#SBATCH --job-name=tokenize
#SBATCH --array=0-63
#SBATCH --time=04:00:00
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --ntasks=1
#SBATCH --output=tokenize-%A-%a.log
set -euo pipefail
manifest=$1 tokenizers=$2 shards=$3

triptych tokenize "$manifest" --tokenizers "$tokenizers" -o "$shards" --stop-after 3h45m \
    rows_per_shard=16384 readers=6
