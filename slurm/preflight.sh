# shellcheck shell=bash
# PREFLIGHT=1: the nodes are measured before the job's work, in two minutes at most; sourced by common.sh. A node that is
# odd is named, and the job goes back into the queue, which costs no budget, and is not put on that node again. When more
# than half of its nodes are odd nobody knows which are, and when as many as it has are left out already there may be no
# others: then it goes on as it is. To allow all nodes again: scontrol update jobid=NUMBER ExcNodeList=
: "${SLURM_JOB_ID:?sourced by common.sh in a job}"

count_nodes() { scontrol show hostnames "$1" | wc -l; }

told='' code=0
told=$(timeout 120 srun python -m seed_dist.doctor --preflight --work "${WORK:-.}") || code=$?
echo "$told"
odd=$(sed -n 's/^--exclude=//p' <<<"$told")
if [ -n "$odd" ]; then
    before=$(scontrol show job --oneliner "$SLURM_JOB_ID" | sed -n 's/.* ExcNodeList=\([^ ]*\).*/\1/p')
    [ "$before" != '(null)' ] || before=''
    LEFT_OUT="${before:+$before,}$odd"
    if [ "$(count_nodes "$odd")" -le $(((SLURM_JOB_NUM_NODES + 1) / 2)) ] &&
        [ "$(count_nodes "$LEFT_OUT")" -le "$SLURM_JOB_NUM_NODES" ]; then
        echo "preflight: job $SLURM_JOB_ID goes back into the queue and leaves out $LEFT_OUT"
        trap '' TERM # which SLURM sends at a requeue, and what is to be left out is told after that
        exit 75
    fi
    echo "preflight: too many nodes would be left out ($LEFT_OUT); job $SLURM_JOB_ID goes on as it is"
    LEFT_OUT=''
elif [ "$code" -ne 0 ]; then
    echo "error: the preflight ended with exit code $code and named no node (124: it took more than two minutes)" >&2
    exit "$code"
fi
