#!/usr/bin/env bash
#SBATCH --job-name=riverhorse
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
# sbatch slurm.sh, in the folder of the sources. A task that dies ends the job.
set -euo pipefail
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-8}
exec srun --mpi=none --kill-on-bad-exit=1 samples/cluster/train.sh
