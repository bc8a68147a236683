"""Whether the SLURM job that this runs in is laid out as a training needs it."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from dpinn.doctor.finding import Finding
from dpinn.launch.launched import tasks_per_node, with_values

PER_NODE = "ask for --nodes and --ntasks-per-node instead of --ntasks"


def job(name: str) -> Finding:
    """The job that this runs in."""
    if not os.environ.get("SLURM_JOB_ID"):
        return Finding(name, "absent", "this is not inside a job")
    return job_layout(name, os.environ, torch.cuda.device_count())


def job_layout(name: str, variables: Mapping[str, str], visible_gpus: int) -> Finding:
    """Judge how a job's tasks and GPUs lie on its nodes.

    Args:
        name: the finding's.
        variables: the environment, of which SLURM's variables count.
        visible_gpus: how many GPUs this process sees.
    """
    variables = with_values(variables)
    nodes = int(variables.get("SLURM_JOB_NUM_NODES", "1"))
    tasks = tasks_per_node(
        variables.get("SLURM_STEP_TASKS_PER_NODE") or variables.get("SLURM_TASKS_PER_NODE", "1")
    )
    here = tasks[min(int(variables.get("SLURM_NODEID", "0")), len(tasks) - 1)]
    gpus = int(variables.get("SLURM_GPUS_ON_NODE", "0"))
    text = (
        f"job {variables['SLURM_JOB_ID']}, {nodes} node{'s' * (nodes > 1)}, "
        f"tasks per node {' '.join(map(str, tasks)) if len(set(tasks)) > 1 else tasks[0]}, "
        f"GPUs on this node {gpus}"
    )
    if len(set(tasks)) > 1:
        return Finding(name, "problem", f"{text}: the tasks lie unevenly on the nodes", PER_NODE)
    if visible_gpus < gpus:
        visible = variables.get("CUDA_VISIBLE_DEVICES", "not set")
        return Finding(
            name,
            "problem",
            f"{text}, of which {visible_gpus} are visible (CUDA_VISIBLE_DEVICES {visible})",
            "every task must see all GPUs of its node: ask for --gpus-per-node, not "
            "--gpus-per-task or --gpu-bind, and leave CUDA_VISIBLE_DEVICES to SLURM",
        )
    if gpus and here > gpus:
        remedy = f"--ntasks-per-node {gpus}, a task a GPU"
        return Finding(name, "problem", f"{text}: too few GPUs for the tasks", remedy)
    if gpus > here and "SLURM_STEP_TASKS_PER_NODE" in variables:
        remedy = f"--ntasks-per-node {gpus}, a task a GPU; or ask for {here} with --gpus-per-node"
        return Finding(name, "warning", f"{text}: GPUs stay idle", remedy)
    if nodes > 1 and here > 1 and "SLURM_NTASKS_PER_NODE" not in variables:
        text += ": even here, but another allocation of --ntasks may not be"
        return Finding(name, "warning", text, PER_NODE)
    return Finding(name, "ok", text)
