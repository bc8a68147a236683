#!/usr/bin/env bash
# One process a GPU on one node or several, started by torchrun.
#
#   launch/torchrun.sh CONFIG [options of dpinn fit]
#   launch/torchrun.sh --resume RUN
#
# Several nodes: the same command on each, with its own NODE_RANK.
#
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 launch/torchrun.sh CONFIG     # on node0
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=node0 launch/torchrun.sh CONFIG     # on node1
#
# NPROC_PER_NODE    processes on this node; as many as it has GPUs if not set
# NNODES            nodes, 1 if not set
# NODE_RANK         number of this node, from 0; the ranks of node 0 come first
# MASTER_ADDR       name or address of node 0, which all nodes can reach
# MASTER_PORT       port on node 0 that is free and open to the other nodes, 29500 if not set
# OMP_NUM_THREADS   threads of a process; the cores divided by the processes if not set
# TORCH_ELASTIC_SHUTDOWN_TIMEOUT
#                   seconds that a signal leaves the processes to save, 120 if not set
#
# SIGTERM and SIGUSR1 to this process (it becomes torchrun) reach all processes, which save and end;
# the training goes on with --resume RUN. The exit code is that of the first rank that failed; after a
# signal it is 75 or 143, and a rank that could not save has said so.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$(realpath "$0")")/common.sh"

read_arguments "$@"
nodes=${NNODES:-1}
require_whole NNODES "$nodes" 1
if ((10#$nodes > 1)); then
    node=${NODE_RANK-}
    port=${MASTER_PORT:-29500}
    [[ -n ${MASTER_ADDR-} ]] || fail "MASTER_ADDR is not set; with $nodes nodes it must be the \
name or address of node 0"
    getent ahosts "$MASTER_ADDR" >/dev/null || fail "$(hostname) does not know the address of \
MASTER_ADDR, $MASTER_ADDR; give a name or address that all nodes can reach"
    require_whole NODE_RANK "$node" 0 $((10#$nodes - 1))
    require_whole MASTER_PORT "$port" 1 65535
    if ((10#$node == 0)) && port_in_use "$MASTER_ADDR" "$port"; then
        fail "port $port on $MASTER_ADDR is in use; set MASTER_PORT to another one on all nodes"
    fi
    # Not the c10d rendezvous: there any node may get rank 0, on a port that cannot be chosen.
    meeting=(--nnodes "$nodes" --node-rank "$node" --master-addr "$MASTER_ADDR"
        --master-port "$port")
else
    meeting=(--standalone --local-addr 127.0.0.1)
fi
require_python_with dpinn "pip install -c constraints.txt ."
ranks=$(ranks_per_node)
share_cores "$ranks"
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}
# No restarts: a run that broke off goes on by --resume, with any number of ranks. The -- keeps
# torchrun from taking --run for the beginning of --run-path.
start python -m dpinn.launch.torchrun "${meeting[@]}" --nproc-per-node "$ranks" --max-restarts 0 \
    --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 -m -- dpinn "${fit[@]}"
