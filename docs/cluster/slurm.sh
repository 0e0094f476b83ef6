#!/usr/bin/env bash
# The benchmark on a Ray cluster of this job's nodes. sbatch docs/cluster/slurm.sh ARGUMENTS OF bench.py
#SBATCH --job-name=condensation-bench
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
source .venv/bin/activate

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$first" hostname --ip-address | awk '{print $1}')
port=6379
common=(--num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" --block)

srun --nodes=1 --ntasks=1 --nodelist="$first" \
    ray start --head --disable-usage-stats --node-ip-address="$address" --port="$port" "${common[@]}" &
sleep 20
if [ "$SLURM_NNODES" -gt 1 ]; then
    srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$first" \
        ray start --address="$address:$port" "${common[@]}" &
fi
sleep 20

# Slurm tells this shell, two minutes before the end (see --signal); the benchmark saves its state and says 143.
srun --overlap --nodes=1 --ntasks=1 --nodelist="$first" \
    python bench.py --engine ray --ray-address "$address:$port" "$@" &
bench=$!
trap 'kill -TERM "$bench"' TERM
status=0
wait "$bench" || status=$?
trap - TERM
if kill -0 "$bench" 2>/dev/null; then # `wait` was ended by the signal, the benchmark is still saving
    status=0
    wait "$bench" || status=$?
fi
exit "$status"
