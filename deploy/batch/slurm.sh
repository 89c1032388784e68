#!/bin/sh
# Predict all rows of an input by eight workers; any of them may be killed, and comes again.
#
#   sbatch deploy/batch/slurm.sh
#SBATCH --job-name=predict
#SBATCH --array=0-7
#SBATCH --requeue
#SBATCH --cpus-per-task=1
#SBATCH --mem=1G
exec ladle predict --server ladle:8500 --model digits \
  --input /shared/images --output /shared/predictions --task auto
