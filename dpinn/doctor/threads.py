"""How many threads a rank computes with."""

from __future__ import annotations

import os

import torch

from dpinn.doctor.finding import Finding


def threads(name: str) -> Finding:
    """Threads a rank against the cores that the ranks of this machine share."""
    return shared_cores(
        name,
        ranks=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        threads=torch.get_num_threads(),
        cores=len(os.sched_getaffinity(0)),
    )


def shared_cores(name: str, ranks: int, threads: int, cores: int) -> Finding:
    """Judge a number of threads a rank: too many wait for each other, at many times the cost."""
    how = "set" if "OMP_NUM_THREADS" in os.environ else "not set"
    each = f" for each of {ranks} ranks" if ranks > 1 else ""
    text = f"{threads}{each}, {cores} cores; OMP_NUM_THREADS is {how}"
    share = max(1, cores // ranks)
    if ranks > cores:
        remedy = f"start at most {cores} ranks here, or ask for more cores (--cpus-per-task)"
        return Finding(name, "warning", text, remedy)
    if ranks * threads > cores and threads > share:
        return Finding(name, "warning", text, f"export OMP_NUM_THREADS={share}")
    return Finding(name, "ok", text)
