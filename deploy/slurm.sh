#!/bin/bash
# sbatch deploy/slurm.sh --corpus=mine.txt --epochs=20
#
# TensorFlow reads the hosts and their ranks from Slurm's variables.
#SBATCH --job-name=stacked_rnn
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail

. .venv/bin/activate
# srun does not take --cpus-per-task over from sbatch.
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  python train.py --strategy=multi_worker \
  --model_dir="$PWD/runs/$SLURM_JOB_NAME" \
  --export_dir="$PWD/saved_models/$SLURM_JOB_NAME" \
  "$@"
