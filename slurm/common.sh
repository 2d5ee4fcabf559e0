# shellcheck shell=bash
# The environment of all jobs; sourced by the scripts beside it, from the folder where sbatch was called (the checkout).
# Nothing here belongs to one cluster: interfaces and NCCL settings are the site's, set them before sbatch if it needs any.
: "${SLURM_JOB_ID:?submit this with sbatch from the checkout: sbatch slurm/NAME.sbatch}"

# The checkout's own virtual environment when there is one, otherwise whatever `python` is.
export PATH="$PWD/.venv/bin:$PATH"

# Where the ranks meet: the first node, and a port that differs between jobs and between a job's requeued attempts, so that
# two jobs on one node or a socket that is still closing do not collide. 15000-24999 is below Linux's own port range.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
MASTER_PORT=$((15000 + (SLURM_JOB_ID + 37 * ${SLURM_RESTART_COUNT:-0}) % 10000))
export MASTER_ADDR MASTER_PORT

# Since SLURM 22.05 srun does not take over sbatch's --cpus-per-task by itself.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK}"

# Compute nodes ask no hub for anything; shards hold data, never code; compiled ops stay with the environment they fit.
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 WDS_SECURE=1 TOKENIZERS_PARALLELISM=false
export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$PWD/.venv/torch_extensions}"
export SEED_DIST_CACHE="${SEED_DIST_CACHE:-$PWD/.venv/cache}"

# What has ended and may go on (75, "try again") goes back into the queue. Whether it may is decided from its exit code
# and from what the run directory knows of its attempts; the page that says why it died ends the log.
requeue_or_stop() {
    local code=$? verdict=0
    python -m seed_dist.watch "${WORK:-.}" --exit-code "$code" || verdict=$?
    # Without Python (127) only a training that was asked to stop goes on.
    [ "$verdict" -ne 127 ] && [ "$verdict" -ne 126 ] || verdict=$code
    [ "$verdict" -ne 75 ] || scontrol requeue "$SLURM_JOB_ID"
    exit "$verdict"
}
trap requeue_or_stop EXIT

echo "job $SLURM_JOB_ID ($SLURM_JOB_NAME), attempt $((${SLURM_RESTART_COUNT:-0} + 1)), ${SLURM_JOB_NUM_NODES:-1} node(s)," \
    "meeting at $MASTER_ADDR:$MASTER_PORT, recipe ${RECIPE:-}, workspace ${WORK:-}"
