# shellcheck shell=bash
# The environment of all jobs; sourced by the scripts beside it and by the jobs of launchers/submit.py, in the folder of
# the code that the job runs (the checkout, or the job's copy of it).
# Nothing here belongs to one cluster: interfaces and NCCL settings are the site's, set them before sbatch if it needs any.
: "${SLURM_JOB_ID:?submit this with sbatch from the checkout: sbatch slurm/NAME.sbatch}"

# The checkout's own virtual environment when there is one, otherwise whatever `python` is.
export PATH="$PWD/.venv/bin:$PATH"

# Where the ranks meet: the first node, and a port that differs between jobs and between a job's requeued attempts. If it
# is taken rank 0 listens at one of the next, and the others find it. 15000-24999 is below Linux's own port range.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
MASTER_PORT=$((15000 + (SLURM_JOB_ID + 37 * ${SLURM_RESTART_COUNT:-0}) % 10000))
export MASTER_ADDR MASTER_PORT

# Since SLURM 22.05 srun does not take over sbatch's --cpus-per-task by itself.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"
# A job for a range of nodes must not ask for tasks per node: SLURM would keep the number of tasks of its first start, and
# wait for as many nodes when one is lost. It asks for the CPUs of a node as one task, and its ranks are counted here.
if [ -n "${RANKS_PER_NODE:-}" ] && [ -z "${SLURM_NTASKS_PER_NODE:-}" ]; then
    SLURM_NTASKS=$((RANKS_PER_NODE * SLURM_JOB_NUM_NODES))
    SRUN_CPUS_PER_TASK=$((SRUN_CPUS_PER_TASK / RANKS_PER_NODE))
    export SLURM_NTASKS SLURM_NPROCS=$SLURM_NTASKS SLURM_NTASKS_PER_NODE=$RANKS_PER_NODE
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK}"

# Compute nodes ask no hub for anything; shards hold data, never code; compiled ops stay with the environment they fit.
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 WDS_SECURE=1 TOKENIZERS_PARALLELISM=false
export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$PWD/.venv/torch_extensions}"
export SEED_DIST_CACHE="${SEED_DIST_CACHE:-$PWD/.venv/cache}"

# How a job ends. A training that was asked to stop has saved and ends with 75 ("try again"). After any other end the cause
# is told on one page and judged, from the exit code and what the run directory knows of its attempts: what may pass by
# itself is tried again, what would only repeat itself is not.
end_of_job() {
    local code=$? verdict=0
    if [ "$code" -ne 75 ]; then
        python -m seed_dist.watch "${WORK:-.}" --exit-code "$code" || verdict=$?
        # Without a Python that runs (126, 127) there is no verdict.
        [ "$verdict" -eq 126 ] || [ "$verdict" -eq 127 ] || code=$verdict
    fi
    [ "$code" -ne 75 ] || requeue
    exit "$code"
}

# Back into the queue, if it is still SLURM's running job: one that was cancelled stays cancelled, one that was pre-empted
# or has lost a node is in the queue already. A controller that does not answer is asked every 10 seconds for a quarter
# of an hour.
requeue() {
    local state try
    for try in {1..90}; do
        if state=$(squeue --noheader --jobs "$SLURM_JOB_ID" --format=%T); then
            if [ "$state" != RUNNING ]; then
                echo "job $SLURM_JOB_ID is not requeued from here: it is ${state:-gone}"
                return
            fi
            if scontrol requeue "$SLURM_JOB_ID"; then
                # Only now: SLURM takes this of a job that waits, not of one that runs.
                [ -z "${LEFT_OUT:-}" ] || scontrol update jobid="$SLURM_JOB_ID" ExcNodeList="$LEFT_OUT"
                return 0 # in a trap a bare one gives what the script had ended with
            fi
        fi
        echo "job $SLURM_JOB_ID is not requeued yet (try $try of 90)"
        sleep 10
    done
    echo "error: job $SLURM_JOB_ID could not be requeued; run: scontrol requeue $SLURM_JOB_ID" >&2
}
trap end_of_job EXIT

echo "job $SLURM_JOB_ID ($SLURM_JOB_NAME), attempt $((${SLURM_RESTART_COUNT:-0} + 1)), ${SLURM_JOB_NUM_NODES:-1} node(s)," \
    "meeting at $MASTER_ADDR:$MASTER_PORT, recipe ${RECIPE:-}, workspace ${WORK:-}"

# shellcheck source=slurm/preflight.sh
[ -z "${PREFLIGHT:-}" ] || source slurm/preflight.sh
