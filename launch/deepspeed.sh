#!/usr/bin/env bash
# One process a GPU, started by DeepSpeed's launcher, trained through DeepSpeed's engine.
#
#   launch/deepspeed.sh CONFIG [options of dpinn fit]
#   launch/deepspeed.sh CONFIG --trainer.strategy deepspeed_stage_2 --model.optimizer torch.optim.Adam
#   launch/deepspeed.sh --resume RUN
#   HOSTFILE=hosts launch/deepspeed.sh CONFIG
#
# The strategy is deepspeed_stage_0 unless the configuration or the options name another.
#
# NPROC_PER_NODE    processes on this node; as many as it has GPUs if not set
# HOSTFILE          nodes, one a line: NAME slots=PROCESSES; needs pdsh here and ssh without a
#                   password to each, and the same paths there. This node alone if not set
# MASTER_ADDR       with a hostfile: address of its first node; found out by ssh if not set
# MASTER_PORT       port on the first node that is free, 29500 if not set
# OMP_NUM_THREADS   threads of a process on this node; its cores divided by the processes if not set
#
# SIGTERM to this process (it becomes DeepSpeed's launcher) reaches the processes, which have 30 s to
# save. SIGUSR1 does not: send it to one of them, pkill -USR1 -P PID with this process's id.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$(realpath "$0")")/common.sh"

read_arguments "$@"
port=${MASTER_PORT:-29500}
require_whole MASTER_PORT "$port" 1 65535
require_python_with deepspeed "pip install -c constraints.txt '.[deepspeed]'"
require_python_with dpinn "pip install -c constraints.txt ."
# Its errors tell again that a process failed, which has told why.
program=(--module --no_local_rank --log_level critical dpinn "${fit[@]}")
trap '' USR1 # else it would end the launcher and leave the processes alone

if [[ -n ${HOSTFILE-} ]]; then
    [[ -f $HOSTFILE ]] || fail "there is no hostfile $HOSTFILE; give a file with a line NAME \
slots=PROCESSES for each node"
    require_program pdsh "pdsh, which reaches the nodes,"
    require_program deepspeed
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    # --force_multi, so that a hostfile of one node reaches that node too.
    start deepspeed --hostfile "$HOSTFILE" --force_multi --master_port "$port" \
        ${MASTER_ADDR:+--master_addr "$MASTER_ADDR"} "${program[@]}"
fi

! port_in_use 127.0.0.1 "$port" || fail "port $port is in use; set MASTER_PORT to another one"
ranks=$(ranks_per_node)
share_cores "$ranks"
# The command `deepspeed` starts this launcher too, but keeps signals from it.
if [[ -n ${CUDA_VISIBLE_DEVICES-} ]]; then
    visible=$(tr , '\n' <<<"$CUDA_VISIBLE_DEVICES" | wc -l)
    ((visible >= ranks)) || fail "NPROC_PER_NODE is $ranks, but CUDA_VISIBLE_DEVICES names \
$visible GPUs, $CUDA_VISIBLE_DEVICES; make them fit"
    gpus=$(cut -d, -f"1-$ranks" <<<"$CUDA_VISIBLE_DEVICES")
else
    gpus=$(seq -s, 0 $((ranks - 1)))
fi
world=$(printf '{"localhost": ["%s"]}' "${gpus//,/\", \"}" | base64 -w0)
start python -m deepspeed.launcher.launch --world_info "$world" --master_addr 127.0.0.1 \
    --master_port "$port" "${program[@]}"
