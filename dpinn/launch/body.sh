# --- what follows is the same in every script of `dpinn submit` and in launch/slurm.sbatch ---

export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-${OMP_NUM_THREADS:-1}}
# From 22.05 on srun does not take the CPUs of a task from sbatch.
[[ -z ${SLURM_CPUS_PER_TASK-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# The ranks meet on the first node, at a port of the job's own, whatever the shell that submitted it
# has set for another training. DPINN_MASTER_ADDR is for sites where nodes' names do not resolve.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR=${DPINN_MASTER_ADDR:-$first} MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))

# An array's first id alone would mean all of its tasks.
job=$SLURM_JOB_ID
[[ -z ${SLURM_ARRAY_JOB_ID-} ]] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
echo "job $job begins on $SLURM_JOB_NODELIST, restarts: ${SLURM_RESTART_COUNT:-0}: ${command[*]}"

# The first rank that ends badly takes along those that NCCL lets wait for it, but leaves them the
# time to end by themselves, with a sentence and an exit code of their own.
rank='
    trap : TERM USR1
    "$@"
    code=$?
    [[ $code =~ ^(0|75|143)$ || $SLURM_NTASKS == 1 ]] || sleep 10
    exit $code
'

# scancel and preemption signal this shell as well, which must outlive the ranks: they are saving.
trap 'interrupted=yes' TERM
# No limit to how long rank 0 may evaluate when the others have ended (--wait).
srun --wait=0 --kill-on-bad-exit=1 bash -c "$rank" rank "${command[@]}" &
while interrupted=; do
    wait $!
    code=$?
    [[ -n $interrupted ]] || break
done

# 75: saved, since the time is nearly up. Of a preempted job SLURM does not queue again what ends
# before its grace is over: with 143, saved after SIGTERM, or in whatever way before its first step.
is_preempted() { scontrol show job "$job" | grep --quiet 'PreemptTime=[0-9]'; }
if [[ $code == 75 ]] || { [[ $code != 0 ]] && is_preempted; }; then
    echo "job $job ended with exit code $code and is queued again"
    scontrol requeue "$job" && exit 0
    echo "job $job could not be queued again; submit it once more with the same --run" >&2
fi
echo "job $job ended with exit code $code"
exit "$code"
